"""Threads: who follows them, and how many of their replies each has read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from sqlalchemy import and_, delete, func, literal, or_, select
from sqlalchemy.engine import Connection

from tidings_db.models import entries, members, rooms, thread_followers, users
from tidings_db.queries.rows import ROOM_COLUMNS, EntryRow, RoomRow, entry_columns, insert_or


class ThreadRow(NamedTuple):
    """A thread as one user has it."""

    room: RoomRow
    message: EntryRow
    """The one that began it."""
    following: bool
    read: int
    """Its replies that the user has read."""
    newest: str
    """The id of its newest reply, or of its message; by these, threads are sorted."""


def to_be_told(conn: Connection, message: EntryRow, mentioned: Collection[str]) -> list[int]:
    """The members who have nothing to do with a thread yet, and wrote its message or are mentioned in a reply."""
    known = select(thread_followers.c.user_id).where(
        thread_followers.c.room_id == message.room_key, thread_followers.c.seq == message.seq
    )
    concerned = or_(users.c.id == message.sender_key, users.c.username.in_(mentioned))
    return list(
        conn.scalars(
            select(users.c.id)
            .join(members, and_(members.c.user_id == users.c.id, members.c.room_id == message.room_key))
            .where(concerned, users.c.id.not_in(known))
        )
    )


def put(conn: Connection, message: EntryRow, user_keys: Collection[int], *, following: bool, read: int) -> None:
    """Store how users stand to a thread. A thread that is read stays read: `read` moves forwards only."""
    if not user_keys:
        return
    statement = insert_or(conn.dialect.name, thread_followers).values(
        [
            {"user_id": key, "room_id": message.room_key, "seq": message.seq, "following": following, "read": read}
            for key in user_keys
        ]
    )
    new, known = statement.excluded, thread_followers.c
    furthest = func.max if conn.dialect.name == "sqlite" else func.greatest
    conn.execute(
        statement.on_conflict_do_update(
            index_elements=["user_id", "room_id", "seq"],
            set_={"following": new.following, "read": furthest(known.read, new.read)},
        )
    )


def replies_upto(conn: Connection, message: EntryRow, seq: int) -> int:
    """How many replies a thread has up to a seq of its room."""
    upto = select(entries.c.replies).where(
        entries.c.room_id == message.room_key, entries.c.thread == message.message_id, entries.c.seq <= seq
    )
    return conn.execute(upto.order_by(entries.c.seq.desc()).limit(1)).scalar() or 0


_replies = entries.alias("reply")
_NEWEST_REPLY = (
    select(_replies.c.message_id)
    .where(_replies.c.room_id == entries.c.room_id, _replies.c.thread == entries.c.message_id)
    .order_by(_replies.c.seq.desc())
    .limit(1)
    .correlate(entries)
    .scalar_subquery()
)


def of_user(
    conn: Connection,
    user_key: int,
    message: EntryRow | None = None,
    *,
    after: str | None = None,
    limit: int = 1,
) -> Sequence[ThreadRow]:
    """The threads that a user follows, those with the newest replies first; or only that of a message.

    `after`: those with older replies than the thread with this `newest`.
    """
    newest = func.coalesce(_NEWEST_REPLY, entries.c.message_id)
    statement = (
        select(thread_followers.c.following, thread_followers.c.read, newest, *ROOM_COLUMNS, *entry_columns())
        .select_from(thread_followers)
        .join(rooms, rooms.c.id == thread_followers.c.room_id)
        .join(entries, and_(entries.c.room_id == rooms.c.id, entries.c.seq == thread_followers.c.seq))
        .join(users, users.c.id == entries.c.sender_id)
        .where(thread_followers.c.user_id == user_key)
        .order_by(newest.desc())
        .limit(limit)
    )
    if message is None:
        statement = statement.where(thread_followers.c.following)
    else:
        of_message = (thread_followers.c.room_id == message.room_key, thread_followers.c.seq == message.seq)
        statement = statement.where(*of_message)
    if after is not None:
        statement = statement.where(newest < literal(after))
    room_at, entry_at = 3, 3 + len(ROOM_COLUMNS)
    return [
        ThreadRow(RoomRow(*row[room_at:entry_at]), EntryRow(*row[entry_at:]), bool(row[0]), row[1], row[2])
        for row in conn.execute(statement)
    ]


def forget(conn: Connection, room_key: int, upto_seq: int) -> None:
    """Remove the threads of a room's messages up to a seq."""
    of_messages = and_(thread_followers.c.room_id == room_key, thread_followers.c.seq <= upto_seq)
    conn.execute(delete(thread_followers).where(of_messages))
