"""The decision: which principal a credential proves. No gRPC, no IO of its own.

1. Refuse what is missing or larger than any credential of ours.
2. The first authenticator that recognises the form judges it; nothing recognises it: refused. There is no
   fallback identity.
3. Record the decision, durable, before anything is answered (R18); failures are folded (R25).
4. Only then answer, with a signed token. The same token proves to audit whom the record speaks of.
"""

from collections.abc import Sequence

from services.authn.errors import PUBLIC_MESSAGE, Reason, Rejected
from services.authn.model import (
    Credential,
    Entry,
    Kind,
    PasswordCredential,
    Principal,
    Result,
    Secret,
    Source,
    TokenCredential,
)
from services.authn.ports import AccessTokens, Authenticator, PrincipalTokens, Recorder
from services.common.call import Call
from services.common.clock import Clock
from services.common.errors import DomainError, Unauthenticated

MAX_TOKEN = 8 * 1024
"""Characters of a token at most."""

UNKNOWN_TYPE = "unknown"
"""``auth_type`` in the record of a credential that nothing recognises; the record's is never empty."""


class AuthnService:
    """Authenticates and issues access tokens."""

    def __init__(
        self,
        authenticators: Sequence[Authenticator],
        principal_tokens: PrincipalTokens,
        access_tokens: AccessTokens,
        recorder: Recorder,
        clock: Clock,
    ) -> None:
        self._authenticators = tuple(authenticators)
        self._principal_tokens = principal_tokens
        self._access_tokens = access_tokens
        self._recorder = recorder
        self._clock = clock

    async def authenticate(
        self, credential: Credential | None, source: Source, call: Call
    ) -> tuple[Principal, str, str]:
        """Proves a credential: the principal, a principal token for the asker, the id of the record.

        Raises:
            Unauthenticated: always the same, whatever was wrong.
            Unavailable: the decision could not be recorded.
        """
        return await self._decide("authenticate", credential, source, call)

    async def issue_token(
        self, credential: PasswordCredential | None, source: Source, call: Call
    ) -> tuple[Secret, int, str]:
        """Exchanges a password for an access token: the token, its lifetime in seconds, the record's id.

        Raises:
            As ``authenticate``.
        """
        principal, _, event_id = await self._decide("issue_token", credential, source, call)
        token = self._access_tokens.issue(principal, call.peer)
        return token, self._access_tokens.lifetime, event_id

    async def _decide(
        self, action: str, credential: Credential | None, source: Source, call: Call
    ) -> tuple[Principal, str, str]:
        started = self._clock.monotonic()
        try:
            principal = await self._prove(credential)
        except Rejected as rejected:
            await self._refuse(action, rejected, source, call, started)
            raise Unauthenticated(PUBLIC_MESSAGE) from None
        except DomainError as error:
            entry = self._entry(
                action, Result.ERROR, UNKNOWN_TYPE, source, call, started, error=error.code.name.lower()
            )
            await self._recorder.append_folded((source.address or call.peer, action), entry, call.deadline)
            raise
        entry = self._entry(
            action,
            Result.SUCCESS,
            principal.auth_type,
            source,
            call,
            started,
            user=principal.subject,
            tenant=principal.tenant,
            credential_id=principal.credential_id,
        )
        token = self._principal_tokens.issue(principal, call.peer)
        return principal, token, await self._recorder.append(entry, call.deadline, token)

    async def _prove(self, credential: Credential | None) -> Principal:
        if credential is None:
            raise Rejected(Reason.MISSING, UNKNOWN_TYPE)
        if isinstance(credential, TokenCredential):
            if not len(credential.token):
                raise Rejected(Reason.MISSING, UNKNOWN_TYPE)
            if len(credential.token) > MAX_TOKEN:
                raise Rejected(Reason.OVERSIZED, UNKNOWN_TYPE)
        for authenticator in self._authenticators:
            if authenticator.recognises(credential):
                return await authenticator.authenticate(credential, self._clock.now())
        raise Rejected(Reason.MALFORMED, UNKNOWN_TYPE)

    async def _refuse(self, action: str, rejected: Rejected, source: Source, call: Call, started: float) -> None:
        entry = self._entry(
            action,
            Result.FAILURE,
            rejected.auth_type or UNKNOWN_TYPE,
            source,
            call,
            started,
            user=rejected.user,
            credential_id=rejected.credential_id,
            error=rejected.reason.value,
        )
        key = (
            source.address or call.peer,
            action,
            rejected.auth_type,
            rejected.reason.value,
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
    ) -> Entry:
        metadata = {"auth_type": auth_type, "asker": call.peer}
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
