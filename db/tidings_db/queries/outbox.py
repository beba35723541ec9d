"""The outbox: events that applications have published by SQL, in the order of the commits. None is in a log."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from sqlalchemy.engine import Connection

from tidings_db.connections import on_postgresql

_FIRST = """
SELECT id, room_id, event, data, client_id
FROM (
    SELECT *, sum(octet_length(data)) OVER (ORDER BY id) - octet_length(data) AS before
    FROM (SELECT * FROM outbox WHERE room_id <> ALL($1::bigint[]) ORDER BY id LIMIT $2) AS row
) AS row
WHERE before < $3
ORDER BY id"""
_TAKE = "DELETE FROM outbox WHERE id = ANY($1::bigint[]) RETURNING id"


class OutboxRow(NamedTuple):
    id: int
    room_key: int
    event: str
    data: str
    """JSON."""
    client_id: str | None


def first(conn: Connection, except_rooms: Collection[int], limit: int, max_bytes: int) -> list[OutboxRow]:
    """The first rows, without those of some rooms: up to `limit`, and none behind the first `max_bytes` of data."""
    return [OutboxRow(*row) for row in on_postgresql(conn, _FIRST, list(except_rooms), limit, max_bytes)]


def take(conn: Connection, rows: Sequence[OutboxRow]) -> list[OutboxRow]:
    """Delete rows; returns those that were still there. The others are in the log."""
    taken = {key for (key,) in on_postgresql(conn, _TAKE, [row.id for row in rows])}
    return [row for row in rows if row.id in taken]
