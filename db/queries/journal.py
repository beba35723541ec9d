"""The reads of the journal's transaction before it applies operations, and its writes afterwards.

A round trip to PostgreSQL costs as much as the rest of a message. So the usual batch takes four: one begins and locks
the rooms (`Database.write`, `locks`), one reads, one writes, one commits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import orjson
from sqlalchemy.engine import Connection

from db.connections import on_postgresql
from db.queries import feed, log, members, progress, rooms
from db.queries.members import Standing
from db.queries.progress import MarkerRow
from db.queries.rows import ENTRY_COLUMNS, ROOM_COLUMNS, EntryRow, RoomRow

Pair = tuple[int, int]
"""(room, user)"""
Claim = tuple[int, int, str]
"""(room, sender, client_id)"""


class Loaded(NamedTuple):
    rooms: dict[int, RoomRow]
    standings: dict[Pair, Standing]
    sent: dict[Claim, EntryRow]
    """The existing entries with the claims."""
    known_messages: set[tuple[int, str]]
    """The subset of `replies` that exists."""


def load(
    conn: Connection,
    keys: Sequence[int],
    pairs: Sequence[Pair],
    claims: Sequence[Claim],
    replies: Sequence[tuple[int, str]],
    now: int,
) -> Loaded:
    """Read locked rooms: their heads, the standings of users, and entries with the same claims.

    `replies`: (room, message_id) of messages that are replied to. `now`: ms since the epoch.
    """
    if conn.dialect.name == "sqlite":
        return Loaded(
            rooms.lock(conn, keys),
            members.standings(conn, pairs, now),
            log.sent(conn, claims) if claims else {},
            log.known_messages(conn, replies) if replies else set(),
        )
    values: list[Any] = [keys, [room for room, _ in pairs], [user for _, user in pairs], now]
    if claims or replies:
        values += [list(column) for column in zip(*claims, strict=True)] or [[], [], []]
        values.append([message_id for _, message_id in replies])
    (row,) = on_postgresql(conn, _load(with_sent=len(values) > 4), *values)
    room_rows, roles, banned, sent, known = (orjson.loads(column) if column else [] for column in row)
    standings = {(room, user): Standing(role, False, until, blocked) for room, user, role, until, blocked in roles}
    standings |= {(room, user): Standing(None, True) for room, user in banned if (room, user) not in standings}
    entries = [EntryRow(*entry_row) for entry_row in sent]
    return Loaded(
        {room_row[0]: RoomRow(*room_row) for room_row in room_rows},
        standings,
        {(entry.room_key, entry.sender_key, entry.client_id or ""): entry for entry in entries},
        {(room, message_id) for room, message_id in known},
    )


@cache
def _load(*, with_sent: bool) -> str:
    def rows(columns: str, source: str) -> str:
        return f"(SELECT json_agg(json_build_array({columns}))::text FROM {source})"

    pairs = "unnest($2::bigint[], $3::bigint[]) AS pair (room, person) JOIN"
    sent = known = "NULL"
    if with_sent:
        claims = "unnest($5::bigint[], $6::bigint[], $7::text[]) AS claim (room, person, client)"
        sent = rows(
            ", ".join(f'"{column.table.name}".{column.name}' for column in ENTRY_COLUMNS),
            f"{claims} JOIN entry ON entry.room_id = room AND entry.sender_id = person AND entry.client_id = client"
            ' JOIN "user" ON "user".id = entry.sender_id',
        )
        known = rows("room_id, message_id", "entry WHERE message_id = ANY($8::text[])")
    return "SELECT " + ", ".join(
        (
            rows(", ".join(column.name for column in ROOM_COLUMNS), "room WHERE id = ANY($1::bigint[])"),
            rows(
                "room_id, user_id, role, muted_until, blocked",
                f"{pairs} member ON room_id = room AND user_id = person",
            ),
            rows(
                "room_id, user_id",
                f"{pairs} ban ON room_id = room AND user_id = person AND (expires_at IS NULL OR expires_at > $4)",
            ),
            sent,
            known,
        )
    )


def save(
    conn: Connection,
    entries: Sequence[EntryRow],
    heads: Sequence[RoomRow],
    markers: Mapping[Pair, MarkerRow],
    now: int,
) -> None:
    """Write appended entries, the heads of rooms, and read markers (forwards only).

    The other nodes learn of the heads by the feed.
    """
    if conn.dialect.name == "sqlite":
        if entries:
            log.add(conn, entries)
        if heads:
            rooms.save_heads(conn, heads)
        if markers:
            progress.save_markers(conn, markers, now)
        return
    if not (entries or heads or markers):
        return
    entry_rows = [(*entry[:5], *entry[6:16]) for entry in entries]
    marker_rows = sorted((*pair, *marker) for pair, marker in markers.items())
    head_rows = [
        (room.key, room.last_seq, room.messages, room.last_message_seq, room.members, room.removals) for room in heads
    ]
    changes = feed.body(heads=[(room.key, room.last_seq, room.removals) for room in heads]) if heads else None
    on_postgresql(
        conn,
        _SAVE,
        *_columns(entry_rows, 15),
        *_columns(head_rows, 6),
        *_columns(marker_rows, 4),
        now,
        feed.node_of(conn),
        changes,
    )


def _columns(rows: Sequence[Sequence[Any]], count: int) -> list[list[Any]]:
    return [[row[index] for row in rows] for index in range(count)]


_ENTRY_TYPES = ("bigint", "bigint", "text", "text", "bigint", "text", "text", "text", "text", "bigint", "bigint",
                "bigint", "boolean", "bigint", "text")  # fmt: skip
_SAVE = f"""
WITH appended AS (
    INSERT INTO entry ({log.COLUMNS})
    SELECT * FROM unnest({", ".join(f"${number}::{kind}[]" for number, kind in enumerate(_ENTRY_TYPES, 1))})
), moved AS (
    INSERT INTO read_marker (room_id, user_id, seq, messages, updated_at)
    SELECT room, person, to_seq, count, $26::bigint
    FROM unnest($22::bigint[], $23::bigint[], $24::bigint[], $25::bigint[]) AS marker (room, person, to_seq, count)
    ON CONFLICT (room_id, user_id) DO UPDATE
    SET seq = excluded.seq, messages = excluded.messages, updated_at = excluded.updated_at
    WHERE excluded.seq > read_marker.seq
), told AS (
    {feed.INSERT.format("$27::text", "$28::text")} WHERE $28::text IS NOT NULL
)
UPDATE room SET last_seq = head.last, messages = head.count, last_message_seq = head.newest, members = head.size,
    removals = head.removed
FROM unnest($16::bigint[], $17::bigint[], $18::bigint[], $19::bigint[], $20::bigint[], $21::bigint[])
    AS head (room, last, count, newest, size, removed)
WHERE room.id = head.room
"""
