"""The development cluster as a process: what kubectl and a plain HTTPS client see of it."""

import base64
import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import jwt
import pytest
import trustme
import yaml

KUBECTL = Path(sys.executable).with_name("kubectl")
DEADLINE = 60.0
CORE = "kubegate:core"

# What `kubegate cluster rbac` is like: a role's rights bound to its group, and whom the core may impersonate.
RBAC = """
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: viewer, namespace: development}
rules: [{apiGroups: [""], resources: [pods], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: viewer, namespace: development}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: viewer}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "kubegate:role:viewer"}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: impersonator}
rules:
  - {apiGroups: [""], resources: [users], verbs: [impersonate]}
  - {apiGroups: [""], resources: [groups], resourceNames: ["kubegate:role:viewer"], verbs: [impersonate]}
  - apiGroups: [authentication.k8s.io]
    resources: [userextras/request-id]
    resourceNames: [r-1]
    verbs: [impersonate]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: impersonator}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: impersonator}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: "kubegate:core"}]
"""


def eventually(holds: Callable[[], bool]) -> None:
    """Waits until something holds, for as long as a busy machine may need."""
    end = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.05)


class Authority:
    """A CA, a server certificate, and client certificates on demand."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca = trustme.CA(key_type=trustme.KeyType.ECDSA)
        server = self.ca.issue_cert("127.0.0.1", key_type=trustme.KeyType.ECDSA)
        self.ca.cert_pem.write_to_path(str(directory / "ca.crt"))
        server.cert_chain_pems[0].write_to_path(str(directory / "tls.crt"))
        server.private_key_pem.write_to_path(str(directory / "tls.key"))

    def config(self, **more: Any) -> dict[str, Any]:
        tls = {"cert_file": "tls.crt", "key_file": "tls.key", "client_ca_file": "ca.crt"}
        return {"listen": "127.0.0.1:0", "tls": tls, "address_file": "address", "time_scale": 20, **more}


class Client:
    """One user of the cluster, by kubectl and by plain HTTPS."""

    def __init__(self, authority: Authority, address: str, name: str = "", group: str | None = None) -> None:
        self.host, _, port = address.rpartition(":")
        self.port = int(port)
        self.context = ssl.create_default_context(cadata=authority.ca.cert_pem.bytes().decode())
        self.kubeconfig = authority.directory / f"{name.replace(':', '-') or 'anonymous'}.kubeconfig"
        user: dict[str, str] = {}
        if name:
            leaf = authority.ca.issue_cert(common_name=name, organization_name=group, key_type=trustme.KeyType.ECDSA)
            leaf.configure_cert(self.context)
            user["client-certificate-data"] = base64.b64encode(leaf.cert_chain_pems[0].bytes()).decode()
            user["client-key-data"] = base64.b64encode(leaf.private_key_pem.bytes()).decode()
        ca = base64.b64encode(authority.ca.cert_pem.bytes()).decode()
        cluster = {"server": f"https://{address}", "certificate-authority-data": ca}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "c", "user": user}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        }
        self.kubeconfig.write_text(yaml.safe_dump(config))

    def kubectl(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        environment = {"KUBECONFIG": str(self.kubeconfig), "HOME": str(self.kubeconfig.parent), "PATH": os.defpath}
        return subprocess.run(
            [KUBECTL, *arguments],
            input=stdin,
            env=environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )

    def out(self, *arguments: str, stdin: str = "") -> str:
        done = self.kubectl(*arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def raw(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        connection = HTTPSConnection(self.host, self.port, context=self.context, timeout=DEADLINE)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        payload = None if body is None else json.dumps(body)
        try:
            connection.request(method, path, payload, {"Content-Type": "application/json"} | sent)
            response = connection.getresponse()
            raw = response.read()
        finally:
            connection.close()
        return response.status, json.loads(raw) if raw.startswith(b"{") else raw.decode()

    def pods(self, namespace: str, app: str) -> list[dict[str, Any]]:
        status, body = self.raw("GET", f"/api/v1/namespaces/{namespace}/pods?labelSelector=app%3D{app}")
        assert status == 200, body
        return [pod for pod in body["items"] if "deletionTimestamp" not in pod["metadata"]]

    def running(self, namespace: str, app: str) -> set[str]:
        pods = self.pods(namespace, app)
        return {pod["metadata"]["name"] for pod in pods if pod["status"]["phase"] == "Running"}


def start(authority: Authority, config: dict[str, Any]) -> subprocess.Popen[str]:
    path = authority.directory / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return subprocess.Popen(
        [sys.executable, "-m", "services.dev_cluster", "--config", str(path)], stderr=subprocess.PIPE, text=True
    )


def stop(process: subprocess.Popen[str]) -> int:
    process.terminate()
    try:
        process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
    return process.returncode


def address_of(authority: Authority, process: subprocess.Popen[str]) -> str:
    file = authority.directory / "address"
    eventually(lambda: file.exists() or process.poll() is not None)
    assert process.poll() is None, process.communicate()[1]
    return file.read_text().strip()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("dev-cluster"))


@pytest.fixture(scope="module")
def address(authority: Authority) -> Iterator[str]:
    (authority.directory / "rbac.yaml").write_text(RBAC)
    process = start(authority, authority.config(manifests=["rbac.yaml"]))
    try:
        yield address_of(authority, process)
    finally:
        assert stop(process) == 0


@pytest.fixture(scope="module")
def admin(authority: Authority, address: str) -> Client:
    return Client(authority, address, "admin", "system:masters")


@pytest.fixture(scope="module")
def core(authority: Authority, address: str) -> Client:
    return Client(authority, address, CORE)


@pytest.fixture(scope="module")
def nobody(authority: Authority, address: str) -> Client:
    return Client(authority, address, "nobody")


@pytest.fixture(scope="module")
def anonymous(authority: Authority, address: str) -> Client:
    return Client(authority, address)


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


def test_denied_by_default_with_the_message_of_kubernetes(nobody: Client) -> None:
    denied = nobody.kubectl("get", "pods", "-n", "default")
    assert denied.returncode == 1
    assert (
        'Error from server (Forbidden): pods is forbidden: User "nobody" cannot list resource "pods" '
        'in API group "" in the namespace "default"'
    ) in denied.stderr
    for method, path in (
        ("GET", "/api/v1/secrets"),
        ("GET", "/api/v1/namespaces/default"),
        ("PATCH", "/apis/apps/v1/namespaces/default/deployments/nginx/scale"),
        ("DELETE", "/api/v1/namespaces/default/pods/x"),
        ("POST", "/api/v1/namespaces/default/serviceaccounts/default/token"),
        ("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews"),
    ):
        assert nobody.raw(method, path, {} if method != "GET" else None)[0] == 403, path


def test_a_stranger_learns_only_that_the_server_is_healthy(anonymous: Client) -> None:
    for path in ("/healthz", "/livez", "/readyz"):
        assert anonymous.raw("GET", path) == (200, "ok")
    for path in ("/api", "/apis", "/version", "/openapi/v3", "/api/v1/pods", "/api/v1/unicorns", "/nothing"):
        assert anonymous.raw("GET", path)[0] == 403, path
    for token in ("Bearer wrong", "Basic YWRtaW46YWRtaW4=", "Bearer "):
        assert anonymous.raw("GET", "/api/v1/pods", Authorization=token)[0] == 401


def test_impersonation_gives_the_rights_of_the_impersonated_and_no_others(core: Client) -> None:
    alice = {"Impersonate_User": "kubegate:kubegate:alice", "Impersonate_Group": "kubegate:role:viewer"}
    assert core.raw("GET", "/api/v1/namespaces/development/pods", **alice)[0] == 200
    status, body = core.raw("GET", "/api/v1/namespaces/production/pods", **alice)
    assert status == 403
    assert 'User "kubegate:kubegate:alice" cannot list resource "pods"' in body["message"]
    assert core.raw("GET", "/api/v1/namespaces/development/pods")[0] == 403
    who = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    extra = alice | {"Impersonate_Extra_Request_Id": "r-1"}
    _, review = core.raw("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", who, **extra)
    assert review["status"]["userInfo"] == {
        "username": "kubegate:kubegate:alice",
        "groups": ["kubegate:role:viewer", "system:authenticated"],
        "extra": {"request-id": ["r-1"]},
    }


@pytest.mark.parametrize(
    "headers",
    [
        {"Impersonate_User": "alice", "Impersonate_Group": "system:masters"},
        {"Impersonate_User": "alice", "Impersonate_Group": "kubegate:role:admin"},
        {"Impersonate_User": "alice", "Impersonate_Uid": "1"},
        {"Impersonate_User": "alice", "Impersonate_Extra_Request_Id": "other"},
        {"Impersonate_User": "alice", "Impersonate_Extra_Scopes": "r-1"},
        {"Impersonate_User": "system:serviceaccount:default:default"},
    ],
)
def test_impersonation_stops_at_what_is_granted(core: Client, headers: dict[str, str]) -> None:
    status, body = core.raw("GET", "/api/v1/namespaces/development/pods", **headers)
    assert status == 403
    assert 'User "kubegate:core" cannot impersonate resource' in body["message"]


def test_nobody_else_impersonates(nobody: Client, anonymous: Client, core: Client) -> None:
    for client in (nobody, anonymous):
        assert client.raw("GET", "/api/v1/pods", Impersonate_User="admin")[0] == 403
    assert core.raw("GET", "/api/v1/pods", Impersonate_Group="kubegate:role:viewer")[0] == 400


def test_access_reviews(admin: Client) -> None:
    role = ("--as=x", "--as-group=kubegate:role:viewer", "-n")
    assert admin.out("auth", "can-i", "list", "pods", *role, "development") == "yes\n"
    assert admin.kubectl("auth", "can-i", "delete", "pods", *role, "development").stdout == "no\n"
    assert admin.kubectl("auth", "can-i", "list", "pods", *role, "production").stdout == "no\n"
    assert "pods" in admin.out("auth", "can-i", "--list", *role, "development")
    attributes = {"namespace": "development", "verb": "list", "resource": "pods"}
    for groups, allowed in ((["kubegate:role:viewer"], True), ([], False)):
        review = {"spec": {"user": "x", "groups": groups, "resourceAttributes": attributes}}
        status, answer = admin.raw("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        assert (status, answer["status"]["allowed"]) == (201, allowed)


def test_a_service_account_token_is_that_account_and_dies_with_it(admin: Client, anonymous: Client) -> None:
    admin.out("create", "serviceaccount", "robot", "-n", "staging")
    bearer = f"Bearer {admin.out('create', 'token', 'robot', '-n', 'staging').strip()}"
    status, body = anonymous.raw("GET", "/api/v1/secrets", Authorization=bearer)
    assert status == 403
    assert "system:serviceaccount:staging:robot" in body["message"]
    admin.out("delete", "serviceaccount", "robot", "-n", "staging")
    assert anonymous.raw("GET", "/api/v1/secrets", Authorization=bearer)[0] == 401


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


def test_whoever_may_reads_the_keys_of_service_account_tokens(admin: Client, anonymous: Client) -> None:
    paths = ("/.well-known/openid-configuration", "/openid/v1/jwks")
    for path in paths:
        assert anonymous.raw("GET", path)[0] == 403
    bearer = f"Bearer {admin.out('create', 'token', 'default', '-n', 'staging').strip()}"
    discovered, keys = (anonymous.raw("GET", path, Authorization=bearer) for path in paths)
    assert discovered[1]["jwks_uri"].endswith("/openid/v1/jwks")
    [key] = keys[1]["keys"]
    assert sorted(key) == ["alg", "e", "kid", "kty", "n", "use"], "and nothing private"
    header = jwt.get_unverified_header(bearer.removeprefix("Bearer "))
    assert header == {"alg": "RS256", "kid": key["kid"]}
