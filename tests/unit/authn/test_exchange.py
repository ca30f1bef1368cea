"""Token exchange (RFC 8693): narrower, never wider, and dead with whatever it was made of."""

import json
from dataclasses import replace
from typing import Any

import jwt
import pytest

from services.authn.exchange import JWT, MAX_ACTORS, Exchange
from services.authn.model import Secret
from services.common.errors import InvalidArgument, PermissionDenied, Unauthenticated
from services.common.revocations import names
from tests.unit.authn.exchanging import ALICE, AUDIENCE, BOT_ACTS, IDP, Rig, rig, subjects
from tests.unit.authn.support import (
    call,
    token,
)

__all__ = ["rig"]


@pytest.mark.req("I3.5", "R1", "R3")
@pytest.mark.parametrize("kind", ["user", "session", "key", "elsewhere"])
async def test_what_comes_of_an_exchange_is_the_subject_again(rig: Rig, kind: str) -> None:
    subject = subjects(rig)[kind]
    before = await rig.who(subject)
    issued = await rig.exchange(subject)
    after = await rig.who(issued.token.reveal())
    same = {name: getattr(before, name) for name in ("credential_id", "ends_with", "auth_time", "expires_at")}
    assert replace(after, **same) == before, "identity, tenant, groups, roles, permissions, namespaces, tools, amr"
    assert after.amr == before.amr
    assert kind == "key" or after.auth_time == before.auth_time
    assert after.credential_id.partition("/")[0] == before.credential_id.partition("/")[0]
    assert before.expires_at is not None and after.expires_at is not None
    assert after.expires_at <= before.expires_at
    header = jwt.get_unverified_header(issued.token.reveal())
    assert (header["typ"], header["kid"]) == ("at+jwt", rig.ring.current.kid)
    assert set(names(before.issuer, before.subject, before.credential_id, before.ends_with)) <= set(
        names(after.issuer, after.subject, after.credential_id, after.ends_with)
    ), "it ends with all that its subject's token ends with, wherever it is cached"
    assert not {"roles", "permissions"} & set(jwt.decode(issued.token.reveal(), options={"verify_signature": False}))


@pytest.mark.req("I3.5")
async def test_it_lives_no_longer_than_the_tokens_that_it_was_made_of(rig: Rig) -> None:
    long = rig.of_user()
    assert (await rig.exchange(long)).lifetime == 3600
    rig.clock.advance(3000)
    assert (await rig.exchange(long)).lifetime == 600
    assert (await rig.exchange(rig.of_user(), actor=long)).lifetime == 600, "nor than the actor's"
    last = (await rig.exchange(long)).token.reveal()
    rig.clock.advance(610)
    assert not await rig.refused(long), "within the leeway"
    for made_of in (long, last):
        with pytest.raises(Unauthenticated):
            await rig.exchange(made_of)
    rig.clock.advance(20)
    assert await rig.refused(last)
    assert await rig.refused(long)


@pytest.mark.req("I3.5")
async def test_a_scope_keeps_some_and_never_adds(rig: Rig) -> None:
    issued = await rig.exchange(rig.of_user(), scope="viewer k8s:pods:list")
    narrow = issued.token.reveal()
    kept = await rig.who(narrow)
    assert (kept.narrowed_to, issued.scope) == (("viewer", "k8s:pods:list"), "viewer k8s:pods:list")
    assert kept.roles == ("operator", "viewer"), "a deny rule that speaks of a role is not escaped by leaving it out"
    for scope in ("admin", "viewer admin", "k8s:*", "VIEWER", "viewer\u00a0admin", "*"):
        with pytest.raises(InvalidArgument, match="does not have"):
            await rig.exchange(rig.of_user(), scope=scope)
    for scope in ("operator", "viewer operator"):
        with pytest.raises(InvalidArgument, match="does not have"):
            await rig.exchange(narrow, scope=scope)
    for scope in ("", "viewer", "viewer viewer"):
        again = await rig.who((await rig.exchange(narrow, scope=scope)).token.reveal())
        assert set(again.narrowed_to) <= {"viewer", "k8s:pods:list"}
        assert again.narrowed_to, "once narrowed, never wide again"
    with pytest.raises(InvalidArgument, match="does not have"):
        await rig.exchange(rig.of_user(), actor=rig.of_user("bot"), scope="admin"), "what the actor holds adds nothing"
    # A role that the record loses is lost, kept or not.
    rig.users.records["alice"] = replace(ALICE, roles=("operator",))
    assert (await rig.who(narrow)).roles == ("operator",)


@pytest.mark.req("I3.5", "R18", "R25")
async def test_an_exchange_that_is_refused_is_recorded_as_refused_with_who_asked(rig: Rig) -> None:
    """Regression: as an error of nobody, all reasons folded into one."""
    with pytest.raises(InvalidArgument):
        await rig.exchange(rig.of_user(), requested_type="x")
    with pytest.raises(InvalidArgument):
        await rig.exchange(rig.of_user(), scope="admin")
    with pytest.raises(PermissionDenied):
        await rig.exchange(rig.of_idp(may_act={"sub": "nobody"}), actor=rig.of_key())
    told = [(each.result, each.error, each.user, each.metadata["auth_type"]) for each in rig.journalist.entries]
    assert told == [
        ("failure", "invalid_argument", "", "unknown"),
        ("failure", "invalid_argument", "alice", "jwt"),
        ("failure", "permission_denied", "https://idp.example:eve", "jwt"),
    ], "and nobody passes for a user of ours"
    assert len(set(rig.journalist.folds)) == 3


@pytest.mark.req("I3.5", "R18")
async def test_who_acts_is_named_stays_named_and_is_on_record(rig: Rig) -> None:
    once = (await rig.exchange(rig.of_user(), actor=rig.of_user("bot"))).token.reveal()
    assert rig.journalist.entries[-1].action == "exchange_token"
    assert rig.journalist.entries[-1].user == "alice"
    assert json.loads(rig.journalist.entries[-1].metadata["actors"]) == BOT_ACTS
    assert (await rig.who(once)).actors == (("kubegate", "bot"),)
    assert json.loads(rig.journalist.entries[-1].metadata["actors"]) == BOT_ACTS
    claim = jwt.decode(once, options={"verify_signature": False})["act"]
    assert (claim["iss"], claim["sub"]) == ("kubegate", "bot")
    without = (await rig.exchange(once)).token.reveal()
    assert (await rig.who(without)).actors == (("kubegate", "bot"),), "not shed by one more exchange"
    twice = (await rig.exchange(once, actor=rig.of_idp())).token.reveal()
    assert (await rig.who(twice)).actors == ((IDP.issuer, "eve"), ("kubegate", "bot"))
    with pytest.raises(InvalidArgument, match="its own token"):
        await rig.exchange(rig.of_user(), actor=once)
    text = once
    for _ in range(MAX_ACTORS - 1):
        text = (await rig.exchange(text, actor=rig.of_key())).token.reveal()
    with pytest.raises(InvalidArgument, match="act for each other"):
        await rig.exchange(text, actor=rig.of_key())


@pytest.mark.req("I3.5")
async def test_whom_the_subjects_token_lets_act_is_the_only_one(rig: Rig) -> None:
    for may_act in ({"sub": "bot"}, {"sub": "bot", "iss": IDP.issuer}, {"sub": "alice", "iss": "kubegate"}):
        with pytest.raises(PermissionDenied):
            await rig.exchange(rig.of_idp(may_act=may_act), actor=rig.of_user("bot"))
    assert rig.journalist.entries[-1].error == "permission_denied"
    subject = rig.of_idp(may_act={"sub": "bot", "iss": "kubegate"})
    await rig.exchange(subject, actor=rig.of_user("bot"))
    narrow = (await rig.exchange(subject)).token.reveal()
    with pytest.raises(PermissionDenied):
        await rig.exchange(narrow, actor=rig.of_key()), "nor is that shed by an exchange"
    for odd in ("bot", {}, {"sub": ""}, {"sub": 1}, [1]):
        with pytest.raises(Unauthenticated):
            await rig.exchange(rig.of_idp(may_act=odd), actor=rig.of_user("bot"))


@pytest.mark.req("I3.5")
async def test_who_acts_elsewhere_is_taken_over_and_malformed_chains_are_refused(rig: Rig) -> None:
    acting = rig.of_idp(act={"sub": "agent kubegate:admin", "act": {"sub": "broker", "iss": IDP.issuer}})
    chain = ((IDP.issuer, "agent kubegate:admin"), (IDP.issuer, "broker"))
    assert (await rig.who(acting)).actors == chain
    recorded = json.loads(rig.journalist.entries[-1].metadata["actors"])
    assert [(each["issuer"], each["subject"]) for each in recorded] == list(chain), "a blank in a name makes no actor"
    assert (await rig.who((await rig.exchange(acting)).token.reveal())).actors == chain
    deep: Any = None
    for number in range(MAX_ACTORS + 1):
        deep = {"sub": f"a{number}", **({"act": deep} if deep else {})}
    for odd in ("agent", {}, {"sub": ""}, {"sub": "system:masters"}, {"sub": "a\nb"}, {"sub": 3}, deep):
        assert await rig.refused(rig.of_idp(act=odd)), odd


@pytest.mark.req("I3.5", "R1", "R18")
@pytest.mark.parametrize(
    "issuer", ["kubegate", "https://other.example", IDP.issuer + "/", "x\x1b[31m\ny" * 300, "", 1, None]
)
async def test_an_issuer_speaks_for_no_actor_of_another(rig: Rig, issuer: Any) -> None:
    odd = {"iss": issuer, "sub": "admin"}
    for act in (odd, {"sub": "agent", "act": odd}):
        text = rig.of_idp(act=act)
        assert await rig.refused(text), "refused, not stripped: else nobody would seem to act"
        with pytest.raises(Unauthenticated):
            await rig.exchange(text)
        with pytest.raises(Unauthenticated):
            await rig.exchange(rig.of_user(), actor=text)
    assert not any("actors" in entry.metadata for entry in rig.journalist.entries)


@pytest.mark.req("I3.5", "I3.11")
async def test_nothing_but_a_good_access_token_is_exchanged(rig: Rig) -> None:
    good = rig.of_user()
    head, payload, signature = good.split(".")
    bad = [
        rig.api_key,
        "kgr_x_y",
        "a.b.c",
        f"{head}.{payload}.{signature[:-4]}AAAA",
        good + "x" * 9000,
        rig.of_idp(aud="x"),
    ]
    for text in bad:
        with pytest.raises(Unauthenticated):
            await rig.exchange(text)
        with pytest.raises(Unauthenticated):
            await rig.exchange(good, actor=text)
    principal_token = (await rig.service.authenticate(token(good), rig.source, call())).token
    with pytest.raises(Unauthenticated):
        await rig.exchange(principal_token)
    assert {entry.result for entry in rig.journalist.entries if entry.action == "exchange_token"} == {"failure"}


@pytest.mark.req("I3.5")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"subject": Secret("")}, "subject_token is missing"),
        ({"subject_type": ""}, "subject_token_type must be"),
        ({"subject_type": "urn:ietf:params:oauth:token-type:saml2"}, "subject_token_type must be"),
        ({"actor_type": JWT}, "actor_token is missing"),
        ({"actor": Secret("a.b.c"), "actor_type": ""}, "actor_token_type must be"),
        ({"requested_type": "urn:ietf:params:oauth:token-type:refresh_token"}, "requested_token_type may be"),
        ({"targets": ("https://elsewhere.example",)}, "tokens for others are not issued here"),
        ({"targets": (AUDIENCE, "https://elsewhere.example")}, "tokens for others are not issued here"),
        ({"targets": ("kubegate-internal",)}, "tokens for others are not issued here"),
    ],
)
async def test_what_is_not_issued_here_is_refused_with_the_reason(rig: Rig, change: Any, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        await rig.exchange(rig.of_user(), **change)
    assert rig.journalist.entries[-1].error == "invalid_argument"
    await rig.exchange(rig.of_user(), targets=(AUDIENCE, AUDIENCE), subject_type=JWT, requested_type=JWT)


@pytest.mark.req("I3.5", "I3.14")
async def test_neither_token_shows_in_a_repr_or_the_record(rig: Rig) -> None:
    subject, actor = rig.of_user(), rig.of_user("bot")
    issued = await rig.exchange(subject, actor)
    seen = (
        repr(rig.journalist.entries) + repr(issued) + repr(Exchange(Secret(subject), "", Secret(actor), "", (), "", ""))
    )
    for text in (subject, actor, issued.token.reveal()):
        assert text.rpartition(".")[2] not in seen
