"""What a policy says, what is asked of it, and what it answers: plain values."""

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from services.authz.policy.conditions import Condition
from services.authz.policy.scope import EVERYWHERE, NOWHERE, Scope
from services.common.identity import user_name

ROLE_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
"""Role names end up in group names and RBAC objects of the cluster (``kubegate:role:<name>``)."""

NEVER = float("inf")
"""The end of what does not end."""


@dataclass(frozen=True, slots=True)
class Role:
    """Permissions and the places where they hold; both come from the same grant, always.

    Whoever holds a role holds the roles that it inherits too, each in that role's own namespaces.
    """

    name: str
    permissions: tuple[str, ...]
    scope: Scope = EVERYWHERE
    description: str = ""
    inherits: tuple[str, ...] = ()
    condition: Condition | None = None


@dataclass(frozen=True, slots=True)
class Who:
    """Exactly one of: a person (issuer, subject) (R1), a group, a tenant. A group without an issuer is that of any."""

    issuer: str = ""
    subject: str = ""
    group: str = ""
    tenant: str = ""

    def __str__(self) -> str:
        if self.subject:
            return f"subject {self.issuer}:{self.subject}"
        of = f" of {self.issuer}" if self.issuer else ""
        return f"group {self.group}{of}" if self.group else f"tenant {self.tenant}"


@dataclass(frozen=True, slots=True)
class Binding:
    """Gives a role to somebody until ``expires`` (seconds since 1970). ``line`` is where the file says so."""

    line: int
    role: str
    who: Who
    expires: float = NEVER
    condition: Condition | None = None


@dataclass(frozen=True, slots=True)
class DenyRule:
    """Refuses permissions in a scope, whatever grants them."""

    name: str
    permissions: tuple[str, ...]
    scope: Scope = EVERYWHERE
    description: str = ""
    condition: Condition | None = None


@dataclass(frozen=True, slots=True)
class Tenant:
    """Owns the namespaces of its scope; no other tenant owns any of them (R13)."""

    name: str
    scope: Scope


@dataclass(frozen=True, slots=True)
class Policy:
    """A whole policy file. ``revision`` is a digest of its bytes.

    ``cross_tenant``: who, being of no tenant, reaches every tenant's namespaces and what no tenant owns.
    """

    roles: tuple[Role, ...]
    revision: str
    bindings: tuple[Binding, ...] = ()
    deny: tuple[DenyRule, ...] = ()
    tenants: tuple[Tenant, ...] = ()
    cross_tenant: tuple[Who, ...] = ()


@dataclass(frozen=True, slots=True)
class Elevation:
    """An approved elevation in force: a role, in some namespaces, until ``expires`` (seconds since 1970)."""

    id: str
    issuer: str
    subject: str
    role: str
    scope: Scope
    expires: float
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. The identity is (issuer, subject) (R1); everything here comes from a verified token (R3).

    ``permissions`` hold in ``namespaces`` only, and ``namespaces`` and ``tools`` cap every role (R4). An
    empty ``tools`` is no cap; a ``namespaces`` that covers nothing allows nothing. ``auth_time`` and
    ``expires``: seconds since 1970; no ``auth_time`` where it is not known. ``actors``: who acts for it, as issuer and
    subject; where anybody does, what is done in person only is denied. ``narrowed_to``, where there is any: the
    only roles and permissions that grant, without bindings and elevations; conditions read the others too.
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
    groups: tuple[str, ...] = ()
    amr: tuple[str, ...] = ()
    auth_time: float | None = None
    expires: float = NEVER
    narrowed_to: frozenset[str] = frozenset()
    actors: tuple[tuple[str, str], ...] = ()

    @property
    def kept_roles(self) -> tuple[str, ...]:
        """The roles that count."""
        return tuple(role for role in self.roles if role in self.narrowed_to) if self.narrowed_to else self.roles

    @property
    def kept_permissions(self) -> tuple[str, ...]:
        """The direct permissions that count."""
        kept = self.narrowed_to
        return tuple(text for text in self.permissions if text in kept) if kept else self.permissions

    @property
    def user(self) -> str:
        """The name in records, as audit writes it for a verified token."""
        return user_name(self.issuer, self.subject)


class Action(NamedTuple):
    """What somebody wants to do, fully resolved (R10). ``tool`` matters for the credential's cap only.

    ``replicas``: asked for; None where the action asks for none. A tuple, for a frozen dataclass takes three times as
    long to make, and a batch makes a hundred.
    """

    group: str
    resource: str
    verb: str
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    cluster: str = ""
    tool: str = ""
    replicas: int | None = None


@dataclass(frozen=True, slots=True)
class Circumstances:
    """When (seconds since 1970) and from where an action is asked for."""

    now: float
    source: str | None = None


UNKNOWN = Circumstances(1e15)
"""No circumstances: everything that expires has expired, and conditions that read time or source fail."""


class Reason(Enum):
    """Kinds of denial."""

    NO_GRANT = "no_grant"
    CREDENTIAL_CAP = "credential_cap"
    INVALID_ACTION = "invalid_action"
    DENY_RULE = "deny_rule"
    CONDITION = "condition"
    TENANT = "tenant"
    DELEGATED = "delegated"


@dataclass(frozen=True, slots=True)
class Allowed:
    """Yes, by ``rule_id``: ``role:<name>#<n>``, ``direct#<n>`` or ``elevation:<id>:role:<name>#<n>``, n counting
    permissions from 1.

    ``until``: the earliest end of what it rests on, in seconds since 1970, the principal token apart; 0 where
    it may not be cached at all (R11).
    """

    permission: str
    rule_id: str
    role: str
    until: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Denied:
    """No. ``permission`` and ``namespace`` are the smallest grant that would have allowed it; none where no
    grant would. ``deny_rule`` names the rule of the policy that denies.
    """

    reason: Reason
    explanation: str
    permission: str = ""
    namespace: str = ""
    deny_rule: str = ""

    @property
    def rule_id(self) -> str:
        """``deny:<name>`` for a deny rule, else ``denied:<reason>``."""
        return f"deny:{self.deny_rule}" if self.deny_rule else f"denied:{self.reason.value}"


Decision = Allowed | Denied
