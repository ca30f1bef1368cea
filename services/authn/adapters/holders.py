"""What our access tokens were made from, and whether it is still there: users, keys, people of other issuers."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from services.authn.adapters.key_ring import KeyRing
from services.authn.errors import Reason, Rejected
from services.authn.exchange import actors_of
from services.authn.model import Principal, TrustedIssuer
from services.authn.ports import ApiKeys, Revoked, Users
from services.common.revocations import signing_key_name

AUTH_TYPE = "jwt"

MAX_ENDS = 40
"""Names that an exchanged token ends with at most."""

ORIGIN = ("gen", "fam", "key", "ext")
"""Claims of ours that say what a token was made from: a user's generation, a family, a key, somebody elsewhere."""


class Issuers(Protocol):
    """The issuers that are trusted now."""

    def find(self, issuer: str) -> TrustedIssuer | None: ...


@dataclass(frozen=True, slots=True)
class Holders:
    """Whether what tokens were made from is still there."""

    users: Users
    keys: ApiKeys
    issuers: Issuers
    revoked: Revoked
    ring: KeyRing

    def check_ends(self, ends: tuple[str, ...], token_id: str) -> None:
        """Raises ``Rejected`` where a token that this one was made of, or its key, has ended."""
        for name in ends:
            kid = name.removeprefix(signing_key_name(""))
            if self.revoked.is_revoked(name) or (kid != name and self.ring.find_signing(kid) is None):
                raise Rejected(Reason.REVOKED, AUTH_TYPE, credential_id=token_id)

    def check_actors(self, act: Any, now: datetime) -> None:
        """Raises ``Rejected`` where somebody who acts is not accepted himself any more."""
        while act:
            self._check(act["sub"], act.get("from") or {}, now)
            act = act.get("act")

    def _check(self, subject: str, made_from: Mapping[str, Any], now: datetime) -> None:
        if "ext" in made_from:
            self.settings_of(made_from["ext"])
        elif "key" in made_from:
            key = self.keys.find(made_from["key"])
            if key is None or key.identity != subject or not key.enabled:
                raise Rejected(Reason.DISABLED, AUTH_TYPE)
            if key.expires_at is not None and key.expires_at <= now:
                raise Rejected(Reason.EXPIRED, AUTH_TYPE)
        elif "gen" in made_from:
            user = self.users.find(subject)
            if user is None or not user.enabled or user.generation != made_from["gen"]:
                raise Rejected(Reason.DISABLED, AUTH_TYPE)

    def settings_of(self, ext: Mapping[str, Any]) -> TrustedIssuer:
        """The issuer by whose settings somebody was mapped; raises ``Rejected`` where they are not the same now."""
        issuer = self.issuers.find(ext["iss"])
        if issuer is None or not issuer.enabled or issuer.fingerprint != ext["settings"]:
            raise Rejected(Reason.DISABLED, AUTH_TYPE)
        return issuer


def ends_of(claims: Mapping[str, Any]) -> tuple[str, ...]:
    """The names that an exchanged token ends with; none for another one. Raises ``Rejected`` where it is no list of
    ours: who holds a leaked key writes others, and the record has to find room for them."""
    ends = claims.get("ends", [])
    if not isinstance(ends, list) or len(ends) > MAX_ENDS or not all(isinstance(name, str) for name in ends):
        raise Rejected(Reason.INVALID_TOKEN, AUTH_TYPE)
    return tuple(ends)


def exchanged(principal: Principal, claims: Mapping[str, Any], issuer: str) -> Principal:
    """A principal as an exchanged token narrows it, with who acts for it and all that it ends with."""
    return replace(
        principal,
        narrowed_to=tuple(claims.get("scope", "").split()),
        actors=actors_of(claims.get("act"), issuer),
        # The key that signed it first, by which all of a leaked one is found: the rest is what the token says.
        ends_with=(*principal.ends_with, *ends_of(claims)),
    )


def of_elsewhere(claims: Mapping[str, Any], credential_id: str, auth_time: datetime, ends_at: datetime) -> Principal:
    """The principal of an exchanged token of somebody from another issuer."""
    ext = claims["ext"]
    return Principal(
        subject=claims["sub"],
        credential_id=credential_id,
        auth_type=AUTH_TYPE,
        auth_time=auth_time,
        roles=tuple(ext["roles"]),
        permissions=tuple(ext["permissions"]),
        tenant=ext["tenant"],
        amr=tuple(claims.get("amr", ())),
        expires_at=ends_at,
        issuer=ext["iss"],
        groups=tuple(ext["groups"]),
    )
