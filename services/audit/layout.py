"""What a SQLite store consists of: its own tables and indexes, each as it was made, and nothing else.

A trigger can drop what is stored, a view in place of a table can show one reader other rows than another, and without
its unique index a writer could record two events under one id. None of them changes a leaf, so the walk over the events
does not see them.
"""

import re
from collections.abc import Iterator
from typing import Any

from services.audit.schema import TABLES

_MADE = re.compile(r"\s*CREATE (?:UNIQUE )?(TABLE|INDEX) (\w+)")
_OF_SQLITE = re.compile(r"sqlite_(stat[134]|autoindex_\w+)")
"""Statistics of ANALYZE, and indexes that come with a table."""


def foreign(connection: Any) -> str | None:
    """What in the file is not as it was made; nothing where all is."""
    expected = dict(_expected())
    for kind, name, sql in connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall():
        if _OF_SQLITE.fullmatch(str(name)):
            continue
        if (kind, name) not in expected:
            return f"the {kind} {str(name)[:64]!r} is not audit's"
        if _plain(sql) != expected.pop((kind, name)):
            return f"the {kind} {name} is not as it was made"
    for kind, name in expected:
        return f"the {kind} {name} is missing"
    return None


def _expected() -> Iterator[tuple[tuple[str, str], str]]:
    for statement in TABLES.split(";"):
        if match := _MADE.match(statement):
            yield (match[1].lower(), match[2]), _plain(statement)


def _plain(sql: object) -> str:
    """A statement without its white space, which differs between the versions that made a store."""
    return "".join(str(sql).split())
