"""Users, sessions and devices."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, ColumnElement, Select, and_, bindparam, case, exists, func, insert, select, update
from sqlalchemy.engine import Connection

from tidings_db.connections import change, fetch
from tidings_db.models import blocks, cursors, devices, members, names, sessions, users
from tidings_db.names import name_key, skeleton, username_key
from tidings_db.queries import feed, registration
from tidings_db.queries.rows import USER_COLUMNS, UserRow, chunked, insert_or, relation, values_of
from tidings_db.queries.words import directory_words


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
    used_at: int
    scopes: str | None
    """Of a key; None: an ordinary session."""
    only_room: int | None
    display_name: str | None


def by_key(conn: Connection, username_key: str) -> UserRow | None:
    """A user by the key of their name (`tidings_db.names.username_key`)."""
    row = conn.execute(select(*USER_COLUMNS).where(users.c.username_key == username_key)).first()
    return None if row is None else UserRow._make(row)


def lock(conn: Connection, user_key: int) -> UserRow | None:
    """The current row of a user, locked until the end of the transaction."""
    row = conn.execute(select(*USER_COLUMNS).where(users.c.id == user_key).with_for_update(read=True)).first()
    return None if row is None else UserRow._make(row)


def claim_name(conn: Connection, key: str, kind: str) -> bool:
    """Reserve a name for a user or a topic. Returns False if the other kind, or another topic, has it."""
    claimed = conn.execute(
        insert_or(conn.dialect.name, names).values(key=key, kind=kind).on_conflict_do_nothing().returning(names.c.key)
    ).first()
    if claimed is not None:
        return True
    owner_kind = conn.execute(select(names.c.kind).where(names.c.key == key)).scalar_one()
    return bool(kind == "user" == owner_kind)


def add(
    conn: Connection,
    username: str,
    password_hash: str | None,
    now: int,
    *,
    issuer: str | None = None,
    display_name: str | None = None,
    service: bool = False,
) -> int | None:
    """Create a user; None if the name is taken, or looks like another user's."""
    if not claim_name(conn, name_key(username), "user"):
        return None
    key = conn.execute(
        insert_or(conn.dialect.name, users)
        .values(
            username=username,
            username_key=username_key(username),
            skeleton=skeleton(username),
            password_hash=password_hash,
            created_at=now,
            disabled=False,
            admin=False,
            issuer=issuer,
            display_name=display_name,
            words=directory_words(username, display_name),
            service=service,
        )
        .on_conflict_do_nothing()
        .returning(users.c.id)
    ).scalar()
    return None if key is None else int(key)


def set_password(conn: Connection, user_key: int, password_hash: str) -> None:
    """Set a user's password, after which no link sets another one."""
    registration.end_resets(conn, user_key)
    conn.execute(update(users).where(users.c.id == user_key).values(password_hash=password_hash))


def set_profile(conn: Connection, user_key: int, changes: Mapping[str, Any]) -> UserRow:
    """Change the columns of a profile, at least one, which `changes` names; returns the user."""
    changed = update(users).where(users.c.id == user_key).values(changes).returning(*USER_COLUMNS)
    user = UserRow._make(conn.execute(changed).one())
    if "display_name" in changes:
        found_by = directory_words(user.username, user.display_name)
        conn.execute(update(users).where(users.c.id == user_key).values(words=found_by))
    if changes.keys() - {"folded"}:
        feed.add(conn, profiles=[user_key])
    return user


def set_disabled(conn: Connection, user_key: int, disabled: bool) -> None:
    """Disable a user, or enable one again, unless the account is being deleted."""
    changed = update(users).where(users.c.id == user_key, users.c.deletion.is_(None))
    conn.execute(changed.values(disabled=disabled))
    if disabled:
        feed.add(conn, sessions=[(user_key, None)])


def set_admin(conn: Connection, user_key: int, admin: bool) -> None:
    conn.execute(update(users).where(users.c.id == user_key).values(admin=admin))


def is_last_admin(conn: Connection, user_key: int) -> bool:
    """Whether a user is the only administrator who can sign in. Until the end of the transaction nobody ends it."""
    if not conn.execute(select(users.c.admin).where(users.c.id == user_key)).scalar():
        return False  # the usual case, without a look at all users
    able = select(users.c.id).where(users.c.admin.is_(True), users.c.disabled.is_(False)).order_by(users.c.id)
    return list(conn.scalars(able.with_for_update())) == [user_key]


def page(conn: Connection, after: str | None, limit: int, beginnings: Collection[str] = ()) -> list[UserRow]:
    """A page of all users, sorted by username key.

    Args:
        after: the last key of the previous page.
        beginnings: as of `directory`.
    """
    statement = select(*USER_COLUMNS).where(*_begin(beginnings)).order_by(users.c.username_key).limit(limit)
    if after is not None:
        statement = statement.where(users.c.username_key > after)
    return list(map(UserRow._make, conn.execute(statement)))


def _begin(beginnings: Collection[str]) -> list[ColumnElement[bool]]:
    return [users.c.words.contains(f" {beginning}", autoescape=True) for beginning in beginnings]


_FEW = 5_000


def directory(
    conn: Connection, beginnings: Collection[str], after: str | None, limit: int, *, beside: int | None
) -> list[UserRow]:
    """A page of the users who are neither disabled nor of keys, sorted by username key.

    Reads the index in this order until the page is full, 100,000 users in tens of milliseconds: none finds the begin
    of any word.

    Args:
        beginnings: of words (`words.words`), each the begin of a word of the user's names.
        after: the last key of the previous page.
        beside: only users who share a room with this one.
    """
    statement = (
        select(*USER_COLUMNS)
        .where(users.c.disabled.is_(False), users.c.service.is_(False))
        .where(*_begin(beginnings))
        .order_by(users.c.username_key)
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(users.c.username_key > after)
    if beside is not None:
        own = members.alias("own_member")
        sharing = select(members.c.user_id).join(own, own.c.room_id == members.c.room_id)
        sharing = sharing.where(own.c.user_id == beside)
        # PostgreSQL would look for a few among all users, in the order of their names.
        few = conn.scalars(sharing.limit(_FEW + 1)).all()
        statement = statement.where(users.c.id.in_(set(few) if len(few) <= _FEW else sharing))
    return list(map(UserRow._make, conn.execute(statement)))


def by_keys(conn: Connection, username_keys: Collection[str]) -> dict[str, UserRow]:
    """Users by the keys of their names."""
    users_by_key: dict[str, UserRow] = {}
    for chunk in chunked(username_keys):
        for key, *row in conn.execute(
            select(users.c.username_key, *USER_COLUMNS).where(users.c.username_key.in_(chunk))
        ):
            users_by_key[key] = UserRow._make(row)
    return users_by_key


def by_id(conn: Connection, user_keys: Collection[int]) -> dict[int, UserRow]:
    """Users by key. Those that do not exist are missing."""
    found: dict[int, UserRow] = {}
    for chunk in chunked(user_keys):
        rows = map(UserRow._make, conn.execute(select(*USER_COLUMNS).where(users.c.id.in_(chunk))))
        found.update((user.key, user) for user in rows)
    return found


@cache
def _see_user(dialect: str) -> Any:
    return update(users).where(users.c.id == bindparam("key")).values(last_seen=_latest(dialect, users.c.last_seen))


@cache
def _see_device(dialect: str) -> Any:
    return update(devices).where(devices.c.id == bindparam("key")).values(seen_at=_latest(dialect, devices.c.seen_at))


def _latest(dialect: str, earlier: Any) -> Any:
    """The parameter `seen`; where several nodes write, not before an earlier time."""
    seen: Any = bindparam("seen", type_=BigInteger())
    return seen if dialect == "sqlite" else func.greatest(earlier, seen)


@cache
def _note_epoch(_dialect: str) -> Any:
    return update(devices).where(devices.c.id == bindparam("key")).values(epoch=bindparam("learned"))


def note_epochs(conn: Connection, learned: Mapping[int, int]) -> None:
    """Devices have learned of a log epoch: device -> epoch."""
    change(conn, _note_epoch, [{"key": key, "learned": epoch} for key, epoch in sorted(learned.items())])


def touch(conn: Connection, user_key: int, now: int) -> None:
    """Set the user's `last_seen` to now."""
    change(conn, _see_user, [{"key": user_key, "seen": now}])


def touch_all(conn: Connection, ended: Mapping[tuple[int, int], int]) -> None:
    """Record the ends of connections, (user, device) -> ms since the epoch. Device 0 means no device."""
    last = {user_key: when for (user_key, _), when in sorted(ended.items(), key=itemgetter(1))}
    change(conn, _see_user, [{"key": key, "seen": when} for key, when in sorted(last.items())])
    seen = [{"key": key, "seen": when} for (_, key), when in sorted(ended.items()) if key]
    if seen:
        change(conn, _see_device, seen)


def add_session(
    conn: Connection,
    sid: str,
    user_key: int,
    now: int,
    expires_at: int,
    user_agent: str | None = None,
    source: str | None = None,
    *,
    until_logout: bool = False,
) -> int:
    row = {"sid": sid, "user_id": user_key, "created_at": now, "expires_at": expires_at}
    details = {"user_agent": user_agent, "source": source, "until_logout": until_logout}
    return int(conn.execute(insert(sessions).values(**row, **details).returning(sessions.c.id)).scalar_one())


def issuer_of(conn: Connection, user_key: int) -> str | None:
    """The issuer of the external token that made the user."""
    return conn.execute(select(users.c.issuer).where(users.c.id == user_key)).scalar()


def admit_external(conn: Connection, sid: str, user_key: int, now: int, expires_at: int) -> None:
    """Create the session of an external token, or extend it to the token's expiry, also if it was withdrawn.

    So a withdrawn session is kept for as long as a token of it is valid.
    """
    new = insert_or(conn.dialect.name, sessions).values(
        sid=sid, user_id=user_key, created_at=now, expires_at=expires_at, until_logout=False, external=True
    )
    later = new.excluded.expires_at > sessions.c.expires_at
    conn.execute(new.on_conflict_do_update(index_elements=["sid"], set_={"expires_at": expires_at}, where=later))


def has_signed_in_from(conn: Connection, user_key: int, sources: Sequence[str]) -> bool:
    """Whether any session of the user, valid or not, began at one of these sources."""
    has_session = exists().where(sessions.c.user_id == user_key, sessions.c.source.in_(sources))
    return bool(conn.execute(select(has_session)).scalar_one())


_SESSION_COLUMNS = (
    sessions.c.id,
    sessions.c.sid,
    sessions.c.expires_at,
    sessions.c.revoked_at,
    users.c.id,
    users.c.username,
    users.c.disabled,
    users.c.admin,
    func.coalesce(sessions.c.used_at, sessions.c.created_at),
    sessions.c.scopes,
    sessions.c.only_room,
    users.c.display_name,
)
_SESSION = (
    select(*_SESSION_COLUMNS)
    .join_from(sessions, users, users.c.id == sessions.c.user_id)
    .where(sessions.c.sid == bindparam("sid"))
)


def session(conn: Connection, sid: str) -> SessionRow | None:
    row = conn.execute(_SESSION, {"sid": sid}).first()
    return None if row is None else SessionRow._make(row)


class DeviceRow(NamedTuple):
    key: int
    seen_at: int | None
    epoch: int | None
    """The log epoch that it has learned of; None: it was created just now."""


class ArrivalRow(NamedTuple):
    """A session with its user, and the device of the connect, if it is known."""

    session: SessionRow
    device: DeviceRow | None


@cache
def _select_arrivals(dialect: str) -> Select[Any]:
    request = relation(dialect, "requests", number=int, sid=str, device=str)
    return (
        select(request.c.number, *_SESSION_COLUMNS, devices.c.id, devices.c.seen_at, devices.c.epoch)
        .join_from(request, sessions, sessions.c.sid == request.c.sid)
        .join(users, users.c.id == sessions.c.user_id)
        .outerjoin(devices, and_(devices.c.user_id == users.c.id, devices.c.name == request.c.device))
    )


def arrivals(conn: Connection, requests: Sequence[tuple[str, str]]) -> list[ArrivalRow | None]:
    """For each (sid, device name): the session and the device; None without a session."""
    arrived: list[ArrivalRow | None] = [None] * len(requests)
    values = values_of((number, sid, name) for number, (sid, name) in enumerate(requests))
    rows = fetch(conn, _select_arrivals, {"requests": values})
    for number, *session_row, device_key, seen_at, epoch in rows:
        device = None if device_key is None else DeviceRow(device_key, seen_at, epoch)
        arrived[number] = ArrivalRow(SessionRow(*session_row), device)
    return arrived


@cache
def _select_valid_sessions(dialect: str) -> Select[Any]:
    given = relation(dialect, "keys", key=int)
    return (
        select(sessions.c.id)
        .join_from(given, sessions, sessions.c.id == given.c.key)
        .join(users, users.c.id == sessions.c.user_id)
        .where(sessions.c.revoked_at.is_(None), users.c.disabled.is_(False))
    )


def valid_sessions(conn: Connection, session_keys: Collection[int]) -> set[int]:
    """The sessions that are neither withdrawn nor those of disabled users."""
    rows = fetch(conn, _select_valid_sessions, {"keys": values_of((key,) for key in session_keys)})
    return {key for (key,) in rows}


def extend_session(conn: Connection, session_key: int, expires_at: int, life_ms: int | None) -> int:
    """Extend a session, up to `life_ms` after its creation; returns its end (ms).

    A session of an external token is not extended.
    """
    created_at, end, external = conn.execute(
        select(sessions.c.created_at, sessions.c.expires_at, sessions.c.external)
        .where(sessions.c.id == session_key)
        .with_for_update()
    ).one()
    if external:
        return int(end)
    new_end = expires_at if life_ms is None else min(expires_at, created_at + life_ms)
    if new_end > end:
        conn.execute(update(sessions).where(sessions.c.id == session_key).values(expires_at=new_end))
    return max(int(end), new_end)


def note_use(conn: Connection, session_keys: Collection[int], now: int) -> None:
    """Set `used_at` of sessions to now."""
    for chunk in chunked(session_keys):
        conn.execute(update(sessions).where(sessions.c.id.in_(chunk)).values(used_at=now))


def revoke_session(conn: Connection, session_key: int, now: int) -> None:
    withdrawn = conn.execute(
        update(sessions)
        .where(sessions.c.id == session_key, sessions.c.revoked_at.is_(None))
        .values(revoked_at=now)
        .returning(sessions.c.user_id)
    ).scalar()
    if withdrawn is not None:
        feed.add(conn, sessions=[(withdrawn, session_key)])


def revoke_sessions_of(
    conn: Connection, user_key: int, now: int, *, except_key: int | None = None, until_logout: bool = False
) -> list[int]:
    """Withdraw all sessions of a user, or all but one, or those that last until logout; returns their keys."""
    statement = update(sessions).where(sessions.c.user_id == user_key, sessions.c.revoked_at.is_(None))
    if except_key is not None:
        statement = statement.where(sessions.c.id != except_key)
    if until_logout:
        statement = statement.where(sessions.c.until_logout.is_(True))
    withdrawn = list(conn.scalars(statement.values(revoked_at=now).returning(sessions.c.id)))
    if withdrawn:
        feed.add(conn, sessions=[(user_key, session_key) for session_key in withdrawn])
    return withdrawn


def is_until_logout(conn: Connection, session_key: int) -> bool:
    return bool(conn.execute(select(sessions.c.until_logout).where(sessions.c.id == session_key)).scalar())


def is_signed_in(conn: Connection, username_key: str, viewer_key: int, now: int) -> bool:
    """Whether a user has a valid session; False if the user has blocked the viewer."""
    has_session = (
        exists()
        .where(users.c.username_key == username_key, users.c.disabled.is_(False), sessions.c.user_id == users.c.id)
        .where(sessions.c.revoked_at.is_(None), sessions.c.expires_at > now)
        .where(~exists().where(blocks.c.user_id == users.c.id, blocks.c.blocked_id == viewer_key))
    )
    return bool(conn.execute(select(has_session)).scalar_one())


class LoginRow(NamedTuple):
    key: int
    sid: str
    created_at: int
    used_at: int
    expires_at: int
    user_agent: str | None


def sessions_of(conn: Connection, user_key: int, now: int) -> list[LoginRow]:
    """The user's valid sessions, newest first."""
    statement = (
        select(
            sessions.c.id,
            sessions.c.sid,
            sessions.c.created_at,
            func.coalesce(sessions.c.used_at, sessions.c.created_at),
            sessions.c.expires_at,
            sessions.c.user_agent,
        )
        .where(sessions.c.user_id == user_key, sessions.c.revoked_at.is_(None), sessions.c.expires_at > now)
        .order_by(sessions.c.id.desc())
    )
    return [LoginRow(*row) for row in conn.execute(statement)]


_DEVICE = select(devices.c.id, devices.c.seen_at, devices.c.epoch).where(
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
    """Create a device. In each room it starts at the furthest cursor of the user's devices."""
    new = {"user": user_key, "device_name": name, "now": now}
    key = conn.execute(_insert_device(conn.dialect.name), new).scalar()
    if key is None:  # created concurrently
        existing = device(conn, user_key, name)
        assert existing is not None
        return existing
    conn.execute(_insert_first_cursors(), {"user": user_key, "device": int(key)})
    return DeviceRow(int(key), None, None)
