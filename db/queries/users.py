"""Users, sessions and devices."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Select, and_, bindparam, case, delete, exists, func, insert, select, update
from sqlalchemy.engine import Connection

from db.models import blocks, cursors, devices, members, names, rooms, sessions, users
from db.queries.rows import (
    USER_COLUMNS,
    UserRow,
    chunked,
    direct_key,
    insert_or,
    relation,
    stepwise,
    values_of,
)


class SessionRow(NamedTuple):
    """A session with its user."""

    key: int
    sid: str
    expires_at: int
    revoked_at: int | None
    user_key: int
    username: str
    disabled: bool
    admin: bool


def by_username(conn: Connection, username: str) -> UserRow | None:
    row = conn.execute(select(*USER_COLUMNS).where(users.c.username == username)).first()
    return None if row is None else UserRow(*row)


def lock(conn: Connection, username: str) -> UserRow | None:
    """A user as they are now; nobody else changes them before this transaction ends."""
    row = conn.execute(select(*USER_COLUMNS).where(users.c.username == username).with_for_update(read=True)).first()
    return None if row is None else UserRow(*row)


def claim_name(conn: Connection, key: str, kind: str) -> bool:
    """Take a name for a user or a topic; False if the other kind holds it, or another topic."""
    taken = conn.execute(
        insert_or(conn.dialect.name, names).values(key=key, kind=kind).on_conflict_do_nothing().returning(names.c.key)
    ).first()
    if taken is not None:
        return True
    held_by = conn.execute(select(names.c.kind).where(names.c.key == key)).scalar_one()
    return bool(kind == "user" == held_by)


def add(conn: Connection, username: str, name_key: str, password_hash: str | None, now: int) -> int | None:
    """Make a user; None if the name is taken."""
    if not claim_name(conn, name_key, "user"):
        return None
    key = conn.execute(
        insert_or(conn.dialect.name, users)
        .values(username=username, password_hash=password_hash, created_at=now, disabled=False, admin=False)
        .on_conflict_do_nothing()
        .returning(users.c.id)
    ).scalar()
    return None if key is None else int(key)


def set_password(conn: Connection, user_key: int, password_hash: str) -> None:
    conn.execute(update(users).where(users.c.id == user_key).values(password_hash=password_hash))


def set_disabled(conn: Connection, user_key: int, disabled: bool) -> None:
    conn.execute(update(users).where(users.c.id == user_key).values(disabled=disabled))


def set_admin(conn: Connection, user_key: int, admin: bool) -> None:
    conn.execute(update(users).where(users.c.id == user_key).values(admin=admin))


def page(conn: Connection, after: str | None, limit: int) -> list[UserRow]:
    """All users, by username."""
    statement = select(*USER_COLUMNS).order_by(users.c.username).limit(limit)
    if after is not None:
        statement = statement.where(users.c.username > after)
    return [UserRow(*row) for row in conn.execute(statement)]


def by_usernames(conn: Connection, wanted: Collection[str]) -> dict[str, UserRow]:
    found: dict[str, UserRow] = {}
    for chunk in chunked(wanted):
        for row in conn.execute(select(*USER_COLUMNS).where(users.c.username.in_(chunk))):
            found[row[1]] = UserRow(*row)
    return found


def touch(conn: Connection, user_key: int, device_key: int | None, now: int) -> None:
    """Note that a connection of the user, on that device, has just ended."""
    conn.execute(update(users).where(users.c.id == user_key).values(last_seen=now))
    if device_key is not None:
        conn.execute(update(devices).where(devices.c.id == device_key).values(seen_at=now))


def add_session(
    conn: Connection, sid: str, user_key: int, now: int, expires_at: int, user_agent: str | None = None
) -> int:
    result = conn.execute(
        insert(sessions)
        .values(sid=sid, user_id=user_key, created_at=now, expires_at=expires_at, user_agent=user_agent)
        .returning(sessions.c.id)
    )
    return int(result.scalar_one())


_SESSION_COLUMNS = (
    sessions.c.id,
    sessions.c.sid,
    sessions.c.expires_at,
    sessions.c.revoked_at,
    users.c.id,
    users.c.username,
    users.c.disabled,
    users.c.admin,
)
_SESSION = (
    select(*_SESSION_COLUMNS)
    .join_from(sessions, users, users.c.id == sessions.c.user_id)
    .where(sessions.c.sid == bindparam("sid"))
)


def session(conn: Connection, sid: str) -> SessionRow | None:
    row = conn.execute(_SESSION, {"sid": sid}).first()
    return None if row is None else SessionRow(*row)


class DeviceRow(NamedTuple):
    key: int
    seen_at: int | None


class ArrivalRow(NamedTuple):
    """A session with its user, and the device that came with it, if it is known."""

    session: SessionRow
    device: DeviceRow | None


@cache
def _select_arrivals(dialect: str) -> Select[Any]:
    asked = relation(dialect, "asked", at=int, sid=str, device=str)
    return (
        select(asked.c.at, *_SESSION_COLUMNS, devices.c.id, devices.c.seen_at)
        .join_from(asked, sessions, sessions.c.sid == asked.c.sid)
        .join(users, users.c.id == sessions.c.user_id)
        .outerjoin(devices, and_(devices.c.user_id == users.c.id, devices.c.name == asked.c.device))
    )


def arrivals(conn: Connection, asked: Sequence[tuple[str, str]]) -> list[ArrivalRow | None]:
    """For each (sid, device's name): the session, None if there is none."""
    found: list[ArrivalRow | None] = [None] * len(asked)
    values = values_of((at, sid, name) for at, (sid, name) in enumerate(asked))
    with stepwise(conn, _select_arrivals, {"asked": values}) as rows:
        for at, *session_row, device_key, seen_at in rows:
            known = None if device_key is None else DeviceRow(device_key, seen_at)
            found[at] = ArrivalRow(SessionRow(*session_row), known)
    return found


@cache
def _select_still_good(dialect: str) -> Select[Any]:
    asked = relation(dialect, "asked", key=int)
    return (
        select(sessions.c.id)
        .join_from(asked, sessions, sessions.c.id == asked.c.key)
        .join(users, users.c.id == sessions.c.user_id)
        .where(sessions.c.revoked_at.is_(None), users.c.disabled.is_(False))
    )


def still_good(conn: Connection, session_keys: Collection[int]) -> set[int]:
    """Which of these sessions have not been withdrawn, nor their users disabled."""
    with stepwise(conn, _select_still_good, {"asked": values_of((key,) for key in session_keys)}) as rows:
        return {key for (key,) in rows}


def extend_session(conn: Connection, session_key: int, expires_at: int) -> None:
    conn.execute(
        update(sessions)
        .where(sessions.c.id == session_key)
        .values(expires_at=case((sessions.c.expires_at > expires_at, sessions.c.expires_at), else_=expires_at))
    )


def revoke_session(conn: Connection, session_key: int, now: int) -> None:
    conn.execute(
        update(sessions).where(sessions.c.id == session_key, sessions.c.revoked_at.is_(None)).values(revoked_at=now)
    )


def revoke_sessions_of(
    conn: Connection, user_key: int, now: int, *, but: int | None = None, that_end: int | None = None
) -> list[int]:
    """Withdraw all sessions of a user, or all but one, or those that expire at that time; returns which."""
    statement = update(sessions).where(sessions.c.user_id == user_key, sessions.c.revoked_at.is_(None))
    if but is not None:
        statement = statement.where(sessions.c.id != but)
    if that_end is not None:
        statement = statement.where(sessions.c.expires_at == that_end)
    return list(conn.scalars(statement.values(revoked_at=now).returning(sessions.c.id)))


def is_signed_in(conn: Connection, username: str, to: int, now: int) -> bool:
    """Whether a user has a session that is good; as `to`, whom they may have blocked, may know it."""
    good = (
        exists()
        .where(users.c.username == username, users.c.disabled.is_(False), sessions.c.user_id == users.c.id)
        .where(sessions.c.revoked_at.is_(None), sessions.c.expires_at > now)
        .where(~exists().where(blocks.c.user_id == users.c.id, blocks.c.blocked_id == to))
    )
    return bool(conn.execute(select(good)).scalar_one())


class LoginRow(NamedTuple):
    key: int
    sid: str
    created_at: int
    expires_at: int
    user_agent: str | None


def sessions_of(conn: Connection, user_key: int, now: int) -> list[LoginRow]:
    """The user's sessions that are still good, newest first."""
    statement = (
        select(sessions.c.id, sessions.c.sid, sessions.c.created_at, sessions.c.expires_at, sessions.c.user_agent)
        .where(sessions.c.user_id == user_key, sessions.c.revoked_at.is_(None), sessions.c.expires_at > now)
        .order_by(sessions.c.id.desc())
    )
    return [LoginRow(*row) for row in conn.execute(statement)]


def block(conn: Connection, user_key: int, other_key: int, now: int) -> None:
    """`user` wants to hear nothing from `other`. Idempotent."""
    conn.execute(
        insert_or(conn.dialect.name, blocks)
        .values(user_id=user_key, blocked_id=other_key, created_at=now)
        .on_conflict_do_nothing()
    )
    _mark_blocked(conn, user_key, other_key, True)


def unblock(conn: Connection, user_key: int, other_key: int, _now: int) -> None:
    """Take it back. Idempotent."""
    conn.execute(delete(blocks).where(blocks.c.user_id == user_key, blocks.c.blocked_id == other_key))
    _mark_blocked(conn, user_key, other_key, False)


def _mark_blocked(conn: Connection, user_key: int, other_key: int, blocked: bool) -> None:
    """Note it where sending looks: at the other's membership in the direct conversation."""
    direct = select(rooms.c.id).where(rooms.c.direct_key == direct_key(user_key, other_key))
    conn.execute(
        update(members).where(members.c.room_id.in_(direct), members.c.user_id == other_key).values(blocked=blocked)
    )


def blocked_by(conn: Connection, user_key: int) -> list[str]:
    """Whom a user has blocked, by username."""
    statement = (
        select(users.c.username)
        .join_from(blocks, users, users.c.id == blocks.c.blocked_id)
        .where(blocks.c.user_id == user_key)
        .order_by(users.c.username)
    )
    return list(conn.scalars(statement))


_BLOCKED = select(blocks.c.user_id, blocks.c.blocked_id).where(
    blocks.c.user_id.in_(bindparam("users", expanding=True))
)


def blocked_of(conn: Connection, user_keys: Collection[int]) -> dict[int, set[int]]:
    """Whom these users have blocked."""
    found: dict[int, set[int]] = {}
    for chunk in chunked(user_keys, 1000):
        for user_key, blocked_key in conn.execute(_BLOCKED, {"users": chunk}):
            found.setdefault(user_key, set()).add(blocked_key)
    return found


_BLOCKERS = select(blocks.c.user_id).where(blocks.c.blocked_id == bindparam("user"))


def blockers_of(conn: Connection, user_key: int) -> set[int]:
    """Who has blocked a user."""
    return set(conn.scalars(_BLOCKERS, {"user": user_key}))


_DEVICE = select(devices.c.id, devices.c.seen_at).where(
    devices.c.user_id == bindparam("user"), devices.c.name == bindparam("name")
)


def device(conn: Connection, user_key: int, name: str) -> DeviceRow | None:
    row = conn.execute(_DEVICE, {"user": user_key, "name": name}).first()
    return None if row is None else DeviceRow(*row)


@cache
def _insert_device(dialect: str) -> Any:
    statement = insert_or(dialect, devices).values(
        user_id=bindparam("user"), name=bindparam("device_name"), created_at=bindparam("now")
    )
    return statement.on_conflict_do_nothing().returning(devices.c.id)


@cache
def _insert_first_cursors() -> Any:
    user: Any = bindparam("user", type_=BigInteger())
    furthest = (
        select(cursors.c.room_id, func.max(cursors.c.seq).label("seq"))
        .join_from(cursors, devices, devices.c.id == cursors.c.device_id)
        .where(devices.c.user_id == user)
        .group_by(cursors.c.room_id)
        .subquery()
    )
    start = case((furthest.c.seq > members.c.joined_seq, furthest.c.seq), else_=members.c.joined_seq)
    of_rooms = (
        select(bindparam("device", type_=BigInteger()), members.c.room_id, start)
        .join_from(members, furthest, furthest.c.room_id == members.c.room_id, isouter=True)
        .where(members.c.user_id == user)
    )
    return insert(cursors).from_select(["device_id", "room_id", "seq"], of_rooms)


def add_device(conn: Connection, user_key: int, name: str, now: int) -> DeviceRow:
    """Name a device for the first time: it starts, room by room, where the user's furthest device is."""
    new = {"user": user_key, "device_name": name, "now": now}
    key = conn.execute(_insert_device(conn.dialect.name), new).scalar()
    if key is None:  # named twice at once
        found = device(conn, user_key, name)
        assert found is not None
        return found
    conn.execute(_insert_first_cursors(), {"user": user_key, "device": int(key)})
    return DeviceRow(int(key), None)
