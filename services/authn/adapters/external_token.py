"""Access tokens of trusted issuers: who somebody is elsewhere, and what that makes him here (R1-R3).

Only what the issuer's settings map is taken over: subject, groups, roles, tenant. Whatever is wrong with a
token, the refusal is the same.
"""

import hashlib
import json
import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt

from services.authn.adapters.holders import AUTH_TYPE, Issuers
from services.authn.adapters.jwks import KeySets, VerifyingKey
from services.authn.errors import Reason, Rejected
from services.authn.exchange import actors_of
from services.authn.model import Credential, Principal, TokenCredential, TrustedIssuer
from services.authn.ports import Revoked
from services.authn.rules import is_permission, is_role
from services.common.errors import DomainError

LEEWAY = timedelta(seconds=30)
MAX_SUBJECT = 253
MAX_ENTRIES = 100
"""Groups, roles or permissions that are taken from one token at most."""

_ACCOUNT = re.compile(
    r"system:serviceaccount:([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?):([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)"
)


class ExternalTokenAuthenticator:
    """Judges the tokens of trusted issuers."""

    auth_type = AUTH_TYPE

    def __init__(self, issuers: Issuers, keys: KeySets, revoked: Revoked) -> None:
        self._issuers = issuers
        self._keys = keys
        self._revoked = revoked

    def recognises(self, credential: Credential) -> bool:
        return isinstance(credential, TokenCredential) and self._issuer_of(credential.token.reveal()) is not None

    async def authenticate(self, credential: Credential, now: datetime) -> Principal:
        if not isinstance(credential, TokenCredential):
            raise Rejected(Reason.MALFORMED, AUTH_TYPE)
        token = credential.token.reveal()
        issuer = self._issuer_of(token)
        if issuer is None:
            raise Rejected(Reason.INVALID_TOKEN, AUTH_TYPE)
        if not issuer.enabled:
            raise Rejected(Reason.DISABLED, AUTH_TYPE)
        try:
            header = jwt.get_unverified_header(token)
            key = await self._key(issuer, header)
            claims = _verified(token, issuer, key, header, now)
            principal = to_principal(claims, issuer, token)
        except DomainError:
            raise
        except Exception:  # noqa: BLE001
            # Parsers of hostile input raise more kinds than they document; all of them mean the same here.
            raise Rejected(Reason.INVALID_TOKEN, AUTH_TYPE) from None
        if self._revoked.is_revoked(principal.credential_id):
            raise Rejected(Reason.REVOKED, AUTH_TYPE, credential_id=principal.credential_id)
        return principal

    async def _key(self, issuer: TrustedIssuer, header: Mapping[str, Any]) -> VerifyingKey:
        if issuer.secret is not None:
            return VerifyingKey(issuer.secret.reveal(), "HS256")
        kid = header.get("kid", "")
        key = await self._keys.find(issuer, kid) if isinstance(kid, str) else None
        if key is None:
            raise Rejected(Reason.INVALID_TOKEN, AUTH_TYPE)
        return key

    def _issuer_of(self, token: str) -> TrustedIssuer | None:
        """Whose token it says it is. Nothing of it is believed yet."""
        parts = token.split(".")
        if len(parts) != 3:
            return None
        try:
            claims = json.loads(urlsafe_b64decode(parts[1].encode() + b"=" * (-len(parts[1]) % 4)))
            issuer = claims["iss"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return self._issuers.find(issuer) if isinstance(issuer, str) else None


def _verified(
    token: str, issuer: TrustedIssuer, key: VerifyingKey, header: Mapping[str, Any], now: datetime
) -> Mapping[str, Any]:
    """The claims of a token whose signature, type, issuer, audience and times are right."""
    typ = str(header.get("typ", "")).lower().removeprefix("application/")
    if header.get("alg") != key.algorithm or typ not in issuer.token_types:
        raise Rejected(Reason.INVALID_TOKEN, AUTH_TYPE)
    required = ["iss", "aud", "exp", "iat", issuer.subject_claim.partition(".")[0]]
    if typ == "at+jwt":
        required += ["sub", "client_id", "jti"]  # RFC 9068, section 2.2
    claims: Mapping[str, Any] = jwt.decode(
        token,
        key.key,
        algorithms=[key.algorithm],
        audience=issuer.audience,
        issuer=issuer.issuer,
        # Times are judged below, by the injected clock.
        options={"require": required, "verify_exp": False, "verify_nbf": False, "verify_iat": False},
    )
    times = {name: claims[name] for name in ("exp", "iat", "nbf") if name in claims}
    if any(type(value) not in (int, float) for value in times.values()):
        raise Rejected(Reason.INVALID_TOKEN, AUTH_TYPE)
    moments = {name: datetime.fromtimestamp(value, UTC) for name, value in times.items()}
    if moments.pop("exp") + LEEWAY <= now:
        raise Rejected(Reason.EXPIRED, AUTH_TYPE)
    if any(moment - LEEWAY > now for moment in moments.values()):
        raise Rejected(Reason.INVALID_TOKEN, AUTH_TYPE)
    return claims


def to_principal(claims: Mapping[str, Any], issuer: TrustedIssuer, token: str) -> Principal:
    """The principal of verified claims, after the issuer's mapping.

    Raises:
        Rejected: the subject, the tenant or who acts is missing, or cannot be one of ours.
        ValueError: who acts is malformed, or somebody of another issuer.
    """
    subject = _subject(_at(claims, issuer.subject_claim), issuer)
    roles, obtainable = _roles(claims, issuer)
    permissions = _texts(_at(claims, issuer.permissions_claim))
    tenant = issuer.tenant
    if issuer.tenant_claim:
        tenant = _name(_at(claims, issuer.tenant_claim))
    jti = claims.get("jti")
    # A digest: an issuer chooses its token ids, and must not be able to choose one of ours. Without an id, of what
    # is signed and not of the signature, which its holder can write in other ways that verify too.
    named = jti if isinstance(jti, str) and jti else token.rpartition(".")[0]
    digest = hashlib.sha256(f"{issuer.issuer}\0{named}".encode())
    auth_time = claims.get("auth_time")
    # An issuer speaks for its own people only (R1). Such a token is refused, not stripped: without its actors it would
    # pass for one with which nobody acts for somebody else.
    actors = actors_of(claims.get("act"), issuer.issuer, others=False)
    if any(actor != (actor[0], _name(actor[1])) for actor in actors):
        raise Rejected(Reason.INVALID_TOKEN, AUTH_TYPE)
    return Principal(
        subject=subject,
        credential_id=f"ext:{digest.hexdigest()[:32]}",
        auth_type=AUTH_TYPE,
        auth_time=datetime.fromtimestamp(auth_time if type(auth_time) is int else claims["iat"], UTC),
        roles=tuple(dict.fromkeys(role for role in roles if is_role(role))),
        permissions=tuple(dict.fromkeys(text for text in permissions if is_permission(text))),
        tenant=tenant,
        groups=tuple(dict.fromkeys(text for text in _texts(_at(claims, issuer.groups_claim)) if not _reserved(text))),
        amr=tuple(text for text in _texts(claims.get("amr")) if len(text) <= 16),
        expires_at=datetime.fromtimestamp(claims["exp"], UTC) + LEEWAY,
        issuer=issuer.issuer,
        obtainable=obtainable,
        actors=actors,
    )


def _roles(claims: Mapping[str, Any], issuer: TrustedIssuer) -> tuple[list[str], tuple[tuple[str, str], ...]]:
    """The roles of a token, and what its scopes lack. A scope gives its role to whoever the roles claim gives it
    too, where there is such a claim: a client is given no more than its user has (RFC 6749, section 3.3).
    """
    named = [issuer.role_map[value] for value in _texts(_at(claims, issuer.roles_claim)) if value in issuer.role_map]
    if not issuer.scope_map:
        return [*issuer.default_roles, *named], ()
    scopes = _texts(_at(claims, issuer.scope_claim))
    offered = {scope: role for scope, role in issuer.scope_map.items() if not issuer.roles_claim or role in named}
    roles = [*issuer.default_roles, *(offered[scope] for scope in scopes if scope in offered)]
    return roles, tuple(sorted((scope, role) for scope, role in offered.items() if role not in roles))


def _subject(value: Any, issuer: TrustedIssuer) -> str:
    if issuer.kubernetes:
        account = _ACCOUNT.fullmatch(value) if isinstance(value, str) else None
        if account is None:
            raise Rejected(Reason.INVALID_TOKEN, AUTH_TYPE)
        return f"serviceaccount/{account[1]}/{account[3]}"
    return _name(value)


def _name(value: Any) -> str:
    """A text that may name somebody: no control characters, nothing that is Kubernetes' own (R2)."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_SUBJECT or value != value.strip() or _reserved(value):
        raise Rejected(Reason.INVALID_TOKEN, AUTH_TYPE)
    return value


def _reserved(text: str) -> bool:
    return not text.isprintable() or text.lower().startswith("system:")


def _at(claims: Mapping[str, Any], path: str) -> Any:
    """The claim at a path such as ``realm_access.roles``; a claim whose name has dots is found whole."""
    if not path:
        return None
    if path in claims:
        return claims[path]
    value: Any = claims
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _texts(value: Any) -> list[str]:
    """A list of texts, or one text that separates them by blanks (RFC 8693, ``scope``)."""
    if isinstance(value, str):
        value = value.split()
    if not isinstance(value, list):
        return []
    return [text for text in value[:MAX_ENTRIES] if isinstance(text, str) and 0 < len(text) <= MAX_SUBJECT]
