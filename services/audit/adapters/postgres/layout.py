"""Whether the tables are plain tables, each with its key: what a row policy, a rule, a trigger or a view of the same
name shows one reader and hides from another changes no leaf, and the walk over the events does not see it."""

from typing import Any

_KEYS = {
    "audit_logs": "PRIMARY KEY (log_id)",
    "audit_keys": "PRIMARY KEY (log_id, number)",
    "audit_events": "PRIMARY KEY (log_id, sequence, timestamp)",
    "audit_event_keys": "PRIMARY KEY (writer, event_id, log_id)",
    "audit_checkpoints": "PRIMARY KEY (log_id, number)",
    "audit_nodes": "PRIMARY KEY (log_id, level, position)",
    "audit_retired": "PRIMARY KEY (log_id, segment)",
    "audit_tombstones": "PRIMARY KEY (log_id, number)",
}

_RELATIONS = """
WITH RECURSIVE found AS (
  SELECT name, to_regclass(name)::oid AS oid FROM unnest(%s::text[]) AS t (name)
  UNION ALL SELECT f.name, i.inhrelid FROM found f JOIN pg_inherits i ON i.inhparent = f.oid)
SELECT f.name, c.relname, c.relkind::text, c.relrowsecurity, c.relhasrules,
  EXISTS (SELECT 1 FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal),
  (SELECT pg_get_constraintdef(k.oid) FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'p')
FROM found f LEFT JOIN pg_class c ON c.oid = f.oid ORDER BY f.name, c.relname
"""


def foreign(connection: Any) -> str | None:
    """What in the database is not as the migrations made it; nothing where all is. ``connection`` is one that the
    log's own names are resolved with."""
    for table, name, kind, policy, rules, triggers, key in connection.execute(_RELATIONS, (list(_KEYS),)).fetchall():
        if name is None:
            return f"the table {table} is missing"
        if kind not in ("r", "p"):
            return f"{name} is no table"
        for there, what in ((policy, "a row policy"), (rules, "a rule"), (triggers, "a trigger")):
            if there:
                return f"{what} stands on {name}, which audit does not make"
        if str(key).replace('"', "") != _KEYS[table]:
            return f"the key of {name} is not as it was made"
    return None
