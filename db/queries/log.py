"""The log: entries, cursors and read markers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Select, and_, bindparam, func, insert, select
from sqlalchemy.engine import Connection

from db.engine import on_driver
from db.models import cursors, devices, entries, members, read_markers, rooms, users
from db.queries.rows import (
    EntryRow,
    change,
    chunked,
    fetch,
    insert_or,
    relation,
    select_entries,
    stepwise,
    up_to_bytes,
    values_of,
)

_COLUMNS = (
    "room_id, seq, kind, message_id, sender_id, client_id, content, reply_to, body, messages, created_at, "
    "edited_at, deleted"
)
_INSERT_IN_SQLITE = f"INSERT INTO entry ({_COLUMNS}) VALUES ({', '.join('?' * 13)})"


def add(conn: Connection, new: Sequence[EntryRow]) -> None:
    if conn.dialect.name == "sqlite":  # on the path of every message: without the detour over dictionaries
        on_driver(conn, _INSERT_IN_SQLITE, [(*entry[:5], *entry[6:]) for entry in new], many=True)
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
    rows = [EntryRow._make(row) for row in fetch(conn, _select_sent, {"claims": values_of(claims)})]
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
        return up_to_bytes(rows, max_bytes)[0]


class Span(NamedTuple):
    """Entries `after` < seq <= `upto` of a room."""

    room_key: int
    after: int
    upto: int


@cache
def _select_spans(dialect: str) -> Select[Any]:
    span = relation(dialect, "spans", room_key=int, low=int, high=int)
    within = and_(entries.c.room_id == span.c.room_key, entries.c.seq > span.c.low, entries.c.seq <= span.c.high)
    mine = and_(members.c.room_id == span.c.room_key, members.c.user_id == bindparam("user"))
    return select_entries().join(span, within).join(members, mine).order_by(entries.c.room_id, entries.c.seq)


@cache
def _select_span(_dialect: str) -> Select[Any]:
    """As `_select_spans`, for one: the table's own order will do, so nothing is sorted."""
    mine = and_(members.c.room_id == bindparam("room"), members.c.user_id == bindparam("user"))
    return (
        select_entries()
        .join(members, mine)
        .where(entries.c.room_id == bindparam("room"), entries.c.seq > bindparam("low"))
        .where(entries.c.seq <= bindparam("high"))
        .order_by(entries.c.seq)
    )


def spans(
    conn: Connection, user_key: int, wanted: Sequence[Span], max_bytes: int
) -> tuple[list[Span], list[EntryRow]]:
    """The entries of several rooms at once, by room and seq; nothing of a room that the user is not in.

    No more than `max_bytes` of them, but one at least. Returns the spans as far as they were read, then the entries.
    """
    asked: dict[str, Any]
    if len(wanted) == 1:
        room_key, low, high = wanted[0]
        build, asked = _select_span, {"user": user_key, "room": room_key, "low": low, "high": high}
    else:
        build, asked = _select_spans, {"user": user_key, "spans": values_of(wanted)}
    with stepwise(conn, build, asked) as rows:
        found, more = up_to_bytes(rows, max_bytes)
    if not more:
        return list(wanted), found
    last = found[-1]
    read = [span for span in sorted(wanted) if span.room_key <= last.room_key]
    if read[-1].room_key == last.room_key:
        read[-1] = read[-1]._replace(upto=last.seq)
    return read, found


@cache
def _save_cursors(dialect: str) -> Any:
    statement = insert_or(dialect, cursors).values(
        device_id=bindparam("device"), room_id=bindparam("room"), seq=bindparam("to")
    )
    return statement.on_conflict_do_update(
        index_elements=["device_id", "room_id"],
        set_={"seq": statement.excluded.seq},
        where=statement.excluded.seq > cursors.c.seq,
    )


def save_cursors(conn: Connection, moved: Mapping[tuple[int, int], int]) -> None:
    """Move cursors, (device, room) -> seq, forwards only."""
    change(
        conn,
        _save_cursors,
        [{"device": device, "room": room, "to": to} for (device, room), to in sorted(moved.items())],
    )


def reset_cursors(conn: Connection, device_key: int, to: Mapping[int, int]) -> None:
    """Set cursors, room -> seq, also backwards: the log they pointed into is not the one there is."""
    statement = insert_or(conn.dialect.name, cursors).values(
        device_id=device_key, room_id=bindparam("room"), seq=bindparam("to")
    )
    conn.execute(
        statement.on_conflict_do_update(
            index_elements=["device_id", "room_id"], set_={"seq": statement.excluded.seq}
        ),
        [{"room": room, "to": seq} for room, seq in sorted(to.items())],
    )


class MarkerRow(NamedTuple):
    seq: int
    messages: int


_MESSAGES_UPTO = select(entries.c.messages).where(
    entries.c.room_id == bindparam("room"), entries.c.seq == bindparam("seq")
)
_MARKER = select(read_markers.c.seq, read_markers.c.messages).where(
    read_markers.c.room_id == bindparam("room"), read_markers.c.user_id == bindparam("user")
)


def messages_upto(conn: Connection, room_key: int, seq: int) -> int:
    """How many messages the log holds up to a seq: one look-up, not a count."""
    found = conn.execute(_MESSAGES_UPTO, {"room": room_key, "seq": seq}).scalar()
    return 0 if found is None else int(found)


def marker(conn: Connection, room_key: int, user_key: int) -> MarkerRow:
    row = conn.execute(_MARKER, {"room": room_key, "user": user_key}).first()
    return MarkerRow(0, 0) if row is None else MarkerRow(*row)


@cache
def _save_markers(dialect: str) -> Any:
    statement = insert_or(dialect, read_markers).values(
        room_id=bindparam("room"),
        user_id=bindparam("user"),
        seq=bindparam("to"),
        messages=bindparam("count"),
        updated_at=bindparam("now"),
    )
    new = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=["room_id", "user_id"],
        set_={"seq": new.seq, "messages": new.messages, "updated_at": new.updated_at},
        where=new.seq > read_markers.c.seq,
    )


def save_markers(conn: Connection, moved: Mapping[tuple[int, int], MarkerRow], now: int) -> None:
    """Move read markers, (room, user) -> marker, forwards only."""
    change(
        conn,
        _save_markers,
        [
            {"room": room, "user": user, "to": moved_to.seq, "count": moved_to.messages, "now": now}
            for (room, user), moved_to in sorted(moved.items())
        ],
    )


class ReceiptRow(NamedTuple):
    room_key: int
    room_id: str
    members: int
    user_key: int
    username: str
    delivered_seq: int
    read_seq: int


_FURTHEST = (
    select(func.max(cursors.c.seq))
    .join_from(devices, cursors, cursors.c.device_id == devices.c.id)
    .where(devices.c.user_id == members.c.user_id, cursors.c.room_id == members.c.room_id)
    .correlate(members)
    .scalar_subquery()
)
_SELECT_RECEIPTS = (
    select(
        rooms.c.id,
        rooms.c.room_id,
        rooms.c.members,
        users.c.id,
        users.c.username,
        func.coalesce(_FURTHEST, members.c.joined_seq),
        func.coalesce(read_markers.c.seq, 0),
    )
    .select_from(members)
    .join(rooms, rooms.c.id == members.c.room_id)
    .join(users, users.c.id == members.c.user_id)
    .outerjoin(
        read_markers,
        and_(read_markers.c.room_id == members.c.room_id, read_markers.c.user_id == members.c.user_id),
    )
)


@cache
def _select_receipts(dialect: str) -> Select[Any]:
    pair = relation(dialect, "pairs", room_key=int, user_key=int)
    within = and_(members.c.room_id == pair.c.room_key, members.c.user_id == pair.c.user_key)
    return _SELECT_RECEIPTS.join(pair, within)


_RECEIPTS_SINCE = _SELECT_RECEIPTS.where(
    members.c.user_id == bindparam("user"), read_markers.c.updated_at >= bindparam("since")
)


def receipts(conn: Connection, pairs: Iterable[tuple[int, int]]) -> list[ReceiptRow]:
    """How far users, as (room, user), have received and read; nothing for who is not a member."""
    rows = conn.execute(_select_receipts(conn.dialect.name), {"pairs": values_of(pairs)})
    return [ReceiptRow(*row) for row in rows]


def receipts_since(conn: Connection, user_key: int, since: int) -> list[ReceiptRow]:
    """The user's own receipts in the rooms whose read marker moved at or after a time (ms)."""
    return [ReceiptRow(*row) for row in conn.execute(_RECEIPTS_SINCE, {"user": user_key, "since": since})]
