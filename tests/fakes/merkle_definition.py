"""RFC 6962, section 2.1, word for word: roots and proofs by definition, to hold the growing tree against."""

from collections.abc import Sequence

from services.audit.merkle import EMPTY_ROOT, node_hash


def root_of(leaves: Sequence[bytes]) -> bytes:
    """MTH of leaf hashes, by the recursive definition of RFC 6962."""
    if not leaves:
        return EMPTY_ROOT
    if len(leaves) == 1:
        return leaves[0]
    k = _split(len(leaves))
    return node_hash(root_of(leaves[:k]), root_of(leaves[k:]))


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """PATH(index, D[n]) of RFC 6962, section 2.1.1: siblings from the leaf to the root.

    Raises:
        IndexError: there is no such leaf.
    """
    if not 0 <= index < len(leaves):
        raise IndexError(index)
    if len(leaves) == 1:
        return []
    k = _split(len(leaves))
    if index < k:
        return [*inclusion_proof(leaves[:k], index), root_of(leaves[k:])]
    return [*inclusion_proof(leaves[k:], index - k), root_of(leaves[:k])]


def consistency_proof(leaves: Sequence[bytes], old: int) -> list[bytes]:
    """PROOF(old, D[n]) of RFC 6962, section 2.1.2: empty where old is 0 or n.

    Raises:
        IndexError: the old tree is larger than this one.
    """
    if not 0 <= old <= len(leaves):
        raise IndexError(old)
    return _subproof(leaves, old, whole=True) if old else []


def _subproof(leaves: Sequence[bytes], old: int, *, whole: bool) -> list[bytes]:
    if old == len(leaves):
        return [] if whole else [root_of(leaves)]
    k = _split(len(leaves))
    if old <= k:
        return [*_subproof(leaves[:k], old, whole=whole), root_of(leaves[k:])]
    return [*_subproof(leaves[k:], old - k, whole=False), root_of(leaves[:k])]


def _split(n: int) -> int:
    """The largest power of two below n, for n > 1."""
    return 1 << (n - 1).bit_length() - 1
