"""Locks of PostgreSQL that another program holds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg


@asynccontextmanager
async def locked(url: str, room_id: str) -> AsyncIterator[None]:
    """Lock the room's row from another connection, with the strictest row lock."""
    conn = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        async with conn.transaction():
            assert await conn.fetch("SELECT 1 FROM room WHERE room_id = $1 FOR UPDATE", room_id)
            yield
    finally:
        await conn.close()
