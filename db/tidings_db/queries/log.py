"""The log of a room: adding, rewriting and reading entries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from operator import itemgetter
from typing import Any, NamedTuple

import orjson
from sqlalchemy import (
    Select,
    Text,
    and_,
    bindparam,
    case,
    cast,
    func,
    insert,
    literal_column,
    not_,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.engine import Connection

from tidings_db.connections import fetch, on_driver, stepwise
from tidings_db.models import entries, members, users
from tidings_db.queries.rows import (
    STORED,
    EntryRow,
    RoomRow,
    chunked,
    entry_bytes,
    entry_columns,
    first_of,
    relation,
    select_entries,
    stored,
    up_to_bytes,
    values_of,
)

_INSERT_IN_SQLITE = f"INSERT INTO entry ({', '.join(STORED)}) VALUES ({', '.join('?' * len(STORED))})"


def add(conn: Connection, new: Sequence[EntryRow]) -> None:
    if conn.dialect.name == "sqlite":  # the hot path of messages: avoids dictionaries
        on_driver(conn, _INSERT_IN_SQLITE, [stored(entry) for entry in new], many=True)
        return
    conn.execute(insert(entries), [dict(zip(STORED, stored(entry), strict=True)) for entry in new])


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
    """The existing entries with these (room, sender, client_id)."""
    rows = [EntryRow(*row) for row in fetch(conn, _select_sent, {"claims": values_of(claims)})]
    return {(row.room_key, row.sender_key, row.client_id or ""): row for row in rows}


_KNOWN_MESSAGES = select(entries.c.room_id, entries.c.message_id).where(
    entries.c.message_id.in_(bindparam("ids", expanding=True)), entries.c.kind != "event"
)


def known_messages(conn: Connection, messages: Sequence[tuple[int, str]]) -> set[tuple[int, str]]:
    """The (room, message_id) pairs that exist, for these message ids."""
    existing: set[tuple[int, str]] = set()
    for chunk in chunked(messages):
        existing.update(conn.execute(_KNOWN_MESSAGES, {"ids": [message_id for _, message_id in chunk]}))
    return existing


@cache
def _select_at(dialect: str) -> Select[Any]:
    place = relation(dialect, "places", room_key=int, seq=int)
    return select_entries().join(place, and_(entries.c.room_id == place.c.room_key, entries.c.seq == place.c.seq))


def at(conn: Connection, places: Iterable[tuple[int, int]]) -> dict[tuple[int, int], EntryRow]:
    """The entries at the given (room, seq) pairs."""
    rows = conn.execute(_select_at(conn.dialect.name), {"places": values_of(places)})
    return {(row[0], row[1]): EntryRow(*row) for row in rows}


def with_targets(conn: Connection, entry_rows: Sequence[EntryRow]) -> list[EntryRow]:
    """Add to edits, deletions and reactions the current state of their message."""
    places = {(entry.room_key, entry.target_seq) for entry in entry_rows if entry.target_seq is not None}
    if not places:
        return list(entry_rows)
    messages = {(entry.room_key, entry.seq): entry for entry in entry_rows if entry.kind == "message"}
    elsewhere = [place for place in places if place not in messages]
    if elsewhere:
        messages |= at(conn, elsewhere)
    return [
        entry if entry.target_seq is None else entry._replace(target=messages.get((entry.room_key, entry.target_seq)))
        for entry in entry_rows
    ]


_MESSAGE = select_entries().where(entries.c.message_id == bindparam("message_id"), entries.c.kind != "event")
_MESSAGE_OF_MEMBER = _MESSAGE.join(
    members, and_(members.c.room_id == entries.c.room_id, members.c.user_id == bindparam("user"))
)


def message_of_member(conn: Connection, user_key: int | None, message_id: str) -> EntryRow | None:
    """A message of a room that the user is in; None: of any room.

    One query, so a missing message and membership take the same time.
    """
    if user_key is None:
        row = conn.execute(_MESSAGE, {"message_id": message_id}).first()
    else:
        row = conn.execute(_MESSAGE_OF_MEMBER, {"user": user_key, "message_id": message_id}).first()
    return None if row is None else EntryRow(*row)


_MESSAGES = select_entries().where(
    entries.c.message_id.in_(bindparam("message_ids", expanding=True)), entries.c.kind != "event"
)
_MESSAGES_OF_MEMBER = _MESSAGES.join(
    members, and_(members.c.room_id == entries.c.room_id, members.c.user_id == bindparam("user"))
)


def messages_of_member(conn: Connection, user_key: int | None, message_ids: Sequence[str]) -> list[EntryRow]:
    """Those of the messages that are in rooms of the user; None: in any room."""
    if user_key is None:
        rows = conn.execute(_MESSAGES, {"message_ids": message_ids})
    else:
        rows = conn.execute(_MESSAGES_OF_MEMBER, {"user": user_key, "message_ids": message_ids})
    return [EntryRow(*row) for row in rows]


_REWRITE = (
    update(entries)
    .where(entries.c.room_id == bindparam("at_room"), entries.c.seq == bindparam("at_seq"))
    .values(
        content=bindparam("new_content"),
        body=bindparam("new_body"),
        edited_at=bindparam("new_edited_at"),
        deleted=bindparam("new_deleted"),
        reactions=bindparam("new_reactions"),
        data=bindparam("new_data"),
        state=bindparam("new_state"),
        replies=bindparam("new_replies"),
        files=bindparam("new_files"),
    )
)


def rewrite(conn: Connection, message: EntryRow) -> None:
    """Replace a stored message by its new state."""
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
            "new_data": message.data,
            "new_state": message.state,
            "new_replies": message.replies,
            "new_files": message.files,
        },
    )


class PageOf(NamedTuple):
    """Which page of a room: the newest entries, those before a seq, or those after one; in seq order."""

    room_key: int
    before: int | None
    after: int | None
    limit: int
    max_bytes: int


def messages(
    conn: Connection, page: PageOf, *, thread: str | None = None, without_threads: bool = False
) -> tuple[list[EntryRow], bool]:
    """A page of messages, up to `max_bytes` but at least one; and whether there are more in its direction.

    `thread`: only the replies in the thread that this message began. `without_threads`: none that is such a reply.
    """
    among = "thread" if thread is not None else "no thread" if without_threads else None
    return _page(conn, "message", among, thread, page)


def events(conn: Connection, name: str | None, page: PageOf) -> tuple[list[EntryRow], bool]:
    """A page of application events, of one name or of all; otherwise as `messages`."""
    return _page(conn, "event", None if name is None else "name", name, page)


def _page(
    conn: Connection, kind: str, among: str | None, value: str | None, page: PageOf
) -> tuple[list[EntryRow], bool]:
    upwards = page.after is not None
    bound = page.after if page.after is not None else _END if page.before is None else page.before
    parameters = {"room": page.room_key, "seq": bound, "limit": page.limit + 1, "value": value}
    rows = conn.execute(_select_page(kind, among, upwards), parameters)
    found, more = first_of((EntryRow(*row) for row in rows), page.limit, page.max_bytes, entry_bytes)
    return (found if upwards else found[::-1]), more


_END = 2**62
_AMONG = {
    "name": entries.c.content == bindparam("value"),
    "thread": entries.c.thread == bindparam("value"),
    "no thread": entries.c.thread.is_(None),
}


@cache
def _select_page(kind: str, among: str | None, upwards: bool) -> Select[Any]:
    seq = entries.c.seq
    # The kind as a literal: a partial index is used only for its own.
    statement = select_entries().where(
        entries.c.room_id == bindparam("room"), entries.c.kind == literal_column(f"'{kind}'")
    )
    if among is not None:
        statement = statement.where(_AMONG[among])
    if upwards:
        return statement.where(seq > bindparam("seq")).order_by(seq).limit(bindparam("limit"))
    return statement.where(seq < bindparam("seq")).order_by(seq.desc()).limit(bindparam("limit"))


@cache
def _select_following(_dialect: str) -> Select[Any]:
    return (
        select_entries()
        .where(entries.c.room_id == bindparam("room"), entries.c.seq > bindparam("seq"))
        .order_by(entries.c.seq)
        .limit(bindparam("limit"))
    )


def after(conn: Connection, room_key: int, seq: int, limit: int, max_bytes: int) -> list[EntryRow]:
    """Entries of every kind after a seq, in seq order: up to `max_bytes`, but at least one."""
    parameters = {"room": room_key, "seq": seq, "limit": limit}
    with stepwise(conn, _select_following, parameters) as rows:
        entry_rows = up_to_bytes(rows, max_bytes)
    return _with_targets_within(conn, entry_rows, max_bytes)


def _with_targets_within(conn: Connection, entry_rows: list[EntryRow], max_bytes: int) -> list[EntryRow]:
    """Add the target messages to entries: up to `max_bytes`, but at least one entry."""
    if all(entry.target_seq is None for entry in entry_rows):
        return entry_rows
    complete: list[EntryRow] = []
    total = 0
    for chunk in chunked(entry_rows, 50):
        for entry in with_targets(conn, chunk):
            total += entry_bytes(entry)
            if complete and total > max_bytes:
                return complete
            complete.append(entry)
    return complete


class Span(NamedTuple):
    """Entries `after` < seq <= `upto` of a room."""

    room_key: int
    after: int
    upto: int


class MissedRow(NamedTuple):
    """An `EntryRow` with the columns that every message needs, and the other columns combined in `rest`.

    Each column of a row costs time, most messages need no other, and a device that was offline for long reads ten
    thousand of them.
    """

    room_key: int
    seq: int
    message_id: str | None
    sender: str
    content: str | None
    created_at: int
    rest: str | None
    """None for a plain message: not edited, not deleted, no reply, no `client_id` of the reader. Otherwise a JSON
    array of the other columns, for `entry_of`."""


_ALL = dict(zip(EntryRow._fields[:-1], entry_columns(), strict=True))  # `target` is not a column
_REST = tuple(name for name in _ALL if name not in MissedRow._fields)
_AS_ENTRY = itemgetter(*((*MissedRow._fields[:-1], *_REST, "target").index(name) for name in EntryRow._fields))
_PLAIN = and_(
    entries.c.kind == "message",
    not_(entries.c.deleted),
    or_(entries.c.client_id.is_(None), entries.c.sender_id != bindparam("user")),
    # A column added later makes an entry non-plain unless it is listed here.
    *(
        _ALL[name].is_(None)
        for name in _REST
        if name not in ("kind", "deleted", "client_id", "sender_key", "messages")
    ),
)


def select_missed(dialect: str) -> Select[Any]:
    """The select of `MissedRow`s for the parameter `user`."""
    json_array = func.json_array if dialect == "sqlite" else func.json_build_array
    target, sender = entries.alias("target"), users.alias("target_sender")
    changed = (
        select(cast(json_array(*entry_columns(target, sender)), Text))
        .join_from(target, sender, sender.c.id == target.c.sender_id)
        .where(target.c.room_id == entries.c.room_id, target.c.seq == entries.c.target_seq)
        .correlate(entries)
        .scalar_subquery()
    )
    rest = case((_PLAIN, null()), else_=cast(json_array(*(_ALL[name] for name in _REST), changed), Text))
    columns = [_ALL[name] for name in MissedRow._fields[:-1]]
    return select(*columns, rest).join_from(entries, users, users.c.id == entries.c.sender_id)


def entry_of(missed: MissedRow) -> EntryRow:
    """The entry of a row, with the message that it changed, if any."""
    if missed.rest is None:
        room_key, seq, message_id, sender, content, created_at, _ = missed
        return EntryRow(
            room_key, seq, "message", message_id, 0, sender, None, content, None, None, 0, created_at, None, False
        )
    *rest, changed = orjson.loads(missed.rest)
    if isinstance(changed, str):  # SQLite returns JSON as text
        changed = orjson.loads(changed)
    target = None if changed is None else EntryRow(*changed)
    return EntryRow._make(_AS_ENTRY((*missed[:-1], *rest, target)))


@cache
def _select_spans(dialect: str) -> Select[Any]:
    span = relation(dialect, "spans", room_key=int, low=int, high=int)
    within = and_(entries.c.room_id == span.c.room_key, entries.c.seq > span.c.low, entries.c.seq <= span.c.high)
    is_member = and_(members.c.room_id == span.c.room_key, members.c.user_id == bindparam("user"))
    return (
        select_missed(dialect).join(span, within).join(members, is_member).order_by(entries.c.room_id, entries.c.seq)
    )


@cache
def _select_span(dialect: str) -> Select[Any]:
    """`_select_spans` for one span: the order of the table suffices, so nothing is sorted."""
    is_member = and_(members.c.room_id == bindparam("room"), members.c.user_id == bindparam("user"))
    return (
        select_missed(dialect)
        .join(members, is_member)
        .where(entries.c.room_id == bindparam("room"), entries.c.seq > bindparam("low"))
        .where(entries.c.seq <= bindparam("high"))
        .order_by(entries.c.seq)
    )


@contextmanager
def missed(conn: Connection, user_key: int, spans: Sequence[Span]) -> Iterator[Iterable[Sequence[Any]]]:
    """The entries of several rooms, sorted by room and seq, without rooms that the user is not in.

    Each entry has the fields of a `MissedRow`; rows are read lazily.
    """
    parameters: dict[str, Any]
    if len(spans) == 1:
        room_key, low, high = spans[0]
        build, parameters = _select_span, {"user": user_key, "room": room_key, "low": low, "high": high}
    else:
        build, parameters = _select_spans, {"user": user_key, "spans": values_of(spans)}
    with stepwise(conn, build, parameters) as rows:
        yield rows


def read_up_to(spans: Iterable[Span], room_key: int, seq: int) -> list[Span]:
    """The parts of the spans that were read when `missed` has reached an entry."""
    read = [span for span in sorted(spans) if span.room_key <= room_key]
    if read[-1].room_key == room_key:
        read[-1] = read[-1]._replace(upto=seq)
    return read


def last_before(conn: Connection, room_key: int, ms: int) -> int:
    """The seq of a room's last entry before a time (ms); 0 if there is none. Takes longer the earlier that is."""
    last_seq = conn.execute(
        select(entries.c.seq)
        .where(entries.c.room_id == room_key, entries.c.created_at < ms)
        .order_by(entries.c.seq.desc())
        .limit(1)
    ).scalar()
    return last_seq or 0


_MESSAGES_UPTO = select(entries.c.messages).where(
    entries.c.room_id == bindparam("room"), entries.c.seq == bindparam("seq")
)


def messages_upto(conn: Connection, room: RoomRow, seq: int) -> int:
    """The number of messages in a room up to a seq: one look-up, not a count."""
    count = conn.execute(_MESSAGES_UPTO, {"room": room.key, "seq": seq}).scalar()
    return room.first_messages if count is None else int(count)
