"""The table of tools: schemas, permissions, validation."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import Internal, InvalidArgument
from services.mcp_core import tools
from services.mcp_core.tools import REGISTRY
from services.mcp_core.tools.base import Tool
from services.mcp_core.tools.table import render

# interface.md, Permissions.
TABLE = {
    "list_pods": "k8s:pods:list",
    "get_pod_logs": "k8s:pods:logs",
    "restart_pod": "k8s:pods:restart",
    "delete_pod": "k8s:pods:delete",
    "list_deployments": "k8s:deployments:list",
    "scale_deployment": "k8s:deployments:scale",
    "list_services": "k8s:services:list",
    "list_namespaces": "k8s:namespaces:list",
    "get_pod": "k8s:pods:list",
    "get_deployment": "k8s:deployments:list",
    "rollout_status": "k8s:deployments:list",
    "rollout_history": "k8s:deployments:list",
    "get_service": "k8s:services:list",
    "list_nodes": "k8s:nodes:list",
    "list_events": "k8s:events:list",
    "list_configmaps": "k8s:configmaps:list",
    "list_secrets": "k8s:secrets:list",
    "get_secret": "k8s:secrets:list",
    "list_resources": "k8s:pods:list",
    "get_resource": "k8s:pods:list",
    "explain_resource": "k8s:pods:list",
    "wait_for": "k8s:pods:list",
    "diagnose": "k8s:pods:list",
    "top_pods": "k8s:pods:list",
    "top_nodes": "k8s:nodes:list",
    "evict_pod": "k8s:pods:evict",
    "restart_deployment": "k8s:deployments:restart",
    "rollout_undo": "k8s:deployments:patch",
    "set_image": "k8s:deployments:patch",
    "cordon_node": "k8s:nodes:cordon",
    "uncordon_node": "k8s:nodes:cordon",
    "drain_node": "k8s:nodes:cordon",
    "create_secret": "k8s:secrets:manage",
    "update_secret": "k8s:secrets:manage",
    "delete_secret": "k8s:secrets:manage",
    "create_resource": "k8s:pods:create",
    "apply_resource": "k8s:pods:patch",
    "patch_resource": "k8s:pods:patch",
    "delete_resource": "k8s:pods:delete",
}
"""For tools of any kind, of the commonest one; their own tests say the rest."""

GOOD: dict[str, dict[str, Any]] = {
    "list_pods": {"namespace": "default"},
    "get_pod_logs": {"name": "web-1", "namespace": "default"},
    "restart_pod": {"name": "web-1", "namespace": "default"},
    "delete_pod": {"name": "web-1", "namespace": "default"},
    "list_deployments": {"all_namespaces": True},
    "scale_deployment": {"name": "web", "namespace": "default", "replicas": 3},
    "list_services": {"namespace": "default", "label_selector": "app=web"},
    "list_namespaces": {},
    "get_pod": {"name": "web-1", "namespace": "default"},
    "get_deployment": {"name": "web", "namespace": "default"},
    "rollout_status": {"name": "web", "namespace": "default", "kind": "statefulset"},
    "rollout_history": {"name": "web", "namespace": "default"},
    "get_service": {"name": "web", "namespace": "default"},
    "list_nodes": {"limit": 5},
    "list_events": {"namespace": "default", "type": "Warning"},
    "list_configmaps": {"namespace": "default"},
    "list_secrets": {"namespace": "default"},
    "get_secret": {"name": "db", "namespace": "default"},
    "list_resources": {"kind": "widgets.example.com", "namespace": "default"},
    "get_resource": {"kind": "deploy", "name": "web", "namespace": "default", "fields": ["spec.replicas"]},
    "explain_resource": {"kind": "Deployment", "path": "spec.template"},
    "wait_for": {"kind": "deploy", "name": "web", "namespace": "default", "condition": "rolledout"},
    "diagnose": {"name": "web-1", "namespace": "default"},
    "top_pods": {"namespace": "default", "sort_by": "memory"},
    "top_nodes": {"sort_by": "memory"},
    "evict_pod": {"name": "web-1", "namespace": "default", "dry_run": True},
    "restart_deployment": {"name": "web", "namespace": "default", "kind": "daemonset"},
    "rollout_undo": {"name": "web", "namespace": "default", "to_revision": 2},
    "set_image": {"name": "web", "namespace": "default", "image": "nginx:1.30@sha256:0a", "container": "web"},
    "cordon_node": {"name": "node-1", "idempotency_key": "one-two-three"},
    "uncordon_node": {"name": "node-1"},
    "drain_node": {"name": "node-1", "force": True},
    "create_secret": {"name": "db", "namespace": "default", "data": {"password": "x\ny"}},
    "update_secret": {"name": "db", "namespace": "default", "data": {"password": None, "user": "eA=="}},
    "delete_secret": {"name": "db", "namespace": "default"},
    "create_resource": {"kind": "cm", "namespace": "default", "manifest": {"metadata": {"name": "a"}}},
    "apply_resource": {"kind": "cm", "namespace": "default", "manifest": {"metadata": {"name": "a"}}, "force": True},
    "patch_resource": {"kind": "deploy", "name": "web", "namespace": "default", "patch": {"spec": {"replicas": 2}}},
    "delete_resource": {"kind": "widgets.example.com", "name": "a", "namespace": "default"},
}


@pytest.mark.req("R10")
def test_each_tool_has_the_permission_of_the_published_table() -> None:
    assert {name: str(tool.permission) for name, tool in REGISTRY.items()} == TABLE
    assert list(REGISTRY) == sorted(REGISTRY)


@pytest.mark.parametrize("name", REGISTRY)
def test_schemas_are_self_contained_and_closed(name: str) -> None:
    tool = REGISTRY[name]
    for schema in (tool.input_schema, tool.output_schema):
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["type"] == "object"
        # What changes something answers a preview, too.
        whole, *previews = schema.get("anyOf", [schema])
        assert (len(previews) == 1) == (tool.prepare is not None and schema is tool.output_schema)
        assert whole["additionalProperties"] is False
        assert "$ref" not in json.dumps(schema)


@pytest.mark.parametrize("name", REGISTRY)
def test_good_arguments_pass_and_unknown_ones_do_not(name: str) -> None:
    tool = REGISTRY[name]
    jsonschema.validate(GOOD[name], dict(tool.input_schema))
    assert dict(tools.validate(tool, GOOD[name])).items() >= GOOD[name].items()
    with pytest.raises(InvalidArgument, match="Unknown argument `cluster`"):
        tools.validate(tool, {**GOOD[name], "cluster": "other"})


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("list_pods", [], "must be a JSON object"),
        ("list_pods", {"namespace": "Default"}, "`namespace` must be a Kubernetes name"),
        ("list_pods", {"namespace": "a/../b"}, "`namespace` must be a Kubernetes name"),
        ("list_pods", {"namespace": "default\n"}, "`namespace` must not have control characters"),
        ("list_pods", {"namespace": 7}, "`namespace` must be str, got int"),
        ("list_pods", {"namespace": "a", "label_selector": "a\r\nb"}, "`label_selector` must not have control"),
        ("list_pods", {"namespace": "a", "limit": 0}, "`limit` must be int >= 1"),
        ("get_pod_logs", {"namespace": "a"}, "`name` is required"),
        ("get_pod_logs", {"name": "x", "namespace": "a", "tail_lines": 1001}, "`tail_lines` must be int <= 1000"),
        ("get_pod_logs", {"name": "..", "namespace": "a"}, "`name` must be a Kubernetes name"),
        ("scale_deployment", {"name": "x", "namespace": "a", "replicas": -1}, "`replicas` must be int >= 0"),
        ("scale_deployment", {"name": "x", "namespace": "a", "replicas": 1001}, "`replicas` must be int <= 1000"),
        ("scale_deployment", {"name": "x", "namespace": "a", "replicas": True}, "`replicas` must be int, got bool"),
        ("scale_deployment", {"name": "x", "namespace": "a", "replicas": "3"}, "`replicas` must be int, got str"),
        (
            "scale_deployment",
            {"name": "x", "namespace": "a", "replicas": 1, "idempotency_key": "abc-1"},
            "`idempotency_key` must be 8 to 128 letters",
        ),
        ("wait_for", {"kind": "pods", "name": "x", "condition": "9"}, "`condition` must be str matching regex"),
        ("scale_deployment", {"name": "a" * 254, "namespace": "a", "replicas": 1}, "`name` must be str of length"),
    ],
)
def test_a_refusal_names_the_argument_and_the_reason(name: str, arguments: Any, message: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        tools.validate(REGISTRY[name], arguments)
    assert message in refused.value.public_message


@pytest.mark.req("R14")
@pytest.mark.parametrize("name", [name for name, tool in REGISTRY.items() if tool.namespaced and not tool.any_kind])
def test_no_namespace_is_guessed(name: str) -> None:
    given_ = {key: value for key, value in GOOD[name].items() if key not in {"namespace", "all_namespaces"}}
    with pytest.raises(InvalidArgument, match="`namespace`"):
        tools.validate(REGISTRY[name], given_)
    with pytest.raises(InvalidArgument, match="`namespace`"):
        tools.validate(REGISTRY[name], {**given_, "namespace": ""})


@pytest.mark.req("R14")
def test_one_namespace_and_all_namespaces_exclude_each_other() -> None:
    with pytest.raises(InvalidArgument, match="exclude each other"):
        tools.validate(REGISTRY["list_pods"], {"namespace": "a", "all_namespaces": True})
    assert "namespace" not in tools.validate(REGISTRY["list_pods"], {"all_namespaces": True})


_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 2000),
    st.sampled_from(["default", "web-1", "a.b", "", "A", "a/b", "app=x", "-a", "a" * 64]),
    st.lists(st.integers(), max_size=1),
)
_NAMES = st.sampled_from(["name", "namespace", "all_namespaces", "limit", "tail_lines", "previous", "replicas", "x"])


@given(st.sampled_from(list(REGISTRY.values())), st.dictionaries(_NAMES, _VALUES))
def test_what_passes_validation_is_valid_under_the_published_schema(tool: Tool, arguments: Any) -> None:
    published = jsonschema.Draft202012Validator(dict(tool.input_schema)).is_valid(arguments)
    # Beyond the schema, a list needs exactly one of the two ways to say where.
    placed = not tool.lists or tool.any_kind or ("namespace" in arguments) != (arguments.get("all_namespaces") is True)
    with nullcontext() if published and placed else pytest.raises(InvalidArgument):
        tools.validate(tool, arguments)


def test_output_that_does_not_fit_is_a_fault_of_ours() -> None:
    with pytest.raises(Internal):
        tools.check_output(REGISTRY["list_pods"], {"pods": [{"nome": "x"}], "truncated": False})


def test_policy_reads_the_replicas_of_a_scale() -> None:
    tool = REGISTRY["scale_deployment"]
    arguments = tools.validate(tool, GOOD["scale_deployment"])
    assert tool.attributes(arguments).replicas == 3
    assert tool.resource_name(arguments) == "web"


def test_the_page_of_the_tools_is_the_current_one() -> None:
    page = Path(__file__).parents[4] / "docs" / "tools.md"
    assert page.read_text(encoding="utf-8") == render(), "run: python -m services.mcp_core.tools.table > docs/tools.md"
