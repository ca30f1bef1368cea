"""`kubegate keys` against real authn, authz and audit processes: flags, JSON, exit codes, what is recorded."""

import asyncio
import json
import sqlite3
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kubegate.authn.v1 import authn_pb2
from services.cli.home import free_port
from services.cli.pki import write_private
from services.common.errors import Unauthenticated
from tests.fakes.audit_service import FakeAudit
from tests.fakes.authn_stack import OPERATOR, AuthnStack
from tests.fakes.mesh import Mesh
from tests.fakes.processes import ServiceProcess, peer_config, tls_config


class Home:
    """A home as `kubegate up` fills it, as far as the keys command looks."""

    def __init__(self, root: Path) -> None:
        self.root = root
        mesh = Mesh(root / "mesh")
        unused = FakeAudit(mesh.tls("service/audit"))
        unused.port = free_port()
        self.stack = AuthnStack(root, unused, mesh)
        mesh.tls(OPERATOR)
        (root / "operator").symlink_to(mesh.directory / OPERATOR)
        directory = root / "audit"
        directory.mkdir()
        pem = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_private(directory / "signing.key", pem)
        config = {
            "tls": tls_config(mesh.tls("service/audit")),
            "authn": peer_config("authn", self.stack.authn.port),
            "authz": peer_config("authz", self.stack.authz.port),
            "store": "audit.db",
            "mirror": "audit.log",
            "signing_key_file": "signing.key",
            "log_id": "test",
        }
        self.audit = ServiceProcess("audit", directory, config)
        self.audit.port = unused.port

    async def start(self) -> None:
        await self.audit.start()
        await self.stack.start()
        first = await self.stack.bootstrap()
        (self.root / "credentials").mkdir()
        (self.root / "credentials" / "admin.key").write_text(first.admin_key + "\n")
        services = {name: f"127.0.0.1:{port}" for name, port in self.ports().items()}
        (self.root / "endpoints.json").write_text(json.dumps({"services": services}))
        for name, port in self.ports().items():
            await self._serves(name, port)

    async def _serves(self, name: str, port: int) -> None:
        """Waits until a service has its peers' keys and streams."""
        peer = self.stack.mesh.peer(name, port, OPERATOR)
        health = health_pb2_grpc.HealthStub(peer.channel())
        while True:
            answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=10, wait_for_ready=True)
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                break
            await asyncio.sleep(0.05)
        await peer.close()

    def ports(self) -> dict[str, int]:
        return {"authn": self.stack.authn.port, "authz": self.stack.authz.port, "audit": self.audit.port}

    async def keys(self, *arguments: str) -> tuple[int, str, str]:
        """`kubegate keys ARGUMENTS --home HOME`: exit code, standard output, standard error."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "from services.cli.keys import app; app()",
            *arguments,
            "--home",
            str(self.root),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode(), errors.decode()

    async def answer(self, *arguments: str) -> Any:
        code, output, errors = await self.keys(*arguments, "--json")
        assert code == 0, errors
        return json.loads(output)

    def recorded(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.root / "audit" / "audit.log").read_text().splitlines()]


@pytest_asyncio.fixture(scope="module")
async def home(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Home]:
    home = Home(tmp_path_factory.mktemp("home"))
    try:
        await home.start()
        yield home
    finally:
        await home.stack.stop()
        await home.audit.stop()


@pytest.mark.req("R15", "R18", "R22", "I2.3", "I2.5")
async def test_a_key_from_create_to_delete(home: Home) -> None:
    made = await home.answer(
        "create", "--identity", "bob", "--role", "viewer", "--permission", "k8s:pods:logs",
        "--namespace", "dev", "--namespace", "feature-*", "--tenant", "t1", "--expires", "30d",
    )  # fmt: skip
    assert list(made)[:2] == ["id", "key"]
    assert made["key"].startswith(f"kg_{made['id']}_")
    assert (made["identity"], made["roles"], made["permissions"]) == ("bob", ["viewer"], ["k8s:pods:logs"])
    assert (made["namespaces"], made["all_namespaces"], made["tenant"]) == (["dev", "feature-*"], False, "t1")
    assert made["expires_at"].endswith("Z")
    listed = {key["id"]: key for key in await home.answer("list")}
    assert "key" not in listed[made["id"]]
    assert listed[made["id"]]["enabled"]
    assert not (await home.answer("disable", made["id"]))["enabled"]
    with pytest.raises(Unauthenticated):
        await home.stack.authenticate(made["key"])
    assert (await home.answer("enable", made["id"]))["enabled"]
    assert (await home.stack.authenticate(made["key"])).principal.subject == "bob"
    assert await home.answer("delete", made["id"]) == {"id": made["id"], "deleted": True}

    admin = [event for event in home.recorded() if event["event_type"] == "admin" and event["action"][:5] == "keys."]
    changes = [(event["action"], event["phase"], event["result"]) for event in admin if "phase" in event]
    assert changes == [
        (f"keys.{verb}", phase, result)
        for verb in ("create", "disable", "enable", "delete")
        for phase, result in (("intent", "unknown"), ("outcome", "success"))
    ]
    assert {(event["user"], event["user_source"], event["writer"]) for event in admin} == {
        ("admin", "verified", "service/authn")
    }
    mirror = (home.root / "audit" / "audit.log").read_text()
    assert made["key"].rpartition("_")[2] not in mirror


@pytest.mark.req("R22", "I2.5")
async def test_authentications_reach_the_real_log_with_a_verified_user(home: Home) -> None:
    answer = await home.stack.authenticate(home.stack.first.viewer_key, request_id="cli-1")
    with pytest.raises(Unauthenticated):
        await home.stack.authenticate("wrong", request_id="cli-2")
    events = {event["request_id"]: event for event in home.recorded() if event.get("request_id", "")[:4] == "cli-"}
    success, failure = events["cli-1"], events["cli-2"]
    assert success["event_id"] == answer.event_id
    assert (success["user"], success["user_source"], success["result"]) == ("viewer", "verified", "success")
    assert (failure["result"], failure["metadata"]["auth_type"]) == ("failure", "unknown")
    assert failure["error_message"] == "malformed credential"


async def test_people_get_the_key_on_standard_output_alone(home: Home) -> None:
    code, output, errors = await home.keys("create", "--identity", "carol", "--role", "viewer")
    assert code == 0
    assert (await home.stack.authenticate(output.strip())).principal.subject == "carol"
    assert "cannot be shown again" in errors
    code, output, _ = await home.keys("list")
    assert code == 0
    assert "carol" in output
    assert "IDENTITY" in output


@pytest.mark.req("R4", "I2.11")
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("create", "--identity", "x", "--permission", "k8s:pods:list"), 2, "--namespace"),
        (("create", "--identity", "x", "--role", "r", "--expires", "soon"), 2, "as in 30d"),
        (("create", "--role", "r"), 2, "--identity"),
        (("disable", "nosuchkey"), 2, "no key with this id"),
    ],
)
async def test_misuse_is_told(home: Home, arguments: tuple[str, ...], code: int, message: str) -> None:
    done, output, errors = await home.keys(*arguments)
    assert (done, output) == (code, "")
    assert message in errors
    assert "Traceback" not in errors


@pytest.mark.req("R15")
async def test_a_lesser_key_is_told_no(home: Home) -> None:
    path = home.root / "credentials" / "admin.key"
    admin = path.read_text()
    path.write_text(home.stack.first.viewer_key)
    try:
        code, _, errors = await home.keys("list")
    finally:
        path.write_text(admin)
    assert code == 1
    assert "kubegate:keys:list" in errors


@pytest.mark.req("I2.6")
async def test_without_audit_nothing_is_administered(home: Home) -> None:
    before = {key["id"] for key in await home.answer("list")}
    await home.audit.stop()
    code, output, errors = await home.keys("create", "--identity", "x", "--role", "viewer")
    assert (code, output) == (2, "")
    assert "Is the stack up?" in errors
    await home.audit.start()
    listed = await home.stack.admin("ListApiKeys", authn_pb2.ListApiKeysRequest())
    assert {key.id for key in listed.api_keys} == before


@pytest.mark.req("I3.7", "R18")
async def test_prune_deletes_what_was_neither_made_nor_used_and_nothing_else(home: Home) -> None:
    old, kept = [await home.answer("create", "--identity", name, "--role", "viewer") for name in ("old", "kept")]
    assert (await home.stack.authenticate(old["key"])).principal.subject == "old"
    await home.stack.authn.stop()
    with sqlite3.connect(home.stack.directory / "authn" / "authn.db") as store:
        ages = "UPDATE api_keys SET created_at = '2020-01-01 00:00:00.000000', last_used_at = ? WHERE id = ?"
        store.execute(ages, ("2020-02-01 00:00:00.000000", old["id"]))
    store.close()
    await home.stack.authn.start()
    await home._serves("authn", home.stack.authn.port)
    [would] = await home.answer("prune", "--unused", "90d", "--dry-run")
    assert would["id"] == old["id"]
    [pruned] = await home.answer("prune", "--unused", "90d")
    assert pruned["id"] == old["id"]
    with pytest.raises(Unauthenticated):
        await home.stack.authenticate(old["key"])
    assert (await home.stack.authenticate(kept["key"])).principal.subject == "kept"
    assert await home.answer("prune", "--unused", "90d") == []
    [outcome] = [
        event for event in home.recorded() if event["action"] == "keys.prune" and event.get("phase") == "outcome"
    ]
    assert (outcome["result"], outcome["metadata"]["credential_ids"]) == ("success", old["id"])


@pytest.mark.req("I3.6")
async def test_a_role_that_the_policy_lacks_is_warned_of(home: Home) -> None:
    code, output, errors = await home.keys("create", "--identity", "bob", "--role", "veiwer", "--role", "viewer")
    assert code == 0
    assert output.startswith("kg_")
    assert "the policy has no role 'veiwer'" in errors
    assert "'viewer'" not in errors
