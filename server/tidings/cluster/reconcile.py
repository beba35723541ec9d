"""Reconciles connections with the memberships in the database, wherever a change of another node was noticed.

A change is a hint to look. What counts is the membership that the database has at the time of the look: lost, late
and repeated hints lead to the same state.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Final

from sqlalchemy.engine import Connection as Transaction

from tidings.fanout.catchup import CatchUp
from tidings.fanout.connection import Connection
from tidings.fanout.hub import Hub
from tidings.supervision import spawn
from tidings_db.engine import Database, StoreUnavailable
from tidings_db.queries import members, rooms
from tidings_db.queries.rooms import Snapshot
from tidings_db.queries.rows import chunked

logger = logging.getLogger("tidings.reconcile")

RETRY_S = 0.5
"""The pause after the database could not be read."""
ARRIVING_S = 0.05
"""The pause before another look at a connection that is arriving: it reads its memberships itself."""
PER_READ = 100
"""Memberships that one transaction reads."""
USERS_PER_READ = 500

Pair = tuple[int, int]
"""(room, user)"""
NO_REASONS: Final[Mapping[Pair, str]] = {}


class Reconciler:
    def __init__(self, database: Database, hub: Hub, catch_up: CatchUp) -> None:
        self._db = database
        self._hub = hub
        self._catch_up = catch_up
        self._pending: dict[Pair, None] = {}
        self._reasons: dict[Pair, str] = {}
        """Why memberships have ended, as far as it is known."""
        self._applied: set[Pair] = set()
        """Memberships that were changed here during the read that is under way, which may be older."""
        self._all_pending = False
        self._task: asyncio.Task[None] | None = None
        hub.when_moved = self.applied

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def reconcile(self, pairs: Iterable[Pair], reasons: Mapping[Pair, str] = NO_REASONS) -> None:
        """Look at these memberships, of users who are connected here. `reasons`: why some of them have ended."""
        for pair in pairs:
            if self._hub.connections_of(pair[1]):
                self._pending[pair] = None
                if pair in reasons:
                    self._reasons[pair] = reasons[pair]
        self._start()

    def reconcile_room(self, room_key: int, reason: str) -> None:
        """Look at the memberships of a room's connected users. `reason`: why they have ended."""
        pairs = [(room_key, user_key) for user_key in self._hub.users_in(room_key)]
        self.reconcile(pairs, dict.fromkeys(pairs, reason))

    def reconcile_all(self) -> None:
        """Look at all memberships of the connected users."""
        self._all_pending = True
        self._start()

    def applied(self, room_key: int, user_key: int) -> None:
        """A membership was changed here: what is being read may be older."""
        if self._task is not None:
            self._applied.add((room_key, user_key))

    async def settled(self) -> None:
        """Wait until everything has been looked at."""
        while self._task is not None:
            await asyncio.wait([self._task])

    def _start(self) -> None:
        if self._task is None and (self._pending or self._all_pending):
            self._task = spawn(self._run(), "reconciling memberships")

    async def _run(self) -> None:
        try:
            while self._pending or self._all_pending:
                pause_s = 0.0
                try:
                    if self._all_pending:
                        self._all_pending = False
                        await self._find_differences()
                    pairs = list(self._pending)[:PER_READ]
                    self._applied.clear()
                    snapshots = await self._db.read(partial(_read, pairs=pairs)) if pairs else {}
                    for pair in pairs:
                        del self._pending[pair]
                        if self._apply(pair, snapshots.get(pair)):
                            self._reasons.pop(pair, None)
                        else:
                            self._pending[pair] = None  # behind the others
                            pause_s = ARRIVING_S
                except StoreUnavailable:
                    pause_s = RETRY_S
                except Exception:
                    logger.exception("memberships could not be reconciled; it is tried again")
                    pause_s = RETRY_S
                if pause_s:
                    await asyncio.sleep(pause_s)
        finally:
            self._task = None
        self._start()

    async def _find_differences(self) -> None:
        """Compare all connected users with the database, and put those memberships in the queue that differ."""
        try:
            for user_keys in chunked(list(self._hub.user_keys), USERS_PER_READ):
                joined = await self._db.read(partial(members.rooms_of, user_keys=user_keys))
                for user_key in user_keys:
                    connections = self._hub.connections_of(user_key)
                    here = {key for connection in connections for key in connection.rooms}
                    there = joined.get(user_key, set())
                    shown = {key for key in there if not all(key in connection.rooms for connection in connections)}
                    self._pending.update(((key, user_key), None) for key in (here - there) | shown)
        except BaseException:
            self._all_pending = True
            raise

    def _apply(self, pair: Pair, snapshot: Snapshot | None) -> bool:
        """Bring the connections of a user in line with a membership; False: look again."""
        if pair in self._applied or (snapshot is not None and self._hub.is_outdated(snapshot.room)):
            return False
        live_room = self._hub.live_rooms.get(pair[0])
        if live_room is not None and not live_room.is_fenced and live_room.repairing is not None:
            return False  # a removal is among the entries that are about to be delivered, behind earlier ones
        connections = self._hub.connections_of(pair[1])
        for connection in connections:
            if not connection.has_ended() and connection.deferred is None:
                self._update_connection(connection, pair[0], snapshot)
        return all(connection.has_ended() or connection.deferred is None for connection in connections)

    def _update_connection(self, connection: Connection, room_key: int, snapshot: Snapshot | None) -> None:
        hub = self._hub
        position = connection.rooms.get(room_key)
        reason = self._reasons.get((room_key, connection.principal.user_key), "gone")
        if snapshot is None or snapshot.role is None or snapshot.joined_seq is None:
            if position is not None:
                hub.removed(connection, reason, room_key)
            return
        if position is not None:
            known = hub.live_rooms[room_key].attached[connection]
            if known >= snapshot.joined_removals:
                return
            hub.removed(connection, reason, room_key)  # an earlier membership
        # A replay for an earlier membership may have continued behind the later one's begin.
        self._catch_up.add(connection, snapshot, max(snapshot.joined_seq, position or 0))


def _read(conn: Transaction, pairs: Sequence[Pair]) -> Mapping[Pair, Snapshot]:
    """Rooms as users see them. Rooms that do not exist are missing."""
    by_user: dict[int, list[int]] = {}
    for room_key, user_key in pairs:
        by_user.setdefault(user_key, []).append(room_key)
    return {
        (room_key, user_key): snapshot
        for user_key, room_keys in by_user.items()
        for room_key, snapshot in rooms.snapshots(conn, user_key, room_keys).items()
    }
