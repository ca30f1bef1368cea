"""The Merkle tree of RFC 6962, section 2.1: hashes, roots, and the checks of proofs. Pure functions over leaf hashes.

Leaves and nodes are hashed with different prefixes, so that a node can never pass for a leaf. The tree over
n leaves splits at the largest power of two below n.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple, Self


def leaf_hash(data: bytes) -> bytes:
    """SHA-256(0x00 || data): 32 bytes."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right): 32 bytes."""
    return sha256(b"\x01" + left + right).digest()


EMPTY_ROOT = sha256(b"").digest()
"""The root of the tree without leaves."""


class BadProof(ValueError):
    """The proof does not lead to the root."""


STEP = 8
"""Levels between two that a store keeps: a node for 256 leaves, for 65,536 and so on. The rest is recomputed."""


class Node(NamedTuple):
    """The root of a perfect subtree: leaves ``position << level`` to ``(position + 1) << level``."""

    level: int
    position: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Tree:
    """A growing tree, kept as the roots of its perfect subtrees, largest first (at most 64)."""

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    def extend(self, leaves: Iterable[bytes]) -> tuple["Tree", list[Node]]:
        """The tree with these leaf hashes more, and the nodes at every ``STEP``th level that they complete."""
        size, peaks, nodes = self.size, list(self.peaks), []
        for node in leaves:
            carry, level = size, 0
            while carry & 1:
                node = sha256(b"\x01" + peaks.pop() + node).digest()
                carry >>= 1
                level += 1
                if level % STEP == 0:
                    nodes.append(Node(level, size >> level, node))
            peaks.append(node)
            size += 1
        return Tree(size, tuple(peaks)), nodes

    @classmethod
    def of(cls, leaves: Iterable[bytes]) -> Self:
        """The tree over leaf hashes."""
        tree, _ = cls().extend(leaves)
        return cls(tree.size, tree.peaks)

    def root(self) -> bytes:
        """The Merkle tree hash."""
        if not self.peaks:
            return EMPTY_ROOT
        root = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            root = node_hash(peak, root)
        return root


def check_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Checks that ``leaf`` is leaf ``index`` of the tree of that size and root (RFC 9162, section 2.1.3.2).

    Raises:
        BadProof: it is not, or the proof is malformed.
    """
    if not 0 <= index < size:
        raise BadProof("index beyond the tree")
    node, fn, sn = leaf, index, size - 1
    for sibling in proof:
        if sn == 0:
            raise BadProof("proof too long")
        if fn & 1 or fn == sn:
            node = node_hash(sibling, node)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            node = node_hash(node, sibling)
        fn, sn = fn >> 1, sn >> 1
    if sn or node != root:
        raise BadProof("proof does not lead to the root")


def check_consistency(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Checks that the new tree extends the old one (RFC 9162, section 2.1.4.2).

    Raises:
        BadProof: it does not, or the proof is malformed.
    """
    if not 0 <= old <= new:
        raise BadProof("the tree has shrunk")
    if old == new or old == 0:
        if proof or (old == new and old_root != new_root) or (old == 0 and old_root != EMPTY_ROOT):
            raise BadProof("the roots differ")
        return
    path = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    if not path:
        raise BadProof("proof too short")
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for node in path[1:]:
        if sn == 0:
            raise BadProof("proof too long")
        if fn & 1 or fn == sn:
            fr, sr = node_hash(node, fr), node_hash(node, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, node)
        fn, sn = fn >> 1, sn >> 1
    if sn or fr != old_root or sr != new_root:
        raise BadProof("proof does not lead to the roots")
