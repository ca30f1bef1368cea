"""What is recorded, as whose, and who may read it: the rules without gRPC and without a disk."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from services.audit.authorizing import Authorizer, Reader
from services.audit.bounded import PAGE
from services.audit.event import Decision, EventType, Identity, Result
from services.audit.lasting import Lasting
from services.audit.masking import Masker
from services.audit.ports import Ack, Capacity, Draft, Filter, Grant
from services.audit.reading import AuditReading
from services.audit.service import AuditService
from services.audit.tailing import AuditTailing
from services.audit.writers import AUTHN, AUTHZ, CORE
from services.common.deadline import OUTCOME_GRACE, Deadline
from services.common.errors import (
    AlreadyExists,
    DomainError,
    FailedPrecondition,
    InvalidArgument,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from tests.fakes.clock import FakeClock
from tests.unit.audit.support import NOW, FixedPolicy, MemoryLog, NamedPrincipals, event, identity, intent, outcome

OPERATOR = "operator/admin"
PLATFORM = "platform/billing"


class Rig:
    def __init__(self) -> None:
        self.log, self.clock = MemoryLog(), FakeClock()
        self.principals = NamedPrincipals(
            alice=identity("alice"),
            of_authz=identity("alice", AUTHZ),
            admin=identity("admin", OPERATOR),
            viewer=identity("viewer", OPERATOR),
            tenant=identity("carol", tenant="blue"),
            external=identity("bob", issuer="https://idp.example"),
        )
        self.policy = FixedPolicy("admin")
        masker = Masker(b"mask")
        self.service = AuditService(self.log, self.principals, masker, self.clock)
        self.authorizer = Authorizer(self.log, self.principals, self.policy, self.clock, masker)
        self.lasting = Lasting(self.authorizer, self.principals, self.policy, self.clock)
        self.reading = AuditReading(self.log, self.authorizer, self.lasting, self.clock, masker)
        self.tailing = AuditTailing(self.log, self.lasting, self.clock)

    async def append(self, writer: str, token: str = "", **changes: Any) -> dict[str, Any]:
        ack = await self.service.append(writer, event(**changes), token)
        return self.log.records[ack.sequence]

    def reader(self, token: str = "admin", peer: str = OPERATOR) -> Reader:
        return Reader(peer, token, "r-9", Deadline.after(10))

    async def query(self, token: str = "admin", peer: str = OPERATOR, **changes: Any) -> tuple[list[int], str]:
        arguments: dict[str, Any] = {"limit": 0, "descending": False, "cursor": ""} | changes
        filter_ = arguments.pop("filter_", Filter())
        pages = [page async for page in self.reading.query(self.reader(token, peer), filter_, **arguments)]
        assert all(len(records) <= PAGE for records, _ in pages)
        assert not any(cursor for _, cursor in pages[:-1])
        return [record.sequence for records, _ in pages for record in records], pages[-1][1]


@pytest.fixture
def rig() -> Rig:
    return Rig()


TYPES = {
    AUTHN: {"authentication", "security_violation", "compliance", "admin"},
    AUTHZ: {"authorization", "security_violation", "compliance", "admin"},
    CORE: {"mcp_request", "security_violation", "authentication"},
    PLATFORM: {"external"},
    "operator/admin": set(),
    "service/unknown": set(),
}


@pytest.mark.req("R22")
@pytest.mark.parametrize("writer", TYPES)
@pytest.mark.parametrize("kind", EventType)
async def test_each_writer_appends_only_its_own_types(rig: Rig, writer: str, kind: EventType) -> None:
    if kind.value in TYPES[writer]:
        record = await rig.append(writer, event_type=kind, result=Result.FAILURE)
        assert (record["writer"], record["event_type"]) == (writer, kind.value)
    else:
        with pytest.raises(PermissionDenied, match="R22"):
            await rig.append(writer, event_type=kind, result=Result.FAILURE)
        assert rig.log.records == []


@pytest.mark.req("R22")
async def test_the_core_records_authentication_failures_only(rig: Rig) -> None:
    await rig.append(CORE, event_type=EventType.AUTHENTICATION, result=Result.FAILURE)
    with pytest.raises(PermissionDenied):
        await rig.append(CORE, event_type=EventType.AUTHENTICATION, result=Result.SUCCESS)


@pytest.mark.req("R22", "R1", "R3")
async def test_a_token_decides_user_and_tenant_whatever_the_message_says(rig: Rig) -> None:
    record = await rig.append(CORE, "alice", user="root", tenant="green")
    assert (record["user"], record["user_source"]) == ("alice", "verified")
    assert "tenant" not in record
    assert record["principal"] == {
        "issuer": "kubegate", "subject": "alice", "credential_id": "key-alice", "auth_type": "api_key"
    }  # fmt: skip
    assert (await rig.append(CORE, "tenant", tenant="green"))["tenant"] == "blue"


@pytest.mark.req("R22")
async def test_without_a_token_the_user_is_marked_as_asserted(rig: Rig) -> None:
    record = await rig.append(AUTHN, event_type=EventType.AUTHENTICATION, user="kg_abc", result=Result.FAILURE)
    assert (record["user"], record["user_source"]) == ("kg_abc", "asserted")
    assert "principal" not in record


@pytest.mark.req("R1")
async def test_two_issuers_with_one_subject_are_two_users(rig: Rig) -> None:
    assert (await rig.append(CORE, "external"))["user"] == "https://idp.example:bob"
    own = Identity("kubegate", "https://idp.example:bob", "k", "api_key", "", CORE, rig.clock.now())
    assert own.user == "kubegate:https://idp.example:bob"


@pytest.mark.req("R5")
async def test_a_token_of_another_peer_is_refused_except_from_those_who_verified_it(rig: Rig) -> None:
    with pytest.raises(Unauthenticated):
        await rig.append(CORE, "of_authz")
    with pytest.raises(Unauthenticated):
        await rig.append(PLATFORM, "alice", event_type=EventType.EXTERNAL)
    assert rig.log.records == []
    record = await rig.append(AUTHZ, "alice", event_type=EventType.AUTHORIZATION)
    assert record["user_source"] == "verified"
    record = await rig.append(AUTHN, "alice", event_type=EventType.AUTHENTICATION)
    assert record["user_source"] == "verified"


@pytest.mark.req("R5")
async def test_an_invalid_token_is_refused_and_nothing_is_recorded(rig: Rig) -> None:
    with pytest.raises(Unauthenticated):
        await rig.append(CORE, "ended")
    assert rig.log.records == []


@pytest.mark.req("R5")
async def test_an_outcome_belongs_to_the_user_of_its_intent_even_after_the_tokens_end(rig: Rig) -> None:
    begun = intent()
    await rig.service.append(CORE, begun, "tenant")
    del rig.principals.identities["tenant"]
    ack = await rig.service.append(CORE, outcome(begun.event_id, user="mallory", tenant="green"), "tenant")
    record = rig.log.records[ack.sequence]
    assert (record["user"], record["user_source"], record["tenant"]) == ("carol", "verified", "blue")
    assert record["principal"]["credential_id"] == "key-carol"
    assert all(draft.capacity is Capacity.RESERVED for draft in rig.log.drafts)


@pytest.mark.req("R5")
async def test_an_outcome_is_accepted_from_the_writer_of_its_intent_only(rig: Rig) -> None:
    begun = intent()
    await rig.service.append(CORE, begun, "alice")
    elsewhere = outcome(begun.event_id, event_type=EventType.EXTERNAL)
    read = await rig.append(CORE)
    for writer, end in ((PLATFORM, elsewhere), (CORE, outcome(event().event_id)), (CORE, outcome(read["event_id"]))):
        with pytest.raises(FailedPrecondition):
            await rig.service.append(writer, end, "")
    assert len(rig.log.records) == 2


DECIDED = Decision(allowed=True, rule="role:operator#1", policy_revision="p1", permission="k8s:deployments:scale")


@pytest.mark.req("R5", "R6", "R22")
@pytest.mark.parametrize(
    ("forged", "named"),
    [
        ({"action": "delete_pod"}, "action"),
        ({"resource": "pods/production-db-0"}, "resource"),
        ({"namespace": "production"}, "namespace"),
        ({"request_id": "r-2"}, "request_id"),
        ({"decision": replace(DECIDED, permission="k8s:pods:delete")}, "permission"),
        ({"decision": None}, "permission"),
    ],
)
async def test_an_outcome_says_nothing_but_how_its_intent_ended(rig: Rig, forged: dict[str, Any], named: str) -> None:
    begun = intent(decision=DECIDED)
    await rig.service.append(CORE, begun, "alice")
    with pytest.raises(FailedPrecondition, match=named):
        await rig.service.append(CORE, outcome(begun.event_id, **{"decision": DECIDED} | forged), "")
    assert len(rig.log.records) == 1
    await rig.service.append(CORE, outcome(begun.event_id, decision=DECIDED), "")


@pytest.mark.req("R5", "R8")
async def test_an_intent_has_one_outcome_which_may_be_sent_again(rig: Rig) -> None:
    begun = intent()
    await rig.service.append(CORE, begun, "alice")
    end = outcome(begun.event_id)
    await rig.service.append(CORE, end, "")
    with pytest.raises(AlreadyExists, match="another outcome"):
        await rig.service.append(CORE, outcome(begun.event_id), "")
    rig.clock.advance(3600)
    await rig.service.append(CORE, end, "")
    assert {record["event_id"] for record in rig.log.records} == {begun.event_id, end.event_id}


@pytest.mark.req("R5")
async def test_of_two_outcomes_on_their_way_together_one_is_taken(rig: Rig) -> None:
    begun = intent()
    await rig.service.append(CORE, begun, "alice")
    ends = [outcome(begun.event_id) for _ in range(3)]
    answers = await asyncio.gather(*(rig.service.append(CORE, end, "") for end in ends), return_exceptions=True)
    assert [isinstance(answer, AlreadyExists) for answer in answers].count(False) == 1
    assert len(rig.log.records) == 2


@pytest.mark.req("R5")
async def test_an_outcome_that_nobody_waits_for_still_closes_its_intent(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, gate = intent(), asyncio.Event()
    await rig.service.append(CORE, begun, "alice")
    put = rig.log.append_all

    async def queued(drafts: Sequence[Draft]) -> Sequence[Ack | DomainError]:
        async def commit() -> Sequence[Ack | DomainError]:
            await gate.wait()
            return await put(drafts)

        return await asyncio.shield(asyncio.create_task(commit()))

    monkeypatch.setattr(rig.log, "append_all", queued)
    given_up = asyncio.create_task(rig.service.append(CORE, outcome(begun.event_id), ""))
    for _ in range(5):
        await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    with pytest.raises(AlreadyExists):
        await rig.service.append(CORE, outcome(begun.event_id), "")
    gate.set()
    while len(rig.log.records) < 2:
        await asyncio.sleep(0)


@pytest.mark.req("R5", "R21")
async def test_an_outcome_is_taken_until_its_intent_is_an_orphan(rig: Rig) -> None:
    first, second = intent(), intent()
    for begun in (first, second):
        await rig.service.append(CORE, begun, "alice")
    rig.clock.advance(10 + OUTCOME_GRACE.total_seconds())
    await rig.service.append(CORE, outcome(first.event_id), "")
    rig.clock.advance(1)
    with pytest.raises(FailedPrecondition, match="time of the intent"):
        await rig.service.append(CORE, outcome(second.event_id), "")


@pytest.mark.req("R5", "R21")
async def test_no_intent_stays_open_for_ever(rig: Rig) -> None:
    with pytest.raises(InvalidArgument, match="24 hours"):
        await rig.service.append(CORE, intent(deadline=NOW + timedelta(hours=25)), "alice")
    await rig.service.append(CORE, intent(deadline=NOW + timedelta(hours=24)), "alice")


@pytest.mark.req("R8", "R5")
async def test_an_event_sent_again_after_its_tokens_end_is_acknowledged(rig: Rig) -> None:
    sent = event()
    first = await rig.service.append(CORE, sent, "alice")
    del rig.principals.identities["alice"]
    assert await rig.service.append(CORE, sent, "alice") == first
    changed = event(event_id=sent.event_id, action="delete_pod")
    with pytest.raises(Unauthenticated):
        await rig.service.append(CORE, changed, "alice")


@pytest.mark.req("R25")
async def test_only_intents_and_outcomes_use_reserved_capacity(rig: Rig) -> None:
    await rig.append(CORE)
    await rig.append(AUTHN, event_type=EventType.AUTHENTICATION)
    await rig.service.append(CORE, intent(), "")
    assert [draft.capacity for draft in rig.log.drafts] == [Capacity.SERVICE, Capacity.SERVICE, Capacity.RESERVED]


@pytest.mark.req("I2.11")
async def test_everything_wrong_with_an_event_is_said_at_once(rig: Rig) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        await rig.append(
            CORE,
            event_id="x",
            action="",
            trace_id="Z",
            duration_ms=float("nan"),
            intent_id="y",
            user="u" * 5000,
            metadata={"": "v"},
            error_message="e" * 20_000,
        )
    for part in ("event_id", "action", "trace_id", "duration_ms", "intent_id", "user", "metadata", "error_message"):
        assert part in refusal.value.public_message
    with pytest.raises(InvalidArgument, match="exceeds 65536"):
        await rig.append(CORE, metadata={f"k{n}": "v" * 4000 for n in range(20)})
    with pytest.raises(InvalidArgument, match="deadline"):
        await rig.service.append(CORE, intent(deadline=None), "")
    with pytest.raises(InvalidArgument, match="intent_id"):
        await rig.service.append(CORE, outcome(""), "")


@pytest.mark.req("R15", "I2.5")
async def test_reading_needs_a_token_that_policy_allows_and_is_itself_recorded(rig: Rig) -> None:
    await rig.append(CORE, "alice")
    assert await rig.query() == ([0], "")
    assert rig.policy.asked == ["admin"]
    record = rig.log.records[-1]
    assert (record["event_type"], record["action"], record["writer"]) == ("admin", "audit.Query", "service/audit")
    assert (record["user"], record["user_source"], record["result"]) == ("admin", "verified", "success")
    assert record["metadata"]["operator"] == OPERATOR


@pytest.mark.req("R15", "R5")
@pytest.mark.parametrize(
    ("token", "error", "user"),
    [("", Unauthenticated, ""), ("ended", Unauthenticated, ""), ("alice", Unauthenticated, "alice"),
     ("viewer", PermissionDenied, "viewer")],
)  # fmt: skip
async def test_a_refused_reading_is_recorded_with_the_person(
    rig: Rig, token: str, error: type[DomainError], user: str
) -> None:
    with pytest.raises(error):
        await rig.query(token)
    (record,) = rig.log.records
    assert (record["result"], record["user"], record["event_type"]) == ("failure", user, "admin")
    with pytest.raises(error):
        async for _ in rig.tailing.follow(rig.reader(token), Filter(), None):
            pass
    assert rig.log.records[-1]["action"] == "audit.Tail"


async def test_a_reading_that_could_not_be_decided_is_an_error_in_the_record(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(verb: str, token: str, request_id: str, deadline: Deadline) -> Grant:
        raise Unavailable("The authz service cannot be reached.")

    monkeypatch.setattr(rig.policy, "check", away)
    with pytest.raises(Unavailable):
        await rig.query()
    assert rig.log.records[-1]["result"] == "error"


@pytest.mark.req("I2.5")
async def test_queries_filter_page_and_continue(rig: Rig) -> None:
    for n in range(2 * PAGE + 10):
        await rig.append(CORE, user="even" if n % 2 == 0 else "odd")
    even = [n for n in range(2 * PAGE + 10) if n % 2 == 0]
    only = Filter({"user": "even"})
    assert (await rig.query(filter_=only, limit=1000))[0] == even
    assert (await rig.query(filter_=only))[0] == even[:100]
    found, cursor = await rig.query(filter_=only, limit=150)
    assert found == even[:150]
    assert (await rig.query(filter_=only, limit=150, cursor=cursor)) == (even[150:], "")
    found, cursor = await rig.query(filter_=only, limit=PAGE, descending=True)
    assert found == even[::-1][:PAGE]
    assert (await rig.query(filter_=only, limit=PAGE, descending=True, cursor=cursor)) == (even[::-1][PAGE:], "")


@pytest.mark.parametrize("cursor", ["x", "a", "a-1", "d5", "a²", "a" + "9" * 30])
async def test_a_foreign_cursor_is_refused(rig: Rig, cursor: str) -> None:
    with pytest.raises(InvalidArgument):
        await rig.query(cursor=cursor)
