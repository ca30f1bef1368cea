"""The record of a batch: a line for each decision, and always one that audit takes (R18)."""

from typing import Any

import pytest

from kubegate.audit.v1 import audit_pb2
from services.authz.adapters.audit_log import AuditLog
from services.authz.adapters.counted import CountedRecorder
from services.authz.policy.engine import Engine
from services.authz.policy.model import Action, Principal
from services.authz.policy.parse import parse_policy
from services.authz.policy.scope import EVERYWHERE
from services.authz.ports import Caller, Verified
from services.common.deadline import Deadline
from services.common.telemetry.metrics import AUTHORIZATION_CHECKS
from tests.fakes.clock import FakeClock

ENGINE = Engine(parse_policy(b"roles: [{name: viewer, permissions: ['k8s:pods:list']}]"))
ALICE = Principal("kubegate", "alice", ("viewer",), namespaces=EVERYWHERE)
LARGEST = 65_536
"""Characters of an event that audit takes."""


class Audit:
    async def append(self, event: audit_pb2.Event, **_: Any) -> str:
        self.event = event
        return "e1"


async def recorded(*actions: Action) -> list[str]:
    audit: Any = Audit()
    decisions = [ENGINE.decide(ALICE, action) for action in actions]
    caller = Caller("service/mcp-core", Deadline.after(5))
    verified = Verified(ALICE, "service/mcp-core", 2e9, "x" * 4_000)
    await AuditLog(audit).decided(caller, "t", verified, actions, decisions, "r", 1.0)
    assert len(str(audit.event)) < LARGEST
    parts = sorted(key for key in audit.event.metadata if key.startswith("decisions."))
    assert all(len(audit.event.metadata[key]) <= 4_096 for key in parts)
    return [line for key in sorted(parts, key=len) for line in audit.event.metadata[key].split("\n")]


@pytest.mark.req("R18", "I5.3")
async def test_a_line_says_what_was_asked_and_by_which_rule() -> None:
    actions = [
        Action("", "pods", "list", namespace="dev"),
        Action("apps", "deployments", "scale", "scale", "dev", "web", "c1", "", 3),
    ]
    assert await recorded(*actions) == [
        "role:viewer#1\tlist\t\tpods\t\tdev\t\t\t",
        "denied:no_grant\tscale\tapps\tdeployments\tscale\tdev\tweb\t3\tc1",
    ]


@pytest.mark.req("R18", "R25", "I5.3")
async def test_no_caller_writes_lines_of_its_own_or_too_many() -> None:
    forged = Action("", "pods", "list", namespace="dev", name="x\nrole:viewer#1\tlist\t\tpods\t\tprod\t\t\t")
    honest = Action("", "pods", "list", namespace="dev")
    lines = await recorded(honest, forged)
    assert len(lines) == 2
    assert lines[1].startswith("denied:invalid_action\tlist")
    assert lines[1].count("\t") == 8
    long = "y" * 4_000
    endless = Action(long, long, long, long, long, long, long, long)
    assert len(await recorded(*[endless] * 100)) == 100


OF_NO_KIND = (("other", "list", "denied"), ("other", "other", "denied"))


@pytest.mark.req("I9.6", "R18")
async def test_every_decision_of_a_batch_is_counted_and_none_twice() -> None:
    def counted(*labels: str) -> float:
        return float(AUTHORIZATION_CHECKS.labels("alice", *labels)._value.get())

    kinds = (("pods", "list", "allowed"), ("secrets", "list", "denied"), *OF_NO_KIND)
    was = [counted(*kind) for kind in kinds]
    actions = [Action("", "pods", "list", namespace=f"n{number}") for number in range(7)]
    actions += [Action("", "secrets", "list", namespace="dev")] * 2
    actions += [Action("", "made-up", "list", namespace="dev"), Action("", "made-up-2", "fly", namespace="dev")]
    audit: Any = Audit()
    decisions = [ENGINE.decide(ALICE, action) for action in actions]
    verified = Verified(ALICE, "service/mcp-core", 2e9, "")
    recorder = CountedRecorder(AuditLog(audit), FakeClock())
    await recorder.decided(Caller("service/mcp-core", Deadline.after(5)), "t", verified, actions, decisions, "r", 1.0)
    now = [counted(*kind) for kind in kinds]
    assert [after - before for before, after in zip(was, now, strict=True)] == [7, 2, 1, 1]
