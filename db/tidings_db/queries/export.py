"""All stored data of one user, in pages by key, so that only one page is in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final, NamedTuple

from sqlalchemy import BigInteger, Select, and_, bindparam, or_, select, tuple_
from sqlalchemy.engine import Connection

from tidings_db.connections import stepwise
from tidings_db.models import (
    blocks,
    cursors,
    devices,
    echo_entries,
    entries,
    files,
    invitation_links,
    members,
    push_subscriptions,
    read_markers,
    reports,
    rooms,
    sessions,
    thread_followers,
    users,
)
from tidings_db.queries.rows import PROFILE_COLUMNS

Key = tuple[int | str, ...]

_USER: Any = bindparam("user", type_=BigInteger())
_SCANNED = 5000
"""The most entries that one page of a user's messages and reactions examines."""
_BYTES = 1024 * 1024
"""The most bytes of content in one page with more than one entry."""


class Part(NamedTuple):
    """One kind of record: its select, and the columns for order and paging."""

    select: Select[Any]
    key: Sequence[Any]


PARTS: Final[Mapping[str, Part]] = {
    "profile": Part(
        select(users.c.username, users.c.created_at, users.c.last_seen, *PROFILE_COLUMNS, users.c.folded).where(
            users.c.id == _USER
        ),
        (),
    ),
    "session": Part(
        select(
            sessions.c.sid.label("session_id"),
            sessions.c.created_at,
            sessions.c.expires_at,
            sessions.c.revoked_at,
            sessions.c.used_at,
            sessions.c.user_agent,
        ).where(sessions.c.user_id == _USER),
        (sessions.c.id,),
    ),
    "device": Part(
        select(devices.c.name.label("device"), devices.c.created_at, devices.c.seen_at).where(
            devices.c.user_id == _USER
        ),
        (devices.c.id,),
    ),
    "push_subscription": Part(
        select(
            push_subscriptions.c.provider,
            push_subscriptions.c.endpoint,
            push_subscriptions.c.with_content,
            push_subscriptions.c.created_at,
        ).where(push_subscriptions.c.user_id == _USER),
        (push_subscriptions.c.id,),
    ),
    "room": Part(
        select(
            rooms.c.room_id,
            rooms.c.kind,
            rooms.c.topic_name,
            rooms.c.title,
            rooms.c.purpose,
            rooms.c.is_private,
            members.c.role,
            members.c.joined_at,
            members.c.notify,
            members.c.quiet_until,
            members.c.favourite,
            members.c.section,
        )
        .join_from(members, rooms, rooms.c.id == members.c.room_id)
        .where(members.c.user_id == _USER),
        (members.c.room_id,),
    ),
    "read_marker": Part(
        select(rooms.c.room_id, read_markers.c.seq, read_markers.c.updated_at)
        .select_from(members)
        .join(rooms, rooms.c.id == members.c.room_id)
        .join(
            read_markers,
            and_(read_markers.c.room_id == members.c.room_id, read_markers.c.user_id == members.c.user_id),
        )
        .where(members.c.user_id == _USER),
        (members.c.room_id,),
    ),
    "thread": Part(
        select(rooms.c.room_id, thread_followers.c.seq, thread_followers.c.following, thread_followers.c.read)
        .join_from(thread_followers, rooms, rooms.c.id == thread_followers.c.room_id)
        .where(thread_followers.c.user_id == _USER),
        (thread_followers.c.room_id, thread_followers.c.seq),
    ),
    "cursor": Part(
        select(devices.c.name.label("device"), rooms.c.room_id, cursors.c.seq)
        .join_from(devices, cursors, cursors.c.device_id == devices.c.id)
        .join(rooms, rooms.c.id == cursors.c.room_id)
        .where(devices.c.user_id == _USER),
        (cursors.c.device_id, cursors.c.room_id),
    ),
    "block": Part(
        select(users.c.username, blocks.c.created_at)
        .join_from(blocks, users, users.c.id == blocks.c.blocked_id)
        .where(blocks.c.user_id == _USER),
        (blocks.c.blocked_id,),
    ),
    "invitation_link": Part(
        select(
            invitation_links.c.code,
            rooms.c.room_id,
            invitation_links.c.created_at,
            invitation_links.c.expires_at,
            invitation_links.c.uses_left,
        )
        .join_from(invitation_links, rooms, rooms.c.id == invitation_links.c.room_id)
        .where(invitation_links.c.user_id == _USER),
        (invitation_links.c.code,),
    ),
    "report": Part(
        select(rooms.c.room_id, reports.c.seq, reports.c.reason, reports.c.created_at)
        .join_from(reports, rooms, rooms.c.id == reports.c.room_id)
        .where(reports.c.user_id == _USER),
        (reports.c.id,),
    ),
    "file": Part(
        select(
            files.c.id,
            files.c.name,
            files.c.type.label("media_type"),
            files.c.size,
            files.c.created_at,
            files.c.expires_at,
            rooms.c.room_id,
            files.c.seq,
        )
        .outerjoin_from(files, rooms, rooms.c.id == files.c.room_id)
        .where(files.c.user_id == _USER, or_(files.c.expires_at.is_(None), files.c.expires_at > 0)),
        (files.c.id,),
    ),
    "echo": Part(
        select(echo_entries.c.direction, echo_entries.c.content, echo_entries.c.created_at).where(
            echo_entries.c.user_id == _USER
        ),
        (echo_entries.c.id,),
    ),
}
"""All kinds of records except messages and reactions."""


def page(
    conn: Connection, kind: str, user_key: int, after: Key | None, limit: int
) -> tuple[list[dict[str, Any]], Key | None]:
    """A page of one kind of record, and the key for the next page; None after the last page."""
    part = PARTS[kind]
    statement = part.select.add_columns(*(column.label(f"_{n}") for n, column in enumerate(part.key)))
    if after is not None:
        statement = statement.where(tuple_(*part.key) > tuple_(*after))
    rows = conn.execute(statement.order_by(*part.key).limit(limit), {"user": user_key}).mappings().all()
    records = [{name: value for name, value in row.items() if not name.startswith("_")} for row in rows]
    if len(rows) < limit or not part.key:
        return records, None
    return records, tuple(rows[-1][f"_{n}"] for n in range(len(part.key)))


_PLACE = (entries.c.room_id, entries.c.seq)
_FROM = tuple_(*_PLACE) > tuple_(bindparam("room", type_=BigInteger()), bindparam("seq", type_=BigInteger()))
_UPTO = tuple_(*_PLACE) <= tuple_(bindparam("to_room", type_=BigInteger()), bindparam("to_seq", type_=BigInteger()))
_END = select(*_PLACE).where(_FROM).order_by(*_PLACE).offset(bindparam("skipped")).limit(1)


class Written(NamedTuple):
    """A message of a user, or a reaction (whose `body` names the message)."""

    room_key: int
    seq: int
    kind: str
    room_id: str
    topic_name: str | None
    message_id: str | None
    client_id: str | None
    content: str | None
    reply_to: str | None
    thread: str | None
    body: str | None
    created_at: int
    edited_at: int | None
    deleted: bool
    data: str | None
    files: str | None


@cache
def _select_written(_dialect: str) -> Select[Any]:
    return (
        select(
            *_PLACE,
            entries.c.kind,
            rooms.c.room_id,
            rooms.c.topic_name,
            entries.c.message_id,
            entries.c.client_id,
            entries.c.content,
            entries.c.reply_to,
            entries.c.thread,
            entries.c.body,
            entries.c.created_at,
            entries.c.edited_at,
            entries.c.deleted,
            entries.c.data,
            entries.c.files,
        )
        .join_from(entries, rooms, rooms.c.id == entries.c.room_id)
        .where(_FROM, _UPTO, entries.c.sender_id == bindparam("user"))
        .where(or_(*(entries.c.kind == kind for kind in ("message", "event", "reaction"))))
        .order_by(*_PLACE)
    )


LAST = (2**62, 0)


def end_of_page(conn: Connection, after: tuple[int, int]) -> tuple[int, int]:
    """The position up to which one page examines the entries of all rooms; `LAST`: there are no more."""
    row = conn.execute(_END, {"room": after[0], "seq": after[1], "skipped": _SCANNED - 1}).first()
    return LAST if row is None else (row[0], row[1])


def written(conn: Connection, user_key: int, after: tuple[int, int]) -> tuple[list[Written], tuple[int, int] | None]:
    """The messages and reactions of a user after a position (room, seq), and the next position; None at the end.

    Reads the logs of all rooms, a part at a time: an index by sender would cost every message for a few exports, and
    there is no record of the rooms that a user has left.
    """
    start = {"room": after[0], "seq": after[1]}
    end = end_of_page(conn, after)
    written_entries: list[Written] = []
    size = 0
    with stepwise(conn, _select_written, {"user": user_key, **start, "to_room": end[0], "to_seq": end[1]}) as rows:
        for entry in map(Written._make, rows):
            size += sum(len(text or "") for text in (entry.content, entry.data, entry.files))
            if written_entries and size > _BYTES:
                return written_entries, (written_entries[-1].room_key, written_entries[-1].seq)
            written_entries.append(entry)
    return written_entries, None if end == LAST else end
