"""Deletes old entries, and rooms without members."""

from __future__ import annotations

from sqlalchemy import and_, bindparam, delete, func, select, update
from sqlalchemy.engine import Connection

from tidings_db.models import (
    bans,
    cursors,
    devices,
    entries,
    epoch_heads,
    invitation_links,
    mutes,
    names,
    read_markers,
    rooms,
    thread_followers,
)
from tidings_db.queries import consumers, files, push, reports, search, threads, webhooks
from tidings_db.queries.rows import RoomRow

_NEWEST_ROOM = select(func.coalesce(func.max(rooms.c.id), 0))
_RANGE = and_(rooms.c.id > bindparam("after"), rooms.c.id <= bindparam("upto"))
_OUTLIVED = (
    select(rooms.c.id)
    .join_from(rooms, entries, and_(entries.c.room_id == rooms.c.id, entries.c.seq == rooms.c.first_seq))
    .where(_RANGE, rooms.c.kind == bindparam("kind"), entries.c.created_at < bindparam("before"))
    .order_by(rooms.c.id)
)
_ABANDONED = select(rooms.c.id).where(_RANGE, rooms.c.is_private, rooms.c.members == 0).order_by(rooms.c.id)


def newest_room(conn: Connection) -> int:
    """The key of the newest room; 0 without rooms."""
    return int(conn.execute(_NEWEST_ROOM).scalar_one())


def outlived(conn: Connection, kind: str, before: int, after: int, upto: int) -> list[int]:
    """The rooms of a kind, `after` < key <= `upto`, whose oldest entry is from before a time (ms)."""
    parameters = {"kind": kind, "before": before, "after": after, "upto": upto}
    return list(conn.scalars(_OUTLIVED, parameters))


def abandoned(conn: Connection, after: int, upto: int) -> list[int]:
    """The private rooms without members, `after` < key <= `upto`."""
    return list(conn.scalars(_ABANDONED, {"after": after, "upto": upto}))


_OLDEST = (
    select(entries.c.seq, entries.c.created_at, entries.c.messages)
    .where(entries.c.room_id == bindparam("room"), entries.c.seq >= bindparam("first"))
    .order_by(entries.c.seq)
    .limit(bindparam("limit"))
)


def trim(conn: Connection, room: RoomRow, before: int | None, limit: int) -> int:
    """Delete up to `limit` of a locked room's oldest entries, as far as they are from before a time (ms).

    Returns their number. Also moves the room's `first_seq`, and removes their words from the search index.
    """
    trimmed = 0
    last, messages = room.first_seq - 1, room.first_messages
    for seq, created_at, upto in conn.execute(_OLDEST, {"room": room.key, "first": room.first_seq, "limit": limit}):
        if before is not None and created_at >= before:
            break
        last, messages, trimmed = seq, upto, trimmed + 1
    if trimmed:
        conn.execute(delete(entries).where(entries.c.room_id == room.key, entries.c.seq <= last))
        search.remove(conn, room.key, last)
        reports.forget(conn, room.key, last)
        threads.forget(conn, room.key, last)
        files.release(conn, room.key, upto=last)
        conn.execute(update(rooms).where(rooms.c.id == room.key).values(first_seq=last + 1, first_messages=messages))
    return trimmed


def close(conn: Connection, room_key: int) -> None:
    """Delete the name and the links of a locked room without members, so that nobody can find it."""
    conn.execute(delete(invitation_links).where(invitation_links.c.room_id == room_key))
    files.release_picture(conn, room_key=room_key)
    name_key = conn.execute(select(rooms.c.name_key).where(rooms.c.id == room_key)).scalar()
    if name_key is not None:
        conn.execute(update(rooms).where(rooms.c.id == room_key).values(name_key=None))
        conn.execute(delete(names).where(names.c.key == name_key))


def drop(conn: Connection, room: RoomRow, unseen_since: int, limit: int) -> bool:
    """Delete a locked empty room, once no device has to be notified of it. Returns True if there is more to do.

    A device with a cursor in the room gets `room_removed` at its next connect, so the row stays until then. Devices
    that have not connected since `unseen_since` (ms) do not count: one call deletes up to `limit` of their cursors,
    or of the bans, mutes, read markers and followers of threads.
    """
    if room.first_seq <= room.last_seq:
        return False
    outdated = conn.scalars(
        select(cursors.c.device_id)
        .join_from(cursors, devices, devices.c.id == cursors.c.device_id)
        .where(cursors.c.room_id == room.key)
        .where(func.coalesce(devices.c.seen_at, devices.c.created_at) < unseen_since)
        .limit(limit)
    ).all()
    if outdated:
        conn.execute(delete(cursors).where(cursors.c.room_id == room.key, cursors.c.device_id.in_(outdated)))
        return True
    remaining = select(cursors.c.device_id).where(cursors.c.room_id == room.key).limit(1)
    # SQLite would reuse the greatest key for the next room, while something may still refer to this one by its key.
    if conn.execute(remaining).first() is not None or room.key >= newest_room(conn):
        return False
    for table in (bans, mutes, read_markers, thread_followers):
        user_keys = conn.scalars(select(table.c.user_id).where(table.c.room_id == room.key).limit(limit)).all()
        if user_keys:
            conn.execute(delete(table).where(table.c.room_id == room.key, table.c.user_id.in_(user_keys)))
            return True
    conn.execute(delete(epoch_heads).where(epoch_heads.c.room_id == room.key))
    consumers.forget(conn, room.key)
    push.forget_room(conn, room.key)
    webhooks.forget_room(conn, room.key)
    conn.execute(delete(rooms).where(rooms.c.id == room.key))
    return False
