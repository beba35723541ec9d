"""Messages that stream: their text so far, and those that nobody has finished."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, func, literal_column, select
from sqlalchemy.engine import Connection

from tidings_db.connections import on_driver, on_postgresql
from tidings_db.models import entries


class Text(NamedTuple):
    """All of the text so far of a message."""

    room_key: int
    seq: int
    content: str


_IS_STREAMING: ColumnElement[bool] = literal_column("entry.state IN ('streaming', 'stopping')")
# Only text that continues what is stored: another node may have stored more, or an edit something else.
_STORE_IN_SQLITE = """
UPDATE entry SET content = ?4 WHERE room_id = ?1 AND seq = ?2 AND sender_id = ?3
AND state IN ('streaming', 'stopping') AND substr(?4, 1, length(content)) = content RETURNING state
"""
_STORE_IN_POSTGRESQL = """
UPDATE entry SET content = text.content
FROM unnest($1::bigint[], $2::bigint[], $3::text[]) AS text (room_id, seq, content)
WHERE entry.room_id = text.room_id AND entry.seq = text.seq AND sender_id = $4
AND state IN ('streaming', 'stopping') AND starts_with(text.content, entry.content)
RETURNING entry.room_id, entry.seq, state
"""


def store(conn: Connection, author_key: int, texts: Sequence[Text]) -> dict[tuple[int, int], str]:
    """Store texts of an author that continue what is stored. Returns the states of those messages, by (room, seq).

    The rooms are locked.
    """
    if conn.dialect.name == "sqlite":
        states = {}
        for room_key, seq, content in texts:
            for (state,) in on_driver(conn, _STORE_IN_SQLITE, (room_key, seq, author_key, content)):
                states[room_key, seq] = state
        return states
    room_keys, seqs, contents = ([text[column] for text in texts] for column in range(3))
    rows = on_postgresql(conn, _STORE_IN_POSTGRESQL, room_keys, seqs, contents, author_key)
    return {(room_key, seq): state for room_key, seq, state in rows}


class OpenStream(NamedTuple):
    """A message that is streaming, and the number of characters that are stored of it."""

    room_key: int
    seq: int
    length: int


def streaming(conn: Connection) -> list[OpenStream]:
    """All messages that are streaming."""
    columns = entries.c.room_id, entries.c.seq, func.length(entries.c.content)
    return [OpenStream(*row) for row in conn.execute(select(*columns).where(_IS_STREAMING))]
