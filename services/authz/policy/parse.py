"""A policy file into the model, reporting every problem with its line and column at once."""

import hashlib
from typing import TypeVar

from services.authz.policy.document import InvalidPolicy, Mapping, Node, Problem, Scalar, Sequence, read
from services.authz.policy.model import ROLE_NAME, Policy, Role
from services.authz.policy.permissions import GRANTABLE, explain_malformed
from services.authz.policy.scope import EVERYWHERE, InvalidPattern, Scope, parse_pattern

MAX_ROLES = 20_000
MAX_ENTRIES = 1_000
"""Permissions or namespaces of one role at most."""
MAX_DESCRIPTION = 1_000

POLICY_KEYS = ("roles",)
ROLE_KEYS = ("name", "description", "permissions", "namespaces")

N = TypeVar("N", Scalar, Sequence, Mapping)


def revision_of(content: bytes) -> str:
    """The revision of a policy file: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(content).hexdigest()[:16]


def parse_policy(content: bytes) -> Policy:
    """The policy in a file's bytes.

    Raises:
        InvalidPolicy: with everything that is wrong, never only the first.
    """
    root, problems = read(content)
    parser = _Parser(problems)
    roles = parser.policy(root)
    if parser.problems:
        raise InvalidPolicy(parser.problems)
    return Policy(tuple(roles), revision_of(content))


class _Parser:
    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems

    def policy(self, root: Node) -> list[Role]:
        mapping = self._expect(root, Mapping, "the policy", "a mapping with the key `roles`")
        if mapping is None:
            return []
        keys = self._keys(mapping, POLICY_KEYS, required=("roles",), what="the policy")
        if "roles" not in keys:
            return []
        sequence = self._expect(keys["roles"], Sequence, "roles", "a list of roles")
        if sequence is None:
            return []
        self._limit(sequence, MAX_ROLES, "roles")
        seen: dict[str, int] = {}
        return [role for item in sequence.items[:MAX_ROLES] if (role := self._role(item, seen)) is not None]

    def _role(self, node: Node, seen: dict[str, int]) -> Role | None:
        mapping = self._expect(node, Mapping, "a role", "a mapping with the keys " + ", ".join(ROLE_KEYS))
        if mapping is None:
            return None
        keys = self._keys(mapping, ROLE_KEYS, required=("name", "permissions"), what="the role")
        name = self._name(keys["name"], seen) if "name" in keys else ""
        description = self._text(keys["description"], "description") if "description" in keys else ""
        if len(description) > MAX_DESCRIPTION:
            self._problem(keys["description"], f"description is longer than {MAX_DESCRIPTION} characters")
        permissions = self._list(keys["permissions"], "permissions") if "permissions" in keys else []
        for entry in permissions:
            if entry.value not in GRANTABLE:
                self._problem(entry, explain_malformed(entry.value))
        scope = self._scope(keys["namespaces"]) if "namespaces" in keys else EVERYWHERE
        return Role(name, tuple(entry.value for entry in permissions), scope, description)

    def _name(self, node: Node, seen: dict[str, int]) -> str:
        name = self._text(node, "name")
        if name and not ROLE_NAME.fullmatch(name):
            self._problem(
                node,
                f"{name!r} is not a role name; use up to 63 of A-Z a-z 0-9 . _ - with a letter or digit first and last",
            )
        elif name in seen:
            self._problem(node, f"duplicate role {name!r}; the first is in line {seen[name]}")
        elif name:
            seen[name] = node.line
        return name

    def _scope(self, node: Node) -> Scope:
        entries = self._list(node, "namespaces")
        if isinstance(node, Sequence) and not node.items:
            # An empty list reads as "nowhere" to one person and "everywhere" to another: refuse to guess.
            self._problem(node, "namespaces is empty; leave the key out for all of them, or remove the role for none")
        patterns: list[str] = []
        for entry in entries:
            try:
                parse_pattern(entry.value)
                patterns.append(entry.value)
            except InvalidPattern as error:
                self._problem(entry, str(error))
        return Scope.of(patterns)

    def _list(self, node: Node, key: str) -> list[Scalar]:
        sequence = self._expect(node, Sequence, key, "a list of strings")
        if sequence is None:
            return []
        self._limit(sequence, MAX_ENTRIES, key)
        entries = (self._string(item, f"an entry of {key}") for item in sequence.items[:MAX_ENTRIES])
        return [entry for entry in entries if entry is not None]

    def _text(self, node: Node, key: str) -> str:
        scalar = self._string(node, key)
        return scalar.value if scalar is not None else ""

    def _string(self, node: Node, what: str) -> Scalar | None:
        if isinstance(node, Scalar) and node.kind == "a string":
            if node.value:
                return node
            self._problem(node, f"{what} is empty")
        elif isinstance(node, Scalar) and node.kind not in ("empty", "an alias"):
            self._problem(node, f'{what} must be a string, not {node.kind}; quote it: "{node.value}"')
        elif node.kind != "an alias":
            self._problem(node, f"{what} must be a string, not {node.kind}")
        return None

    def _expect(self, node: Node, kind: type[N], what: str, wanted: str) -> N | None:
        if isinstance(node, kind):
            return node
        if node.kind != "an alias":
            self._problem(node, f"{what} must be {wanted}, not {node.kind}")
        return None

    def _keys(
        self, mapping: Mapping, known: tuple[str, ...], *, required: tuple[str, ...], what: str
    ) -> dict[str, Node]:
        keys = {key.value: value for key, value in mapping.entries}
        for key, _ in mapping.entries:
            if key.value not in known:
                self._problem(key, f"unknown key {key.value!r}; {what} knows {', '.join(known)}")
        for name in required:
            if name not in keys:
                self._problem(mapping, f"{what} lacks the key {name!r}")
        return keys

    def _limit(self, sequence: Sequence, limit: int, what: str) -> None:
        if len(sequence.items) > limit:
            self._problem(sequence, f"{what} has {len(sequence.items)} entries; at most {limit} are allowed")

    def _problem(self, node: Node, message: str) -> None:
        self.problems.append(Problem(node.line, node.column, message))
