"""The lease (R12): only the answer to a ping extends it, from the moment at which the ping was sent."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from grpc import aio

from kubegate.authn.v1 import authn_pb2
from kubegate.common.v1 import lease_pb2
from services.common import lease as lease_module
from services.common.lease import TERM, Lease, serve_lease
from tests.fakes.clock import FakeClock

Response = authn_pb2.WatchRevocationsResponse


def answer(sequence: int, revision: int = 1, **fields: Any) -> Response:
    return Response(answer=lease_pb2.LeaseAnswer(sequence=sequence, revision=revision), **fields)


class Call:
    """One stream: ``reply`` makes the answer to a ping, and may take its time on the test's clock."""

    def __init__(self, reply: Callable[[Any], Any]) -> None:
        self._reply = reply
        self._asked: list[Any] = []
        self.cancelled = False

    async def write(self, request: Any) -> None:
        self._asked.append(request.ping)

    async def read(self) -> Any:
        made = self._reply(self._asked.pop(0))
        return await made if asyncio.iscoroutine(made) else made

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._done = callback

    def cancel(self) -> None:
        self.cancelled = True
        self._done(self)


class Peer:
    name = "authn"

    def channel(self) -> None:
        return None


class Rig:
    """A lease over calls that the test scripts."""

    def __init__(self, reply: Callable[[Any], Any]) -> None:
        self.clock = FakeClock()
        self.applied: list[Any] = []
        self.calls: list[Call] = []
        self.reply = reply

        def method(_channel: Any) -> Callable[[], Call]:
            def call() -> Call:
                self.calls.append(Call(self.reply))
                return self.calls[-1]

            return call

        peer: Any = Peer()

        def take(response: Any) -> None:
            self.applied.append(response)

        self.lease = Lease(peer, method, authn_pb2.WatchRevocationsRequest, take, self.clock)

    async def ping(self) -> None:
        await self.lease.ping(Call(self.reply))


@pytest.mark.req("R12", "R27")
async def test_an_answered_ping_vouches_for_one_term_from_its_sending() -> None:
    rig = Rig(lambda ping: answer(ping.sequence, 5))
    assert not rig.lease.fresh()
    await rig.ping()
    assert rig.lease.revision == 5
    rig.clock.advance(TERM - 0.001)
    assert rig.lease.fresh()
    rig.clock.advance(0.001)
    assert not rig.lease.fresh(), "nothing but an answer extends it"
    assert rig.lease.problems()


@pytest.mark.req("R12", "R27")
async def test_a_delayed_answer_counts_from_the_question() -> None:
    rig = Rig(lambda ping: answer(ping.sequence))

    def delayed(ping: Any) -> Any:
        rig.clock.advance(0.6)
        return answer(ping.sequence)

    rig.reply = delayed
    await rig.ping()
    assert rig.lease.fresh()
    rig.clock.advance(0.4)
    assert not rig.lease.fresh()


@pytest.mark.req("R12", "R27")
async def test_an_answer_later_than_the_term_is_worth_nothing() -> None:
    """As after SIGSTOP and SIGCONT, or the sleep of a machine: the answer lay in the socket all the while."""
    rig = Rig(lambda ping: None)

    def stopped(ping: Any) -> Any:
        rig.clock.advance(3600)
        return answer(ping.sequence, 9)

    rig.reply = stopped
    await rig.ping()
    assert not rig.lease.fresh()
    assert rig.lease.revision == 9, "what it says is applied all the same"
    assert len(rig.applied) == 1


@pytest.mark.req("R12")
async def test_the_answer_to_another_ping_is_none() -> None:
    rig = Rig(lambda ping: answer(ping.sequence - 1))
    with pytest.raises(TimeoutError):
        await rig.ping()
    assert not rig.lease.fresh()
    assert rig.applied == []


@pytest.mark.req("R12")
async def test_the_end_of_the_stream_is_no_answer() -> None:
    rig = Rig(lambda ping: aio.EOF)
    with pytest.raises(TimeoutError):
        await rig.ping()
    assert not rig.lease.fresh()


@pytest.mark.req("R12")
async def test_what_an_answer_says_is_applied_before_the_lease_counts_for_it() -> None:
    rig = Rig(lambda ping: answer(ping.sequence, 3))
    seen: list[tuple[bool, int]] = []
    rig.lease._apply = lambda response: seen.append((rig.lease.fresh(), rig.lease.revision))
    await rig.ping()
    assert seen == [(False, 0)]

    def broken(response: Any) -> None:
        raise ValueError("cache broken")

    rig.lease._apply = broken
    rig.clock.advance(TERM)
    with pytest.raises(ValueError, match="broken"):
        await rig.ping()
    assert not rig.lease.fresh()


@pytest.mark.req("R12")
async def test_a_ping_names_what_is_known_and_the_revision_never_goes_back() -> None:
    known: list[int] = []
    revisions = iter([4, 9, 7, 9])

    def reply(ping: Any) -> Any:
        known.append(ping.known_revision)
        return answer(ping.sequence, next(revisions))

    rig = Rig(reply)
    for _ in range(4):
        await rig.ping()
    assert known == [0, 4, 9, 9]
    assert rig.lease.revision == 9


@pytest.mark.req("R12", "R27")
async def test_a_silent_stream_is_given_up_and_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PATIENCE", "RETRY", "PERIOD"):
        monkeypatch.setattr(lease_module, name, 0.01)
    silent = asyncio.Event()

    async def never(_ping: Any) -> Any:
        await silent.wait()

    rig = Rig(never)
    task = asyncio.create_task(rig.lease.keep())
    while len(rig.calls) < 3:
        await asyncio.sleep(0)
    assert not rig.lease.fresh()
    assert rig.calls[0].cancelled
    rig.reply = lambda ping: answer(ping.sequence)
    assert await rig.lease.wait(60)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert all(call.cancelled for call in rig.calls)


@pytest.mark.req("R12")
@pytest.mark.parametrize("fault", [ValueError("odd"), OSError("half a certificate"), asyncio.InvalidStateError()])
async def test_whatever_breaks_a_stream_it_is_opened_again(monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    monkeypatch.setattr(lease_module, "RETRY", 0.0)
    replies = iter([fault])

    def reply(ping: Any) -> Any:
        for error in replies:
            raise error
        return answer(ping.sequence)

    rig = Rig(reply)
    task = asyncio.create_task(rig.lease.keep())
    assert await rig.lease.wait(60)
    assert len(rig.calls) == 2
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.req("R12", "R8")
async def test_a_stream_is_renewed_before_its_certificate_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "PERIOD", 0.0)
    rig = Rig(lambda ping: None)

    def reply(ping: Any) -> Any:
        rig.clock.advance(600)
        return answer(ping.sequence)

    rig.reply = reply
    task = asyncio.create_task(rig.lease.keep())
    while len(rig.calls) < 2:
        await asyncio.sleep(0)
    assert rig.lease._sequence in (6, 7), "after an hour, less a random tenth"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.req("R12")
async def test_waiting_asks_at_once_and_extends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(lambda ping: answer(ping.sequence))
    assert not await rig.lease.wait(0.01), "nobody keeps it"
    task = asyncio.create_task(rig.lease.keep())
    assert await rig.lease.wait(60)
    rig.clock.advance(TERM)
    # The next ping is due only after PERIOD; whoever waits brings it forward.
    monkeypatch.setattr(lease_module, "PERIOD", 3600.0)
    assert await rig.lease.wait(60)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.req("R12")
async def test_the_server_reads_after_each_ping_and_answers_that_one() -> None:
    reads: list[int] = []

    async def read(known: int) -> Response:
        reads.append(known)
        return answer(0, 10 + len(reads))

    async def pings() -> Any:
        for sequence, known in ((1, 0), (2, 11), (7, 12)):
            assert len(reads) == {1: 0, 2: 1, 7: 2}[sequence], "no read is begun before its ping"
            yield authn_pb2.WatchRevocationsRequest(ping=lease_pb2.LeasePing(sequence=sequence, known_revision=known))

    answers = [(each.answer.sequence, each.answer.revision) async for each in serve_lease(pings(), read)]
    assert answers == [(1, 11), (2, 12), (7, 13)]
    assert reads == [0, 11, 12]


@pytest.mark.req("R12", "R8")
async def test_a_renewal_loses_no_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """The old stream holds until the new one has answered, and its end ends nothing: no cache is dropped for it."""
    monkeypatch.setattr(lease_module, "PERIOD", 0.0)
    monkeypatch.setattr(lease_module, "MAX_AGE", 1.0)
    rig = Rig(lambda ping: None)
    seen: list[tuple[int, bool, bool]] = []

    def reply(ping: Any) -> Any:
        if len(rig.calls) > 1:
            seen.append((len(rig.calls), rig.lease.fresh(), rig.calls[-2].cancelled))
        rig.clock.advance(0.3)
        return answer(ping.sequence)

    rig.reply = reply
    task = asyncio.create_task(rig.lease.keep())
    while len(rig.calls) < 3:
        await asyncio.sleep(0)
    renewed = [each for each in seen if each[0] == 2]
    assert renewed[0] == (2, True, False), "make before break"
    assert all(fresh and cancelled for _, fresh, cancelled in renewed[1:])
    while not rig.calls[-2].cancelled:
        await asyncio.sleep(0)
    assert rig.lease.fresh()
    rig.calls[-1].cancel()
    assert not rig.lease.fresh(), "the end of the stream that holds ends the lease at once"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert all(call.cancelled for call in rig.calls)
