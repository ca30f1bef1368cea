"""Reads typed fields from nodes and collects what is wrong with them."""

from contextlib import suppress
from datetime import datetime
from difflib import get_close_matches
from typing import TypeVar

from services.authz.policy.conditions import CompileCondition, Condition, InvalidCondition
from services.authz.policy.document import Mapping, Node, Problem, Scalar, Sequence
from services.authz.policy.permissions import GRANTABLE, explain_malformed
from services.authz.policy.scope import InvalidPattern, Scope, parse_pattern

MAX_ENTRIES = 1_000
"""Permissions, namespaces or inherited roles of one rule at most."""
MAX_DESCRIPTION = 1_000

N = TypeVar("N", Scalar, Sequence, Mapping)


class Fields:
    """Problems are collected, never raised, so that all of them are reported at once."""

    def __init__(self, problems: list[Problem], compile_condition: CompileCondition) -> None:
        self.problems = problems
        self._compile = compile_condition

    def expect(self, node: Node, kind: type[N], what: str, wanted: str) -> N | None:
        """The node where it is of that kind."""
        if isinstance(node, kind):
            return node
        if node.kind != "an alias":
            self.problem(node, f"{what} must be {wanted}, not {node.kind}")
        return None

    def items(self, node: Node, key: str, wanted: str, limit: int) -> list[Node]:
        """The entries of a list, ``limit`` at most."""
        sequence = self.expect(node, Sequence, key, wanted)
        if sequence is None:
            return []
        if len(sequence.items) > limit:
            self.problem(sequence, f"{key} has {len(sequence.items)} entries; at most {limit} are allowed")
        return sequence.items[:limit]

    def keys(
        self, mapping: Mapping, known: tuple[str, ...], *, required: tuple[str, ...], what: str
    ) -> dict[str, Node]:
        """The values by their keys; unknown and missing ones are problems."""
        for key, _ in mapping.entries:
            if key.value not in known:
                self.problem(key, f"unknown key {key.value!r}; {what} knows {', '.join(known)}")
        keys = {key.value: value for key, value in mapping.entries}
        for name in required:
            if name not in keys:
                self.problem(mapping, f"{what} lacks the key {name!r}")
        return keys

    def strings(self, node: Node, key: str) -> list[Scalar]:
        """The entries of a list of strings."""
        entries = (
            self.string(item, f"an entry of {key}") for item in self.items(node, key, "a list of strings", MAX_ENTRIES)
        )
        return [entry for entry in entries if entry is not None]

    def string(self, node: Node, what: str) -> Scalar | None:
        """The node where it is a string that is not empty."""
        if isinstance(node, Scalar) and node.kind == "a string":
            if node.value:
                return node
            self.problem(node, f"{what} is empty")
        elif isinstance(node, Scalar) and node.kind not in ("empty", "an alias"):
            self.problem(node, f'{what} must be a string, not {node.kind}; quote it: "{node.value}"')
        elif node.kind != "an alias":
            self.problem(node, f"{what} must be a string, not {node.kind}")
        return None

    def text(self, keys: dict[str, Node], key: str) -> str:
        """The string under a key; empty where there is none."""
        scalar = self.string(keys[key], key) if key in keys else None
        return scalar.value if scalar is not None else ""

    def description(self, keys: dict[str, Node]) -> str:
        """The description, which is optional."""
        text = self.text(keys, "description")
        if len(text) > MAX_DESCRIPTION:
            self.problem(keys["description"], f"description is longer than {MAX_DESCRIPTION} characters")
        return text

    def permissions(self, keys: dict[str, Node]) -> tuple[str, ...]:
        """Permissions that the table knows."""
        entries = self.strings(keys["permissions"], "permissions") if "permissions" in keys else []
        for entry in entries:
            if entry.value not in GRANTABLE:
                self.problem(entry, explain_malformed(entry.value))
        return tuple(entry.value for entry in entries)

    def scope(self, node: Node) -> Scope:
        """Namespace names and patterns."""
        entries = self.strings(node, "namespaces")
        if isinstance(node, Sequence) and not node.items:
            # An empty list reads as "nowhere" to one person and "everywhere" to another: refuse to guess.
            self.problem(node, "namespaces is empty; leave the key out for all of them, or remove the role for none")
        patterns: list[str] = []
        for entry in entries:
            try:
                parse_pattern(entry.value)
                patterns.append(entry.value)
            except InvalidPattern as error:
                self.problem(entry, str(error))
        return Scope.of(patterns)

    def condition(self, keys: dict[str, Node]) -> Condition | None:
        """The compiled condition, which is optional."""
        scalar = self.string(keys["condition"], "condition") if "condition" in keys else None
        if scalar is None:
            return None
        try:
            return self._compile(scalar.value)
        except InvalidCondition as error:
            self.problem(scalar, str(error))
            return None

    def moment(self, node: Node, key: str) -> float:
        """A date with time and offset as RFC 3339 writes it, in seconds since 1970; 0 where it is malformed."""
        if isinstance(node, Scalar) and node.kind in ("a date", "a string"):
            with suppress(ValueError, OverflowError):
                moment = datetime.fromisoformat(node.value)
                if moment.tzinfo is not None and moment.timestamp() > 0:
                    return moment.timestamp()
        if node.kind != "an alias":
            self.problem(node, f"{key} must be a time with an offset, such as 2027-01-31T18:00:00Z")
        return 0.0

    def known(self, scalar: Scalar, names: set[str], what: str) -> bool:
        """Whether a name is one of those that exist."""
        if scalar.value in names:
            return True
        close = get_close_matches(scalar.value, names, n=1)
        self.problem(
            scalar, f"there is no {what} {scalar.value!r}" + (f"; did you mean {close[0]!r}?" if close else "")
        )
        return False

    def problem(self, node: Node, message: str) -> None:
        """Something is wrong at a node."""
        self.problems.append(Problem(node.line, node.column, message))
