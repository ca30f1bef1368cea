"""Policy and elevations of a running stack, through the command line."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import RunningStack, eventually, kubegate

SCALE = {"name": "nginx", "namespace": "default", "replicas": 1}


@pytest.mark.req("I5.5", "R17", "R18", "I5.8")
def test_a_role_for_a_while_reaches_the_cluster_and_ends_with_its_revocation(
    stack: RunningStack, tmp_path: Path
) -> None:
    key = stack.new_key("dana", "--role", "viewer", "--permission", "kubegate:elevations:request", "--all-namespaces")
    key_file = tmp_path / "dana.key"
    key_file.write_text(key)
    assert stack.call("scale_deployment", SCALE, key).status_code == 403
    options = ("--role", "operator", "--namespace", "default", "--for", "10m", "--why", "incident 7")
    asked = stack.json("elevation", "request", *options, "--key-file", str(key_file))
    assert asked["state"] == "requested"
    own = stack.run("elevation", "approve", asked["id"], "--key-file", str(key_file), check=False)
    assert own.returncode == 1
    assert "kubegate:elevations:approve" in own.stderr
    assert stack.json("elevation", "approve", asked["id"])["state"] == "active"

    def cached() -> dict[str, Any] | None:
        assert stack.call("scale_deployment", SCALE, key).status_code == 200
        event = stack.events(user="dana", event_type="mcp_request", phase="outcome")[-1]
        return event if event["metadata"].get("cached") == "true" else None

    last = eventually(cached, "used again, once the lease knows the new revision")
    assert last["decision"]["rule"] == f"elevation:{asked['id']}:role:operator#3"
    decided = stack.events(event_id=last["metadata"]["authz_event_id"])
    assert [event["event_type"] for event in decided] == ["authorization"]
    assert stack.call("scale_deployment", {**SCALE, "namespace": "staging"}, key).status_code == 403
    [listed] = [each for each in stack.json("elevation", "list", "--open") if each["id"] == asked["id"]]
    assert (listed["person"], listed["approved_by"]) == ("kubegate:dana", "kubegate:admin")
    stack.run("elevation", "revoke", asked["id"])
    eventually(lambda: stack.call("scale_deployment", SCALE, key).status_code == 403, "revoked")


@pytest.mark.req("I5.7", "I5.3")
def test_explain_diff_replay_and_reload(stack: RunningStack, tmp_path: Path) -> None:
    assert stack.call("list_pods", {"namespace": "default"}, stack.viewer).status_code == 200
    explained = stack.run(
        "policy", "explain", "k8s:pods:delete", "--namespace", "default", "--role", "viewer", "--json", check=False
    )
    assert explained.returncode == 1
    said = json.loads(explained.stdout)
    assert (said["allowed"], said["rule"]) == (False, "denied:no_grant")
    assert [each["rule"] for each in said["considered"]] == ["role:viewer", "denied:no_grant"]

    policy = Path(stack.endpoints["policy"])
    candidate = tmp_path / "candidate.yaml"
    candidate.write_text("roles: []\n")
    compared = stack.run("policy", "diff", str(candidate), "--json", check=False)
    assert compared.returncode == 1
    assert {"role viewer", "role admin"} <= {change["who"] for change in json.loads(compared.stdout)}
    assert stack.run("policy", "diff", str(policy)).stdout.strip() == "nothing changes"

    replayed = stack.run("policy", "replay", str(candidate), "--json", check=False)
    assert replayed.returncode == 1
    found = json.loads(replayed.stdout)
    assert "k8s:pods:list" in {change["permission"] for change in found["changes"] if change["user"] == "viewer"}
    assert all(change["after"].startswith("denied:") for change in found["changes"])
    same = json.loads(stack.run("policy", "replay", str(policy), "--json").stdout)
    assert same["changes"] == []
    assert same["decisions"] > 0

    reloaded = stack.json("policy", "reload")
    assert reloaded["problems"] == []
    good = policy.read_bytes()
    try:
        policy.write_text("roles: [\n")
        refused = stack.run("policy", "reload", check=False)
        assert refused.returncode == 1
        assert "policy:2:1: not valid YAML" in refused.stdout
        [authz] = [row for row in stack.json("status") if row["service"] == "authz"]
        assert authz["state"] == "ready", "decisions go on under the last good revision"
        assert f"revision {reloaded['revision']} stays in force" in authz["notices"][0]
        assert stack.call("list_pods", {"namespace": "default"}, stack.viewer).status_code == 200
    finally:
        policy.write_bytes(good)
    assert stack.json("policy", "reload")["problems"] == []


@pytest.mark.req("I5.7")
def test_cases_are_run_with_coverage_and_need_no_stack(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        'roles: [{name: viewer, permissions: ["k8s:pods:list", "k8s:pods:logs"], namespaces: [default]}]\n'
        'deny: [{name: night, permissions: ["k8s:pods:list"], condition: "request.time.getHours() < 6"}]\n'
    )
    cases = tmp_path / "cases.yaml"
    cases.write_text("""
cases:
  - name: by day
    principal: {roles: [viewer]}
    action: {permission: "k8s:pods:list", namespace: default}
    time: 2027-01-15T12:00:00Z
    expect: allow
    rule: "role:viewer#1"
  - name: by night
    principal: {roles: [viewer]}
    action: {permission: "k8s:pods:list", namespace: default}
    time: 2027-01-15T03:00:00Z
    expect: deny
    rule: "deny:night"
  - name: elsewhere
    principal: {roles: [viewer]}
    action: {permission: "k8s:pods:logs", namespace: staging, name: web}
    expect: allow
""")
    result = kubegate("policy", "test", str(cases), "--policy", str(policy), "--coverage", check=False)
    assert result.returncode == 1
    assert result.stdout.splitlines() == [
        "FAILED elsewhere: expected allow, got deny by denied:no_grant",
        "no case rests on role:viewer#2",
        "2 of 3 cases pass",
    ]
    cases.write_text("cases: [{name: x, principal: {rolez: []}, action: {permission: k8s:pod:list}, expect: maybe}]")
    broken = kubegate("policy", "test", str(cases), "--policy", str(policy), check=False)
    assert broken.returncode == 2
    for problem in ("principal.rolez: Extra inputs", "action.permission: Value error, 'k8s:pod:list'", "expect: Input"):
        assert problem in broken.stderr


@pytest.mark.req("I5.6")
def test_back_to_an_earlier_policy(stack: RunningStack) -> None:
    """The change is a comment, so that nobody else's decisions move."""
    file = Path(stack.endpoints["policy"])
    before = file.read_bytes()
    was = stack.json("policy", "history")[0]
    beside = file.with_suffix(".next")
    beside.write_bytes(b"# a change that turns out to be bad\n" + before)
    beside.rename(file)
    changed = stack.json("policy", "reload")["revision"]
    newest, *others = stack.json("policy", "history")
    assert newest["revision"] == changed
    assert (newest["by"], newest["how"]) in {("admin", "reload"), ("", "file")}, "it is followed anyway"
    assert was in others
    assert stack.run("policy", "history", "--show", str(was["number"])).stdout.encode() == before
    back = stack.run("policy", "rollback", str(was["number"])).stdout
    assert back.startswith(f"revision {was['revision']} is in force again, as number ")
    assert file.read_bytes() == before
    assert f"rollback to {was['number']}" in stack.run("policy", "history").stdout
    again = stack.run("policy", "rollback", str(was["number"]), check=False)
    assert (again.returncode, "is the one in force" in again.stderr) == (2, True)
    missing = stack.run("policy", "rollback", "999999", check=False)
    assert "kubegate policy history" in missing.stderr
