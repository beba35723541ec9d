"""Which users have blocked which."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import bindparam, delete, select, update
from sqlalchemy.engine import Connection

from tidings_db.models import blocks, members, rooms, users
from tidings_db.queries import feed
from tidings_db.queries.claims import claim
from tidings_db.queries.rows import chunked, direct_key, insert_or


def block(conn: Connection, user_key: int, other_key: int, now: int) -> None:
    """Record that `user` blocks `other`. Idempotent."""
    # If another node creates their conversation now, the block must be seen there, or the conversation here.
    claim(conn, [direct_key(user_key, other_key)], wait=True)
    conn.execute(
        insert_or(conn.dialect.name, blocks)
        .values(user_id=user_key, blocked_id=other_key, created_at=now)
        .on_conflict_do_nothing()
    )
    _mark_blocked(conn, user_key, other_key, True)


def unblock(conn: Connection, user_key: int, other_key: int, _now: int) -> None:
    """Remove a block. Idempotent."""
    claim(conn, [direct_key(user_key, other_key)], wait=True)
    conn.execute(delete(blocks).where(blocks.c.user_id == user_key, blocks.c.blocked_id == other_key))
    _mark_blocked(conn, user_key, other_key, False)


def _mark_blocked(conn: Connection, user_key: int, other_key: int, blocked: bool) -> None:
    """Copy the block to the other's membership in the direct conversation, which sending reads."""
    feed.add(conn, blocks=[(user_key, other_key)])
    direct = select(rooms.c.id).where(rooms.c.direct_key == direct_key(user_key, other_key))
    conn.execute(
        update(members).where(members.c.room_id.in_(direct), members.c.user_id == other_key).values(blocked=blocked)
    )


def blocked_by(conn: Connection, user_key: int) -> list[str]:
    """The users whom a user has blocked, sorted by username."""
    statement = (
        select(users.c.username)
        .join_from(blocks, users, users.c.id == blocks.c.blocked_id)
        .where(blocks.c.user_id == user_key)
        .order_by(users.c.username_key)
    )
    return list(conn.scalars(statement))


_BLOCKED = select(blocks.c.user_id, blocks.c.blocked_id).where(
    blocks.c.user_id.in_(bindparam("users", expanding=True))
)


def blocked_of(conn: Connection, user_keys: Collection[int]) -> dict[int, set[int]]:
    """The users whom each of these users has blocked."""
    blocked: dict[int, set[int]] = {}
    for chunk in chunked(user_keys, 1000):
        for user_key, blocked_key in conn.execute(_BLOCKED, {"users": chunk}):
            blocked.setdefault(user_key, set()).add(blocked_key)
    return blocked


_BLOCKERS = select(blocks.c.user_id).where(blocks.c.blocked_id == bindparam("user"))


def blockers_of(conn: Connection, user_key: int) -> set[int]:
    """The keys of the users who have blocked a user."""
    return set(conn.scalars(_BLOCKERS, {"user": user_key}))
