"""How far devices and users have come: the cursors of devices, read markers, and the receipts that tell of both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Select, and_, bindparam, delete, func, select
from sqlalchemy.engine import Connection

from db.models import cursors, devices, members, read_markers, rooms, users
from db.queries.rows import ROOM_COLUMNS, RoomRow, change, chunked, insert_or, relation, stepwise, values_of


class MemberRoom(NamedTuple):
    """A room of a device's user, with where that device is in it."""

    room: RoomRow
    joined_seq: int
    cursor: int | None


def _room(row: Sequence[Any]) -> RoomRow:
    """From a result that is read `stepwise`."""
    key, room_id, kind, is_private, *rest = row
    return RoomRow(key, room_id, kind, bool(is_private), *rest)


class Standpoint(NamedTuple):
    """What a device is in, and what it has a cursor of."""

    mine: list[MemberRoom]
    """Every room of the user, with the device's cursor."""
    gone: list[tuple[int, str]]
    """Rooms (key, room_id) that the device has a cursor of, though its user is not in them any more."""


@cache
def _select_mine(dialect: str) -> Select[Any]:
    asked = relation(dialect, "asked", at=int, user_key=int, device_key=int)
    return (
        select(asked.c.at, members.c.joined_seq, cursors.c.seq, *ROOM_COLUMNS)
        .join_from(asked, members, members.c.user_id == asked.c.user_key)
        .join(rooms, rooms.c.id == members.c.room_id)
        .outerjoin(cursors, and_(cursors.c.room_id == rooms.c.id, cursors.c.device_id == asked.c.device_key))
        .order_by(asked.c.at, rooms.c.id)
    )


@cache
def _select_gone(dialect: str) -> Select[Any]:
    asked = relation(dialect, "asked", at=int, user_key=int, device_key=int)
    return (
        select(asked.c.at, rooms.c.id, rooms.c.room_id)
        .join_from(asked, cursors, cursors.c.device_id == asked.c.device_key)
        .join(rooms, rooms.c.id == cursors.c.room_id)
        .outerjoin(members, and_(members.c.room_id == cursors.c.room_id, members.c.user_id == asked.c.user_key))
        .where(members.c.user_id.is_(None))
    )


def standpoints(conn: Connection, asked: Sequence[tuple[int, int]]) -> list[Standpoint]:
    """For each (user, device), where it is."""
    found = [Standpoint([], []) for _ in asked]
    values = {"asked": values_of((at, *one) for at, one in enumerate(asked))}
    with stepwise(conn, _select_mine, values) as rows:
        for at, joined_seq, cursor, *room in rows:
            found[at].mine.append(MemberRoom(_room(room), joined_seq, cursor))
    with stepwise(conn, _select_gone, values) as rows:
        for at, key, room_id in rows:
            found[at].gone.append((key, room_id))
    return found


def forget_cursors(conn: Connection, device_key: int, room_keys: Sequence[int]) -> None:
    """Drop a device's cursors of rooms that its user has left."""
    for chunk in chunked(room_keys):
        conn.execute(delete(cursors).where(cursors.c.device_id == device_key, cursors.c.room_id.in_(chunk)))


def forget_cursors_of_user(conn: Connection, room_key: int, user_key: int) -> None:
    """Drop the cursors of all of a user's devices in a room."""
    theirs = select(devices.c.id).where(devices.c.user_id == user_key)
    conn.execute(delete(cursors).where(cursors.c.device_id.in_(theirs), cursors.c.room_id == room_key))


def forwards_only(statement: Any) -> Any:
    """Have a statement that inserts cursors move those that there are, but never back."""
    return statement.on_conflict_do_update(
        index_elements=["device_id", "room_id"],
        set_={"seq": statement.excluded.seq},
        where=statement.excluded.seq > cursors.c.seq,
    )


@cache
def _save_cursors(dialect: str) -> Any:
    return forwards_only(
        insert_or(dialect, cursors).values(
            device_id=bindparam("device"), room_id=bindparam("room"), seq=bindparam("to")
        )
    )


def save_cursors(conn: Connection, moved: Mapping[tuple[int, int], int]) -> None:
    """Move cursors, (device, room) -> seq, forwards only."""
    change(
        conn,
        _save_cursors,
        [{"device": device, "room": room, "to": to} for (device, room), to in sorted(moved.items())],
    )


def reset_cursors(conn: Connection, device_key: int, to: Mapping[int, int]) -> None:
    """Set cursors, room -> seq, also backwards: the log they pointed into is not the one there is."""
    statement = insert_or(conn.dialect.name, cursors).values(
        device_id=device_key, room_id=bindparam("room"), seq=bindparam("to")
    )
    conn.execute(
        statement.on_conflict_do_update(
            index_elements=["device_id", "room_id"], set_={"seq": statement.excluded.seq}
        ),
        [{"room": room, "to": seq} for room, seq in sorted(to.items())],
    )


class MarkerRow(NamedTuple):
    seq: int
    messages: int


_MARKER = select(read_markers.c.seq, read_markers.c.messages).where(
    read_markers.c.room_id == bindparam("room"), read_markers.c.user_id == bindparam("user")
)


def marker(conn: Connection, room_key: int, user_key: int) -> MarkerRow:
    row = conn.execute(_MARKER, {"room": room_key, "user": user_key}).first()
    return MarkerRow(0, 0) if row is None else MarkerRow(*row)


@cache
def _save_markers(dialect: str) -> Any:
    statement = insert_or(dialect, read_markers).values(
        room_id=bindparam("room"),
        user_id=bindparam("user"),
        seq=bindparam("to"),
        messages=bindparam("count"),
        updated_at=bindparam("now"),
    )
    new = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=["room_id", "user_id"],
        set_={"seq": new.seq, "messages": new.messages, "updated_at": new.updated_at},
        where=new.seq > read_markers.c.seq,
    )


def save_markers(conn: Connection, moved: Mapping[tuple[int, int], MarkerRow], now: int) -> None:
    """Move read markers, (room, user) -> marker, forwards only."""
    change(
        conn,
        _save_markers,
        [
            {"room": room, "user": user, "to": moved_to.seq, "count": moved_to.messages, "now": now}
            for (room, user), moved_to in sorted(moved.items())
        ],
    )


class ReceiptRow(NamedTuple):
    room_key: int
    room_id: str
    members: int
    user_key: int
    username: str
    delivered_seq: int
    read_seq: int


_FURTHEST = (
    select(func.max(cursors.c.seq))
    .join_from(devices, cursors, cursors.c.device_id == devices.c.id)
    .where(devices.c.user_id == members.c.user_id, cursors.c.room_id == members.c.room_id)
    .correlate(members)
    .scalar_subquery()
)


_SELECT_RECEIPTS = (
    select(
        rooms.c.id,
        rooms.c.room_id,
        rooms.c.members,
        users.c.id,
        users.c.username,
        func.coalesce(_FURTHEST, members.c.joined_seq),
        func.coalesce(read_markers.c.seq, 0),
    )
    .select_from(members)
    .join(rooms, rooms.c.id == members.c.room_id)
    .join(users, users.c.id == members.c.user_id)
    .outerjoin(
        read_markers,
        and_(read_markers.c.room_id == members.c.room_id, read_markers.c.user_id == members.c.user_id),
    )
)


@cache
def _select_receipts(dialect: str) -> Select[Any]:
    pair = relation(dialect, "pairs", room_key=int, user_key=int)
    within = and_(members.c.room_id == pair.c.room_key, members.c.user_id == pair.c.user_key)
    return _SELECT_RECEIPTS.join(pair, within)


_RECEIPTS_SINCE = _SELECT_RECEIPTS.where(
    members.c.user_id == bindparam("user"), read_markers.c.updated_at >= bindparam("since")
)


def receipts(conn: Connection, pairs: Iterable[tuple[int, int]]) -> list[ReceiptRow]:
    """How far users, as (room, user), have received and read; nothing for who is not a member."""
    rows = conn.execute(_select_receipts(conn.dialect.name), {"pairs": values_of(pairs)})
    return [ReceiptRow(*row) for row in rows]


_RECEIPTS_OF_OTHERS = _SELECT_RECEIPTS.where(
    members.c.room_id == bindparam("room"), members.c.user_id != bindparam("user")
).order_by(users.c.username)


def receipts_of_others(conn: Connection, room_key: int, user_key: int) -> list[ReceiptRow]:
    """How far the members of a room other than this user have received and read, by username."""
    return [ReceiptRow(*row) for row in conn.execute(_RECEIPTS_OF_OTHERS, {"room": room_key, "user": user_key})]


def receipts_since(conn: Connection, user_key: int, since: int) -> list[ReceiptRow]:
    """The user's own receipts in the rooms whose read marker moved at or after a time (ms)."""
    return [ReceiptRow(*row) for row in conn.execute(_RECEIPTS_SINCE, {"user": user_key, "since": since})]
