"""What authn keeps of people who sign in, in both engines: failures, second factors, refresh and revoked tokens."""

import asyncio
from datetime import timedelta

import pytest

from services.authn.adapters import schema
from services.authn.adapters.logins import THRESHOLD, LoginStore
from services.authn.adapters.token_store import RefreshTokenStore, RevokedTokens
from services.authn.adapters.user_store import UserStore
from services.authn.errors import Reason, Rejected
from services.authn.model import Secret
from tests.contract.authn_target import Target
from tests.unit.authn.support import NOW, PEPPER, make_user


@pytest.mark.req("I3.3")
async def test_lock_outs_back_off_and_outlive_a_restart(target: Target) -> None:
    logins = LoginStore(target.open(), PEPPER)
    for _ in range(THRESHOLD - 1):
        await logins.failed("admin", NOW)
        assert not await logins.locked("admin", NOW)
    waits = []
    for _ in range(8):
        await logins.failed("admin", NOW)
        until = await logins.locked_until("admin")
        assert until is not None
        waits.append((until - NOW).total_seconds())
    assert waits == [30, 60, 120, 240, 480, 900, 900, 900]
    logins = LoginStore(target.reopen(), PEPPER)
    assert await logins.locked("admin", NOW + timedelta(seconds=899))
    assert not await logins.locked("admin", NOW + timedelta(seconds=900))
    assert not await logins.succeeded("admin", NOW, None), "a lock that came in between counts"
    assert await logins.succeeded("admin", NOW + timedelta(hours=1), None)
    await logins.failed("admin", NOW)
    assert not await logins.locked("admin", NOW), "a success starts the count anew"


@pytest.mark.req("I3.3")
async def test_strangers_share_rows_and_are_locked_like_users(target: Target) -> None:
    logins = LoginStore(target.open(), PEPPER)
    name = logins.row_of_stranger("nobody")
    assert name == logins.row_of_stranger("nobody")
    assert "nobody" not in name
    assert len({logins.row_of_stranger(f"n{number}") for number in range(20_000)}) <= 4096
    for _ in range(THRESHOLD):
        await logins.failed(name, NOW)
    assert await logins.locked(name, NOW)


@pytest.mark.req("I3.3")
async def test_used_steps_and_recovery_codes_stay_used(target: Target) -> None:
    store = target.open()
    logins = LoginStore(store, PEPPER)
    users = UserStore(store, logins)
    assert await users.add(make_user())
    await users.enrol("admin", b"sealed", [Secret("AAAA-BBBB"), Secret("CCCC-DDDD")])
    assert await logins.succeeded("admin", NOW, 100)
    assert not await logins.succeeded("admin", NOW, 100)
    assert not await logins.succeeded("admin", NOW, 99)
    both = await asyncio.gather(*(logins.succeeded("admin", NOW, 101) for _ in range(2)))
    assert sorted(both) == [False, True]
    assert await logins.use_recovery_code("admin", "aaaa bbbb", NOW)
    logins = LoginStore(target.reopen(), PEPPER)
    assert not await logins.use_recovery_code("admin", "AAAA-BBBB", NOW)
    assert not await logins.use_recovery_code("bob", "CCCC-DDDD", NOW)
    assert not await logins.succeeded("admin", NOW, 101)
    assert await logins.use_recovery_code("admin", "CCCC-DDDD", NOW)


@pytest.mark.req("I3.6", "R12")
async def test_what_is_taken_from_a_user_ends_the_users_tokens(target: Target) -> None:
    store = target.open()
    users = UserStore(store, LoginStore(store, PEPPER))
    assert await users.add(make_user())
    assert not await users.add(make_user())
    start = await store.current()
    made = users.find("admin")
    assert made is not None
    disabled = await users.change("admin", ends_tokens=True, enabled=False)
    assert disabled is not None
    assert disabled.generation > made.generation
    assert [name for name, _ in (await store.since(start)).ended] == ["identity:kubegate:admin"]
    assert await users.delete("admin")
    assert not await users.delete("admin")
    assert target.reopen().users.records == {}


@pytest.mark.req("I3.5")
async def test_a_refresh_token_is_good_once_and_its_second_use_ends_the_family(target: Target) -> None:
    store = target.open()
    users = UserStore(store, LoginStore(store, PEPPER))
    await users.add(make_user())
    user = users.find("admin")
    assert user is not None
    revoked = RevokedTokens(store, target.clock)
    tokens = RefreshTokenStore(store, PEPPER, revoked, 3600, target.clock)
    first, family = await tokens.start(user.principal("password", "password:admin", NOW, ("pwd", "otp", "mfa")))
    principal, second, same = await tokens.use(first)
    assert (principal.subject, principal.amr, principal.auth_time, same) == (
        "admin",
        ("pwd", "otp", "mfa"),
        NOW,
        family,
    )
    with pytest.raises(Rejected) as caught:
        await tokens.use(first)
    assert caught.value.reason is Reason.REUSED
    assert revoked.is_revoked(family), "access tokens of the family end too"
    for token in (second, Secret("kgr_x"), Secret(second.reveal()[:-1] + "_")):
        with pytest.raises(Rejected):
            await tokens.use(token)
    assert RevokedTokens(target.reopen(), target.clock).is_revoked(family)


@pytest.mark.req("I3.5")
@pytest.mark.parametrize("reused", [False, True], ids=["undone", "reused before it was undone"])
async def test_a_use_that_is_undone_opens_no_second_one(target: Target, reused: bool) -> None:
    store = target.open()
    users = UserStore(store, LoginStore(store, PEPPER))
    await users.add(make_user())
    user = users.find("admin")
    assert user is not None
    revoked = RevokedTokens(store, target.clock)
    tokens = RefreshTokenStore(store, PEPPER, revoked, 3600, target.clock)
    first, family = await tokens.start(user.principal("password", "password:admin", NOW, ("pwd",)))
    _, unseen, _ = await tokens.use(first)
    if reused:
        with pytest.raises(Rejected):
            await tokens.use(first)
    await tokens.undo_use(first, unseen)
    with pytest.raises(Rejected):
        await tokens.use(unseen)
    assert revoked.is_revoked(family) is reused
    if reused:
        with pytest.raises(Rejected):
            await tokens.use(first)
        return
    _, second, _ = await tokens.use(first)
    _, third, _ = await tokens.use(second)
    await tokens.undo_use(first, second)
    with pytest.raises(Rejected) as caught:
        await tokens.use(first)
    assert caught.value.reason is Reason.REUSED, "what followed was used, so it had been seen"
    with pytest.raises(Rejected):
        await tokens.use(third)


@pytest.mark.req("I3.5")
@pytest.mark.parametrize("how", ["expired", "disabled", "password reset", "deleted", "ended", "two at once"])
async def test_a_refresh_token_ends_with_what_it_stands_for(target: Target, how: str) -> None:
    store = target.open()
    users = UserStore(store, LoginStore(store, PEPPER))
    await users.add(make_user())
    user = users.find("admin")
    assert user is not None
    tokens = RefreshTokenStore(store, PEPPER, RevokedTokens(store, target.clock), 3600, target.clock)
    token, _ = await tokens.start(user.principal("password", "password:admin", NOW, ("pwd",)))
    if how == "expired":
        target.clock.advance(15 * 86_400)
    elif how == "deleted":
        await users.delete("admin")
        await users.add(make_user())
    elif how == "ended":
        await tokens.end(token)
    elif how == "two at once":
        done = await asyncio.gather(*(tokens.use(token) for _ in range(2)), return_exceptions=True)
        assert sorted(isinstance(each, Rejected) for each in done) == [False, True]
    else:
        await users.change("admin", ends_tokens=True, enabled=how != "disabled")
    with pytest.raises(Rejected):
        await tokens.use(token)


@pytest.mark.req("I3.5", "R12")
async def test_a_family_that_was_ended_stays_dead_whatever_is_left_of_it(target: Target) -> None:
    """A crash between the two steps, or a refresh by another replica in between, leaves a token of it."""
    store = target.open()
    users = UserStore(store, LoginStore(store, PEPPER))
    await users.add(make_user())
    user = users.find("admin")
    assert user is not None
    revoked = RevokedTokens(store, target.clock)
    tokens = RefreshTokenStore(store, PEPPER, revoked, 3600, target.clock)
    token, family = await tokens.start(user.principal("password", "password:admin", NOW, ("pwd",)))
    rows = await store.read(lambda connection: connection.execute(schema.refresh_tokens.select()).all())
    ended = await tokens.end(token)
    assert ended is not None
    assert (ended.user, ended.family) == ("admin", family)
    await store.write(lambda connection: connection.execute(schema.refresh_tokens.insert(), [rows[0]._asdict()]))
    target.clock.advance(13 * 86_400)
    with pytest.raises(Rejected) as caught:
        await tokens.use(token)
    assert caught.value.reason is Reason.REVOKED, "also after the access tokens beside it are long over"
    assert await tokens.end(Secret(token.reveal()[:-1] + "!")) is None


@pytest.mark.req("I3.5")
async def test_revoked_tokens_are_forgotten_when_they_are_over(target: Target) -> None:
    store = target.open()
    revoked = RevokedTokens(store, target.clock)
    await revoked.revoke("one", NOW + timedelta(hours=1))
    target.clock.advance(2 * 3600)
    await revoked.revoke("two", NOW + timedelta(hours=3))
    assert set(store.mirror.revoked) == {"two"}
