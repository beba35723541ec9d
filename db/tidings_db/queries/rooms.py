"""Rooms, and a room as one user sees it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Select, and_, bindparam, delete, exists, func, or_, select, update
from sqlalchemy.engine import Connection

from tidings_db.connections import change, fetch
from tidings_db.models import (
    entries,
    invitation_links,
    members,
    names,
    places,
    read_markers,
    reports,
    rooms,
    thread_followers,
    users,
)
from tidings_db.queries import feed, files
from tidings_db.queries.rows import (
    ROOM_COLUMNS,
    EntryRow,
    RoomRow,
    chunked,
    direct_key,
    entry_columns,
    insert_or,
    relation,
    values_of,
)

_ROOM_WIDTH = len(ROOM_COLUMNS)


class Preferences(NamedTuple):
    """The preferences of a member for a room, as stored."""

    notify: str | None = None
    """None: by the kind of the room."""
    quiet_until: int | None = None
    favourite: bool = False
    section: str | None = None
    unread_from: int | None = None
    """The room was marked as unread from this seq."""
    unread_messages: int | None = None
    """The number of messages before `unread_from`."""
    unread_marked_at: int | None = None
    """The read marker when the room was marked."""

    def unread(self, read_seq: int) -> tuple[int, int] | None:
        """`unread_from` and the messages before it, unless the read marker has come to it since it was set.

        A message moves the marker in the statement that appends it, so it need not clear these columns.
        """
        if self.unread_from is None or self.unread_messages is None:
            return None
        if read_seq >= self.unread_from and read_seq != self.unread_marked_at:
            return None
        return self.unread_from, self.unread_messages


class Snapshot(NamedTuple):
    """A room as one user sees it, without the number of members who are online."""

    room: RoomRow
    role: str | None
    joined_seq: int | None
    read_seq: int
    read_messages: int
    last_message: EntryRow | None
    other: str | None
    """In a direct conversation: the username of the other user."""
    blocked: bool
    """In a direct conversation: whether the other user has blocked this one."""
    joined_removals: int = 0
    """How many memberships of the room had ended when the user joined."""
    preferences: Preferences = Preferences()

    def read_to(self, seq: int, messages: int) -> Snapshot:
        """After the read marker has moved to a seq, up to which there are so many messages."""
        return self._replace(read_seq=seq, read_messages=messages)

    @property
    def unread_from(self) -> int | None:
        marked = self.preferences.unread(self.read_seq)
        return None if marked is None else marked[0]

    @property
    def unread(self) -> int:
        """The number of messages after the read marker or from `unread_from` on, without those that are deleted."""
        if not self.role:
            return 0
        marked = self.preferences.unread(self.read_seq)
        before = self.read_messages if marked is None else min(self.read_messages, marked[1])
        return self.room.messages - max(before, self.room.first_messages)


_BY_ROOM_ID = select(*ROOM_COLUMNS).where(rooms.c.room_id == bindparam("value"))
_BY_NAME_KEY = select(*ROOM_COLUMNS).where(rooms.c.name_key == bindparam("value"))
_BY_KEY = select(*ROOM_COLUMNS).where(rooms.c.id == bindparam("value"))
_BY_DIRECT_KEY = select(*ROOM_COLUMNS).where(rooms.c.direct_key == bindparam("value"))


def _find(conn: Connection, statement: Select[Any], value: int | str | None) -> RoomRow | None:
    row = conn.execute(statement, {"value": value}).first()
    return None if row is None else RoomRow(*row)


def is_hidden(conn: Connection, name_key: str, user_key: int) -> bool:
    """Whether a private topic that the user is not in has the name."""
    is_member = exists().where(members.c.room_id == rooms.c.id, members.c.user_id == user_key)
    hidden = exists().where(rooms.c.name_key == name_key, rooms.c.is_private.is_(True), ~is_member)
    return bool(conn.execute(select(hidden)).scalar_one())


def find(conn: Connection, *, room_id: str | None = None, name_key: str | None = None) -> RoomRow | None:
    return _find(conn, _BY_ROOM_ID, room_id) if room_id is not None else _find(conn, _BY_NAME_KEY, name_key)


def by_key(conn: Connection, key: int) -> RoomRow | None:
    return _find(conn, _BY_KEY, key)


def find_direct(conn: Connection, a: int, b: int) -> RoomRow | None:
    return _find(conn, _BY_DIRECT_KEY, direct_key(a, b))


_SOME = rooms.c.id.in_(bindparam("keys", expanding=True))
_HEADS = select(rooms.c.id, rooms.c.last_seq, rooms.c.changes).where(_SOME)


@cache
def _select_locked(dialect: str) -> Select[Any]:
    key = relation(dialect, "keys", room_key=int)
    # FOR NO KEY UPDATE allows concurrent inserts of rows that refer to the room, which avoids deadlocks.
    statement = select(*ROOM_COLUMNS).where(rooms.c.id.in_(select(key.c.room_key)))
    return statement.order_by(rooms.c.id).with_for_update(key_share=True)


@cache
def _select_one_locked(_dialect: str) -> Select[Any]:
    """`_select_locked` for one room, in half the time."""
    return select(*ROOM_COLUMNS).where(rooms.c.id == bindparam("key")).with_for_update(key_share=True)


def lock(conn: Connection, keys: Sequence[int]) -> dict[int, RoomRow]:
    """The rooms with their heads, locked in key order until the end of the transaction."""
    if len(keys) == 1:
        rows = fetch(conn, _select_one_locked, {"key": keys[0]})
    else:
        rows = fetch(conn, _select_locked, {"keys": values_of((key,) for key in keys)})
    return {(room := RoomRow(*row)).key: room._replace(is_private=bool(room.is_private)) for row in rows}


class Head(NamedTuple):
    seq: int
    changes: int


def heads(conn: Connection, keys: Sequence[int]) -> dict[int, Head]:
    by_room_key: dict[int, Head] = {}
    for chunk in chunked(keys):
        by_room_key.update((key, Head(*head)) for key, *head in conn.execute(_HEADS, {"keys": chunk}))
    return by_room_key


def insert_room(conn: Connection, **values: Any) -> int | None:
    """Create a room; None if a room with its topic name or its pair of users exists."""
    key = conn.execute(
        insert_or(conn.dialect.name, rooms).values(**values).on_conflict_do_nothing().returning(rooms.c.id)
    ).scalar()
    return None if key is None else int(key)


@cache
def _save_head(_dialect: str) -> Any:
    return (
        update(rooms)
        .where(rooms.c.id == bindparam("key"))
        .values(
            last_seq=bindparam("head"),
            messages=bindparam("count"),
            last_message_seq=bindparam("newest"),
            members=bindparam("size"),
            removals=bindparam("removed"),
            changes=bindparam("changed"),
        )
    )


def save_heads(conn: Connection, changed: Sequence[RoomRow]) -> None:
    change(
        conn,
        _save_head,
        [
            {
                "key": room.key,
                "head": room.last_seq,
                "count": room.messages,
                "newest": room.last_message_seq,
                "size": room.members,
                "removed": room.removals,
                "changed": room.changes,
            }
            for room in changed
        ],
    )


def set_title(conn: Connection, room_key: int, title: str) -> None:
    conn.execute(update(rooms).where(rooms.c.id == room_key).values(title=title))


def set_picture(conn: Connection, room_key: int, picture: str | None) -> None:
    conn.execute(update(rooms).where(rooms.c.id == room_key).values(picture=picture))


def set_purpose(conn: Connection, room_key: int, purpose: str | None) -> None:
    conn.execute(update(rooms).where(rooms.c.id == room_key).values(purpose=purpose))


def set_posting(conn: Connection, room_key: int, posting: str) -> None:
    conn.execute(update(rooms).where(rooms.c.id == room_key).values(posting=posting))


@cache
def _select_snapshots() -> Select[Any]:
    """For the parameter `user`."""
    user: Any = bindparam("user", type_=BigInteger())
    sender, other = users.alias("sender"), users.alias("other")
    other_member = members.alias("other_member")
    member, last = members.alias("own_member"), entries.alias("last")
    return (
        select(
            *ROOM_COLUMNS,
            member.c.role,
            member.c.joined_seq,
            func.coalesce(read_markers.c.seq, 0),
            func.coalesce(read_markers.c.messages, 0),
            other.c.username,
            func.coalesce(member.c.blocked, False),
            func.coalesce(member.c.joined_removals, 0),
            *(member.c[name] for name in Preferences._fields),
            *entry_columns(last, sender),
        )
        .select_from(rooms)
        .outerjoin(member, and_(member.c.room_id == rooms.c.id, member.c.user_id == user))
        .outerjoin(read_markers, and_(read_markers.c.room_id == rooms.c.id, read_markers.c.user_id == user))
        .outerjoin(
            last,
            and_(
                last.c.room_id == rooms.c.id,
                last.c.seq == rooms.c.last_message_seq,
                member.c.user_id.is_not(None),
            ),
        )
        .outerjoin(sender, sender.c.id == last.c.sender_id)
        .outerjoin(
            other_member,
            and_(rooms.c.kind == "direct", other_member.c.room_id == rooms.c.id, other_member.c.user_id != user),
        )
        .outerjoin(other, other.c.id == other_member.c.user_id)
    )


def _snapshot(row: Any) -> Snapshot:
    start = _ROOM_WIDTH
    last = row[start + 7 + len(Preferences._fields) :]
    return Snapshot(
        RoomRow(*row[:start]),
        row[start],
        row[start + 1],
        row[start + 2],
        row[start + 3],
        None if last[0] is None else EntryRow(*last),
        row[start + 4],
        bool(row[start + 5]),
        row[start + 6],
        Preferences() if row[start] is None else Preferences(*row[start + 7 : start + 7 + len(Preferences._fields)]),
    )


_READING = (
    select(
        members.c.role,
        func.coalesce(read_markers.c.seq, 0),
        func.coalesce(read_markers.c.messages, 0),
        members.c.unread_from,
        members.c.unread_messages,
        members.c.unread_marked_at,
    )
    .join_from(
        members,
        read_markers,
        and_(read_markers.c.room_id == members.c.room_id, read_markers.c.user_id == members.c.user_id),
        isouter=True,
    )
    .where(members.c.room_id == bindparam("room"), members.c.user_id == bindparam("user"))
)


def reading(conn: Connection, user_key: int, room: RoomRow) -> Snapshot:
    """How far a user has read a locked room: a snapshot with nothing else of the user, for less."""
    row = conn.execute(_READING, {"room": room.key, "user": user_key}).first()
    role, seq, messages, *marked = row or (None, 0, 0, None, None, None)
    return Snapshot(
        room, role, None, seq, messages, None, None, False, 0, Preferences(None, None, False, None, *marked)
    )


@cache
def _snapshots_of() -> Select[Any]:
    return _select_snapshots().where(_SOME)


def snapshots(conn: Connection, user_key: int, keys: Sequence[int]) -> dict[int, Snapshot]:
    """Rooms as a user sees them, by key, including rooms that the user is not in."""
    by_room_key: dict[int, Snapshot] = {}
    for chunk in chunked(keys):
        for row in conn.execute(_snapshots_of(), {"user": user_key, "keys": chunk}):
            by_room_key[row[0]] = _snapshot(row)
    return by_room_key


def snapshot(conn: Connection, user_key: int, room_key: int) -> Snapshot:
    return snapshots(conn, user_key, [room_key])[room_key]


def find_visible(conn: Connection, user_key: int, room_id: str) -> int | None:
    """The key of a room, if the user may see it."""
    own = select(members.c.room_id).where(members.c.user_id == user_key)
    statement = select(rooms.c.id).where(
        rooms.c.room_id == room_id, or_(rooms.c.is_private.is_(False), rooms.c.id.in_(own))
    )
    key = conn.execute(statement).scalar()
    return None if key is None else int(key)


def visible(
    conn: Connection,
    user_key: int,
    *,
    kind: str | None,
    member: bool | None,
    after: int | None,
    limit: int,
) -> list[Snapshot]:
    """A page of the rooms that a user may see: their own, and public topics, in order of creation.

    Args:
        member: only rooms that the user is in (True), or is not in (False).
        after: the key of the last room of the previous page.
    """
    statement = _select_visible(kind is not None, member)
    parameters = {"user": user_key, "kind": kind or "", "after": after or 0, "limit": limit}
    return [_snapshot(row) for row in conn.execute(statement, parameters)]


@cache
def _select_visible(has_kind: bool, member: bool | None) -> Select[Any]:
    own = select(members.c.room_id).where(members.c.user_id == bindparam("user", type_=BigInteger()))
    if member is True:
        where: list[Any] = [rooms.c.id.in_(own)]
    elif member is False:
        where = [rooms.c.is_private.is_(False), rooms.c.id.not_in(own)]
    else:
        where = [or_(rooms.c.is_private.is_(False), rooms.c.id.in_(own))]
    if has_kind:
        where.append(rooms.c.kind == bindparam("kind"))
    where.append(rooms.c.id > bindparam("after"))
    return _select_snapshots().where(*where).order_by(rooms.c.id).limit(bindparam("limit"))


# -- management ------------------------------------------------------------------------------------------------------


class TopicRow(NamedTuple):
    room: RoomRow
    created_at: int
    size: float
    """About how many characters its log has."""


_MEASURED = 100
"""The entries by which the size of a log is estimated."""


def topics(conn: Connection, after: str | None, limit: int, *, groups: bool = False) -> list[TopicRow]:
    """A page of all topics, also private ones, in order of creation.

    Args:
        after: the last id of the previous page.
        groups: whether groups are among them.
    """
    before = select(rooms.c.id).where(rooms.c.room_id == after).scalar_subquery()
    wanted = and_(rooms.c.kind == "topic", rooms.c.name_key.is_not(None))
    if groups:
        wanted = or_(wanted, and_(rooms.c.kind == "group", rooms.c.members > 0))
    texts = (entries.c.content, entries.c.body, entries.c.data)
    average = (
        select(func.avg(sum(func.coalesce(func.length(text), 0) for text in texts)))
        .where(entries.c.room_id == rooms.c.id, entries.c.seq > rooms.c.last_seq - _MEASURED)
        .scalar_subquery()
    )
    size = func.coalesce(average, 0) * (rooms.c.last_seq - rooms.c.first_seq + 1)
    statement = (
        select(*ROOM_COLUMNS, rooms.c.created_at, size)
        .where(wanted, rooms.c.id > func.coalesce(before, 0))
        .order_by(rooms.c.id)
        .limit(limit)
    )
    return [TopicRow(RoomRow(*row[:_ROOM_WIDTH]), *row[_ROOM_WIDTH:]) for row in conn.execute(statement)]


def delete_topic(conn: Connection, room_key: int) -> list[int]:
    """Remove a topic's name and members; returns the members' keys. Retention deletes the rest later."""
    name_key = conn.execute(select(rooms.c.name_key).where(rooms.c.id == room_key)).scalar_one()
    member_keys = list(conn.scalars(select(members.c.user_id).where(members.c.room_id == room_key)))
    for table in (members, read_markers, thread_followers, invitation_links, places, reports):
        conn.execute(delete(table).where(table.c.room_id == room_key))
    files.release_picture(conn, room_key=room_key)
    conn.execute(update(rooms).where(rooms.c.id == room_key).values(name_key=None, is_private=True, picture=None))
    conn.execute(delete(names).where(names.c.key == name_key))
    feed.add(conn, gone=[room_key])
    return member_keys
