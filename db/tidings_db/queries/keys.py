"""Keys of backends, which are sessions with scopes; and what was done with them."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import func, insert, select
from sqlalchemy.engine import Connection

from tidings_db.models import audit, rooms, sessions, users

ID: slice = slice(4, 14)
"""The part of a key's `sid` that names it."""


class KeyRow(NamedTuple):
    session_key: int
    key_id: str
    name: str
    scopes: str
    room_id: str | None
    created_at: int
    used_at: int | None
    revoked_at: int | None


class AuditRow(NamedTuple):
    id: int
    at: int
    key_name: str
    username: str | None
    action: str
    request: str


def add(
    conn: Connection, sid: str, user_key: int, now: int, expires_at: int, scopes: str, only_room: int | None
) -> None:
    times = {"created_at": now, "expires_at": expires_at}
    conn.execute(insert(sessions).values(sid=sid, user_id=user_key, scopes=scopes, only_room=only_room, **times))


def listed(conn: Connection) -> list[KeyRow]:
    """All keys, in the order of their creation; those that were revoked long ago are missing."""
    statement = (
        select(
            sessions.c.id,
            func.substr(sessions.c.sid, ID.start + 1, ID.stop - ID.start),
            users.c.username,
            sessions.c.scopes,
            rooms.c.room_id,
            sessions.c.created_at,
            sessions.c.used_at,
            sessions.c.revoked_at,
        )
        .join_from(sessions, users, users.c.id == sessions.c.user_id)
        .outerjoin(rooms, rooms.c.id == sessions.c.only_room)
        .where(sessions.c.scopes.is_not(None))
        .order_by(sessions.c.id)
    )
    return [KeyRow(*row) for row in conn.execute(statement)]


def add_audit(conn: Connection, at: int, key_name: str, username: str | None, action: str, request: str) -> None:
    row = {"at": at, "key_name": key_name, "username": username, "action": action, "request": request}
    conn.execute(insert(audit).values(**row))


def audited(conn: Connection, before: int | None, limit: int) -> list[AuditRow]:
    """A page of the audit log, the newest first. `before`: the last id of the previous page."""
    statement = select(audit).order_by(audit.c.id.desc()).limit(limit)
    if before is not None:
        statement = statement.where(audit.c.id < before)
    return [AuditRow(*row) for row in conn.execute(statement)]
