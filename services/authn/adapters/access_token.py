"""Our own access tokens: JWTs after RFC 9068, signed with Ed25519 (RFC 8037).

The token names the user; roles and whether the user may come in at all are read from the store each time, so
that disabling a user ends the user's tokens. ``typ`` and key differ from those of principal tokens: neither
passes for the other (R5).
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt

from services.authn.adapters.signing_keys import ALGORITHM, KeyRing
from services.authn.errors import Reason, Rejected
from services.authn.model import Credential, Principal, Secret, TokenCredential
from services.authn.ports import Users
from services.common.clock import Clock
from services.common.ids import uuid7

AUTH_TYPE = "jwt"
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

    def issue(self, principal: Principal, client: str) -> Secret:
        issued = int(self._clock.now().timestamp())
        claims = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": principal.subject,
            "client_id": client,
            "iat": issued,
            "nbf": issued,
            "exp": issued + self.lifetime,
            "jti": uuid7(),
            "auth_time": int(principal.auth_time.timestamp()),
            "amr": list(principal.amr),
        }
        key = self._ring.current
        return Secret(jwt.encode(claims, key.private, algorithm=ALGORITHM, headers={"typ": TYP, "kid": key.kid}))


class AccessTokenAuthenticator:
    """Judges access tokens."""

    auth_type = AUTH_TYPE

    def __init__(self, users: Users, ring: KeyRing, issuer: str, audience: str) -> None:
        self._users = users
        self._ring = ring
        self._issuer = issuer
        self._audience = audience

    def recognises(self, credential: Credential) -> bool:
        return isinstance(credential, TokenCredential) and credential.token.reveal().count(".") == 2

    async def authenticate(self, credential: Credential, now: datetime) -> Principal:
        if not isinstance(credential, TokenCredential):
            raise Rejected(Reason.MALFORMED, AUTH_TYPE)
        try:
            claims = self._verify(credential.token.reveal())
            expires_at, auth_time = self._times(claims, now)
            subject, token_id, amr = claims["sub"], claims["jti"], tuple(claims.get("amr", ()))
        except Rejected:
            raise
        except Exception:  # noqa: BLE001
            # Parsers of hostile input raise more kinds than they document; all of them mean the same here.
            raise Rejected(Reason.INVALID_TOKEN, AUTH_TYPE) from None
        user = self._users.find(subject)
        # A user made anew under an old name does not inherit the old one's tokens.
        if user is None or claims["iat"] < int(user.created_at.timestamp()):
            raise Rejected(Reason.UNKNOWN, AUTH_TYPE)
        if not user.enabled:
            raise Rejected(Reason.DISABLED, AUTH_TYPE, credential_id=token_id, user=user.name)
        return user.principal(AUTH_TYPE, token_id, auth_time, amr, expires_at)

    def _verify(self, token: str) -> Mapping[str, Any]:
        """The claims of a token whose signature, type, issuer and audience are right."""
        header = jwt.get_unverified_header(token)
        key = self._ring.public(header.get("kid", ""))
        if key is None or header.get("typ") != TYP or header.get("alg") != ALGORITHM:
            raise Rejected(Reason.INVALID_TOKEN, AUTH_TYPE)
        return jwt.decode(
            token,
            key,
            algorithms=[ALGORITHM],
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

    def _times(self, claims: Mapping[str, Any], now: datetime) -> tuple[datetime, datetime]:
        for name in ("exp", "nbf", "iat", "auth_time"):
            if type(claims[name]) is not int:
                raise Rejected(Reason.INVALID_TOKEN, AUTH_TYPE)
        expires_at = datetime.fromtimestamp(claims["exp"], UTC)
        leeway = timedelta(seconds=LEEWAY)
        if expires_at + leeway <= now:
            raise Rejected(Reason.EXPIRED, AUTH_TYPE)
        if any(datetime.fromtimestamp(claims[name], UTC) - leeway > now for name in ("nbf", "iat")):
            raise Rejected(Reason.INVALID_TOKEN, AUTH_TYPE)
        return expires_at, datetime.fromtimestamp(claims["auth_time"], UTC)
