"""The nouns of authn: credentials, principals, the records behind them, and what goes into the log."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NoReturn

ISSUER = "kubegate"
"""Issuer of our own users and keys (R1)."""


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


@dataclass(frozen=True, slots=True)
class TokenCredential:
    """What followed ``Bearer`` or ``ApiKey``."""

    token: Secret


@dataclass(frozen=True, slots=True)
class PasswordCredential:
    """A user name and password."""

    username: str
    password: Secret


Credential = TokenCredential | PasswordCredential


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
    issuer: str = ISSUER


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
        )


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


class Result(StrEnum):
    """How it ended: refused is ``failure``, tried and broken ``error``; an intent does not know yet."""

    SUCCESS = "success"
    FAILURE = "failure"
    ERROR = "error"
    UNKNOWN = "unknown"


class Kind(StrEnum):
    """Type of an event."""

    AUTHENTICATION = "authentication"
    ADMIN = "admin"


class Phase(StrEnum):
    """Which part of a change an event speaks of."""

    WHOLE = "whole"
    INTENT = "intent"
    OUTCOME = "outcome"


@dataclass(frozen=True, slots=True)
class Entry:
    """One event for audit. ``duration_ms`` in milliseconds; ``error`` never carries a secret."""

    kind: Kind
    action: str
    result: Result
    user: str = ""
    tenant: str = ""
    resource: str = ""
    error: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    source: Source = Source()
    request_id: str = ""
    duration_ms: float = 0.0
    phase: Phase = Phase.WHOLE
    intent_id: str = ""
    ends_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What authz said about an administration action."""

    allowed: bool
    explanation: str = ""
    rule: str = ""
    policy_revision: str = ""
