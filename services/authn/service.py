"""The decision: which principal a credential proves. No gRPC, no IO of its own.

1. Refuse what is missing or larger than any credential of ours.
2. Note the revision of the revocations that is known now: what ends from here on ends this proof too (R12).
3. The first authenticator that recognises the form judges it; nothing recognises it: refused. There is no
   fallback identity.
4. Record the decision, durable, before anything is answered (R18); failures are folded (R25).
5. Only then answer, with a signed token. The same token proves to audit whom the record speaks of.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.authn.entry import Entry, Kind, Result
from services.authn.errors import PUBLIC_MESSAGE, Reason, Refused, Rejected
from services.authn.exchange import Exchange, scope_of
from services.authn.model import (
    CertificateCredential,
    Credential,
    Ends,
    Issued,
    PasswordCredential,
    Principal,
    Proof,
    Secret,
    Source,
    TokenCredential,
)
from services.authn.ports import (
    AccessTokens,
    Authenticator,
    ExchangedTokens,
    PrincipalTokens,
    Recorder,
    RefreshTokens,
    Revisions,
    TokenRevocation,
)
from services.common.call import Call
from services.common.clock import Clock
from services.common.errors import DomainError, InvalidArgument, PermissionDenied, Unauthenticated
from services.common.recorded_changes import code_of

MAX_TOKEN = 8 * 1024
"""Characters of a token at most, and bytes of a certificate."""

UNKNOWN_TYPE = "unknown"
"""``auth_type`` in the record of a credential that nothing recognises; the record's is never empty."""

CERTIFICATE_WITNESS = "service/mcp-core"
"""The only asker whose word on a client certificate is believed: it ends the callers' TLS connections."""

TOKEN_TYPE, REFRESH_TYPE = "jwt", "refresh_token"
"""``auth_type`` of what ``revoke`` can end."""


MAX_DETAIL = 4000
"""Characters of one detail in the record: audit takes values of 4,096."""

_NOTHING_MORE: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Tokens:
    """What signs, renews and ends tokens."""

    principal: PrincipalTokens
    access: AccessTokens
    refresh: RefreshTokens
    exchanged: ExchangedTokens
    revocation: TokenRevocation


class AuthnService:
    """Authenticates, issues access tokens, tells about them and ends them."""

    def __init__(
        self,
        authenticators: Sequence[Authenticator],
        tokens: Tokens,
        revisions: Revisions,
        recorder: Recorder,
        clock: Clock,
    ) -> None:
        self._authenticators = tuple(authenticators)
        self._tokens = tokens
        self._revisions = revisions
        self._recorder = recorder
        self._clock = clock

    async def authenticate(self, credential: Credential | None, source: Source, call: Call) -> Proof:
        """Proves a credential.

        Raises:
            Unauthenticated: always the same, whatever was wrong.
            Unavailable: the decision could not be recorded, or the store does not answer.
        """
        return await self._decide("authenticate", lambda: self._prove(credential, call), source, call)

    async def issue_token(self, credential: Credential | None, source: Source, call: Call) -> Issued:
        """Exchanges a password, or an API key (client credentials), for an access token.

        Raises:
            As ``authenticate``.
        """
        if isinstance(credential, CertificateCredential):
            credential = None
        proof = await self._decide("issue_token", lambda: self._prove(credential, call), source, call)
        if isinstance(credential, PasswordCredential):
            refresh, family = await self._tokens.refresh.start(proof.principal)
            token = self._tokens.access.issue(proof.principal, call.peer, family)
            return Issued(token, self._tokens.access.lifetime, proof.event_id, refresh)
        token = self._tokens.access.issue(proof.principal, call.peer)
        return Issued(token, self._tokens.access.lifetime, proof.event_id)

    async def refresh_token(self, token: Secret, source: Source, call: Call) -> Issued:
        """Exchanges a refresh token for an access token and the next refresh token.

        Raises:
            Unauthenticated: as ``authenticate``.
            Unavailable: as ``authenticate``; the token was not used up.
        """
        renewed: list[tuple[Secret, str]] = []

        async def use() -> Principal:
            if not 0 < len(token) <= MAX_TOKEN:
                raise Rejected(Reason.MALFORMED, REFRESH_TYPE)
            principal, following, family = await self._tokens.refresh.use(token)
            renewed.append((following, family))
            return principal

        try:
            proof = await self._decide("refresh_token", use, source, call)
        except Unauthenticated:
            raise
        except (DomainError, asyncio.CancelledError):
            # Nobody has seen what follows, so the token is as good as before: who asks again is no thief.
            for following, _ in renewed:
                await asyncio.shield(self._tokens.refresh.undo_use(token, following))
            raise
        ((following, family),) = renewed
        access = self._tokens.access.issue(proof.principal, call.peer, family)
        return Issued(access, self._tokens.access.lifetime, proof.event_id, following)

    async def exchange_token(self, asked: Exchange, source: Source, call: Call) -> Issued:
        """Exchanges an access token for one that may no more, for somebody who acts for its subject or for nobody.

        Raises:
            As ``authenticate``.
            InvalidArgument, PermissionDenied: recorded; what was asked for is not what is given here.
        """
        made: list[tuple[Secret, int]] = []

        async def exchange() -> Principal:
            subject = None
            try:
                self._tokens.exchanged.check(asked)
                subject = await self._prove_token(asked.subject, call)
                actor = await self._prove_token(asked.actor, call) if len(asked.actor) else None
                principal, token, lifetime = self._tokens.exchanged.exchange(asked, subject, actor, call.peer)
            except (InvalidArgument, PermissionDenied) as error:
                raise Refused(error, subject) from None
            made.append((token, lifetime))
            return principal

        proof = await self._decide("exchange_token", exchange, source, call)
        ((token, lifetime),) = made
        return Issued(token, lifetime, proof.event_id, scope=scope_of(proof.principal))

    async def _prove_token(self, token: Secret, call: Call) -> Principal:
        """The principal of a JWT; an API key is no token that could be exchanged, nor end with one."""
        principal = await self._prove(TokenCredential(token), call)
        if principal.auth_type != TOKEN_TYPE:
            raise Rejected(Reason.INVALID_TOKEN, principal.auth_type, credential_id=principal.credential_id)
        return principal

    async def introspect(self, token: Secret, source: Source, call: Call) -> Proof | None:
        """What there is to say about a token (RFC 7662); ``None`` where it would not be accepted.

        Raises:
            Unavailable: as ``authenticate``.
        """
        try:
            return await self._decide("introspect", lambda: self._prove(TokenCredential(token), call), source, call)
        except Unauthenticated:
            return None

    async def revoke(self, token: Secret, source: Source, call: Call) -> None:
        """Ends an access or refresh token (RFC 7009); what is not active stays so, without an error. An API
        key is not ended by who holds it.

        Raises:
            Unavailable: as ``authenticate``; the token may still be active.
        """
        if self._tokens.refresh.recognises(token):
            await self._revoke_family(token, source, call)
            return
        try:
            proof = await self._decide("revoke_token", lambda: self._prove(TokenCredential(token), call), source, call)
        except Unauthenticated:
            return
        principal = proof.principal
        if principal.auth_type == TOKEN_TYPE and principal.expires_at is not None:
            await self._tokens.revocation.revoke(principal.credential_id, principal.expires_at)

    async def _revoke_family(self, token: Secret, source: Source, call: Call) -> None:
        started = self._clock.monotonic()
        ended = await self._tokens.refresh.end(token)
        if ended is None:
            await self._refuse("revoke_token", Rejected(Reason.UNKNOWN, REFRESH_TYPE), source, call, started)
            return
        entry = self._entry(
            "revoke_token",
            Result.SUCCESS,
            REFRESH_TYPE,
            source,
            call,
            started,
            user=ended.user,
            credential_id=ended.family,
        )
        await self._recorder.append(entry, call.deadline)

    async def ends_since(self, known: int) -> Ends:
        """What ended after a revision, by a read of the store that begins now (R12).

        Raises:
            Unavailable: the store does not answer; the asker's lease must run out.
        """
        return await self._revisions.since(known)

    async def _decide(
        self, action: str, prove: Callable[[], Awaitable[Principal]], source: Source, call: Call
    ) -> Proof:
        started = self._clock.monotonic()
        try:
            revision = await self._revisions.current()
            principal = await prove()
        except Rejected as rejected:
            await self._refuse(action, rejected, source, call, started)
            raise Unauthenticated(PUBLIC_MESSAGE) from None
        except Refused as refused:
            await self._refuse(action, refused, source, call, started)
            raise refused.answer from None
        except DomainError as error:
            code = code_of(error)
            entry = self._entry(action, Result.ERROR, UNKNOWN_TYPE, source, call, started, error=code)
            await self._recorder.append_folded((source.address or call.peer, action, code), entry, call.deadline)
            raise
        entry = self._entry(
            action,
            Result.SUCCESS,
            principal.auth_type,
            source,
            call,
            started,
            user=principal.user,
            tenant=principal.tenant,
            credential_id=principal.credential_id,
            details=_details(principal),
        )
        token = self._tokens.principal.issue(principal, call.peer, revision)
        try:
            event_id = await self._recorder.append(entry, call.deadline, token)
        except Unauthenticated:
            # audit knows of an end that came after this proof began: it is refused, and recorded as that.
            ended = Rejected(Reason.DISABLED, principal.auth_type, credential_id=principal.credential_id)
            await self._refuse(action, ended, source, call, started)
            raise Unauthenticated(PUBLIC_MESSAGE) from None
        return Proof(principal, token, event_id, revision)

    async def _prove(self, credential: Credential | None, call: Call) -> Principal:
        if credential is None:
            raise Rejected(Reason.MISSING, UNKNOWN_TYPE)
        if _certificate(credential) and call.peer != CERTIFICATE_WITNESS:
            raise Rejected(Reason.CERTIFICATE, UNKNOWN_TYPE)
        if isinstance(credential, TokenCredential):
            if not len(credential.token):
                raise Rejected(Reason.MISSING, UNKNOWN_TYPE)
            if len(credential.token) > MAX_TOKEN:
                raise Rejected(Reason.OVERSIZED, UNKNOWN_TYPE)
        if len(_certificate(credential)) > MAX_TOKEN:
            raise Rejected(Reason.OVERSIZED, UNKNOWN_TYPE)
        for authenticator in self._authenticators:
            if authenticator.recognises(credential):
                return await authenticator.authenticate(credential, self._clock.now())
        raise Rejected(Reason.MALFORMED, UNKNOWN_TYPE)

    async def _refuse(
        self, action: str, rejected: Rejected | Refused, source: Source, call: Call, started: float
    ) -> None:
        entry = self._entry(
            action,
            Result.FAILURE,
            rejected.auth_type or UNKNOWN_TYPE,
            source,
            call,
            started,
            user=rejected.user,
            credential_id=rejected.credential_id,
            error=rejected.reason,
        )
        key = (
            source.address or call.peer,
            action,
            rejected.auth_type,
            rejected.reason,
            rejected.credential_id,
        )
        await self._recorder.append_folded(key, entry, call.deadline)

    def _entry(
        self,
        action: str,
        result: Result,
        auth_type: str,
        source: Source,
        call: Call,
        started: float,
        *,
        user: str = "",
        tenant: str = "",
        credential_id: str = "",
        error: str = "",
        details: Mapping[str, str] = _NOTHING_MORE,
    ) -> Entry:
        metadata = {"auth_type": auth_type, "asker": call.peer, **details}
        if credential_id:
            metadata["credential_id"] = credential_id
        return Entry(
            kind=Kind.AUTHENTICATION,
            action=action,
            result=result,
            user=user,
            tenant=tenant,
            error=error,
            metadata=metadata,
            source=source,
            request_id=call.request_id,
            duration_ms=(self._clock.monotonic() - started) * 1000,
        )


def _details(principal: Principal) -> Mapping[str, str]:
    """What else the record of a proof says: who acts, and with what it ends, so that all can be found that a leaked
    key signed, and all that a token was exchanged for."""
    every = {
        "ends_with": _listed(principal.ends_with),
        "actors": _listed({"issuer": issuer, "subject": subject} for issuer, subject in principal.actors),
        "narrowed_to": " ".join(principal.narrowed_to)[:MAX_DETAIL],
    }
    return {name: text for name, text in every.items() if text}


def _listed(values: Iterable[Any]) -> str:
    """A JSON list, for names may hold blanks and colons; empty for none. As many of them, each whole, as a detail has
    room for, then ``...``."""
    shown = list(values)
    text = json.dumps(shown, ensure_ascii=False) if shown else ""
    while len(text) > MAX_DETAIL:
        shown.pop()
        text = json.dumps([*shown, "..."], ensure_ascii=False)
    return text


def _certificate(credential: Credential) -> bytes:
    match credential:
        case TokenCredential(certificate=der) | CertificateCredential(der=der):
            return der
    return b""
