"""A node that keeps topics for ten days, and methods that age entries and run its retention."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.engine import Connection as Transaction

from tests.support.node import RunningNode, running_node
from tidings.log.retention import DAY_MS, now_ms
from tidings_db.models import entries, rooms


@dataclass
class Kept:
    """A node, with methods that age entries and run its retention."""

    server: RunningNode

    async def age(self, room_id: str, upto: int, days: int = 20) -> None:
        """Date the entries of a room up to a seq so many days back."""

        def change(conn: Transaction) -> None:
            room = select(rooms.c.id).where(rooms.c.room_id == room_id).scalar_subquery()
            old = update(entries).where(entries.c.room_id == room, entries.c.seq <= upto)
            conn.execute(old.values(created_at=now_ms() - days * DAY_MS))

        await self.server.node.database.write(change)

    async def run_retention(self, days: int = 0) -> None:
        """Run the retention once, as it would run so many days from now."""
        await self.server.node.retention.run_once(now_ms() + days * DAY_MS)

    async def trim(self, room_id: str, upto: int) -> None:
        await self.age(room_id, upto)
        await self.run_retention()

    async def stored(self, room_id: str) -> list[int]:
        """The seqs that a room still has."""

        def read(conn: Transaction) -> list[int]:
            seqs = select(entries.c.seq).join_from(entries, rooms, rooms.c.id == entries.c.room_id)
            return list(conn.scalars(seqs.where(rooms.c.room_id == room_id).order_by(entries.c.seq)))

        return await self.server.node.database.read(read)

    async def count(self, table: object) -> int:
        def read(conn: Transaction) -> int:
            return int(conn.execute(select(func.count()).select_from(table)).scalar_one())  # type: ignore[arg-type]

        return await self.server.node.database.read(read)


@pytest.fixture
async def kept(database_url: str, tmp_path: Path) -> AsyncIterator[Kept]:
    async with running_node(database_url, tmp_path, retention_topic_days=10) as server:
        yield Kept(server)
