"""Dockerfile and docker-compose.yml: targets, locks, users, volumes and addresses fit together (I2.13)."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES = {"authn", "authz", "audit", "mcp-core"}
MODULES = {
    "authn": "services.authn",
    "authz": "services.authz",
    "audit": "services.audit",
    "mcp-core": "services.mcp_core",
    "cluster": "services.dev_cluster",
}


def stages() -> dict[str, str]:
    """Stage -> the stage or image that it starts from."""
    found = re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)
    return {name: base for base, name in found}


def mounts(service: str) -> dict[str, str]:
    """Volume -> where it is mounted, with ":ro" where it is read only."""
    return dict(volume.split(":", 1) for volume in COMPOSE["services"][service]["volumes"])


@pytest.mark.req("I2.13")
def test_every_image_is_a_target_that_runs_as_a_user() -> None:
    targets = {service["build"]["target"] for service in COMPOSE["services"].values() if "build" in service}
    assert targets == {*SERVICES, "dev-cluster", "cli"}
    assert {stages()[target] for target in targets} == {"runtime"}
    runtime = DOCKERFILE.split("FROM ${BASE} AS runtime")[1].split("\nFROM ")[0]
    assert "\nUSER 10001:10001" in runtime
    assert "USER" not in DOCKERFILE.split("USER 10001:10001")[1]


@pytest.mark.req("I2.13")
def test_images_install_their_own_lock_with_hashes() -> None:
    rooms = re.findall(r"^RUN sh deploy/room.sh (\S+)", DOCKERFILE, re.MULTILINE)
    assert set(rooms) == {*SERVICES, "dev-cluster", "cli"}
    for name in [*rooms, "build"]:
        lock = (ROOT / "deploy" / "locks" / f"{name}.lock").read_text(encoding="utf-8")
        pins = re.findall(r"^[a-z0-9].*==", lock, re.MULTILINE)
        assert pins
        assert lock.count("--hash=sha256:") >= len(pins)
    everything = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    for lock_file in (ROOT / "deploy" / "locks").glob("*.lock"):
        pins = re.findall(r"^([a-z0-9][^ ]*==[^ ]*)", lock_file.read_text(encoding="utf-8"), re.MULTILINE)
        assert [pin for pin in pins if f"\n{pin} " not in everything] == []


@pytest.mark.req("I2.13")
def test_only_the_core_image_and_the_embedded_cluster_carry_the_kubernetes_client() -> None:
    locks = (ROOT / "deploy" / "locks").glob("*.lock")
    carriers = {lock.stem for lock in locks if "\nkubernetes==" in lock.read_text(encoding="utf-8")}
    assert carriers == {"mcp-core", "dev-cluster"}


@pytest.mark.req("I2.13")
def test_each_service_mounts_its_own_volume_and_none_holds_a_ca_key() -> None:
    for name in SERVICES | {"cluster"}:
        extra = {"policy": "/state/policy:ro"} if name == "authz" else {}
        assert mounts(name) == {name: f"/state/{name}", **extra}
    assert [name for name in COMPOSE["services"] if "ca" in mounts(name)] == ["init"]
    assert {volume for name in COMPOSE["services"] for volume in mounts(name)} == set(COMPOSE["volumes"])


@pytest.mark.req("I2.13")
def test_containers_are_confined_and_only_the_core_is_published() -> None:
    for name, service in COMPOSE["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert ("ports" in service) == (name == "mcp-core"), name
    assert COMPOSE["networks"]["mesh"]["internal"] is True
    assert COMPOSE["services"]["mcp-core"]["ports"] == ["127.0.0.1:8443:8443"]
    assert COMPOSE["services"]["cluster"]["network_mode"] == "service:mcp-core"


@pytest.mark.req("I2.13")
def test_nothing_that_docker_compose_1_29_refuses() -> None:
    assert "name" not in COMPOSE
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    for refused in ("start_interval", "required:", "configs:", ":?"):
        assert refused not in text


@pytest.mark.req("I2.13")
def test_every_service_accepts_the_configuration_of_its_container(tmp_path: Path) -> None:
    home = tmp_path / "state"
    command = [str(Path(sys.executable).with_name("kubegate")), "up", "--prepare-only", "--home", str(home)]
    script = str(ROOT / "deploy" / "containers.py")
    for step in (command, [sys.executable, script, "addresses", str(home)]) * 2:
        run(step)
    for name, module in MODULES.items():
        run([sys.executable, "-m", module, "--config", str(home / name / "config.yaml"), "--check-config"])
    for name in SERVICES:
        config = yaml.safe_load((home / name / "config.yaml").read_text(encoding="utf-8"))
        assert config["listen"] == ("0.0.0.0:8443" if name == "mcp-core" else "0.0.0.0:7443")
        peers = {peer: config[peer]["address"] for peer in SERVICES if peer in config}
        assert peers == {peer: f"{peer}:7443" for peer in peers}
    endpoints = json.loads((home / "endpoints.json").read_text(encoding="utf-8"))
    assert endpoints["services"]["authn"] == "authn:7443"


@pytest.mark.req("I2.13")
@pytest.mark.parametrize("command", [["docker", "compose"], ["docker-compose"]], ids=["v2", "1.29"])
def test_compose_accepts_the_file(command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]} here")
    if subprocess.run([*command, "version"], capture_output=True, timeout=60, check=False).returncode != 0:
        pytest.skip(f"{' '.join(command)} is not installed here")
    run([*command, "-f", str(ROOT / "docker-compose.yml"), "config", "-q"])


def run(command: list[str]) -> None:
    done = subprocess.run(
        command, cwd="/", capture_output=True, text=True, timeout=90, stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
