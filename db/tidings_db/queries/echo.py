"""The echo log of a user."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import insert, select
from sqlalchemy.engine import Connection

from tidings_db.models import echo_entries
from tidings_db.queries.rows import ENTRY_BYTES, first_of


class EchoRow(NamedTuple):
    entry_id: str
    direction: str
    content: str
    created_at: int


_COLUMNS = (
    echo_entries.c.entry_id,
    echo_entries.c.direction,
    echo_entries.c.content,
    echo_entries.c.created_at,
)
_INSERT = insert(echo_entries)


def add(conn: Connection, user_key: int, new: Sequence[EchoRow]) -> None:
    conn.execute(_INSERT, [{"user_id": user_key, **row._asdict()} for row in new])


def key(conn: Connection, user_key: int, entry_id: str) -> int | None:
    """The key of an entry of the user's own log."""
    row_key = conn.execute(
        select(echo_entries.c.id).where(echo_entries.c.entry_id == entry_id, echo_entries.c.user_id == user_key)
    ).scalar()
    return None if row_key is None else int(row_key)


def page(
    conn: Connection, user_key: int, before: int | None, limit: int, max_bytes: int
) -> tuple[list[EchoRow], bool]:
    """The newest `limit` entries (before a key), in order, of up to `max_bytes`; and whether there are older ones."""
    statement = select(*_COLUMNS).where(echo_entries.c.user_id == user_key)
    if before is not None:
        statement = statement.where(echo_entries.c.id < before)
    rows = conn.execute(statement.order_by(echo_entries.c.id.desc()).limit(limit + 1))
    page_rows, more = first_of((EchoRow(*row) for row in rows), limit, max_bytes, _bytes)
    return page_rows[::-1], more


def _bytes(row: EchoRow) -> int:
    return ENTRY_BYTES + (len(row.content) if row.content.isascii() else 4 * len(row.content))


def after(conn: Connection, user_key: int, key: int, limit: int) -> list[tuple[int, EchoRow]]:
    """The oldest `limit` entries after a key, in order, each with its key."""
    rows = conn.execute(
        select(echo_entries.c.id, *_COLUMNS)
        .where(echo_entries.c.user_id == user_key, echo_entries.c.id > key)
        .order_by(echo_entries.c.id)
        .limit(limit)
    )
    return [(row[0], EchoRow(*row[1:])) for row in rows]
