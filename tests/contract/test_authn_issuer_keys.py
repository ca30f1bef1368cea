"""The key sets of trusted issuers: found, cached, fetched again, and what in them counts."""

import base64
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import jwt
import pytest

from services.authn.adapters.jwks import RETRY, STALE, TTL
from services.authn.adapters.signing_keys import jwk
from services.authn.errors import Rejected
from services.common.errors import Unavailable
from tests.contract.issuer_trust import Trust
from tests.fakes.oidc_issuer import Issuer
from tests.unit.authn.support import NOW


@pytest.mark.req("I3.2")
async def test_a_rotated_key_is_found_and_a_flood_of_unknown_ones_asks_once(
    trust: Callable[..., Trust], provider: Issuer
) -> None:
    subject = trust()
    await subject.prove_claims()
    asked = len(provider.requests)
    await subject.prove_claims()
    assert len(provider.requests) == asked, "kept"
    provider.new_key("RS256")
    with pytest.raises(Rejected):
        await subject.prove_claims()
    assert len(provider.requests) == asked, "asked less than RETRY ago"
    subject.clock.advance(RETRY)
    await subject.prove_claims()
    for number in range(50):
        with pytest.raises(Rejected):
            await subject.prove(provider.sign(provider.claims(subject.clock.now()), kid=f"unknown-{number}"))
    assert len(provider.requests) == asked + 2, "discovery and key set, once"


@pytest.mark.req("I3.2", "R27")
async def test_keys_outlive_an_outage_of_the_issuer_for_a_while_and_a_withdrawn_key_does_not(
    trust: Callable[..., Trust], provider: Issuer
) -> None:
    subject = trust()
    old = provider.keys[-1]
    await subject.prove_claims()
    provider.publish({"issuer": "https://elsewhere", "jwks_uri": f"{provider.url}/jwks"})
    subject.clock.advance(TTL)
    await subject.prove_claims()
    subject.clock.advance(STALE - TTL)
    with pytest.raises(Unavailable):
        await subject.prove_claims()
    provider.publish({"issuer": provider.url, "jwks_uri": f"{provider.url}/jwks"})
    provider.keys = []
    provider.new_key()
    subject.clock.advance(RETRY)
    await subject.prove_claims()
    with pytest.raises(Rejected):
        await subject.prove(provider.sign(provider.claims(subject.clock.now()), old))


@pytest.mark.req("I3.2")
@pytest.mark.parametrize(
    "discovery",
    [{}, [], {"issuer": "https://elsewhere"}, {"issuer": "URL", "jwks_uri": "http://URL/jwks"}, {"issuer": "URL"}],
    ids=str,
)
async def test_a_discovery_document_that_does_not_fit_gives_no_keys(
    trust: Callable[..., Trust], provider: Issuer, discovery: Any
) -> None:
    provider.publish(json.loads(json.dumps(discovery).replace('"URL"', f'"{provider.url}"')))
    with pytest.raises(Unavailable):
        await trust().prove_claims()


@pytest.mark.req("I3.2")
async def test_a_provider_with_another_certificate_is_not_asked(trust: Callable[..., Trust]) -> None:
    with pytest.raises(Unavailable):
        await trust(ca_pem="").prove_claims()


@pytest.mark.req("I3.2", "I3.11")
async def test_symmetric_and_odd_keys_of_a_key_set_are_ignored(trust: Callable[..., Trust], provider: Issuer) -> None:
    good = jwk(provider.keys[-1].public, "ES256")
    secret = base64.urlsafe_b64encode(b"s" * 32).rstrip(b"=").decode()
    weak = {"kty": "RSA", "kid": "weak", "n": base64.urlsafe_b64encode(b"\xff" * 128).decode(), "e": "AQAB"}
    provider.publish_keys(
        {"kty": "oct", "kid": "h", "k": secret, "alg": "HS256"},
        {**good, "kid": "enc", "use": "enc"},
        {**good, "kid": "mismatch", "alg": "RS256"},
        weak,
        {"kty": ["x"]},
        "text",
        7,
    )
    subject = trust()
    await subject.prove_claims()
    forged = jwt.encode(provider.claims(NOW), "s" * 32, algorithm="HS256", headers={"typ": "at+jwt", "kid": "h"})
    with pytest.raises(Rejected):
        await subject.prove(forged)
    subject = trust()
    for kid in ("enc", "mismatch", "weak"):
        with pytest.raises(Rejected):
            await subject.prove(provider.sign(provider.claims(NOW), kid=kid))


@pytest.mark.req("I3.2")
async def test_a_change_of_something_else_does_not_lose_the_keys(trust: Callable[..., Trust], provider: Issuer) -> None:
    """A shared store reads all its records anew when one of them changes."""
    subject = trust()
    await subject.prove_claims()
    fetched = provider.requests.count("/jwks")
    subject.issuer = dataclasses.replace(subject.issuer, default_roles=("viewer",))
    assert (await subject.prove_claims()).roles == ("viewer",)
    assert provider.requests.count("/jwks") == fetched
    subject.issuer = dataclasses.replace(subject.issuer, algorithms=("RS256",))
    with pytest.raises(Rejected):
        await subject.prove_claims()
