"""Our own access tokens: JWTs after RFC 9068.

The token names the user; roles and whether the user may come in at all are read from the store each time, so
that disabling a user ends the user's tokens. ``typ`` and key differ from those of principal tokens: neither
passes for the other (R5).
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt

from services.authn.adapters import api_key
from services.authn.adapters.holders import AUTH_TYPE, Holders, ends_of, exchanged, of_elsewhere
from services.authn.adapters.key_ring import KeyRing
from services.authn.errors import Reason, Rejected
from services.authn.model import Credential, Principal, Secret, TokenCredential
from services.common.clock import Clock
from services.common.ids import uuid7
from services.common.revocations import signing_key_name

TYP = "at+jwt"
LEEWAY = 30
"""Seconds by which clocks may differ."""

_REQUIRED = ("iss", "aud", "sub", "exp", "nbf", "iat", "jti", "auth_time")


class AccessTokenIssuer:
    """Signs access tokens."""

    def __init__(self, ring: KeyRing, issuer: str, audience: str, lifetime: int, clock: Clock) -> None:
        self._ring = ring
        self._issuer = issuer
        self._audience = audience
        self._clock = clock
        self.lifetime = lifetime

    def issue(self, principal: Principal, client: str, family: str = "") -> Secret:
        issued = int(self._clock.now().timestamp())
        claims = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": principal.subject,
            "client_id": client,
            **_origin(principal, family),
            "iat": issued,
            "nbf": issued,
            "exp": issued + self.lifetime,
            "jti": uuid7(),
            "auth_time": int(principal.auth_time.timestamp()),
            "amr": list(principal.amr),
        }
        key = self._ring.current
        return Secret(jwt.encode(claims, key.private, algorithm=key.algorithm, headers={"typ": TYP, "kid": key.kid}))


def _origin(principal: Principal, family: str) -> dict[str, Any]:
    """What the token ends with: the API key that it was made from, or the user's generation and the family."""
    if principal.auth_type == api_key.AUTH_TYPE:
        return {"key": principal.credential_id}
    return {"gen": principal.generation, **({"fam": family} if family else {})}


class AccessTokenAuthenticator:
    """Judges access tokens."""

    auth_type = AUTH_TYPE

    def __init__(self, holders: Holders, issuer: str, audience: str) -> None:
        self._holders = holders
        self._issuer = issuer
        self._audience = audience

    def recognises(self, credential: Credential) -> bool:
        return isinstance(credential, TokenCredential) and credential.token.reveal().count(".") == 2

    async def authenticate(self, credential: Credential, now: datetime) -> Principal:
        if not isinstance(credential, TokenCredential):
            raise Rejected(Reason.MALFORMED, AUTH_TYPE)
        try:
            claims, kid = self._verify(credential.token.reveal())
            principal = self._judge(claims, credential.certificate, now)
            principal = replace(principal, ends_with=(signing_key_name(kid),))
            return exchanged(principal, claims, self._issuer) if "ends" in claims else principal
        except Rejected:
            raise
        except Exception:  # noqa: BLE001
            # Parsers of hostile input raise more kinds than they document; all of them mean the same here.
            raise Rejected(Reason.INVALID_TOKEN, AUTH_TYPE) from None

    def _judge(self, claims: Mapping[str, Any], certificate: bytes, now: datetime) -> Principal:
        """The principal of verified claims, by the record of what the token was made from."""
        expires_at, auth_time = self._times(claims, now)
        subject, token_id, amr = claims["sub"], claims["jti"], tuple(claims.get("amr", ()))
        key_id, family, generation = claims.get("key", ""), claims.get("fam", ""), claims.get("gen", 0)
        own_name = _named(claims.get("root", "") or key_id or family, token_id)
        self._holders.check_ends((own_name, family, *ends_of(claims)), token_id)
        self._holders.check_actors(claims.get("act"), now)
        if "ext" in claims:
            self._holders.settings_of(claims["ext"])
            return of_elsewhere(claims, own_name, auth_time, expires_at)
        if key_id:
            return self._of_key(key_id, subject, own_name, certificate, now, expires_at)
        user = self._holders.users.find(subject)
        # A user made anew under an old name does not inherit the old one's tokens.
        if user is None or claims["iat"] < int(user.created_at.timestamp()):
            raise Rejected(Reason.UNKNOWN, AUTH_TYPE)
        if not user.enabled:
            raise Rejected(Reason.DISABLED, AUTH_TYPE, credential_id=token_id, user=user.name)
        if user.generation != generation:
            raise Rejected(Reason.REVOKED, AUTH_TYPE, credential_id=token_id, user=user.name)
        return user.principal(AUTH_TYPE, own_name, auth_time, amr, expires_at)

    def _of_key(
        self, key_id: str, subject: str, token_id: str, certificate: bytes, now: datetime, expires_at: datetime
    ) -> Principal:
        """The principal of a token that was made from an API key: that of the key as it is now (R3, R4)."""
        key = self._holders.keys.find(key_id)
        if key is None or key.identity != subject:
            raise Rejected(Reason.UNKNOWN, AUTH_TYPE)
        api_key.check_usable(key, certificate, now, AUTH_TYPE)
        self._holders.keys.touch(key.id, now)
        return replace(
            key.principal(now),
            auth_type=AUTH_TYPE,
            credential_id=token_id,
            expires_at=min(expires_at, key.expires_at or expires_at),
        )

    def _verify(self, token: str) -> tuple[Mapping[str, Any], str]:
        """The claims of a token whose signature, type, issuer and audience are right, and its key's id."""
        header = jwt.get_unverified_header(token)
        key = self._holders.ring.find_signing(header.get("kid"))
        if key is None or header.get("typ") != TYP or header.get("alg") != key.algorithm:
            raise Rejected(Reason.INVALID_TOKEN, AUTH_TYPE)
        claims: Mapping[str, Any] = jwt.decode(
            token,
            key.public,
            algorithms=[key.algorithm],
            audience=self._audience,
            issuer=self._issuer,
            options={
                "require": list(_REQUIRED),
                "strict_aud": True,
                # Judged below, by the injected clock.
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
            },
        )
        return claims, key.kid

    def _times(self, claims: Mapping[str, Any], now: datetime) -> tuple[datetime, datetime]:
        for name in ("exp", "nbf", "iat", "auth_time"):
            if type(claims[name]) is not int:
                raise Rejected(Reason.INVALID_TOKEN, AUTH_TYPE)
        leeway = timedelta(seconds=LEEWAY)
        expires_at = datetime.fromtimestamp(claims["exp"], UTC) + leeway
        if expires_at <= now:
            raise Rejected(Reason.EXPIRED, AUTH_TYPE)
        if any(datetime.fromtimestamp(claims[name], UTC) - leeway > now for name in ("nbf", "iat")):
            raise Rejected(Reason.INVALID_TOKEN, AUTH_TYPE)
        return expires_at, datetime.fromtimestamp(claims["auth_time"], UTC)


def _named(origin: str, token_id: str) -> str:
    """The credential id of a token: it ends with its own id, and with what it was made from."""
    return f"{origin}/{token_id}" if origin else token_id
