"""The nouns of authn: credentials, principals, and the records behind them."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import cached_property
from typing import Any, NoReturn

from services.common.identity import OWN_ISSUER, user_name

KEY_PREFIX = "kg_"
"""API keys begin with it."""


class Secret:
    """A secret text. It shows itself only through ``reveal()``: not in ``repr``, ``str`` or pickles."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The secret itself, for the one place that needs it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret([redacted])"

    def __len__(self) -> int:
        return len(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled or copied")


NOTHING = Secret("")


@dataclass(frozen=True, slots=True)
class TokenCredential:
    """What followed ``Bearer`` or ``ApiKey``, and the client certificate (DER) that came with it, if one did."""

    token: Secret
    certificate: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class PasswordCredential:
    """A user name and password, and the code of a second factor where there is one."""

    username: str
    password: Secret
    otp: Secret = NOTHING


@dataclass(frozen=True, slots=True)
class CertificateCredential:
    """A client certificate (DER) whose key the caller has proven in a handshake with the asker."""

    der: bytes = field(repr=False)


Credential = TokenCredential | PasswordCredential | CertificateCredential


@dataclass(frozen=True, slots=True)
class Source:
    """Where a call came from, as the asker saw it."""

    address: str = ""
    user_agent: str = ""


@dataclass(frozen=True, slots=True)
class NamespaceScope:
    """All namespaces, or those that match one of the patterns; neither means none."""

    all: bool = False
    patterns: tuple[str, ...] = ()


EVERYWHERE = NamespaceScope(all=True)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling. The identity is (issuer, subject) (R1); fields as in the protobuf message."""

    subject: str
    credential_id: str
    auth_type: str
    auth_time: datetime
    roles: tuple[str, ...] = ()
    permissions: tuple[str, ...] = ()
    namespaces: NamespaceScope = EVERYWHERE
    tools: tuple[str, ...] = ()
    tenant: str = ""
    amr: tuple[str, ...] = ()
    expires_at: datetime | None = None
    issuer: str = OWN_ISSUER
    groups: tuple[str, ...] = ()
    generation: int = field(default=0, compare=False)
    """Of the user's record when it was read; stays within authn."""
    obtainable: tuple[tuple[str, str], ...] = field(default=(), compare=False)
    """Scopes that the token lacks, each with the role that it would give."""
    ends_with: tuple[str, ...] = field(default=(), compare=False)
    """Further names under which it ends (R12): the key that signed the token, and what it was exchanged for."""
    actors: tuple[tuple[str, str], ...] = ()
    """Who acts for it (RFC 8693, 4.1), as issuer and subject, the current one first."""
    narrowed_to: tuple[str, ...] = ()  # where there are any: the only roles and permissions that count

    @property
    def user(self) -> str:
        """The name in records, as audit writes it for a verified token."""
        return user_name(self.issuer, self.subject)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A stored API key. Of its secret only ``mac`` is kept."""

    id: str
    identity: str
    mac: bytes = field(repr=False)
    pepper_version: str
    created_at: datetime
    roles: tuple[str, ...] = ()
    permissions: tuple[str, ...] = ()
    namespaces: NamespaceScope = EVERYWHERE
    tools: tuple[str, ...] = ()
    tenant: str = ""
    enabled: bool = True
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    certificate_sha256: str = ""
    """Hex digest of the only client certificate that it may be used with; empty for any."""
    replaced_by: str = ""
    """Id of the key that took its place."""

    def principal(self, now: datetime) -> Principal:
        """The principal that this key proves; everything in it comes from this record (R3)."""
        return Principal(
            subject=self.identity,
            credential_id=self.id,
            auth_type="api_key",
            auth_time=now,
            roles=self.roles,
            permissions=self.permissions,
            namespaces=self.namespaces,
            tools=self.tools,
            tenant=self.tenant,
            expires_at=self.expires_at,
        )


@dataclass(frozen=True, slots=True)
class User:
    """A stored user."""

    name: str
    password_hash: str = field(repr=False)
    created_at: datetime
    roles: tuple[str, ...] = ()
    permissions: tuple[str, ...] = ()
    namespaces: NamespaceScope = EVERYWHERE
    tenant: str = ""
    enabled: bool = True
    generation: int = 0
    """Revision of the last change that ended the user's tokens; a token carries the one it was issued under."""
    totp_sealed: bytes | None = field(default=None, repr=False)
    totp_confirmed: bool = False

    @property
    def second_factor(self) -> bytes | None:
        """The sealed seed, where a second factor is demanded."""
        return self.totp_sealed if self.totp_confirmed else None

    def principal(
        self,
        auth_type: str,
        credential_id: str,
        auth_time: datetime,
        amr: tuple[str, ...],
        expires_at: datetime | None = None,
    ) -> Principal:
        """The principal of this user, with the roles of this record and of no token (R3)."""
        return Principal(
            subject=self.name,
            credential_id=credential_id,
            auth_type=auth_type,
            auth_time=auth_time,
            roles=self.roles,
            permissions=self.permissions,
            namespaces=self.namespaces,
            tenant=self.tenant,
            amr=amr,
            expires_at=expires_at,
            generation=self.generation,
        )


@dataclass(frozen=True, slots=True)
class IssuerRecord:
    """A trusted issuer that an administrator added. ``document``: the fields of its ``TrustedIssuer``."""

    issuer: str
    document: Mapping[str, Any]
    enabled: bool
    created_at: datetime


@dataclass(frozen=True, eq=False)
class TrustedIssuer:
    """An issuer whose tokens are accepted; fields as in the protobuf message. Claims are named by their path.

    ``secret``: of HS256, only from the configuration; the issuer has no public keys then. ``configured``: from
    the configuration file, which no RPC changes.
    """

    issuer: str
    audience: str
    jwks_uri: str = ""
    ca_pem: str = field(default="", repr=False)
    algorithms: tuple[str, ...] = ("EdDSA", "ES256", "RS256")
    token_types: tuple[str, ...] = ("at+jwt",)
    subject_claim: str = "sub"
    groups_claim: str = ""
    roles_claim: str = ""
    role_map: Mapping[str, str] = field(default_factory=dict)
    default_roles: tuple[str, ...] = ()
    tenant_claim: str = ""
    tenant: str = ""
    permissions_claim: str = ""
    kubernetes: bool = False
    enabled: bool = True
    configured: bool = False
    secret: Secret | None = None
    scope_map: Mapping[str, str] = field(default_factory=dict)
    scope_claim: str = "scope"
    initial_scopes: tuple[str, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """Changes with any setting: what was mapped under other settings is not taken for mapped under these."""
        settings = repr([(each.name, getattr(self, each.name)) for each in fields(self) if each.name != "secret"])
        # Keyed by the secret, for whoever holds a token reads this: no more can be learned from it than from a
        # signature that the secret makes.
        secret = self.secret.reveal().encode() if self.secret is not None else b""
        return hmac.digest(secret, settings.encode(), "sha256").hex()[:32]

    @property
    def for_people(self) -> bool:
        """Whether somebody may be sent there to sign in."""
        return self.enabled and not self.kubernetes and self.secret is None


@dataclass(frozen=True, slots=True)
class CertificateRule:
    """Whom a client certificate stands for. ``name``: its SPIFFE id, or ``CN=<common name>`` where it has none."""

    name: str
    identity: str
    roles: tuple[str, ...] = ()
    namespaces: NamespaceScope = EVERYWHERE
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """What an administrator asks for. ``namespaces`` is ``None`` where nothing was said."""

    identity: str
    roles: tuple[str, ...] = ()
    permissions: tuple[str, ...] = ()
    namespaces: NamespaceScope | None = None
    tools: tuple[str, ...] = ()
    tenant: str = ""
    expires_at: datetime | None = None
    certificate_sha256: str = ""


@dataclass(frozen=True, slots=True)
class Proof:
    """A proven principal: its token for the asker, the record's id, and the revision known before it was judged."""

    principal: Principal
    token: str = field(repr=False)
    event_id: str
    revision: int


@dataclass(frozen=True, slots=True)
class Issued:
    """An access token. ``lifetime`` in seconds; ``refresh`` and ``scope`` are empty where the grant gives none."""

    token: Secret
    lifetime: int
    event_id: str
    refresh: Secret = NOTHING
    scope: str = ""


@dataclass(frozen=True, slots=True)
class Refreshable:
    """What a refresh token stands for: who proved what when, in which family of tokens."""

    family: str
    user: str
    generation: int
    auth_time: datetime
    amr: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ends:
    """What ended after a known revision, oldest first, up to ``revision``. ``reset``: that is not known."""

    revision: int
    ended: tuple[tuple[str, int], ...] = ()
    reset: bool = False


@dataclass(frozen=True, slots=True)
class NewUser:
    """What an administrator asks for. ``password`` is ``None`` where one is to be made."""

    name: str
    roles: tuple[str, ...] = ()
    permissions: tuple[str, ...] = ()
    namespaces: NamespaceScope | None = None
    tenant: str = ""
    password: Secret | None = None


@dataclass(frozen=True, slots=True)
class SigningKeyView:
    """A signing key without its private part. ``state``: next, current or previous."""

    kid: str
    purpose: str
    state: str
    active_from: datetime


@dataclass(frozen=True, slots=True)
class Grantable:
    """What a maker of a credential lacks for it, by which rule he may grant anything, and roles that nobody knows."""

    missing: str = ""
    rule: str = ""
    unknown_roles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """What authz said about an administration action."""

    allowed: bool
    explanation: str = ""
    rule: str = ""
    policy_revision: str = ""
