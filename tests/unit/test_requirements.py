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
    assert [key for key in manifest() if key.startswith("I3.")] == [f"I3.{n}" for n in range(1, 17)]


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


@pytest.mark.req("R27")
def test_no_test_asserts_a_real_duration() -> None:
    clock = re.compile(r"^(time\.(time|monotonic|perf_counter)(_ns)?|(datetime\.)?datetime\.now|.*\bloop\.time)$")
    found = []
    for path in TESTS.rglob("*.py"):
        for node in _outside_loops(ast.parse(path.read_text(), str(path))):
            if isinstance(node, ast.Assert) and any(clock.match(call) for call in _calls(node.test)):
                found.append(f"{path.relative_to(TESTS)}:{node.lineno}")
    assert not found
