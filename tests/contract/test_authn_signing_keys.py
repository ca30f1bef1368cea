"""Signing keys in the store, in both engines: encrypted, rotated by the clock, withdrawn."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from services.authn.adapters import schema
from services.authn.adapters.key_ring import Schedule, open_ring
from services.authn.adapters.signing_keys import KeyEncryptionKey, Purpose, generate, sealed
from services.common.runtime_errors import StartupError
from tests.contract.authn_target import Target
from tests.unit.authn.support import KEK, NOW

SCHEDULE = Schedule(timedelta(days=30), timedelta(days=1), timedelta(hours=2))


@pytest.mark.req("R9", "I3.7")
async def test_signing_keys_lie_encrypted_and_come_back(target: Target) -> None:
    store = target.open()
    access, _ = await open_ring(store, KEK, Purpose.ACCESS, target.clock, SCHEDULE)
    principal, _ = await open_ring(store, KEK, Purpose.PRINCIPAL, target.clock, SCHEDULE)
    assert access.current.kid != principal.current.kid
    assert principal.find_signing(access.current.kid) is None
    secret = access.current.private.private_bytes_raw()
    assert all(secret not in key.sealed for key in store.mirror.signing_keys.values())
    again, _ = await open_ring(target.reopen(), KEK, Purpose.ACCESS, target.clock, SCHEDULE)
    assert again.current.kid == access.current.kid
    assert again.jwks() == access.jwks()
    assert '"d"' not in access.jwks()
    assert "private" not in repr(again.current)


@pytest.mark.req("R9", "I2.11")
async def test_another_kek_or_an_exchanged_row_is_refused(target: Target) -> None:
    store = target.open()
    ring, _ = await open_ring(store, KEK, Purpose.ACCESS, target.clock, SCHEDULE)
    with pytest.raises(StartupError, match="kek_file"):
        await open_ring(store, KeyEncryptionKey(b"other" * 8), Purpose.ACCESS, target.clock, SCHEDULE)
    (stored,) = ring.sealed()
    moved = replace(stored, kid="kid-2", purpose=Purpose.PRINCIPAL)
    with store._engine.begin() as connection:
        connection.execute(schema.signing_keys.insert().values(schema.sealed_key_row(moved)))
    with pytest.raises(StartupError, match="kek_file"):
        await open_ring(target.reopen(), KEK, Purpose.PRINCIPAL, target.clock, SCHEDULE)


@pytest.mark.req("I3.7")
async def test_signing_keys_rotate_by_the_clock_without_a_gap(target: Target) -> None:
    store = target.open()
    ring, rotation = await open_ring(store, KEK, Purpose.ACCESS, target.clock, SCHEDULE)
    first = ring.current.kid

    def states() -> dict[str, str]:
        return {key.kid: ring.state(key) for key in ring.sealed()}

    await rotation.maintain()
    assert states() == {first: "current"}
    target.clock.advance(29 * 86_400)
    await rotation.maintain()
    await rotation.maintain()
    (following,) = set(states()) - {first}
    assert states() == {first: "current", following: "next"}
    assert ring.jwks().count('"kid"') == 2, "published before it signs"
    target.clock.advance(86_400)
    assert states() == {first: "previous", following: "current"}
    await rotation.maintain()
    assert first in states(), "what it signed may still live"
    target.clock.advance(2 * 3600)
    await rotation.maintain()
    assert states() == {following: "current"}
    assert first not in ring._opened, "nor is its secret in memory"
    now = await rotation.rotate()
    assert states() == {following: "previous", now.kid: "current"}
    again, _ = await open_ring(target.reopen(), KEK, Purpose.ACCESS, target.clock, SCHEDULE)
    assert again.current.kid == now.kid


@pytest.mark.req("I3.2")
@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256", "RS256"])
async def test_the_algorithm_is_the_keys(tmp_path: Path, algorithm: str) -> None:
    key = sealed(generate(algorithm), KEK, Purpose.ACCESS, NOW, NOW)
    target = Target(tmp_path / "authn.db", "")
    with target.open()._engine.begin() as connection:
        connection.execute(schema.signing_keys.insert().values(schema.sealed_key_row(key)))
    store = target.reopen()
    ring, _ = await open_ring(store, KEK, Purpose.ACCESS, target.clock, replace(SCHEDULE, algorithm=algorithm))
    assert (ring.current.kid, ring.current.algorithm) == (key.kid, algorithm)
    assert f'"alg": "{algorithm}"' in ring.jwks()
    assert not {'"d"', '"p"', '"q"'} & set(ring.jwks().split())
    # Another algorithm is configured: the next key has it, this one goes on until then.
    changed = replace(SCHEDULE, algorithm="ES256" if algorithm == "EdDSA" else "EdDSA")
    await open_ring(store, KEK, Purpose.ACCESS, target.clock, changed)
    assert [each.algorithm for each in ring.sealed()] == [algorithm, changed.algorithm]
    assert ring.current.kid == key.kid
    target.close()


@pytest.mark.req("I3.17", "R12")
@pytest.mark.parametrize("state", ["current", "current, next published", "next", "previous", "the only one"])
async def test_a_withdrawn_key_is_gone_and_another_one_signs(target: Target, state: str) -> None:
    store = target.open()
    ring, rotation = await open_ring(store, KEK, Purpose.ACCESS, target.clock, SCHEDULE)
    if state != "the only one":
        await rotation.rotate()
        target.clock.advance(1)
    if "next" in state:
        target.clock.advance(29 * 86_400)
        await rotation.maintain()
        await rotation.rotate()
    before = {ring.state(key): key.kid for key in ring.sealed()}
    signed_by = ring.current.kid
    kid = before["current" if state == "the only one" else state.partition(",")[0]]
    known = store.mirror.revision
    target.clock.advance(1)
    signs = await rotation.withdraw(kid)

    def holds() -> None:
        assert signs is not None
        assert ring.current.kid == signs.kid != kid
        assert ring.find_signing(kid) is None
        assert kid not in ring.jwks()

    holds()
    if kid != signed_by:
        assert ring.current.kid == signed_by, "nothing else changes"
    elif "next" in before:
        assert ring.current.kid == before["next"], "the one that verifiers may know already"
    else:
        assert ring.current.kid not in before.values(), "never an older one again"
    assert dict((await store.since(known)).ended) == {f"signing-key:{kid}": store.mirror.revision}
    await rotation.maintain()
    ring, rotation = await open_ring(target.reopen(), KEK, Purpose.ACCESS, target.clock, SCHEDULE)
    holds()
    assert await rotation.withdraw(kid) is None, "there is no such key"
    assert await rotation.withdraw("x" * 43) is None


@pytest.mark.req("I3.17", "R9")
async def test_a_key_is_withdrawn_for_its_own_purpose_only_and_its_secret_destroyed(target: Target) -> None:
    store = target.open()
    access, access_rotation = await open_ring(store, KEK, Purpose.ACCESS, target.clock, SCHEDULE)
    principal, _ = await open_ring(store, KEK, Purpose.PRINCIPAL, target.clock, SCHEDULE)
    leaked = access.current
    assert await access_rotation.withdraw(principal.current.kid) is None
    await access_rotation.withdraw(leaked.kid)
    assert leaked.kid not in access._opened
    rows = await store.read(lambda connection: connection.execute(schema.signing_keys.select()).all())
    assert leaked.kid not in {row.kid for row in rows}


@pytest.mark.req("I3.17", "R12", "I3.10")
async def test_a_replica_neither_accepts_nor_signs_with_a_key_that_another_withdrew(target: Target) -> None:
    if isinstance(target.target, Path):
        pytest.skip("SQLite has one process")
    mine, other = target.open(), target.open()
    _, rotation = await open_ring(mine, KEK, Purpose.ACCESS, target.clock, SCHEDULE)
    await other.sync()
    ring, rotation_there = await open_ring(other, KEK, Purpose.ACCESS, target.clock, SCHEDULE)
    kid = ring.current.kid
    target.clock.advance(1)
    signs, there = await asyncio.gather(rotation.withdraw(kid), rotation_there.withdraw(kid))
    assert [signs, there].count(None) == 1, "of two at the same time, one withdraws it"
    await other.sync()
    await mine.sync()
    assert ring.find_signing(kid) is None
    assert ring.current.kid == next(each.kid for each in (signs, there) if each is not None)
