"""A workload's own token as a credential: the cluster issues it, kubegate trusts the cluster as issuer (I3.3)."""

import base64
from pathlib import Path

import pytest
import yaml

from tests.e2e.stack import RunningStack, eventually

ISSUER = "https://kubernetes.default.svc.cluster.local"
LIST = {"namespace": "default"}


@pytest.mark.req("I3.3", "I3.2", "R1", "R2", "I3.13")
def test_a_service_account_of_the_cluster_is_somebody_here(stack: RunningStack, tmp_path: Path) -> None:
    cluster = yaml.safe_load(Path(stack.endpoints["kubeconfig"]).read_text())["clusters"][0]["cluster"]
    authority = tmp_path / "cluster-ca.crt"
    authority.write_bytes(base64.b64decode(cluster["certificate-authority-data"]))
    # As in a real cluster: the key set may be read without a credential once somebody says so.
    role = "system:service-account-issuer-discovery"
    binding = ("clusterrolebinding", "jwks-for-kubegate")
    stack.kubectl("create", *binding, f"--clusterrole={role}", "--group=system:unauthenticated")
    stack.kubectl("create", "serviceaccount", "agent", "-n", "staging")
    stack.run(
        "issuers", "create", ISSUER, "--kubernetes", "--audience", "kubegate", "--default-role", "viewer",
        "--jwks-uri", f"{cluster['server']}/openid/v1/jwks", "--ca", str(authority),
    )  # fmt: skip
    try:
        token = stack.kubectl("create", "token", "agent", "-n", "staging", "--audience", "kubegate").strip()
        assert stack.call("list_pods", LIST, token).status_code == 200
        assert stack.call("delete_pod", {"name": "x", "namespace": "default"}, token).status_code == 403
        users = {event["user"] for event in stack.events(event_type="authorization", result="success")}
        assert f"{ISSUER}:serviceaccount/staging/agent" in users
        for_the_cluster = stack.kubectl("create", "token", "agent", "-n", "staging").strip()
        assert stack.call("list_pods", LIST, for_the_cluster).status_code == 401, "meant for somebody else"
        stack.run("issuers", "disable", ISSUER)
        eventually(lambda: stack.call("list_pods", LIST, token).status_code == 401, "no longer trusted")
    finally:
        stack.run("issuers", "delete", ISSUER)
        stack.kubectl("delete", *binding)
