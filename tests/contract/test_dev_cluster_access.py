"""The development cluster as a process: who may do what in it, and as whom."""

import jwt
import pytest

from tests.contract.dev_process import Client, address, admin, anonymous, authority, core, nobody

__all__ = ["address", "admin", "anonymous", "authority", "core", "nobody"]


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
