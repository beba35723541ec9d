"""Who is online: transient. Changes are collected for a moment, and told together.

A user is online while any connection lives. Who comes back within the moment is told of once: as online.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from functools import partial

from db.engine import Database, StoreUnavailable
from db.queries import users
from server.contract.models import timestamp
from server.delivery.broker import Broker, Change, PresenceChanged, RoomChannel
from server.delivery.connection import Connection
from server.delivery.hub import Hub

PRESENCE_S = 0.25
"""Changes are collected for so long."""


class _Pending:
    __slots__ = ("at", "rooms", "unknown", "username")

    def __init__(self, username: str) -> None:
        self.username = username
        self.unknown = False
        """To some of those who are told: they are told even if nothing has changed."""
        self.rooms: set[int] = set()
        self.at = 0


class Presence:
    def __init__(self, database: Database, broker: Broker, hub: Hub, *, presence_s: float = PRESENCE_S) -> None:
        self._db = database
        self._broker = broker
        self._hub = hub
        self._presence_s = presence_s
        self._online: set[int] = set()
        """Who was told to be online."""
        self._pending: dict[int, _Pending] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._telling: set[asyncio.Task[None]] = set()
        self._blocks = 0
        """Counts how often somebody was blocked, or a block was taken back."""
        hub.went = self._went
        hub.entered = self._entered

    async def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for task in list(self._telling):
            task.cancel()
        if self._telling:
            await asyncio.wait(set(self._telling))

    def blocked(self) -> None:
        """Somebody has blocked somebody, or taken it back: call it before the other is told."""
        self._blocks += 1

    def came(self, connection: Connection) -> None:
        """A connection is in its rooms now."""
        user_key = connection.principal.user_key
        if user_key in self._pending or user_key not in self._online:
            self._note(connection, list(connection.rooms))

    def _went(self, connection: Connection, room_keys: Sequence[int]) -> None:
        # If they are back by then: who asked before or after knows them otherwise.
        self._note(connection, room_keys).unknown = True

    def _entered(self, connection: Connection, room_key: int) -> None:
        # Its members may have shared no room with them until now.
        self._note(connection, [room_key]).unknown = True

    def _note(self, connection: Connection, room_keys: Sequence[int]) -> _Pending:
        user_key = connection.principal.user_key
        pending = self._pending.get(user_key)
        if pending is None:
            pending = self._pending[user_key] = _Pending(connection.principal.username)
        pending.at = time.time_ns() // 1_000_000
        pending.rooms.update(key for key in room_keys if self._hub.shows_presence(key))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._presence_s, self._begin_telling)
        return pending

    def _begin_telling(self) -> None:
        self._timer = None
        pending, self._pending = self._pending, {}
        task = asyncio.create_task(self._tell(pending))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _tell(self, pending: Mapping[int, _Pending]) -> None:
        online = await self._broker.who_is_online(pending)
        changed = {
            key: one for key, one in pending.items() if (key in online) is not (key in self._online) or one.unknown
        }
        self._online = (self._online - pending.keys()) | online
        if not changed:
            return
        try:
            blocks = None
            while blocks != self._blocks:  # who was blocked meanwhile has been told last of the other's going
                blocks = self._blocks
                hidden = await self._db.read(partial(users.blocked_of, user_keys=list(changed)))
        except StoreUnavailable:
            return  # rather nothing than what somebody is not to know
        rooms: dict[int, list[Change]] = {}
        for user_key, one in changed.items():
            is_online = user_key in online
            payload = {
                "username": one.username,
                "online": is_online,
                "last_seen": None if is_online else timestamp(one.at),
            }
            change = Change(user_key, payload, frozenset(hidden.get(user_key, ())))
            for room_key in one.rooms:
                rooms.setdefault(room_key, []).append(change)
        for room_key, changes in rooms.items():
            self._broker.publish(RoomChannel(room_key), PresenceChanged(room_key, changes))
