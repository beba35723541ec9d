"""The cursors of consumers inside the server, which follow the logs of all rooms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Select, and_, bindparam, delete, func, insert, literal, select, update
from sqlalchemy.engine import Connection

from tidings_db.models import consumer_cursors, rooms
from tidings_db.queries.rows import insert_or

_SEQ = func.coalesce(consumer_cursors.c.seq, 0)


class Place(NamedTuple):
    """A consumer's cursor in a room, and the room's log."""

    room_key: int
    seq: int
    first_seq: int
    last_seq: int


@cache
def _select_places() -> Select[Any]:
    of_consumer = and_(consumer_cursors.c.room_id == rooms.c.id, consumer_cursors.c.consumer == bindparam("consumer"))
    return select(rooms.c.id, _SEQ, rooms.c.first_seq, rooms.c.last_seq).outerjoin_from(
        rooms, consumer_cursors, of_consumer
    )


@cache
def _select_behind() -> Select[Any]:
    after = rooms.c.id > bindparam("after")
    return _select_places().where(after, rooms.c.last_seq > _SEQ).order_by(rooms.c.id).limit(bindparam("limit"))


@cache
def _select_some() -> Select[Any]:
    return _select_places().where(rooms.c.id.in_(bindparam("keys", expanding=True)))


def behind(conn: Connection, consumer: str, after: int, limit: int) -> list[int]:
    """A page of the rooms with entries after the consumer's cursor. `after`: the last key of the previous page."""
    rows = conn.execute(_select_behind(), {"consumer": consumer, "after": after, "limit": limit})
    return [row[0] for row in rows]


def places(conn: Connection, consumer: str, room_keys: Iterable[int]) -> list[Place]:
    """The consumer's cursors in some rooms, without deleted rooms."""
    rows = conn.execute(_select_some(), {"consumer": consumer, "keys": list(room_keys)})
    return [Place(*row) for row in rows]


_OF_CONSUMER = and_(
    consumer_cursors.c.consumer == bindparam("by"), consumer_cursors.c.room_id.in_(bindparam("keys", expanding=True))
)
_CURSORS = (
    select(consumer_cursors.c.room_id, consumer_cursors.c.seq)
    .where(_OF_CONSUMER)
    .order_by(consumer_cursors.c.room_id)
    .with_for_update(skip_locked=True)
)
_MOVE = (
    update(consumer_cursors)
    .where(consumer_cursors.c.consumer == bindparam("by"), consumer_cursors.c.room_id == bindparam("room"))
    .values(seq=bindparam("to"))
)


_EXISTING = (
    select(rooms.c.id)
    .where(rooms.c.id.in_(bindparam("keys", expanding=True)))
    .order_by(rooms.c.id)
    .with_for_update(read=True, key_share=True)
)
"""Locked before the cursors, to avoid deadlocks with what deletes a room."""


def advance(conn: Connection, consumer: str, moves: Mapping[int, tuple[int, int]]) -> set[int]:
    """Move cursors, room -> (from, to). Returns the rooms in which the cursor had the expected value.

    In the other rooms it was moved meanwhile (retention, another node), or is being moved, and stays unchanged. The
    search index on PostgreSQL has its own statement: `index_step.write`.
    """
    existing = set(conn.scalars(_EXISTING, {"keys": sorted(moves)}))
    moves = {room_key: move for room_key, move in moves.items() if room_key in existing}
    fresh = [room_key for room_key, (low, _) in sorted(moves.items()) if low == 0]
    if fresh:
        conn.execute(
            insert_or(conn.dialect.name, consumer_cursors).on_conflict_do_nothing(),
            [{"consumer": consumer, "room_id": room_key, "seq": 0} for room_key in fresh],
        )
    current = conn.execute(_CURSORS, {"by": consumer, "keys": sorted(moves)}).all()
    moved = {room_key for room_key, seq in current if moves[room_key][0] == seq}
    if moved:
        conn.execute(
            _MOVE, [{"by": consumer, "room": room_key, "to": moves[room_key][1]} for room_key in sorted(moved)]
        )
    return moved


def begin(conn: Connection, consumer: str) -> None:
    """Set the consumer's cursors to the current heads of the rooms."""
    conn.execute(delete(consumer_cursors).where(consumer_cursors.c.consumer == consumer))
    heads = select(literal(consumer), rooms.c.id, rooms.c.last_seq).where(rooms.c.last_seq > 0)
    conn.execute(insert(consumer_cursors).from_select(["consumer", "room_id", "seq"], heads))


def skip(conn: Connection, consumer: str, room_key: int, seq: int) -> None:
    """Move a cursor to at least that seq, and lock it until the end of the transaction."""
    statement = insert_or(conn.dialect.name, consumer_cursors).values(consumer=consumer, room_id=room_key, seq=seq)
    current, new = consumer_cursors.c.seq, statement.excluded.seq
    furthest = func.max(current, new) if conn.dialect.name == "sqlite" else func.greatest(current, new)
    conn.execute(statement.on_conflict_do_update(index_elements=["room_id", "consumer"], set_={"seq": furthest}))


def forget(conn: Connection, room_key: int) -> None:
    """Delete every consumer's cursor of a room that is being removed."""
    conn.execute(delete(consumer_cursors).where(consumer_cursors.c.room_id == room_key))
