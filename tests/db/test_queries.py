"""Query functions return the same on SQLite and on PostgreSQL."""

from __future__ import annotations

from sqlalchemy import Connection, update

from tests.db.rows import add_room
from tidings_db import models
from tidings_db.engine import Database
from tidings_db.queries import rooms


async def test_heads_returns_the_last_seq_of_each_existing_room(database: Database) -> None:
    def fill(conn: Connection) -> None:
        for number in (1, 2, 3):
            add_room(conn, number)
        conn.execute(update(models.rooms).where(models.rooms.c.id == 2).values(last_seq=7))

    await database.write(fill)
    assert await database.read(lambda conn: rooms.heads(conn, [1, 2, 4])) == {1: (0, 0), 2: (7, 0)}
    assert await database.read(lambda conn: rooms.heads(conn, [])) == {}
