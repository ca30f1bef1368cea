"""The policies that were in force, in authz's SQLite file: the newest ``KEPT``, each with its bytes.

A row is written in the transaction that gives the policy its number, so there is none that was not in force.
"""

import sqlite3
import time
import zlib

from services.authz.ports import Adopted

KEPT = 32
"""Policies that are kept; the oldest makes room."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS policies (
  number INTEGER PRIMARY KEY,
  revision TEXT NOT NULL,
  content BLOB NOT NULL,
  at REAL NOT NULL,
  by TEXT NOT NULL,
  how TEXT NOT NULL
) STRICT;
"""
_COLUMNS = "number, revision, at, by, how"


def keep(connection: sqlite3.Connection, number: int, adopted: Adopted, content: bytes) -> None:
    """Notes what is in force from a revision of the store on, unless it is what was."""
    newest = connection.execute("SELECT revision FROM policies ORDER BY number DESC LIMIT 1").fetchone()
    if newest is not None and newest[0] == adopted.revision:
        return
    row = number, adopted.revision, zlib.compress(content), time.time(), adopted.by, adopted.how
    connection.execute("INSERT INTO policies (number, revision, content, at, by, how) VALUES (?, ?, ?, ?, ?, ?)", row)
    connection.execute(
        "DELETE FROM policies WHERE number NOT IN (SELECT number FROM policies ORDER BY number DESC LIMIT ?)", (KEPT,)
    )


def every(connection: sqlite3.Connection) -> list[Adopted]:
    """What is kept, newest first."""
    sql = f"SELECT {_COLUMNS} FROM policies ORDER BY number DESC"  # noqa: S608 - no values in it
    return [Adopted(revision, by, how, number, at) for number, revision, at, by, how in connection.execute(sql)]


def content_of(connection: sqlite3.Connection, number: int) -> bytes | None:
    """The bytes of a kept policy."""
    row = connection.execute("SELECT content FROM policies WHERE number = ?", (number,)).fetchone()
    try:
        return zlib.decompress(row[0]) if row is not None else None
    except zlib.error as error:
        raise sqlite3.DatabaseError("a kept policy is damaged") from error
