"""The way to the record, over real mTLS: sent again under one id, failures folded and never in the others' way."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kubegate.audit.v1 import audit_pb2
from services.common import audit_client
from services.common.audit_client import AuditClient
from services.common.deadline import Deadline
from services.common.errors import ResourceExhausted, Unavailable
from services.common.grpc_client import Peer
from tests.fakes.audit_service import FakeAudit
from tests.fakes.mesh import Mesh


@pytest.fixture
async def audit(tmp_path: Path) -> AsyncIterator[FakeAudit]:
    fake = FakeAudit(Mesh(tmp_path).tls("service/audit"))
    await fake.start()
    yield fake
    fake.release.set()
    await fake.stop()


@pytest.fixture
async def peer(audit: FakeAudit, tmp_path: Path) -> AsyncIterator[Peer]:
    peer = Mesh(tmp_path).peer("audit", audit.port, "service/authn")
    yield peer
    await peer.close()


def event(action: str = "authenticate") -> audit_pb2.Event:
    return audit_pb2.Event(event_type=audit_pb2.EVENT_TYPE_AUTHENTICATION, action=action)


@pytest.mark.req("R8", "R18")
async def test_an_append_goes_on_under_the_same_id_while_audit_restarts(audit: FakeAudit, peer: Peer) -> None:
    client = AuditClient(peer, patience=20)
    await client.append(event("before"), deadline=Deadline.after(20))
    await audit.stop()
    appending = asyncio.create_task(client.append(event("during"), deadline=Deadline.after(20)))
    while not client.problems():
        await asyncio.sleep(0.01)
    assert not appending.done()
    await audit.start()
    event_id = await appending
    assert [recorded.event.event_id for recorded in audit.events if recorded.event.action == "during"] == [event_id]
    await client.close()


@pytest.mark.req("R18")
async def test_an_append_that_is_not_acknowledged_is_an_error(audit: FakeAudit, peer: Peer) -> None:
    client = AuditClient(peer, patience=0)
    audit.fail_when = lambda event: True
    with pytest.raises(Unavailable):
        await client.append(event(), deadline=Deadline.after(5))
    await audit.stop()
    with pytest.raises(Unavailable):
        await client.append(event(), deadline=Deadline.after(5))
    assert client.problems()
    assert audit.events == []
    await client.close()


@pytest.mark.req("R25")
async def test_failures_of_one_source_become_one_event_that_counts_them(audit: FakeAudit, peer: Peer) -> None:
    client = AuditClient(peer)
    await asyncio.gather(
        *(client.append_folded(("a",), event(), deadline=Deadline.after(20)) for _ in range(50)),
        *(client.append_folded(("b",), event(), deadline=Deadline.after(20)) for _ in range(3)),
    )
    assert sorted(int(recorded.event.metadata["count"]) for recorded in audit.events) == [3, 50]
    await client.close()


@pytest.mark.req("R25")
async def test_failures_of_many_sources_leave_room_for_everything_else(
    audit: FakeAudit, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_client, "FAILURE_SHARE", 5)
    client = AuditClient(peer)
    audit.release.clear()
    flood = [
        asyncio.create_task(client.append_folded((str(source),), event(), deadline=Deadline.after(20)))
        for source in range(20)
    ]
    refused = [task for task in (await asyncio.wait(flood, timeout=1))[0] if task.exception() is not None]
    assert len(refused) == 15
    assert all(isinstance(task.exception(), ResourceExhausted) for task in refused)
    intent = asyncio.create_task(client.append(event("intent"), deadline=Deadline.after(20)))
    audit.release.set()
    await intent
    await asyncio.gather(*(task for task in flood if task not in refused))
    assert len(audit.events) == 6
    await client.close()


@pytest.mark.req("R25")
async def test_a_fold_that_cannot_be_recorded_fails_for_everybody_in_it(audit: FakeAudit, peer: Peer) -> None:
    client = AuditClient(peer, patience=0)
    audit.fail_when = lambda event: True
    waiting = [client.append_folded(("a",), event(), deadline=Deadline.after(20)) for _ in range(5)]
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [Unavailable] * 5
    await client.close()
