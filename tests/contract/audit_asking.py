"""An audit service with six events that differ in every field, and how tests ask it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from kubegate.audit.v1 import audit_pb2
from kubegate.common.v1 import identity_pb2
from services.audit.checkpoint import NoteSigner, origin_of
from tests.fakes.audit_rig import SIGNING_KEY, Rig, event
from tests.fakes.mesh import Mesh

VERIFIER = NoteSigner(origin_of("main"), SIGNING_KEY).verifier
LINES = audit_pb2.EXPORT_FORMAT_JSON_LINES
CSV = audit_pb2.EXPORT_FORMAT_CSV


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


async def fill(rig: Rig) -> list[str]:
    """Six events that differ in every field; their ids."""
    decision = audit_pb2.Decision(allowed=True, rule="role:admin#1", policy_revision="r7", permission="k8s:pods:list")
    sources = [identity_pb2.Source(address=f"192.0.2.{n}", user_agent="curl") for n in range(6)]
    ids = []
    for n in range(6):
        message = event(
            action="list_pods" if n % 2 else "scale_deployment",
            user=f"user-{n % 3}",
            resource=f"pods/p{n}",
            metadata={"tool": f"tool-{n}", "note": 'said "Hallo" 100%_ \\ ' if n == 2 else "-"},
            error_message="Timed OUT" if n == 4 else "",
            duration_ms=n * 1.5,
            source=sources[n],
            trace_id=f"{n:032x}",
        )
        if n == 5:
            message.decision.CopyFrom(decision)
        await rig.append("service/mcp-core", message)
        ids.append(message.event_id)
    return ids


def filter_(**parts: Any) -> audit_pb2.Filter:
    fields = [audit_pb2.FieldFilter(path=path, values=values) for path, values in parts.pop("fields", ())]
    return audit_pb2.Filter(fields=fields, **parts)


async def export(rig: Rig, **request: Any) -> tuple[bytes, str, int]:
    parts = await rig.parts("Export", audit_pb2.ExportRequest(**request))
    events = parts[-1].events if parts else 0
    return b"".join(part.data for part in parts), b"".join(part.proof for part in parts).decode(), events
