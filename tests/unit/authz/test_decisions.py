"""Decisions: the regressions of the original design, the wildcard rules, and what caps a credential."""

import pytest

from services.authz.policy.engine import Engine
from services.authz.policy.model import Action, Allowed, Decision, Denied, DenyRule, Policy, Principal, Reason, Role
from services.authz.policy.permissions import KINDS, PERMISSIONS
from services.authz.policy.scope import EVERYWHERE, NOWHERE, Scope

LIST_PODS = Action("", "pods", "list", namespace="default")
LIST_NAMESPACES = Action("", "namespaces", "list")


def engine(*roles: Role) -> Engine:
    return Engine(Policy(roles, "rev"))


def role(*permissions: str, namespaces: tuple[str, ...] | None = None, name: str = "r") -> Role:
    return Role(name, permissions, EVERYWHERE if namespaces is None else Scope.of(namespaces))


def holder(*roles: str, namespaces: Scope = EVERYWHERE, tools: tuple[str, ...] = ()) -> Principal:
    return Principal("kubegate", "p", roles or ("r",), namespaces=namespaces, tools=frozenset(tools))


def key(*permissions: str, namespaces: Scope = EVERYWHERE) -> Principal:
    return Principal("kubegate", "k", permissions=permissions, namespaces=namespaces)


def decide(permissions: str | tuple[str, ...], action: Action, namespaces: tuple[str, ...] | None = None) -> Decision:
    texts = (permissions,) if isinstance(permissions, str) else permissions
    return engine(role(*texts, namespaces=namespaces)).decide(holder(), action)


def allows(permissions: str | tuple[str, ...], action: Action, namespaces: tuple[str, ...] | None = None) -> bool:
    return isinstance(decide(permissions, action, namespaces), Allowed)


@pytest.mark.req("I2.4")
@pytest.mark.parametrize("permission", ["k8s:pods:list", "k8s:pods:*", "k8s:*", "k8s:resources:list"])
def test_the_namespace_is_checked_whatever_the_form_of_the_grant(permission: str) -> None:
    elsewhere = Action("", "pods", "list", namespace="production")
    assert allows(permission, LIST_PODS, ("default",))
    assert not allows(permission, elsewhere, ("default",))
    bound = Scope.of(["default"])
    assert isinstance(engine().decide(key(permission, namespaces=bound), LIST_PODS), Allowed)
    assert isinstance(engine().decide(key(permission, namespaces=bound), elsewhere), Denied)


@pytest.mark.req("I2.4")
@pytest.mark.parametrize(
    ("namespace", "covered"), [("feature-x", True), ("featurex", False), ("my-feature-x", False), ("feature", False)]
)
def test_a_pattern_matches_the_whole_name(namespace: str, covered: bool) -> None:
    assert allows("k8s:pods:list", Action("", "pods", "list", namespace=namespace), ("feature-*",)) is covered


@pytest.mark.req("R14")
def test_no_namespace_is_never_default() -> None:
    for verb, subresource in (("list", ""), ("delete", ""), ("logs", "log")):
        assert not allows("k8s:*", Action("", "pods", verb, subresource), ("default",))
    assert allows("k8s:pods:list", Action("", "pods", "list")), "an unbounded grant lists the whole cluster"
    denied = decide("k8s:*", Action("", "pods", "delete", name="web-1"))
    assert isinstance(denied, Denied)
    assert denied.reason is Reason.INVALID_ACTION, "and still deletes nothing in a namespace that nobody named"


@pytest.mark.req("R10", "I5.2")
def test_a_wildcard_stops_at_the_colon_and_at_the_api_group() -> None:
    assert not allows("k8s:pods:*", Action("", "podsecrets", "x", namespace="default"))
    assert not allows("k8s:*", Action("", "podsecrets", "x", namespace="default"))
    assert not allows("k8s:pods:*", Action("evil.example", "pods", "list", namespace="default"))
    assert not allows("k8s:*", Action("evil.k8s.io", "pods", "list", namespace="default"))
    assert allows("k8s:*", Action("evil.example", "pods", "list", namespace="default"))
    assert not allows("k8s:pods:list", Action("", "services", "list", namespace="default"))


@pytest.mark.req("R10", "I5.2")
@pytest.mark.parametrize(
    "subresource", ["exec", "attach", "portforward", "proxy", "token", "ephemeralcontainers", "status"]
)
@pytest.mark.parametrize("verb", ["list", "get", "create", "logs", "restart"])
def test_subresources_are_a_closed_list(subresource: str, verb: str) -> None:
    assert not allows(("k8s:*", "kubegate:*"), Action("", "pods", verb, subresource, "default", "web-1"))


@pytest.mark.req("R10", "I5.2")
def test_a_subresource_is_granted_by_its_own_verb_only() -> None:
    logs = Action("", "pods", "logs", "log", "default")
    scale = Action("apps", "deployments", "scale", "scale", "default")
    for permission in ("k8s:pods:list", "k8s:pods:get", "k8s:resources:list", "k8s:resources:*"):
        assert not allows(permission, logs)
    for permission in ("k8s:deployments:update", "k8s:deployments:patch", "k8s:resources:*"):
        assert not allows(permission, scale)
    assert allows("k8s:pods:logs", logs)
    assert allows("k8s:deployments:*", scale)
    assert not allows("k8s:pods:logs", Action("", "pods", "logs", "", "default")), "an action that is half resolved"


@pytest.mark.req("R10", "I5.2")
def test_the_tool_is_no_input_to_the_permission() -> None:
    by_name = [
        decide("k8s:pods:list", Action("", "pods", "list", namespace="default", tool=tool))
        for tool in ("list_pods", "list_resources", "delete_pod", "")
    ]
    assert len(set(by_name)) == 1


@pytest.mark.req("R10", "I5.2")
@pytest.mark.parametrize(
    "action",
    [
        Action("", "pods", "*", namespace="default"),
        Action("", "*", "list", namespace="default"),
        Action("", "*", "*", namespace="*"),
        Action("*", "pods", "list", namespace="default"),
        Action("", "pods", "list", namespace="*"),
        Action("", "pods", "list", namespace="feature-*"),
        Action("", "pods", "List", namespace="default"),
        Action("", "PODS", "list", namespace="default"),
        Action("", "рods", "list", namespace="default"),  # Cyrillic er
        Action("", "ｐods", "list", namespace="default"),  # full-width p
        Action("", "pods", "list", namespace="Default"),
        Action("", "pods", "list", namespace="dеfault"),  # Cyrillic ie
        Action("", "pods", "list", namespace="default\n"),
        Action("", "pods", "list", namespace="default\x00"),
        Action("", "pods", "list", namespace=" default"),
        Action("", "pods", "list", namespace="../default"),
        Action("", "pods", "list", namespace="a" * 64),
        Action("", "pods", "obliterate", namespace="default"),
        Action("", "pods", "delete", namespace="default", name="web/../x"),
        Action("", "pods", "delete", namespace="default", name="web%2fx"),
        Action("", "pods", "delete", namespace="default", name="web\n1"),
        Action("", "pods", "delete", namespace="default", name="w" * 254),
        Action("", "pods", "list", namespace="default", cluster="*"),
        Action("", "nodes", "list", namespace="default"),
        Action("", "resources", "list", namespace="default"),
        Action("k8s", "pods", "list", namespace="default"),
        Action("kubegate", "*", "*"),
        Action("kubegate", "keys", "*"),
        Action("", "", ""),
    ],
)
def test_what_a_caller_writes_matches_nothing_but_itself(action: Action) -> None:
    denied = engine(role("k8s:*", "kubegate:*")).decide(holder(), action)
    assert isinstance(denied, Denied)
    assert denied.reason is Reason.INVALID_ACTION


@pytest.mark.req("R10", "I5.2")
def test_malformed_permissions_of_a_credential_grant_nothing() -> None:
    for text in (
        "*",
        "k8s",
        "k8s:",
        "k8s:*:*",
        "k8s:*:list",
        "K8S:*",
        "k8s:pods:lis*",
        "k8s:pod*:list",
        "k8s:pods:list ",
        "",
    ):
        assert isinstance(engine().decide(key(text), LIST_PODS), Denied), text


@pytest.mark.req("R15")
def test_no_k8s_wildcard_reaches_administration_or_what_is_dangerous() -> None:
    outside = [key for key, permission in PERMISSIONS.items() if permission.text.startswith("kubegate:")]
    assert ("kubegate", "secrets", "", "reveal") in outside
    assert ("kubegate", "danger", "", "delete-namespace") in outside
    for group, resource, subresource, verb in outside:
        kind = PERMISSIONS[group, resource, subresource, verb].kind
        action = Action(group, resource, verb, subresource, "default" if kind.namespaced else "")
        assert not allows(("k8s:*", "k8s:secrets:*", "k8s:resources:*"), action)
        assert allows("kubegate:*", action) is not kind.by_name
        assert allows(f"kubegate:{resource}:{verb}", action)
    assert not allows("kubegate:*", LIST_PODS)
    assert not allows("kubegate:keys:*", Action("kubegate", "audit", "read"))
    assert not allows("kubegate:*", Action("kubegate", "keys", "create"), ("default",)), "it lies outside namespaces"


@pytest.mark.req("I2.4")
def test_list_includes_get_and_watch_of_the_same_kind_and_nothing_else() -> None:
    for verb, granted in (("get", True), ("watch", True), ("delete", False), ("create", False)):
        assert allows("k8s:pods:list", Action("", "pods", verb, namespace="default", name="web-1")) is granted
    assert not allows("k8s:pods:get", LIST_PODS)
    assert not allows("k8s:pods:list", Action("", "secrets", "get", namespace="default", name="s"))


@pytest.mark.req("I2.4")
def test_generic_resources_leave_out_what_needs_a_grant_of_its_own() -> None:
    covered = {
        resource
        for group, resource, subresource, verb in PERMISSIONS
        if verb == "list" and not subresource
        if allows("k8s:resources:list", Action(group, resource, verb, namespace="default"))
    }
    expected = {kind.resource for kind in KINDS if kind.namespaced and "list" in kind.verbs}
    assert covered == expected - {"secrets", "serviceaccounts", "roles", "rolebindings"}
    assert not allows("k8s:resources:list", Action("", "nodes", "list"))


@pytest.mark.req("I2.4")
def test_a_permission_and_its_namespace_come_from_the_same_grant() -> None:
    roles = engine(
        role("k8s:pods:delete", namespaces=("development",), name="a"),
        role("k8s:pods:list", namespaces=("production",), name="b"),
    )
    principal = holder("a", "b")
    assert isinstance(roles.decide(principal, Action("", "pods", "delete", namespace="production")), Denied)
    assert isinstance(roles.decide(principal, Action("", "pods", "list", namespace="development")), Denied)
    assert isinstance(roles.decide(principal, Action("", "pods", "list", namespace="production")), Allowed)


@pytest.mark.req("I2.4")
def test_only_a_grant_without_namespaces_reaches_what_lies_outside_them() -> None:
    for action in (Action("", "nodes", "list"), Action("", "namespaces", "get", name="default")):
        assert allows("k8s:*", action)
        assert not allows("k8s:*", action, ("*",))


@pytest.mark.req("I2.4")
def test_a_grant_with_namespaces_lists_just_those_namespaces() -> None:
    policy = engine(role("k8s:namespaces:list", namespaces=("development", "feature-*")))
    assert isinstance(policy.decide(holder(), LIST_NAMESPACES), Allowed)
    assert policy.allowed_scope(holder(), LIST_NAMESPACES).patterns() == ["development", "feature-*"]
    capped = holder(namespaces=Scope.of(["feature-x", "production"]))
    assert isinstance(policy.decide(capped, LIST_NAMESPACES), Allowed)
    assert policy.allowed_scope(capped, LIST_NAMESPACES).patterns() == ["feature-x"]
    apart = policy.decide(holder(namespaces=Scope.of(["production"])), LIST_NAMESPACES)
    assert isinstance(apart, Denied)
    assert apart.reason is Reason.CREDENTIAL_CAP


@pytest.mark.req("I2.4")
def test_nothing_granted_is_nothing_allowed() -> None:
    for policy in (engine(), engine(role(name="other")), engine(role("k8s:*", name="other"))):
        denied = policy.decide(holder("admin", "r"), LIST_PODS)
        assert denied == Denied(
            Reason.NO_GRANT,
            "k8s:pods:list in namespace default is not allowed: no role or permission of this credential grants it.",
            "k8s:pods:list",
            "default",
        )
        assert policy.allowed_scope(holder("admin"), LIST_PODS) == NOWHERE


@pytest.mark.req("R4")
def test_direct_permissions_hold_in_the_keys_own_namespaces_and_nowhere_else() -> None:
    policy = engine(role("k8s:pods:delete", namespaces=("production",)))
    principal = Principal(
        "kubegate", "k", roles=("r",), permissions=("k8s:pods:list",), namespaces=Scope.of(["default"])
    )
    assert policy.decide(principal, LIST_PODS) == Allowed("k8s:pods:list", "direct#1", "")
    assert isinstance(policy.decide(principal, Action("", "pods", "list", namespace="production")), Denied)
    assert isinstance(engine().decide(key("k8s:*", namespaces=NOWHERE), LIST_PODS), Denied)


@pytest.mark.req("R4")
def test_the_credentials_own_namespaces_and_tools_cap_every_role() -> None:
    policy = engine(role("k8s:*"))
    capped = holder(namespaces=Scope.of(["default"]))
    assert isinstance(policy.decide(capped, LIST_PODS), Allowed)
    elsewhere = policy.decide(capped, Action("", "pods", "list", namespace="production"))
    assert isinstance(elsewhere, Denied)
    assert elsewhere.reason is Reason.CREDENTIAL_CAP
    assert "this credential is limited to default" in elsewhere.explanation
    assert isinstance(policy.decide(capped, Action("", "nodes", "list")), Denied)
    assert isinstance(policy.decide(capped, Action("", "pods", "list")), Denied)
    assert policy.allowed_scope(capped, LIST_PODS).patterns() == ["default"]

    one_tool = holder(tools=("list_pods",))
    used = Action("", "pods", "list", namespace="default", tool="list_pods")
    other = Action("", "pods", "list", namespace="default", tool="list_resources")
    assert isinstance(policy.decide(one_tool, used), Allowed)
    for action in (other, LIST_PODS):
        denied = policy.decide(one_tool, action)
        assert isinstance(denied, Denied)
        assert denied.reason is Reason.CREDENTIAL_CAP
        assert policy.allowed_scope(one_tool, action) == NOWHERE


def test_a_decision_names_the_first_grant_that_allows_it() -> None:
    policy = engine(role("k8s:services:list", "k8s:pods:*", "k8s:pods:list", name="a"), role("k8s:*", name="b"))
    assert policy.decide(holder("b", "a"), LIST_PODS) == Allowed("k8s:pods:list", "role:b#1", "b")
    assert policy.decide(holder("a", "b"), LIST_PODS) == Allowed("k8s:pods:list", "role:a#2", "a")


def test_a_denial_names_the_smallest_missing_grant_and_where_it_is_held() -> None:
    denied = decide("k8s:pods:list", Action("", "pods", "list", namespace="production"), ("default", "feature-*"))
    assert denied == Denied(
        Reason.NO_GRANT,
        "k8s:pods:list in namespace production is not allowed: it is granted only in default, feature-*.",
        "k8s:pods:list",
        "production",
    )


def test_plural_names_are_unique_so_that_a_permission_means_one_kind() -> None:
    kinds: dict[tuple[bool, str], str] = {}
    for kind in KINDS:
        assert kinds.setdefault((kind.group == "kubegate", kind.resource), kind.group) == kind.group


@pytest.mark.req("R1")
def test_two_issuers_with_the_same_subject_are_two_people() -> None:
    names = [
        Principal(issuer, subject).user
        for issuer, subject in (
            ("kubegate", "alice"),
            ("https://idp.example", "alice"),
            ("kubegate", "https://idp.example:alice"),
        )
    ]
    assert names == ["alice", "https://idp.example:alice", "kubegate:https://idp.example:alice"]


@pytest.mark.req("R16", "I8.3")
def test_only_by_name_may_somebody_have_handles_and_any_deny_takes_them_away() -> None:
    handle = Action("kubegate", "confirm", "handle", namespace="default")
    assert allows("kubegate:confirm:handle", handle, ("default",))
    assert not allows(("kubegate:*", "k8s:*"), handle)
    for text in ("kubegate:confirm:handle", "kubegate:*"):
        policy = Policy((role("kubegate:confirm:handle"),), "rev", deny=(DenyRule("no", (text,), EVERYWHERE),))
        assert isinstance(Engine(policy).decide(holder(), handle), Denied)
