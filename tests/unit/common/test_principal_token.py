"""The principal token: whose word it is, for whom, how long (R5)."""

import json
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from kubegate.authn.v1 import authn_pb2
from kubegate.common.v1 import identity_pb2
from services.common import principal_token
from services.common.errors import Unauthenticated, Unavailable
from services.common.principal_token import PrincipalVerifier, RemotePrincipalKeys
from tests.fakes.clock import FakeClock

KEY = Ed25519PrivateKey.generate()
PRINCIPAL = identity_pb2.Principal(
    issuer="kubegate",
    subject="alice",
    credential_id="k1",
    auth_type="api_key",
    roles=["viewer"],
    namespaces=identity_pb2.NamespaceScope(patterns=["feature-*"]),
)


class Keys:
    async def find(self, key_id: str, since: float = principal_token.NO_MATTER) -> Any:
        return KEY.public_key() if key_id == "p1" else None


def token(clock: FakeClock, **changes: Any) -> str:
    issued = principal_token.issue(PRINCIPAL, "service/mcp-core", KEY, "p1", now=clock.now(), token_id="t1")
    if not changes:
        return issued
    claims = {**jwt.decode(issued, options={"verify_signature": False}), **changes.get("claims", {})}
    claims = {name: value for name, value in claims.items() if value is not None}
    headers = {"typ": principal_token.TYP, "kid": "p1", **changes.get("headers", {})}
    return jwt.encode(claims, changes.get("key", KEY), algorithm=changes.get("algorithm", "EdDSA"), headers=headers)


@pytest.mark.req("R5", "I2.7")
async def test_a_token_carries_the_whole_principal_to_its_party() -> None:
    clock = FakeClock()
    verified = await PrincipalVerifier(Keys(), clock).verify(token(clock))
    assert verified.principal == PRINCIPAL
    assert verified.authorized_party == "service/mcp-core"
    assert verified.token_id == "t1"
    assert (verified.expires_at - clock.now()).total_seconds() == 60


@pytest.mark.req("R5")
async def test_a_token_ends_also_where_it_was_seen_before() -> None:
    clock = FakeClock()
    text, seen = token(clock), PrincipalVerifier(Keys(), clock)
    clock.advance(59)
    await seen.verify(text)
    clock.advance(1)
    for verifier in (seen, PrincipalVerifier(Keys(), clock)):
        with pytest.raises(Unauthenticated):
            await verifier.verify(text)


@pytest.mark.req("R5", "I3.13")
async def test_a_token_ends_with_the_credential_behind_it() -> None:
    clock = FakeClock()
    ending = identity_pb2.Principal()
    ending.CopyFrom(PRINCIPAL)
    ending.expires_at.FromDatetime(clock.now() + timedelta(seconds=20))
    text = principal_token.issue(ending, "service/mcp-core", KEY, "p1", now=clock.now(), token_id="t1")
    seen = PrincipalVerifier(Keys(), clock)
    clock.advance(19)
    await seen.verify(text)
    clock.advance(1)
    for verifier in (seen, PrincipalVerifier(Keys(), clock)):
        with pytest.raises(Unauthenticated):
            await verifier.verify(text)


PUBLIC_PEM = KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.req("R5", "I2.7")
@pytest.mark.parametrize(
    "changes",
    [
        {"headers": {"typ": "at+jwt"}},
        {"headers": {"typ": "JWT"}},
        {"headers": {"kid": "other"}},
        {"key": Ed25519PrivateKey.generate()},
        {"key": "", "algorithm": "none"},
        {"key": "0" * 32, "algorithm": "HS256"},
        {"claims": {"aud": "kubegate"}},
        {"claims": {"aud": None}},
        {"claims": {"iss": "elsewhere"}},
        {"claims": {"exp": None}},
        {"claims": {"exp": "soon"}},
        {"claims": {"exp": 1e30}},
        {"claims": {"azp": None}},
        {"claims": {"azp": "spiffe://elsewhere/service/mcp-core"}},
        {"claims": {"azp": ["spiffe://kubegate.internal/service/mcp-core"]}},
        {"claims": {"principal": "!!!"}},
        {"claims": {"principal": 7}},
        {"claims": {"principal": None}},
        {"claims": {"principal": ""}},
    ],
    ids=lambda changes: "foreign key" if isinstance(changes.get("key"), Ed25519PrivateKey) else str(changes),
)
async def test_anything_else_is_refused_with_one_sentence(changes: dict[str, Any]) -> None:
    clock = FakeClock()
    with pytest.raises(Unauthenticated) as caught:
        await PrincipalVerifier(Keys(), clock).verify(token(clock, **changes))
    assert caught.value.public_message == "The principal token is not valid; authenticate again."


@pytest.mark.parametrize("text", ["", "x", "a.b.c", "\ud800", "..", "eyJhbGciOiJub25lIn0.e30."])
async def test_garbage_is_refused(text: str) -> None:
    with pytest.raises(Unauthenticated):
        await PrincipalVerifier(Keys(), FakeClock()).verify(text)


@pytest.mark.req("I3.17", "R5")
async def test_a_token_that_was_seen_is_refused_when_its_key_is_there_no_more() -> None:
    clock, keys = FakeClock(), Keys()
    verifier = PrincipalVerifier(keys, clock)
    text = token(clock)
    await verifier.verify(text)

    async def nothing(key_id: str, since: float = principal_token.NO_MATTER) -> Any:
        return None

    keys.find = nothing  # type: ignore[method-assign]
    with pytest.raises(Unauthenticated):
        await verifier.verify(text)


class Authn:
    """Answers for the keys; ``away`` does not."""

    def __init__(self) -> None:
        self.kids = ["k1"]
        self.asked = 0
        self.away = False

    async def unary(self, *arguments: Any) -> Any:
        self.asked += 1
        if self.away:
            raise Unavailable("away")
        jwk = {**json.loads(OKPAlgorithm.to_jwk(KEY.public_key())), "alg": "EdDSA"}
        return authn_pb2.GetPrincipalKeysResponse(
            jwks_json=json.dumps({"keys": [{**jwk, "kid": k} for k in self.kids]})
        )


@pytest.mark.req("I3.17", "R12")
async def test_keys_that_were_asked_for_before_a_moment_that_matters_do_not_count() -> None:
    clock, authn = FakeClock(), Authn()
    peer: Any = authn
    keys = RemotePrincipalKeys(peer, clock)
    assert await keys.find("k1") is not None
    assert await keys.find("k1", clock.monotonic()) is not None
    assert authn.asked == 1
    authn.kids = ["k2"]
    clock.advance(0.1)
    assert await keys.find("k1", clock.monotonic()) is None
    assert authn.asked == 2, "sooner than an unknown id would be asked for"
    clock.advance(0.1)
    authn.away = True
    for _ in range(3):
        with pytest.raises(Unavailable):
            await keys.find("k2", clock.monotonic())
    assert authn.asked == 3
    clock.advance(1)
    authn.away = False
    assert await keys.find("k2", clock.monotonic() - 1) is not None
