"""The store's tables, and the columns derived from a record. Shared by the store and the offline verifier.

``events.event`` holds the canonical JSON and is the only source; every other column can be computed from it
and exists for queries alone (R23).
"""

from collections.abc import Mapping
from typing import Any

APPLICATION_ID = 0x6B676175
"""``PRAGMA application_id``: "kgau"."""

VERSION = 3
"""``PRAGMA user_version``. 2: keys, epoch and nodes. 3: retention. ``adapters/migrate.py`` brings those along."""

COLUMNS = (
    "writer",
    "event_id",
    "event_type",
    "timestamp",
    "user",
    "action",
    "resource",
    "namespace",
    "result",
    "tenant",
    "request_id",
    "phase",
    "intent_id",
    "deadline",
)
"""Derived columns: the record's field of that name, or empty text."""

KEYS = """
CREATE TABLE keys (
  number INTEGER PRIMARY KEY,
  vkey TEXT NOT NULL,
  first INTEGER NOT NULL,
  handover TEXT NOT NULL
) STRICT;
"""

NODES = """
CREATE TABLE nodes (
  level INTEGER NOT NULL,
  position INTEGER NOT NULL,
  hash BLOB NOT NULL,
  PRIMARY KEY (level, position)
) STRICT, WITHOUT ROWID;
"""
"""Every eighth level of the tree, for proofs (``proofs``)."""

RETENTION = """
CREATE TABLE retired (segment INTEGER PRIMARY KEY, leaves BLOB NOT NULL) STRICT;
CREATE TABLE tombstones (number INTEGER PRIMARY KEY, size INTEGER NOT NULL, note TEXT NOT NULL) STRICT;
CREATE INDEX events_holds ON events (action) WHERE action IN ('audit.PlaceHold', 'audit.ReleaseHold');
"""
"""What is kept of deleted events (``retention``), and the way to the records of legal holds."""

BY_USER = "CREATE INDEX events_by_user ON events (user);"

TABLES = f"""
CREATE TABLE log (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  origin TEXT NOT NULL,
  epoch INTEGER NOT NULL
) STRICT;
{KEYS}
CREATE TABLE events (
  sequence INTEGER PRIMARY KEY,
  event BLOB NOT NULL,
  leaf BLOB NOT NULL,
  {", ".join(f"{name} TEXT NOT NULL" for name in COLUMNS)}
) STRICT;
CREATE UNIQUE INDEX events_by_key ON events (writer, event_id);
CREATE INDEX events_by_time ON events (timestamp);
{BY_USER}
CREATE INDEX events_by_request ON events (request_id) WHERE request_id != '';
CREATE INDEX events_intents ON events (deadline) WHERE phase = 'intent';
CREATE INDEX events_outcomes ON events (writer, intent_id) WHERE phase = 'outcome';
CREATE TABLE checkpoints (
  number INTEGER PRIMARY KEY,
  size INTEGER NOT NULL,
  root BLOB NOT NULL,
  note TEXT NOT NULL
) STRICT;
{NODES}
{RETENTION}
"""


_ABSENT = ("",) * len(COLUMNS)


def derive(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """The derived columns of a record, in the order of ``COLUMNS``."""
    return tuple(map(fields.get, COLUMNS, _ABSENT))
