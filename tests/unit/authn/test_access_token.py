"""Access tokens: everything but our own, whole and timely, is the same refusal (I2.3, R5)."""

import base64
import hmac
import json
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from services.authn.adapters.access_token import LEEWAY, AccessTokenAuthenticator, AccessTokenIssuer
from services.authn.adapters.principal_tokens import OperatorTokenVerifier, PrincipalTokenIssuer
from services.authn.errors import PUBLIC_MESSAGE, Rejected
from services.authn.model import Principal
from services.common.errors import Unauthenticated
from tests.fakes.clock import FakeClock
from tests.unit.authn.support import NOW, Keys, Users, holders, make_ring, make_user, token

AUDIENCE = "https://localhost:8443/mcp"
CLOCK = FakeClock(NOW)
RING = make_ring()
SECONDS = int(NOW.timestamp())


def issuer(clock: FakeClock = CLOCK, lifetime: int = 3600) -> AccessTokenIssuer:
    return AccessTokenIssuer(RING, "kubegate", AUDIENCE, lifetime, clock)


def authenticator(users: Users | None = None) -> AccessTokenAuthenticator:
    return AccessTokenAuthenticator(holders(users or Users(make_user()), Keys(), RING), "kubegate", AUDIENCE)


def principal() -> Principal:
    return make_user().principal("password", "password:admin", NOW, ("pwd",))


def claims(**changes: Any) -> dict[str, Any]:
    whole = {
        "iss": "kubegate",
        "aud": AUDIENCE,
        "sub": "admin",
        "iat": SECONDS,
        "nbf": SECONDS,
        "exp": SECONDS + 3600,
        "jti": "token-1",
        "auth_time": SECONDS,
        "amr": ["pwd"],
    }
    return {name: value for name, value in {**whole, **changes}.items() if value is not None}


def signed(payload: dict[str, Any], key: Any = None, algorithm: str = "EdDSA", **headers: Any) -> str:
    header = {"typ": "at+jwt", "kid": RING.current.kid, **headers}
    return jwt.encode(payload, key or RING.current.private, algorithm=algorithm, headers=header)


def unsigned(header: dict[str, Any], payload: dict[str, Any], signature: bytes = b"") -> str:
    parts = [json.dumps(header).encode(), json.dumps(payload).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


@pytest.mark.req("I2.3", "R3")
async def test_a_token_names_the_user_whose_roles_come_from_the_store() -> None:
    text = issuer().issue(principal(), "service/mcp-core").reveal()
    proved = await authenticator(Users(make_user(roles=("changed",)))).authenticate(token(text), NOW)
    assert proved.subject == "admin"
    assert proved.roles == ("changed",)
    assert proved.auth_type == "jwt"
    assert proved.amr == ("pwd",)
    assert proved.auth_time == NOW
    assert proved.expires_at == NOW + timedelta(hours=1, seconds=30), "as long as it is accepted"
    decoded = jwt.decode(text, options={"verify_signature": False})
    assert proved.credential_id == decoded["jti"]
    assert decoded["client_id"] == "service/mcp-core"
    assert "roles" not in decoded
    assert jwt.get_unverified_header(text) == {"alg": "EdDSA", "typ": "at+jwt", "kid": RING.current.kid}


async def test_a_handmade_token_of_ours_is_accepted() -> None:
    """So that the refusals below are refused for what they change."""
    assert (await authenticator().authenticate(token(signed(claims())), NOW)).subject == "admin"


PUBLIC_PEM = RING.current.public.public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)
HEADER = {"alg": "none", "typ": "at+jwt", "kid": RING.current.kid}
HOSTILE: dict[str, Callable[[], str]] = {
    "alg none": lambda: unsigned(HEADER, claims()),
    "alg none, odd case": lambda: unsigned({**HEADER, "alg": "nOnE"}, claims()),
    "no alg": lambda: unsigned({"typ": "at+jwt", "kid": RING.current.kid}, claims()),
    "HS256 under the public key": lambda: unsigned(
        {**HEADER, "alg": "HS256"},
        claims(),
        hmac.digest(PUBLIC_PEM, unsigned({**HEADER, "alg": "HS256"}, claims()).rpartition(".")[0].encode(), "sha256"),
    ),
    "HS256 under a secret": lambda: signed(claims(), "s" * 32, "HS256"),
    "RS256": lambda: signed(claims(), rsa.generate_private_key(65537, 2048), "RS256"),
    "another key": lambda: signed(claims(), make_ring().current.private),
    "unknown kid": lambda: signed(claims(), kid="other"),
    "kid of another type": lambda: unsigned({**HEADER, "kid": ["x"]}, claims()),
    "own jwk in the header": lambda: signed(claims(), make_ring().current.private, jwk={"kty": "OKP"}),
    "typ JWT": lambda: signed(claims(), typ="JWT"),
    "typ of a principal token": lambda: signed(claims(), typ="kubegate-principal+jwt"),
    "wrong aud": lambda: signed(claims(aud="https://elsewhere/mcp")),
    "aud list that contains ours": lambda: signed(claims(aud=[AUDIENCE, "https://elsewhere"])),
    "aud of principal tokens": lambda: signed(claims(aud="kubegate-internal")),
    "wrong iss": lambda: signed(claims(iss="https://elsewhere")),
    **{
        f"missing {name}": partial(lambda name: signed(claims(**{name: None})), name)
        for name in ("iss", "aud", "sub", "exp", "nbf", "iat", "jti", "auth_time")
    },
    "exp as text": lambda: signed(claims(exp=str(SECONDS + 3600))),
    "exp as true": lambda: signed(claims(exp=True)),
    "exp beyond all time": lambda: signed(claims(exp=10**30)),
    "expired": lambda: signed(claims(exp=SECONDS - LEEWAY)),
    "future nbf": lambda: signed(claims(nbf=SECONDS + LEEWAY + 1)),
    "future iat": lambda: signed(claims(iat=SECONDS + LEEWAY + 1)),
    "sub as number": lambda: signed(claims(sub=7)),
    "unknown user": lambda: signed(claims(sub="nobody")),
    "issued before the user was made": lambda: signed(claims(iat=SECONDS - 1)),
    "payload is a list": lambda: unsigned({**HEADER, "alg": "EdDSA"}, []),  # type: ignore[arg-type]
    "deep header": lambda: base64.urlsafe_b64encode(b"[" * 5000).decode() + ".e30.x",
    "not base64": lambda: "\x00.\u20ac.!",
    "only dots": lambda: "..",
}


@pytest.mark.req("I2.3", "R5")
@pytest.mark.parametrize("name", HOSTILE)
async def test_everything_else_is_the_same_refusal(name: str) -> None:
    text = HOSTILE[name]()
    assert authenticator().recognises(token(text))
    with pytest.raises(Rejected) as caught:
        await authenticator().authenticate(token(text), NOW)
    assert caught.value.public_message == PUBLIC_MESSAGE
    assert caught.value.__cause__ is None
    assert text not in repr(caught.value)


@pytest.mark.parametrize(
    "changes",
    [{"exp": SECONDS - LEEWAY + 1}, {"nbf": SECONDS + LEEWAY}, {"iat": SECONDS + LEEWAY}],
)
async def test_clocks_may_differ_by_the_leeway(changes: dict[str, int]) -> None:
    assert (await authenticator().authenticate(token(signed(claims(**changes))), NOW)).subject == "admin"


@pytest.mark.req("R5")
async def test_principal_and_access_tokens_never_pass_for_each_other() -> None:
    """Not even under one key: the types differ."""
    principal_token = PrincipalTokenIssuer(RING, CLOCK).issue(principal(), "operator/alice", 7)
    verifier = OperatorTokenVerifier(RING, CLOCK)
    assert (await verifier.verify(principal_token))[1:] == ("operator/alice", 7)
    with pytest.raises(Rejected):
        await authenticator().authenticate(token(principal_token), NOW)
    access_token = issuer().issue(principal(), "service/mcp-core").reveal()
    with pytest.raises(Unauthenticated):
        await verifier.verify(access_token)


@pytest.mark.req("I2.3")
async def test_disabling_a_user_ends_the_users_tokens() -> None:
    text = issuer().issue(principal(), "service/mcp-core").reveal()
    with pytest.raises(Rejected):
        await authenticator(Users(make_user(enabled=False))).authenticate(token(text), NOW)


@pytest.mark.req("R5", "R3")
async def test_a_principal_token_carries_the_whole_principal_for_a_minute() -> None:
    clock = FakeClock(NOW)
    proved = make_user(permissions=("kubegate:*",), tenant="t").principal(
        "jwt", "id-1", NOW, ("pwd",), NOW + timedelta(hours=1)
    )
    text = PrincipalTokenIssuer(RING, clock).issue(proved, "service/mcp-core", 3)
    verifier = OperatorTokenVerifier(RING, clock)
    assert await verifier.verify(text) == (proved, "service/mcp-core", 3)
    clock.advance(60)
    with pytest.raises(Unauthenticated):
        await verifier.verify(text)
