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

from deploy.sbom import bill, locked
from services.cli import containers
from tests.fakes.compose_v2 import NotToBeHad, compose_v2

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES = {"authn", "authz", "audit", "mcp-core"}
WATCHERS = {"collector", "prometheus", "grafana", "jaeger"}
"""What others see of the stack; nothing of it is needed."""
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


def built(service: dict[str, Any]) -> dict[str, Any]:
    """How the image of a service is built; empty where it is somebody else's."""
    build: dict[str, Any] = service.get("build", {})
    return build


def mounts(service: str) -> dict[str, str]:
    """Volume -> where it is mounted, with ":ro" where it is read only."""
    return dict(volume.split(":", 1) for volume in COMPOSE["services"][service].get("volumes", ()))


@pytest.mark.req("I2.13", "I9.2")
def test_every_image_of_ours_is_a_target_that_runs_as_a_user() -> None:
    targets = {service["build"]["target"] for service in COMPOSE["services"].values() if "target" in built(service)}
    assert targets == {*SERVICES, "dev-cluster", "cli"}
    assert {stages()[target] for target in targets} == {"runtime"}
    runtime = DOCKERFILE.split("FROM ${BASE} AS runtime")[1].split("\nFROM ")[0]
    assert "\nUSER 10001:10001" in runtime
    assert "USER" not in DOCKERFILE.split("USER 10001:10001")[1]


@pytest.mark.req("I9.1")
def test_an_image_that_we_build_is_never_pulled() -> None:
    for name, service in COMPOSE["services"].items():
        # Whoever takes our name in a registry has nothing of it; and `run` does not build anew each time.
        assert (service.get("pull_policy") == "never") == bool(built(service)), name


@pytest.mark.req("I2.13", "I9.2")
def test_images_install_their_own_lock_with_hashes() -> None:
    rooms = re.findall(r"^RUN sh deploy/room.sh depend (\S+)", DOCKERFILE, re.MULTILINE)
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


@pytest.mark.req("I9.2")
def test_a_bill_of_materials_lists_what_is_installed_with_the_hashes_of_the_lock() -> None:
    lock = (ROOT / "deploy" / "locks" / "authz.lock").read_text(encoding="utf-8")
    pins = locked(lock)
    assert len(pins) == len(re.findall(r"^[a-z0-9].*==", lock, re.MULTILINE))
    assert all(pins.values())
    name, version = next(iter(pins))
    document = bill("authz", {name.upper().replace("-", "_"): version, "kubegate": "1.2.3"}, lock)
    [component] = document["components"]
    assert component["purl"] == f"pkg:pypi/{name}@{version}"
    assert {entry["content"] for entry in component["hashes"]} == set(pins[name, version])
    assert document["dependencies"][0]["dependsOn"] == [component["bom-ref"]]
    assert document["metadata"]["component"]["version"] == "1.2.3"
    # Neither another version nor a stranger passes, and the build ends there.
    for stranger in ({name: f"{version}.1"}, {"stranger": "1"}):
        with pytest.raises(LookupError, match="not locked"):
            bill("authz", {**stranger, "kubegate": "1.2.3"}, lock)


@pytest.mark.req("I2.13")
def test_only_the_core_image_and_the_embedded_cluster_carry_the_kubernetes_client() -> None:
    locks = (ROOT / "deploy" / "locks").glob("*.lock")
    carriers = {lock.stem for lock in locks if "\nkubernetes==" in lock.read_text(encoding="utf-8")}
    assert carriers == {"mcp-core", "dev-cluster"}


@pytest.mark.req("I2.13", "I9.1", "R9")
def test_each_service_mounts_its_own_volume_and_none_holds_a_ca_key() -> None:
    for name in SERVICES | {"cluster", "k3s", "postgres"}:
        extra = {"policy": "/state/policy:ro"} if name == "authz" else {}
        assert mounts(name) == {name: f"/state/{name}", **extra}
    for name in WATCHERS - {"jaeger"}:
        assert {volume for volume in mounts(name) if not volume.startswith("./deploy/")} == {name}
    assert [name for name in COMPOSE["services"] if "ca" in mounts(name)] == ["init"]
    volumes = {volume for name in COMPOSE["services"] for volume in mounts(name) if not volume.startswith("./")}
    assert volumes == set(COMPOSE["volumes"])


@pytest.mark.req("I2.13", "I9.1")
def test_containers_are_confined_and_only_the_core_is_published() -> None:
    for name, service in COMPOSE["services"].items():
        assert service["user"] == "10001:10001", name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name
        assert ("ports" in service) == (name == "mcp-core"), name
    assert COMPOSE["services"]["mcp-core"]["ports"] == ["127.0.0.1:${KUBEGATE_PORT:-8443}:8443"]


@pytest.mark.req("I2.13", "I9.1")
def test_networks_hold_what_must_talk_and_nothing_else() -> None:
    members = {
        network: {name for name, service in COMPOSE["services"].items() if network in service.get("networks", ())}
        for network in COMPOSE["networks"]
    }
    assert members == {
        "mesh": {*SERVICES, "bootstrap", "cli"},
        "database": {"postgres", "authn", "audit", "cli"},
        "cluster": {"mcp-core", "cluster", "k3s"},
        "telemetry": {*SERVICES, *WATCHERS},
        "edge": {"mcp-core"},
    }
    assert [name for name, network in COMPOSE["networks"].items() if not network.get("internal")] == ["edge"]
    assert COMPOSE["services"]["init"]["network_mode"] == "none"


@pytest.mark.req("I9.1")
def test_whoever_serves_is_asked_for_its_health_and_waits_for_what_it_needs() -> None:
    for name in SERVICES | {"cluster", "postgres"}:
        assert COMPOSE["services"][name]["healthcheck"]["test"], name
    for name, service in COMPOSE["services"].items():
        waits = {one: condition["condition"] for one, condition in service.get("depends_on", {}).items()}
        # What watches the stack holds nobody up: its images cannot be had everywhere.
        assert not WATCHERS & set(waits)
        for one, condition in waits.items():
            once = one in ("init", "bootstrap")
            assert condition == ("service_completed_successfully" if once else "service_healthy"), (name, one)


@pytest.mark.req("I2.13")
def test_nothing_that_docker_compose_1_29_refuses() -> None:
    assert "name" not in COMPOSE
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    for refused in ("start_interval", "required:", "configs:", ":?"):
        assert refused not in text


@pytest.mark.req("I2.13")
def test_every_service_accepts_the_configuration_of_its_container(tmp_path: Path) -> None:
    home = tmp_path / "state"
    for _ in range(2):
        run([sys.executable, "-m", "services.cli.containers", "prepare", str(home)])
    for name, module in MODULES.items():
        run([sys.executable, "-m", module, "--config", str(home / name / "config.yaml"), "--check-config"])
    for name in SERVICES:
        config = yaml.safe_load((home / name / "config.yaml").read_text(encoding="utf-8"))
        assert config["listen"] == ("0.0.0.0:8443" if name == "mcp-core" else "0.0.0.0:7443")
        peers = {peer: config[peer]["address"] for peer in SERVICES if peer in config}
        assert peers == {peer: f"{peer}:7443" for peer in peers}
    endpoints = json.loads((home / "endpoints.json").read_text(encoding="utf-8"))
    assert endpoints["services"]["authn"] == "authn:7443"


@pytest.mark.req("I9.1", "R9")
def test_the_home_of_containers_has_secrets_in_files_of_their_own(tmp_path: Path) -> None:
    home = tmp_path / "state"
    containers.prepare(home)
    authn = yaml.safe_load((home / "authn" / "config.yaml").read_text(encoding="utf-8"))
    audit = yaml.safe_load((home / "audit" / "config.yaml").read_text(encoding="utf-8"))
    assert "store" not in audit
    passwords = {name: (home / "postgres" / f"{name}.password").read_text().strip() for name in ("authn", "audit")}
    assert (home / "authn" / authn["store_password_file"]).read_text().strip() == passwords["authn"]
    assert f":{passwords['audit']}@postgres:" in (home / "audit" / audit["database_url_file"]).read_text()
    for url in (authn["store"], (home / "audit" / "database-url").read_text()):
        assert "sslmode=verify-full" in url
    assert len({*passwords.values(), (home / "grafana" / "admin-password").read_text().strip()}) == 3
    for path in home.rglob("*"):
        if path.suffix == ".key" or "password" in path.name or path.name in ("database-url", "kubeconfig"):
            assert path.stat().st_mode & 0o077 == 0, path
    assert {path.relative_to(home).parts[0] for path in home.rglob("ca.key")} == {"ca"}
    for name in ("authn", "audit"):
        text = (home / name / "config.yaml").read_text(encoding="utf-8")
        assert not [password for password in passwords.values() if password in text]


@pytest.mark.req("I9.1")
def test_a_given_kubeconfig_is_operated_until_it_is_removed(tmp_path: Path) -> None:
    home = tmp_path / "state"
    containers.prepare(home)
    config = home / "mcp-core" / "config.yaml"

    def operated() -> str:
        return str(yaml.safe_load(config.read_text(encoding="utf-8"))["cluster"]["kubeconfig"])

    assert operated() == "cluster/kubeconfig"
    given = home / "mcp-core" / "kubeconfig"
    given.write_text("{}", encoding="utf-8")
    containers.prepare(home)
    assert operated() == str(given)
    assert (home / "cluster" / "config.yaml").exists()
    given.unlink()
    containers.prepare(home)
    assert operated() == "cluster/kubeconfig"


@pytest.mark.req("I2.13", "I9.1")
@pytest.mark.parametrize("version", ["v2", "1.29"])
def test_compose_accepts_the_file(version: str) -> None:
    command = ["docker-compose"]
    if version == "v2":
        try:
            command = [str(compose_v2())]
        except NotToBeHad as reason:
            pytest.skip(str(reason))
    elif shutil.which("docker-compose") is None:
        pytest.skip("no docker-compose here")
    for more in ([], ["-f", str(ROOT / "deploy" / "published.yml")]):
        # As in a clone that somebody has just made: no .env, no variable.
        for profile in ("cli", "jaeger", "k3s"):
            run([*command, "--profile", profile, "-f", str(ROOT / "docker-compose.yml"), *more, "config", "-q"])


def run(command: list[str]) -> None:
    done = subprocess.run(
        command, cwd="/", capture_output=True, text=True, timeout=90, stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
