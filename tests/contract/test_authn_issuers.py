"""Tokens of trusted issuers, against a real provider over HTTPS (I3.2, R1-R3)."""

import base64
import hmac
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from services.authn.adapters.signing_keys import generate
from services.authn.errors import PUBLIC_MESSAGE, Rejected
from services.authn.model import Principal, Secret
from services.common.errors import InvalidArgument
from tests.contract.issuer_trust import Trust
from tests.fakes.oidc_issuer import Issuer
from tests.unit.authn.support import NOW


@pytest.mark.req("I3.2", "R1", "R3")
@pytest.mark.parametrize("algorithm", ["ES256", "RS256", "EdDSA"])
async def test_a_token_of_a_trusted_issuer_names_somebody_of_there(
    trust: Callable[..., Trust], provider: Issuer, algorithm: str
) -> None:
    provider.new_key(algorithm)
    subject = trust()
    principal = await subject.prove_claims(amr=["pwd", "mfa"], auth_time=int(NOW.timestamp()) - 60)
    assert (principal.issuer, principal.subject) == (provider.url, "alice")
    assert (principal.auth_type, principal.amr) == ("jwt", ("pwd", "mfa"))
    assert principal.auth_time == NOW - timedelta(seconds=60)
    assert principal.expires_at == NOW + timedelta(minutes=5, seconds=30), "as long as it is accepted"
    assert (principal.roles, principal.permissions, principal.groups, principal.tenant) == ((), (), (), "")
    assert principal.credential_id.startswith("ext:")
    assert "j1" not in principal.credential_id, "no issuer chooses our names"


@pytest.mark.req("R3", "R2")
async def test_only_what_is_mapped_is_taken_over(trust: Callable[..., Trust]) -> None:
    claims = {
        "realm_access": {"roles": ["ops", "admin", "unmapped", 7]},
        "groups": ["dev", "system:masters", "a\nb"],
        "roles": ["admin"],
        "permissions": ["k8s:pods:list", "kubegate:*", "nonsense"],
        "tenant": "evil",
        "org": "acme",
    }
    plain = await trust().prove_claims(**claims)
    assert (plain.roles, plain.permissions, plain.groups, plain.tenant) == ((), (), (), "")
    settings = {
        "roles_claim": "realm_access.roles",
        "role_map": {"ops": "operator"},
        "default_roles": ("viewer",),
        "groups_claim": "groups",
        "tenant_claim": "org",
    }
    mapped = await trust(**settings).prove_claims(**claims)
    assert mapped.roles == ("viewer", "operator")
    assert mapped.groups == ("dev",), "system:* is nobody's group"
    assert mapped.tenant == "acme"
    assert mapped.permissions == ()
    honoured = await trust(permissions_claim="permissions").prove_claims(**claims)
    assert honoured.permissions == ("k8s:pods:list", "kubegate:*")
    with pytest.raises(Rejected):
        await trust(**settings).prove_claims(**{**claims, "org": None})


@pytest.mark.req("I6.23", "R3")
async def test_scopes_give_roles_and_never_more_than_the_person_has(trust: Callable[..., Trust]) -> None:
    settings = {"scope_map": {"kube:read": "viewer", "kube:ops": "operator", "kube:look": "viewer"}}
    bare = await trust(**settings).prove_claims()
    assert (bare.roles, dict(bare.obtainable)) == ((), settings["scope_map"])
    reader = await trust(**settings).prove_claims(scope="openid kube:read kube:unknown KUBE:OPS")
    assert (reader.roles, reader.obtainable) == (("viewer",), (("kube:ops", "operator"),))
    listed = await trust(**settings, scope_claim="scp").prove_claims(scp=["kube:ops"], scope="kube:read")
    assert listed.roles == ("operator",)
    both = {**settings, "roles_claim": "roles", "role_map": {"staff": "viewer", "ops": "operator"}}
    capped = await trust(**both).prove_claims(scope="kube:read kube:ops", roles=["staff"])
    assert (capped.roles, capped.obtainable) == (("viewer",), ()), "the client has the scope, the person not the role"
    careful = await trust(**both).prove_claims(scope="kube:read", roles=["staff", "ops"])
    assert (careful.roles, careful.obtainable) == (("viewer",), (("kube:ops", "operator"),))
    unmapped = await trust(roles_claim="roles", role_map=both["role_map"]).prove_claims(scope="x", roles=["ops"])
    assert (unmapped.roles, unmapped.obtainable) == (("operator",), ())
    for wrong in ({"a b": "viewer"}, {'a"b': "viewer"}, {"a": "no role"}, {"": "viewer"}):
        with pytest.raises(InvalidArgument):
            trust(scope_map=wrong)
    with pytest.raises(InvalidArgument, match="initial scopes"):
        trust(**settings, initial_scopes=("kube:admin",))


@pytest.mark.req("I6.22")
@pytest.mark.parametrize(
    ("audience", "accepted"),
    [
        ("https://gate.example/mcp", True),
        (["https://other.example", "https://gate.example/mcp"], True),
        ("https://gate.example/mcp/", False),
        ("https://gate.example", False),
        ("https://gate.example/mcp/tools", False),
        ("https://GATE.example/mcp", False),
        ("https://gate.example:443/mcp", False),
        (["https://other.example"], False),
        ([], False),
        ({"https://gate.example/mcp": 1}, False),
    ],
)
async def test_our_resource_url_must_be_in_aud_as_it_stands(
    trust: Callable[..., Trust], audience: Any, accepted: bool
) -> None:
    subject = trust(audience="https://gate.example/mcp")
    if accepted:
        assert (await subject.prove_claims(aud=audience)).subject == "alice"
    else:
        with pytest.raises(Rejected):
            await subject.prove_claims(aud=audience)


def _hs_with_public_key(provider: Issuer) -> str:
    """HS256 under the text of the public key, by hand: PyJWT itself refuses to."""
    key = provider.keys[-1]
    pem = key.public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    parts = [{"alg": "HS256", "typ": "at+jwt", "kid": key.kid}, provider.claims(NOW)]
    signed = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts)
    mac = base64.urlsafe_b64encode(hmac.digest(pem, signed, "sha256")).rstrip(b"=")
    return (signed + b"." + mac).decode()


def _unsigned(provider: Issuer) -> str:
    header = {"alg": "none", "typ": "at+jwt", "kid": provider.keys[-1].kid}
    parts = [json.dumps(part).encode() for part in (header, provider.claims(NOW))]
    return b".".join([*(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts), b""]).decode()


HOSTILE: dict[str, Callable[[Issuer], str]] = {
    "alg none": _unsigned,
    "HS256 under the public key": _hs_with_public_key,
    "another key": lambda p: p.sign(p.claims(NOW), generate("ES256"), kid=p.keys[-1].kid),
    "another algorithm under a known kid": lambda p: p.sign(p.claims(NOW), generate("EdDSA"), kid=p.keys[-1].kid),
    "unknown kid": lambda p: p.sign(p.claims(NOW), kid="other"),
    "wrong aud": lambda p: p.sign(p.claims(NOW, aud="elsewhere")),
    "no aud": lambda p: p.sign(p.claims(NOW, aud=None)),
    "wrong typ": lambda p: p.sign(p.claims(NOW), typ="JWT"),
    "no typ": lambda p: p.sign(p.claims(NOW), typ=None),
    "id token typ": lambda p: p.sign(p.claims(NOW), typ="id+jwt"),
    "principal token typ": lambda p: p.sign(p.claims(NOW), typ="kubegate-principal+jwt"),
    "missing exp": lambda p: p.sign(p.claims(NOW, exp=None)),
    "missing iat": lambda p: p.sign(p.claims(NOW, iat=None)),
    "missing jti": lambda p: p.sign(p.claims(NOW, jti=None)),
    "missing client_id": lambda p: p.sign(p.claims(NOW, client_id=None)),
    "expired": lambda p: p.sign(p.claims(NOW, exp=int(NOW.timestamp()) - 30)),
    "exp as text": lambda p: p.sign(p.claims(NOW, exp="soon")),
    "exp beyond all time": lambda p: p.sign(p.claims(NOW, exp=10**30)),
    "future nbf": lambda p: p.sign(p.claims(NOW, nbf=int(NOW.timestamp()) + 31)),
    "future iat": lambda p: p.sign(p.claims(NOW, iat=int(NOW.timestamp()) + 31)),
    "no sub": lambda p: p.sign(p.claims(NOW, sub=None)),
    "empty sub": lambda p: p.sign(p.claims(NOW, sub="")),
    "system sub": lambda p: p.sign(p.claims(NOW, sub="system:masters")),
    "system sub, odd case": lambda p: p.sign(p.claims(NOW, sub="System:admin")),
    "sub with control characters": lambda p: p.sign(p.claims(NOW, sub="a\nb")),
    "over-long sub": lambda p: p.sign(p.claims(NOW, sub="a" * 254)),
    "another issuer in the token": lambda p: p.sign(p.claims(NOW, iss="https://elsewhere")),
}


@pytest.mark.req("I3.11", "I3.2", "R2", "R5")
@pytest.mark.parametrize("name", HOSTILE)
async def test_everything_else_is_the_same_refusal(trust: Callable[..., Trust], provider: Issuer, name: str) -> None:
    subject = trust()
    text = HOSTILE[name](provider)
    with pytest.raises(Rejected) as caught:
        await subject.prove(text)
    assert caught.value.public_message == PUBLIC_MESSAGE
    assert caught.value.__cause__ is None
    assert text not in repr(caught.value)


@pytest.mark.req("I3.2")
async def test_hs256_only_with_a_secret_and_then_nothing_else(trust: Callable[..., Trust], provider: Issuer) -> None:
    subject = trust(secret=Secret("s" * 32), algorithms=(), token_types=("jwt",))
    assert subject.issuer.algorithms == ("HS256",)
    claims = provider.claims(NOW)
    good = jwt.encode(claims, "s" * 32, algorithm="HS256")
    assert (await subject.prove(good)).subject == "alice"
    with pytest.raises(Rejected):
        await subject.prove(jwt.encode(claims, "t" * 32, algorithm="HS256"))
    with pytest.raises(Rejected):
        await subject.prove(provider.sign(claims, typ="JWT"))
    for settings in ({"algorithms": ("HS256",)}, {"secret": Secret("s" * 32), "algorithms": ("RS256",)}):
        with pytest.raises(InvalidArgument, match="algorithms"):
            trust(**settings)


@pytest.mark.req("I3.3", "R2")
async def test_service_accounts_of_kubernetes_are_named_without_system(trust: Callable[..., Trust]) -> None:
    """As a TokenRequest signs them: no typ, an audience list, a private claim."""
    subject = trust(kubernetes=True, token_types=(), default_roles=("viewer",))
    provider = subject.provider
    claims = provider.claims(NOW, aud=["kubegate"], client_id=None, jti=None, nbf=int(NOW.timestamp()))
    claims |= {"kubernetes.io": {"namespace": "ops", "serviceaccount": {"name": "agent"}}}

    async def prove(sub: str) -> Principal:
        return await subject.prove(provider.sign({**claims, "sub": sub}, typ=None))

    principal = await prove("system:serviceaccount:ops:agent")
    assert principal.subject == "serviceaccount/ops/agent"
    assert principal.roles == ("viewer",)
    for sub in ("system:masters", "alice", "system:serviceaccount:ops", "system:serviceaccount:a/b:c", "system:node:n"):
        with pytest.raises(Rejected):
            await prove(sub)


@pytest.mark.req("I3.5")
async def test_a_token_of_elsewhere_can_be_ended_here_and_an_issuer_as_a_whole(trust: Callable[..., Trust]) -> None:
    subject = trust()
    principal = await subject.prove_claims()
    subject.revoked.names.add(principal.credential_id)
    with pytest.raises(Rejected):
        await subject.prove_claims()
    assert (await subject.prove_claims(jti="j2")).credential_id != principal.credential_id
    disabled = trust(enabled=False)
    with pytest.raises(Rejected):
        await disabled.prove_claims(jti="j2")


@pytest.mark.req("I3.6", "I2.11")
@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"issuer": "http://idp"}, "https URL"),
        ({"issuer": "https://user@idp"}, "https URL"),
        ({"issuer": "https://own.example"}, "our own"),
        ({"audience": ""}, "audience"),
        ({"jwks_uri": "file:///etc/passwd"}, "jwks_uri"),
        ({"algorithms": ("none",)}, "algorithms"),
        ({"default_roles": ("bad role",)}, "role"),
        ({"role_map": {"x": "system:masters"}}, "role"),
        ({"tenant": "t", "tenant_claim": "org"}, "not both"),
    ],
)
def test_an_issuer_that_breaks_the_rules_is_refused(
    trust: Callable[..., Trust], settings: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InvalidArgument, match=problem):
        trust(**settings)


@pytest.mark.req("I3.5", "I3.13")
async def test_a_token_without_an_id_is_the_same_one_however_its_signature_is_written(
    trust: Callable[..., Trust], provider: Issuer
) -> None:
    subject = trust(token_types=("jwt",))
    provider.new_key("ES256")
    text = provider.sign(provider.claims(subject.clock.now(), jti=None), typ="jwt")
    head, _, signature = text.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    other = raw[:32] + (order - int.from_bytes(raw[32:], "big")).to_bytes(32, "big")
    twin = f"{head}.{base64.urlsafe_b64encode(other).rstrip(b'=').decode()}"
    first = await subject.prove(text)
    assert (await subject.prove(twin)).credential_id == first.credential_id, "so revoking one ends both"
    await subject.revoked.revoke(first.credential_id, subject.clock.now())
    with pytest.raises(Rejected):
        await subject.prove(twin)
