"""The core's adapter over a real stream whose lease is cut, stalled and delayed (R12, I3.15)."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from kubegate.authn.v1 import authn_pb2, authn_pb2_grpc
from services.common.deadline import Deadline
from services.common.errors import Unauthenticated, Unavailable
from services.common.grpc_server import GrpcServer
from services.common.grpc_stream import serve_stream
from services.common.ids import uuid7
from services.mcp_core.adapters.authn import AuthnAdapter
from services.mcp_core.model import Caller, Credential, RequestContext, Source
from tests.fakes.clock import SlippingClock
from tests.fakes.mesh import Mesh
from tests.fakes.revocations import Leases

KEY_ID = "k1"


class Authn(Leases, authn_pb2_grpc.AuthnServiceServicer):
    """Proves "good" while ``valid``; ``before_answer`` runs between the decision and the answer."""

    def __init__(self) -> None:
        self.asked = 0
        self.valid = True
        self.before_answer: Callable[[], None] = lambda: None

    async def AuthenticateStream(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        types: Any = {
            "response_type": authn_pb2.AuthenticateStreamResponse,
            "answer_type": authn_pb2.AuthenticateAnswer,
        }
        async for response in serve_stream(request_iterator, self._authenticate, **types):
            yield response

    async def _authenticate(self, request: authn_pb2.AuthenticateRequest) -> authn_pb2.AuthenticateResponse:
        self.asked += 1
        if not self.valid:
            raise Unauthenticated("The credential is not valid.")
        response = authn_pb2.AuthenticateResponse(
            principal_token="token", event_id=f"event-{self.asked}", revocation_revision=self.revision
        )
        response.principal.issuer, response.principal.subject = "kubegate", "alice"
        response.principal.credential_id, response.principal.auth_type = KEY_ID, "api_key"
        self.before_answer()
        return response


class Rig:
    """authn as the test plays it, and the adapter with its lease."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self.authn = Authn()
        self.clock = SlippingClock()
        self.port = 0

    async def serve(self) -> None:
        self.server = GrpcServer(f"127.0.0.1:{self.port}", self._mesh.tls("service/authn"), list)
        self.server.add(authn_pb2_grpc.add_AuthnServiceServicer_to_server, self.authn, "kubegate.authn.v1.AuthnService")
        self.port = await self.server.start()

    async def start(self) -> None:
        await self.serve()
        self.peer = self._mesh.peer("authn", self.port, "service/mcp-core")
        self.adapter = AuthnAdapter(self.peer, self.clock)
        self.keeping = asyncio.create_task(self.adapter.keep())
        await self.held()

    async def held(self) -> None:
        """Waits for the lease; the suite's time limit ends what never comes."""
        while not self.adapter._lease.fresh():
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        self.keeping.cancel()
        await asyncio.gather(self.keeping, return_exceptions=True)
        await self.adapter.close()
        await self.peer.close()
        await self.server.stop(0)

    async def ask(self, seconds: float = 10) -> Caller:
        context = RequestContext(uuid7(), "1" * 32, "mcp", Source("192.0.2.1"), Deadline.after(seconds))
        return await self.adapter.authenticate(Credential("good"), context)

    async def pings(self, count: int) -> None:
        """Waits for so many more."""
        wanted = self.authn.pings + count
        while self.authn.pings < wanted:
            await asyncio.sleep(0.01)


@pytest_asyncio.fixture
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    rig = Rig(Mesh(tmp_path_factory.mktemp("lease")))
    try:
        await rig.start()
        yield rig
    finally:
        await rig.stop()


@pytest.mark.req("I3.15", "R18")
async def test_a_proof_is_asked_for_once_and_a_hit_says_so(rig: Rig) -> None:
    first, second = await rig.ask(), await rig.ask()
    assert rig.authn.asked == 1
    assert (first.cached, second.cached) == (False, True)
    assert second.authn_event_id == first.authn_event_id == "event-1"
    assert second.principal == first.principal


@pytest.mark.req("I3.15", "I3.13", "R12")
async def test_an_end_is_known_with_the_next_answer(rig: Rig) -> None:
    await rig.ask()
    rig.authn.valid = False
    rig.authn.end(KEY_ID)
    await rig.pings(2)
    with pytest.raises(Unauthenticated):
        await rig.ask()
    assert rig.authn.asked == 2


@pytest.mark.req("I3.15", "R12")
async def test_a_proof_that_was_overtaken_by_its_end_is_not_kept(rig: Rig) -> None:
    """The end comes between authn's decision and the arrival of its answer, and the lease is faster."""
    known = asyncio.Event()
    lease = rig.adapter._lease
    context = RequestContext(uuid7(), "1" * 32, "mcp", Source("192.0.2.1"), Deadline.after(10))
    stream: Any = rig.adapter._stream
    ask = stream.ask

    async def late(*arguments: Any) -> Any:
        answer = await ask(*arguments)
        rig.authn.end(KEY_ID)
        while lease.revision < rig.authn.revision:
            await asyncio.sleep(0.01)
        known.set()
        return answer

    stream.ask = late
    await rig.adapter.authenticate(Credential("good"), context)
    assert known.is_set()
    stream.ask = ask
    assert not (await rig.ask()).cached
    assert (await rig.ask()).cached


@pytest.mark.req("I3.15", "R12", "R27")
async def test_a_stalled_stream_ends_the_cache_after_one_term(rig: Rig) -> None:
    await rig.ask()
    rig.authn.held.clear()
    await rig.pings(1)
    rig.clock.slip(1.0)
    assert not (await rig.ask()).cached
    assert not (await rig.ask()).cached, "nothing is kept either"
    rig.authn.held.set()
    await rig.held()
    await rig.ask()
    assert (await rig.ask()).cached


@pytest.mark.req("I3.15", "R12", "R27")
async def test_an_answer_that_was_delayed_beyond_the_term_does_not_bring_the_cache_back(rig: Rig) -> None:
    await rig.ask()
    rig.authn.held.clear()
    await rig.pings(1)
    rig.clock.slip(5.0)
    sequence = rig.adapter._lease._sequence
    rig.authn.held.set()
    while rig.adapter._lease._sequence == sequence:
        assert not rig.adapter._lease.fresh(), "the delayed answer counts from its question"
        await asyncio.sleep(0)
    await rig.held()
    assert not (await rig.ask()).cached


@pytest.mark.req("I3.15", "R12")
async def test_a_suspended_machine_wakes_up_without_a_cache(rig: Rig) -> None:
    await rig.ask()
    assert (await rig.ask()).cached
    rig.clock.slip(3600)
    asked = rig.authn.asked
    assert not (await rig.ask()).cached
    assert rig.authn.asked == asked + 1


@pytest.mark.req("I3.15", "R12", "I3.13")
async def test_a_store_that_does_not_answer_ends_the_lease(rig: Rig) -> None:
    await rig.ask()
    rig.authn.away = True
    await rig.pings(2)
    rig.clock.slip(1.0)
    assert not (await rig.ask()).cached
    assert not (await rig.ask()).cached
    rig.authn.away = False
    await rig.held()
    await rig.ask()
    assert (await rig.ask()).cached


@pytest.mark.req("I3.15", "R12", "I2.6")
async def test_a_cut_stream_ends_the_cache_and_heals(rig: Rig) -> None:
    await rig.ask()
    await rig.server.stop(0)
    rig.clock.slip(1.0)
    with pytest.raises(Unavailable):
        await rig.ask(2)
    await rig.serve()
    await rig.held()
    assert not (await rig.ask()).cached
    assert (await rig.ask()).cached


@pytest.mark.req("I3.15", "R12")
async def test_another_history_drops_everything(rig: Rig) -> None:
    await rig.ask()
    rig.authn.reset = True
    await rig.pings(2)
    rig.authn.reset = False
    assert not (await rig.ask()).cached
