"""A real OpenID provider, the MCP client's own OAuth flow, and docs/identity-providers.md as it stands (I6.24)."""

from __future__ import annotations

import asyncio
import re
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from pydantic import AnyUrl

from kubegate.authn.v1 import authn_pb2, authn_pb2_grpc
from services.authn.adapters.signing_keys import generate
from services.common.config import PeerAddress, TlsFiles
from services.common.deadline import Deadline
from services.common.grpc_client import Peer
from services.common.tls import server_name
from tests.e2e.stack import VIEWER_TOOLS, eventually
from tests.e2e.trusting import TrustingStack
from tests.fakes.openid_provider import CALLBACK, PERSON, ROBOT, ROBOT_SECRET, OpenIdProvider

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "identity-providers.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^```sh\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
READ, OPERATE = "kube:read", "kube:operate"
WHERE = {"namespace": "default"}
SCALE = {**WHERE, "name": "nginx", "replicas": 3}


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenIdProvider]:
    provider = OpenIdProvider(tmp_path_factory.mktemp("provider"), (READ, OPERATE))
    provider.start()
    yield provider
    provider.stop()


@dataclass(frozen=True)
class Gate:
    """The stack, and the provider that it trusts."""

    stack: TrustingStack
    provider: OpenIdProvider
    said: tuple[str, ...] = ()
    """What each of the guide's commands printed."""

    @property
    def resource(self) -> str:
        return self.stack.mcp_url

    def challenge(self, error: str = "", scope: str = READ) -> str:
        metadata = f"{self.stack.base_url}/.well-known/oauth-protected-resource/mcp"
        parts = f'Bearer realm="kubegate", resource_metadata="{metadata}", scope="{scope}"'
        return f'{parts}, error="{error}"' if error else parts

    def token(self, scope: str = READ, changes: Mapping[str, Any] | None = None) -> str:
        """As the provider signs them, with claims changed; ``key`` is what signs."""
        claims = dict(changes or {})
        return self.provider.token(self.resource, scope, claims.pop("key", None), **claims)

    def list_pods(self, token: str) -> httpx.Response:
        return self.stack.call("list_pods", WHERE, token)

    def trust(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.stack.ca_file)
        context.load_verify_locations(self.provider.ca_file)
        return context


@pytest.fixture(scope="module")
def gate(trusting: TrustingStack, provider: OpenIdProvider, tmp_path_factory: pytest.TempPathFactory) -> Gate:
    """Every command of the guide has been run, in order."""
    clone = tmp_path_factory.mktemp("clone")
    (clone / ".kubegate").symlink_to(trusting.home)
    (clone / ".venv").symlink_to(Path(sys.prefix))
    (clone / "login-ca.pem").symlink_to(provider.ca_file)
    said = []
    for block in COMMANDS:
        script = block.replace("https://localhost:8443", trusting.base_url)
        script = script.replace("https://login.example.com", provider.url)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=clone,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        said.append(done.stdout)
    gate = Gate(trusting, provider, tuple(said))
    eventually(lambda: gate.list_pods(gate.token()).status_code == 200, "the provider's tokens are accepted")
    return gate


@pytest.mark.req("I6.20", "I6.24")
def test_the_guide_leads_to_metadata_that_names_the_provider(gate: Gate) -> None:
    assert len(COMMANDS) == 3
    assert gate.provider.url in gate.said[0]
    with gate.stack.client() as client:
        for path in ("", "/mcp"):
            metadata = client.get(f"/.well-known/oauth-protected-resource{path}").json()
            assert metadata["resource"] == gate.resource
            assert metadata["authorization_servers"] == [gate.provider.url]
            assert metadata["scopes_supported"] == [OPERATE, READ]


@dataclass
class Storage:
    """What a client keeps; it is registered at the provider."""

    client: OAuthClientInformationFull | None = None
    tokens: OAuthToken | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


@dataclass
class Person:
    """Somebody at a browser. ``asked``: the parameters of each authorization that the client sent him to."""

    provider: OpenIdProvider
    name: str
    asked: list[dict[str, str]] = field(default_factory=list)
    _back: dict[str, str] = field(default_factory=dict)

    async def redirect(self, url: str) -> None:
        self.asked.append({key: values[0] for key, values in parse_qs(urlsplit(url).query).items()})
        self._back = self.provider.sign_in(url, self.name)

    async def callback(self) -> AuthorizationCodeResult:
        return AuthorizationCodeResult(code=self._back["code"], state=self._back["state"], iss=self._back.get("iss"))


@asynccontextmanager
async def connected(gate: Gate, auth: httpx2.Auth, era: str = "2026-07-28") -> AsyncIterator[Client]:
    async with (
        httpx2.AsyncClient(auth=auth, verify=gate.trust(), timeout=60, trust_env=False) as http,
        Client(streamable_http_client(gate.resource, http_client=http), mode=era, cache=None) as client,
    ):
        yield client


@pytest.mark.req("I6.24", "I6.21", "I6.22")
@pytest.mark.parametrize("era", ["2026-07-28", "legacy"])
async def test_a_person_signs_in_and_later_gives_the_agent_more(gate: Gate, era: str) -> None:
    """Nothing is told to the client but the URL: it finds the provider, signs in with PKCE, and steps up on a 403."""
    person = Person(gate.provider, f"ana-{era}")
    registered = OAuthClientInformationFull(
        client_id=PERSON, redirect_uris=[AnyUrl(CALLBACK)], token_endpoint_auth_method="none"
    )
    storage = Storage(registered)
    metadata = OAuthClientMetadata(redirect_uris=[AnyUrl(CALLBACK)], token_endpoint_auth_method="none")
    auth = OAuthClientProvider(gate.resource, metadata, storage, person.redirect, person.callback)
    async with connected(gate, auth, era) as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        assert tools == VIEWER_TOOLS
        listed = await client.call_tool("list_pods", WHERE)
        assert not listed.is_error
        (first,) = person.asked
        assert first["scope"].split()[0] == READ
        assert OPERATE not in first["scope"]
        assert (first["code_challenge_method"], first["resource"]) == ("S256", gate.resource)
        scaled = await client.call_tool("scale_deployment", SCALE)
        assert not scaled.is_error, scaled.content
        assert len(person.asked) == 2
        assert {READ, OPERATE} <= set(person.asked[1]["scope"].split())
    user = f"{gate.provider.url}:{person.name}"
    calls = gate.stack.events(event_type="mcp_request", user=user, action="scale_deployment")
    whole = [event for event in calls if event.get("phase") != "intent"]
    assert [event["result"] for event in whole] == ["failure", "success"]
    assert whole[0]["metadata"]["missing_scopes"] == OPERATE
    assert storage.tokens is not None
    _assert_nowhere(gate, storage.tokens.access_token)


@pytest.mark.req("I6.24")
async def test_a_robot_has_client_credentials(gate: Gate) -> None:
    auth = ClientCredentialsOAuthProvider(
        gate.resource, Storage(), ROBOT, ROBOT_SECRET, "client_secret_basic", issuer=gate.provider.url
    )
    async with connected(gate, auth) as client:
        listed = await client.call_tool("list_pods", WHERE)
        assert not listed.is_error
    assert gate.stack.events(event_type="mcp_request", user=f"{gate.provider.url}:{ROBOT}", action="list_pods")


def _moment(shift: int) -> int:
    return int(time.time()) + shift


INVALID: dict[str, dict[str, Any]] = {
    "another audience": {"aud": "https://other.example/mcp"},
    "the host alone as audience": {"aud": "https://localhost"},
    "no audience": {"aud": None},
    "another issuer": {"iss": "https://elsewhere.example"},
    "our own issuer": {"iss": "kubegate"},
    "expired": {"exp": -31, "iat": -300},
    "not yet valid": {"nbf": 60},
    "issued in the future": {"iat": 60, "exp": 120},
    "no end": {"exp": None},
    "no id": {"jti": None},
    "a key that the provider does not publish": {"key": generate("ES256")},
}


@pytest.mark.req("I6.24", "I6.20", "I6.22", "I3.11")
@pytest.mark.parametrize("name", INVALID)
def test_a_token_that_is_not_for_us_or_not_of_now_is_401(gate: Gate, name: str) -> None:
    changes = {
        claim: _moment(value) if claim in ("exp", "nbf", "iat") and value is not None else value
        for claim, value in INVALID[name].items()
    }
    token = gate.token(changes=changes)
    with gate.stack.client(token) as client:
        over_mcp = client.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    for response in (gate.list_pods(token), over_mcp):
        assert response.status_code == 401
        assert response.headers.get_list("www-authenticate")[0] == gate.challenge("invalid_token")
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["detail"] == "Authentication failed: the credential is not valid."


@pytest.mark.req("I6.24", "I6.20")
def test_without_a_token_there_is_no_error_to_name(gate: Gate) -> None:
    with gate.stack.client() as client:
        bare = client.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    assert bare.status_code == 401
    assert bare.headers.get_list("www-authenticate")[0] == gate.challenge()


@pytest.mark.req("I6.24", "I6.21", "I6.23")
def test_missing_scopes_are_named_where_they_help(gate: Gate) -> None:
    def challenge(response: httpx.Response) -> str:
        assert response.status_code == 403
        return str(response.headers.get("www-authenticate", ""))

    metadata = gate.challenge().partition('resource_metadata="')[2].partition('"')[0]

    def expected(scopes: str) -> str:
        error = f'error="insufficient_scope", scope="{scopes}"'
        return f'Bearer realm="kubegate", {error}, resource_metadata="{metadata}"'

    assert challenge(gate.list_pods(gate.token("openid"))) == expected(READ)
    reader = gate.token(READ)
    for _ in range(2):
        # The second time the core remembers who it is.
        assert challenge(gate.stack.call("scale_deployment", SCALE, reader)) == expected(OPERATE)
    assert challenge(gate.stack.call("scale_deployment", SCALE, gate.token(""))) == expected(OPERATE)
    nobody_may = {**SCALE, "namespace": "production"}
    assert challenge(gate.stack.call("scale_deployment", nobody_may, gate.token(READ))) == ""
    assert challenge(gate.stack.call("scale_deployment", SCALE, gate.stack.viewer)) == "", "a key has no scopes"
    assert gate.stack.call("scale_deployment", SCALE, gate.token(f"{READ} {OPERATE}")).status_code == 200


def _revoke(gate: Gate, token: str, certificates: Path) -> None:
    gate.stack.run("certs", "issue", "platform/reviewer", "--out", str(certificates))
    files = TlsFiles(
        cert_file=certificates / "tls.crt", key_file=certificates / "tls.key", ca_file=certificates / "ca.crt"
    )
    address = PeerAddress(address=gate.stack.endpoints["services"]["authn"], server_name=server_name("authn"))

    async def ask() -> None:
        peer = Peer("authn", address, files)
        try:
            await peer.unary(
                lambda channel: authn_pb2_grpc.AuthnServiceStub(channel).Revoke,
                authn_pb2.RevokeRequest(token=token),
                Deadline.after(15),
            )
        finally:
            await peer.close()

    asyncio.run(ask())


@pytest.mark.req("I6.24", "I3.13")
def test_a_revoked_token_is_401_and_another_one_is_not(gate: Gate, tmp_path: Path) -> None:
    ended, other = gate.token(), gate.token()
    assert gate.list_pods(ended).status_code == gate.list_pods(other).status_code == 200
    _revoke(gate, ended, tmp_path / "reviewer")
    eventually(lambda: gate.list_pods(ended).status_code == 401, "revoked")
    refused = gate.list_pods(ended)
    assert refused.headers.get_list("www-authenticate")[0] == gate.challenge("invalid_token")
    assert gate.list_pods(other).status_code == 200


@pytest.mark.req("I6.24", "I3.13")
def test_an_issuer_that_is_trusted_no_more_is_named_no_more(gate: Gate) -> None:
    token = gate.token()
    assert gate.list_pods(token).status_code == 200
    gate.stack.run("issuers", "disable", gate.provider.url)
    path = "/.well-known/oauth-protected-resource"
    with gate.stack.client() as client:
        try:
            eventually(lambda: gate.list_pods(token).status_code == 401, "refused")
            eventually(lambda: "authorization_servers" not in client.get(path).json(), "named no more")
        finally:
            gate.stack.run("issuers", "enable", gate.provider.url)
        eventually(lambda: gate.list_pods(gate.token()).status_code == 200, "accepted again")
        # What the edge knows of issuers is five seconds old at most; the tests that follow see it as it is.
        eventually(lambda: "authorization_servers" in client.get(path).json(), "named again")


@pytest.mark.req("I6.24")
def test_a_key_rolls_over(gate: Gate) -> None:
    """A token with the new key has it fetched, at most every ten seconds; then nothing of the old one is accepted."""
    old = gate.provider.roll_over()
    eventually(lambda: gate.list_pods(gate.token()).status_code == 200, "the new key is accepted")
    forged = gate.token(changes={"key": old})
    refused = gate.list_pods(forged)
    assert refused.status_code == 401
    assert refused.headers.get_list("www-authenticate")[0] == gate.challenge("invalid_token")


def _assert_nowhere(gate: Gate, token: str) -> None:
    """No part of a token that somebody could use lies in any file of the stack: logs, records, stores."""
    secret = token.rpartition(".")[2].encode()
    held = [path for path in gate.stack.home.rglob("*") if path.is_file() and secret in path.read_bytes()]
    assert not held


@pytest.mark.req("I6.22", "I6.30", "I3.14")
def test_a_token_is_written_nowhere_whatever_becomes_of_it(gate: Gate) -> None:
    token = gate.token()
    with gate.stack.client(token) as client:
        assert client.post("/mcp/tools/list_pods", json=WHERE).status_code == 200
        assert client.post("/mcp/tools/scale_deployment", json=SCALE).status_code == 403
        assert client.get(f"/mcp/resources?access_token={token}").status_code == 401
        assert client.get(f"/nothing/{token}").status_code == 404
        assert client.post(f"/mcp/tools/{token}", json={}).status_code == 403
        assert client.post("/mcp/tools/list_pods", json={"namespace": token}).status_code == 400
        assert client.post("/mcp/tools/list_pods", content=f'{{"{token}": 1}}').status_code == 400
        assert client.get("/healthz", headers={"host": "evil.example", "origin": token}).status_code == 421
        assert client.post("/mcp/tools/list_pods", json=WHERE, headers={"user-agent": token}).status_code == 200
        assert client.post("/mcp", json={"jsonrpc": "2.0", "id": token, "method": token}).status_code in (200, 400, 404)
    assert gate.stack.call("list_pods", WHERE, token + "x").status_code == 401
    _assert_nowhere(gate, token)
