"""AppendStream answers a message with few commits, and each item keeps its own deadline, error and order (R8)."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from kubegate.audit.v1 import audit_pb2
from kubegate.common.v1 import stream_pb2
from services.audit.adapters import sqlite_store
from services.audit.adapters.principals import TokenPrincipals
from services.common.call import CURRENT, Call
from services.common.deadline import Deadline
from services.common.errors import Code
from services.common.grpc_batches import serve_batches
from services.common.principal_token import PrincipalVerifier
from tests.fakes.audit_rig import Rig, event, token
from tests.fakes.mesh import Mesh

Answers = dict[int, audit_pb2.AppendAnswer]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Mesh:
    return Mesh(tmp_path_factory.mktemp("mesh"))


@pytest_asyncio.fixture
async def rig(mesh: Mesh, tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(mesh, tmp_path)
    await rig.serve_surroundings()
    await rig.start()
    yield rig
    await rig.stop()
    await rig.stop_surroundings()


def item(number: int, principal_token: str = "", *, timeout_ms: int = 10_000, **changes: Any) -> audit_pb2.AppendItem:
    request = audit_pb2.AppendRequest(event=event(**changes), principal_token=principal_token)
    return audit_pb2.AppendItem(header=stream_pb2.ItemHeader(id=number, timeout_ms=timeout_ms), request=request)


async def ask(rig: Rig, *messages: list[audit_pb2.AppendItem], enough: int | None = None) -> Answers:
    """The answers to messages sent one after the other, all of them or the first few."""
    call = rig.stub("service/mcp-core").AppendStream()
    for items in messages:
        await call.write(audit_pb2.AppendStreamRequest(items=items))
    answers: Answers = {}
    wanted = enough or sum(map(len, messages))
    while len(answers) < wanted:
        answers |= {answer.id: answer for answer in (await call.read()).answers}
    call.cancel()
    return answers


@pytest.mark.req("R8", "I4.2")
async def test_a_message_is_one_commit_and_one_verification_of_its_token(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits: list[int] = []
    verified: list[str] = []
    commit, verify, inner = sqlite_store.SqliteStore.commit, TokenPrincipals.verify, PrincipalVerifier._verify

    def counting(self: Any, drafts: Any) -> Any:
        commits.append(len(drafts))
        return commit(self, drafts)

    async def noting(self: Any, principal_token: str) -> Any:
        verified.append(principal_token)
        return await verify(self, principal_token)

    signatures: list[str] = []

    async def checking(self: Any, principal_token: str) -> Any:
        signatures.append(principal_token)
        return await inner(self, principal_token)

    monkeypatch.setattr(sqlite_store.SqliteStore, "commit", counting)
    monkeypatch.setattr(TokenPrincipals, "verify", noting)
    monkeypatch.setattr(PrincipalVerifier, "_verify", checking)
    mine = token("alice", "service/mcp-core")
    answers = await ask(rig, [item(n, mine) for n in range(256)], [item(300 + n, mine) for n in range(256)])
    assert sorted(answer.response.sequence for answer in answers.values()) == list(range(512))
    assert len(commits) <= 2
    assert len(verified) == 2
    assert signatures == [mine]


@pytest.mark.req("R8", "I4.2")
async def test_an_items_error_is_its_own(rig: Rig) -> None:
    # Principal tokens can be verified from now on.
    await rig.append("service/mcp-core", event(), token("alice", "service/mcp-core"))
    twice = event()
    same = audit_pb2.AppendItem(
        header=stream_pb2.ItemHeader(id=6, timeout_ms=9000), request=audit_pb2.AppendRequest(event=twice)
    )
    again = audit_pb2.AppendItem.FromString(same.SerializeToString())
    again.header.id = 7
    answers = await ask(
        rig,
        [
            item(1),
            item(2, action=""),
            item(3, "nonsense"),
            item(4, event_type=audit_pb2.EVENT_TYPE_ADMIN),
            item(5, timeout_ms=0),
            same,
            again,
            item(8, phase=audit_pb2.PHASE_OUTCOME, intent_id=twice.event_id),
            item(9, result=99),
            item(10),
        ],
    )
    codes = {number: answer.error.code for number, answer in answers.items() if answer.HasField("error")}
    assert codes == {
        2: Code.INVALID_ARGUMENT,
        3: Code.UNAUTHENTICATED,
        4: Code.PERMISSION_DENIED,
        5: Code.DEADLINE_EXCEEDED,
        8: Code.FAILED_PRECONDITION,
        9: Code.INVALID_ARGUMENT,
    }
    assert answers[6].response.sequence == answers[7].response.sequence


@pytest.mark.req("R8")
async def test_who_waits_for_one_token_holds_up_nobody_with_another(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    verify, held, release = TokenPrincipals.verify, token("held", "service/mcp-core"), asyncio.Event()

    async def holding(self: Any, principal_token: str) -> Any:
        if principal_token == held:
            await release.wait()
        return await verify(self, principal_token)

    monkeypatch.setattr(TokenPrincipals, "verify", holding)
    mine = token("alice", "service/mcp-core")
    answers = await ask(rig, [item(1, held), item(2, mine), item(3)], [item(4, mine)], enough=3)
    assert sorted(answers) == [2, 3, 4]
    # The held item's own deadline ends its wait, and only its.
    late = await ask(rig, [item(5, held, timeout_ms=50), item(6, held, timeout_ms=60_000), item(7)], enough=2)
    assert {number: answer.HasField("error") for number, answer in late.items()} == {5: True, 7: False}
    assert late[5].error.code == Code.DEADLINE_EXCEEDED
    release.set()


@pytest.mark.req("R8", "I4.2")
async def test_a_stream_that_is_far_ahead_is_read_no_further_and_loses_nothing(rig: Rig) -> None:
    """Four times what may be in flight: flow control slows the sender down instead of refusing."""
    messages = [[item(1000 * m + n) for n in range(256)] for m in range(32)]

    async def feed() -> AsyncIterator[audit_pb2.AppendStreamRequest]:
        for items in messages:
            yield audit_pb2.AppendStreamRequest(items=items)

    answers = [
        answer async for response in rig.stub("service/mcp-core").AppendStream(feed()) for answer in response.answers
    ]
    assert len(answers) == 32 * 256
    assert not [answer for answer in answers if answer.HasField("error")]


@pytest.mark.req("R8")
async def test_answers_that_nobody_takes_count_as_in_flight() -> None:
    """A peer that writes and never reads cannot fill the service's memory."""
    written = 0

    async def questions() -> AsyncIterator[audit_pb2.AppendStreamRequest]:
        nonlocal written
        for number in range(100):
            written += 256
            yield audit_pb2.AppendStreamRequest(items=[item(1000 * number + n) for n in range(256)])

    async def work(count: int) -> list[Any]:
        return [audit_pb2.AppendResponse()] * count

    token_ = CURRENT.set(Call("service/mcp-core", Deadline.after(10)))
    stream = serve_batches(
        questions(),
        lambda requests: [(range(len(requests)), work(len(requests)))],
        response_type=audit_pb2.AppendStreamResponse,
        answer_type=audit_pb2.AppendAnswer,
        limit=1024,
    )
    taken = len((await anext(stream)).answers)
    for _ in range(1000):
        await asyncio.sleep(0)
    assert written <= taken + 1024 + 256, "and one message that was read and waits"
    rest = [answer async for response in stream for answer in response.answers]
    assert taken + len(rest) == 100 * 256
    CURRENT.reset(token_)


@pytest.mark.req("R8")
async def test_items_whose_deadline_passed_stay_in_flight_until_their_work_ends() -> None:
    """Deadlines of nought cannot pile up work that nobody waits for."""
    begun, release = 0, asyncio.Event()

    async def work(count: int) -> list[Any]:
        nonlocal begun
        begun += count
        await release.wait()
        return [audit_pb2.AppendResponse()] * count

    async def questions() -> AsyncIterator[audit_pb2.AppendStreamRequest]:
        for number in range(10):
            yield audit_pb2.AppendStreamRequest(items=[item(10 * number + n, timeout_ms=0) for n in range(4)])

    token_ = CURRENT.set(Call("service/mcp-core", Deadline.after(10)))
    stream = serve_batches(
        questions(),
        lambda requests: [(range(len(requests)), work(len(requests)))],
        response_type=audit_pb2.AppendStreamResponse,
        answer_type=audit_pb2.AppendAnswer,
        limit=8,
    )
    late: list[audit_pb2.AppendAnswer] = []
    while len(late) < 8:
        late += (await anext(stream)).answers
    assert {answer.error.code for answer in late} == {Code.DEADLINE_EXCEEDED}
    for _ in range(20):
        await asyncio.sleep(0)
    assert begun == 8
    release.set()
    rest = [answer async for response in stream for answer in response.answers]
    assert (len(late) + len(rest), begun) == (40, 40)
    CURRENT.reset(token_)


@pytest.mark.req("R8", "I2.6")
async def test_a_stopping_service_answers_what_is_in_flight_and_takes_no_more() -> None:
    stopping, asked = asyncio.Event(), asyncio.Event()
    release = asyncio.Event()

    async def work(count: int) -> list[Any]:
        asked.set()
        await release.wait()
        return [audit_pb2.AppendResponse()] * count

    async def questions() -> AsyncIterator[audit_pb2.AppendStreamRequest]:
        yield audit_pb2.AppendStreamRequest(items=[item(1), item(2)])
        await asyncio.Event().wait()

    token_ = CURRENT.set(Call("service/mcp-core", Deadline.after(10), stopping=stopping))
    stream = serve_batches(
        questions(),
        lambda requests: [(range(len(requests)), work(len(requests)))],
        response_type=audit_pb2.AppendStreamResponse,
        answer_type=audit_pb2.AppendAnswer,
    )

    async def answers() -> list[int]:
        return [answer.id async for response in stream for answer in response.answers]

    answering = asyncio.create_task(answers())
    await asked.wait()
    stopping.set()
    release.set()
    assert await answering == [1, 2]
    CURRENT.reset(token_)


@pytest.mark.req("R5", "R8")
async def test_of_the_outcomes_in_one_message_an_intent_takes_one(rig: Rig) -> None:
    begun = event(
        action="scale", phase=audit_pb2.PHASE_INTENT, result=audit_pb2.RESULT_UNKNOWN, deadline=event().timestamp
    )
    await rig.append("service/mcp-core", begun)
    ends = [
        item(n, action="scale", phase=audit_pb2.PHASE_OUTCOME, intent_id=begun.event_id, event_id=event().event_id)
        for n in range(1, 4)
    ]
    same = audit_pb2.AppendItem.FromString(ends[0].SerializeToString())
    same.header.id = 4
    answers = await ask(rig, [*ends, same])
    assert answers[1].response.sequence == answers[4].response.sequence == 1
    assert {answers[n].error.code for n in (2, 3)} == {Code.ALREADY_EXISTS}
    assert len(await rig.query(filter=audit_pb2.Filter(action="scale"))) == 2
