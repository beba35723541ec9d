"""How many members of a room are online on other nodes, counted for those who ask for a room.

The members of a small room are read, and compared with the users online in memory. That is less work than to count
them in the database, where it takes longer the more users are online. In larger rooms the database counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress

from sqlalchemy.engine import Connection as Transaction

from tidings_db.engine import Database, StoreUnavailable
from tidings_db.queries import members, online
from tidings_db.queries.rows import RoomRow
from tidings_db.read_batcher import ReadBatcher

COUNT_S = 1.0
"""How long a count is used."""
PATIENCE_S = 0.5
"""The longest wait for the database: then the last count is used."""
MAX_ROOMS = 10_000
"""Rooms whose counts are kept."""
SMALL = 200
"""Members of a small room."""


class RoomCounts:
    def __init__(
        self,
        database: Database,
        node: str,
        nodes: Callable[[], Collection[str]],
        only_elsewhere: Callable[[Iterable[int]], Collection[int]],
    ) -> None:
        """
        Args:
            node: the id of this node.
            nodes: returns the ids of the other nodes on which users are online.
            only_elsewhere: returns those of the users who are online on other nodes, but not on this one.
        """
        self._node = node
        self._nodes = nodes
        self._only_elsewhere = only_elsewhere
        self._counts: dict[int, tuple[int, float]] = {}
        """Room -> count, and when it was counted. The oldest first."""
        self._reads = ReadBatcher(database, self._count)

    def elsewhere(self, room_key: int) -> int:
        """How many members are online on other nodes, but not on this one, as of the last count; 0 without one."""
        return self._counts[room_key][0] if self._nodes() and room_key in self._counts else 0

    async def refresh(self, rooms: Iterable[RoomRow]) -> None:
        """Count rooms, unless they were counted a moment ago. Takes no longer than `PATIENCE_S`; never raises."""
        if not self._nodes():
            return
        now = asyncio.get_running_loop().time()
        outdated = [
            room for room in rooms if room.key not in self._counts or now - self._counts[room.key][1] > COUNT_S
        ]
        if not outdated:
            return
        with suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                counts = await self._reads.read(outdated)
            for room in outdated:
                self._counts.pop(room.key, None)
                self._counts[room.key] = counts.get(room.key, 0), now
            while len(self._counts) > MAX_ROOMS:
                del self._counts[next(iter(self._counts))]

    def _count(self, conn: Transaction, requests: Sequence[Collection[RoomRow]]) -> list[dict[int, int]]:
        small = {room.key for request in requests for room in request if room.members <= SMALL}
        large = {room.key for request in requests for room in request if room.members > SMALL}
        counts = online.count(conn, large, self._nodes(), self._node) if large else {}
        for room_key, user_keys in (members.users_of(conn, small) if small else {}).items():
            counts[room_key] = len(self._only_elsewhere(user_keys))
        return [counts] * len(requests)
