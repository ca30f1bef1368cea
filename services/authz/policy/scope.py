"""Where a grant holds: everywhere, or in the namespaces that match exact names and globs."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

MAX_LABEL = 63
"""Longest namespace name (RFC 1123 label)."""

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_GLOB = re.compile(r"(?P<prefix>(?:[a-z0-9][a-z0-9-]*)?)\*(?P<suffix>(?:[a-z0-9-]*[a-z0-9])?)")


def is_namespace(name: str) -> bool:
    """Whether a name can be a namespace: an RFC 1123 label in ASCII lower case, at most 63 characters."""
    return len(name) <= MAX_LABEL and _LABEL.fullmatch(name) is not None


@dataclass(frozen=True, slots=True, order=True)
class Glob:
    """``<prefix>*<suffix>``; the one ``*`` stands for any characters, none included."""

    prefix: str
    suffix: str

    def __str__(self) -> str:
        return f"{self.prefix}*{self.suffix}"

    def matches(self, name: str) -> bool:
        """Whether a namespace name matches as a whole."""
        return (
            len(name) >= len(self.prefix) + len(self.suffix)
            and name.startswith(self.prefix)
            and name.endswith(self.suffix)
        )

    def contains(self, other: "Glob") -> bool:
        """Whether it matches all that the other matches."""
        return other.prefix.startswith(self.prefix) and other.suffix.endswith(self.suffix)

    def intersect(self, other: "Glob") -> "Scope":
        """The names that both match: one glob, and the few short names in which prefix and suffix overlap."""
        short_prefix, prefix = sorted((self.prefix, other.prefix), key=len)
        short_suffix, suffix = sorted((self.suffix, other.suffix), key=len)
        if not (prefix.startswith(short_prefix) and suffix.endswith(short_suffix)):
            return NOWHERE
        overlaps = (prefix + suffix[size:] for size in range(1, min(len(prefix), len(suffix)) + 1))
        names = (name for name in overlaps if self.matches(name) and other.matches(name))
        joint = Glob(prefix, suffix)
        globs = (joint,) if len(prefix) + len(suffix) <= MAX_LABEL else ()
        return Scope(False, frozenset(n for n in names if is_namespace(n) and not joint.matches(n)), globs)


class InvalidPattern(ValueError):
    """A namespace pattern is malformed; the message says how to write it."""


@dataclass(frozen=True, slots=True)
class Scope:
    """A set of places.

    ``everything`` covers every namespace and what lies outside namespaces. Without it, only namespaces are
    covered, never a cluster-scoped resource, not even by the glob ``*``.
    """

    everything: bool
    names: frozenset[str] = frozenset()
    globs: tuple[Glob, ...] = ()

    @classmethod
    def of(cls, patterns: Iterable[str]) -> "Scope":
        """The namespaces that match one of the patterns.

        Raises:
            InvalidPattern: the first malformed pattern.
        """
        names: set[str] = set()
        globs: set[Glob] = set()
        for pattern in patterns:
            parsed = parse_pattern(pattern)
            if isinstance(parsed, Glob):
                globs.add(parsed)
            else:
                names.add(parsed)
        return cls(False, frozenset(names), tuple(sorted(globs)))

    @property
    def empty(self) -> bool:
        """Whether nothing is covered."""
        return not (self.everything or self.names or self.globs)

    def covers_namespace(self, namespace: str) -> bool:
        """Whether one namespace is covered. An empty name is no namespace (R14)."""
        if self.everything:
            return namespace != ""
        return namespace in self.names or any(glob.matches(namespace) for glob in self.globs if namespace)

    def contains(self, other: "Scope") -> bool:
        """Whether all that the other covers is covered. Says no where only several patterns together would do."""
        if self.everything or other.everything:
            return self.everything
        names = all(self.covers_namespace(name) for name in other.names)
        return names and all(any(mine.contains(theirs) for mine in self.globs) for theirs in other.globs)

    def without(self, other: "Scope") -> "Scope":
        """The same less what the other covers whole; a pattern that is covered in part stays."""
        if self.everything or self.empty or other.empty:
            return NOWHERE if other.everything else self
        names = frozenset(name for name in self.names if not other.covers_namespace(name))
        globs = tuple(glob for glob in self.globs if not other.contains(Scope(False, globs=(glob,))))
        return Scope(False, names, globs)

    def patterns(self) -> list[str]:
        """Exact names and globs, sorted; empty for ``everything`` and for nothing."""
        return [] if self.everything else sorted([*self.names, *map(str, self.globs)])

    def union(self, other: "Scope") -> "Scope":
        """What either covers."""
        if self.everything or other.everything:
            return EVERYWHERE
        return Scope(False, self.names | other.names, tuple(sorted({*self.globs, *other.globs})))

    def intersect(self, other: "Scope") -> "Scope":
        """What both cover."""
        if self.everything:
            return other
        if other.everything:
            return self
        names = {name for name in self.names if other.covers_namespace(name)}
        names |= {name for name in other.names if self.covers_namespace(name)}
        result = Scope(False, frozenset(names))
        for mine in self.globs:
            for theirs in other.globs:
                result = result.union(mine.intersect(theirs))
        return result


EVERYWHERE = Scope(True)
"""Every namespace and everything outside namespaces."""

NOWHERE = Scope(False)
"""No place at all."""


def parse_pattern(pattern: str) -> str | Glob:
    """An exact namespace name, or a glob with one ``*``.

    Raises:
        InvalidPattern: it is neither.
    """
    if is_namespace(pattern):
        return pattern
    match = _GLOB.fullmatch(pattern)
    if match is not None and len(pattern) <= MAX_LABEL + 1:
        return Glob(match["prefix"], match["suffix"])
    if pattern.count("*") > 1:
        raise InvalidPattern(f"{pattern!r} has more than one `*`; a pattern may have one, as in `feature-*`")
    raise InvalidPattern(
        f"{pattern!r} is not a namespace name (lower-case letters, digits and `-`, at most 63) "
        "and not a pattern such as `feature-*`"
    )
