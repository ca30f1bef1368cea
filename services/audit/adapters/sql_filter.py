"""A filter as SQL, for either engine. Names come from closed lists; every value is bound."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from services.audit.event import rfc3339
from services.audit.paths import parts
from services.audit.ports import Filter
from services.audit.schema import COLUMNS

Condition = tuple[str, Sequence[Any]]

PREFIX = 128
"""Characters of a long text that an index of PostgreSQL holds (migration 0002)."""


class Dialect(Protocol):
    """How an engine opens a record."""

    mark: str
    """Placeholder of a bound value."""

    prefixed: Collection[str]
    """Columns that are indexed by their first ``PREFIX`` characters only."""

    def field(self, keys: Sequence[str], values: Sequence[str]) -> Condition:
        """The field under these keys, as text and empty where it is absent, is one of the values."""
        ...

    def number(self, key: str, operator: str, bound: float) -> Condition:
        """A top-level number compares so with a bound."""
        ...

    def text(self, part: str) -> Condition:
        """A metadata key or value or ``error_message`` holds the part; ASCII letters in either case."""
        ...


class SqliteDialect:
    """JSON functions of SQLite; the record is a BLOB of JSON text."""

    mark = "?"
    prefixed: Collection[str] = ()
    _event = "CAST(event AS TEXT)"

    def field(self, keys: Sequence[str], values: Sequence[str]) -> Condition:
        path = "$" + "".join(f'."{key}"' for key in keys)
        choices = ", ".join("?" * len(values))
        # Walks a list's values, or the one value. SQLite reads true as 1; the record says true.
        sql = (
            f"EXISTS (SELECT 1 FROM json_each({self._event}, ?) f WHERE CASE f.type WHEN 'true' THEN 'true' "  # noqa: S608
            f"WHEN 'false' THEN 'false' ELSE CAST(f.value AS TEXT) END IN ({choices}))"
        )
        if "" in values:
            return f"({sql} OR json_type({self._event}, ?) IS NULL)", (path, *values, path)
        return sql, (path, *values)

    def number(self, key: str, operator: str, bound: float) -> Condition:
        return f"json_extract({self._event}, ?) {operator} ?", (f'$."{key}"', bound)

    def text(self, part: str) -> Condition:
        sql = (
            f"(instr(lower(json_extract({self._event}, '$.error_message')), lower(?)) OR EXISTS (SELECT 1 FROM "  # noqa: S608
            f"json_each({self._event}, '$.metadata') m "
            "WHERE instr(lower(m.value), lower(?)) OR instr(lower(m.key), lower(?))))"
        )
        return sql, (part, part, part)


def conditions(filter_: Filter, dialect: Dialect) -> tuple[list[str], list[Any]]:
    """The conditions, to be joined with AND, and their values.

    Raises:
        LookupError: no such column.
        InvalidArgument: no such field.
    """
    unknown = set(filter_.equal) - set(COLUMNS)
    if unknown:
        raise LookupError(f"no such column: {', '.join(sorted(unknown))}")
    mark, found = dialect.mark, list[Condition]()
    for column, value in filter_.equal.items():
        found.append((f'"{column}" = {mark}', (value,)))
        if column in dialect.prefixed:
            found.append((f'left("{column}", {PREFIX}) = {mark}', (value[:PREFIX],)))
    if filter_.equal.get("request_id"):
        found.append(("request_id <> ''", ()))
    for bound, operator in ((filter_.since, ">="), (filter_.until, "<")):
        if bound is not None:
            found.append((f"timestamp {operator} {mark}", (rfc3339(bound),)))
    for path, values in filter_.fields:
        keys = parts(path)
        if path in COLUMNS:
            found.append((f'"{path}" IN ({", ".join([mark] * len(values))})', tuple(values)))
        else:
            found.append(dialect.field(keys, values))
    for number, operator in ((filter_.min_duration_ms, ">="), (filter_.max_duration_ms, "<=")):
        if number is not None:
            found.append(dialect.number("duration_ms", operator, number))
    if filter_.text:
        found.append(dialect.text(filter_.text))
    return [sql for sql, _ in found], [value for _, values in found for value in values]


COUNTED: Mapping[str, str] = {name: f'"{name}"' for name in ("event_type", "result", "user", "action", "namespace")}
"""Columns that events can be counted by."""
