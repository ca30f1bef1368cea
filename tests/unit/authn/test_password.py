"""Passwords: unknown users cost what known ones cost, and a flood finds a bounded pool (I2.3, R25)."""

import asyncio
import threading

import pytest
from argon2 import PasswordHasher

from services.authn.adapters.password import WORKERS, Argon2Pool, PasswordAuthenticator
from services.authn.errors import Reason, Rejected
from services.authn.model import Secret
from services.common.errors import ResourceExhausted
from tests.unit.authn.support import NOW, PlainHashing, Users, make_user, password

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@pytest.mark.req("I2.3")
async def test_the_right_password_proves_the_user() -> None:
    user = make_user()
    principal = await PasswordAuthenticator(Users(user), PlainHashing(), "decoy").authenticate(
        password("admin", "right"), NOW
    )
    assert (principal.subject, principal.auth_type, principal.amr) == ("admin", "password", ("pwd",))
    assert principal.roles == user.roles


@pytest.mark.req("I2.3")
@pytest.mark.parametrize(
    ("user", "name", "text", "reason"),
    [
        (make_user(), "admin", "wrong", Reason.MISMATCH),
        (make_user(enabled=False), "admin", "right", Reason.DISABLED),
        (make_user(), "nobody", "right", Reason.UNKNOWN),
        (make_user(), "Admin", "right", Reason.UNKNOWN),
    ],
)
async def test_each_refusal_costs_one_verification(user: object, name: str, text: str, reason: Reason) -> None:
    hashing = PlainHashing()
    with pytest.raises(Rejected) as caught:
        await PasswordAuthenticator(Users(user), hashing, "decoy").authenticate(  # type: ignore[arg-type]
            password(name, text), NOW
        )
    assert caught.value.reason is reason
    assert hashing.verified == ["decoy" if reason is Reason.UNKNOWN else "hash:right"]
    # A password typed into the field of the name must not reach the log.
    assert caught.value.user in ("", "admin")


@pytest.mark.parametrize(("name", "text"), [("", "x"), ("x", ""), ("n" * 129, "x"), ("x", "p" * 1025)])
async def test_absurd_sizes_are_refused_before_hashing(name: str, text: str) -> None:
    hashing = PlainHashing()
    with pytest.raises(Rejected) as caught:
        await PasswordAuthenticator(Users(), hashing, "decoy").authenticate(password(name, text), NOW)
    assert caught.value.reason is Reason.MALFORMED
    assert hashing.verified == []


async def test_argon2id_is_what_is_stored() -> None:
    pool = Argon2Pool(CHEAP)
    try:
        hashed = await pool.hash(Secret("pässword \ud800"))
        assert hashed.startswith("$argon2id$")
        assert await pool.verify(hashed, Secret("pässword \ud800"))
        assert not await pool.verify(hashed, Secret("other"))
        assert not await pool.verify("not a hash", Secret("other"))
        decoy = await PasswordAuthenticator.make_decoy(pool)
        assert decoy.split("$")[1:4] == hashed.split("$")[1:4]
    finally:
        pool.close()


@pytest.mark.req("R25")
async def test_the_pool_is_bounded_even_when_callers_give_up() -> None:
    gate = threading.Event()

    class Slow(PasswordHasher):
        def verify(self, hash: object, password: object) -> bool:  # type: ignore[override]
            return gate.wait(20)

    pool = Argon2Pool(Slow(), queue=1)
    try:
        waiting = [asyncio.create_task(pool.verify("h", Secret("p"))) for _ in range(WORKERS + 1)]
        await asyncio.sleep(0)
        with pytest.raises(ResourceExhausted):
            await pool.verify("h", Secret("p"))
        waiting[0].cancel()
        await asyncio.gather(waiting[0], return_exceptions=True)
        with pytest.raises(ResourceExhausted):
            await pool.verify("h", Secret("p"))
        gate.set()
        assert await asyncio.gather(*waiting[1:]) == [True] * WORKERS
        assert await pool.verify("h", Secret("p"))
    finally:
        gate.set()
        pool.close()
