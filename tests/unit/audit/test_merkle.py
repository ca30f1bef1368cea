"""RFC 6962 trees: published vectors, and properties between the incremental tree, the definition and proofs."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.audit import merkle
from services.audit.merkle import BadProof, Tree, leaf_hash
from tests.fakes.merkle_definition import consistency_proof, inclusion_proof, root_of

# The inputs and roots of certificate-transparency's merkle tree tests (sizes 0 to 8).
INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
LEAVES = [leaf_hash(bytes.fromhex(text)) for text in INPUTS]
leaves = st.lists(st.binary(max_size=4).map(leaf_hash), max_size=40)


@pytest.mark.req("R23")
@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_of_certificate_transparency(size: int) -> None:
    assert Tree.of(LEAVES[:size]).root().hex() == ROOTS[size]
    assert root_of(LEAVES[:size]).hex() == ROOTS[size]


@pytest.mark.req("R23")
def test_proofs_are_those_of_certificate_transparency() -> None:
    proof = [node.hex() for node in inclusion_proof(LEAVES, 5)]
    assert proof == [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]
    proof = [node.hex() for node in consistency_proof(LEAVES, 6)]
    assert proof == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


def test_a_node_never_passes_for_a_leaf() -> None:
    left, right = LEAVES[:2]
    assert leaf_hash(left + right) != merkle.node_hash(left, right)


@given(leaves)
def test_the_growing_tree_has_the_root_of_the_definition(hashes: list[bytes]) -> None:
    assert Tree.of(hashes).root() == root_of(hashes)


@given(leaves.filter(len), st.data())
def test_inclusion_is_proven_for_each_leaf_and_for_no_other(hashes: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(hashes) - 1))
    proof, root = inclusion_proof(hashes, index), root_of(hashes)
    merkle.check_inclusion(hashes[index], index, len(hashes), proof, root)
    wrong = [(b"x" * 32, index, proof), (hashes[index], len(hashes), proof), (hashes[index], index, [*proof, root])]
    if proof:
        wrong += [(hashes[index], index, proof[:-1]), (hashes[index], index, [b"y" * 32, *proof[1:]])]
    for leaf, position, path in wrong:
        with pytest.raises(BadProof):
            merkle.check_inclusion(leaf, position, len(hashes), path, root)


@given(leaves, st.data())
def test_consistency_is_proven_for_each_prefix_and_for_nothing_else(hashes: list[bytes], data: st.DataObject) -> None:
    old = data.draw(st.integers(0, len(hashes)))
    old_root, root = root_of(hashes[:old]), root_of(hashes)
    proof = consistency_proof(hashes, old)
    merkle.check_consistency(old, old_root, len(hashes), root, proof)
    with pytest.raises(BadProof):
        merkle.check_consistency(old, b"x" * 32, len(hashes), root, proof)
    with pytest.raises(BadProof):
        merkle.check_consistency(old, old_root, len(hashes), root, [*proof, root])
    with pytest.raises(BadProof):
        merkle.check_consistency(len(hashes) + 1, root, len(hashes), root, proof)
    if proof:
        with pytest.raises(BadProof):
            merkle.check_consistency(old, old_root, len(hashes), b"x" * 32, proof)
        with pytest.raises(BadProof):
            merkle.check_consistency(old, old_root, len(hashes), root, proof[:-1])


def test_proofs_outside_the_tree_are_refused() -> None:
    with pytest.raises(IndexError):
        inclusion_proof(LEAVES, 8)
    with pytest.raises(IndexError):
        consistency_proof(LEAVES, 9)


def test_a_tree_keeps_one_peak_for_each_bit_of_its_size() -> None:
    trees = [Tree.of(LEAVES[:n]) for n in range(9)]
    assert [len(tree.peaks) for tree in trees] == [n.bit_count() for n in range(9)]
    assert all(later.size == earlier.size + 1 for earlier, later in pairwise(trees))
