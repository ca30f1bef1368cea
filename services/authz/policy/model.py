"""What a policy says, what is asked of it, and what it answers: plain values."""

import re
from dataclasses import dataclass
from enum import Enum

from services.authz.policy.scope import EVERYWHERE, NOWHERE, Scope

ROLE_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
"""Role names end up in group names and RBAC objects of the cluster (``kubegate:role:<name>``)."""

OWN_ISSUER = "kubegate"
"""The issuer of our own users and keys (R1)."""


@dataclass(frozen=True, slots=True)
class Role:
    """Permissions and the places where they hold; both come from the same grant, always."""

    name: str
    permissions: tuple[str, ...]
    scope: Scope = EVERYWHERE
    description: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """A whole policy file. ``revision`` is a digest of its bytes."""

    roles: tuple[Role, ...]
    revision: str


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. The identity is (issuer, subject) (R1); everything here comes from a verified token (R3).

    ``permissions`` hold in ``namespaces`` only, and ``namespaces`` and ``tools`` cap every role (R4). An
    empty ``tools`` is no cap; a ``namespaces`` that covers nothing allows nothing.
    """

    issuer: str
    subject: str
    roles: tuple[str, ...] = ()
    permissions: tuple[str, ...] = ()
    namespaces: Scope = NOWHERE
    tools: frozenset[str] = frozenset()
    credential_id: str = ""
    auth_type: str = ""
    tenant: str = ""

    @property
    def user(self) -> str:
        """The name in records, as audit writes it for a verified token: the subject for our own issuer,
        ``issuer:subject`` for every other, and for ours too where the subject holds a colon (R1).
        """
        if self.issuer == OWN_ISSUER and ":" not in self.subject:
            return self.subject
        return f"{self.issuer}:{self.subject}"


@dataclass(frozen=True, slots=True)
class Action:
    """What somebody wants to do, fully resolved (R10). ``tool`` matters for the credential's cap only."""

    group: str
    resource: str
    verb: str
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    cluster: str = ""
    tool: str = ""


class Reason(Enum):
    """Kinds of denial."""

    NO_GRANT = "no_grant"
    CREDENTIAL_CAP = "credential_cap"
    INVALID_ACTION = "invalid_action"


@dataclass(frozen=True, slots=True)
class Allowed:
    """Yes, by ``rule_id``: ``role:<name>#<n>`` or ``direct#<n>``, n counting permissions from 1."""

    permission: str
    rule_id: str
    role: str


@dataclass(frozen=True, slots=True)
class Denied:
    """No. ``permission`` and ``namespace`` are the smallest grant that would have allowed it."""

    reason: Reason
    explanation: str
    permission: str = ""
    namespace: str = ""


Decision = Allowed | Denied
