"""Deletes outdated rows: ended sessions, unseen devices, and expired links, bans and mutes. Ends unused sessions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import and_, bindparam, delete, func, or_, select, update
from sqlalchemy.engine import Connection

from tidings_db.models import bans, cursors, devices, echo_entries, invitation_links, mutes, sessions, users
from tidings_db.queries import feed, push

_BEFORE: Any = bindparam("before")


def _newest(table: Any) -> Any:
    """The greatest key. Its row stays: SQLite would reuse the key while something may still refer to it."""
    return select(func.max(table.c.id)).scalar_subquery()


_ENDED = and_(
    # A withdrawn session of an external token stays until the token expires: else the token would make another one.
    or_(sessions.c.expires_at < _BEFORE, and_(sessions.c.revoked_at < _BEFORE, sessions.c.external.is_not(True))),
    sessions.c.id != _newest(sessions),
)
_UNUSED = and_(
    sessions.c.until_logout.is_(True),
    sessions.c.revoked_at.is_(None),
    func.coalesce(sessions.c.used_at, sessions.c.created_at) < _BEFORE,
)
_SEEN = func.coalesce(devices.c.seen_at, devices.c.created_at)
_UNSEEN = and_(_SEEN < _BEFORE, devices.c.id != _newest(devices))
_EXPIRED = or_(invitation_links.c.expires_at < _BEFORE, invitation_links.c.uses_left <= 0)


def ended_sessions(conn: Connection, before: int, limit: int) -> list[int]:
    """Sessions that expired, or were withdrawn, before a time (ms)."""
    return list(conn.scalars(select(sessions.c.id).where(_ENDED).limit(limit), {"before": before}))


def drop_sessions(conn: Connection, keys: Sequence[int]) -> None:
    push.remove_of_sessions(conn, keys)
    conn.execute(delete(sessions).where(sessions.c.id.in_(keys)))


def unused_sessions(conn: Connection, before: int, limit: int) -> list[int]:
    """Valid sessions that last until logout, and were last used before a time (ms)."""
    return list(conn.scalars(select(sessions.c.id).where(_UNUSED).limit(limit), {"before": before}))


def withdraw_unused(conn: Connection, keys: Sequence[int], before: int, now: int) -> None:
    """Withdraw these sessions, unless one was used after a time (ms)."""
    withdrawal = update(sessions).where(sessions.c.id.in_(keys), _UNUSED).values(revoked_at=now)
    withdrawn = conn.execute(withdrawal.returning(sessions.c.user_id, sessions.c.id), {"before": before}).all()
    if withdrawn:
        feed.add(conn, sessions=[(user_key, session_key) for user_key, session_key in withdrawn])


def unseen_devices(conn: Connection, before: int, limit: int) -> list[int]:
    """Devices whose last connection ended before a time (ms)."""
    return list(conn.scalars(select(devices.c.id).where(_UNSEEN).limit(limit), {"before": before}))


def drop_device(conn: Connection, key: int, before: int) -> None:
    """Delete a device with its cursors, unless it was seen after a time (ms)."""
    unseen = select(devices.c.id).where(devices.c.id == key, _SEEN < _BEFORE).with_for_update()
    if conn.execute(unseen, {"before": before}).first() is not None:
        conn.execute(delete(cursors).where(cursors.c.device_id == key))
        conn.execute(delete(devices).where(devices.c.id == key))


def expired_links(conn: Connection, before: int, limit: int) -> list[str]:
    """Invitation links that expired before a time (ms), or are used up."""
    return list(conn.scalars(select(invitation_links.c.code).where(_EXPIRED).limit(limit), {"before": before}))


def drop_links(conn: Connection, codes: Sequence[str]) -> None:
    conn.execute(delete(invitation_links).where(invitation_links.c.code.in_(codes)))


def expired_bans(conn: Connection, before: int, limit: int) -> list[tuple[int, int]]:
    """The (room, user) pairs of bans that ended before a time (ms)."""
    return _pairs(conn, bans, before, limit)


def expired_mutes(conn: Connection, before: int, limit: int) -> list[tuple[int, int]]:
    """The (room, user) pairs of mutes that ended before a time (ms)."""
    return _pairs(conn, mutes, before, limit)


def _pairs(conn: Connection, table: Any, before: int, limit: int) -> list[tuple[int, int]]:
    expired = select(table.c.room_id, table.c.user_id).where(table.c.expires_at < _BEFORE).limit(limit)
    return [(room, user) for room, user in conn.execute(expired, {"before": before})]


def drop_bans(conn: Connection, pairs: Sequence[tuple[int, int]], before: int) -> None:
    """Delete these bans if they ended before a time (ms): a ban may have been renewed meanwhile."""
    _drop_pairs(conn, bans, pairs, before)


def drop_mutes(conn: Connection, pairs: Sequence[tuple[int, int]], before: int) -> None:
    """`drop_bans` for mutes."""
    _drop_pairs(conn, mutes, pairs, before)


def _drop_pairs(conn: Connection, table: Any, pairs: Sequence[tuple[int, int]], before: int) -> None:
    pair = and_(table.c.room_id == bindparam("room"), table.c.user_id == bindparam("user"))
    conn.execute(
        delete(table).where(pair, table.c.expires_at < _BEFORE),
        [{"room": room, "user": user, "before": before} for room, user in pairs],
    )


def newest_user(conn: Connection) -> int:
    """The key of the newest user; 0 without users."""
    return int(conn.execute(select(func.coalesce(func.max(users.c.id), 0))).scalar_one())


def long_echo_logs(conn: Connection, limit: int, after: int, upto: int) -> list[tuple[int, int]]:
    """The users, `after` < key <= `upto`, with more than `limit` entries, each with the newest entry to delete."""
    over_limit = (
        select(echo_entries.c.user_id)
        .where(echo_entries.c.user_id > after, echo_entries.c.user_id <= upto)
        .group_by(echo_entries.c.user_id)
        .having(func.count() > limit)
    )
    excess: list[tuple[int, int]] = []
    for user in conn.scalars(over_limit).all():
        newest_first = select(echo_entries.c.id).where(echo_entries.c.user_id == user)
        last = conn.execute(newest_first.order_by(echo_entries.c.id.desc()).limit(1).offset(limit)).scalar()
        if last is not None:
            excess.append((int(user), int(last)))
    return excess


def trim_echo(conn: Connection, user_key: int, upto: int, limit: int) -> int:
    """Delete up to `limit` of a user's oldest echo entries, up to a key; returns their number."""
    oldest = select(echo_entries.c.id).where(echo_entries.c.user_id == user_key, echo_entries.c.id <= upto)
    keys = list(conn.scalars(oldest.order_by(echo_entries.c.id).limit(limit)))
    if keys:
        conn.execute(delete(echo_entries).where(echo_entries.c.id.in_(keys)))
    return len(keys)
