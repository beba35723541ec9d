"""Presence: which users are online. Changes are collected for `PRESENCE_S` and published together.

A user is online while any connection lives. A user who comes back within that time is published once, as online.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial

from db.engine import Database, StoreUnavailable
from db.queries import users
from server.contract.models import timestamp
from server.fanout.announcer import Announcer
from server.fanout.broker import Broker
from server.fanout.connection import Connection
from server.fanout.live_room import LiveRoom
from server.log.notices import PresenceChanged, RoomChannel, UserPresence
from server.supervision import cancelled_from_within, spawn

logger = logging.getLogger("tidings.presence")

PRESENCE_S = 0.25
"""How long changes are collected."""
RETRY_S = 1.0
"""The pause before another attempt to publish changes after a failure."""


class _Pending:
    __slots__ = ("changed_at", "rooms", "unknown", "username")

    def __init__(self, username: str) -> None:
        self.username = username
        self.unknown = False
        """Whether some members may not know the user's presence: it is published even if nothing has changed."""
        self.rooms: set[int] = set()
        self.changed_at = 0
        """ms since the epoch."""


class PresenceTracker:
    """Publishes one set of changes at a time, so that the last one is the newest. Retries after a failure."""

    def __init__(
        self,
        database: Database,
        broker: Broker,
        live_rooms: Mapping[int, LiveRoom],
        announcer: Announcer,
        *,
        presence_s: float = PRESENCE_S,
        retry_s: float = RETRY_S,
    ) -> None:
        """`live_rooms` are the hub's, by key. `retry_s`: seconds until the next attempt after one that failed."""
        self._db = database
        self._broker = broker
        self._rooms = live_rooms
        self._announcer = announcer
        self._presence_s = presence_s
        self._retry_s = retry_s
        self._online: set[int] = set()
        """Users whose last published presence is online."""
        self._pending: dict[int, _Pending] = {}
        self._publishing: dict[int, _Pending] = {}
        """Changes that are being published; `_online` does not contain them yet."""
        self._timer: asyncio.TimerHandle | None = None
        self._publisher: asyncio.Task[None] | None = None
        self._blocks = 0
        """Counts blocks and unblocks."""

    async def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._publisher is not None:
            self._publisher.cancel()
            await asyncio.wait([self._publisher])

    def blocked(self) -> None:
        """A user has blocked or unblocked another one. To be called before the latter is notified."""
        self._blocks += 1

    def connected(self, connection: Connection) -> None:
        """A connection has entered its rooms."""
        if connection.has_ended():
            return
        user_key = connection.principal.user_key
        if user_key in self._pending or user_key in self._publishing or user_key not in self._online:
            self._note(connection, list(connection.rooms))

    def disconnecting(self, connection: Connection) -> None:
        """The last connection of a user is ending; it is still in its rooms."""
        # Published even if they reconnect in time: someone may have queried while they were offline.
        self._note(connection, list(connection.rooms)).unknown = True

    def joined(self, connection: Connection, room_key: int) -> None:
        """The user of a connection has become a member of a room."""
        # The members may have shared no room with the user until now.
        self._note(connection, [room_key]).unknown = True

    def _note(self, connection: Connection, room_keys: Sequence[int]) -> _Pending:
        user_key = connection.principal.user_key
        pending = self._pending.get(user_key)
        if pending is None:
            pending = self._pending[user_key] = _Pending(connection.principal.username)
        pending.changed_at = time.time_ns() // 1_000_000
        pending.rooms.update(key for key in room_keys if key in self._rooms and self._rooms[key].shows_presence)
        self._publish_in(self._presence_s)
        return pending

    def _publish_in(self, seconds: float) -> None:
        """Publish the pending changes after this delay, unless that is scheduled already."""
        if self._timer is None and self._publisher is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._begin_publishing)

    def _begin_publishing(self) -> None:
        self._timer = None
        if self._publisher is None:
            self._publisher = spawn(self._publish_pending(), "presence")

    async def _publish_pending(self) -> None:
        self._publishing, self._pending = self._pending, {}
        pause = self._presence_s
        try:
            await self._publish(self._publishing)
            self._publishing = {}
            await self._announcer.written()  # the next changes are collected meanwhile
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and not cancelled_from_within():
                raise
            if not isinstance(error, StoreUnavailable):
                logger.exception("presence could not be published; it is tried again")
            pause = self._retry_s
            self._put_back(self._publishing)
        finally:
            self._publishing = {}
            self._publisher = None
        if self._pending:
            self._publish_in(pause)

    def _put_back(self, failed: Mapping[int, _Pending]) -> None:
        for user_key, change in failed.items():
            newer = self._pending.setdefault(user_key, change)
            if newer is not change:
                newer.rooms |= change.rooms
                newer.unknown = newer.unknown or change.unknown

    async def _publish(self, pending: Mapping[int, _Pending]) -> None:
        blocks = None
        while blocks != self._blocks:  # a user who was blocked meanwhile must not get the changes
            blocks = self._blocks
            hidden = await self._db.read(partial(users.blocked_of, user_keys=list(pending)))
            online = await self._broker.online_users(pending)
        # From here on in one step of the event loop: later changes are published after this.
        rooms: dict[int, list[UserPresence]] = {}
        for user_key, change in pending.items():
            is_online = user_key in online
            if is_online is (user_key in self._online) and not change.unknown:
                continue
            payload = {
                "username": change.username,
                "online": is_online,
                "last_seen": None if is_online else timestamp(change.changed_at),
            }
            presence = UserPresence(user_key, payload, frozenset(hidden.get(user_key, ())))
            for room_key in change.rooms:
                rooms.setdefault(room_key, []).append(presence)
        for room_key, changes in rooms.items():
            self._broker.publish(RoomChannel(room_key), PresenceChanged(room_key, changes))
        self._online.difference_update(pending)
        self._online |= online
