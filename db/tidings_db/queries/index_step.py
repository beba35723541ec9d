"""A step of the search index on PostgreSQL: one statement to read it, and one to write it.

The index runs beside the messages, and a round trip costs the server more than the step's other work.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy.engine import Connection

from tidings_db.connections import on_postgresql

Moves = dict[int, tuple[int, int]]
"""Room -> the cursor before and after."""

_READ_STEP = """
WITH place AS (
    SELECT id, seq, last_seq, low,
        low + greatest(0, least(ahead, $3::bigint + ahead - sum(ahead) OVER (ORDER BY id)))::bigint AS high
    FROM (
        SELECT room.id, coalesce(consumed.seq, 0) AS seq, last_seq, low, greatest(0, last_seq - low) AS ahead
        FROM room
        LEFT JOIN consumer_cursor AS consumed ON consumed.room_id = room.id AND consumed.consumer = $1
        CROSS JOIN LATERAL (SELECT greatest(consumed.seq, first_seq - 1, 0) AS low) AS bounds
        WHERE room.id = ANY($2::bigint[])
    ) AS room
), change AS (
    SELECT place.id, place.seq, last_seq, high, entry.seq AS position, entry.kind, entry.created_at, entry.content,
        entry.files, entry.deleted, target.seq AS target_seq, target.content AS target_content,
        target.files AS target_files, target.deleted AS target_deleted,
        coalesce(target.sender_id, entry.sender_id) AS sender,
        coalesce(length(CASE WHEN entry.kind = 'message' THEN entry.content ELSE target.content END), 0) AS size
    FROM place
    LEFT JOIN entry ON entry.room_id = id AND entry.seq > low AND entry.seq <= high
    LEFT JOIN LATERAL (
        SELECT * FROM entry AS target
        WHERE room_id = id AND target.seq = entry.target_seq AND entry.kind IN ('edit', 'finish', 'delete') OFFSET 0
    ) AS target ON true
)
SELECT id, seq, last_seq, high, position, kind, created_at, CASE WHEN read <= $4 THEN content END, files, deleted,
    target_seq, CASE WHEN read <= $4 THEN target_content END, target_files, target_deleted, sender, size
FROM (SELECT *, sum(size) OVER (ORDER BY id, position) - size AS read FROM change) AS change
ORDER BY id, position
"""
"""The parameters are those of `read`. A room without entries has one row."""


def read(
    conn: Connection, consumer: str, room_keys: Iterable[int], limit: int, max_bytes: int
) -> tuple[Moves, dict[int, tuple[int, int]], list[Sequence[Any]]]:
    """The moves over the next entries of some rooms, up to `limit`, the rooms (cursor, last_seq), and the entries.

    An entry is (room, seq, kind, created_at, content, files, deleted), then (seq, content, files, deleted) of the
    message that it edits or deletes, then the sender and the length of the content. Contents that follow the first
    `max_bytes` are left out.
    """
    rows = on_postgresql(conn, _READ_STEP, consumer, sorted(room_keys), limit, max_bytes)
    moves = {key: (seq, high) for key, seq, _, high, *_ in rows if high > seq}
    cursors = {key: (seq, last_seq) for key, seq, last_seq, *_ in rows}
    return moves, cursors, [(row[0], *row[4:]) for row in rows if row[4] is not None]


_WRITE_STEP = """
WITH move AS (
    SELECT * FROM unnest($2::bigint[], $3::bigint[], $4::bigint[]) AS move (room_id, low, high)
), free AS MATERIALIZED (
    SELECT id FROM room WHERE id = ANY($2) ORDER BY id FOR KEY SHARE SKIP LOCKED
), consumed AS MATERIALIZED (
    SELECT room_id, seq FROM consumer_cursor
    WHERE consumer = $1 AND room_id = ANY($2) AND room_id IN (SELECT id FROM free)
    ORDER BY room_id FOR UPDATE SKIP LOCKED
), advanced AS (
    UPDATE consumer_cursor SET seq = high
    FROM move JOIN consumed ON consumed.room_id = move.room_id AND consumed.seq = low
    WHERE consumer_cursor.consumer = $1 AND consumer_cursor.room_id = ANY($2)
        AND consumer_cursor.room_id = consumed.room_id
    RETURNING consumer_cursor.room_id
), begun AS (
    INSERT INTO consumer_cursor (room_id, consumer, seq)
    SELECT room_id, $1, high FROM move JOIN free ON id = room_id
    WHERE low = 0 AND NOT EXISTS (
        SELECT FROM consumer_cursor AS present WHERE present.consumer = $1 AND present.room_id = move.room_id
    )
    ORDER BY room_id ON CONFLICT DO NOTHING
    RETURNING room_id
), moved AS MATERIALIZED (
    SELECT room_id FROM advanced UNION ALL SELECT room_id FROM begun
), document AS MATERIALIZED (
    SELECT * FROM unnest($5::bigint[], $6::bigint[], $7::text[])
        WITH ORDINALITY AS document (room_id, seq, words, place)
    WHERE room_id IN (SELECT room_id FROM moved)
), numbered AS (
    INSERT INTO search_document (room_id, seq) SELECT room_id, seq FROM document ORDER BY place
    RETURNING id, room_id, seq
), indexed AS (
    INSERT INTO search_words (id, words)
    SELECT id, words::tsvector FROM numbered JOIN document USING (room_id, seq) WHERE words IS NOT NULL
)
SELECT room_id FROM moved
"""
"""The parameters are the consumer, the moves (rooms, from, to), and the added documents (rooms, seqs, words).

Rows written with a cursor refer to its room: to avoid deadlocks, the room is locked before the cursor.
"""


def write(
    conn: Connection,
    consumer: str,
    moves: Mapping[int, tuple[int, int]],
    documents: Iterable[tuple[int, int, str | None]],
) -> set[int]:
    """Move cursors, and add documents (room, seq, words as the text of a `tsvector`). Returns the rooms that moved.

    In the other rooms the cursor is being moved elsewhere (another node, retention): nothing is written for them.
    """
    by_room = [(key, *move) for key, move in sorted(moves.items())]
    values = [[row[column] for row in rows] for rows in (by_room, list(documents)) for column in range(3)]
    return {key for (key,) in on_postgresql(conn, _WRITE_STEP, consumer, *values)}
