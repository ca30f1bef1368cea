"""A second evaluator that shares no code with the first: slow, obvious, written from the rules.

It reads permissions as texts and namespaces character by character, and knows the table only as the list of
what exists, copied from interface.md's rules.
"""

from collections.abc import Iterable
from dataclasses import dataclass

NAMESPACED = {
    ("", "pods"): "list get watch create update patch delete restart",
    ("", "services"): "list get watch create update patch delete",
    ("", "secrets"): "list get watch manage",
    ("", "serviceaccounts"): "list get watch create update patch delete",
    ("apps", "deployments"): "list get watch create update patch delete restart",
    ("rbac.authorization.k8s.io", "roles"): "list get watch create update patch delete",
    ("kubegate", "secrets"): "reveal",
    ("evil.example", "pods"): "list get watch create update patch delete",
}
CUSTOM = {("evil.example", "pods")}
"""Kinds of a cluster's users: granted as plural.group, with or without a namespace, for only the cluster knows."""
CLUSTER = {
    ("", "namespaces"): "list get watch create update patch delete",
    ("", "nodes"): "list get watch create update patch delete",
    ("kubegate", "keys"): "create list enable disable rotate delete",
    ("kubegate", "audit"): "read",
}
SUBRESOURCES = {("", "pods", "log"): "logs", ("apps", "deployments", "scale"): "scale"}
NOT_GENERIC = ("secrets", "serviceaccounts", "roles")


@dataclass(frozen=True)
class Grant:
    """Texts of one role, or of a key itself; ``namespaces`` is None for everywhere."""

    permissions: tuple[str, ...]
    namespaces: tuple[str, ...] | None


def glob(pattern: str, name: str) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(glob(pattern[1:], name[skip:]) for skip in range(len(name) + 1))
    return name[:1] == pattern[0] and glob(pattern[1:], name[1:])


def exists(group: str, resource: str, subresource: str, verb: str) -> bool:
    if subresource:
        return SUBRESOURCES.get((group, resource, subresource)) == verb
    kind = (group, resource)
    return verb in (NAMESPACED.get(kind) or CLUSTER.get(kind) or "").split()


def text_covers(text: str, group: str, resource: str, subresource: str, verb: str) -> bool:
    parts = text.split(":")
    system = "kubegate" if group == "kubegate" else "k8s"
    if parts[0] != system:
        return False
    if parts[1:] == ["*"]:
        return True
    verbs = [verb, "*"]
    if verb in ("get", "watch") and system == "k8s":
        verbs.append("list")
    if len(parts) != 3 or parts[2] not in verbs:
        return False
    if parts[1] == (f"{resource}.{group}" if (group, resource) in CUSTOM else resource):
        return True
    generic = (group, resource) in NAMESPACED and resource not in NOT_GENERIC and not subresource
    return parts[1] == "resources" and generic and system == "k8s"


def inside(namespaces: tuple[str, ...] | None, namespace: str) -> bool:
    return namespaces is None or (namespace != "" and any(glob(each, namespace) for each in namespaces))


@dataclass(frozen=True)
class Who:
    """A binding's or mark's subject: kind is "subject", "group" or "tenant"; a subject is issuer and name, a group
    without an issuer is that of any."""

    kind: str
    name: str
    issuer: str = ""


@dataclass(frozen=True)
class Role:
    grant: Grant
    inherits: tuple[str, ...] = ()
    condition: str = ""


@dataclass(frozen=True)
class Binding:
    role: str
    who: Who
    expires: float | None = None
    condition: str = ""


@dataclass(frozen=True)
class Elevation:
    role: str
    who: Who
    namespaces: tuple[str, ...] | None
    expires: float


@dataclass(frozen=True)
class Deny:
    grant: Grant
    condition: str = ""


@dataclass(frozen=True)
class Rules:
    """A policy and the elevations in force."""

    roles: dict[str, Role]
    bindings: tuple[Binding, ...] = ()
    deny: tuple[Deny, ...] = ()
    tenants: dict[str, tuple[str, ...]] | None = None
    cross_tenant: tuple[Who, ...] = ()
    elevations: tuple[Elevation, ...] = ()


@dataclass(frozen=True)
class Person:
    issuer: str = "kubegate"
    subject: str = "p"
    roles: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    tenant: str = ""
    amr: tuple[str, ...] = ()
    direct: tuple[str, ...] = ()
    cap: tuple[str, ...] | None = None
    tools: tuple[str, ...] = ()
    narrowed_to: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asked:
    kind: tuple[str, str, str, str]
    namespace: str
    tool: str
    replicas: int | None
    now: float
    source: str


MFA = "'mfa' in principal.amr"
FEW = "action.replicas <= 20"
EARLY = "request.time < timestamp('2027-01-01T00:00:00Z')"
LOCAL = "request.source == '10.0.0.1'"
BROKEN = "1 / 0 == 1"
NO = "false"
CONDITIONS = (MFA, FEW, EARLY, LOCAL, BROKEN, NO)


def holds(condition: str, person: Person, asked: Asked) -> bool | None:
    """The answer of one of CONDITIONS; None where it has none."""
    if condition == MFA:
        return "mfa" in person.amr
    if condition == FEW:
        return None if asked.replicas is None else asked.replicas <= 20
    if condition == EARLY:
        return asked.now < 1798761600
    if condition == LOCAL:
        return asked.source == "10.0.0.1"
    return None if condition == BROKEN else False


def is_him(who: Who, person: Person) -> bool:
    if who.kind == "subject":
        return (who.issuer, who.name) == (person.issuer, person.subject)
    if who.kind == "group":
        return who.name in person.groups and who.issuer in ("", person.issuer)
    return who.name == person.tenant


def held(rules: Rules, name: str, above: tuple[str, ...] = ()) -> list[Role]:
    """A role and what it inherits."""
    role = rules.roles.get(name)
    if role is None or name in above:
        return []
    return [role, *(each for parent in role.inherits for each in held(rules, parent, (*above, name)))]


def may(rules: Rules, person: Person, asked: Asked, candidates: Iterable[str]) -> bool:
    """Whether the action is allowed. ``candidates`` are namespace names among which a shared one is sought,
    for the one permission that needs no more: listing namespaces.
    """
    group, resource, _, verb = asked.kind
    if not exists(*asked.kind):
        return False
    namespaced = (group, resource) in NAMESPACED
    namespace = asked.namespace
    anywhere = (group, resource) in CUSTOM or asked.kind == ("kubegate", "danger", "", "privileged-pod")
    if namespaced and not namespace and verb not in ("list", "watch") and not anywhere:
        return False
    if not namespaced and namespace:
        return False
    if person.tools and asked.tool not in person.tools:
        return False

    for rule in rules.deny:
        if not any(text_covers(text, *asked.kind) for text in rule.grant.permissions):
            continue
        wide = namespaced and not namespace
        if not inside(rule.grant.namespaces, namespace) and not wide:
            continue
        if not rule.condition or holds(rule.condition, person, asked) is not False:
            return False

    limits = [person.cap]
    if rules.tenants:
        if person.tenant:
            limits.append(rules.tenants.get(person.tenant, ()))
        elif not any(is_him(who, person) for who in rules.cross_tenant):
            limits.append(())

    grants: list[tuple[Grant, list[tuple[str, ...] | None], list[str]]] = []
    narrow = person.narrowed_to
    for name in person.roles:
        if not narrow or name in narrow:
            grants += [(role.grant, [], [role.condition]) for role in held(rules, name)]
    for binding in rules.bindings if not narrow else ():
        if is_him(binding.who, person) and (binding.expires is None or asked.now < binding.expires):
            grants += [(role.grant, [], [role.condition, binding.condition]) for role in held(rules, binding.role)]
    for elevation in rules.elevations if not narrow else ():
        if is_him(elevation.who, person) and asked.now < elevation.expires:
            grants += [(role.grant, [elevation.namespaces], [role.condition]) for role in held(rules, elevation.role)]
    direct = tuple(text for text in person.direct if not narrow or text in narrow)
    grants.append((Grant(direct, person.cap), [], []))

    for grant, more, conditions in grants:
        if not any(text_covers(text, *asked.kind) for text in grant.permissions):
            continue
        if not all(not condition or holds(condition, person, asked) is True for condition in conditions):
            continue
        bounds = [grant.namespaces, *more, *limits]
        if all(inside(bound, namespace) for bound in bounds):
            return True
        shared = any(all(inside(bound, name) for bound in bounds) for name in candidates)
        if shared and (group, resource, verb) == ("", "namespaces", "list"):
            return True
    return False
