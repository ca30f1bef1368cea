"""Access tokens made of others (RFC 8693).

An exchanged token says whose it is and what it was made from: what a user's or key's record gives is read at each use,
as for every token of ours, and the token only narrows it. Of somebody from another issuer there is no record, so the
token carries what the issuer's settings made of him, and dies with these settings. It ends with each token that it was
made of: their names are in it, for us and for whoever holds the lease (R12).
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import jwt

from services.authn.adapters.access_token import TYP
from services.authn.adapters.holders import AUTH_TYPE, MAX_ENDS, ORIGIN, Issuers
from services.authn.adapters.key_ring import KeyRing
from services.authn.errors import Reason, Rejected
from services.authn.exchange import Exchange, acting, actors_of, check_form, narrowed
from services.authn.model import Principal, Secret
from services.common.clock import Clock
from services.common.errors import InvalidArgument
from services.common.ids import uuid7
from services.common.revocations import names, signing_key_name

MAX_LENGTH = 8 * 1024
"""Characters of a token at most."""


class Exchanger:
    """The port ``ExchangedTokens``."""

    def __init__(
        self, ring: KeyRing, issuers: Issuers, issuer: str, audience: str, lifetime: int, clock: Clock
    ) -> None:
        self._ring = ring
        self._issuers = issuers
        self._issuer = issuer
        self._audience = audience
        self._lifetime = lifetime
        self._clock = clock

    def check(self, asked: Exchange) -> None:
        check_form(asked, self._audience)

    def exchange(
        self, asked: Exchange, subject: Principal, actor: Principal | None, client: str
    ) -> tuple[Principal, Secret, int]:
        claims = _claims(asked.subject)
        may_act = self._may_act(claims, subject)
        actors = acting(subject, actor, may_act)
        kept = narrowed(subject, asked.scope)
        now = int(self._clock.now().timestamp())
        ends_at = min(now + self._lifetime, int(claims["exp"]))
        ends = [subject.credential_id, *subject.ends_with]
        act = claims.get("act") if claims["iss"] == self._issuer else _chain(subject.actors)
        if actor is not None:
            of_actor = _claims(asked.actor)
            ends_at = min(ends_at, int(of_actor["exp"]))
            ends += names(actor.issuer, actor.subject, actor.credential_id, actor.ends_with)
            made_from = self._origin(of_actor, actor)
            if "ext" in made_from:
                made_from["ext"] = {name: made_from["ext"][name] for name in ("iss", "settings")}
            act = {"iss": actor.issuer, "sub": actor.subject, "from": made_from, **({"act": act} if act else {})}
        if ends_at <= now:
            raise Rejected(Reason.EXPIRED, AUTH_TYPE, credential_id=subject.credential_id)
        every = tuple(dict.fromkeys(ends))
        key, token_id = self._ring.current, uuid7()
        root = subject.credential_id.partition("/")[0]
        principal = replace(
            subject,
            narrowed_to=kept,
            credential_id=f"{root}/{token_id}",
            expires_at=datetime.fromtimestamp(ends_at, UTC),
            actors=actors,
            ends_with=(signing_key_name(key.kid), *every),
            obtainable=(),
        )
        new = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": subject.subject,
            "client_id": client,
            **self._origin(claims, subject),
            "root": root,
            "ends": list(every),
            "iat": now,
            "nbf": now,
            "exp": ends_at,
            "jti": token_id,
            "auth_time": int(subject.auth_time.timestamp()),
            "amr": list(subject.amr),
            **({"scope": " ".join(kept)} if kept else {}),
            **({"act": act} if act else {}),
            **({"may_act": {"iss": may_act[0], "sub": may_act[1]}} if may_act else {}),
        }
        token = jwt.encode(new, key.private, algorithm=key.algorithm, headers={"typ": TYP, "kid": key.kid})
        if len(token) > MAX_LENGTH or len(every) > MAX_ENDS:
            raise InvalidArgument(
                "The tokens cannot be exchanged: what comes of it would be too long. Name fewer roles in scope, or "
                "exchange the token that this one was made from."
            )
        return principal, Secret(token), ends_at - now

    def _origin(self, claims: Mapping[str, Any], principal: Principal) -> dict[str, Any]:
        """What a proven token was made from."""
        if claims["iss"] == self._issuer:
            return {name: claims[name] for name in ORIGIN if name in claims}
        issuer = self._issuers.find(principal.issuer)
        if issuer is None:
            raise Rejected(Reason.UNKNOWN, AUTH_TYPE)
        given = {name: list(getattr(principal, name)) for name in ("roles", "permissions", "groups")}
        return {"ext": {"iss": issuer.issuer, "settings": issuer.fingerprint, "tenant": principal.tenant, **given}}

    def _may_act(self, claims: Mapping[str, Any], subject: Principal) -> tuple[str, str] | None:
        claim = claims.get("may_act")
        if claim is None:
            return None
        try:
            ((issuer, name),) = actors_of({**claim, "act": None}, subject.issuer)
        except (ValueError, TypeError):
            raise Rejected(Reason.INVALID_TOKEN, AUTH_TYPE, credential_id=subject.credential_id) from None
        return issuer, name


def _claims(token: Secret) -> Mapping[str, Any]:
    """The claims of a token that an authenticator has proven."""
    claims: Mapping[str, Any] = jwt.decode(token.reveal(), options={"verify_signature": False})
    return claims


def _chain(actors: tuple[tuple[str, str], ...]) -> Any:
    claim: Any = None
    for issuer, subject in reversed(actors):
        claim = {"iss": issuer, "sub": subject, **({"act": claim} if claim else {})}
    return claim
