"""Proofs from a store that keeps the leaves and every ``STEP``th level of the tree: a few reads a proof, not a walk.

The recursion is that of RFC 6962, section 2.1; ``merkle`` has the same over a list of leaves, and checks what
this makes.
"""

from collections.abc import Callable, Sequence

from services.audit.merkle import EMPTY_ROOT, STEP, node_hash

Nodes = Callable[[int, int, int], Sequence[bytes]]
"""(level, first, end) -> the kept nodes of that level at positions first to end; level 0 are the leaves."""


REMEMBERED = 65_536
"""Hashes kept at most."""


class Prover:
    """Proofs in the tree of one size. Remembers what it computed: neighbours share most of their path."""

    def __init__(self, nodes: Nodes, size: int) -> None:
        self._nodes, self.size = nodes, size
        self._known: dict[tuple[int, int], bytes] = {}

    def root(self, size: int | None = None) -> bytes:
        """The root over the first ``size`` leaves; all of them by default."""
        size = self.size if size is None else size
        return self._hash(0, size) if size else EMPTY_ROOT

    def inclusion(self, index: int) -> list[bytes]:
        """Siblings from a leaf to the root.

        Raises:
            IndexError: there is no such leaf.
        """
        if not 0 <= index < self.size:
            raise IndexError(index)
        path: list[bytes] = []
        first, end = 0, self.size
        while end - first > 1:
            middle = first + _split(end - first)
            if index < middle:
                path.append(self._hash(middle, end))
                end = middle
            else:
                path.append(self._hash(first, middle))
                first = middle
        return path[::-1]

    def consistency(self, old: int) -> list[bytes]:
        """How this tree extends that of an earlier size; empty where that is 0 or the same.

        Raises:
            IndexError: the earlier tree is larger.
        """
        if not 0 <= old <= self.size:
            raise IndexError(old)
        if old in (0, self.size):
            return []
        path: list[bytes] = []
        first, end, whole = 0, self.size, True
        while end != old:
            middle = first + _split(end - first)
            if old <= middle:
                path.append(self._hash(middle, end))
                end = middle
            else:
                path.append(self._hash(first, middle))
                first, whole = middle, False
        if not whole:
            path.append(self._hash(first, end))
        return path[::-1]

    def _hash(self, first: int, end: int) -> bytes:
        """The hash of the subtree over leaves first to end."""
        known = self._known.get((first, end))
        if known is None:
            if len(self._known) > REMEMBERED:
                self._known.clear()
            known = self._known[first, end] = self._compute(first, end)
        return known

    def _compute(self, first: int, end: int) -> bytes:
        count = end - first
        if count & (count - 1):
            middle = first + _split(count)
            return node_hash(self._hash(first, middle), self._hash(middle, end))
        level = (count.bit_length() - 1) // STEP * STEP
        row = list(self._nodes(level, first >> level, end >> level))
        if len(row) != count >> level:
            raise LookupError(f"the store lacks nodes of level {level} from {first >> level} to {end >> level}")
        while len(row) > 1:
            row = [node_hash(row[i], row[i + 1]) for i in range(0, len(row), 2)]
        return row[0]


def _split(count: int) -> int:
    """The largest power of two below a count above 1."""
    return 1 << (count - 1).bit_length() - 1
