"""The reads of the journal's transaction before it applies operations, and its writes afterwards.

A round trip to PostgreSQL costs as much as the rest of a message. So the usual batch takes one: messages are applied
to what they probably read, and written by one statement that locks the rooms and compares (`if_unchanged`; a message
on its own has a shorter one, `tidings_db.queries.one_message`). Any other batch takes four: one begins and locks the
rooms (`Locks`), one reads, one writes, one commits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import count
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from sqlalchemy.engine import Connection

from tidings_db.connections import NOW_MS, Statement, on_postgresql
from tidings_db.queries import feed, log, members, progress, rooms
from tidings_db.queries.feed import MembershipChange
from tidings_db.queries.members import MemberStanding
from tidings_db.queries.progress import MarkerRow
from tidings_db.queries.rows import ENTRY_COLUMNS, ROOM_COLUMNS, STORED, EntryRow, RoomRow, stored

if TYPE_CHECKING:
    from asyncpg import Record  # a server on SQLite starts without asyncpg

Pair = tuple[int, int]
"""(room, user)"""
SendKey = tuple[int, int, str]
"""(room, sender, client_id)"""
NOBODY = MemberStanding(None, False)

HEAD = ("id", "last_seq", "messages", "last_message_seq", "members", "removals", "changes")
"""The columns of a room's head, behind its key; all are of the type `bigint`, as are those of a marker."""
head: Callable[[RoomRow], tuple[Any, ...]] = attrgetter("key", *HEAD[1:])
"""The values of `HEAD`."""
MARKER = ("room_id", "user_id", "seq", "messages")


class Needed(NamedTuple):
    """The rows that a batch reads. No repeats; the rooms in the order of their keys."""

    rooms: Sequence[int]
    pairs: Sequence[Pair]
    """Whose standings."""
    sends: Sequence[SendKey]
    """Of messages with a `client_id`."""
    replies: Sequence[tuple[int, str]]
    """(room, message_id) of messages that are replied to."""
    sessions: Sequence[int]
    """Of those who act, sorted."""


class Loaded(NamedTuple):
    now: int
    """ms since the epoch. By PostgreSQL's clock, or the time of the last entry if that is later: so times do not go
    back in a room, whichever node writes. On SQLite by the node's clock."""
    rooms: dict[int, RoomRow]
    standings: dict[Pair, MemberStanding]
    sent: dict[SendKey, EntryRow]
    """The existing entries of `sends`."""
    known_messages: set[tuple[int, str]]
    """The subset of `replies` that exists."""
    withdrawn: set[int]
    """The subset of `sessions` that was withdrawn, or whose user is disabled. On SQLite empty: its only server closes
    their connections itself."""


class Writes(NamedTuple):
    """The rows that a batch writes."""

    entries: Sequence[EntryRow]
    heads: Sequence[RoomRow]
    markers: Mapping[Pair, MarkerRow]
    """Read markers; they only move forwards."""
    memberships: Sequence[MembershipChange] = ()
    """Changes of members and roles, for the other nodes."""


def load(conn: Connection, needed: Needed, now: int) -> Loaded:
    """Read locked rooms: their heads, the standings of users, and entries that were sent before.

    `now`: ms since the epoch by the node's clock, for SQLite.
    """
    if conn.dialect.name == "sqlite":
        return Loaded(
            now,
            rooms.lock(conn, needed.rooms),
            members.standings(conn, needed.pairs, now),
            log.sent(conn, needed.sends) if needed.sends else {},
            log.known_messages(conn, needed.replies) if needed.replies else set(),
            set(),
        )
    sql, values = loading(needed)
    (row,) = on_postgresql(conn, sql, *values)
    return loaded(row)


def loading(needed: Needed) -> Statement:
    """The statement of `load` on PostgreSQL; its row is for `loaded`."""
    with_sent = bool(needed.sends or needed.replies)
    return Statement(_loading(with_sent), _needs(needed, with_sent))


def loaded(row: Record) -> Loaded:
    def rows(name: str) -> Any:
        found = row.get(name)
        return orjson.loads(found) if found else ()

    entries = [EntryRow(*entry_row) for entry_row in rows("sent")]
    return Loaded(
        row["now"],
        {room_row[0]: RoomRow(*room_row) for room_row in rows("rooms")},
        {
            (room, user): MemberStanding(role, banned, until, blocked)
            for room, user, role, banned, until, blocked in rows("standings")
            if role or banned
        },
        {(entry.room_key, entry.sender_key, entry.client_id or ""): entry for entry in entries},
        {(room, message_id) for room, message_id in rows("known_messages")},
        set(rows("withdrawn")),
    )


def if_unchanged(needed: Needed, expected: Loaded, writes: Writes, node: str) -> Statement:
    """The statement that locks the rooms, and writes only if `load` would return `expected`, or an earlier time.

    Its row is whether it has `written`, and the time (`now`); if not, also what else is there (for `loaded`), without
    rooms that another transaction has locked.

    A statement does not see what is committed after its beginning, except in the rows that it locks. So a standing
    may have changed by the time that the room is locked, but the room's log has not: its head is compared as locked.
    The messages then stand in the log where they would if they had been written just before that change.
    """
    with_sent = bool(needed.sends or needed.replies)
    compared = [orjson.dumps(rows).decode() for rows in _rows(needed, expected, with_sent)]
    values = [*_needs(needed, with_sent), *compared, *_written(writes, expected.now, node)]
    return Statement(_if_unchanged(with_sent), values)


def _needs(needed: Needed, with_sent: bool) -> list[Any]:
    values: list[Any] = [needed.rooms, *_columns(needed.pairs, 2), needed.sessions]
    if with_sent:
        values += [*_columns(needed.sends, 3), [message_id for _, message_id in needed.replies]]
    return values


def _rows(needed: Needed, expected: Loaded, with_sent: bool) -> list[list[Any]]:
    """The expected values of the columns of `_found`."""
    rooms: list[Any] = [tuple(expected.rooms[key]) for key in needed.rooms]
    standings: list[Any] = [
        (*pair, standing.role, standing.banned, standing.muted_until, standing.blocked)
        for pair in needed.pairs
        for standing in (expected.standings.get(pair, NOBODY),)
    ]
    found = [rooms, standings, sorted(expected.withdrawn)]
    if with_sent:
        found += [[entry.selected for entry in expected.sent.values()], sorted(expected.known_messages)]
    return found


def _found(rooms_locked: str, with_sent: bool) -> Mapping[str, str]:
    """Expressions for what a batch reads, by the parameters of `_needs`: rows as JSON, named as in `Loaded`.

    `rooms_locked`: the source of the rooms.
    """

    def rows(columns: str, source: str, order: str) -> str:
        return f"coalesce((SELECT jsonb_agg(jsonb_build_array({columns}) ORDER BY {order}) FROM {source}), '[]')"

    def each(table: str, condition: str) -> str:
        # OFFSET makes it a look-up for each row. A join that is planned while the table is small scans all of it.
        return f"LATERAL (SELECT * FROM {table} WHERE {condition} OFFSET 0) AS {table}"

    in_force = "(expires_at IS NULL OR expires_at > (SELECT now FROM clock))"
    found = {
        "rooms": rows(", ".join(column.name for column in ROOM_COLUMNS), rooms_locked, "id"),
        "standings": rows(
            "room, person, role, role IS NULL AND ban.user_id IS NOT NULL, muted_until, coalesce(blocked, false)",
            "unnest($2::bigint[], $3::bigint[]) WITH ORDINALITY AS pair (room, person, place)"
            f" LEFT JOIN {each('member', 'room_id = room AND user_id = person')} ON true"
            f" LEFT JOIN {each('ban', f'room_id = room AND user_id = person AND {in_force}')} ON true",
            "place",
        ),
        "withdrawn": "coalesce((SELECT jsonb_agg(key ORDER BY key) FROM unnest($4::bigint[]) AS key WHERE NOT"
        ' coalesce((SELECT revoked_at IS NULL AND NOT (SELECT disabled FROM "user" WHERE "user".id = session.user_id)'
        " FROM session WHERE session.id = key), false)), '[]')",
    }
    if with_sent:
        sent = "room_id = room AND sender_id = person AND client_id = client"
        sends = "unnest($5::bigint[], $6::bigint[], $7::text[]) AS send (room, person, client)"
        found |= {
            "sent": rows(
                ", ".join(f'"{column.table.name}".{column.name}' for column in ENTRY_COLUMNS),
                f"{sends} JOIN {each('entry', sent)} ON true"
                f""" JOIN {each('"user"', "id = entry.sender_id")} ON true""",
                "room, seq",
            ),
            "known_messages": rows(
                "room_id, message_id",
                "entry WHERE message_id = ANY($8::text[]) AND kind <> 'event'",
                'room_id, message_id COLLATE "C"',
            ),
        }
    return found


def _clock(rooms_locked: str) -> str:
    """A CTE with `Loaded.now`, and the time of the last entry in the rooms."""
    return f"""clock AS MATERIALIZED (
    SELECT greatest({NOW_MS}, last_at) AS now, last_at
    FROM (
        SELECT coalesce(max((
            SELECT created_at FROM entry WHERE entry.room_id = head.id AND entry.seq = head.last_seq
        )), 0) AS last_at
        FROM (SELECT id, last_seq FROM {rooms_locked}) AS head
    ) AS last
)"""


@cache
def _loading(with_sent: bool) -> str:
    locked = "room WHERE id = ANY($1::bigint[])"
    found = ", ".join(f"{rows}::text AS {name}" for name, rows in _found(locked, with_sent).items())
    return f"WITH {_clock(locked)} SELECT now, {found} FROM clock"


@cache
def _if_unchanged(with_sent: bool) -> str:
    found = _found("locked", with_sent)
    first = 9 if with_sent else 5  # behind the parameters of `_needs`
    same = " AND ".join(f"{name} = ${number}::text::jsonb" for number, name in enumerate(found, first))
    writes = first + len(found)
    now = writes + len(STORED) + len(HEAD) + len(MARKER)
    rows = ", ".join(f"{rows} AS {name}" for name, rows in found.items())
    shown = ", ".join(f"CASE WHEN NOT same THEN {name}::text END AS {name}" for name in found)
    return f"""
WITH locked AS MATERIALIZED (
    SELECT * FROM room WHERE id = ANY($1::bigint[]) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
), {_clock("locked")}, found AS MATERIALIZED (
    SELECT now, last_at, {rows} FROM clock
), compared AS MATERIALIZED (
    SELECT *, last_at <= ${now}::bigint AND {same} AS same FROM found
), {_writing(writes, "(SELECT same FROM compared)")}
SELECT same AS written, now, {shown} FROM compared
"""


def save(conn: Connection, writes: Writes, now: int) -> None:
    """Write appended entries, the heads of rooms, and read markers.

    The other nodes learn of the heads, and of changes of members, by the feed.
    """
    entries, heads, markers, _ = writes
    if conn.dialect.name == "sqlite":
        if entries:
            log.add(conn, entries)
        if heads:
            rooms.save_heads(conn, heads)
        if markers:
            progress.save_markers(conn, markers, now)
    elif entries or heads or markers:
        on_postgresql(conn, _SAVE, *_written(writes, now, feed.node_of(conn)))


def _written(writes: Writes, now: int, node: str) -> list[Any]:
    entries, heads, markers, _ = writes
    marker_rows = sorted((*pair, *marker) for pair, marker in markers.items())
    return [
        *_columns([stored(entry) for entry in entries], len(STORED)),
        *_columns([head(room) for room in heads], len(HEAD)),
        *_columns(marker_rows, len(MARKER)),
        now,
        node,
        changes(writes) if heads else None,
    ]


def changes(writes: Writes) -> str:
    """The body of the feed's row."""
    heads = [(room.key, room.last_seq, room.removals) for room in writes.heads]
    return feed.body(heads=heads, memberships=writes.memberships)


def _columns(rows: Sequence[Sequence[Any]], width: int) -> list[list[Any]]:
    return [[row[index] for row in rows] for index in range(width)]


def _writing(first: int, condition: str) -> str:
    """The writes, as CTEs under a condition. `first`: the number of the first parameter of `_written`."""

    def arrays(kinds: Iterable[str]) -> str:
        return f"unnest({', '.join(f'{next(parameters)}::{kind}[]' for kind in kinds)})"

    parameters = (f"${number}" for number in count(first))
    entries, heads, markers = (
        arrays(kinds) for kinds in (STORED.values(), ["bigint"] * len(HEAD), ["bigint"] * len(MARKER))
    )
    now, node, body = (f"{next(parameters)}::{kind}" for kind in ("bigint", "text", "text"))
    assignments = ", ".join(f"{name} = head.{name}" for name in HEAD[1:])
    return f"""appended AS (
    INSERT INTO entry ({", ".join(STORED)}) SELECT * FROM {entries} WHERE {condition}
), advanced AS (
    UPDATE room SET {assignments} FROM {heads} AS head ({", ".join(HEAD)}) WHERE room.id = head.id AND {condition}
), moved AS (
    INSERT INTO read_marker ({", ".join(MARKER)}, updated_at)
    SELECT marker.*, {now} FROM {markers} AS marker WHERE {condition}
    ON CONFLICT (room_id, user_id) DO UPDATE
    SET seq = excluded.seq, messages = excluded.messages, updated_at = excluded.updated_at
    WHERE excluded.seq > read_marker.seq
), feed_row AS (
    {feed.INSERT.format(node, body)} WHERE {body} IS NOT NULL AND {condition}
)"""


_SAVE = f"WITH {_writing(1, 'true')} SELECT"
