"""Passwords: unknown users cost what known ones cost, and a flood finds a bounded pool (I2.3, R25)."""

import asyncio
import base64
import threading
from collections.abc import Callable
from dataclasses import replace

import pyotp
import pytest
from argon2 import PasswordHasher

from services.authn.adapters.password import MAX_WAITING, WORKERS, Argon2Pool, PasswordAuthenticator
from services.authn.adapters.totp import Totp
from services.authn.errors import Reason, Rejected
from services.authn.model import PasswordCredential, Secret, User
from services.common.errors import ResourceExhausted
from tests.unit.authn.support import KEK, NOW, MemoryLogins, PlainHashing, Users, make_user, password, passwords

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@pytest.mark.req("I2.3")
async def test_the_right_password_proves_the_user() -> None:
    user = make_user()
    principal = await passwords(Users(user), PlainHashing()).authenticate(password("admin", "right"), NOW)
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
        await passwords(Users(user), hashing).authenticate(  # type: ignore[arg-type]
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
        await passwords(Users(), hashing).authenticate(password(name, text), NOW)
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


@pytest.mark.req("I3.3")
async def test_a_locked_name_is_refused_right_or_wrong_at_the_same_cost() -> None:
    for text in ("right", "wrong"):
        hashing, logins = PlainHashing(), MemoryLogins()
        logins.locked_names.add("admin")
        with pytest.raises(Rejected) as caught:
            await passwords(Users(make_user()), hashing, logins).authenticate(password("admin", text), NOW)
        assert caught.value.reason is Reason.LOCKED
        assert hashing.verified == ["hash:right"]
        assert logins.failures == [], "attempts while locked do not lengthen the lock"


@pytest.mark.req("I3.3", "I3.12")
@pytest.mark.parametrize(("name", "row"), [("admin", "admin"), ("nobody", "?1")])
async def test_known_and_unknown_names_do_the_same_work(name: str, row: str) -> None:
    """One look at the lock-out, one verification, one durable failure each."""
    hashing, logins = PlainHashing(), MemoryLogins()
    with pytest.raises(Rejected):
        await passwords(Users(make_user()), hashing, logins).authenticate(password(name, "wrong"), NOW)
    assert len(hashing.verified) == 1
    assert logins.failures == [row]


def second_factor() -> tuple[User, Callable[[int], str]]:
    """A user with a confirmed second factor, and the codes of its device."""
    sealed, uri = Totp(KEK).make("admin")
    device = pyotp.parse_uri(uri.reveal())
    assert isinstance(device, pyotp.TOTP)
    return make_user(totp_sealed=sealed, totp_confirmed=True), lambda step: pyotp.HOTP(device.secret).at(step)


STEP = int(NOW.timestamp()) // 30


def with_otp(otp: str, text: str = "right") -> PasswordCredential:
    return PasswordCredential("admin", Secret(text), Secret(otp))


@pytest.mark.req("I3.3", "I3.4")
async def test_a_second_factor_is_demanded_and_named_in_amr() -> None:
    user, code = second_factor()
    logins = MemoryLogins()
    judge = passwords(Users(user), PlainHashing(), logins)
    for otp in ("", "000000" if code(STEP) != "000000" else "000001", code(STEP + 5), code(STEP) + "0", "x" * 12):
        with pytest.raises(Rejected) as caught:
            await judge.authenticate(with_otp(otp), NOW)
        assert caught.value.reason is Reason.SECOND_FACTOR
    assert logins.failures == ["admin"] * 5, "guessed codes lock as guessed passwords do"
    principal = await judge.authenticate(with_otp(code(STEP)), NOW)
    assert principal.amr == ("pwd", "otp", "mfa")
    assert principal.auth_time == NOW


@pytest.mark.req("I3.3")
async def test_a_code_is_good_once_and_for_one_step_of_drift() -> None:
    user, code = second_factor()
    judge = passwords(Users(user), PlainHashing(), MemoryLogins())
    await judge.authenticate(with_otp(code(STEP - 1)), NOW)
    await judge.authenticate(with_otp(code(STEP + 1)), NOW)
    with pytest.raises(Rejected):
        await judge.authenticate(with_otp(code(STEP + 1)), NOW)
    with pytest.raises(Rejected):
        await judge.authenticate(with_otp(code(STEP - 2)), NOW)


@pytest.mark.req("I3.3")
async def test_a_recovery_code_works_once() -> None:
    user, _ = second_factor()
    logins = MemoryLogins()
    logins.codes = {"AAAA-BBBB-CCCC-DDDD"}
    judge = passwords(Users(user), PlainHashing(), logins)
    assert (await judge.authenticate(with_otp("AAAA-BBBB-CCCC-DDDD"), NOW)).amr == ("pwd", "mfa")
    with pytest.raises(Rejected):
        await judge.authenticate(with_otp("AAAA-BBBB-CCCC-DDDD"), NOW)


@pytest.mark.req("I3.3")
async def test_an_unconfirmed_second_factor_is_not_demanded_and_a_wrong_password_never_reaches_it() -> None:
    user, code = second_factor()
    begun = replace(user, totp_confirmed=False)
    assert (await passwords(Users(begun), PlainHashing()).authenticate(with_otp(""), NOW)).amr == ("pwd",)
    logins = MemoryLogins()
    with pytest.raises(Rejected) as caught:
        await passwords(Users(user), PlainHashing(), logins).authenticate(with_otp(code(STEP), "wrong"), NOW)
    assert caught.value.reason is Reason.MISMATCH
    assert logins.successes == [], "the code is not used up"


@pytest.mark.req("R9", "I3.3")
def test_a_seed_lies_encrypted_and_opens_for_its_user_only() -> None:
    totp = Totp(KEK)
    sealed, uri = totp.make("admin")
    device = pyotp.parse_uri(uri.reveal())
    assert base64.b32decode(device.secret) not in sealed
    assert totp.step("admin", sealed, pyotp.HOTP(device.secret).at(STEP), NOW) == STEP
    assert totp.step("bob", sealed, pyotp.HOTP(device.secret).at(STEP), NOW) is None
    assert device.secret not in repr(make_user(totp_sealed=sealed)) + repr(uri)
    assert len({code.reveal() for code in totp.make_recovery_codes()}) == 10


@pytest.mark.req("I3.3", "R25")
async def test_attempts_on_one_name_take_turns_and_many_are_refused() -> None:
    gate = asyncio.Event()

    class Slow(PlainHashing):
        async def verify(self, password_hash: str, password: Secret) -> bool:
            self.verified.append(password_hash)
            await gate.wait()
            return False

    hashing, logins = Slow(), MemoryLogins()
    judge = passwords(Users(make_user()), hashing, logins)
    attempts = [asyncio.create_task(judge.authenticate(password("admin", "x"), NOW)) for _ in range(20)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(hashing.verified) == 1, "the second is judged after the first is counted"
    gate.set()
    done = await asyncio.gather(*attempts, return_exceptions=True)
    kinds = [type(each) for each in done]
    assert kinds.count(ResourceExhausted) == 20 - MAX_WAITING - 1
    assert len(logins.failures) == MAX_WAITING + 1
    assert judge._turns == {}


@pytest.mark.req("I3.12", "I3.3")
@pytest.mark.parametrize("text", ["right", "wrong"])
async def test_a_disabled_user_costs_the_same_with_the_right_password(text: str) -> None:
    """Else the time of the refusal would say that the password is right."""
    hashing, logins = PlainHashing(), MemoryLogins()
    with pytest.raises(Rejected):
        await passwords(Users(make_user(enabled=False)), hashing, logins).authenticate(password("admin", text), NOW)
    assert (len(hashing.verified), logins.failures) == (1, ["admin"])
