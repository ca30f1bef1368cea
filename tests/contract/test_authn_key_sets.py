"""Key sets of trusted issuers are renewed beside the proofs that use them; an issuer that is away holds nobody up."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from services.authn.adapters.jwks import AHEAD, RETRY, STALE, TTL, HttpsDocuments
from services.authn.errors import Rejected
from tests.contract.issuer_trust import Trust
from tests.fakes.oidc_issuer import Issuer


class Held:
    """Documents that come when they are let through."""

    def __init__(self, documents: HttpsDocuments) -> None:
        self._documents = documents
        self.asked = 0
        self.open = asyncio.Event()
        self.open.set()

    async def get(self, url: str, ca_pem: str) -> Any:
        self.asked += 1
        await self.open.wait()
        return await self._documents.get(url, ca_pem)


async def idle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.req("I3.2", "R27")
async def test_no_proof_waits_for_an_issuer_that_is_away_while_its_keys_are_good(
    trust: Callable[..., Trust], provider: Issuer
) -> None:
    """Regression: from the TTL on every proof waited for the fetch, again every RETRY seconds."""
    real = HttpsDocuments()
    held = Held(real)
    try:
        subject = trust(documents=held)
        await subject.prove_claims()
        fetched = held.asked
        held.open.clear()
        subject.clock.advance(TTL - AHEAD)
        for seconds in (0, AHEAD, RETRY, STALE - TTL - RETRY - 1):
            subject.clock.advance(seconds)
            await subject.prove_claims()
            await idle()
        assert held.asked == fetched + 1, "one fetch, beside the proofs"
        unknown = asyncio.create_task(subject.prove(provider.sign(provider.claims(subject.clock.now()), kid="unknown")))
        await idle()
        assert not unknown.done(), "who needs what nobody has yet waits"
        await subject.prove_claims()
        held.open.set()
        with pytest.raises(Rejected):
            await unknown
    finally:
        real.close()


@pytest.mark.req("I3.2", "R27")
async def test_a_key_that_was_withdrawn_long_ago_is_not_taken_once_more(
    trust: Callable[..., Trust], provider: Issuer
) -> None:
    """Keys that nobody has used for long are asked for before they are believed again."""
    subject = trust()
    old = provider.keys[-1]
    await subject.prove_claims()
    provider.keys = []
    provider.new_key()
    subject.clock.advance(TTL)
    with pytest.raises(Rejected):
        await subject.prove(provider.sign(provider.claims(subject.clock.now()), old))


@pytest.mark.req("I3.2", "R27")
async def test_keys_in_use_are_renewed_before_anybody_has_to_wait(
    trust: Callable[..., Trust], provider: Issuer
) -> None:
    real = HttpsDocuments()
    held = Held(real)
    try:
        subject = trust(documents=held)
        await subject.prove_claims()
        first = held.asked
        for _ in range(3):
            subject.clock.advance(TTL - AHEAD)
            before = held.asked
            await subject.prove_claims()
            assert held.asked == before, "not by the proof"
            while subject.keys._refreshing:
                await asyncio.sleep(0.01)
        assert held.asked == 4 * first
    finally:
        real.close()
