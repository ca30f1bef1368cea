"""The core's principal cache (R12, I3.15): nothing in it outlives what it stands for."""

from datetime import timedelta
from typing import Any

import pytest

from kubegate.authn.v1 import authn_pb2
from kubegate.common.v1 import lease_pb2
from services.common.principal_token import LIFETIME
from services.mcp_core.adapters.principal_cache import PrincipalCache, Proven
from services.mcp_core.model import Credential, Principal
from tests.fakes.clock import FakeClock


class Lease:
    def __init__(self) -> None:
        self.held = True
        self.revision = 4

    def fresh(self) -> bool:
        return self.held


def proven(credential_id: str = "k1", subject: str = "alice", **fields: Any) -> Proven:
    return Proven(Principal("kubegate", subject, credential_id, "api_key"), "token", "event-1", **fields)


def ended(*names: tuple[str, int], **fields: Any) -> authn_pb2.WatchRevocationsResponse:
    return authn_pb2.WatchRevocationsResponse(
        answer=lease_pb2.LeaseAnswer(revision=9),
        ended=[name for name, _ in names],
        ended_revisions=[revision for _, revision in names],
        **fields,
    )


class Rig:
    def __init__(self, size: int = 10) -> None:
        self.clock = FakeClock()
        self.cache = PrincipalCache(self.clock, size)
        self.lease = Lease()
        self.cache.lease = self.lease

    def find(self, credential: str, seconds: float = 30.0) -> Proven | None:
        return self.cache.find(self.cache.key(Credential(credential)), seconds)

    def keep(self, credential: str = "kg_a", what: Proven | None = None, revision: int = 4) -> None:
        key = self.cache.key(Credential(credential))
        self.cache.keep(key, what or proven(), asked_at=self.clock.monotonic(), revision=revision)


@pytest.mark.req("I3.15")
def test_a_proof_is_found_again_by_its_credential_and_no_other() -> None:
    rig = Rig()
    rig.keep()
    assert rig.find("kg_a") == proven()
    for other in ("kg_b", "kg_a ", "KG_A", "", "\ud800"):
        assert rig.find(other) is None


@pytest.mark.req("I3.15", "R12")
def test_losing_the_lease_drops_everything_and_its_return_brings_nothing_back() -> None:
    rig = Rig()
    rig.keep()
    rig.lease.held = False
    assert rig.find("kg_a") is None
    rig.lease.held = True
    assert rig.find("kg_a") is None
    rig.lease.held = False
    rig.keep()
    rig.lease.held = True
    assert len(rig.cache) == 0, "nothing is kept without the lease"


@pytest.mark.req("I3.15", "R12")
def test_a_lease_that_ran_out_unnoticed_drops_everything_with_its_next_answer() -> None:
    rig = Rig()
    rig.keep()
    rig.lease.held = False
    rig.cache.apply(ended())
    rig.lease.held = True
    assert rig.find("kg_a") is None


@pytest.mark.req("I3.15", "R12", "I3.13")
@pytest.mark.parametrize("name", ["k1", "identity:kubegate:alice", "issuer:kubegate"])
def test_an_end_drops_what_it_ends(name: str) -> None:
    rig = Rig()
    rig.keep()
    rig.keep("kg_b", proven("k2", "bob"))
    rig.cache.apply(ended((name, 5)))
    assert rig.find("kg_a") is None
    assert (rig.find("kg_b") is None) is name.startswith("issuer")


@pytest.mark.req("I3.15", "R12")
def test_an_end_before_the_proof_ends_nothing() -> None:
    rig = Rig()
    rig.keep(revision=5)
    rig.cache.apply(ended(("k1", 5), ("k2", 9)))
    assert rig.find("kg_a") is not None


@pytest.mark.req("I3.15", "R12")
def test_an_answer_that_comes_after_the_revocation_is_not_kept() -> None:
    """authn proved the key at revision 4, the lease reported its end at 5, then the proof arrived."""
    rig = Rig()
    rig.cache.apply(ended(("k1", 5)))
    rig.lease.revision = 5
    rig.keep(revision=4)
    assert rig.find("kg_a") is None
    rig.keep(revision=5)
    assert rig.find("kg_a") is not None


@pytest.mark.req("I3.15", "R12")
def test_a_reset_drops_everything() -> None:
    rig = Rig()
    rig.keep()
    rig.cache.apply(ended(reset=True))
    assert rig.find("kg_a") is None


@pytest.mark.req("I3.15", "R27")
def test_an_entry_leaves_its_token_time_for_the_request() -> None:
    rig = Rig()
    rig.keep()
    rig.clock.advance(LIFETIME - 30.001)
    assert rig.find("kg_a", 30.0) is not None
    rig.clock.advance(0.001)
    assert rig.find("kg_a", 30.0) is None
    assert rig.find("kg_a", 29.0) is not None, "a shorter request may still use it"
    rig.clock.advance(30)
    assert rig.find("kg_a", 0.0) is None
    assert len(rig.cache) == 0


@pytest.mark.req("I3.15", "R27")
def test_an_entry_ends_with_its_credential() -> None:
    rig = Rig()
    rig.keep(what=proven(expires_at=rig.clock.now() + timedelta(seconds=3)))
    rig.clock.advance(2.9)
    assert rig.find("kg_a") is not None
    rig.clock.advance(0.1)
    assert rig.find("kg_a") is None


@pytest.mark.req("I3.15")
def test_it_is_bounded_and_what_is_used_stays() -> None:
    rig = Rig(size=3)
    for index in range(3):
        rig.keep(f"kg_{index}")
    assert rig.find("kg_0") is not None
    rig.keep("kg_3")
    assert len(rig.cache) == 3
    assert rig.find("kg_0") is not None
    assert rig.find("kg_1") is None


@pytest.mark.req("I3.14", "I3.15")
def test_no_credential_lies_in_memory_or_shows_itself() -> None:
    rig = Rig()
    rig.keep("kg_very_secret")
    shown = repr(rig.cache.__dict__) + repr(proven())
    assert "very_secret" not in shown
    assert "'token'" not in shown
    other = Rig()
    other.keep("kg_very_secret")
    assert set(rig.cache._entries) != set(other.cache._entries), "a key of its own in each process"


@pytest.mark.req("R19", "R12")
def test_a_proof_is_vouched_for_until_anything_ends_it() -> None:
    rig = Rig()
    key, alice = rig.cache.key(Credential("kg_a")), proven().principal
    assert not rig.cache.vouches(key, alice)
    rig.keep()
    assert rig.cache.vouches(key, alice)
    assert not rig.cache.vouches(rig.cache.key(Credential("kg_b")), alice)
    assert not rig.cache.vouches(b"", alice)
    assert not rig.cache.vouches(key, proven(subject="bob").principal)
    rig.lease.held = False
    assert not rig.cache.vouches(key, alice)
    rig.lease.held = True
    rig.cache.apply(ended(("k1", 9)))
    assert not rig.cache.vouches(key, alice)
    rig.keep(revision=9)
    rig.clock.advance(LIFETIME)
    assert not rig.cache.vouches(key, alice)
    rig.keep(what=proven(expires_at=rig.clock.now() + timedelta(seconds=5)), revision=9)
    rig.clock.advance(5)
    assert not rig.cache.vouches(key, alice)
