"""Forty canaries planted in everything that a cluster says, every tool called: none may come out (R26)."""

import base64
import json
from dataclasses import replace
from typing import Any

import pytest

from services.common.errors import DomainError
from services.mcp_core.adapters.kubernetes_errors import from_status
from services.mcp_core.ports import Columns, Kind, LogText, Resource
from services.mcp_core.redaction_objects import redact_object
from services.mcp_core.tools import REGISTRY, check_output, preview_of, split_controls, validate
from services.mcp_core.tools.base import Invocation, Tool
from tests.unit.mcp_core.tools.session import MemorySession
from tests.unit.mcp_core.tools.test_registry import GOOD

PLACE = {"name": "web", "namespace": "default", "uid": "u1", "creationTimestamp": "2026-11-22T10:00:00Z"}


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class Canaries:
    """Each call plants one more."""

    def __init__(self) -> None:
        self.planted: list[str] = []

    def __call__(self, form: str = "{}") -> str:
        canary = f"cAnArY{len(self.planted):02}x9Qz"
        self.planted.append(canary)
        return form.format(canary)

    def found(self, text: str) -> list[str]:
        return [one for one in self.planted if one in text or b64(one).rstrip("=") in text]


def cluster(plant: Canaries) -> MemorySession:
    """A cluster whose every corner has a secret in it."""
    secret = {
        "kind": "Secret",
        "metadata": PLACE,
        "type": "Opaque",
        "data": {"k": b64(plant()), "password": b64(plant())},
    }
    annotations = {
        "kubectl.kubernetes.io/last-applied-configuration": json.dumps(
            {"kind": "Secret", "stringData": {"k": plant()}}
        ),
        "example.com/backup": json.dumps({"kind": "Secret", "data": {"k": b64(plant())}}),
        "example.com/token": plant(),
        "example.com/url": plant("https://user:{}@host/path"),
        "example.com/encoded": b64(plant("password={}")),
        "example.com/note": plant("call with Authorization: Bearer {}abcdefgh"),
    }
    container = {
        "name": "web",
        "image": "web:1",
        "command": ["serve", "--api-key", plant(), plant("--password={}")],
        "args": ["sh", "-c", plant("PGPASSWORD={} psql"), "mysql", plant("-p{}"), "--", "redis-cli", "-a", plant()],
        "env": [
            {"name": "DB_PASSWORD", "value": plant()},
            {"name": "DATABASE_URL", "value": plant("postgres://app:{}@db/app")},
            {"name": "SETTINGS", "value": plant('{{"auth": {{"clientSecret": "{}"}}}}')},
            {"name": "PLAIN_JWT", "value": plant("eyJhbGciOi{}.eyJzdWIiOiIxIn0.c2lnbmF0dXJl")},
            {"name": "AZURE", "value": plant("AccountKey={};EndpointSuffix=x")},
        ],
    }
    message = plant("failed: token={} refused")
    ended = {"exitCode": 1, "reason": "Error", "message": plant("panic: password: {}")}
    waiting = {"reason": "CrashLoopBackOff", "message": plant("bearer {}abcdef0123")}
    status = {
        "phase": "Running",
        "reason": plant("password={}"),
        "message": message,
        "conditions": [{"type": "Ready", "status": "False", "reason": "X", "message": plant("secret_key: {}")}],
        "containerStatuses": [
            {"name": "web", "restartCount": 3, "state": {"waiting": waiting}, "lastState": {"terminated": ended}}
        ],
    }
    metadata = PLACE | {"annotations": annotations, "labels": {"app": "web", "token": plant()}}
    pod = {"metadata": metadata, "spec": {"containers": [container], "nodeName": "node-1"}, "status": status}
    template = {"metadata": {"annotations": {"x/secret": plant()}}, "spec": {"containers": [container]}}
    deployment = {
        "metadata": metadata,
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": template},
        "status": {
            "conditions": [{"type": "Progressing", "reason": "ProgressDeadlineExceeded", "message": plant("dsn={}")}]
        },
    }
    owner = {"kind": "Deployment", "name": "web", "uid": "u1", "controller": True}
    cause = {"kubernetes.io/change-cause": plant("kubectl set env --password {}")}
    revision = {"metadata": PLACE | {"annotations": cause, "ownerReferences": [owner]}, "spec": {"template": template}}
    config = {
        "kind": "ConfigMap",
        "metadata": PLACE,
        "data": {
            "password": plant(),
            "application.yaml": plant("db:\n  user: app\n  password: {}\n"),
            "block.yaml": plant("password: |\n  {}\nuser: x\n"),
            "app.properties": plant("spring.datasource.password={}"),
            "settings.json": plant('{{"api": {{"access_token": "{}"}}}}'),
            "web.xml": plant("<password>{}</password>"),
            ".netrc": plant("machine h login u password {}"),
            "id.pem": plant("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----"),
            "encoded": b64(plant("api_key: {}")),
        },
        "binaryData": {"keystore": b64(plant())},
    }
    event = {
        "metadata": PLACE,
        "involvedObject": {"kind": "Pod", "name": "web"},
        "type": "Warning",
        "reason": "Unhealthy",
        "message": plant("probe failed: GET http://u:{}@10.0.0.1/"),
        "lastTimestamp": "2026-11-22T10:00:00Z",
    }
    node = {
        "metadata": PLACE | {"name": "node-1", "namespace": ""},
        "spec": {"taints": [{"key": "k", "value": plant("token={}"), "effect": "NoSchedule"}]},
        "status": {"conditions": [{"type": "Ready", "status": "False", "message": plant("password={}")}]},
    }
    widget = {
        "metadata": metadata,
        "spec": {"credentials": {"user": "u", "value": plant()}, "passwords": [plant()], "replicas": 2},
    }
    objects: dict[str, list[dict[str, Any]]] = {
        "secrets": [secret | {"cells": ["web", "Opaque", 2, "1d"]}],
        "pods": [pod],
        "deployments": [deployment],
        "replicasets": [revision],
        "configmaps": [config],
        "events": [event],
        "nodes": [node],
        "widgets": [widget | {"cells": ["web", plant("token={}")]}],
        "services": [{"metadata": metadata, "spec": {"selector": {"app": "web", "api-key": plant()}}}],
        "namespaces": [{"metadata": {"name": "default", "annotations": annotations}, "status": {"phase": "Active"}}],
        "statefulsets": [deployment],
    }
    log = LogText(plant("started\nconnecting with password={} now\n") + plant("jdbc:x?user=a&password={}\n"), False)
    return MemorySession(objects, log=log, columns=Columns(("Name", "Type", "Data", "Age")))


KINDS = {
    plural: Kind(Resource(group, "v1", plural), name, True)
    for group, plural, name in (
        ("", "secrets", "Secret"),
        ("", "configmaps", "ConfigMap"),
        ("", "pods", "Pod"),
        ("apps", "deployments", "Deployment"),
        ("", "events", "Event"),
        ("example.com", "widgets", "Widget"),
    )
}
CALLS: list[tuple[str, dict[str, Any], str]] = [
    *((name, {**GOOD[name], **({"name": "web"} if "name" in GOOD[name] else {})}, "") for name in GOOD),
    ("diagnose", {"name": "web", "namespace": "default", "kind": "deployment"}, ""),
    ("get_secret", {"name": "web", "namespace": "default", "reveal": True}, ""),
    ("get_pod_logs", {"name": "web", "namespace": "default", "follow_seconds": 1}, ""),
    ("restart_deployment", {"name": "web", "namespace": "default", "wait": 1}, ""),
    *(
        (tool, {"kind": plural, "namespace": "default"} | ({} if tool == "list_resources" else {"name": "web"}), plural)
        for plural in KINDS
        for tool in ("list_resources", "get_resource", "delete_resource")
    ),
    *(
        ("patch_resource", {"kind": plural, "namespace": "default", "name": "web", "patch": {"spec": {"x": 1}}}, plural)
        for plural in KINDS
    ),
    *(
        (tool, {"kind": plural, "namespace": "default", "manifest": {"metadata": {"name": "web"}}}, plural)
        for plural in KINDS
        for tool in ("create_resource", "apply_resource")
    ),
    *(
        ("wait_for", {"kind": plural, "namespace": "default", "name": "web", "condition": condition}, plural)
        for plural, condition in (("pods", "Ready"), ("deployments", "rolledout"), ("deployments", "Progressing"))
    ),
]
# Everything but what may reveal a Secret: that is a decision of authz, and asked for (tested with get_secret).
GRANTED = frozenset({"k8s:events:list", "k8s:pods:logs", "k8s:nodes:list", "k8s:pods:list", "k8s:endpointslices:list"})


@pytest.mark.req("R26", "I7.4")
async def test_no_canary_leaves_through_any_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.mcp_core.tools.looking.PAUSE", 1000.0)
    plant = Canaries()
    session = cluster(plant)
    assert len(plant.planted) >= 40
    assert {name for name, _, _ in CALLS} == set(REGISTRY)
    for name, arguments, plural in CALLS:
        tool = REGISTRY[name]
        if tool.any_kind and not plural:
            continue
        _, validated = split_controls(validate(tool, arguments))
        places = ("",) if not tool.namespaced or "namespace" not in validated else (validated["namespace"],)
        if name == "restart_pod":
            session.objects["pods"][0]["metadata"]["ownerReferences"] = [{"kind": "X", "name": "x", "controller": True}]
        invocation = Invocation(validated, places, session, KINDS.get(plural), GRANTED)
        said = await (changing(tool, invocation) if tool.prepare else reading(tool, invocation))
        assert plant.found(said) == [], f"{name} {arguments}"


async def reading(tool: Tool, invocation: Invocation) -> str:
    result = await tool.run(invocation)
    check_output(tool, result)
    return json.dumps(result, ensure_ascii=False) + tool.text(result)


async def changing(tool: Tool, invocation: Invocation) -> str:
    """What it shows before it acts and after, or why it does not; and what the record has of its arguments."""
    assert tool.prepare is not None
    said = json.dumps(tool.recorded(invocation.arguments))
    for dry_run in (True, False):
        try:
            plan = await tool.prepare(replace(invocation, dry_run=dry_run))
            said += preview_of(plan).text + repr(plan.needs)
            said += json.dumps(await tool.run(replace(invocation, plan=plan)))
        except DomainError as error:
            said += error.public_message
    return said


@pytest.mark.req("R26", "I7.4")
def test_no_canary_leaves_in_any_whole_object() -> None:
    plant = Canaries()
    session = cluster(plant)
    for plural, objects in session.objects.items():
        if plural != "widgets":
            for one in objects:
                one.pop("cells", None)
        for one in objects:
            one.pop("cells", None)
            assert plant.found(json.dumps(redact_object(one))) == [], plural


@pytest.mark.req("R26", "I7.4")
@pytest.mark.parametrize("code", [400, 403, 404, 409, 422, 500, 418])
def test_no_canary_leaves_in_an_error_of_the_cluster(code: int) -> None:
    plant = Canaries()
    body = json.dumps(
        {"message": plant("cannot use password={} of ") + plant("https://u:{}@h"), "reason": "X"}
    ).encode()
    error = from_status("c", code, body, None, changes=False)
    assert plant.found(error.public_message) == []
    assert plant.found(repr(error)) == []


@pytest.mark.req("I7.4")
def test_what_an_agent_needs_stays() -> None:
    shown = redact_object(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web", "labels": {"app": "web"}, "uid": "4f1c2d3e-0000-4000-8000-123456789abc"},
            "spec": {
                "template": {
                    "spec": {
                        "imagePullSecrets": [{"name": "registry"}],
                        "automountServiceAccountToken": False,
                        "serviceAccountName": "web",
                        "containers": [
                            {
                                "name": "web",
                                "image": "registry.example.com/team/web@sha256:" + "4c1c50d0ffc614f9" * 4,
                                "command": ["serve", "--config=/etc/web/config.yaml", "--port", "8080"],
                                "env": [
                                    {"name": "MODE", "value": "production"},
                                    {"name": "P", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}},
                                ],
                            }
                        ],
                        "volumes": [
                            {"name": "s", "secret": {"secretName": "tls", "items": [{"key": "a", "path": "b"}]}}
                        ],
                        "topologySpreadConstraints": [{"topologyKey": "kubernetes.io/hostname"}],
                    }
                }
            },
        }
    )
    assert "[redacted]" not in json.dumps(shown)
    assert shown["spec"]["template"]["spec"]["volumes"][0]["secret"]["secretName"] == "tls"


@pytest.mark.req("R26")
def test_nesting_without_end_ends() -> None:
    deep: Any = "x"
    for _ in range(500):
        deep = {"a": [deep]}
    assert "[redacted]" in json.dumps(redact_object(deep))
    assert redact_object({"a": "[" * 100_000})["a"]
