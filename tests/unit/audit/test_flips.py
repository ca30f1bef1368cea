"""Whatever byte of the store, of its tree, of a signed root or of an index is flipped: verify finds it."""

import random
import sqlite3
from pathlib import Path

import pytest

from services.audit.verify import Altered, Unreadable, verify_store
from tests.unit.audit.support import fill, signer

FLIPS = 400


def contents(path: Path) -> object:
    """Everything that the file says, in tables and through every index, or why it says nothing."""
    try:
        with sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True) as connection:
            connection.text_factory = bytes
            tables = connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
            names = [name.decode() for name, sql in tables if sql and sql.startswith(b"CREATE TABLE")]
            rows = [connection.execute(f"SELECT * FROM {name}").fetchall() for name in names]
            checks = connection.execute("PRAGMA integrity_check").fetchall()
            meta = [connection.execute(f"PRAGMA {name}").fetchall() for name in ("application_id", "user_version")]
        connection.close()
    except sqlite3.DatabaseError as error:
        return str(error)
    return tables, rows, checks, meta


@pytest.mark.req("I4.8", "R23")
@pytest.mark.parametrize("seed", range(3))
def test_a_flipped_byte_is_found_or_says_nothing(tmp_path: Path, seed: int) -> None:
    fill(tmp_path, [200, 100, 1])
    path = tmp_path / "audit.db"
    whole, before, mirror = path.read_bytes(), contents(path), tmp_path / "audit.log"
    chance = random.Random(seed)
    missed, found = [], 0
    for _ in range(FLIPS // 3):
        at, bit = chance.randrange(len(whole)), 1 << chance.randrange(8)
        path.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
        try:
            verify_store(path, signer().verifier, mirror)
        except (Altered, Unreadable):
            found += 1
        else:
            # Nothing that the file says has changed: it hit a byte that means nothing, such as unused space.
            if contents(path) != before:
                missed.append((at, bit))
    assert not missed
    assert found > FLIPS // 3 // 2


@pytest.mark.req("I4.8")
def test_an_index_that_disagrees_with_its_table_is_found(tmp_path: Path) -> None:
    fill(tmp_path, [40])
    path = tmp_path / "audit.db"
    with sqlite3.connect(path) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'events_by_user'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    data = bytearray(path.read_bytes())
    at = data.index(b"user-7", (page - 1) * size)
    data[at : at + 6] = b"user-8"
    path.write_bytes(data)
    with pytest.raises(Altered, match="structure"):
        verify_store(path, signer().verifier)


@pytest.mark.req("I4.8")
def test_a_flipped_byte_of_the_published_tree_head_is_found(tmp_path: Path) -> None:
    fill(tmp_path, [3])
    note = signer().sign(3, b"\x01" * 32)
    with pytest.raises(Altered, match="another signed root over 3 events"):
        verify_store(tmp_path / "audit.db", signer().verifier, None, {"the checkpoint": note})
    with pytest.raises(Altered, match="not a signed root of this log"):
        verify_store(tmp_path / "audit.db", signer().verifier, None, {"the checkpoint": note.replace("\n3\n", "\n4\n")})
