"""What changes about a user: in one step, so that no part of it is left over where another fails."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pyotp
import pytest
from sqlalchemy import text

from services.authn.adapters.credentials import CredentialStore
from services.authn.adapters.logins import THRESHOLD, LoginStore
from services.authn.adapters.principal_tokens import OperatorTokenVerifier, PrincipalTokenIssuer
from services.authn.adapters.store import Store
from services.authn.adapters.totp import Totp
from services.authn.adapters.user_store import UserStore
from services.authn.admission import Admission
from services.authn.journal import Journal
from services.authn.user_admin import UserAdmin
from services.common.call import PRINCIPAL_TOKEN_METADATA, Call
from services.common.errors import Unavailable
from tests.fakes.clock import FakeClock
from tests.unit.authn.support import (
    KEK,
    MAKER,
    NOW,
    PEPPER,
    FixedPolicy,
    Journalist,
    PlainHashing,
    call,
    make_key,
    make_ring,
    make_user,
)

RING = make_ring()


class Rig:
    """The administration of users over a real store."""

    def __init__(self, path: Path) -> None:
        clock = FakeClock(NOW)
        self.store = Store.open(path / "authn.db", clock)
        self.credentials = CredentialStore(self.store)
        self.logins = LoginStore(self.store, PEPPER)
        self.users = UserStore(self.store, self.logins)
        self.journalist = Journalist()
        journal = Journal(self.journalist, clock)
        admission = Admission(self.credentials, OperatorTokenVerifier(RING, clock), FixedPolicy(), journal, clock)
        self.subject = UserAdmin(self.users, PlainHashing(), MAKER, Totp(KEK), self.logins, admission, journal, clock)
        self.tokens = PrincipalTokenIssuer(RING, clock)

    async def operator(self) -> Call:
        record, _ = make_key(identity="root")
        await self.credentials.add_key(record)
        token = self.tokens.issue(record.principal(NOW), "operator/alice", self.store.mirror.revision)
        return replace(call("operator/alice"), metadata={PRINCIPAL_TOKEN_METADATA: token})

    async def lose_logins(self) -> None:
        await self.store.write(lambda connection: connection.execute(text("DROP TABLE logins")))


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.store.close()


@pytest.mark.req("I3.6", "R18")
async def test_another_password_ends_the_lock_out_in_the_same_step_or_is_none(rig: Rig) -> None:
    """Regression: the lock-out was ended after the change. Where that failed, the password that was made was lost."""
    operator = await rig.operator()
    await rig.users.add(make_user())
    for _ in range(THRESHOLD):
        await rig.logins.failed("admin", NOW)
    made = await rig.subject.reset_password("admin", None, operator)
    assert made is not None
    assert not await rig.logins.locked("admin", NOW)
    known = rig.users.find("admin")
    assert known is not None and known.password_hash == f"hash:{made.reveal()}"
    await rig.lose_logins()
    with pytest.raises(Unavailable):
        await rig.subject.reset_password("admin", None, operator)
    assert rig.users.find("admin") == known
    assert rig.journalist.trace == ["intent:unknown", "outcome:success", "intent:unknown", "outcome:error"]


@pytest.mark.req("I3.3", "R18")
async def test_a_second_factor_counts_and_its_code_is_used_up_in_one_step(rig: Rig) -> None:
    operator = await rig.operator()
    await rig.users.add(make_user())
    uri, _ = await rig.subject.enrol_totp("admin", operator)
    device = pyotp.parse_uri(uri.reveal())
    assert isinstance(device, pyotp.TOTP)
    code = device.at(NOW)
    assert (await rig.subject.confirm_totp("admin", code, operator)).totp_confirmed
    step = int(NOW.timestamp()) // 30
    assert not await rig.logins.succeeded("admin", NOW, step), "used up"
    assert await rig.logins.succeeded("admin", NOW + timedelta(seconds=30), step + 1)
    await rig.subject.remove_totp("admin", operator)
    uri, _ = await rig.subject.enrol_totp("admin", operator)
    device = pyotp.parse_uri(uri.reveal())
    assert isinstance(device, pyotp.TOTP)
    await rig.lose_logins()
    with pytest.raises(Unavailable):
        await rig.subject.confirm_totp("admin", device.at(NOW), operator)
    user = rig.users.find("admin")
    assert user is not None and not user.totp_confirmed
