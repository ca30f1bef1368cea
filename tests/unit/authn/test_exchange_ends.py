"""What ends an exchanged token: whatever it was made of, and the settings that mapped whom it speaks for."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import timedelta
from hashlib import sha256
from typing import Any

import jwt
import pytest

from services.authn.adapters.holders import MAX_ENDS
from services.authn.adapters.signing_keys import Purpose, generate, sealed
from services.authn.model import Principal, Secret
from services.common.revocations import signing_key_name
from tests.unit.authn.exchanging import ALICE, BOT, IDP, Rig, rig
from tests.unit.authn.support import (
    KEK,
    NOW,
)

__all__ = ["rig"]


def forged(rig: Rig, **claims: Any) -> str:
    """What somebody writes who holds the key that signs: a good token of alice's, with other claims."""
    good = jwt.decode(rig.of_user(), options={"verify_signature": False})
    key = rig.ring.current
    headers = {"typ": "at+jwt", "kid": key.kid}
    return jwt.encode({**good, **claims}, key.private, algorithm=key.algorithm, headers=headers)


@pytest.mark.req("I3.5", "R18", "I3.17")
async def test_no_list_of_ends_hides_the_key_that_signed_from_the_record(rig: Rig) -> None:
    named = signing_key_name(rig.ring.current.kid)
    for ends in (["n" * 2100], ["n" * 5000], [f"{'0' * 36}/{number:036}" for number in range(MAX_ENDS)], []):
        await rig.who(forged(rig, ends=ends))
        recorded = json.loads(rig.journalist.entries[-1].metadata["ends_with"])
        assert recorded[0] == named
        assert recorded == [named, *ends] or recorded[-1] == "...", "whole, or it says that it is not"
        assert all(len(text) < 4096 for text in rig.journalist.entries[-1].metadata.values()), "audit takes it"
    for odd in (["n"] * (MAX_ENDS + 1), "n" * 9, {"n": 1}, [1], None):
        assert await rig.refused(forged(rig, ends=odd)), odd
    await rig.exchange(rig.of_user(), actor=rig.of_user("bot"))
    assert json.loads(rig.journalist.entries[-1].metadata["ends_with"])[0] == named


ENDS: dict[str, Callable[[Rig, Principal, Principal], Any]] = {
    "the subject's token is revoked": lambda rig, subject, actor: rig.revoked.names.add(subject.credential_id),
    "its session ends": lambda rig, subject, actor: rig.revoked.names.add("fam1"),
    "the user is disabled": lambda rig, subject, actor: rig.users.records.update(alice=replace(ALICE, enabled=False)),
    "the user's password is reset": lambda rig, subject, actor: rig.users.records.update(
        alice=replace(ALICE, generation=9)
    ),
    "the user is deleted": lambda rig, subject, actor: rig.users.records.pop("alice"),
    "the actor's token is revoked": lambda rig, subject, actor: rig.revoked.names.add(actor.credential_id),
    "the actor is disabled": lambda rig, subject, actor: rig.users.records.update(bot=replace(BOT, enabled=False)),
    "the actor is made anew": lambda rig, subject, actor: rig.users.records.update(bot=replace(BOT, generation=9)),
    "the key that signed it is withdrawn": lambda rig, subject, actor: rig.signing.pop(rig.ring.sealed()[0].kid),
}


@pytest.mark.req("I3.5", "I3.13", "R12", "I3.17")
@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("again", [False, True])
async def test_it_ends_with_whatever_it_was_made_of(rig: Rig, how: str, again: bool) -> None:
    subject, actor = rig.of_user(family="fam1"), rig.of_user("bot")
    proven = await rig.who(subject), await rig.who(actor)
    # Another key signs what is exchanged, so that it does not end with its own.
    rig.clock.advance(1)
    key = sealed(generate("EdDSA"), KEK, Purpose.ACCESS, rig.clock.now(), rig.clock.now())
    rig.signing[key.kid] = key
    made = (await rig.exchange(subject, actor)).token.reveal()
    if again:
        made = (await rig.exchange(made, scope="viewer")).token.reveal()
    assert not await rig.refused(made)
    ENDS[how](rig, *proven)
    assert await rig.refused(made)


@pytest.mark.req("I3.5", "I3.13")
@pytest.mark.parametrize(
    "change",
    [
        {"enabled": False},
        {"role_map": {"ops": "viewer"}},
        {"tenant": "other"},
        {"secret": Secret("t" * 32)},
        {"secret": None},
        {"ca_pem": "another"},
        None,
    ],
)
async def test_somebody_from_elsewhere_ends_with_the_settings_that_mapped_him(rig: Rig, change: Any) -> None:
    made = (await rig.exchange(rig.of_idp())).token.reveal()
    acted = (await rig.exchange(rig.of_user(), actor=rig.of_idp())).token.reveal()
    assert (await rig.who(made)).issuer == IDP.issuer
    if change is None:
        del rig.issuers[IDP.issuer]
    else:
        rig.issuers[IDP.issuer] = replace(IDP, **change)
    assert await rig.refused(made)
    assert await rig.refused(acted)


@pytest.mark.req("I3.5", "I3.14")
def test_the_fingerprint_of_settings_shows_nothing_of_the_secret() -> None:
    assert IDP.fingerprint == replace(IDP).fingerprint
    settings = repr([(each.name, getattr(IDP, each.name)) for each in fields(IDP) if each.name != "secret"])
    assert "ssss" not in settings
    for guess in ("s" * 32, settings, settings + "s" * 32, "s" * 32 + settings, repr(IDP)):
        assert not sha256(guess.encode()).hexdigest().startswith(IDP.fingerprint), "no plain digest to look up"


@pytest.mark.req("I3.5", "I3.1")
async def test_a_key_that_is_disabled_ends_what_its_tokens_were_exchanged_for(rig: Rig) -> None:
    made = (await rig.exchange(rig.of_key())).token.reveal()
    acted = (await rig.exchange(rig.of_user(), actor=rig.of_key())).token.reveal()
    for change in ({"enabled": False}, {"expires_at": NOW - timedelta(seconds=1)}, {"identity": "other"}):
        rig.keys.records[rig.record.id] = replace(rig.record, **change)
        assert await rig.refused(made)
        assert await rig.refused(acted)
    rig.keys.records[rig.record.id] = replace(rig.record, certificate_sha256="ab" * 32)
    assert await rig.refused(made), "bound to a certificate, like the key"
