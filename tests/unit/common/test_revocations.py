"""What a lease says has ended, and what that means for a principal token (R5, R12)."""

from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kubegate.authn.v1 import authn_pb2
from kubegate.common.v1 import identity_pb2, lease_pb2
from services.common import principal_token, revocations
from services.common.errors import Unauthenticated, Unavailable
from services.common.revocations import MEMORY, LivePrincipalVerifier, RevocationLease, Revocations
from tests.fakes.clock import FakeClock

KEY = Ed25519PrivateKey.generate()
ALICE = identity_pb2.Principal(issuer="kubegate", subject="alice", credential_id="k1", auth_type="api_key")
TOKEN_OF_KEY = identity_pb2.Principal(issuer="kubegate", subject="alice", credential_id="k1/t9", auth_type="jwt")
ELSEWHERE = identity_pb2.Principal(issuer="https://idp", subject="alice", credential_id="x1", auth_type="jwt")


def ended(*names: tuple[str, int], revision: int = 9, reset: bool = False) -> authn_pb2.WatchRevocationsResponse:
    return authn_pb2.WatchRevocationsResponse(
        answer=lease_pb2.LeaseAnswer(revision=revision),
        ended=[name for name, _ in names],
        ended_revisions=[at for _, at in names],
        reset=reset,
    )


@pytest.mark.req("R12", "R1", "R5")
@pytest.mark.parametrize(
    ("name", "dead"),
    [
        ("k1", [ALICE, TOKEN_OF_KEY]),
        ("k1/t9", [TOKEN_OF_KEY]),
        ("t9", []),
        ("identity:kubegate:alice", [ALICE, TOKEN_OF_KEY]),
        ("identity:https://idp:alice", [ELSEWHERE]),
        ("issuer:https://idp", [ELSEWHERE]),
        ("x1", [ELSEWHERE]),
        ("alice", []),
    ],
)
def test_a_principal_ends_with_its_credential_its_origin_its_identity_and_its_issuer(
    name: str, dead: list[Any]
) -> None:
    known = Revocations(FakeClock())
    known.apply(ended((name, 5)))
    for principal in (ALICE, TOKEN_OF_KEY, ELSEWHERE):
        assert known.ended(principal, 4) is (principal in dead)
        assert not known.ended(principal, 5), "proven after the end: it was enabled again"


@pytest.mark.req("R12")
def test_an_end_without_a_revision_of_its_own_lies_at_the_answers() -> None:
    known = Revocations(FakeClock())
    response = ended(revision=9)
    response.ended.append("k1")
    known.apply(response)
    assert known.ended(ALICE, 8)
    assert not known.ended(ALICE, 9)


@pytest.mark.req("R12")
def test_a_reset_ends_everything_older() -> None:
    known = Revocations(FakeClock())
    known.apply(ended(revision=7, reset=True))
    assert known.ended(ALICE, 6)
    assert not known.ended(ALICE, 7)


@pytest.mark.req("R12")
def test_an_end_is_remembered_for_longer_than_any_token_and_then_forgotten() -> None:
    clock = FakeClock()
    known = Revocations(clock)
    known.apply(ended(("k1", 5)))
    clock.advance(principal_token.LIFETIME)
    known.apply(ended())
    assert known.ended(ALICE, 4)
    clock.advance(MEMORY)
    known.apply(ended())
    assert len(known) == 0


class Keys:
    async def find(self, key_id: str, since: float = principal_token.NO_MATTER) -> Any:
        return KEY.public_key()


def verifier(clock: FakeClock) -> tuple[LivePrincipalVerifier, RevocationLease]:
    peer: Any = SimpleNamespace(name="authn")
    lease = RevocationLease(peer, clock)
    return LivePrincipalVerifier(Keys(), lease, clock), lease


def token(clock: FakeClock, revision: int) -> str:
    return principal_token.issue(
        ALICE, "service/mcp-core", KEY, "p1", now=clock.now(), token_id="t1", revision=revision
    )


@pytest.mark.req("R5", "R12", "I3.13")
async def test_a_token_dies_with_its_credential_also_where_it_was_seen_before() -> None:
    clock = FakeClock()
    subject, lease = verifier(clock)
    lease.lease._sent_at = clock.monotonic()
    text = token(clock, 4)
    assert (await subject.verify(text)).revision == 4
    lease._apply(ended(("k1", 5)))
    with pytest.raises(Unauthenticated, match="has ended"):
        await subject.verify(text)
    assert (await subject.verify(token(clock, 5))).principal == ALICE


@pytest.mark.req("R5", "R12")
async def test_without_a_lease_no_token_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocations, "PATIENCE", 0.01)
    clock = FakeClock()
    subject, lease = verifier(clock)
    with pytest.raises(Unavailable):
        await subject.verify(token(clock, 4))
    lease.lease._sent_at = clock.monotonic()
    await subject.verify(token(clock, 4))
    clock.advance(1)
    with pytest.raises(Unavailable):
        await subject.verify(token(clock, 4))
    assert lease.problems()


@pytest.mark.req("R5")
async def test_a_revision_of_another_form_counts_as_none() -> None:
    import jwt

    clock = FakeClock()
    subject, lease = verifier(clock)
    lease.lease._sent_at = clock.monotonic()
    claims = jwt.decode(token(clock, 4), options={"verify_signature": False})
    lease._apply(ended(("k1", 1)))
    for odd in ("99", True, None, 1e9, -1):
        text = jwt.encode(
            {**claims, "rev": odd}, KEY, algorithm="EdDSA", headers={"typ": principal_token.TYP, "kid": "p1"}
        )
        with pytest.raises(Unauthenticated):
            await subject.verify(text)


class Rekeyed:
    """authn's keys as they were when they were last asked for; ``gone`` where the key is there no more."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.asked_at = clock.monotonic()
        self.gone = False

    async def find(self, key_id: str, since: float = principal_token.NO_MATTER) -> Any:
        if self.asked_at < since:
            self.asked_at = self.clock.monotonic()
        return None if self.gone and self.asked_at == self.clock.monotonic() else KEY.public_key()


@pytest.mark.req("I3.17", "R12")
async def test_what_a_withdrawn_key_signed_is_refused_for_good_whatever_revision_it_claims() -> None:
    clock = FakeClock()
    subject, lease = verifier(clock)
    lease.lease._sent_at = clock.monotonic()
    seen = token(clock, 2**60)
    assert (await subject.verify(seen)).principal == ALICE
    lease._apply(ended(("signing-key:another", 4)))
    await subject.verify(seen)
    lease._apply(ended(("signing-key:p1", 5)))
    for text in (seen, token(clock, 2**60 + 1)):
        with pytest.raises(Unauthenticated, match="has ended"):
            await subject.verify(text)
    clock.advance(MEMORY + 1)
    lease._apply(ended())
    lease.lease._sent_at = clock.monotonic()
    with pytest.raises(Unauthenticated, match="has ended"):
        await subject.verify(token(clock, 2**60))


@pytest.mark.req("I3.17", "R12")
def test_a_principal_ends_with_the_key_that_signed_its_access_token() -> None:
    known = Revocations(FakeClock())
    by_token = identity_pb2.Principal(
        issuer="kubegate", subject="alice", credential_id="t1", auth_type="jwt", ends_with=["signing-key:a1"]
    )
    known.apply(ended(("signing-key:a1", 5)))
    assert known.ended(by_token, 4)
    assert not known.ended(ALICE, 4)


@pytest.mark.req("I3.17", "R12")
async def test_where_the_history_has_a_gap_the_keys_are_asked_for_again() -> None:
    """A reset says that ends are unknown, withdrawals among them: no key that was read before it counts."""
    clock = FakeClock()
    keys = Rekeyed(clock)
    peer: Any = SimpleNamespace(name="authn")
    lease = RevocationLease(peer, clock)
    subject = LivePrincipalVerifier(keys, lease, clock)
    lease._apply(ended())
    lease.lease._sent_at = clock.monotonic()
    seen = token(clock, 2**60)
    await subject.verify(seen)
    keys.gone = True
    clock.advance(0.5)
    await subject.verify(seen)
    lease._apply(ended(reset=True))
    with pytest.raises(Unauthenticated):
        await subject.verify(seen)


@pytest.mark.req("I3.17", "R12")
async def test_a_gap_that_is_learnt_of_while_a_verification_waits_counts_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = FakeClock()
    keys = Rekeyed(clock)
    peer: Any = SimpleNamespace(name="authn")
    lease = RevocationLease(peer, clock)
    subject = LivePrincipalVerifier(keys, lease, clock)

    async def answered(seconds: float) -> bool:
        clock.advance(0.1)
        keys.gone = True
        lease._apply(ended(reset=True))
        lease.lease._sent_at = clock.monotonic()
        return True

    monkeypatch.setattr(lease.lease, "wait", answered)
    with pytest.raises(Unauthenticated):
        await subject.verify(token(clock, 2**60))
