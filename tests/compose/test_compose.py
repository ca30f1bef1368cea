"""docker-compose.yml on a real engine: what it promises is tried on running containers (I9.3).

The tests share one stack and run in the order in which they stand: it is used, looked at, broken and taken down.
"""

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy.sbom import locked, normal
from tests.compose.engine import PREFIX, ROOM, Room, sweep
from tests.compose.images import BASE, ROOT, TARGETS
from tests.compose.machine import environment, run, say
from tests.compose.project import STACK, Project, eventually, fetched
from tests.fakes.compose_v2 import NotToBeHad, compose_v2
from tests.fakes.under_load import Load, unrecorded

SERVICES = ("authn", "authz", "audit", "mcp-core")
SCALE = '{"name":"nginx","namespace":"default","replicas":3}'
README = (ROOT / "README.md").read_text(encoding="utf-8")

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


def curl(project: Project, keys: dict[str, Path], *args: str) -> tuple[int, Any]:
    """Status and body of a call, as a user would make it."""
    command = ["curl", "--silent", "--show-error", "--noproxy", "*", "--cacert", str(keys["ca.crt"])]
    done = project.client(*command, "--write-out", "\n%{http_code}", *args)
    body, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(body)


def bearer(credential: str) -> list[str]:
    return ["-H", f"Authorization: Bearer {credential}"]


def read(path: Path) -> str:
    return path.read_text(encoding="ascii").strip()


@pytest.mark.req("I9.3", "I9.1")
def test_the_calls_of_the_article(project: Project, keys: dict[str, Path]) -> None:
    url = "https://localhost:8443"
    admin, viewer = read(keys["admin.key"]), read(keys["viewer.key"])
    for key in (admin, viewer):
        status, body = curl(project, keys, *bearer(key), f"{url}/mcp/resources")
        assert status == 200
        assert "list_pods" in json.dumps(body)
    assert curl(project, keys, *bearer("wrong"), f"{url}/mcp/resources")[0] == 401

    login = json.dumps({"username": "admin", "password": read(keys["admin.password"])})
    status, body = curl(
        project, keys, "-X", "POST", "-H", "Content-Type: application/json", "-d", login, f"{url}/auth/token"
    )
    assert (status, body["token_type"]) == (200, "Bearer")
    assert curl(project, keys, *bearer(body["access_token"]), f"{url}/mcp/resources")[0] == 200

    scale = ["-X", "POST", f"{url}/mcp/tools/scale_deployment", "-d", SCALE]
    status, body = curl(project, keys, *bearer(admin), *scale)
    assert (status, body["replicas"]) == (200, 3)
    status, body = curl(project, keys, *bearer(viewer), *scale)
    assert status == 403
    recorded = json.loads(
        project.cli("kubegate", "audit", "query", "--request-id", body["request_id"], "--json", "--home", "/state")
    )
    assert ("authorization", "viewer", "failure") in {
        (event["event_type"], event["user"], event["result"]) for event in recorded
    }
    lines = project.execute("audit", "tail", "-n", "20", "/state/audit/audit.log").splitlines()
    assert all({"timestamp", "event_id", "user", "result"} <= set(json.loads(line)) for line in lines)


@pytest.mark.req("I9.3")
def test_a_session_of_the_real_mcp_client(project: Project, keys: dict[str, Path]) -> None:
    python = str(ROOT / ".venv/bin/python")
    script = str(ROOT / "tests/compose/mcp_session.py")
    done = project.client(python, script, "https://localhost:8443/mcp", str(keys["ca.crt"]), str(keys["admin.key"]))
    said = json.loads(done.stdout)
    assert said["errors"] == [False, False]
    assert {"list_pods", "scale_deployment", "diagnose"} <= set(said["tools"])
    assert any(pod["name"].startswith("nginx-") for pod in said["pods"]["pods"])
    assert said["scaled"]["replicas"] == 2


@pytest.mark.req("I9.3", "I2.10")
def test_the_commands_of_the_readme(project: Project, tmp_path: Path) -> None:
    """As they stand: `docker compose` is the docker-compose of this machine, and starts what has an image here."""
    blocks = re.findall(r"^```sh compose\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1
    stand_in = tmp_path / "bin" / "docker"
    stand_in.parent.mkdir()
    compose = f"docker-compose --project-directory '{project.directory}' -f '{project.file}'"
    stand_in.write_text(
        '#!/bin/sh\n[ "$1" = compose ] || exec /usr/bin/docker "$@"\nshift\n'
        f'case "$1" in\n  up) exec {compose} up --detach --no-build {" ".join(STACK)};;\n'
        f'  down) exec {compose} ps;;\n  *) exec {compose} "$@";;\nesac\n',
        encoding="utf-8",
    )
    stand_in.chmod(0o755)
    done = subprocess.run(
        project.engine.inside("bash", "-euo", "pipefail", "-c", blocks[0]),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
        env={**environment(), **project.variables, "PATH": f"{stand_in.parent}:{environment()['PATH']}"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "list_pods" in done.stdout
    assert "intact: " in done.stdout


PLACES = {
    "cluster:6443": {"mcp-core", "cluster"},
    "postgres:5432": {"authn", "audit"},
    "audit:7443": {"mcp-core", "authn", "authz", "audit"},
    "mcp-core:7443": {"mcp-core", "authn", "authz", "audit", "cluster"},
    "authn:9464": {"mcp-core", "authn", "authz", "audit"},
    "192.0.2.1:443": set(),
}
"""Places, and who reaches them."""

PROBE = """
import socket, sys
from concurrent.futures import ThreadPoolExecutor
def reached(place):
    host, port = place.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), 5).close()
    except OSError:
        return False
    return True
with ThreadPoolExecutor() as pool:
    print(*(place for place, yes in zip(sys.argv[1:], pool.map(reached, sys.argv[1:])) if yes))
"""


@pytest.mark.req("I9.1", "I9.3")
@pytest.mark.parametrize("service", [*SERVICES, "cluster"])
def test_who_reaches_whom(project: Project, service: str) -> None:
    said = project.execute(service, "python", "-c", PROBE, *PLACES)
    assert set(said.split()) == {place for place, reaching in PLACES.items() if service in reaching}


LOOK = """
import json, os, pathlib
def mine(path):
    return [str(one) for one in pathlib.Path(path).rglob("*") if one.is_file()]
status = dict(line.split(":\\t", 1) for line in open("/proc/1/status") if ":\\t" in line)
try:
    pathlib.Path("/opt/written").touch()
    written = True
except OSError:
    written = False
print(json.dumps({
    "uid": os.getuid(), "caps": status["CapEff"].strip(), "bounding": status["CapBnd"].strip(),
    "new privileges": status["NoNewPrivs"].strip(), "written": written, "files": mine("/state"),
}))
"""


@pytest.mark.req("I9.1", "I9.3", "R9")
@pytest.mark.parametrize("service", [*SERVICES, "cluster"])
def test_what_a_container_has_and_may(project: Project, service: str) -> None:
    seen = json.loads(project.execute(service, "python", "-c", LOOK))
    assert seen["uid"] == 10001
    assert (seen["caps"], seen["bounding"], seen["new privileges"]) == ("0" * 16, "0" * 16, "1")
    assert not seen["written"]
    directories = {Path(path).relative_to("/state").parts[0] for path in seen["files"]}
    assert directories <= {service, *({"policy"} if service == "authz" else set())}
    assert not [path for path in seen["files"] if path.endswith("ca.key")]
    limits = project.state(service)["HostConfig"]
    assert limits["Memory"] == 512 * 2**20
    assert limits["PidsLimit"] == 256
    assert (limits["PortBindings"] != {}) == (service == "mcp-core")


@pytest.mark.req("I9.2", "I9.3")
def test_an_image_carries_its_own_room_only(project: Project, sizes: dict[str, int]) -> None:
    for service in SERVICES:
        rooms = project.execute(
            service, "python", "-c",
            "import os, services; print(*(e.name for e in os.scandir(services.__path__[0]) if e.is_dir()))",
        ).split()  # fmt: skip
        assert set(rooms) - {"__pycache__"} == {"common", service.replace("-", "_")}
    assert all(sizes[image] > sizes[BASE] for image in TARGETS.values())


INSTALLED = """
import json
from importlib.metadata import distributions
bill = json.load(open("/opt/kubegate/sbom.cdx.json"))
print(json.dumps({"bill": bill, "installed": [[one.metadata["Name"], one.version] for one in distributions()]}))
"""


@pytest.mark.req("I9.2", "I9.3")
@pytest.mark.parametrize("service", [*SERVICES, "cluster"])
def test_the_bill_of_materials_is_what_is_installed(project: Project, service: str) -> None:
    said = json.loads(project.execute(service, "python", "-c", INSTALLED))
    bill = said["bill"]
    image = {"cluster": "dev-cluster"}.get(service, service)
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", f"kubegate/{image}")
    listed = {(one["name"], one["version"]) for one in bill["components"]}
    listed.add(("kubegate", bill["metadata"]["component"]["version"]))
    assert listed == {(normal(name), version) for name, version in said["installed"]}
    lock = locked((ROOT / f"deploy/locks/{image}.lock").read_text(encoding="utf-8"))
    for one in bill["components"]:
        assert {entry["content"] for entry in one["hashes"]} == set(lock[one["name"], one["version"]])


@pytest.mark.req("I9.3", "I9.14")
def test_status_shows_the_stack_from_the_container_of_the_command_line(project: Project) -> None:
    rows = json.loads(project.cli("kubegate", "status", "--json", "--home", "/state"))
    assert {row["service"]: (row["state"], row["version"] is not None) for row in rows} == dict.fromkeys(
        SERVICES, ("ready", True)
    )


@pytest.mark.req("I9.1", "I9.3")
def test_prometheus_scrapes_every_service_with_its_own_certificate(project: Project) -> None:
    def up() -> dict[str, str]:
        query = ["promtool", "query", "instant", "http://localhost:9090", 'up{job!="prometheus"}']
        said = project.execute("prometheus", *query)
        return dict(re.findall(r'job="([\w-]+)".*=> (\d)', said))

    eventually(lambda: up() == dict.fromkeys(SERVICES, "1"), "every target is up")
    rules = project.execute("prometheus", "promtool", "check", "rules", "/etc/kubegate/security.yaml")
    assert "SUCCESS" in rules


@pytest.fixture(scope="module")
def load(project: Project, room: Room, keys: dict[str, Path]) -> Load:
    say("load: three callers, from now on")
    return project.load(room.path / "answers", [keys["ca.crt"], keys["admin.key"], keys["viewer.key"]])


@pytest.mark.req("I9.3", "I9.8")
@pytest.mark.parametrize("service", ["postgres", "authn", "authz", "audit", "mcp-core", "cluster"])
def test_a_service_that_is_killed_comes_back_by_itself(project: Project, load: Load, service: str) -> None:
    load.goes_on(f"before {service} is killed")
    before = project.state(service)["RestartCount"]
    say(f"{service}: killed")
    project.crash(service)
    eventually(lambda: project.state(service)["RestartCount"] > before, f"{service} is started again")
    load.goes_on(f"after {service} was killed")
    eventually(lambda: project.healthy(*SERVICES, "postgres", "cluster"), "all are healthy again")


@pytest.mark.req("I9.3", "I9.8")
@pytest.mark.parametrize("service", ["authn", "authz", "audit", "mcp-core", "postgres"])
def test_a_service_is_restarted_under_load(project: Project, load: Load, service: str) -> None:
    load.goes_on(f"before {service} is restarted")
    lost = load.counts()["lost"]
    say(f"{service}: restarted")
    project.compose("restart", "--timeout", "45", service)
    load.goes_on(f"after {service} was restarted")
    assert load.counts()["lost"] == lost, "a call that was sent is answered"
    eventually(lambda: project.healthy(*SERVICES, "postgres"), "all are healthy again")


@pytest.mark.req("I9.3", "R18", "R23")
def test_nothing_that_was_acknowledged_is_missing_from_the_record(project: Project, load: Load) -> None:
    answers = load.stop()
    counts = load.counts()
    say(f"load: {dict(counts)}")
    assert counts["right"] > 100
    # The mirror, which `audit verify` below holds against the store.
    events = map(json.loads, project.execute("audit", "cat", "/state/audit/audit.log").splitlines())
    requests = (event for event in events if event["event_type"] == "mcp_request" and event.get("phase") != "intent")
    record = {(event["request_id"], event["result"]) for event in requests}
    missing = unrecorded(answers, record)
    assert not missing, missing[:5]
    say(f"record: each of {counts['right']} answers is in it")
    report = eventually(
        lambda: json.loads(project.cli("kubegate", "audit", "verify", "--json", "--home", "/state")), "it verifies"
    )
    assert report["intact"] is True
    assert report["events"] > counts["right"]


@pytest.mark.req("I9.3")
def test_taken_down_nothing_is_left(project: Project, room: Room) -> None:
    first = project.engine.first
    project.compose("down", "--volumes", "--timeout", "45")
    docker = project.engine.docker
    assert docker("ps", "--all", "--quiet") == ""
    assert docker("volume", "ls", "--quiet") == ""
    assert set(docker("network", "ls", "--format", "{{.Name}}").split()) == {"bridge", "host", "none"}
    # What a namespace holds ends with it; the machine itself never had any of it.
    assert Path(f"/proc/{first}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()
    for table in ("/proc/self/mounts", "/proc/self/net/dev"):
        text = Path(table).read_text(encoding="utf-8")
        assert str(room.path) not in text
        assert not re.search(r"^\s*(br-|veth|docker0)", text, re.MULTILINE)


@pytest.mark.req("I9.1", "I9.3")
def test_compose_v2_runs_the_same_stack(project: Project, room: Room) -> None:
    """The other program that takes the file: up from nothing, used, and down."""
    try:
        v2 = replace(project, program=str(compose_v2()))
    except NotToBeHad as reason:
        pytest.skip(str(reason))
    assert run([v2.program, "version", "--short"]).stdout.startswith("2.")
    try:
        v2.compose("up", "--detach", "--no-build", *STACK)
        eventually(lambda: v2.healthy(*SERVICES, "postgres", "cluster"), "the stack is healthy")
        keys = fetched(v2, room)
        status, body = curl(v2, keys, *bearer(read(keys["viewer.key"])), "https://localhost:8443/mcp/resources")
        assert status == 200
        assert "list_pods" in json.dumps(body)
        assert "intact: " in v2.cli("kubegate", "audit", "verify", "--home", "/state")
    finally:
        v2.compose("down", "--volumes", "--timeout", "45")
    assert v2.engine.docker("ps", "--all", "--quiet") == ""
    assert v2.engine.docker("volume", "ls", "--quiet") == ""


@pytest.mark.req("I9.3")
def test_what_a_killed_run_left_is_swept_by_the_next(room: Room, tmp_path: Path) -> None:
    """A process that owns a room and an engine is killed; both are gone after a sweep, and rooms in use stay."""
    assert room.path.exists()
    script = (
        "import time\nfrom tests.compose.engine import Engine, Room\nroom = Room()\n"
        "with Engine(room, network=True) as engine:\n"
        "    print(room.path, engine.first, flush=True)\n    time.sleep(600)\n"
    )
    owner = subprocess.Popen(
        [str(ROOT / ".venv/bin/python"), "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert owner.stdout is not None
    path, first = owner.stdout.readline().split()
    owner.kill()
    owner.wait()
    eventually(lambda: not _runs(int(first)), "its engine ends with it")
    sweep()
    assert not Path(path).exists()
    assert path not in Path("/proc/self/mounts").read_text(encoding="utf-8")
    assert room.path.exists()
    assert str(ROOM / PREFIX) in path


def _runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
