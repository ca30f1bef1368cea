"""Revisions of the store, and what ended at each (R12).

Every change of a credential takes the next revision in the transaction that makes it. The row of the newest
revision is locked until that transaction ends, so that revisions become visible in their order. What ended is
kept for longer than any principal token lives; who knows less is told to forget everything.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, select

from services.authn.adapters.schema import changes, head
from services.authn.model import Ends

KEPT = timedelta(minutes=10)
"""How long ends are kept, by the clock of who writes."""

MAX_ANSWER = 4096
"""Ends in one answer; more are answered with a reset."""


def advance(connection: Connection, now: datetime) -> int:
    """Takes the next revision; held until the transaction ends."""
    cutoff = now - KEPT
    forgotten = select(func.max(changes.c.revision)).where(changes.c.at < cutoff).scalar_subquery()
    revision: int = connection.execute(
        head.update()
        .values(revision=head.c.revision + 1, floor=func.coalesce(forgotten, head.c.floor))
        .returning(head.c.revision)
    ).scalar_one()
    connection.execute(changes.delete().where(changes.c.at < cutoff))
    return revision


def note(connection: Connection, revision: int, names: Iterable[str], now: datetime) -> None:
    """Writes what ends with a revision."""
    rows = [{"revision": revision, "name": name, "at": now} for name in sorted(set(names))]
    if rows:
        connection.execute(changes.insert(), rows)


def newest(connection: Connection) -> int:
    """The newest revision."""
    revision: int = connection.execute(select(head.c.revision)).scalar_one()
    return revision


def kept(connection: Connection) -> dict[str, int]:
    """Everything that ended as far back as is known, with its newest revision."""
    newest_of_each = select(changes.c.name, func.max(changes.c.revision).label("revision")).group_by(changes.c.name)
    return {each.name: each.revision for each in connection.execute(newest_of_each)}


def since(connection: Connection, known: int) -> Ends:
    """What ended after ``known``; 0 stands for somebody who knows nothing and remembers nothing."""
    row = connection.execute(select(head.c.revision, head.c.floor)).one()
    if known > row.revision or 0 < known < row.floor:
        # Another history than ours, such as that of a store since restored from a backup; or too old.
        return Ends(row.revision, reset=True)
    if known == row.revision:
        return Ends(row.revision)
    found = connection.execute(
        select(changes.c.name, changes.c.revision)
        .where(changes.c.revision > known)
        .order_by(changes.c.revision)
        .limit(MAX_ANSWER + 1)
    ).all()
    if len(found) > MAX_ANSWER:
        return Ends(row.revision, reset=True)
    return Ends(row.revision, tuple((each.name, each.revision) for each in found))
