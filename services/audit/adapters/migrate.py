"""Brings the SQLite store of an earlier version along: what is new is computed from what is there."""

from collections.abc import Callable, Mapping
from typing import Any

from services.audit.merkle import Tree
from services.audit.schema import BY_USER, KEYS, NODES, RETENTION


def _to_2(connection: Any) -> None:
    """Keys with rotation, an ownership epoch, and nodes of the tree for proofs."""
    (origin, vkey) = connection.execute("SELECT origin, vkey FROM log WHERE id = 1").fetchone()
    connection.execute("DROP TABLE log")
    for statement in (
        "CREATE TABLE log (id INTEGER PRIMARY KEY CHECK (id = 1), origin TEXT NOT NULL, epoch INTEGER NOT NULL) STRICT",
        KEYS,
        NODES,
        BY_USER,
    ):
        connection.execute(statement)
    connection.execute("INSERT INTO log VALUES (1, ?, 0)", (origin,))
    connection.execute("INSERT INTO keys VALUES (0, ?, 0, '')", (vkey,))
    leaves = (leaf for (leaf,) in connection.execute("SELECT leaf FROM events ORDER BY sequence").fetchall())
    connection.executemany("INSERT INTO nodes VALUES (?, ?, ?)", Tree().extend(leaves)[1])


def _to_3(connection: Any) -> None:
    """Retention and legal holds."""
    for statement in filter(str.strip, RETENTION.split(";")):
        connection.execute(statement)


STEPS: Mapping[int, Callable[[Any], None]] = {1: _to_2, 2: _to_3}
"""Version -> what leads to the next one. Runs within the transaction that also raises ``user_version``."""
