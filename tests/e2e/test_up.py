"""Starting, stopping and refusing to start: `kubegate up` as a person meets it (I2.1, I2.11)."""

import json
import os
import re
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.e2e.stack import KUBEGATE, RunningStack, eventually, kubegate


@pytest.mark.req("I2.1")
def test_foreground_prints_what_to_paste_and_ctrl_c_stops_everything(tmp_path: Path) -> None:
    home = tmp_path / "home"
    process = subprocess.Popen(
        [KUBEGATE, "up", "--home", str(home), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if "Ctrl-C" in line:
            break
    text = "".join(lines)
    endpoints = json.loads((home / "endpoints.json").read_text(encoding="utf-8"))
    assert endpoints["mcp_url"] in text
    assert endpoints["ca_file"] in text
    assert str(home / "credentials") in text
    configuration = json.loads(text[text.index("{") : text.index("Try:")])
    assert configuration["mcpServers"]["kubegate"]["url"] == endpoints["mcp_url"]
    curls = [line.strip() for line in lines if line.strip().startswith("curl ")]
    statuses = []
    for curl in curls:
        done = subprocess.run(
            curl + " --silent --output /dev/null --write-out '%{http_code}'",
            shell=True,
            capture_output=True,
            text=True,
            check=True,
        )
        statuses.append(done.stdout)
    assert statuses == ["200", "200", "403"]
    for name in ("admin.key", "viewer.key", "admin.password"):
        path = home / "credentials" / name
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_text(encoding="ascii").strip() not in text, "credentials are shown by place, never by value"
    pids = [int(path.read_text().split()[0]) for path in (home / "run").glob("*.pid")]
    assert len(pids) == 5
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(60) == 0
    process.stdout.close()
    assert process.stderr is not None
    process.stderr.close()
    for pid in pids:
        assert not Path(f"/proc/{pid}").exists()
    logs = "".join(path.read_text(errors="replace") for path in (home / "run").glob("*.log"))
    assert "Traceback" not in logs


@pytest.mark.req("I2.1")
def test_a_second_up_starts_from_what_is_stored(tmp_path: Path) -> None:
    stack = RunningStack.up(tmp_path / "home")
    admin, viewer = stack.admin, stack.viewer
    key = stack.new_key("kept", "--role", "viewer")
    stack.result("list_pods", namespace="default")
    events = len(stack.events())
    refused = kubegate("up", "--detach", "--home", str(stack.home), "--port", "0", check=False)
    assert refused.returncode == 1
    assert "already running" in refused.stderr
    stack.down()
    with (stack.home / "mcp-core" / "config.yaml").open("a") as config:
        config.write("confirmation_key_file: confirmation.key\nmax_connections: 512\n")
    stack = RunningStack.up(tmp_path / "home")
    try:
        kept = yaml.safe_load((stack.home / "mcp-core" / "config.yaml").read_text())
        assert kept["max_connections"] == 512
        assert "confirmation_key_file" not in kept, "what a service no longer knows goes"
        assert (stack.admin, stack.viewer) == (admin, viewer)
        assert stack.call("list_pods", {"namespace": "default"}, key).status_code == 200
        assert len(stack.events()) > events
        assert stack.run("audit", "verify").returncode == 0
        assert all(row["state"] == "ready" for row in stack.json("status"))
    finally:
        stack.down()
    assert stack.run("status", check=False).returncode == 1


@pytest.mark.req("I2.1")
def test_two_stacks_have_nothing_in_common(stack: RunningStack, tmp_path: Path) -> None:
    other = RunningStack.up(tmp_path / "home")
    try:
        assert other.admin != stack.admin
        assert other.secret("admin.password") != stack.secret("admin.password")
        assert other.call("list_pods", {"namespace": "default"}, stack.admin).status_code == 401
        assert Path(other.ca_file).read_bytes() != Path(stack.ca_file).read_bytes()
    finally:
        other.down()


@pytest.mark.req("I2.1", "I2.9")
def test_a_kubeconfig_takes_the_place_of_the_embedded_cluster(stack: RunningStack, tmp_path: Path) -> None:
    """The other stack's embedded cluster stands in for a real one; the core uses just the kubeconfig."""
    kubeconfig = stack.home / "mcp-core" / "cluster" / "kubeconfig"
    other = RunningStack.up(tmp_path / "home", "--kubeconfig", str(kubeconfig))
    try:
        assert "cluster" not in other.endpoints["services"]
        assert not (other.home / "cluster").exists()
        pods = other.result("list_pods", namespace="development")["pods"]
        assert pods == stack.result("list_pods", namespace="development")["pods"]
    finally:
        other.down()


@pytest.mark.req("I2.11")
def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = kubegate("up", "--detach", "--home", str(tmp_path / "h"), "--port", str(port), check=False)
    assert done.returncode == 1
    assert f"port {port} is in use" in done.stderr
    assert "--port" in done.stderr


@pytest.mark.req("I2.11")
def test_a_broken_policy_is_shown_with_its_lines_and_the_good_one_stays(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("roles:\n  - name: viewer\n    permisions: []\n  - name: viewer\n", encoding="utf-8")
    home = tmp_path / "h"
    kubegate("up", "--prepare-only", "--home", str(home), "--port", "0")
    policy = home / "policy" / "rbac-policies.yaml"
    good = policy.read_bytes()
    done = kubegate("up", "--detach", "--home", str(home), "--port", "0", "--policy", str(broken), check=False)
    assert done.returncode == 1
    assert re.search(rf"{re.escape(str(broken))}:3:\d+: .*permisions", done.stderr)
    assert "Traceback" not in done.stderr
    assert policy.read_bytes() == good
    valid = kubegate("policy", "validate", str(broken), check=False)
    assert valid.returncode == 1
    assert "permisions" in valid.stdout + valid.stderr


def _prepare(home: Path, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return kubegate("up", "--prepare-only", "--home", str(home), *options, check=check)


@pytest.mark.req("I2.1")
def test_a_second_start_keeps_port_kubeconfig_and_what_somebody_configured(tmp_path: Path) -> None:
    home, kubeconfig = tmp_path / "h", tmp_path / "kubeconfig"
    kubeconfig.write_text("apiVersion: v1\nkind: Config\n", encoding="utf-8")

    def endpoints() -> dict[str, str]:
        answer: dict[str, str] = json.loads((home / "endpoints.json").read_text(encoding="utf-8"))
        return answer

    _prepare(home, "--port", "18443", "--kubeconfig", str(kubeconfig))
    config = home / "mcp-core" / "config.yaml"
    config.write_text(config.read_text(encoding="utf-8") + "toolset: read_only\n", encoding="utf-8")
    _prepare(home)
    assert endpoints()["base_url"] == "https://localhost:18443"
    assert endpoints()["kubeconfig"] == str(kubeconfig)
    assert "toolset: read_only" in config.read_text(encoding="utf-8")
    _prepare(home, "--embedded")
    assert endpoints()["kubeconfig"] == str(home / "cluster" / "kubeconfig")
    config.write_text("listen: [", encoding="utf-8")
    broken = _prepare(home, check=False)
    assert broken.returncode == 1
    assert f"{config}: not valid YAML" in broken.stderr


@pytest.mark.req("I2.11")
@pytest.mark.parametrize("name", ["tls.crt", "tls.key", "ca.crt"])
@pytest.mark.parametrize("directory", ["operator", "authn/tls", "mcp-core/edge"])
def test_a_lost_certificate_is_made_again(tmp_path: Path, directory: str, name: str) -> None:
    home = tmp_path / "h"
    _prepare(home)
    (home / directory / name).unlink()
    _prepare(home)
    assert (home / directory / name).exists()
    (home / "ca" / "mesh" / "ca.key").unlink()
    lost = _prepare(home, check=False)
    assert lost.returncode == 1
    assert "certificate authority is damaged" in lost.stderr


@pytest.mark.req("I2.1")
def test_two_starts_in_one_home_do_not_meet(tmp_path: Path) -> None:
    home = tmp_path / "h"
    command = [KUBEGATE, "up", "--detach", "--home", str(home), "--port", "0"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1], said
    assert any("another `kubegate up` is starting" in text or "already running" in text for text in said)
    assert all(row["state"] == "ready" for row in RunningStack(home).json("status"))
    assert "stopped: mcp-core, cluster, authz, authn, audit" in RunningStack(home).run("down").stdout


@pytest.mark.req("I2.11")
def test_a_home_that_cannot_be_one_is_said_in_words(tmp_path: Path) -> None:
    for home, words in (("/etc/passwd", "/etc/passwd"), ("/proc/x", "--home")):
        done = kubegate("up", "--detach", "--home", home, check=False)
        assert done.returncode == 1
        assert words in done.stderr
        assert "Traceback" not in done.stderr
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    done = _prepare(open_to_all, check=False)
    assert done.returncode == 1
    assert "chmod 700" in done.stderr
    assert kubegate("up", "--port", "99999", check=False).returncode == 2


@pytest.mark.req("I2.11")
def test_an_unreachable_cluster_is_named(tmp_path: Path, stack: RunningStack) -> None:
    text = (stack.home / "mcp-core" / "cluster" / "kubeconfig").read_text(encoding="utf-8")
    nowhere = tmp_path / "kubeconfig"
    nowhere.write_text(re.sub(r"server: .*", "server: https://127.0.0.1:1", text), encoding="utf-8")
    up = ("up", "--detach", "--home", str(tmp_path / "h"), "--port", "0")
    missing = kubegate(*up, "--kubeconfig", str(tmp_path / "none"), check=False)
    assert missing.returncode == 1
    assert "kubeconfig" in missing.stderr
    done = kubegate(*up, "--kubeconfig", str(nowhere), check=False)
    assert done.returncode == 1
    assert "cluster" in done.stderr
    assert str(nowhere) in done.stderr
    assert kubegate("down", "--home", str(tmp_path / "h")).stdout == f"nothing was running in {tmp_path / 'h'}\n"


@pytest.mark.req("I2.11")
def test_a_corrupt_audit_store_stops_the_start_and_names_the_next_step(tmp_path: Path) -> None:
    stack = RunningStack.up(tmp_path / "home")
    stack.result("list_pods", namespace="default")
    stack.down()
    store = stack.home / "audit" / "audit.db"
    with sqlite3.connect(store) as connection:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert "events" in tables
        connection.execute("DELETE FROM events WHERE rowid = (SELECT MAX(rowid) FROM events)")
    connection.close()
    done = kubegate("up", "--detach", "--home", str(stack.home), "--port", "0", check=False)
    assert done.returncode == 1
    assert str(store) in done.stderr
    assert "kubegate audit verify" in done.stderr
    assert stack.run("audit", "verify", check=False).returncode == 1
    store.write_bytes(b"not a database" * 1000)
    done = kubegate("up", "--detach", "--home", str(stack.home), "--port", "0", check=False)
    assert done.returncode == 1
    assert str(store) in done.stderr
    assert stack.run("audit", "verify", check=False).returncode == 2


@pytest.mark.req("I2.11")
def test_a_service_says_what_is_wrong_with_its_configuration(stack: RunningStack, tmp_path: Path) -> None:
    for service in ("authn", "authz", "audit", "mcp_core", "dev_cluster"):
        directory = stack.home / {"mcp_core": "mcp-core", "dev_cluster": "cluster"}.get(service, service)
        text = (directory / "config.yaml").read_text(encoding="utf-8")
        command = [sys.executable, "-m", f"services.{service}", "--check-config", "--config"]
        good = subprocess.run([*command, str(directory / "config.yaml")], capture_output=True, text=True, check=False)
        assert good.returncode == 0, good.stderr
        bad = tmp_path / f"{service}.yaml"
        bad.write_text(text + "listenn: 1\n", encoding="utf-8")
        done = subprocess.run([*command, str(bad)], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "listenn" in done.stderr
        assert "Traceback" not in done.stderr


def test_no_stack_is_said_in_words(tmp_path: Path) -> None:
    for command in (("status",), ("keys", "list"), ("audit", "query")):
        done = kubegate(*command, "--home", str(tmp_path / "none"), check=False)
        assert done.returncode == 2
        assert "kubegate up" in done.stderr


def test_keys_are_made_disabled_enabled_and_deleted(stack: RunningStack) -> None:
    made = stack.json("keys", "create", "--identity", "bot", "--role", "viewer", "--expires", "30d")
    assert re.fullmatch(r"kg_[0-9A-Za-z]+_[0-9A-Za-z]{43}", made["key"])
    assert made["expires_at"]

    def status() -> int:
        return stack.call("list_pods", {"namespace": "default"}, made["key"]).status_code

    assert status() == 200
    stack.run("keys", "disable", made["id"])
    eventually(lambda: status() == 401, "disabled")
    stack.run("keys", "enable", made["id"])
    eventually(lambda: status() == 200, "enabled")
    listed = stack.json("keys", "list")
    assert made["id"] in {key["id"] for key in listed}
    assert made["key"].rpartition("_")[2] not in json.dumps(listed)
    stack.run("keys", "delete", made["id"])
    eventually(lambda: status() == 401, "deleted")
    admin_events = [event for event in stack.events(event_type="admin") if event["user"] == "admin"]
    assert admin_events, "events name the person (R15)"


@pytest.mark.req("R4")
def test_a_key_with_direct_permissions_demands_its_namespaces(stack: RunningStack) -> None:
    done = stack.run("keys", "create", "--identity", "x", "--permission", "k8s:pods:list", check=False)
    assert done.returncode == 2
    assert "--namespace" in done.stderr


def test_the_stores_hold_no_secret(stack: RunningStack) -> None:
    """Searched through every file of the home that is not meant to hold it."""
    secrets = [stack.secret(name).encode() for name in ("admin.key", "viewer.key", "admin.password")]
    allowed = stack.home / "credentials"
    for path in stack.home.rglob("*"):
        if path.is_file() and allowed not in path.parents:
            data = path.read_bytes()
            assert not [secret for secret in secrets if secret in data], path
