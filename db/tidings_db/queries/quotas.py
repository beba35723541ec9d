"""Queries for quotas: bounded counts of a user's objects, and the least recently used ones."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Select, bindparam, delete, func, select, update
from sqlalchemy.engine import Connection

from tidings_db.models import cursors, devices, invitation_links, members, rooms, sessions
from tidings_db.queries import feed


def _count(conn: Connection, rows: Select[tuple[int]], limit: int) -> int:
    return int(conn.execute(select(func.count()).select_from(rows.limit(limit).subquery())).scalar_one())


def rooms_of(conn: Connection, user_key: int, limit: int) -> int:
    """The number of rooms that a user is in, counted up to `limit`."""
    return _count(conn, select(members.c.room_id).where(members.c.user_id == user_key), limit)


def owned_by(conn: Connection, user_key: int, kind: str, limit: int) -> int:
    """The number of rooms of a kind that a user owns, counted up to `limit`."""
    owned = (
        select(members.c.room_id)
        .join_from(members, rooms, rooms.c.id == members.c.room_id)
        .where(members.c.user_id == user_key, members.c.role == "owner", rooms.c.kind == kind)
    )
    return _count(conn, owned, limit)


def links_of(conn: Connection, room_key: int, user_key: int) -> int:
    """The number of stored invitation links of a user to a room."""
    count = (
        select(func.count())
        .select_from(invitation_links)
        .where(invitation_links.c.room_id == room_key, invitation_links.c.user_id == user_key)
    )
    return int(conn.execute(count).scalar_one())


_DROPPED_AT_ONCE = 2
_SEEN = func.coalesce(devices.c.seen_at, devices.c.created_at)


def make_room_for_device(conn: Connection, user_key: int, limit: int, connected: Collection[int]) -> None:
    """Delete the least recently seen devices of a user, with their cursors, so that fewer than `limit` remain.

    At limit `_DROPPED_AT_ONCE` are deleted in one call. Connected devices stay (`connected` has their keys), as does
    the newest of all devices: SQLite would reuse its key, for which cursors may still be written.
    """
    newest = conn.execute(select(func.max(devices.c.id))).scalar()
    device_keys = list(
        conn.scalars(select(devices.c.id).where(devices.c.user_id == user_key).order_by(_SEEN, devices.c.id))
    )
    excess = min(_DROPPED_AT_ONCE, max(0, len(device_keys) - limit + 1))
    drop = [key for key in device_keys if key not in connected and key != newest][:excess]
    if drop:
        conn.execute(delete(cursors).where(cursors.c.device_id.in_(drop)))
        conn.execute(delete(devices).where(devices.c.id.in_(drop)))


_VALID = (sessions.c.revoked_at.is_(None), sessions.c.expires_at > bindparam("now"))


def make_room_for_session(conn: Connection, user_key: int, limit: int, now: int) -> list[int]:
    """Withdraw the oldest sessions of a user, so that fewer than `limit` valid ones remain; returns their keys."""
    excess = (
        select(sessions.c.id)
        .where(sessions.c.user_id == user_key, *_VALID)
        .order_by(sessions.c.id.desc())
        .offset(limit - 1)
    )
    oldest = list(conn.scalars(excess, {"now": now}))
    if oldest:
        conn.execute(update(sessions).where(sessions.c.id.in_(oldest)).values(revoked_at=now))
        feed.add(conn, sessions=[(user_key, session_key) for session_key in oldest])
    return oldest
