"""An agent's hands on the cluster, seen from the cluster's own side (I2.2, I2.9)."""

import json

import pytest

from tests.e2e.stack import RunningStack, eventually


def pods(stack: RunningStack, namespace: str) -> dict[str, str]:
    items = json.loads(stack.kubectl("get", "pods", "-n", namespace, "-o", "json"))["items"]
    return {
        pod["metadata"]["name"]: pod["status"]["phase"] for pod in items if "deletionTimestamp" not in pod["metadata"]
    }


@pytest.mark.req("I2.2")
def test_scaling_is_what_kubectl_sees(stack: RunningStack) -> None:
    stack.result("scale_deployment", name="nginx", namespace="default", replicas=3)
    eventually(
        lambda: [*(s for n, s in pods(stack, "default").items() if n.startswith("nginx-"))] == ["Running"] * 3,
        "three running pods",
    )
    assert stack.kubectl("get", "deploy", "nginx", "-o", "jsonpath={.spec.replicas}") == "3"
    listed = stack.result("list_deployments", namespace="default")["deployments"]
    assert any(deployment["name"] == "nginx" for deployment in listed)


@pytest.mark.req("I2.2")
@pytest.mark.parametrize("tool", ["restart_pod", "delete_pod"])
def test_a_restarted_or_deleted_pod_comes_back_under_a_new_name(stack: RunningStack, tool: str) -> None:
    before = eventually(lambda: [name for name in pods(stack, "default") if name.startswith("nginx-")], "a pod")
    stack.result(tool, name=before[0], namespace="default")

    def replaced() -> bool:
        now = {name: phase for name, phase in pods(stack, "default").items() if name.startswith("nginx-")}
        return before[0] not in now and len(now) == len(before) and set(now.values()) == {"Running"}

    eventually(replaced, "the replacement")


@pytest.mark.req("I2.2")
def test_logs_are_real_lines_the_same_as_kubectls(stack: RunningStack) -> None:
    name = next(name for name in pods(stack, "development"))
    answer = stack.result("get_pod_logs", name=name, namespace="development", tail_lines=5)
    theirs = stack.kubectl("logs", name, "-n", "development", "--tail", "200")
    assert answer["lines"]
    assert all(line in theirs for line in answer["lines"][:-1])


@pytest.mark.req("I2.2")
def test_namespaces_and_services(stack: RunningStack) -> None:
    names = {item["name"] for item in stack.result("list_namespaces")["namespaces"]}
    assert {"default", "development", "staging", "production", "feature-x", "kube-system"} <= names
    assert stack.result("list_services", namespace="default")["services"]


@pytest.mark.req("R14", "I2.4")
def test_all_namespaces_means_those_that_the_caller_may_list(stack: RunningStack) -> None:
    everywhere = {pod["namespace"] for pod in stack.result("list_pods", all_namespaces=True)["pods"]}
    assert {"default", "kube-system"} <= everywhere
    response = stack.call("list_pods", {"all_namespaces": True}, stack.viewer)
    assert response.status_code == 200, response.text
    assert {pod["namespace"] for pod in response.json()["pods"]} == {"default", "development"}


@pytest.mark.req("I2.4")
def test_a_key_with_namespaced_listing_sees_just_those_namespaces(stack: RunningStack) -> None:
    key = stack.new_key(
        "few", "--permission", "k8s:namespaces:list", "--namespace", "staging", "--namespace", "feature-*"
    )
    response = stack.call("list_namespaces", {}, key)
    assert response.status_code == 200, response.text
    assert {item["name"] for item in response.json()["namespaces"]} == {"staging", "feature-x"}


@pytest.mark.req("R2", "I2.9")
def test_the_cluster_is_a_second_lock(stack: RunningStack) -> None:
    """The caller is impersonated: without the role's binding in the cluster, the cluster itself refuses."""
    name = "kubegate:role:developer"
    bindings = json.loads(stack.kubectl("get", "rolebindings", "-n", "feature-x", "-o", "json"))["items"]
    mine = [item for item in bindings if any(subject["name"] == name for subject in item["subjects"])]
    assert mine
    key = stack.new_key("second-lock", "--role", "developer")
    assert stack.call("list_pods", {"namespace": "feature-x"}, key).status_code == 200
    for item in mine:
        stack.kubectl("delete", "rolebinding", item["metadata"]["name"], "-n", "feature-x")
    try:
        response = stack.call("list_pods", {"namespace": "feature-x"}, key)
        assert response.status_code == 403
        assert "cluster" in response.text
        recorded = stack.events(request_id=response.json()["request_id"], event_type="mcp_request")
        assert [event["result"] for event in recorded] == ["failure"]
        assert "cluster" in recorded[0]["error_message"]
    finally:
        for item in mine:
            for field in ("resourceVersion", "uid", "creationTimestamp", "managedFields"):
                item["metadata"].pop(field, None)
            path = stack.home / "binding.json"
            path.write_text(json.dumps(item), encoding="utf-8")
            stack.kubectl("apply", "-f", str(path))


@pytest.mark.req("R2", "I2.9")
def test_the_cores_own_account_can_only_impersonate_and_look_at_namespaces(stack: RunningStack) -> None:
    def may(*question: str, user: str = "kubegate:core") -> str:
        answer = stack.kubectl("auth", "can-i", *question, "--as", user, check=False)
        return next(line for line in answer.splitlines() if line in ("yes", "no"))

    assert may("list", "namespaces") == "yes"
    for question in (("list", "pods", "-A"), ("get", "secrets", "-A"), ("delete", "deployments", "-n", "default")):
        assert may(*question) == "no"
    assert may("impersonate", "groups/kubegate:role:viewer") == "yes"
    assert may("impersonate", "groups/system:masters") == "no"
    assert may("list", "pods", "-A", user="kubegate:kubegate:nobody") == "no"


@pytest.mark.req("I2.9")
def test_kubectl_gets_describes_scales_logs_and_deletes(stack: RunningStack) -> None:
    assert "READY" in stack.kubectl("get", "pods", "-n", "staging")
    name = next(iter(pods(stack, "development")))
    assert "Events:" in stack.kubectl("describe", "pod", name, "-n", "development")
    assert stack.kubectl("logs", name, "-n", "development")
    stack.kubectl("create", "namespace", "scratch")
    stack.kubectl("create", "deployment", "web", "--image=nginx", "-n", "scratch")
    stack.kubectl("scale", "deploy/web", "--replicas=2", "-n", "scratch")
    eventually(lambda: list(pods(stack, "scratch").values()) == ["Running"] * 2, "two pods")
    stack.kubectl("delete", "namespace", "scratch")
