"""The cursors of devices, the read markers of users, and the receipts that show both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Select, and_, bindparam, delete, exists, func, select
from sqlalchemy.engine import Connection

from tidings_db.connections import change, fetch
from tidings_db.models import blocks, cursors, devices, members, read_markers, rooms, users
from tidings_db.queries.rows import ROOM_COLUMNS, RoomRow, chunked, insert_or, relation, values_of


class MemberRoom(NamedTuple):
    """A room of a device's user, with the cursor of the device."""

    room: RoomRow
    joined_seq: int
    cursor: int | None
    joined_removals: int
    """How many memberships of the room had ended when the user joined."""


def _room(row: Sequence[Any]) -> RoomRow:
    """From a row of `fetch`, whose booleans are 0 and 1 on SQLite."""
    key, room_id, kind, is_private, *rest = row
    return RoomRow(key, room_id, kind, bool(is_private), *rest)


class ArrivalState(NamedTuple):
    """The rooms and the cursors of a device."""

    member_rooms: list[MemberRoom]
    """Every room of the user, with the device's cursor."""
    former_rooms: list[tuple[int, str]]
    """Rooms (key, room_id) in which the device has a cursor, but its user is no longer a member."""


@cache
def _select_member_rooms(dialect: str) -> Select[Any]:
    request = relation(dialect, "requests", number=int, user_key=int, device_key=int)
    return (
        select(request.c.number, members.c.joined_seq, cursors.c.seq, members.c.joined_removals, *ROOM_COLUMNS)
        .join_from(request, members, members.c.user_id == request.c.user_key)
        .join(rooms, rooms.c.id == members.c.room_id)
        .outerjoin(cursors, and_(cursors.c.room_id == rooms.c.id, cursors.c.device_id == request.c.device_key))
        .order_by(request.c.number, rooms.c.id)
    )


@cache
def _select_former_rooms(dialect: str) -> Select[Any]:
    request = relation(dialect, "requests", number=int, user_key=int, device_key=int)
    return (
        select(request.c.number, rooms.c.id, rooms.c.room_id)
        .join_from(request, cursors, cursors.c.device_id == request.c.device_key)
        .join(rooms, rooms.c.id == cursors.c.room_id)
        .outerjoin(members, and_(members.c.room_id == cursors.c.room_id, members.c.user_id == request.c.user_key))
        .where(members.c.user_id.is_(None))
    )


def arrival_states(conn: Connection, pairs: Sequence[tuple[int, int]]) -> list[ArrivalState]:
    """The rooms and cursors of each (user, device)."""
    results = [ArrivalState([], []) for _ in pairs]
    values = {"requests": values_of((number, *pair) for number, pair in enumerate(pairs))}
    rows = fetch(conn, _select_member_rooms, values)
    for number, joined_seq, cursor, joined_removals, *room in rows:
        results[number].member_rooms.append(MemberRoom(_room(room), joined_seq, cursor, joined_removals))
    rows = fetch(conn, _select_former_rooms, values)
    for number, key, room_id in rows:
        results[number].former_rooms.append((key, room_id))
    return results


def forget_cursors(conn: Connection, device_key: int, room_keys: Sequence[int]) -> None:
    """Delete a device's cursors of rooms that its user has left."""
    for chunk in chunked(room_keys):
        conn.execute(delete(cursors).where(cursors.c.device_id == device_key, cursors.c.room_id.in_(chunk)))


def forget_cursors_of_user(conn: Connection, room_key: int, user_key: int) -> None:
    """Delete the cursors of all devices of a user in a room."""
    user_devices = select(devices.c.id).where(devices.c.user_id == user_key)
    conn.execute(delete(cursors).where(cursors.c.device_id.in_(user_devices), cursors.c.room_id == room_key))


def forwards_only(statement: Any) -> Any:
    """Extend a statement that inserts cursors so that it moves existing ones, but never back."""
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


@cache
def _save_cursors_of_members(dialect: str) -> Any:
    moved = relation(dialect, "moved", device_key=int, room_key=int, seq=int, removals=int)
    of_members = (
        select(moved.c.device_key, moved.c.room_key, moved.c.seq)
        .join_from(moved, devices, devices.c.id == moved.c.device_key)
        .join(members, and_(members.c.room_id == moved.c.room_key, members.c.user_id == devices.c.user_id))
        .where(members.c.joined_seq <= moved.c.seq, members.c.joined_removals <= moved.c.removals)
        .order_by(moved.c.device_key, moved.c.room_key)
    )
    return forwards_only(insert_or(dialect, cursors).from_select(["device_id", "room_id", "seq"], of_members))


def save_cursors(
    conn: Connection, moved: Mapping[tuple[int, int], int], removals: Mapping[tuple[int, int], int]
) -> None:
    """Move cursors, (device, room) -> seq, forward only.

    On PostgreSQL, cursors of an earlier membership are skipped: on another node, the user may have left the room or
    joined it again, and the room or the device may be gone.

    Args:
        removals: how many removals from the room are known to have come before the membership, or not to concern it.
    """
    if conn.dialect.name == "sqlite":  # one node: a membership that ends takes its cursors along
        change(
            conn,
            _save_cursors,
            [{"device": device, "room": room, "to": to} for (device, room), to in sorted(moved.items())],
        )
    else:
        rows = values_of((*key, seq, removals[key]) for key, seq in sorted(moved.items()))
        fetch(conn, _save_cursors_of_members, {"moved": rows})


def reset_cursors(conn: Connection, device_key: int, positions: Mapping[int, int]) -> None:
    """Set cursors, room -> seq, even backwards: for a log that was restored from a backup."""
    statement = insert_or(conn.dialect.name, cursors).values(
        device_id=device_key, room_id=bindparam("room"), seq=bindparam("to")
    )
    conn.execute(
        statement.on_conflict_do_update(
            index_elements=["device_id", "room_id"], set_={"seq": statement.excluded.seq}
        ),
        [{"room": room, "to": seq} for room, seq in sorted(positions.items())],
    )


class MarkerRow(NamedTuple):
    seq: int
    messages: int


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
    """Move read markers, (room, user) -> marker, forward only."""
    change(
        conn,
        _save_markers,
        [
            {"room": room, "user": user, "to": marker.seq, "count": marker.messages, "now": now}
            for (room, user), marker in sorted(moved.items())
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


@cache
def _select_marked_since(dialect: str) -> Select[Any]:
    request = relation(dialect, "requests", number=int, user_key=int, since=int)
    marker_of = and_(read_markers.c.room_id == members.c.room_id, read_markers.c.user_id == members.c.user_id)
    return (
        select(request.c.number, members.c.room_id, members.c.user_id)
        .join_from(request, members, members.c.user_id == request.c.user_key)
        .join(read_markers, marker_of)
        .where(read_markers.c.updated_at >= request.c.since)
    )


def receipts(conn: Connection, pairs: Iterable[tuple[int, int]]) -> list[ReceiptRow]:
    """The receipts of (room, user) pairs, without users who are not members."""
    rows = conn.execute(_select_receipts(conn.dialect.name), {"pairs": values_of(pairs)})
    return [ReceiptRow(*row) for row in rows]


_HIDDEN = exists().where(blocks.c.user_id == members.c.user_id, blocks.c.blocked_id == bindparam("user"))
_RECEIPTS_OF_OTHERS = (
    _SELECT_RECEIPTS.add_columns(members.c.joined_seq, _HIDDEN)
    .where(members.c.room_id == bindparam("room"), members.c.user_id != bindparam("user"))
    .order_by(users.c.username_key)
)


def receipts_of_others(conn: Connection, room_key: int, user_key: int) -> list[ReceiptRow]:
    """The receipts of the members of a room other than this user, sorted by username.

    Of a member who has blocked this user, they show the position at which the member joined.
    """
    receipts = []
    for *row, joined_seq, hidden in conn.execute(_RECEIPTS_OF_OTHERS, {"room": room_key, "user": user_key}):
        receipt = ReceiptRow(*row)
        receipts.append(receipt._replace(delivered_seq=joined_seq, read_seq=joined_seq) if hidden else receipt)
    return receipts


def receipts_since(conn: Connection, requests: Sequence[tuple[int, int]]) -> list[list[ReceiptRow]]:
    """For each (user, ms since the epoch): their own receipts in rooms whose read marker has moved since."""
    values = {"requests": values_of((number, *pair) for number, pair in enumerate(requests))}
    rows = fetch(conn, _select_marked_since, values)
    marked = [(number, (room_key, user_key)) for number, room_key, user_key in rows]
    pairs = {pair for _, pair in marked}
    by_pair = {(row.room_key, row.user_key): row for row in receipts(conn, pairs)} if pairs else {}
    results: list[list[ReceiptRow]] = [[] for _ in requests]
    for number, pair in marked:
        results[number].append(by_pair[pair])
    return results
