"""Credentials over a whole stack: what ends is refused everywhere, also by who was stopped meanwhile."""

import asyncio
import os
import signal
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pyotp
import pytest

from kubegate.audit.v1 import audit_pb2, audit_pb2_grpc
from kubegate.common.v1 import identity_pb2
from services.authn.adapters.signing_keys import Purpose
from services.cli.stack import Stack
from services.common.deadline import Deadline
from services.common.errors import DomainError
from tests.e2e.stack import RunningStack, eventually
from tests.fakes.oidc_issuer import Issuer
from tests.fakes.stolen_key import forge_access, forge_principal, steal

ARGUMENTS = {"namespace": "default"}


def _pid(stack: RunningStack, service: str) -> int:
    return int((stack.home / "run" / f"{service}.pid").read_text(encoding="ascii").split()[0])


def _key(stack: RunningStack, identity: str) -> tuple[str, str]:
    made = stack.json("keys", "create", "--identity", identity, "--role", "viewer")
    return made["id"], made["key"]


@pytest.mark.req("I3.15", "R18")
def test_a_cached_proof_is_recorded_by_the_core_with_the_event_that_it_rests_on(stack: RunningStack) -> None:
    _, key = _key(stack, "cached")

    def hit() -> list[dict[str, object]]:
        assert stack.call("list_pods", ARGUMENTS, key).status_code == 200
        recorded = stack.events(event_type="mcp_request", user="cached")
        return [event for event in recorded if event["metadata"].get("cached") == "true"]

    found = eventually(hit, "a cached proof")[0]
    authentications = stack.events(event_type="authentication", result="success", user="cached")
    assert found["metadata"]["authn_event_id"] in {event["event_id"] for event in authentications}  # type: ignore[index]


@pytest.mark.req("I3.13", "R12")
@pytest.mark.parametrize("how", ["disable", "delete"])
def test_what_is_revoked_is_refused_also_where_it_was_cached(stack: RunningStack, how: str) -> None:
    key_id, key = _key(stack, f"revoked-{how}")
    for _ in range(3):
        assert stack.call("list_pods", ARGUMENTS, key).status_code == 200
    stack.run("keys", how, key_id)
    eventually(lambda: stack.call("list_pods", ARGUMENTS, key).status_code == 401, "refused")
    for _ in range(5):
        assert stack.call("list_pods", ARGUMENTS, key).status_code == 401


@pytest.mark.req("I3.15", "R12")
def test_a_stopped_core_wakes_up_without_its_cache(own_stack: RunningStack) -> None:
    """SIGSTOP, then the revocation, then SIGCONT: no request after it is answered from the cache."""
    stack = own_stack
    key_id, key = _key(stack, "asleep")
    for _ in range(3):
        assert stack.call("list_pods", ARGUMENTS, key).status_code == 200
    core = _pid(stack, "mcp-core")
    os.kill(core, signal.SIGSTOP)
    try:
        # The command starts an interpreter of its own: this takes longer than a lease does.
        stack.run("keys", "disable", key_id)
        stack.run("keys", "list")
    finally:
        os.kill(core, signal.SIGCONT)
    # Streams may have broken meanwhile: then the first answer is 503, but never 200.
    statuses: list[int] = []
    while 401 not in statuses:
        statuses.append(stack.call("list_pods", ARGUMENTS, key).status_code)
        assert statuses[-1] in (401, 503)
    eventually(lambda: stack.call("list_pods", ARGUMENTS).status_code == 200, "others go on")


@pytest.mark.req("I3.15", "R12", "I2.6")
def test_while_authn_is_stopped_nothing_is_answered_from_a_cache(own_stack: RunningStack) -> None:
    stack = own_stack
    for _ in range(3):
        assert stack.call("list_pods", ARGUMENTS).status_code == 200
    authn = _pid(stack, "authn")
    os.kill(authn, signal.SIGSTOP)
    try:
        eventually(lambda: stack.call("list_pods", ARGUMENTS).status_code == 503, "refused")
    finally:
        os.kill(authn, signal.SIGCONT)
    eventually(lambda: stack.call("list_pods", ARGUMENTS).status_code == 200, "healed")


def test_no_secret_lies_in_what_the_services_wrote(own_stack: RunningStack) -> None:
    stack = own_stack
    secrets = [stack.admin, stack.viewer, stack.secret("admin.password")]
    written = [*(stack.home / "run").glob("*.log"), *(stack.home / "authn").glob("authn.db*")]
    written.append(Path(str(stack.endpoints["audit_log"])))
    for path in written:
        content = path.read_bytes()
        for secret in secrets:
            assert secret.rpartition("_")[2].encode() not in content, path


@pytest.mark.req("I3.7", "I3.13")
def test_a_rotated_key_works_through_its_overlap_and_then_never(stack: RunningStack) -> None:
    key_id, key = _key(stack, "rotated")
    made = stack.json("keys", "rotate", key_id, "--overlap", "1h")
    assert made["replaces"]["replaced_by"] == made["id"]
    assert made["roles"] == ["viewer"]
    for each in (key, made["key"]):
        assert stack.call("list_pods", ARGUMENTS, each).status_code == 200
    again = stack.run("keys", "rotate", key_id, check=False)
    assert (again.returncode, "replaced before" in again.stderr) == (2, True)
    ended = stack.json("keys", "rotate", made["id"], "--overlap", "0")
    eventually(lambda: stack.call("list_pods", ARGUMENTS, made["key"]).status_code == 401, "the old key ended")
    assert stack.call("list_pods", ARGUMENTS, ended["key"]).status_code == 200


@pytest.mark.req("I3.7")
def test_prune_says_and_deletes_what_was_unused(stack: RunningStack) -> None:
    _key(stack, "pruned")
    assert stack.json("keys", "prune", "--unused", "90d") == []
    wrong = stack.run("keys", "prune", "--unused", "5m", check=False)
    assert (wrong.returncode, "at least one day" in wrong.stderr) == (2, True)
    assert stack.run("keys", "prune", "--unused", "soon", check=False).returncode == 2


def _token(stack: RunningStack, name: str, password: str, **fields: str) -> httpx.Response:
    with stack.client() as client:
        return client.post("/auth/token", json={"username": name, "password": password, **fields})


@pytest.mark.req("I3.9", "I3.3", "I3.6", "I3.13", "I3.4")
def test_a_user_with_a_second_factor_from_the_command_line_to_the_cluster(stack: RunningStack) -> None:
    made = stack.json("users", "create", "carol", "--role", "viewer")
    password = made["password"]
    first = _token(stack, "carol", password)
    assert first.status_code == 200, first.text
    assert stack.call("list_pods", ARGUMENTS, first.json()["access_token"]).status_code == 200
    enrolled = stack.json("users", "enrol-totp", "carol")
    device = pyotp.parse_uri(enrolled["uri"])
    assert isinstance(device, pyotp.TOTP)
    assert stack.run("users", "confirm-totp", "carol", "000000x", check=False).returncode == 2
    confirming = device.now()
    assert stack.json("users", "confirm-totp", "carol", confirming)["second_factor"]
    eventually(
        lambda: stack.call("list_pods", ARGUMENTS, first.json()["access_token"]).status_code == 401,
        "tokens without the second factor ended",
    )
    for fields in ({}, {"otp": "000000"}, {"otp": confirming}):
        refused = _token(stack, "carol", password, **fields)
        assert refused.status_code == 401, "missing, wrong, or used up by the confirmation"
    # Not every code of a device may have been used: the next step's is within the drift.
    second = _token(stack, "carol", password, otp=device.at(time.time() + 30))
    assert second.status_code == 200, second.text
    recovered = _token(stack, "carol", password, otp=enrolled["recovery_codes"][0])
    assert recovered.status_code == 200
    assert _token(stack, "carol", password, otp=enrolled["recovery_codes"][0]).status_code == 401
    token = second.json()["access_token"]
    assert stack.call("list_pods", ARGUMENTS, token).status_code == 200
    stack.run("users", "disable", "carol")
    eventually(lambda: stack.call("list_pods", ARGUMENTS, token).status_code == 401, "disabled")
    stack.run("users", "enable", "carol")
    assert stack.call("list_pods", ARGUMENTS, token).status_code == 401, "an ended token stays dead"
    stack.run("users", "delete", "carol")
    assert "carol" not in stack.run("users", "list").stdout


@pytest.mark.req("I3.3", "I3.6")
def test_guessing_locks_and_the_administrator_unlocks(own_stack: RunningStack) -> None:
    stack = own_stack  # the edge limits guesses per source, so others must not have used the limit up
    password = stack.json("users", "create", "dave", "--role", "viewer")["password"]
    statuses = [_token(stack, "dave", "guess").status_code for _ in range(5)]
    assert set(statuses) <= {401, 429}
    eventually(
        lambda: stack.json("users", "list")[-1]["locked_until"] or (_token(stack, "dave", "guess") and None), "locked"
    )
    assert _token(stack, "dave", password).status_code in (401, 429)
    stack.run("users", "unlock", "dave")
    eventually(lambda: _token(stack, "dave", password).status_code == 200, "unlocked")
    reset = stack.json("users", "reset-password", "dave")["password"]
    eventually(lambda: _token(stack, "dave", reset).status_code == 200, "the new password")
    stack.run("users", "delete", "dave")


@pytest.mark.req("I3.7", "I3.6", "I3.9")
def test_signing_keys_rotate_without_a_restart(stack: RunningStack) -> None:
    issued = _token(stack, "admin", stack.secret("admin.password")).json()["access_token"]
    for purpose in ("access", "principal"):
        made = stack.json("signing-keys", "rotate", purpose)
        assert made["state"] == "current"
        states = [key["state"] for key in stack.json("signing-keys", "list") if key["purpose"] == purpose]
        assert states == ["previous", "current"]
    assert stack.call("list_pods", ARGUMENTS, issued).status_code == 200, "signed by the previous key"
    assert stack.call("list_pods", ARGUMENTS).status_code == 200
    renewed = _token(stack, "admin", stack.secret("admin.password")).json()["access_token"]
    assert stack.call("list_pods", ARGUMENTS, renewed).status_code == 200

    def published() -> bool:
        with stack.client() as client:
            return len(client.get("/.well-known/jwks.json").json()["keys"]) == 2

    eventually(published, "both keys in the key set")


@pytest.mark.req("I3.2", "I3.6", "R1", "I3.13")
def test_an_issuer_is_trusted_from_the_command_line_and_forgotten(stack: RunningStack, tmp_path: Path) -> None:
    provider = Issuer(tmp_path / "issuer")
    provider.start()
    try:
        provider.new_key()
        ca = tmp_path / "ca.crt"
        ca.write_text(provider.ca_pem)
        options = ("--audience", "kubegate", "--ca", str(ca), "--roles-claim", "roles", "--map-role", "ops=viewer")
        stack.run("issuers", "create", provider.url, *options)
        token = provider.sign(provider.claims(datetime.now(UTC), sub="admin", roles=["ops"]))
        assert stack.call("list_pods", ARGUMENTS, token).status_code == 200
        scale = {"name": "nginx", "namespace": "default", "replicas": 2}
        assert stack.call("scale_deployment", scale, token).status_code == 403, "our admin is somebody else"
        users = {event["user"] for event in stack.events(event_type="authorization", result="success")}
        assert f"{provider.url}:admin" in users
        stack.run("issuers", "disable", provider.url)
        eventually(lambda: stack.call("list_pods", ARGUMENTS, token).status_code == 401, "disabled")
        stack.run("issuers", "delete", provider.url)
        assert stack.json("issuers", "list") == []
    finally:
        provider.stop()


@pytest.mark.req("I3.17", "R12", "I3.6")
def test_a_leaked_key_is_withdrawn_from_the_command_line(own_stack: RunningStack) -> None:
    """Of both purposes: at the edge with its key set, and at audit, whatever revision a forged token claims."""
    stack = own_stack
    store = stack.home / "authn" / "authn.db", stack.home / "authn" / "kek"
    genuine = _token(stack, "admin", stack.secret("admin.password")).json()["access_token"]
    access, principal = (steal(*store, purpose) for purpose in (Purpose.ACCESS, Purpose.PRINCIPAL))
    forged = forge_access(access, genuine)
    assert stack.call("list_pods", ARGUMENTS, forged).status_code == 200, "the attack works"
    root = identity_pb2.Principal(issuer="kubegate", subject="admin", credential_id="made-up", auth_type="api_key")
    root.roles.append("admin")
    root.permissions.append("kubegate:*")
    root.namespaces.all = True

    def of_audit(token: str) -> str:
        async def ask() -> str:
            async with Stack.load(stack.home) as peers:
                metadata = (("kubegate-principal-token", token),)
                try:
                    await peers.peer("audit").unary(
                        lambda channel: audit_pb2_grpc.AuditServiceStub(channel).Stats,
                        audit_pb2.StatsRequest(),
                        Deadline.after(10),
                        metadata,
                    )
                except DomainError as error:
                    return error.code.name
                return "answered"

        return asyncio.run(ask())

    shown = forge_principal(principal, root, "operator/admin")
    assert of_audit(shown) == "answered", "the attack works"
    for key in (access, principal):
        done = stack.json("signing-keys", "withdraw", key.kid, "--reason", "a backup was stolen")
        assert done["withdrawn"] == key.kid
        assert key.kid not in {each["kid"] for each in stack.json("signing-keys", "list")}

    eventually(lambda: stack.call("list_pods", ARGUMENTS, forged).status_code == 401, "refused at the edge")
    eventually(lambda: of_audit(shown) == "UNAUTHENTICATED", "refused at audit")
    assert of_audit(forge_principal(principal, root, "operator/admin")) == "UNAUTHENTICATED"
    with stack.client() as client:
        assert access.kid not in client.get("/.well-known/jwks.json").text
    assert stack.call("list_pods", ARGUMENTS, genuine).status_code == 401
    renewed = _token(stack, "admin", stack.secret("admin.password")).json()["access_token"]
    assert stack.call("list_pods", ARGUMENTS, renewed).status_code == 200
    assert stack.call("list_pods", ARGUMENTS).status_code == 200
    assert stack.run("signing-keys", "withdraw", access.kid, "--reason", "again", check=False).returncode == 2
    dashed = stack.run("signing-keys", "withdraw", "-" * 43, "--reason", "as an id may begin", check=False)
    assert "no such signing key" in dashed.stderr
    told = stack.events(event_type="admin", action="keys.withdraw-signing", result="success")
    assert {event["metadata"]["reason"] for event in told} == {"a backup was stolen"}
    used = stack.json("audit", "query", "--type", "authentication", "--text", f"signing-key:{access.kid}")
    assert {event["principal"]["subject"] for event in used} == {"admin"}


@pytest.mark.req("I3.5", "R18")
def test_a_token_is_exchanged_at_the_edge_for_a_narrower_one_with_somebody_who_acts(stack: RunningStack) -> None:
    """As docs/integrating.md shows it."""
    password = stack.json("users", "create", "fay", "--role", "viewer", "--role", "admin")["password"]
    subject = _token(stack, "fay", password).json()["access_token"]
    actor = _token(stack, "admin", stack.secret("admin.password")).json()["access_token"]
    kind = "urn:ietf:params:oauth:token-type:access_token"
    asked = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": subject,
        "subject_token_type": kind,
        "actor_token": actor,
        "actor_token_type": kind,
        "scope": "viewer",
        "audience": "kubegate",
    }
    with stack.client() as client:
        answer = client.post("/auth/token", data=asked)
        wider = client.post("/auth/token", data={**asked, "scope": "viewer auditor"})
        elsewhere = client.post("/auth/token", data={**asked, "resource": "https://elsewhere.example"})
    assert answer.status_code == 200, answer.text
    assert (wider.status_code, elsewhere.status_code) == (400, 400)
    assert (answer.json()["scope"], answer.json()["issued_token_type"]) == ("viewer", kind)
    made = answer.json()["access_token"]
    assert stack.call("list_pods", ARGUMENTS, made).status_code == 200
    assert stack.call("list_secrets", ARGUMENTS, subject).status_code == 200
    assert stack.call("list_secrets", ARGUMENTS, made).status_code == 403
    (told,) = stack.events(event_type="mcp_request", user="fay", action="list_pods")
    assert told["principal"]["actors"] == ["admin"]
    stack.run("users", "disable", "fay")
    eventually(lambda: stack.call("list_pods", ARGUMENTS, made).status_code == 401, "it ends with its subject")
