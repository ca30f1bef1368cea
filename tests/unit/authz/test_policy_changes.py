"""A changed policy file never widens access by being half there."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from services.authz.adapters.policy_file import SETTLE, PolicyFile
from services.authz.in_force import InForce
from services.authz.policy.document import InvalidPolicy, Problem
from services.authz.policy.model import Elevation, Policy
from services.authz.policy.parse import parse_policy, revision_of
from services.authz.policy.scope import EVERYWHERE
from services.authz.policy.whole import cut_off
from services.authz.ports import Adopted
from services.common.errors import Unavailable
from tests.fakes.clock import FakeClock

ROOT = Path(__file__).parents[3]
GOLDEN = (ROOT / "tests" / "golden" / "rbac-policies.yaml").read_bytes()
SHIPPED = (ROOT / "configs" / "rbac-policies.yaml").read_bytes()
EDITED = GOLDEN.replace(b"staging", b"production").replace(b'"k8s:pods:logs", ', b"")
ROLES = b"roles:\n  - name: a\n    permissions: [k8s:*]\n  - name: b\n    permissions: [k8s:*]\n"


class Recorder:
    """Remembers what became of each change."""

    def __init__(self) -> None:
        self.adopted: list[str] = []
        self.problems: list[str] = []

    def policy_adopted(self, revision: str, previous: str) -> None:
        self.adopted.append(revision)

    def policy_rejected(self, revision: str, problems: Sequence[str]) -> None:
        self.problems += problems


class NoElevations:
    """A store in which nothing is."""

    async def adopted(self, policy: Adopted, content: bytes) -> None: ...

    async def active(self, now: float) -> tuple[int, Sequence[Elevation]]:
        return 1, ()


def serving(content: bytes) -> tuple[InForce, Recorder]:
    recorder = Recorder()
    policy = parse_policy(content)
    return InForce(policy, content, NoElevations(), recorder, FakeClock()), recorder  # type: ignore[arg-type]


def wider(before: Policy, now: Policy) -> list[str]:
    """Roles that hold where they did not, or hold everywhere without having been there."""
    scopes = {role.name: role.scope for role in before.roles}
    return [role.name for role in now.roles if role.scope is EVERYWHERE and scopes.get(role.name) is not EVERYWHERE]


def beginnings(content: bytes) -> list[bytes]:
    """Every beginning that is a policy."""
    found = []
    for length in range(len(content)):
        try:
            parse_policy(content[:length])
        except InvalidPolicy:
            continue
        found.append(content[:length])
    return found


@pytest.mark.req("I2.4", "I2.11")
@pytest.mark.parametrize("before", [GOLDEN, SHIPPED])
@pytest.mark.parametrize("written", [GOLDEN, EDITED])
async def test_no_beginning_of_a_policy_widens_what_is_in_force(before: bytes, written: bytes) -> None:
    parts = beginnings(written)
    assert any(wider(parse_policy(before), parse_policy(part)) for part in parts), "some would, if they were adopted"
    for part in parts:
        service, recorder = serving(before)
        await service.reload(part)
        assert not (recorder.adopted and wider(parse_policy(before), parse_policy(part))), part.decode()[-60:]


@pytest.mark.req("I2.4")
def test_with_an_end_marker_no_beginning_is_adopted_and_the_whole_is() -> None:
    for part in beginnings(SHIPPED.replace(b"staging", b"production")):
        if not part.rstrip().endswith(b"..."):
            assert cut_off(SHIPPED, part) is not None
    assert cut_off(SHIPPED, SHIPPED.replace(b"staging", b"production")) is None


@pytest.mark.req("I2.11")
@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (ROLES + b"    namespaces: [x]\n", ROLES, "lost 'namespaces'"),
        (ROLES + b"    namespaces: [x]\n...\n", ROLES, "end marker"),
        (ROLES + b"    namespaces: [x]\n", ROLES.rstrip(), "last line"),
        (ROLES + b"    namespaces: [x]\n", ROLES + b"...\n", ""),
        (ROLES + b"    namespaces: [x]\n", ROLES + b"    namespaces: [y]\n", ""),
        (ROLES, ROLES + b"  - name: c\n    permissions: []\n", ""),
        (ROLES, ROLES.replace(b"name: b", b"name: c"), ""),
        (ROLES.rstrip(), ROLES.replace(b"name: b", b"name: c").rstrip(), ""),
        (ROLES, b"roles: []\n", ""),
    ],
)
def test_what_looks_cut_off_is_refused_with_the_way_to_say_that_it_is_meant(
    before: bytes, now: bytes, said: str
) -> None:
    problem = cut_off(before, now)
    assert bool(problem) == bool(said)
    assert problem is None or said in problem.message


@pytest.mark.req("I2.11")
async def test_a_refused_part_leaves_the_policy_and_the_whole_is_adopted_later() -> None:
    whole = ROLES + b"    namespaces: [x]\n"
    service, recorder = serving(whole)
    await service.reload(ROLES)
    assert service.revision == revision_of(whole)
    assert "policy:5:1: the end of the file has lost 'namespaces'" in recorder.problems[0]
    await service.reload(whole.replace(b"[x]", b"[y]"))
    assert recorder.adopted == [revision_of(whole.replace(b"[x]", b"[y]"))]


@pytest.mark.req("I2.4", "R27")
async def test_a_file_that_is_being_written_is_not_looked_at_until_it_is_still(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_bytes(GOLDEN)
    slept: list[float] = []
    writes: list[Callable[[], object]] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if writes:
            writes.pop(0)()
        await asyncio.sleep(0)

    changes = PolicyFile(path, sleep).changes()
    assert await anext(changes) == GOLDEN
    writes += [lambda length=length: path.write_bytes(EDITED[:length]) for length in (300, 500, len(EDITED))]  # type: ignore[misc]
    path.write_bytes(EDITED[:100])
    assert await anext(changes) == EDITED
    assert slept == [SETTLE] * 5
    writes += [path.unlink, lambda: path.write_bytes(GOLDEN)]
    path.write_bytes(EDITED[:100])
    assert await anext(changes) == GOLDEN
    path.unlink()
    assert isinstance(await anext(changes), Problem)
    await changes.aclose()  # type: ignore[attr-defined]


@pytest.mark.req("I5.6", "R27")
async def test_a_store_that_fails_neither_ends_the_service_nor_loses_the_change() -> None:
    service, recorder = serving(GOLDEN)
    newest = SHIPPED
    failures = 2

    class FullDisk(NoElevations):
        async def adopted(self, policy: Adopted, content: bytes) -> None:
            nonlocal failures
            if failures:
                failures -= 1
                raise Unavailable("The authorization store failed.")

    service._store = FullDisk()  # type: ignore[assignment]

    async def changes() -> AsyncIterator[bytes | Problem]:
        yield EDITED

    async def sleep(seconds: float) -> None:
        assert service.revision == revision_of(GOLDEN), "the last good one stays"

    await service.follow(changes(), lambda: newest, sleep)
    assert failures == 0
    assert recorder.adopted == [revision_of(newest)], "what the file is by then, never what it was"
