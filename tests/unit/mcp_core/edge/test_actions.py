"""What a call needs follows from what it touches, whatever tool touches it (R10); what it may reveal is asked apart."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.authz.policy.engine import Engine
from services.authz.policy.model import Action as AuthzAction
from services.authz.policy.model import Allowed as AuthzAllowed
from services.authz.policy.model import Policy, Principal, Role
from services.authz.policy.permissions import KINDS, PERMISSIONS
from services.authz.policy.scope import EVERYWHERE, Scope
from services.common.errors import InvalidArgument, Unavailable
from services.mcp_core.catalog import FRESH_SECONDS, RETRY_SECONDS, Catalog
from services.mcp_core.errors import ActionDenied
from services.mcp_core.model import Action, Phase, Result
from services.mcp_core.model import Scope as CoreScope
from services.mcp_core.placement import resolve
from services.mcp_core.ports import Kind, Resource
from services.mcp_core.tools import REGISTRY, validate
from services.mcp_core.tools.base import PLAIN, Invocation, Permission, Structured
from services.mcp_core.tools.resources import COMMON
from tests.fakes.clock import FakeClock
from tests.unit.mcp_core.edge.fakes import ALICE, BOB, FakeCluster, World

DISCOVERED = {
    "pods": Kind(Resource("", "v1", "pods"), "Pod", True, "pod", ("po",)),
    "services": Kind(Resource("", "v1", "services"), "Service", True, "service", ("svc",)),
    "events": Kind(Resource("", "v1", "events"), "Event", True, "event", ("ev",)),
    "configmaps": Kind(Resource("", "v1", "configmaps"), "ConfigMap", True, "configmap", ("cm",)),
    "secrets": Kind(Resource("", "v1", "secrets"), "Secret", True, "secret"),
    "nodes": Kind(Resource("", "v1", "nodes"), "Node", False, "node", ("no",)),
    "namespaces": Kind(Resource("", "v1", "namespaces"), "Namespace", False, "namespace", ("ns",)),
    "deployments": Kind(Resource("apps", "v1", "deployments"), "Deployment", True, "deployment", ("deploy",)),
    "statefulsets": Kind(Resource("apps", "v1", "statefulsets"), "StatefulSet", True, "statefulset", ("sts",)),
    "widgets": Kind(Resource("example.com", "v1", "widgets"), "Widget", True, "widget", ("wd",)),
    "fakepods": Kind(Resource("evil.example", "v1", "pods"), "Pod", True, "pod", ("po",)),
}
LISTS = {
    "list_pods": "pods",
    "list_services": "services",
    "list_events": "events",
    "list_configmaps": "configmaps",
    "list_secrets": "secrets",
    "list_deployments": "deployments",
    "list_nodes": "nodes",
    "list_namespaces": "namespaces",
}
GETS = {
    "get_pod": ("pods", {}),
    "diagnose": ("pods", {}),
    "get_service": ("services", {}),
    "get_secret": ("secrets", {}),
    "get_deployment": ("deployments", {}),
    "rollout_status": ("statefulsets", {"kind": "statefulset"}),
    "rollout_history": ("deployments", {}),
}


def action_of(tool: str, arguments: dict[str, Any], kind: Kind | None = None) -> Action:
    row = REGISTRY[tool]
    return replace(resolve("c", row, validate(row, arguments), kind), tool="")


def pairs() -> list[tuple[Action, Action]]:
    found = []
    for tool, plural in LISTS.items():
        kind = DISCOVERED[plural]
        places: list[dict[str, Any]] = [{"namespace": "dev"}, {"all_namespaces": True}] if kind.namespaced else [{}]
        for place in places:
            found.append((action_of(tool, place), action_of("list_resources", {"kind": plural, **place}, kind)))
    for tool, (plural, more) in GETS.items():
        kind, place = DISCOVERED[plural], {"name": "x", "namespace": "dev"}
        found.append((action_of(tool, {**place, **more}), action_of("get_resource", {"kind": plural, **place}, kind)))
        wait = {"kind": plural, "condition": "Ready", **place}
        found.append((action_of(tool, {**place, **more}), action_of("wait_for", wait, kind)))
    return found


PAIRS = pairs()
_TEXTS = sorted(text for permission in PERMISSIONS.values() for text in permission.covered_by)
_SCOPES = st.one_of(
    st.just(EVERYWHERE), st.lists(st.sampled_from(["dev", "prod", "d*", "*"]), min_size=1).map(Scope.of)
)


@pytest.mark.req("R10", "I7.1")
@given(st.lists(st.sampled_from(_TEXTS), max_size=6), _SCOPES, st.sampled_from(PAIRS))
def test_generic_and_specific_tools_get_the_same_decision(
    texts: list[str], scope: Scope, pair: tuple[Action, Action]
) -> None:
    specific, generic = pair
    assert specific == generic
    engine = Engine(Policy((Role("r", tuple(texts), scope),), "rev"))
    principal = Principal("kubegate", "bob", ("r",), namespaces=EVERYWHERE)
    first, second = (engine.decide(principal, to_authz(action)) for action in pair)
    assert first == second
    if isinstance(first, AuthzAllowed):
        assert first.permission == str(specific.permission)


def to_authz(action: Action) -> AuthzAction:
    permission = action.permission
    return AuthzAction(
        permission.group,
        permission.resource,
        permission.verb,
        permission.subresource,
        namespace=action.namespace,
        name=action.name,
        cluster=action.cluster,
    )


@pytest.mark.req("R10")
def test_core_and_authz_write_every_permission_alike() -> None:
    for (group, resource, subresource, verb), permission in PERMISSIONS.items():
        assert str(Permission(verb, group, resource, subresource)) == permission.text
    table = {(kind.group, kind.resource) for kind in KINDS}
    assert table >= PLAIN
    custom = PERMISSIONS.get(("example.com", "widgets", "", "list"))
    assert custom is not None
    assert str(Permission("list", "example.com", "widgets")) == custom.text
    for tool in REGISTRY.values():
        for one in (tool.permission, *tool.offered_for):
            assert (one.group, one.resource, one.subresource, one.verb) in PERMISSIONS
    assert all((one.group, one.resource) in table for one in COMMON)


def cluster_of(*names: str) -> FakeCluster:
    cluster = FakeCluster()
    cluster.kinds = tuple(DISCOVERED[name] for name in names)
    return cluster


@pytest.mark.req("R10")
@pytest.mark.parametrize(
    ("text", "group", "plural"),
    [
        ("po", "", "pods"),
        ("Pod", "", "pods"),
        ("PODS", "", "pods"),
        ("deploy", "apps", "deployments"),
        ("deployments.apps", "apps", "deployments"),
        ("widget", "example.com", "widgets"),
        ("wd.example.com", "example.com", "widgets"),
        ("pods.evil.example", "evil.example", "pods"),
    ],
)
async def test_a_kind_is_found_as_kubectl_finds_it_and_no_custom_kind_stands_in_for_kubernetes_own(
    text: str, group: str, plural: str
) -> None:
    catalog = Catalog(cluster_of("fakepods", "widgets", "deployments", "pods"), FakeClock())
    found = (await catalog.find(text, World().context().deadline)).resource
    assert (found.group, found.plural) == (group, plural)


async def test_discovery_is_asked_once_a_while_however_many_ask_for_nonsense() -> None:
    clock, cluster = FakeClock(), cluster_of("pods")
    catalog = Catalog(cluster, clock)
    deadline = World().context().deadline
    for _ in range(20):
        with pytest.raises(InvalidArgument, match="no kind 'nonsense'"):
            await catalog.find("nonsense", deadline)
    assert cluster.sessions == [None]
    cluster.kinds = (DISCOVERED["widgets"],)
    clock.advance(10)
    assert (await catalog.find("widgets", deadline)).name == "Widget"
    await asyncio.gather(*(catalog.find("widgets", deadline) for _ in range(5)))
    assert cluster.sessions == [None, None]
    clock.advance(FRESH_SECONDS + 1)
    await catalog.find("widgets", deadline)
    assert len(cluster.sessions) == 3


async def test_a_cluster_that_is_away_is_not_asked_again_by_all_who_wait_for_it() -> None:
    clock, cluster = FakeClock(), cluster_of("pods")
    cluster.error = Unavailable("Cluster default is away.")
    catalog = Catalog(cluster, clock)
    deadline = World().context().deadline
    asking = (catalog.find("pods", deadline) for _ in range(5))
    refusals = await asyncio.gather(*asking, return_exceptions=True)
    assert [str(refusal) for refusal in refusals] == ["Cluster default is away."] * 5
    assert len(cluster.sessions) == 1
    cluster.error = None
    clock.advance(RETRY_SECONDS)
    assert (await catalog.find("pods", deadline)).name == "Pod"


def world(*tools: str, run: Any = None) -> World:
    """The core on fakes with tools of the real registry whose execution is `run`."""
    made = World()

    async def execute(invocation: Invocation) -> Structured:
        made.log.append("execute")
        made.invocations.append(invocation)
        if run is not None:
            await run(invocation)
        # What the tools answer is tested elsewhere.
        raise InvalidArgument("executed")

    for name in tools:
        made.registry[name] = replace(REGISTRY[name], run=execute)
    made.cluster.kinds = tuple(DISCOVERED.values())
    made.authz.scopes = {}
    return made


async def attempt(made: World, tool: str, credential: str = ALICE, **arguments: Any) -> Exception:
    with pytest.raises(Exception) as caught:
        await made.pipeline.call(await made.caller(credential), tool, arguments)
    return caught.value


@pytest.mark.req("R26", "R10")
async def test_revealing_a_secret_is_a_decision_of_its_own() -> None:
    made = world("get_secret")
    place = {"name": "db", "namespace": "default"}
    await attempt(made, "get_secret", **place)
    assert [str(action.permission) for action in made.authz.checked] == ["k8s:secrets:list"]
    assert not made.invocations[0].granted & {"kubegate:secrets:reveal"}
    made.authz.checked.clear()
    await attempt(made, "get_secret", reveal=True, **place)
    assert [str(action.permission) for action in made.authz.checked] == ["k8s:secrets:list", "kubegate:secrets:reveal"]
    assert made.audit.last.metadata["permission_check"] == "k8s:secrets:list,kubegate:secrets:reveal"
    assert made.audit.last.metadata["authz_event_id"] == "authz-1,authz-2"
    made.authz.denied = {"kubegate:secrets:reveal"}
    executed = len(made.invocations)
    error = await attempt(made, "get_secret", reveal=True, **place)
    assert isinstance(error, ActionDenied)
    assert error.permission == "kubegate:secrets:reveal"
    assert len(made.invocations) == executed
    assert made.audit.last.result is Result.FAILURE


@pytest.mark.req("R10")
async def test_what_a_diagnosis_may_not_see_is_not_granted_and_does_not_stop_it() -> None:
    made = world("diagnose")
    made.authz.denied = {"k8s:pods:logs", "k8s:nodes:list"}
    await attempt(made, "diagnose", name="web", namespace="default")
    assert made.invocations[0].granted == {"k8s:pods:list", "k8s:events:list"}
    nodes = next(action for action in made.authz.checked if action.permission.resource == "nodes")
    assert nodes.namespace == ""
    made.authz.denied = {"k8s:pods:list"}
    assert isinstance(await attempt(made, "diagnose", name="w", namespace="a", kind="deployment"), ActionDenied)


@pytest.mark.req("R14")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "pods"}, "`namespace` is required, or `all_namespaces: true`"),
        ({"kind": "pods", "namespace": "a", "all_namespaces": True}, "exclude each other"),
        ({"kind": "nodes", "namespace": "a"}, "outside namespaces"),
        ({"kind": "nodes", "all_namespaces": True}, "outside namespaces"),
        ({"kind": "nonsense", "namespace": "a"}, "no kind"),
    ],
)
async def test_no_namespace_is_guessed_for_any_kind(arguments: dict[str, Any], message: str) -> None:
    made = world("list_resources")
    error = await attempt(made, "list_resources", **arguments)
    assert isinstance(error, InvalidArgument)
    assert message in error.public_message
    assert "check" not in made.log
    assert made.audit.last.result is Result.FAILURE


@pytest.mark.req("R14", "R10")
async def test_a_namespace_that_no_grant_names_is_not_read_as_any_kind() -> None:
    made = world("get_resource")
    made.authz.scopes = {"get_resource": CoreScope(patterns=("dev-*",))}
    assert isinstance(await attempt(made, "get_resource", BOB, kind="namespaces", name="prod"), ActionDenied)
    assert not made.invocations
    await attempt(made, "get_resource", BOB, kind="namespaces", name="dev-a")
    assert made.invocations[0].namespaces == ("dev-a", "dev-b")
    assert made.cluster.sessions[-1] is None


@pytest.mark.req("R10")
async def test_explaining_a_kind_needs_to_list_it_somewhere() -> None:
    made = world("explain_resource")
    made.authz.scopes = {"explain_resource": CoreScope(patterns=("dev-*",))}
    await attempt(made, "explain_resource", BOB, kind="pods")
    assert [action.namespace for action in made.authz.checked] == ["dev-a"]
    made.authz.scopes = {}
    assert isinstance(await attempt(made, "explain_resource", BOB, kind="pods"), ActionDenied)


@pytest.mark.req("R19")
async def test_a_wait_has_a_durable_intent_first_and_ends_when_policy_no_longer_allows_it() -> None:
    async def wait(invocation: Invocation) -> None:
        made.authz.denied = {"k8s:pods:list"}
        await invocation.still_allowed()

    made = world("wait_for", run=wait)
    place = {"kind": "pods", "name": "web", "namespace": "default", "condition": "Ready"}
    error = await attempt(made, "wait_for", **place)
    assert isinstance(error, ActionDenied)
    assert made.log == ["check", "intent", "execute", "check", "outcome"]
    assert [event.phase for event in made.audit.events] == [Phase.INTENT, Phase.OUTCOME]
    assert made.audit.last.result is Result.FAILURE
    made.audit.fail = lambda event: event.phase is Phase.INTENT
    made.authz.denied = set()
    executed = len(made.invocations)
    await attempt(made, "wait_for", **place)
    assert len(made.invocations) == executed


@pytest.mark.req("R19", "R18")
async def test_following_a_log_has_an_intent_first_and_reading_it_has_one_record() -> None:
    made = world("get_pod_logs")
    place = {"name": "web", "namespace": "default"}
    await attempt(made, "get_pod_logs", **place)
    assert made.log == ["check", "execute", "record"]
    await attempt(made, "get_pod_logs", **place, follow_seconds=5)
    assert made.log == ["check", "intent", "execute", "outcome"]


async def test_generic_tools_are_offered_to_who_may_list_anything_custom_kinds_included() -> None:
    made = world("list_resources")
    made.authz.scopes = {}
    assert await made.pipeline.offers(await made.caller(BOB)) == []
    await attempt(made, "list_resources", kind="widgets", namespace="a")
    made.authz.only = {"k8s:widgets.example.com:list"}
    made.authz.scopes = {"list_resources": CoreScope(patterns=("a",))}
    (offer,) = await made.pipeline.offers(await made.caller(BOB))
    assert (offer.tool.name, offer.scope) == ("list_resources", CoreScope(patterns=("a",)))


@pytest.mark.req("R14", "R10")
async def test_whether_a_namespace_exists_is_told_by_a_decision_of_its_own() -> None:
    made = world("list_pods")
    made.cluster.namespaces = ["default"]
    made.authz.scopes = {"list_pods": CoreScope(patterns=("default", "dev-*"))}
    await attempt(made, "list_pods", BOB, namespace="dev-gone")
    (invocation,) = made.invocations
    assert await invocation.missing("dev-gone")
    assert not await invocation.missing("default")
    look = made.authz.checked[-1]
    assert (str(look.permission), look.namespace, look.name) == ("k8s:namespaces:list", "", "default")
    # Neither is told of what no grant of namespaces names, nor to whom may list none.
    assert not await invocation.missing("prod-gone")
    made.authz.denied = {"k8s:namespaces:list"}
    assert not await invocation.missing("dev-gone")
    made.authz.denied = set()
    made.cluster.error = Unavailable("The cluster is away.")
    assert not await invocation.missing("dev-gone")
