"""What a stored event says: whose attestation it is, no secret, and what only newer writers know."""

import base64

import pytest

from kubegate.audit.v1 import audit_pb2
from services.common.errors import (
    AlreadyExists,
    InvalidArgument,
)
from services.common.ids import uuid7
from tests.contract.audit_asking import mesh, rig
from tests.fakes.audit_rig import Rig, event

__all__ = ["mesh", "rig"]


@pytest.mark.req("I4.5")
async def test_a_compliance_event_is_a_persons_stored_once_and_never_overwritten(rig: Rig) -> None:
    request = audit_pb2.LogComplianceEventRequest(
        event_id=uuid7(),
        framework="SOC2",
        control="CC6.3",
        action="access-review",
        resource="role:admin",
        result=audit_pb2.RESULT_SUCCESS,
        details={"ticket": "SEC-7", "operator": "forged"},
    )
    first = await rig.call("LogComplianceEvent", request)
    stored = await rig.record(first.sequence)
    assert (stored["event_type"], stored["user"], stored["user_source"]) == ("compliance", "admin", "verified")
    assert stored["metadata"] == {
        "ticket": "SEC-7", "operator": "operator/alice", "framework": "SOC2", "control": "CC6.3",
    }  # fmt: skip
    assert (await rig.call("LogComplianceEvent", request)).sequence == first.sequence
    request.action = "another"
    with pytest.raises(AlreadyExists):
        await rig.call("LogComplianceEvent", request)
    with pytest.raises(InvalidArgument, match="control"):
        await rig.call("LogComplianceEvent", audit_pb2.LogComplianceEventRequest(
            framework="SOC2", action="x", result=audit_pb2.RESULT_SUCCESS))  # fmt: skip


@pytest.mark.req("I4.1")
async def test_values_named_secret_are_masked_and_can_still_be_compared(rig: Rig) -> None:
    one = await rig.append("service/mcp-core", event(metadata={"db_password": "hunter2", "api-key": "k", "tool": "t"}))
    two = await rig.append("service/mcp-core", event(metadata={"dbPassword": "hunter2", "accessToken": "hunter3"}))
    first, second = [await rig.record(n) for n in (one, two)]
    assert first["metadata"]["db_password"] == second["metadata"]["dbPassword"]
    assert first["metadata"]["db_password"].startswith("hmac-sha256:")
    assert second["metadata"]["accessToken"] != second["metadata"]["dbPassword"]
    assert first["metadata"]["tool"] == "t"
    for file in rig.directory.iterdir():
        assert b"hunter" not in file.read_bytes(), file


@pytest.mark.req("I4.1")
async def test_what_a_newer_writer_says_is_kept(rig: Rig) -> None:
    """Field 110 is of a contract to come, at the top and in a part of the event."""
    newer = b"\xf2\x06\x05later"
    message = event(decision=audit_pb2.Decision(rule="r"))
    raw = message.SerializeToString() + newer
    sent = audit_pb2.Event.FromString(raw)
    sent.decision.MergeFromString(newer)
    stored = await rig.record(await rig.append("service/mcp-core", sent))
    kept = audit_pb2.Event.FromString(base64.b64decode(stored["unknown_fields"]))
    assert kept.SerializeToString().count(b"later") == 2
    assert kept.ListFields()[0][0].name == "decision"
    assert stored["decision"]["rule"] == "r"
    assert "unknown_fields" not in await rig.record(await rig.append("service/mcp-core", event()))
