"""The pending entries of a device: those between its cursors and the heads of its user's rooms."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import and_, bindparam, func, select
from sqlalchemy.engine import Connection

from tidings_db.models import cursors, members, rooms
from tidings_db.queries.progress import forwards_only
from tidings_db.queries.rows import insert_or


class PendingRow(NamedTuple):
    room_key: int
    room_id: str
    topic_name: str | None
    cursor: int
    first_seq: int
    last_seq: int


_CURSOR = func.coalesce(cursors.c.seq, members.c.joined_seq)
_BEHIND = (
    select(rooms.c.id, rooms.c.room_id, rooms.c.topic_name, _CURSOR, rooms.c.first_seq, rooms.c.last_seq)
    .join_from(members, rooms, rooms.c.id == members.c.room_id)
    .outerjoin(cursors, and_(cursors.c.room_id == rooms.c.id, cursors.c.device_id == bindparam("device")))
    .where(members.c.user_id == bindparam("user"), rooms.c.id > bindparam("after"), rooms.c.last_seq > _CURSOR)
    .where(rooms.c.last_seq >= rooms.c.first_seq)
    .order_by(rooms.c.id)
    .limit(bindparam("limit"))
)


def behind(conn: Connection, user_key: int, device_key: int, after: int, limit: int) -> list[PendingRow]:
    """A page of the rooms with entries after the device's stored cursor. `after`: the last key of the last page."""
    parameters = {"user": user_key, "device": device_key, "after": after, "limit": limit}
    return [PendingRow(*row) for row in conn.execute(_BEHIND, parameters)]


@cache
def _clear(dialect: str, single_room: bool) -> Any:
    heads = (
        select(bindparam("device"), rooms.c.id, rooms.c.last_seq)
        .join_from(members, rooms, rooms.c.id == members.c.room_id)
        .where(members.c.user_id == bindparam("user"))
    )
    if single_room:
        heads = heads.where(rooms.c.id == bindparam("room"))
    return forwards_only(insert_or(dialect, cursors).from_select(["device_id", "room_id", "seq"], heads))


def clear(conn: Connection, user_key: int, device_key: int, room_key: int | None) -> None:
    """Move a device's cursors forward to the heads of all rooms of its user, or of one."""
    parameters = {"user": user_key, "device": device_key}
    if room_key is not None:
        parameters["room"] = room_key
    conn.execute(_clear(conn.dialect.name, room_key is not None), parameters)
