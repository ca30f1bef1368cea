"""The manifest of requirements and the tests cite each other.

Read statically, so that this costs milliseconds and also sees tests that are not selected.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import pydantic
import pytest
import yaml

TESTS = Path(__file__).parents[1]
MANIFEST = TESTS / "requirements.yaml"


class Entry(pydantic.BaseModel, extra="forbid", frozen=True):
    """One requirement. issue: the issue that builds or completes it."""

    says: Annotated[str, pydantic.Field(min_length=10)]
    issue: Annotated[int, pydantic.Field(ge=2)]
    status: Literal["open", "partial", "fulfilled"]
    left: str = ""


def manifest() -> dict[str, Entry]:
    return {key: Entry(**value) for key, value in yaml.safe_load(MANIFEST.read_text()).items()}


def _dotted(node: ast.expr) -> str:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id if isinstance(node, ast.Name) else "", *reversed(parts)])


def citations() -> dict[str, list[str]]:
    """Requirement id -> where tests cite it, as "file:line"."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if isinstance(node, ast.Call) and _dotted(node.func) == "pytest.mark.req":
                where = f"{path.relative_to(TESTS)}:{node.lineno}"
                for arg in node.args:
                    assert isinstance(arg, ast.Constant), f"{where}: ids are written out"
                    found[str(arg.value)].append(where)
    return found


@pytest.mark.req("I2.10")
def test_the_rules_and_the_promises_of_this_issue_are_all_in_the_manifest() -> None:
    assert [key for key in manifest() if key.startswith("R")] == [f"R{n}" for n in range(1, 28)]
    assert [key for key in manifest() if key.startswith("I2.")] == [f"I2.{n}" for n in range(1, 14)]
    assert [key for key in manifest() if key.startswith("I3.")] == [f"I3.{n}" for n in range(1, 18)]


@pytest.mark.req("I2.10")
def test_every_citation_names_a_requirement() -> None:
    known = manifest()
    unknown = {key: places for key, places in citations().items() if key not in known}
    assert not unknown


@pytest.mark.req("I2.10")
def test_what_is_said_to_hold_is_cited_and_what_is_open_is_not() -> None:
    cited = citations()
    wrong = [
        f"{key} is {entry.status} but cited by {cited.get(key) or 'no test'}"
        for key, entry in manifest().items()
        if (entry.status == "open") == bool(cited.get(key))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.req("I2.10")
def test_partial_entries_say_what_is_left() -> None:
    assert [key for key, entry in manifest().items() if (entry.status == "partial") != bool(entry.left)] == []


def _calls(node: ast.AST) -> Iterator[str]:
    return (_dotted(inner.func) for inner in ast.walk(node) if isinstance(inner, ast.Call))


def _outside_loops(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes that lie in no while loop: there a test waits, and may give up after some patience."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.While):
            yield from _outside_loops(child)


CLOCK = re.compile(r"^(time\.(time|monotonic|perf_counter)(_ns)?|(datetime\.)?datetime\.now|.*\bloop\.time)$")


def _reads_clock(node: ast.AST, names: set[str]) -> bool:
    """Whether an expression asks a clock, or one of the names that were assigned from one."""
    held = (inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name))
    return any(CLOCK.match(call) for call in _calls(node)) or any(name in names for name in held)


def _assigned(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Assign):
            targets, value = inner.targets, inner.value
        elif isinstance(inner, ast.AnnAssign | ast.AugAssign | ast.NamedExpr) and inner.value is not None:
            targets, value = [inner.target], inner.value
        else:
            continue
        for target in targets:
            # Not what is assigned to attributes and items: then the whole object would count.
            names = target.elts if isinstance(target, ast.Tuple | ast.List) else [target]
            yield from ((name.id, value) for name in names if isinstance(name, ast.Name))


def asserted_durations(source: str) -> list[int]:
    """Lines of assertions on what a clock said, directly or by names that were assigned from it."""
    tree = ast.parse(source)
    found: set[int] = set()
    scopes = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    outside = [
        node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    ]
    for scope in [ast.Module(outside, []), *scopes]:
        moments: set[str] = set()
        spans: set[str] = set()
        assigned = list(_assigned(scope))
        for _ in assigned:  # Until nothing is added: a name may be assigned from another.
            moments |= {name for name, value in assigned if _reads_clock(value, moments)}
        for _ in assigned:
            spans |= {name for name, value in assigned if _is_span(value, moments, spans)}
        for node in _outside_loops(scope):
            if isinstance(node, ast.Assert) and (_reads_clock(node.test, set()) or _is_span(node.test, moments, spans)):
                found.add(node.lineno)
    return sorted(found)


def _is_span(node: ast.AST, moments: set[str], spans: set[str]) -> bool:
    """Whether an expression holds a difference of moments. A moment alone may be compared, as with what expires."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name) and inner.id in spans:
            return True
        sides = (inner.left, inner.right) if isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Sub) else ()
        if sides and all(_reads_clock(side, moments) for side in sides):
            return True
    return False


@pytest.mark.req("R27")
def test_no_test_asserts_a_real_duration() -> None:
    found = [
        f"{path.relative_to(TESTS)}:{line}"
        for path in sorted(TESTS.rglob("*.py"))
        for line in asserted_durations(path.read_text())
    ]
    assert not found


@pytest.mark.req("R27")
@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("t = time.monotonic()\nassert time.monotonic() - t < 1", [2]),
        ("t = time.monotonic()\nelapsed = time.monotonic() - t\nassert elapsed < 1", [3]),
        ("t, u = time.time(), 0\nwork()\nend = time.time()\nassert 0 < end - t < 2", [4]),
        ("def f():\n  t = loop.time()\n  took: float = loop.time() - t\n  ms = took * 1000\n  assert ms < 5", [5]),
        ("t = datetime.now(UTC)\nif (d := datetime.now(UTC) - t):\n  assert d.total_seconds() < 1", [3]),
        ("t = datetime.now(UTC)\nassert token.expires > t", []),
        ("t = time.monotonic()\nwhile not ready():\n  assert time.monotonic() - t < 30", []),
        ("def f():\n  t = time.time()\n  took = time.time() - t\ndef g(took):\n  assert took < 1", []),
        ("clock = FakeClock()\nt = clock.monotonic()\nassert clock.monotonic() - t == 1", []),
    ],
)
def test_the_guard_sees_durations_behind_names(source: str, lines: list[int]) -> None:
    assert asserted_durations(source) == lines


def blind_sleeps(source: str) -> list[int]:
    """Lines that sleep for a fixed time outside of a loop: they hope that something has happened by then."""

    def find(node: ast.AST) -> Iterator[int]:
        if isinstance(node, ast.While | ast.For | ast.AsyncFor):
            return
        if isinstance(node, ast.Call) and re.fullmatch(r"((asyncio|time)\.)?sleep", _dotted(node.func)):
            fixed = node.args[0] if node.args else None
            if isinstance(fixed, ast.Constant) and fixed.value != 0:
                yield node.lineno
        for child in ast.iter_child_nodes(node):
            yield from find(child)

    return list(find(ast.parse(source)))


@pytest.mark.req("R27")
def test_no_test_sleeps_instead_of_waiting_for_what_it_means() -> None:
    found = [
        f"{path.relative_to(TESTS)}:{line}"
        for path in sorted(TESTS.rglob("*.py"))
        for line in blind_sleeps(path.read_text())
    ]
    assert not found, "wait for an event or a counter, in a loop"


@pytest.mark.req("R27")
@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("async def f():\n  await asyncio.sleep(0.2)\n  assert not x", [2]),
        ("import time\ntime.sleep(1)", [2]),
        ("with a:\n  if b:\n    sleep(1)", [3]),
        ("while not ready():\n  time.sleep(0.1)", []),
        ("for _ in range(9):\n  await asyncio.sleep(0.1)", []),
        ("await asyncio.sleep(0)", []),
        ("await asyncio.sleep(seconds)", []),
    ],
)
def test_the_guard_sees_sleeps_outside_of_loops(source: str, lines: list[int]) -> None:
    assert blind_sleeps(source) == lines
