"""The statement of `journal.if_unchanged` for one message to one room, in less than half of PostgreSQL's time.

It has no arrays and no JSON, and it does not say what it found instead: then `journal.if_unchanged` follows.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import Column

from tidings_db.connections import NOW_MS, Statement
from tidings_db.queries import feed, log
from tidings_db.queries.journal import ENTRY_TYPES, Loaded, Needed, Writes, changes, entry_values
from tidings_db.queries.rows import ROOM_COLUMNS


def if_unchanged(needed: Needed, expected: Loaded, writes: Writes, node: str) -> Statement | None:
    """The statement; its row is whether it has written, and the time (NULL if the room is locked or gone).

    None unless the batch writes one message of a member, by a session that is expected to be valid.
    """
    entries, heads, markers, memberships = writes
    if not len(entries) == len(heads) == len(markers) == len(needed.rooms) == len(needed.pairs) == 1:
        return None
    if memberships or expected.sent or expected.withdrawn or len(needed.sessions) > 1:
        return None
    if len(expected.known_messages) < len(needed.replies) or len(needed.claims) > 1 or len(needed.replies) > 1:
        return None
    (room_key,), (pair,), (entry,), (head,) = needed.rooms, needed.pairs, entries, heads
    standing = expected.standings.get(pair)
    marker = markers.get(pair)
    if standing is None or standing.role is None or marker is None or entry.room_key != room_key:
        return None
    with_sent = bool(needed.claims or needed.replies)
    values = [
        *expected.rooms[room_key],
        pair[1],
        standing.role,
        standing.muted_until,
        standing.blocked,
        needed.sessions[0] if needed.sessions else None,
        expected.now,
        *entry_values(entry),
        *(head.last_seq, head.messages, head.last_message_seq, head.members, head.removals, head.changes),
        *marker,
        node,
        changes(writes),
    ]
    if with_sent:
        values.append(needed.claims[0][2] if needed.claims else None)
        values.append(needed.replies[0][1] if needed.replies else None)
    return Statement(_if_unchanged(with_sent), values)


@cache
def _if_unchanged(with_sent: bool) -> str:
    count = 0

    def parameters(*kinds: str) -> list[str]:
        nonlocal count
        count += len(kinds)
        return [f"${number}::{kind}" for number, kind in enumerate(kinds, count - len(kinds) + 1)]

    room = parameters(*(_kind(column) for column in ROOM_COLUMNS))
    key = room[0]
    user, role, muted_until, blocked, session, now = parameters(
        *("bigint", "text", "bigint", "boolean", "bigint", "bigint")
    )
    entry = parameters(*ENTRY_TYPES)
    head = ("last_seq", "messages", "last_message_seq", "members", "removals", "changes")
    head_values = parameters(*["bigint"] * len(head))
    marker_seq, marker_messages = parameters("bigint", "bigint")
    node, body = parameters("text", "text")
    conditions = [
        f"last_at <= {now}",
        *(
            f"{column.name} {'IS NOT DISTINCT FROM' if column.nullable else '='} {value}"
            for column, value in zip(ROOM_COLUMNS[1:], room[1:], strict=True)
        ),
        # The role of a member is not NULL, and a member is not banned.
        f"coalesce((SELECT role = {role} AND muted_until IS NOT DISTINCT FROM {muted_until} AND blocked = {blocked}"
        f" FROM member WHERE room_id = {key} AND user_id = {user}), false)",
        f"({session} IS NULL OR coalesce((SELECT revoked_at IS NULL AND NOT"
        f' (SELECT disabled FROM "user" WHERE "user".id = session.user_id)'
        f" FROM session WHERE session.id = {session}), false))",
    ]
    if with_sent:
        client_id, reply_to = parameters("text", "text")
        conditions += [
            f"NOT EXISTS (SELECT FROM entry"
            f" WHERE room_id = {key} AND sender_id = {user} AND client_id = {client_id})",
            f"({reply_to} IS NULL OR EXISTS (SELECT FROM entry WHERE message_id = {reply_to} AND room_id = {key}))",
        ]
    assignments = ", ".join(f"{name} = {value}" for name, value in zip(head, head_values, strict=True))
    return f"""
WITH locked AS MATERIALIZED (
    SELECT * FROM room WHERE id = {key} FOR NO KEY UPDATE SKIP LOCKED
), compared AS MATERIALIZED (
    SELECT greatest({NOW_MS}, last_at) AS now, {" AND ".join(conditions)} AS same
    FROM (
        SELECT *, coalesce((
            SELECT created_at FROM entry WHERE entry.room_id = {key} AND entry.seq = locked.last_seq
        ), 0) AS last_at
        FROM locked OFFSET 0
    ) AS locked
), appended AS (
    INSERT INTO entry ({log.COLUMNS}) SELECT {", ".join(entry)} FROM compared WHERE same
), advanced AS (
    UPDATE room SET {assignments} WHERE id = {key} AND (SELECT same FROM compared)
), moved AS (
    INSERT INTO read_marker (room_id, user_id, seq, messages, updated_at)
    SELECT {key}, {user}, {marker_seq}, {marker_messages}, {now} FROM compared WHERE same
    ON CONFLICT (room_id, user_id) DO UPDATE
    SET seq = excluded.seq, messages = excluded.messages, updated_at = excluded.updated_at
    WHERE excluded.seq > read_marker.seq
), told AS (
    {feed.INSERT.format(node, body)} FROM compared WHERE same
)
SELECT coalesce((SELECT same FROM compared), false), (SELECT now FROM compared)
"""


def _kind(column: Column[Any]) -> str:
    """The type of a parameter that is compared with a column."""
    python_type = column.type.python_type
    return "boolean" if python_type is bool else "bigint" if python_type is int else "text"
