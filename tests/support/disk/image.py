"""Checks of the database that remains after a power cut."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from tests.support.disk.recording import Acknowledged


def violations(database: Path, acknowledged: Iterable[Acknowledged]) -> list[str]:
    """Open the database like the next server; returns any damage and any lost acknowledged message."""
    promised = list(acknowledged)
    if not database.exists():
        return ["there is no database"] if promised else []
    try:
        with closing(sqlite3.connect(database)) as conn:
            conn.execute("PRAGMA synchronous = OFF")
            wrong = [f"damaged: {row[0]}" for row in conn.execute("PRAGMA integrity_check") if row[0] != "ok"]
            wrong += [f"refers to nothing: {row}" for row in conn.execute("PRAGMA foreign_key_check")]
            if not conn.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'entry'").fetchone()[0]:
                return [*wrong, *(["there are no tables"] if promised else [])]
            conn.execute("INSERT INTO search_words (search_words) VALUES ('integrity-check')")
            conn.rollback()
            entries = conn.execute(
                "SELECT message_id, seq, content FROM entry WHERE message_id IS NOT NULL"
            ).fetchall()
            gaps = conn.execute(
                "SELECT entry.room_id, count(*), max(seq), last_seq FROM entry JOIN room ON room.id = entry.room_id"
                " GROUP BY entry.room_id HAVING count(*) != max(seq) OR max(seq) != last_seq"
            ).fetchall()
    except sqlite3.Error as error:
        return [f"cannot be read: {error}"]
    wrong += [f"the log has gaps: {gap}" for gap in gaps]
    stored = {message_id: (seq, content) for message_id, seq, content in entries}
    return wrong + [f"lost: {ack}" for ack in promised if stored.get(ack.message_id) != (ack.seq, ack.content)]
