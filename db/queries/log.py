"""The log of a room: its entries, as they are added, rewritten and read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from operator import itemgetter
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Select, Text, and_, bindparam, case, cast, func, insert, not_, null, or_, select, update
from sqlalchemy.engine import Connection

from db.models import entries, members, users
from db.queries.rows import (
    EntryRow,
    RoomRow,
    chunked,
    entry_bytes,
    entry_columns,
    fetch,
    relation,
    select_entries,
    stepwise,
    up_to_bytes,
    values_of,
)
from db.sqlite import on_driver

_COLUMNS = (
    "room_id, seq, kind, message_id, sender_id, client_id, content, reply_to, body, messages, created_at, "
    "edited_at, deleted, target_seq, reactions"
)
_INSERT_IN_SQLITE = f"INSERT INTO entry ({_COLUMNS}) VALUES ({', '.join('?' * 15)})"


def add(conn: Connection, new: Sequence[EntryRow]) -> None:
    if conn.dialect.name == "sqlite":  # on the path of every message: without the detour over dictionaries
        on_driver(conn, _INSERT_IN_SQLITE, [(*entry[:5], *entry[6:16]) for entry in new], many=True)
        return
    conn.execute(
        insert(entries),
        [
            {
                "room_id": entry.room_key,
                "seq": entry.seq,
                "kind": entry.kind,
                "message_id": entry.message_id,
                "sender_id": entry.sender_key,
                "client_id": entry.client_id,
                "content": entry.content,
                "reply_to": entry.reply_to,
                "body": entry.body,
                "messages": entry.messages,
                "created_at": entry.created_at,
                "edited_at": entry.edited_at,
                "deleted": entry.deleted,
                "target_seq": entry.target_seq,
                "reactions": entry.reactions,
            }
            for entry in new
        ],
    )


@cache
def _select_sent(dialect: str) -> Select[Any]:
    claim = relation(dialect, "claims", room_key=int, sender_key=int, client_id=str)
    same = and_(
        entries.c.room_id == claim.c.room_key,
        entries.c.sender_id == claim.c.sender_key,
        entries.c.client_id == claim.c.client_id,
    )
    return select_entries().join(claim, same)


def sent(conn: Connection, claims: Sequence[tuple[int, int, str]]) -> dict[tuple[int, int, str], EntryRow]:
    """What was appended before under these (room, sender, client_id)."""
    rows = [EntryRow(*row) for row in fetch(conn, _select_sent, {"claims": values_of(claims)})]
    return {(row.room_key, row.sender_key, row.client_id or ""): row for row in rows}


_KNOWN_MESSAGES = select(entries.c.room_id, entries.c.message_id).where(
    entries.c.message_id.in_(bindparam("ids", expanding=True))
)


def known_messages(conn: Connection, wanted: Sequence[tuple[int, str]]) -> set[tuple[int, str]]:
    """Those of the (room, message_id) pairs that exist."""
    found: set[tuple[int, str]] = set()
    for chunk in chunked(wanted):
        found.update(conn.execute(_KNOWN_MESSAGES, {"ids": [message_id for _, message_id in chunk]}))
    return found


@cache
def _select_at(dialect: str) -> Select[Any]:
    place = relation(dialect, "places", room_key=int, seq=int)
    return select_entries().join(place, and_(entries.c.room_id == place.c.room_key, entries.c.seq == place.c.seq))


def at(conn: Connection, places: Iterable[tuple[int, int]]) -> dict[tuple[int, int], EntryRow]:
    """The entries at some (room, seq)."""
    rows = conn.execute(_select_at(conn.dialect.name), {"places": values_of(places)})
    return {(row[0], row[1]): EntryRow(*row) for row in rows}


def with_targets(conn: Connection, found: Sequence[EntryRow]) -> list[EntryRow]:
    """Give the entries that changed a message that message as it is now."""
    places = {(entry.room_key, entry.target_seq) for entry in found if entry.target_seq is not None}
    if not places:
        return list(found)
    known = {(entry.room_key, entry.seq): entry for entry in found if entry.kind == "message"}
    elsewhere = [place for place in places if place not in known]
    if elsewhere:
        known |= at(conn, elsewhere)
    return [
        entry if entry.target_seq is None else entry._replace(target=known.get((entry.room_key, entry.target_seq)))
        for entry in found
    ]


_MESSAGE_OF_MEMBER = (
    select_entries()
    .join(members, and_(members.c.room_id == entries.c.room_id, members.c.user_id == bindparam("user")))
    .where(entries.c.message_id == bindparam("message_id"))
)


def message_of_member(conn: Connection, user_key: int, message_id: str) -> EntryRow | None:
    """A message of a room that the user is in. One look-up, whether there is no such message or no such member."""
    row = conn.execute(_MESSAGE_OF_MEMBER, {"user": user_key, "message_id": message_id}).first()
    return None if row is None else EntryRow(*row)


_REWRITE = (
    update(entries)
    .where(entries.c.room_id == bindparam("at_room"), entries.c.seq == bindparam("at_seq"))
    .values(
        content=bindparam("new_content"),
        body=bindparam("new_body"),
        edited_at=bindparam("new_edited_at"),
        deleted=bindparam("new_deleted"),
        reactions=bindparam("new_reactions"),
    )
)


def rewrite(conn: Connection, message: EntryRow) -> None:
    """Write a message as it is now; what it said before is gone."""
    conn.execute(
        _REWRITE,
        {
            "at_room": message.room_key,
            "at_seq": message.seq,
            "new_content": message.content,
            "new_body": message.body,
            "new_edited_at": message.edited_at,
            "new_deleted": message.deleted,
            "new_reactions": message.reactions,
        },
    )


_MESSAGES = select_entries().where(entries.c.room_id == bindparam("room"), entries.c.kind == "message")
_NEWEST = _MESSAGES.order_by(entries.c.seq.desc()).limit(bindparam("limit"))
_BEFORE = _NEWEST.where(entries.c.seq < bindparam("seq"))
_AFTER = _MESSAGES.where(entries.c.seq > bindparam("seq")).order_by(entries.c.seq).limit(bindparam("limit"))


def messages_before(conn: Connection, room_key: int, before: int | None, limit: int) -> list[EntryRow]:
    """The newest `limit` messages (before a seq), in seq order."""
    asked = {"room": room_key, "limit": limit}
    rows = conn.execute(_NEWEST, asked) if before is None else conn.execute(_BEFORE, asked | {"seq": before})
    return [EntryRow(*row) for row in reversed(rows.all())]


def messages_after(conn: Connection, room_key: int, after: int, limit: int) -> list[EntryRow]:
    """The oldest `limit` messages after a seq, in seq order."""
    rows = conn.execute(_AFTER, {"room": room_key, "seq": after, "limit": limit})
    return [EntryRow(*row) for row in rows]


@cache
def _select_following(_dialect: str) -> Select[Any]:
    return (
        select_entries()
        .where(entries.c.room_id == bindparam("room"), entries.c.seq > bindparam("seq"))
        .order_by(entries.c.seq)
        .limit(bindparam("limit"))
    )


def after(conn: Connection, room_key: int, seq: int, limit: int, max_bytes: int) -> list[EntryRow]:
    """Every kind of entry after a seq, in seq order: no more than `max_bytes` of them, but one at least."""
    asked = {"room": room_key, "seq": seq, "limit": limit}
    with stepwise(conn, _select_following, asked) as rows:
        found = up_to_bytes(rows, max_bytes)
    return _within(conn, found, max_bytes)


def _within(conn: Connection, found: list[EntryRow], max_bytes: int) -> list[EntryRow]:
    """Give entries their targets, up to `max_bytes` but one entry at least."""
    if all(entry.target_seq is None for entry in found):
        return found
    whole: list[EntryRow] = []
    total = 0
    for some in chunked(found, 50):
        for entry in with_targets(conn, some):
            total += entry_bytes(entry)
            if whole and total > max_bytes:
                return whole
            whole.append(entry)
    return whole


class Span(NamedTuple):
    """Entries `after` < seq <= `upto` of a room."""

    room_key: int
    after: int
    upto: int


class MissedRow(NamedTuple):
    """An `EntryRow` with the columns in front that every message needs, and the others together in `rest`.

    Most messages need no others, and each column of a row costs time: ten thousand of them are read for a device that
    was away for long.
    """

    room_key: int
    seq: int
    message_id: str | None
    sender: str
    content: str | None
    created_at: int
    rest: str | None
    """None for a plain message: not edited, not deleted, no answer, no `client_id` that is the reader's own.
    Otherwise a JSON array of the others, for `entry_of`."""


_ALL = dict(zip(EntryRow._fields[:-1], entry_columns(), strict=True))  # the last one, the target, is no column
_REST = tuple(name for name in _ALL if name not in MissedRow._fields)
_AS_ENTRY = itemgetter(*((*MissedRow._fields[:-1], *_REST, "target").index(name) for name in EntryRow._fields))
_PLAIN = and_(
    entries.c.kind == "message",
    not_(entries.c.deleted),
    or_(entries.c.client_id.is_(None), entries.c.sender_id != bindparam("user")),
    # Whatever else an entry may come to hold is not plain.
    *(
        _ALL[name].is_(None)
        for name in _REST
        if name not in ("kind", "deleted", "client_id", "sender_key", "messages")
    ),
)


def _select_missed(dialect: str) -> Select[Any]:
    together = func.json_array if dialect == "sqlite" else func.json_build_array
    target, sender = entries.alias("target"), users.alias("target_sender")
    changed = (
        select(cast(together(*entry_columns(target, sender)), Text))
        .join_from(target, sender, sender.c.id == target.c.sender_id)
        .where(target.c.room_id == entries.c.room_id, target.c.seq == entries.c.target_seq)
        .correlate(entries)
        .scalar_subquery()
    )
    rest = case((_PLAIN, null()), else_=cast(together(*(_ALL[name] for name in _REST), changed), Text))
    columns = [_ALL[name] for name in MissedRow._fields[:-1]]
    return select(*columns, rest).join_from(entries, users, users.c.id == entries.c.sender_id)


def entry_of(missed: MissedRow) -> EntryRow:
    """Of any row; of one that is not plain, with the message that it changed."""
    if missed.rest is None:
        room_key, seq, message_id, sender, content, created_at, _ = missed
        return EntryRow(
            room_key, seq, "message", message_id, 0, sender, None, content, None, None, 0, created_at, None, False
        )
    *rest, changed = orjson.loads(missed.rest)
    if isinstance(changed, str):  # SQLite knows that it is JSON already
        changed = orjson.loads(changed)
    target = None if changed is None else EntryRow(*changed)
    return EntryRow._make(_AS_ENTRY((*missed[:-1], *rest, target)))


@cache
def _select_spans(dialect: str) -> Select[Any]:
    span = relation(dialect, "spans", room_key=int, low=int, high=int)
    within = and_(entries.c.room_id == span.c.room_key, entries.c.seq > span.c.low, entries.c.seq <= span.c.high)
    mine = and_(members.c.room_id == span.c.room_key, members.c.user_id == bindparam("user"))
    return _select_missed(dialect).join(span, within).join(members, mine).order_by(entries.c.room_id, entries.c.seq)


@cache
def _select_span(dialect: str) -> Select[Any]:
    """As `_select_spans`, for one: the table's own order will do, so nothing is sorted."""
    mine = and_(members.c.room_id == bindparam("room"), members.c.user_id == bindparam("user"))
    return (
        _select_missed(dialect)
        .join(members, mine)
        .where(entries.c.room_id == bindparam("room"), entries.c.seq > bindparam("low"))
        .where(entries.c.seq <= bindparam("high"))
        .order_by(entries.c.seq)
    )


@contextmanager
def missed(conn: Connection, user_key: int, wanted: Sequence[Span]) -> Iterator[Iterable[Sequence[Any]]]:
    """The entries of several rooms at once, by room and seq; nothing of a room that the user is not in.

    Each as the fields of a `MissedRow`, read no further than it is looked at.
    """
    asked: dict[str, Any]
    if len(wanted) == 1:
        room_key, low, high = wanted[0]
        build, asked = _select_span, {"user": user_key, "room": room_key, "low": low, "high": high}
    else:
        build, asked = _select_spans, {"user": user_key, "spans": values_of(wanted)}
    with stepwise(conn, build, asked) as rows:
        yield rows


def read_up_to(wanted: Iterable[Span], room_key: int, seq: int) -> list[Span]:
    """What has been read of the spans when reading what was `missed` has come to an entry."""
    read = [span for span in sorted(wanted) if span.room_key <= room_key]
    if read[-1].room_key == room_key:
        read[-1] = read[-1]._replace(upto=seq)
    return read


def last_before(conn: Connection, room_key: int, ms: int) -> int:
    """seq of a room's last entry that was made before a time; 0 if there is none. Reads those after it."""
    found = conn.execute(
        select(entries.c.seq)
        .where(entries.c.room_id == room_key, entries.c.created_at < ms)
        .order_by(entries.c.seq.desc())
        .limit(1)
    ).scalar()
    return found or 0


_MESSAGES_UPTO = select(entries.c.messages).where(
    entries.c.room_id == bindparam("room"), entries.c.seq == bindparam("seq")
)


def messages_upto(conn: Connection, room: RoomRow, seq: int) -> int:
    """How many messages were sent to a room up to a seq: one look-up, not a count."""
    found = conn.execute(_MESSAGES_UPTO, {"room": room.key, "seq": seq}).scalar()
    return room.first_messages if found is None else int(found)
