"""The typed helpers of the client: each makes what its writer may write."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from kubegate.audit.v1 import audit_pb2
from services.audit import translate
from services.audit.event import EventType
from services.audit.writers import AUTHN, AUTHZ, CORE, check_type
from services.common import audit_events as write
from services.common.ids import uuid7
from tests.unit.audit.support import NOW

DECISION = audit_pb2.Decision(allowed=False, rule="denied:no_grant", policy_revision="1", permission="k8s:pods:list")
HELPERS: list[tuple[Callable[[], audit_pb2.Event], str, EventType]] = [
    (lambda: write.authentication("a", auth_type="jwt", result="success"), AUTHN, EventType.AUTHENTICATION),
    (lambda: write.authorization("a", "list_pods", DECISION, resource="pods"), AUTHZ, EventType.AUTHORIZATION),
    (lambda: write.mcp_request("a", "list_pods", result="success", resource="pods"), CORE, EventType.MCP_REQUEST),
    (lambda: write.mcp_intent("a", "delete_pod", deadline=NOW + timedelta(seconds=9)), CORE, EventType.MCP_REQUEST),
    (lambda: write.mcp_outcome("a", "delete_pod", intent_id=uuid7(), result="error"), CORE, EventType.MCP_REQUEST),
    (lambda: write.security_violation("a", violation_type="x"), CORE, EventType.SECURITY_VIOLATION),
    (lambda: write.compliance("a", "review", framework="SOC2", control="CC6.1", result="success"), AUTHZ,
     EventType.COMPLIANCE),
    (lambda: write.admin("a", "keys.create", resource="keys/1", result="success"), AUTHN, EventType.ADMIN),
    (lambda: write.external("a", "deploy", result="error", metadata={"x": "y"}), "platform/ci", EventType.EXTERNAL),
]  # fmt: skip


@pytest.mark.req("I4.1")
@pytest.mark.parametrize(("make", "writer", "kind"), HELPERS)
def test_each_type_has_a_helper_that_makes_what_its_writer_may_write(
    make: Callable[[], audit_pb2.Event], writer: str, kind: EventType
) -> None:
    message = make()
    message.event_id = uuid7()
    message.timestamp.GetCurrentTime()
    made = translate.event(message)
    made.check()
    check_type(writer, made)
    assert made.event_type is kind
