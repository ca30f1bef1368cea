"""authz as a process: what it says when it cannot start, how it waits for its neighbours, and the real audit."""

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kubegate.authz.v1 import authz_pb2, authz_pb2_grpc
from kubegate.common.v1 import identity_pb2
from services.common.deadline import Deadline
from services.common.errors import Unauthenticated, Unavailable
from services.common.grpc_client import Peer
from services.common.grpc_server import GrpcServer
from tests.contract.authz_peers import Keys, Log, address, serve_audit, serve_authn, tls_keys, write_config
from tests.fakes.mesh import Mesh

ROOT = Path(__file__).parents[2]
POLICY = (ROOT / "tests" / "golden" / "rbac-policies.yaml").read_text()
LIST_PODS = identity_pb2.Action(verb="list", resource="pods", namespace="default", tool="list_pods")


class Process:
    """A service process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, service: str, config: Path, *arguments: str) -> "Process":
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                f"services.{service}",
                "--config",
                str(config),
                *arguments,
                cwd=ROOT,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        )

    async def ended(self) -> tuple[int, str]:
        """Exit code and all that it said."""
        out, err = await asyncio.wait_for(self.process.communicate(), 30)
        return self.process.returncode or 0, (out + err).decode()

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.process.returncode is None:
            self.process.send_signal(number)
        return (await self.ended())[0]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.fixture
async def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path / "mesh")


@pytest.fixture
async def started() -> AsyncIterator[list[Process | Peer | GrpcServer]]:
    """What the test puts here is stopped at its end, last first."""
    things: list[Process | Peer | GrpcServer] = []
    yield things
    for thing in reversed(things):
        match thing:
            case Process():
                await thing.stop(signal.SIGKILL)
            case Peer():
                await thing.close()
            case GrpcServer():
                await thing.stop(0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def health(peer: Peer) -> bool:
    try:
        answer = await peer.unary(
            lambda channel: health_pb2_grpc.HealthStub(channel).Check,
            health_pb2.HealthCheckRequest(),
            Deadline.after(5),
        )
    except Unavailable:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def check(peer: Peer, token: str) -> authz_pb2.CheckResponse:
    response: authz_pb2.CheckResponse = await peer.unary(
        lambda channel: authz_pb2_grpc.AuthzServiceStub(channel).Check,
        authz_pb2.CheckRequest(principal_token=token, action=LIST_PODS, request_id="req-7"),
        Deadline.after(10),
    )
    return response


def client(mesh: Mesh, directory: Path) -> Peer:
    port = int((directory / "address").read_text().strip().rpartition(":")[2])
    return mesh.peer("authz", port, "service/mcp-core")


@pytest.mark.req("I2.11")
async def test_a_broken_policy_file_keeps_it_from_starting_and_says_everything(mesh: Mesh, tmp_path: Path) -> None:
    broken = "roles:\n  - name: viewer\n    permissions: [k8s:pod:list]\n    namespace: [default]\n"
    config = write_config(mesh, tmp_path / "authz", broken, authn=1, audit=1)
    code, said = await (await Process.start("authz", config)).ended()
    assert code == 2
    policy = tmp_path / "authz" / "policy.yaml"
    assert f"{policy}:3:19: 'k8s:pod:list' names the unknown resource 'pod'; did you mean 'pods'?" in said
    assert f"{policy}:4:5: unknown key 'namespace'" in said
    assert f"kubegate policy validate {policy}" in said
    assert "Traceback" not in said


@pytest.mark.req("I2.11")
async def test_a_missing_policy_a_missing_certificate_and_unknown_keys_are_named(mesh: Mesh, tmp_path: Path) -> None:
    config = write_config(mesh, tmp_path / "authz", POLICY, authn=1, audit=1)
    whole: dict[str, Any] = yaml.safe_load(config.read_text())

    async def said(changed: dict[str, Any]) -> str:
        config.write_text(yaml.safe_dump(changed))
        code, text = await (await Process.start("authz", config)).ended()
        assert code == 2
        assert "Traceback" not in text
        return text

    text = await said(whole | {"policy": "absent.yaml"})
    assert f"{tmp_path}/authz/absent.yaml: cannot be read: No such file or directory" in text
    text = await said(whole | {"polcy": "x", "listn": "y"})
    assert "polcy: unknown key" in text
    assert "listn: unknown key" in text
    text = await said(whole | {"tls": whole["tls"] | {"key_file": "absent.key"}})
    assert f"tls.key_file: cannot read {tmp_path}/authz/absent.key" in text


@pytest.mark.req("I2.11")
async def test_a_port_in_use_is_said_with_the_next_step(mesh: Mesh, tmp_path: Path) -> None:
    config = write_config(mesh, tmp_path / "authz", POLICY, authn=1, audit=1)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        listen = f"127.0.0.1:{holder.getsockname()[1]}"
        config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"listen": listen}))
        code, said = await (await Process.start("authz", config)).ended()
    assert code == 2
    assert f"cannot listen on {listen}" in said


async def test_check_config_checks_and_ends(mesh: Mesh, tmp_path: Path) -> None:
    config = write_config(mesh, tmp_path / "authz", POLICY, authn=1, audit=1)
    code, said = await (await Process.start("authz", config, "--check-config")).ended()
    assert (code, said) == (0, f"{config}: valid\n")
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"listen": "nowhere"}))
    code, said = await (await Process.start("authz", config, "--check-config")).ended()
    assert (code, "listen: " in said) == (2, True)


@pytest.mark.req("I2.11")
async def test_checking_reads_the_policy(mesh: Mesh, tmp_path: Path) -> None:
    """Regression: a configuration was called valid whose policy no authz could start with."""
    config = write_config(mesh, tmp_path / "authz", "roles: 7\n", authn=1, audit=1)
    code, said = await (await Process.start("authz", config, "--check-config")).ended()
    assert code == 2
    assert "roles" in said


@pytest.mark.req("I2.6")
async def test_it_starts_alone_refuses_heals_and_stops_cleanly(
    mesh: Mesh, tmp_path: Path, started: list[Process | Peer | GrpcServer]
) -> None:
    keys, log = Keys(), Log()
    authn_port, audit_port = free_port(), free_port()
    directory = tmp_path / "authz"
    config = write_config(mesh, directory, POLICY, authn=authn_port, audit=audit_port)
    process = await Process.start("authz", config)
    started.append(process)
    await until(lambda: (directory / "address").exists())
    peer = client(mesh, directory)
    started.append(peer)
    token = keys.token(roles=["viewer"])
    assert not await health(peer)
    with pytest.raises(Unavailable):
        await check(peer, token)

    started.append((await serve_authn(mesh, keys, authn_port))[0])
    started.append((await serve_audit(mesh, log, audit_port))[0])
    async with asyncio.timeout(30):
        while not await health(peer):
            await asyncio.sleep(0.05)
    token = keys.token(roles=["viewer"])
    assert (await check(peer, token)).HasField("allowed")
    assert await process.stop() == 0


@pytest.mark.req("R18", "R22", "I2.5")
async def test_the_real_audit_has_every_decision_under_a_verified_name(
    mesh: Mesh, tmp_path: Path, started: list[Process | Peer | GrpcServer]
) -> None:
    keys = Keys()
    authn, authn_port = await serve_authn(mesh, keys)
    started.append(authn)
    audit_directory, directory = tmp_path / "audit", tmp_path / "authz"
    started.append(await Process.start("audit", audit_config(mesh, audit_directory, authn_port)))
    await until(lambda: (audit_directory / "address").exists())
    audit_port = int((audit_directory / "address").read_text().strip().rpartition(":")[2])
    config = write_config(mesh, directory, POLICY, authn=authn_port, audit=audit_port)
    started.append(await Process.start("authz", config))
    await until(lambda: (directory / "address").exists())
    peer = client(mesh, directory)
    started.append(peer)
    async with asyncio.timeout(30):
        while not await health(peer):
            await asyncio.sleep(0.05)

    allowed = await check(peer, keys.token(roles=["viewer"], subject="alice"))
    denied = await check(peer, keys.token(subject="mallory"))
    with pytest.raises(Unauthenticated):
        await check(peer, keys.token(azp="platform/billing", roles=["admin"], subject="eve"))

    lines = [json.loads(line) for line in (audit_directory / "audit.log").read_text().splitlines()]
    records = {line["event_id"]: line for line in lines}
    for response, user, result in (
        (allowed, "alice", "success"),
        (denied, "mallory", "failure"),
    ):
        record = records[response.event_id]
        assert record["event_type"] == "authorization"
        assert (record["user"], record["user_source"]) == (user, "verified")
        assert (record["result"], record["action"], record["namespace"]) == (result, "list_pods", "default")
        assert record["decision"]["policy_revision"] == response.policy_revision
        assert record["metadata"]["permission_check"] == "k8s:pods:list"
        assert record["request_id"] == "req-7"
    violations = [line for line in lines if line["event_type"] == "security_violation"]
    assert [line["user"] for line in violations] == ["eve"]


def audit_config(mesh: Mesh, directory: Path, authn_port: int) -> Path:
    directory.mkdir()
    key = directory / "signing.key"
    key.write_bytes(
        Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    key.chmod(0o600)
    config = directory / "config.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "listen": "127.0.0.1:0",
                "tls": tls_keys(mesh, "service/audit"),
                "authn": address("authn", authn_port),
                "authz": address("authz", 1),
                "store": "audit.db",
                "mirror": "audit.log",
                "signing_key_file": "signing.key",
                "address_file": "address",
            }
        )
    )
    return config
