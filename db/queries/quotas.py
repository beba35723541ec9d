"""Queries for quotas: bounded counts of a user's objects, and the least recently used ones."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Select, bindparam, delete, func, select, update
from sqlalchemy.engine import Connection

from db.models import cursors, devices, invitation_links, members, rooms, sessions


def _count(conn: Connection, rows: Select[tuple[int]], most: int) -> int:
    return int(conn.execute(select(func.count()).select_from(rows.limit(most).subquery())).scalar_one())


def rooms_of(conn: Connection, user_key: int, most: int) -> int:
    """The number of rooms that a user is in, at most `most`."""
    return _count(conn, select(members.c.room_id).where(members.c.user_id == user_key), most)


def owned_by(conn: Connection, user_key: int, kind: str, most: int) -> int:
    """The number of rooms of a kind that a user owns, at most `most`."""
    owned = (
        select(members.c.room_id)
        .join_from(members, rooms, rooms.c.id == members.c.room_id)
        .where(members.c.user_id == user_key, members.c.role == "owner", rooms.c.kind == kind)
    )
    return _count(conn, owned, most)


def links_of(conn: Connection, room_key: int, user_key: int) -> int:
    """The number of stored invitation links of a user to a room."""
    of = (invitation_links.c.room_id == room_key, invitation_links.c.user_id == user_key)
    return int(conn.execute(select(func.count()).select_from(invitation_links).where(*of)).scalar_one())


_DROPPED_AT_ONCE = 2
_SEEN = func.coalesce(devices.c.seen_at, devices.c.created_at)


def make_room_for_device(conn: Connection, user_key: int, most: int, here: Collection[int]) -> None:
    """Delete the least recently seen devices of a user, with their cursors, so that fewer than `most` remain.

    Not those that are connected, of which `here` holds the keys; and no more than a few of them, in one transaction.
    Nor the newest of all devices: SQLite would give its key to the next one, and with it what is still to be written
    of its cursors.
    """
    newest = conn.execute(select(func.max(devices.c.id))).scalar()
    device_keys = list(
        conn.scalars(select(devices.c.id).where(devices.c.user_id == user_key).order_by(_SEEN, devices.c.id))
    )
    excess = min(_DROPPED_AT_ONCE, max(0, len(device_keys) - most + 1))
    drop = [key for key in device_keys if key not in here and key != newest][:excess]
    if drop:
        conn.execute(delete(cursors).where(cursors.c.device_id.in_(drop)))
        conn.execute(delete(devices).where(devices.c.id.in_(drop)))


_GOOD = (sessions.c.revoked_at.is_(None), sessions.c.expires_at > bindparam("now"))


def make_room_for_session(conn: Connection, user_key: int, most: int, now: int) -> list[int]:
    """Withdraw the oldest sessions of a user, so that fewer than `most` valid ones remain; returns their keys."""
    kept = (
        select(sessions.c.id)
        .where(sessions.c.user_id == user_key, *_GOOD)
        .order_by(sessions.c.id.desc())
        .offset(most - 1)
    )
    oldest = list(conn.scalars(kept, {"now": now}))
    if oldest:
        conn.execute(update(sessions).where(sessions.c.id.in_(oldest)).values(revoked_at=now))
    return oldest
