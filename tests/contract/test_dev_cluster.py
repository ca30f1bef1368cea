"""The development cluster as a process: what kubectl and a plain HTTPS client see of it."""

import json
from http.client import HTTPSConnection

import pytest
import yaml

from tests.contract.dev_process import DEADLINE, Client, address, admin, anonymous, authority, core, eventually, nobody

__all__ = ["address", "admin", "anonymous", "authority", "core", "nobody"]


def test_the_seed_is_there(admin: Client) -> None:
    namespaces = admin.out("get", "namespaces", "-o", "name").split()
    names = ["default", "development", "feature-x", "kube-system", "production", "staging"]
    assert namespaces == [f"namespace/{name}" for name in names]
    assert "READY" in admin.out("get", "pods", "-n", "default")
    for kind in ("services", "secrets", "configmaps", "events", "deployments"):
        assert admin.out("get", kind, "-A", "-o", "name")
    assert "Ready" in admin.out("get", "nodes")


def test_scaling_gives_running_pods_and_a_deleted_pod_is_replaced(admin: Client) -> None:
    admin.out("scale", "deployment/nginx", "--replicas=3")
    eventually(lambda: len(admin.running("default", "nginx")) == 3)
    gone = min(admin.running("default", "nginx"))
    admin.out("delete", "pod", gone)
    eventually(lambda: len(admin.running("default", "nginx") - {gone}) == 3)
    described = admin.out("describe", "deployment", "nginx")
    assert "3 desired | 3 updated | 3 total | 3 available" in described
    assert "ScalingReplicaSet" in described


def test_a_rollout_with_a_bad_image_stands_still_and_can_be_undone(admin: Client) -> None:
    admin.out("create", "deployment", "web", "--image=nginx:1", "--replicas=2", "-n", "feature-x")
    admin.out("wait", "--for=condition=Available", "deployment/web", "-n", "feature-x", "--timeout=60s")
    admin.out("set", "image", "deployment/web", "nginx=nginx:does-not-exist", "-n", "feature-x")
    eventually(lambda: "ImagePullBackOff" in admin.out("get", "pods", "-n", "feature-x"))
    assert len(admin.running("feature-x", "web")) == 2
    admin.out("rollout", "undo", "deployment/web", "-n", "feature-x")
    admin.out("rollout", "status", "deployment/web", "-n", "feature-x", "--timeout=60s")


def test_logs_of_a_healthy_and_of_a_crashing_pod(admin: Client) -> None:
    name = admin.pods("production", "api")[0]["metadata"]["name"]
    lines = admin.out("logs", name, "-n", "production", "--tail=5", "--timestamps").splitlines()
    assert len(lines) == 5
    assert lines == sorted(lines)
    worker = admin.pods("development", "worker")[0]
    assert worker["status"]["containerStatuses"][0]["restartCount"] > 0
    assert "KeyError" in admin.out("logs", worker["metadata"]["name"], "-n", "development", "--previous")
    missing = admin.kubectl("logs", name, "-n", "production", "--previous")
    assert f'previous terminated container "api" in pod "{name}" not found' in missing.stderr


def test_a_watch_tells_what_changes(admin: Client) -> None:
    _, listed = admin.raw("GET", "/api/v1/namespaces/staging/configmaps")
    admin.out("create", "configmap", "seen", "-n", "staging")
    admin.out("delete", "configmap", "seen", "-n", "staging")
    version = listed["metadata"]["resourceVersion"]
    query = f"watch=1&timeoutSeconds=1&resourceVersion={version}"
    connection = HTTPSConnection(admin.host, admin.port, context=admin.context, timeout=DEADLINE)
    connection.request("GET", f"/api/v1/namespaces/staging/configmaps?{query}")
    events = [json.loads(line) for line in connection.getresponse().read().splitlines()]
    connection.close()
    assert [(event["type"], event["object"]["metadata"]["name"]) for event in events] == [
        ("ADDED", "seen"),
        ("DELETED", "seen"),
    ]
    status, gone = admin.raw("GET", "/api/v1/namespaces/staging/configmaps?watch=1&resourceVersion=1")
    assert (status, gone["reason"]) == (410, "Expired")


def test_apply_diff_and_explain(admin: Client) -> None:
    wanted = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied", "namespace": "staging"}}
    text = yaml.safe_dump(wanted | {"data": {"a": "1"}})
    assert "created" in admin.out("apply", "-f", "-", stdin=text)
    assert "unchanged" in admin.out("apply", "-f", "-", stdin=text)
    assert "serverside-applied" in admin.out("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)
    changed = yaml.safe_dump(wanted | {"data": {"a": "2"}})
    assert "configured (server dry run)" in admin.out("apply", "--dry-run=server", "-f", "-", stdin=changed)
    assert admin.out("get", "configmap", "applied", "-n", "staging", "-o", "jsonpath={.data.a}") == "1"
    assert "integer" in admin.out("explain", "deployment.spec.replicas")
    typo = admin.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(wanted | {"dta": {}}))
    assert 'unknown field "dta"' in typo.stderr


def test_deleting_a_deployment_takes_its_pods_along(admin: Client) -> None:
    admin.out("create", "deployment", "short", "--image=nginx", "-n", "staging")
    eventually(lambda: len(admin.running("staging", "short")) == 1)
    admin.out("delete", "deployment", "short", "-n", "staging")
    eventually(lambda: not admin.pods("staging", "short"))
    eventually(lambda: "short" not in admin.out("get", "replicasets", "-n", "staging", "-o", "name"))


def test_malformed_requests_are_refused_not_crashed_on(admin: Client) -> None:
    pods = "/api/v1/namespaces/default/pods"
    scale = "/apis/apps/v1/namespaces/default/deployments/nginx/scale"
    for method, path, body, code in (
        ("POST", pods, [], 400),
        ("POST", pods, {"metadata": []}, 400),
        ("POST", pods, {"metadata": {"name": "x"}, "spec": {"containers": "none"}}, 400),
        ("POST", pods, {"metadata": {"name": "X_"}, "spec": {"containers": []}}, 422),
        ("PUT", scale, {"spec": []}, 400),
        ("PUT", scale, {"spec": {"replicas": -1}}, 422),
        ("DELETE", f"{pods[:-4]}configmaps/nginx-config?gracePeriodSeconds=soon", None, 400),
        ("GET", f"{pods}?limit=many", None, 400),
        ("GET", f"{pods}?limit=1&continue=!", None, 400),
        ("GET", f"{pods}?labelSelector=a%20b", None, 400),
        ("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", {"spec": []}, 400),
        ("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", {"spec": {"user": "x"}}, 400),
    ):
        status, answer = admin.raw(method, path, body)
        assert (status, answer["kind"]) == (code, "Status"), (path, body, answer)


DEFINITION = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gadgets.try.example.com}
spec:
  group: try.example.com
  scope: Namespaced
  names: {kind: Gadget, plural: gadgets, singular: gadget, shortNames: [gg]}
  versions:
    - name: v1
      served: true
      storage: true
      additionalPrinterColumns: [{name: Size, type: integer, jsonPath: .spec.size}]
      schema:
        openAPIV3Schema:
          type: object
          properties:
            spec: {type: object, required: [size], properties: {size: {type: integer, description: "In mm."}}}
"""
GADGET = "{apiVersion: try.example.com/v1, kind: Gadget, metadata: {name: one}, spec: {size: %s}}"


@pytest.mark.req("I7.5")
def test_a_custom_kind_lives_and_dies_with_its_definition(admin: Client) -> None:
    assert "apiextensions" not in admin.kubectl("get", "gadgets", "-n", "staging").stdout
    admin.out("apply", "-f", "-", stdin=DEFINITION)
    admin.out("wait", "--for=condition=Established", "crd/gadgets.try.example.com", "--timeout=30s")
    admin.out("apply", "-n", "staging", "-f", "-", stdin=GADGET % 3)
    assert admin.out("get", "gg", "-n", "staging", "--no-headers").split()[:2] == ["one", "3"]
    assert "In mm." in admin.out("explain", "gadgets.spec.size")
    admin.out("patch", "gadget", "one", "-n", "staging", "--type=merge", "-p", '{"spec":{"size":4}}')
    assert admin.out("get", "gadget", "one", "-n", "staging", "-o", "jsonpath={.spec.size}") == "4"
    for wrong in ("wide", "null"):
        assert admin.kubectl("apply", "-n", "staging", "-f", "-", stdin=GADGET % wrong).returncode != 0
    strategic = {"Content_Type": "application/strategic-merge-patch+json"}
    path = "/apis/try.example.com/v1/namespaces/staging/gadgets/one"
    assert admin.raw("PATCH", path, {"spec": {"size": 5}}, **strategic)[0] == 415
    bad = DEFINITION.replace("gadgets.try.example.com", "other.try.example.com")
    assert "metadata.name" in admin.kubectl("apply", "-f", "-", stdin=bad).stderr
    admin.out("delete", "crd", "gadgets.try.example.com")
    assert admin.raw("GET", path)[0] == 404
    admin.out("apply", "-f", "-", stdin=DEFINITION)
    assert admin.raw("GET", path)[0] == 404
    admin.out("delete", "crd", "gadgets.try.example.com")
