"""Fill a topic's log: `python fill.py DATA_DIR ROOM_ID COUNT [EVERY_S]`, while no server runs on it.

The last message is of now, each other of `EVERY_S` seconds before the one below it: of one second, if not given.
Written into the database, because a hundred thousand acknowledged messages would take a test longer than it has.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from pathlib import Path


def fill(database: Path, room_id: str, count: int, every_s: int = 1) -> None:
    now = time.time_ns() // 1_000_000
    with sqlite3.connect(database) as conn:
        room, sender = conn.execute(
            "SELECT room.id, member.user_id FROM room JOIN member ON member.room_id = room.id WHERE room.room_id = ?",
            (room_id,),
        ).fetchone()
        conn.executemany(
            "INSERT INTO entry (room_id, seq, kind, message_id, sender_id, content, messages, created_at, deleted)"
            " VALUES (?, ?, 'message', ?, ?, ?, ?, ?, 0)",
            (
                (room, seq, f"filled-{room}-{seq:09}", sender, text(seq), seq, now - (count - seq) * every_s * 1000)
                for seq in range(1, count + 1)
            ),
        )
        conn.execute(
            "UPDATE room SET last_seq = ?, messages = ?, last_message_seq = ? WHERE id = ?", (*[count] * 3, room)
        )
        # As if search knew them already: that it learns of so many is measured elsewhere.
        conn.execute(
            "INSERT OR REPLACE INTO consumer_cursor (room_id, consumer, seq) VALUES (?, 'search', ?)", (room, count)
        )
    conn.close()


def text(seq: int) -> str:
    return f"message-{seq:06} " + "and so on " * (seq * 7919 % 23)


if __name__ == "__main__":
    fill(Path(sys.argv[1]) / "tidings.db", sys.argv[2], *map(int, sys.argv[3:]))
