"""Administration: certificate, token, policy, then intent, change, outcome, answer (R15, R18)."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from services.authn.adapters.credentials import CredentialStore
from services.authn.adapters.principal_tokens import OperatorTokenVerifier, PrincipalTokenIssuer
from services.authn.adapters.store import Store
from services.authn.admin import CredentialAdmin
from services.authn.admission import Admission
from services.authn.bootstrap import Bootstrap
from services.authn.entry import Phase
from services.authn.journal import Journal
from services.authn.model import Decision, NamespaceScope, NewApiKey, Principal, Secret
from services.common.call import PRINCIPAL_TOKEN_METADATA, Call
from services.common.errors import (
    AlreadyExists,
    DomainError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from tests.fakes.clock import FakeClock
from tests.unit.authn.support import MAKER, NOW, FixedPolicy, Journalist, PlainHashing, call, make_key, make_ring

OPERATOR = "operator/alice"
RING = make_ring()


class Admin:
    """The administration over a real store, with a recorder that the test holds in hand."""

    def __init__(self, path: Path) -> None:
        self.clock = FakeClock(NOW)
        self.raw = Store.open(path / "authn.db", self.clock)
        self.store = CredentialStore(self.raw)
        self.journalist = Journalist()
        self.policy = FixedPolicy()
        self.journal = Journal(self.journalist, self.clock)
        tokens = OperatorTokenVerifier(RING, self.clock)
        admission = Admission(self.store, tokens, self.policy, self.journal, self.clock)
        self.subject = CredentialAdmin(self.store, MAKER, admission, self.journal, self.clock)
        self.token_file: Secret | None = Secret("bootstrap-token")
        self.bootstrap = Bootstrap(self.store, self, MAKER, PlainHashing(), self.journal, self.clock)
        self.issuer = PrincipalTokenIssuer(RING, self.clock)

    def read(self) -> Secret | None:
        return self.token_file

    async def with_admin(self) -> Principal:
        """An administrator whose key lives in the store."""
        record, _ = make_key(identity="root")
        await self.store.add_key(record)
        return record.principal(NOW)

    def call(self, principal: Principal, party: str = OPERATOR, peer: str = OPERATOR) -> Call:
        token = self.issuer.issue(principal, party, self.raw.mirror.revision)
        return replace(call(peer), metadata={PRINCIPAL_TOKEN_METADATA: token})


@pytest.fixture
def admin(tmp_path: Path) -> Any:
    admin = Admin(tmp_path)
    yield admin
    admin.raw.close()


ASKED = NewApiKey(identity="bob", roles=("viewer",))


@pytest.mark.req("R15", "R18")
async def test_a_key_is_made_between_intent_and_outcome_and_the_events_name_the_person(admin: Admin) -> None:
    asker = admin.call(await admin.with_admin())
    add_key = admin.store.add_key

    async def traced(key: Any) -> None:
        admin.journalist.trace.append("made")
        await add_key(key)

    admin.store.add_key = traced  # type: ignore[method-assign]
    key, text, _ = await admin.subject.create(ASKED, asker)
    assert admin.journalist.trace == ["intent:unknown", "made", "outcome:success"]
    intent, outcome = admin.journalist.entries
    assert (intent.kind, intent.action, intent.user) == ("admin", "keys.create", "root")
    assert intent.metadata["operator"] == OPERATOR
    assert intent.metadata["credential_id"] == key.id
    assert intent.metadata["rule"] == "direct#1"
    assert intent.ends_at is not None
    assert outcome.intent_id == "event-1"
    assert admin.journalist.tokens == [asker.metadata[PRINCIPAL_TOKEN_METADATA]] * 2
    assert admin.policy.asked == [(asker.metadata[PRINCIPAL_TOKEN_METADATA], "create")]
    assert text.reveal() not in repr(admin.journalist.entries)
    assert admin.store.find_key(key.id) == key


@pytest.mark.req("R15", "R5")
@pytest.mark.parametrize("verb", ["create", "list", "enable", "disable", "rotate", "prune", "delete"])
@pytest.mark.parametrize(
    "fault", ["no token", "junk", "issued to another", "dead credential", "expired", "access token"]
)
async def test_without_a_valid_token_of_this_operator_nothing_happens(admin: Admin, verb: str, fault: str) -> None:
    principal = await admin.with_admin()
    asker = admin.call(principal, party="service/mcp-core" if fault == "issued to another" else OPERATOR)
    if fault == "no token":
        asker = replace(asker, metadata={})
    elif fault == "junk":
        asker = replace(asker, metadata={PRINCIPAL_TOKEN_METADATA: "a.b.c"})
    elif fault == "dead credential":
        await admin.store.set_key_enabled(principal.credential_id, False)
    elif fault == "expired":
        admin.clock.advance(61)
    elif fault == "access token":
        principal = replace(principal, auth_type="jwt", subject="nobody")
        asker = admin.call(principal)
    before = admin.store.list_keys()
    with pytest.raises(Unauthenticated):
        await _do(admin, verb, asker, principal.credential_id)
    assert admin.store.list_keys() == before
    assert admin.policy.asked == []
    (entry,) = admin.journalist.entries
    assert (entry.kind, entry.result, entry.user) == ("admin", "failure", OPERATOR)
    assert admin.journalist.folds


@pytest.mark.req("R15")
@pytest.mark.parametrize("verb", ["create", "list", "enable", "disable", "rotate", "prune", "delete"])
async def test_what_policy_denies_does_not_happen(admin: Admin, verb: str) -> None:
    principal = await admin.with_admin()
    admin.policy.decision = Decision(False, "Not you.")
    before = admin.store.list_keys()
    with pytest.raises(PermissionDenied, match="Not you"):
        await _do(admin, verb, admin.call(principal), principal.credential_id)
    assert admin.store.list_keys() == before
    assert [asked[1] for asked in admin.policy.asked] == ["delete" if verb == "prune" else verb]
    assert [(entry.result, entry.user) for entry in admin.journalist.entries] == [("failure", "root")]


@pytest.mark.req("R15", "R1")
async def test_an_operator_of_another_issuer_is_not_recorded_as_one_of_ours(admin: Admin) -> None:
    """Regression: where no token goes along, as with a refusal, the record named the subject alone."""
    ours = await admin.with_admin()
    asker = admin.call(replace(ours, issuer="https://idp.example", auth_type="jwt"))
    admin.policy.decision = Decision(False, "Not you.")
    with pytest.raises(PermissionDenied):
        await admin.subject.list(asker)
    assert [entry.user for entry in admin.journalist.entries] == ["https://idp.example:root"]


async def _do(admin: Admin, verb: str, asker: Call, key_id: str) -> Any:
    match verb:
        case "create":
            return await admin.subject.create(ASKED, asker)
        case "list":
            return await admin.subject.list(asker)
        case "enable" | "disable":
            return await admin.subject.set_enabled(key_id, verb == "enable", asker)
        case "rotate":
            return await admin.subject.rotate(key_id, timedelta(days=1), asker)
        case "prune":
            return await admin.subject.prune(timedelta(days=2), False, asker)
        case "delete":
            return await admin.subject.delete(key_id, asker)


@pytest.mark.req("R18", "I2.6")
@pytest.mark.parametrize("verb", ["create", "enable", "disable", "delete"])
async def test_without_a_durable_intent_nothing_is_changed(admin: Admin, verb: str) -> None:
    asker = admin.call(await admin.with_admin())
    record, _ = make_key(enabled=verb != "enable")
    await admin.store.add_key(record)
    before = admin.store.list_keys()
    admin.journalist.away_from = 1
    with pytest.raises(Unavailable):
        await _do(admin, verb, asker, record.id)
    assert admin.store.list_keys() == before


@pytest.mark.req("R18")
@pytest.mark.parametrize(
    ("verb", "enabled", "stands"),
    [("create", True, False), ("enable", False, False), ("disable", True, True), ("delete", True, True)],
)
async def test_without_a_durable_outcome_what_widens_is_taken_back(
    admin: Admin, verb: str, enabled: bool, stands: bool
) -> None:
    asker = admin.call(await admin.with_admin())
    record, _ = make_key(enabled=enabled)
    await admin.store.add_key(record)
    before = admin.store.list_keys()
    admin.journalist.away_from = 2
    with pytest.raises(FailedPrecondition if stands else Unavailable):
        await _do(admin, verb, asker, record.id)
    assert (admin.store.list_keys() != before) is stands


@pytest.mark.req("R18")
async def test_a_cancelled_caller_does_not_cut_a_change_in_two(admin: Admin) -> None:
    asker = admin.call(await admin.with_admin())
    gate = asyncio.Event()
    add_key = admin.store.add_key

    async def slow(key: Any) -> None:
        await gate.wait()
        await add_key(key)

    admin.store.add_key = slow  # type: ignore[method-assign]
    task = asyncio.create_task(admin.subject.create(ASKED, asker))
    while not admin.journalist.trace:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.set()
    await admin.journal.drain()
    assert admin.journalist.trace == ["intent:unknown", "outcome:success"]


async def test_a_change_that_breaks_is_recorded_as_an_error(admin: Admin) -> None:
    asker = admin.call(await admin.with_admin())

    async def broken(key: Any) -> None:
        raise RuntimeError("kg_secret")

    admin.store.add_key = broken  # type: ignore[method-assign]
    with pytest.raises(RuntimeError):
        await admin.subject.create(ASKED, asker)
    outcome = admin.journalist.entries[-1]
    assert (outcome.phase, outcome.result, outcome.error) == (Phase.OUTCOME, "error", "internal")


async def test_unknown_keys_are_not_found_and_a_pasted_key_is_not_recorded(admin: Admin) -> None:
    asker = admin.call(await admin.with_admin())
    _, text = make_key()
    for key_id in ("nosuchkey", text):
        with pytest.raises(NotFound):
            await admin.subject.delete(key_id, asker)
    assert admin.journalist.entries[0].resource == "keys/nosuchkey"
    assert text.rpartition("_")[2] not in repr(admin.journalist.entries)


EVERYWHERE = NamespaceScope(all=True)
DEV = NamespaceScope(False, ("dev", "feature-*"))


@pytest.mark.req("R4")
async def test_direct_permissions_demand_namespaces_and_roles_alone_do_not(admin: Admin) -> None:
    asker = admin.call(await admin.with_admin())
    direct = NewApiKey(identity="bob", permissions=("k8s:pods:list",))
    with pytest.raises(InvalidArgument, match="need namespaces"):
        await admin.subject.create(direct, asker)
    for scope in (DEV, EVERYWHERE):
        key, _, _ = await admin.subject.create(replace(direct, namespaces=scope), asker)
        assert key.namespaces == scope
    assert (await admin.subject.create(ASKED, asker))[0].namespaces == EVERYWHERE
    assert (await admin.subject.create(replace(ASKED, namespaces=DEV), asker))[0].namespaces == DEV


@pytest.mark.req("R2", "I2.11")
@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"identity": ""}, "identity"),
        ({"identity": "system:admin"}, "identity"),
        ({"identity": "a\nb"}, "identity"),
        ({"identity": "a" * 129}, "identity"),
        ({"roles": ()}, "at least one role or permission"),
        ({"roles": ("system:masters",)}, "role"),
        ({"roles": ("a", "a")}, "twice"),
        ({"roles": tuple(f"r{n}" for n in range(101))}, "more than 100"),
        ({"permissions": ("*",), "namespaces": EVERYWHERE}, "permission"),
        ({"permissions": ("k8s:*:list",), "namespaces": EVERYWHERE}, "permission"),
        ({"namespaces": NamespaceScope()}, "not neither"),
        ({"namespaces": NamespaceScope(True, ("dev",))}, "not both"),
        ({"namespaces": NamespaceScope(False, ("Dev",))}, "namespace"),
        ({"namespaces": NamespaceScope(False, ("a*b*",))}, "namespace"),
        ({"tools": ("List Pods",)}, "tool"),
        ({"tenant": "a:b"}, "tenant"),
        ({"expires_at": NOW - timedelta(seconds=1)}, "past"),
    ],
)
async def test_what_a_key_may_not_be(admin: Admin, changes: dict[str, Any], problem: str) -> None:
    asker = admin.call(await admin.with_admin())
    with pytest.raises(InvalidArgument, match=problem):
        await admin.subject.create(replace(ASKED, **changes), asker)
    assert len(admin.store.list_keys()) == 1
    assert [entry.error for entry in admin.journalist.entries] == ["invalid_argument"]


async def test_every_problem_is_told_at_once(admin: Admin) -> None:
    asker = admin.call(await admin.with_admin())
    with pytest.raises(InvalidArgument) as caught:
        await admin.subject.create(NewApiKey(identity="", tenant="?", permissions=("x",)), asker)
    for word in ("identity", "tenant", "permission 'x'", "need namespaces"):
        assert word in caught.value.public_message


@pytest.mark.req("R15")
async def test_bootstrap_makes_the_first_credentials_once(admin: Admin) -> None:
    first = await admin.bootstrap.run(Secret("bootstrap-token"), call(OPERATOR))
    assert admin.journalist.trace == ["intent:unknown", "outcome:success"]
    assert {(entry.kind, entry.action, entry.user) for entry in admin.journalist.entries} == {
        ("admin", "bootstrap", OPERATOR)
    }
    by_name = {key.identity: key for key in admin.store.list_keys()}
    assert by_name["admin"].roles == ("admin",)
    assert by_name["admin"].permissions == ("kubegate:*",)
    assert by_name["admin"].namespaces.all
    assert by_name["viewer"].roles == ("viewer",)
    assert by_name["viewer"].permissions == ()
    user = admin.raw.users.find("admin")
    assert user is not None
    assert user.password_hash == f"hash:{first.admin_password.reveal()}"
    assert (user.roles, user.permissions) == (("admin",), ("kubegate:*",))
    with pytest.raises(AlreadyExists, match="keys create"):
        await admin.bootstrap.run(Secret("bootstrap-token"), call(OPERATOR))
    assert admin.journalist.trace[2:] == ["whole:failure"]
    assert len(admin.store.list_keys()) == 2
    for secret in (first.admin_key, first.viewer_key, first.admin_password):
        assert secret.reveal() not in repr(first) + repr(admin.journalist.entries)


@pytest.mark.req("R15")
async def test_of_two_bootstraps_at_once_one_wins(admin: Admin) -> None:
    answers = await asyncio.gather(
        *(admin.bootstrap.run(Secret("bootstrap-token"), call(OPERATOR)) for _ in range(2)), return_exceptions=True
    )
    assert sorted(type(answer).__name__ for answer in answers) == ["AlreadyExists", "FirstCredentials"]
    assert len(admin.store.list_keys()) == 2


@pytest.mark.req("R15")
@pytest.mark.parametrize(
    ("set_up", "sent", "refusal"),
    [
        ("bootstrap-token", "other", Unauthenticated),
        ("bootstrap-token", "", Unauthenticated),
        (None, "", FailedPrecondition),
    ],
)
async def test_bootstrap_needs_its_token(
    admin: Admin, set_up: str | None, sent: str, refusal: type[DomainError]
) -> None:
    admin.token_file = Secret(set_up) if set_up is not None else None
    with pytest.raises(refusal):
        await admin.bootstrap.run(Secret(sent), call(OPERATOR))
    assert not admin.store.bootstrapped
    assert [entry.result for entry in admin.journalist.entries] == ["failure"]


@pytest.mark.req("R15", "R18")
@pytest.mark.parametrize("away_from", [1, 2])
async def test_a_bootstrap_that_cannot_be_recorded_leaves_nothing_and_may_be_repeated(
    admin: Admin, away_from: int
) -> None:
    admin.journalist.away_from = away_from
    with pytest.raises(Unavailable):
        await admin.bootstrap.run(Secret("bootstrap-token"), call(OPERATOR))
    assert (admin.store.list_keys(), admin.raw.users.find("admin")) == ([], None)
    admin.journalist.away_from = float("inf")
    await admin.bootstrap.run(Secret("bootstrap-token"), call(OPERATOR))
    assert admin.store.bootstrapped
