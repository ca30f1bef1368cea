"""The store's tables, and the columns derived from a record. Shared by the store and the offline verifier.

``events.event`` holds the canonical JSON and is the only source; every other column can be computed from it
and exists for queries alone (R23).
"""

from collections.abc import Mapping
from typing import Any

APPLICATION_ID = 0x6B676175
"""``PRAGMA application_id``: "kgau"."""

VERSION = 1
"""``PRAGMA user_version``."""

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

TABLES = f"""
CREATE TABLE log (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  origin TEXT NOT NULL,
  vkey TEXT NOT NULL
) STRICT;
CREATE TABLE events (
  sequence INTEGER PRIMARY KEY,
  event BLOB NOT NULL,
  leaf BLOB NOT NULL,
  {", ".join(f"{name} TEXT NOT NULL" for name in COLUMNS)}
) STRICT;
CREATE UNIQUE INDEX events_by_key ON events (writer, event_id);
CREATE INDEX events_by_time ON events (timestamp);
CREATE INDEX events_by_request ON events (request_id) WHERE request_id != '';
CREATE INDEX events_intents ON events (deadline) WHERE phase = 'intent';
CREATE INDEX events_outcomes ON events (writer, intent_id) WHERE phase = 'outcome';
CREATE TABLE checkpoints (
  number INTEGER PRIMARY KEY,
  size INTEGER NOT NULL,
  root BLOB NOT NULL,
  note TEXT NOT NULL
) STRICT;
"""


def derive(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """The derived columns of a record, in the order of ``COLUMNS``."""
    return tuple(str(fields.get(name, "")) for name in COLUMNS)
