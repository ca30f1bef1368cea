"""authz's store of what happens at most once: confirmations used, idempotency keys taken (R16, R20)."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from kubegate.authz.v1 import once_pb2, once_pb2_grpc
from services.authz.adapters.sqlite_once import SqliteOnce
from services.authz.adapters.sqlite_store import SqliteStore
from services.authz.ports import Claim, Confirmation, Key
from services.authz.questions import LONGEST, MOST_OF_ONE
from services.common.deadline import Deadline
from services.common.errors import InvalidArgument, NotFound, PermissionDenied, ResourceExhausted, Unauthenticated
from tests.contract.authz_world import World, running

POLICY = "roles: []\n"
SCALE, DELETE = (hashlib.sha256(text).digest() for text in (b"scale", b"delete"))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path, POLICY) as world:
        yield world


def stamp(seconds: float) -> Timestamp:
    made = Timestamp()
    made.FromNanoseconds(int((time.time() + seconds) * 1e9))
    return made


def key(text: str = "key-1", digest: bytes = SCALE) -> once_pb2.OnceKey:
    return once_pb2.OnceKey(key=text, digest=digest)


def confirmation(name: str = "c1", seconds: float = 300.0) -> once_pb2.OnceConfirmation:
    return once_pb2.OnceConfirmation(id=name, expires_at=stamp(seconds))


async def ask(world: World, method: str, request: Any, as_: str = "service/mcp-core") -> Any:
    return await world.peer(as_).unary(
        lambda channel: getattr(once_pb2_grpc.OnceServiceStub(channel), method), request, Deadline.after(10)
    )


async def claim(world: World, token: str, **fields: Any) -> once_pb2.ClaimResponse:
    request = once_pb2.ClaimRequest(principal_token=token, request_id="req-1", deadline=stamp(30), **fields)
    response: once_pb2.ClaimResponse = await ask(world, "Claim", request)
    return response


async def recall(world: World, token: str, wanted: once_pb2.OnceKey) -> once_pb2.RecallResponse:
    request = once_pb2.RecallRequest(principal_token=token, key=wanted)
    response: once_pb2.RecallResponse = await ask(world, "Recall", request)
    return response


@pytest.mark.req("R20", "I8.5")
async def test_a_key_is_taken_once_and_keeps_its_outcome(world: World) -> None:
    token = world.keys.token()
    assert not (await recall(world, token, key())).HasField("record")
    first = await claim(world, token, key=key())
    assert first.claim_id

    second = await claim(world, token, key=key())
    assert second.WhichOneof("outcome") == "taken"
    assert (second.taken.same, second.taken.request_id, second.taken.outcome) == (True, "req-1", "")
    assert second.taken.deadline.seconds

    await ask(world, "Settle", once_pb2.SettleRequest(claim_id=first.claim_id, outcome='{"answer":1}'))
    await ask(world, "Settle", once_pb2.SettleRequest(claim_id=first.claim_id, outcome='{"answer":2}'))
    await ask(world, "Release", once_pb2.ReleaseRequest(claim_id=first.claim_id))
    assert (await recall(world, token, key())).record.outcome == '{"answer":1}'


@pytest.mark.req("R20", "I8.5")
async def test_a_key_that_was_given_back_is_free_again(world: World) -> None:
    token = world.keys.token()
    first = await claim(world, token, key=key())
    await ask(world, "Release", once_pb2.ReleaseRequest(claim_id=first.claim_id))
    assert (await claim(world, token, key=key())).claim_id not in ("", first.claim_id)


@pytest.mark.req("R1", "R20", "I8.5")
async def test_a_key_belongs_to_one_person_and_one_set_of_arguments(world: World) -> None:
    token = world.keys.token()
    await claim(world, token, key=key())
    other = await claim(world, token, key=key(digest=DELETE))
    assert not other.taken.same
    assert not other.taken.request_id
    # Neither another subject nor the same subject of another issuer is that person.
    for stranger in (world.keys.token(subject="bob"), world.keys.token(issuer="https://idp.example")):
        assert not (await recall(world, stranger, key())).HasField("record")
        assert (await claim(world, stranger, key=key())).claim_id


@pytest.mark.req("R16", "I8.4")
async def test_of_many_who_use_one_confirmation_one_succeeds(world: World) -> None:
    token = world.keys.token()
    said = await asyncio.gather(*(claim(world, token, confirmation=confirmation()) for _ in range(8)))
    assert sorted(each.WhichOneof("outcome") or "" for each in said) == ["claim_id", *["used"] * 7]


@pytest.mark.req("R16", "I8.4")
async def test_an_expired_confirmation_is_not_taken_and_none_lasts_longer_than_its_use_is_remembered(
    world: World,
) -> None:
    token = world.keys.token()
    assert (await claim(world, token, confirmation=confirmation(seconds=-1))).expired
    for wrong in (confirmation(seconds=3700), confirmation("")):
        with pytest.raises(InvalidArgument):
            await claim(world, token, confirmation=wrong)


@pytest.mark.req("R16", "R20")
async def test_key_and_confirmation_are_used_together_or_not_at_all(world: World) -> None:
    token = world.keys.token()
    assert (await claim(world, token, confirmation=confirmation())).WhichOneof("outcome") == "claim_id"
    assert (await claim(world, token, confirmation=confirmation(), key=key())).used
    assert not (await recall(world, token, key())).HasField("record")

    assert (await claim(world, token, key=key())).claim_id
    assert (await claim(world, token, key=key(), confirmation=confirmation("c2"))).HasField("taken")
    assert (await claim(world, token, confirmation=confirmation("c2"))).WhichOneof("outcome") == "claim_id"


@pytest.mark.req("R5", "R7")
async def test_only_the_core_may_ask_and_only_with_a_token_of_its_own(world: World) -> None:
    request = once_pb2.ClaimRequest(principal_token=world.keys.token(), key=key())
    for stranger in ("service/authn", "platform/billing", "operator/admin"):
        for method, asked in (
            ("Claim", request),
            ("Recall", once_pb2.RecallRequest(principal_token=world.keys.token(), key=key())),
            ("Settle", once_pb2.SettleRequest(claim_id="x", outcome="{}")),
            ("Release", once_pb2.ReleaseRequest(claim_id="x")),
            ("Ask", once_pb2.AskRequest(principal_token=world.keys.token())),
            ("Answer", once_pb2.AnswerRequest(principal_token=world.keys.token(), question_id="x", accepted=True)),
            ("AwaitAnswer", once_pb2.AwaitAnswerRequest(principal_token=world.keys.token(), question_id="x")),
        ):
            with pytest.raises(PermissionDenied):
                await ask(world, method, asked, as_=stranger)
    for token in ("", world.keys.token(azp="service/authn")):
        with pytest.raises(Unauthenticated):
            await claim(world, token, key=key())
        with pytest.raises(Unauthenticated):
            await claim(world, token, confirmation=confirmation("c9"))
    assert (await claim(world, world.keys.token(), confirmation=confirmation("c9"))).WhichOneof("outcome") == "claim_id"


@pytest.mark.parametrize("wrong", [key(""), key("x" * 129), key(digest=b"short"), key(digest=b"")])
async def test_malformed_keys_are_refused(world: World, wrong: once_pb2.OnceKey) -> None:
    with pytest.raises(InvalidArgument):
        await claim(world, world.keys.token(), key=wrong)
    with pytest.raises(InvalidArgument):
        await recall(world, world.keys.token(), wrong)


@pytest.mark.req("R16", "R20", "R27")
async def test_the_store_remembers_over_a_restart_and_forgets_in_time(tmp_path: Path) -> None:
    path = tmp_path / "authz.db"
    mine = Key("kubegate", "alice", "key-1")

    def made(name: str, now: float) -> Claim:
        return Claim(name, SCALE, "req-1", now, now + 30)

    store = SqliteStore(path)
    once = SqliteOnce(store)
    assert await once.claim(mine, made("first", 0), Confirmation("c1", 300), 0, 1000) is True
    await once.settle("first", "{}")
    await store.close()

    store = SqliteStore(path)
    once = SqliteOnce(store)
    assert await once.claim(mine, made("second", 1), None, 1, 1001) == Claim("first", SCALE, "req-1", 0, 30, "{}")
    assert await once.claim(None, made("", 299), Confirmation("c1", 300), 299, 1299) is False
    assert await once.recall(mine, 999) is not None
    assert await once.recall(mine, 1000) is None
    assert await once.claim(mine, made("third", 1000), None, 1000, 2000) is True
    counted = await store.run(lambda each: each.execute("SELECT count(*) FROM used_confirmations").fetchone())
    assert counted == (0,)
    await store.close()


async def test_an_outcome_has_bounds(world: World) -> None:
    for outcome in ("", "y" * (16 * 1024 + 1)):
        with pytest.raises(InvalidArgument):
            await ask(world, "Settle", once_pb2.SettleRequest(claim_id="x", outcome=outcome))


@pytest.mark.req("R1", "R16", "I8.3", "I8.4")
async def test_a_question_is_answered_by_the_person_who_was_asked_and_the_first_answer_counts(world: World) -> None:
    mine, bobs = world.keys.token(), world.keys.token(subject="bob")

    async def answer(token: str, key: str, *, accepted: bool = True, content: bytes = b"") -> None:
        request = once_pb2.AnswerRequest(principal_token=token, question_id=key, accepted=accepted, content=content)
        await ask(world, "Answer", request)

    async def wait(token: str, key: str, seconds: int = 20) -> bool:
        request = once_pb2.AwaitAnswerRequest(principal_token=token, question_id=key)
        request.patience.seconds = seconds
        return bool((await ask(world, "AwaitAnswer", request)).accepted)

    key = (await ask(world, "Ask", once_pb2.AskRequest(principal_token=mine))).question_id
    with pytest.raises(NotFound):
        await answer(bobs, key)
    with pytest.raises(NotFound):
        await answer(mine, "guessed")
    waiting = asyncio.create_task(wait(mine, key))
    await answer(mine, key)
    assert await waiting
    with pytest.raises(NotFound):
        await answer(mine, key)

    key = (await ask(world, "Ask", once_pb2.AskRequest(principal_token=mine))).question_id
    await answer(mine, key, accepted=False)
    await answer(mine, key)
    assert not await wait(mine, key)
    # What came with the answer comes with it, of bounded length.
    key = (await ask(world, "Ask", once_pb2.AskRequest(principal_token=mine))).question_id
    with pytest.raises(InvalidArgument):
        await answer(mine, key, content=b"x" * (LONGEST + 1))
    await answer(mine, key, content=b"x" * LONGEST)
    request = once_pb2.AwaitAnswerRequest(principal_token=mine, question_id=key)
    request.patience.seconds = 20
    assert (await ask(world, "AwaitAnswer", request)).content == b"x" * LONGEST
    # No answer in time is no.
    key = (await ask(world, "Ask", once_pb2.AskRequest(principal_token=mine))).question_id
    assert not await wait(mine, key, 0)

    for _ in range(MOST_OF_ONE):
        await ask(world, "Ask", once_pb2.AskRequest(principal_token=bobs))
    with pytest.raises(ResourceExhausted):
        await ask(world, "Ask", once_pb2.AskRequest(principal_token=bobs))
    await ask(world, "Ask", once_pb2.AskRequest(principal_token=mine))
