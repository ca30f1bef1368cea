"""One reader or one platform service cannot keep the others from recording, reading or exporting."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from grpc import aio

from kubegate.audit.v1 import audit_pb2
from services.audit import lasting
from services.common.call import PRINCIPAL_TOKEN_METADATA
from services.common.errors import ResourceExhausted
from tests.fakes.audit_rig import Rig, event, token
from tests.fakes.mesh import Mesh


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(Mesh(tmp_path / "mesh"), tmp_path)
    await rig.serve_surroundings()
    await rig.start()
    yield rig
    await rig.stop()
    await rig.stop_surroundings()


@pytest.mark.req("R25", "I4.4")
async def test_tails_are_bounded_and_a_place_is_free_when_its_reader_has_gone(rig: Rig) -> None:
    metadata = ((PRINCIPAL_TOKEN_METADATA, token("admin", "operator/alice")),)
    stub = rig.stub("operator/alice")

    async def follow() -> Any:
        call = stub.Tail(audit_pb2.TailRequest(from_sequence=0), timeout=30, metadata=metadata)
        assert (await call.read()).records
        return call

    calls = [await follow() for _ in range(16)]
    with pytest.raises(aio.AioRpcError) as refusal:
        await follow()
    assert isinstance(rig.peer("operator/alice").error(refusal.value), ResourceExhausted)
    assert await rig.append("service/mcp-core", event()) == 16, "nobody else notices"
    calls[3].cancel()
    for attempt in range(100):
        try:
            calls.append(await follow())
            break
        except aio.AioRpcError:
            assert attempt < 99, "the place of a reader who has gone stays taken"
            await asyncio.sleep(0.05)
    for call in calls:
        call.cancel()


@pytest.mark.req("I4.4")
async def test_large_events_do_not_make_the_log_impossible_to_export(rig: Rig) -> None:
    big = {f"m{n}": "x" * 4000 for n in range(15)}
    ids = []
    for _ in range(90):
        message = event(metadata=big)
        await rig.append("service/mcp-core", message)
        ids.append(message.event_id)
    for format_ in (audit_pb2.EXPORT_FORMAT_JSON_LINES, audit_pb2.EXPORT_FORMAT_CSV):
        proofs = format_ == audit_pb2.EXPORT_FORMAT_JSON_LINES
        parts = await rig.parts("Export", audit_pb2.ExportRequest(format=format_, proofs=proofs))
        assert parts[-1].events >= 90
        data = b"".join(part.data for part in parts)
        if proofs:
            assert [json.loads(line)["event_id"] for line in data.splitlines()[:90]] == ids
            proof = json.loads(b"".join(part.proof for part in parts))
            assert [entry[0] for entry in proof["inclusion"]] == list(range(parts[-1].events))


@pytest.mark.req("R19", "R25")
async def test_an_export_that_nobody_takes_gives_its_place_back_and_is_on_record(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = {f"m{n}": "x" * 4000 for n in range(15)}
    for _ in range(210):
        await rig.append("service/mcp-core", event(metadata=big))
    monkeypatch.setattr(lasting, "STALLED", 0.2)
    metadata = ((PRINCIPAL_TOKEN_METADATA, token("admin", "operator/alice")),)
    request = audit_pb2.ExportRequest(format=audit_pb2.EXPORT_FORMAT_JSON_LINES)
    call = rig.stub("operator/alice").Export(request, timeout=60, metadata=metadata)
    await call.read()
    found: list[dict[str, Any]] = []
    while len(found) < 2:
        await asyncio.sleep(0.1)
        found = await rig.query(filter=audit_pb2.Filter(action="audit.Export"))
    assert found[1]["error_message"].startswith("The reader took nothing")

    async def rest() -> None:
        while await call.read() is not aio.EOF:
            pass

    with pytest.raises(aio.AioRpcError, match="Ask again for what is missing"):
        await rest()
