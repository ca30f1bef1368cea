"""YAML into nodes that know their line and column, with everything refused that a policy never needs.

Anchors, aliases and tags are refused (so a file can neither expand like a bomb nor name a Python type), and
so are duplicate keys, several documents, deep nesting and files beyond ``MAX_BYTES``.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.resolver import Resolver

MAX_BYTES = 8 * 1024 * 1024
"""Largest policy file, in bytes."""

MAX_DEPTH = 16
"""Deepest nesting of lists and mappings."""

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RESOLVER = Resolver()
_STRING = "tag:yaml.org,2002:str"
_KINDS = {
    "tag:yaml.org,2002:bool": "a boolean",
    "tag:yaml.org,2002:int": "a number",
    "tag:yaml.org,2002:float": "a number",
    "tag:yaml.org,2002:null": "empty",
    "tag:yaml.org,2002:timestamp": "a date",
}


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Something wrong in a policy file, at a 1-based line and column."""

    line: int
    column: int
    message: str

    def at(self, file: str) -> str:
        """As compilers print it: ``file:line:column: message``."""
        return f"{file}:{self.line}:{self.column}: {self.message}"


class InvalidPolicy(Exception):
    """A policy is unusable. ``problems`` lists all that is wrong with it, in the order of the file."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(problem.at("policy") for problem in self.problems))


@dataclass(frozen=True, slots=True)
class Scalar:
    """A text, number, boolean or null. ``kind`` says in words what it is, "a string" included."""

    line: int
    column: int
    value: str
    kind: str


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list."""

    line: int
    column: int
    items: list["Node"] = field(default_factory=list)
    kind: str = "a list"


@dataclass(frozen=True, slots=True)
class Mapping:
    """Keys with values, in the order of the file."""

    line: int
    column: int
    entries: list[tuple[Scalar, "Node"]] = field(default_factory=list)
    kind: str = "a mapping"


Node = Scalar | Sequence | Mapping


def read(content: bytes) -> tuple[Node, list[Problem]]:
    """The document of a policy file, and the problems that did not keep it from being read.

    Raises:
        InvalidPolicy: it is too large, not UTF-8, not YAML, empty, too deep, or several documents.
    """
    if len(content) > MAX_BYTES:
        raise InvalidPolicy([Problem(1, 1, f"the file is larger than {MAX_BYTES // 1024 // 1024} MiB")])
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        raise InvalidPolicy([Problem(line, column, "not UTF-8 text")]) from None
    try:
        return _Composer(yaml.parse(text, Loader=_Loader)).document()
    except yaml.MarkedYAMLError as error:
        raise InvalidPolicy([_problem(error.problem_mark, f"not valid YAML: {error.problem}")]) from None
    except yaml.YAMLError:
        position = next((i for i, char in enumerate(text) if not _printable(char)), 0)
        line = text.count("\n", 0, position) + 1
        column = position - text.rfind("\n", 0, position)
        raise InvalidPolicy([Problem(line, column, "control characters are not allowed")]) from None


def _printable(char: str) -> bool:
    return char in "\t\n\r\x85" or (" " <= char != "\x7f" and not "\x80" <= char < "\xa0")


class _Composer:
    """Builds nodes from parser events, without recursion into aliases."""

    def __init__(self, events: Iterator[yaml.Event]) -> None:
        self._events = events
        self._problems: list[Problem] = []

    def document(self) -> tuple[Node, list[Problem]]:
        root: Node | None = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    raise InvalidPolicy([_problem(event.start_mark, "a policy is one document; remove this `---`")])
                root = self._node(next(self._events), 0)
        if root is None or (isinstance(root, Scalar) and not root.value):
            raise InvalidPolicy([Problem(1, 1, "the file is empty; to deny everything, write `roles: []`")])
        return root, self._problems

    def _node(self, event: yaml.Event, depth: int) -> Node:
        line, column = _place(event.start_mark)
        if depth > MAX_DEPTH:
            raise InvalidPolicy([Problem(line, column, f"nested deeper than {MAX_DEPTH} levels")])
        if isinstance(event, yaml.AliasEvent):
            self._refuse(event, f"the alias *{event.anchor} is not allowed; write the value out")
            return Scalar(line, column, "", "an alias")
        if isinstance(event, yaml.NodeEvent) and event.anchor:
            self._refuse(event, f"the anchor &{event.anchor} is not allowed; write values out where used")
        if isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)) and event.tag not in (None, "!"):
            self._refuse(event, f"the tag {event.tag} is not allowed")
        if isinstance(event, yaml.ScalarEvent):
            return Scalar(line, column, event.value, _scalar_kind(event))
        if isinstance(event, yaml.SequenceStartEvent):
            sequence = Sequence(line, column)
            while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
                sequence.items.append(self._node(event, depth + 1))
            return sequence
        return self._mapping(Mapping(line, column), depth)

    def _mapping(self, mapping: Mapping, depth: int) -> Mapping:
        seen: dict[str, int] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event, depth + 1)
            value = self._node(next(self._events), depth + 1)
            if not isinstance(key, Scalar):
                message = f"a key must be a plain name, not {key.kind}"
                self._problems.append(Problem(key.line, key.column, message))
            elif key.value in seen:
                message = f"duplicate key {key.value!r}; the first is in line {seen[key.value]}"
                self._problems.append(Problem(key.line, key.column, message))
            else:
                seen[key.value] = key.line
                mapping.entries.append((key, value))
        return mapping

    def _refuse(self, event: yaml.Event, message: str) -> None:
        self._problems.append(_problem(event.start_mark, message))


def _place(mark: Any) -> tuple[int, int]:
    return (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)


def _problem(mark: Any, message: str) -> Problem:
    return Problem(*_place(mark), message)


def _scalar_kind(event: yaml.ScalarEvent) -> str:
    if not event.implicit[0]:
        return "a string"
    tag: str = _RESOLVER.resolve(  # type: ignore[no-untyped-call]
        yaml.ScalarNode, event.value, (True, False)
    )
    return "a string" if tag == _STRING else _KINDS.get(tag, "something else")
