"""`kubegate cluster rbac`: the cluster's own RBAC that matches a policy, so that it is a second lock.

Role R of the policy is the group ``kubegate:role:R``, keys with permissions of their own are the group
``kubegate:direct``, and the core, ``kubegate:core``, may impersonate these groups and no other (R2).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from services.authz.policy.model import Policy, Role
from services.authz.policy.permissions import (
    GRANTABLE,
    KUBEGATE,
    PERMISSIONS,
    Permission,
    custom_kind,
    explain_malformed,
)
from services.authz.policy.scope import EVERYWHERE, is_namespace
from services.cli.home import EMBEDDED_KINDS, EMBEDDED_NAMESPACES, HomeLayout
from services.cli.options import DEFAULT_HOME, Home, Json
from services.cli.output import emit_json, fail
from services.cli.policy import load
from services.common.runtime_errors import StartupError

Object = dict[str, Any]

RBAC = "rbac.authorization.k8s.io"
CORE = "kubegate:core"
DIRECT = "kubegate:direct"
REQUEST_ID = "request-id"
"""The one key of ``extra`` that the core sends with an impersonated call."""

_VERBS: dict[str, tuple[str, ...]] = {
    "list": ("get", "list", "watch"),
    "get": ("get",),
    "watch": ("watch",),
    "create": ("create",),
    "update": ("get", "update"),
    "patch": ("get", "patch"),
    "delete": ("get", "delete"),
    "manage": ("create", "delete", "get", "patch", "update"),
    "logs": ("get",),
    "scale": ("get", "patch", "update"),
    "evict": ("create",),
    "cordon": ("get", "patch"),
}
"""What each verb of a permission needs in the cluster."""

_RESTART: dict[str, tuple[str, ...]] = {"pods": ("get", "delete")}
"""A pod restarts by being deleted and made again; workloads restart by a changed template."""

_GIVE = 'give the namespaces: --namespace-list "$(kubectl get ns -o name)"'
"""What to do about a pattern: a binding names one namespace."""

app = typer.Typer(no_args_is_help=True, help="What the cluster behind the gate needs.")


def role_group(role: str) -> str:
    """The cluster's group of a policy role."""
    return f"kubegate:role:{role}"


def needs(permission: Permission) -> Object | None:
    """The rule that a permission needs in the cluster; none for administration of kubegate itself."""
    kind = permission.kind
    if kind.group == KUBEGATE:
        return None
    verbs = _VERBS.get(permission.verb) or _RESTART.get(kind.resource, ("get", "patch"))
    resource = f"{kind.resource}/{permission.subresource}" if permission.subresource else kind.resource
    return {"apiGroups": [kind.group], "resources": [resource], "verbs": sorted(verbs)}


def rules_for(texts: Iterable[str], *, namespaced_only: bool, kinds: Sequence[str] = ()) -> list[Object]:
    """The rules that grants need, one for each set of verbs in an API group.

    ``kinds``: custom kinds as plural.group, which wildcards cover; those that a grant names need not be here.
    """
    granted = frozenset(texts)
    verbs: dict[tuple[str, str], set[str]] = {}
    for permission in (*PERMISSIONS.values(), *_custom(granted, kinds)):
        covered = not permission.covered_by.isdisjoint(granted)
        rule = needs(permission) if covered and (permission.kind.namespaced or not namespaced_only) else None
        if rule is not None:
            verbs.setdefault((rule["apiGroups"][0], rule["resources"][0]), set()).update(rule["verbs"])
    for resource in ("pods", "nodes"):
        # What they use is served by an API of its own, metrics.k8s.io, and is a part of them to policy.
        if "list" in verbs.get(("", resource), ()):
            verbs["metrics.k8s.io", resource] = {"get", "list"}
    if ("", "pods/eviction") in verbs:
        # It is looked at first, so that this very pod goes and no other of its name.
        verbs.setdefault(("", "pods"), set()).add("get")
    merged: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (group, resource), found in sorted(verbs.items()):
        merged.setdefault((group, tuple(sorted(found))), []).append(resource)
    return [
        {"apiGroups": [group], "resources": resources, "verbs": list(found)}
        for (group, found), resources in merged.items()
    ]


def _custom(granted: frozenset[str], kinds: Sequence[str]) -> list[Permission]:
    named = {(found[1], found[0]) for text in granted if (found := custom_kind(text)) is not None}
    places = sorted({*named, *((plural, group) for plural, _, group in (kind.partition(".") for kind in kinds))})
    possible = [PERMISSIONS.get((group, plural, "", verb)) for plural, group in places for verb in _VERBS]
    return [permission for permission in possible if permission is not None]


def cluster_rbac(
    policy: Policy,
    namespaces: Sequence[str] | None = None,
    direct: Sequence[str] = ("k8s:*",),
    kinds: Sequence[str] = (),
) -> list[Object]:
    """The manifests that match a policy, ready for ``kubectl apply``.

    A role's group may also do what the roles grant that it inherits, where they do. Bindings of the policy give
    roles, and the core impersonates the group of the role that granted, so nothing more is needed for them.
    Deny rules, conditions, tenants and elevations are the policy's alone: RBAC has no such thing, and what they
    leave is less than what is printed here.

    ``namespaces``: those that exist, against which patterns are resolved, for RBAC has none; a role is bound
    in those only. Without it, roles are bound in the namespaces that the policy names exactly.
    ``kinds``: the custom kinds of the cluster as plural.group; RBAC has no wildcard that would not cover more.
    ``direct``: the permissions that keys may hold directly. The cluster cannot know in which namespaces a key
    holds them, so there the policy is the only lock.
    """
    objects: list[Object] = []
    heirs = _heirs(policy)
    for role in policy.roles:
        objects += _role(role, namespaces, heirs[role.name], kinds)
    objects += _bound_everywhere(DIRECT, rules_for(direct, namespaced_only=False, kinds=kinds), [_group(DIRECT)])
    groups = sorted([DIRECT, *(role_group(role.name) for role in policy.roles)])
    return [*objects, *_core(groups)]


def unbound(policy: Policy, namespaces: Sequence[str] | None) -> list[str]:
    """What of the policy could not be bound, one sentence for each namespace pattern or name."""
    found = []
    for role in policy.roles:
        for pattern in role.scope.patterns():
            if namespaces is None and "*" in pattern:
                found.append(f"role {role.name}: {pattern} is not bound; {_GIVE}")
            elif namespaces is not None and is_namespace(pattern) and pattern not in namespaces:
                found.append(f"role {role.name}: namespace {pattern} does not exist, so nothing is bound there")
    return found


def _heirs(policy: Policy) -> dict[str, list[str]]:
    """For each role, the roles that inherit it, however far: their groups may do what it grants, where it does."""
    parents = {role.name: role.inherits for role in policy.roles}
    heirs: dict[str, list[str]] = {name: [] for name in parents}
    for name, inherited in parents.items():
        seen = {name}
        queue = list(inherited)
        while queue:
            above = queue.pop()
            if above not in seen:
                seen.add(above)
                heirs[above].append(name)
                queue += parents[above]
    return heirs


def _role(role: Role, namespaces: Sequence[str] | None, heirs: Sequence[str], kinds: Sequence[str]) -> list[Object]:
    name = role_group(role.name)
    groups = [_group(name), *(_group(role_group(heir)) for heir in sorted(heirs))]
    if role.scope == EVERYWHERE:
        return _bound_everywhere(name, rules_for(role.permissions, namespaced_only=False, kinds=kinds), groups)
    rules = rules_for(role.permissions, namespaced_only=True, kinds=kinds)
    if not rules:
        return []
    existing = role.scope.names if namespaces is None else filter(role.scope.covers_namespace, namespaces)
    bindings = [_binding("RoleBinding", name, groups, namespace) for namespace in sorted(set(existing))]
    return [_cluster_role(name, rules), *bindings]


def _bound_everywhere(name: str, rules: list[Object], groups: list[Object]) -> list[Object]:
    if not rules:
        return []
    return [_cluster_role(name, rules), _binding("ClusterRoleBinding", name, groups)]


def _core(groups: list[str]) -> list[Object]:
    rules = [
        # RBAC can list user names but no prefix of them, so any user name is allowed here; the core itself
        # builds `kubegate:<issuer>:<subject>` and nothing else. Service accounts are another resource and
        # are not allowed. See SECURITY.md for what that means when the core is compromised.
        {"apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"]},
        {"apiGroups": [""], "resources": ["groups"], "resourceNames": groups, "verbs": ["impersonate"]},
        {
            "apiGroups": ["authentication.k8s.io"],
            "resources": [f"userextras/{REQUEST_ID}"],
            "verbs": ["impersonate"],
        },
        {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "list"]},
    ]
    user = {"apiGroup": RBAC, "kind": "User", "name": CORE}
    return [_cluster_role(CORE, rules), _binding("ClusterRoleBinding", CORE, [user])]


def _group(name: str) -> Object:
    return {"apiGroup": RBAC, "kind": "Group", "name": name}


def _metadata(name: str, namespace: str = "") -> Object:
    place = {"namespace": namespace} if namespace else {}
    return {"name": name, **place, "labels": {"app.kubernetes.io/managed-by": "kubegate"}}


def _cluster_role(name: str, rules: list[Object]) -> Object:
    return {"apiVersion": f"{RBAC}/v1", "kind": "ClusterRole", "metadata": _metadata(name), "rules": rules}


def _binding(kind: str, role: str, subjects: list[Object], namespace: str = "") -> Object:
    return {
        "apiVersion": f"{RBAC}/v1",
        "kind": kind,
        "metadata": _metadata(role, namespace),
        "subjects": subjects,
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
    }


def to_yaml(objects: Sequence[Object]) -> str:
    """Manifests as YAML documents."""
    return yaml.safe_dump_all(objects, sort_keys=False, explicit_start=True)


@app.callback()
def cluster() -> None:
    """What the cluster behind the gate needs."""


@app.command()
def rbac(
    policy: Annotated[
        Path | None, typer.Option("--policy", metavar="FILE", help="Policy file; default: the stack's.")
    ] = None,
    namespace_list: Annotated[
        str | None,
        typer.Option(
            "--namespace-list",
            metavar="NAMES",
            help="Namespaces that exist, separated by commas or spaces; `kubectl get ns -o name` will do.",
        ),
    ] = None,
    direct: Annotated[
        list[str] | None,
        typer.Option("--direct", metavar="PERMISSION", help="What keys may hold directly, at most; default: k8s:*."),
    ] = None,
    kind_list: Annotated[
        str | None,
        typer.Option(
            "--kind-list",
            metavar="KINDS",
            help="Custom kinds that wildcards shall cover, as plural.group; `kubectl get crd -o name` will do.",
        ),
    ] = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Print the ClusterRoles and bindings that match the policy: kubegate cluster rbac | kubectl apply -f -"""
    for permission in direct or ():
        if permission not in GRANTABLE:
            fail(f"--direct: {explain_malformed(permission)}")
    layout = HomeLayout(home)
    embedded = False
    if policy is None:
        try:
            endpoints = layout.read_endpoints()
        except StartupError as error:
            fail(str(error))
        policy = Path(endpoints["policy"])
        embedded = Path(endpoints["kubeconfig"]) == layout.cluster_kubeconfig
    namespaces = _names(namespace_list)
    if namespaces is None and embedded:
        namespaces = list(EMBEDDED_NAMESPACES)
    kinds = _kinds(kind_list)
    if kinds is None:
        kinds = list(EMBEDDED_KINDS) if embedded else []
    loaded = load(policy)
    for line in unbound(loaded, namespaces):
        typer.echo(f"kubegate: {line}", err=True)
    objects = cluster_rbac(loaded, namespaces, direct or ("k8s:*",), kinds)
    if as_json:
        emit_json(objects)
    else:
        print(to_yaml(objects), end="")


def _kinds(text: str | None) -> list[str] | None:
    if text is None:
        return None
    kinds = [name.rpartition("/")[2] for name in text.replace(",", " ").split()]
    for kind in kinds:
        if custom_kind(f"k8s:{kind}:list") is None:
            fail(f"--kind-list: {kind!r} is not a custom kind, written plural.group")
    return kinds


def _names(text: str | None) -> list[str] | None:
    if text is None:
        return None
    names = [name.removeprefix("namespace/") for name in text.replace(",", " ").split()]
    for name in names:
        if not is_namespace(name):
            fail(f"--namespace-list: {name!r} is not a namespace name")
    return names
