"""Presence: which users are online; and their profiles. Changes are collected for `PRESENCE_S`, published together.

A user is online while any connection lives, on any node. A user who comes back within that time is published once, as
online. Each node publishes to its own connections, after it has read who is blocked.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from sqlalchemy.engine import Connection as Transaction

from tidings.contract.models import timestamp
from tidings.fanout.announcer import Announcer, UserChange
from tidings.fanout.cluster import OnlineUsers
from tidings.fanout.connection import Connection
from tidings.fanout.live_room import LiveRoom
from tidings.log import views
from tidings.supervision import cancelled_from_within, spawn
from tidings_db.engine import Database, StoreUnavailable
from tidings_db.queries import blocks, members, users
from tidings_db.queries.rows import UserRow

logger = logging.getLogger("tidings.presence")

PRESENCE_S = 0.25
"""How long changes are collected."""
RETRY_S = 1.0
"""The pause before another attempt to publish changes after a failure."""


class _Pending:
    __slots__ = ("all_rooms", "changed_at", "due", "joined", "profile", "rooms", "unknown", "username")

    def __init__(self) -> None:
        self.unknown = False
        """Whether some members may not know the user's presence: it is published even if nothing has changed."""
        self.profile = False
        """Whether the user has changed their profile."""
        self.rooms: set[int] = set()
        self.joined: set[int] = set()
        """Rooms of a user without a connection here, if the user is a member."""
        self.all_rooms = False
        """Whether to publish to all rooms of the user, which are to be read."""
        self.username: str | None = None
        """By which others know the user: that of a deleted account changes meanwhile. None: it is read."""
        self.changed_at = 0
        """ms since the epoch."""
        self.due = 0.0
        """When to publish it, by the loop's clock."""


class PresenceTracker:
    """Publishes one set of changes at a time, so that the last one is the newest. Retries after a failure."""

    def __init__(
        self,
        database: Database,
        live_rooms: Mapping[int, LiveRoom],
        announcer: Announcer,
        online_users: OnlineUsers,
        *,
        presence_s: float = PRESENCE_S,
        retry_s: float = RETRY_S,
    ) -> None:
        """`live_rooms` are the hub's, by key. `retry_s`: seconds until the next attempt after one that failed."""
        self._db = database
        self._rooms = live_rooms
        self._announcer = announcer
        self._users = online_users
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

    def hide(self, viewer_key: int, payload: Mapping[str, Any]) -> None:
        """A user is about to be sent the presence of one who has blocked or unblocked them."""
        self.blocked()
        if not payload["online"]:
            self._announcer.hide(viewer_key, payload["username"])

    def connected(self, connection: Connection) -> None:
        """A connection has entered its rooms."""
        if connection.has_ended():
            return
        user_key = connection.principal.user_key
        if user_key in self._pending or user_key in self._publishing or user_key not in self._online:
            self._note(connection, list(connection.rooms))

    def disconnecting(self, connection: Connection) -> None:
        """The last connection of a user is ending; it is still in its rooms."""
        if self._users.is_elsewhere(connection.principal.user_key):
            return
        pending = self._note(connection, list(connection.rooms))
        # Published even if they reconnect in time: someone may have queried while they were offline.
        pending.unknown = True
        pending.due = self._offline_at()

    def joined(self, connection: Connection, room_key: int) -> None:
        """The user of a connection has become a member of a room."""
        # The members may have shared no room with the user until now.
        self._note(connection, [room_key]).unknown = True

    def profile_changed(self, user_key: int) -> None:
        """A user has changed their profile, on any node."""
        # A pending change keeps its time: this one can wait with it.
        pending = self._pending.get(user_key) or self._note_user(user_key)
        pending.profile = pending.all_rooms = True

    # -- changes of other nodes ----------------------------------------------------------------------------------

    def assume_online(self, user_keys: Collection[int]) -> None:
        """See `OnlineObserver.assume_online`."""
        self._online.update(user_keys)

    def changed_elsewhere(self, came: Collection[int], went: Collection[int]) -> None:
        """See `OnlineObserver.changed_elsewhere`."""
        for user_key in came:
            self._note_user(user_key).all_rooms = True
        for user_key in went:
            pending = self._note_user(user_key)
            pending.all_rooms = pending.unknown = True
            pending.due = self._offline_at()

    def joined_elsewhere(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Another node has changed these memberships, (room, user)."""
        for room_key, user_key in pairs:
            if self._shows(room_key) and self._users.is_elsewhere(user_key) and not self._users.is_here(user_key):
                pending = self._note_user(user_key)
                pending.joined.add(room_key)
                pending.unknown = True

    # -- publishing ----------------------------------------------------------------------------------------------

    def _shows(self, room_key: int) -> bool:
        return room_key in self._rooms and self._rooms[room_key].shows_presence

    def _offline_at(self) -> float:
        """When a user who has gone offline now is published, by the loop's clock, if they do not come back."""
        return asyncio.get_running_loop().time() + self._users.move_s

    def _note(self, connection: Connection, room_keys: Sequence[int]) -> _Pending:
        pending = self._note_user(connection.principal.user_key)
        pending.username = connection.principal.username
        pending.rooms.update(filter(self._shows, room_keys))
        return pending

    def _note_user(self, user_key: int) -> _Pending:
        pending = self._pending.get(user_key)
        if pending is None:
            pending = self._pending[user_key] = _Pending()
        pending.changed_at = time.time_ns() // 1_000_000
        pending.due = 0.0
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
        now, pending = asyncio.get_running_loop().time(), self._pending
        self._publishing = {key: change for key, change in pending.items() if change.due <= now}
        self._pending = {key: change for key, change in pending.items() if change.due > now}
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
                newer.joined |= change.joined
                newer.all_rooms = newer.all_rooms or change.all_rooms
                newer.profile = newer.profile or change.profile
                newer.unknown = newer.unknown or change.unknown

    async def _publish(self, pending: Mapping[int, _Pending]) -> None:
        await self._find_rooms(pending)
        shown = [user_key for user_key, change in pending.items() if change.rooms]
        counted = None
        while counted != self._blocks:  # a user who was blocked meanwhile must not get the changes
            counted = self._blocks
            hidden, profiles = await self._db.read(partial(_read, shown=shown)) if shown else ({}, {})
            online = self._users.among(pending)
        # From here on in one step of the event loop: later changes are published after this.
        rooms: dict[int, list[UserChange]] = {}
        for user_key, change in pending.items():
            events = self._events(change, profiles.get(user_key), user_key in online)
            if not events:
                continue
            hidden_from = frozenset(hidden.get(user_key, ()))
            shown_change = UserChange(user_key, events[0][1]["username"], events, hidden_from)
            for room_key in change.rooms:
                rooms.setdefault(room_key, []).append(shown_change)
        for room_key, changes in rooms.items():
            self._announcer.collect(room_key, changes)
        self._online.difference_update(pending)
        self._online |= online

    def _events(self, change: _Pending, user: UserRow | None, is_online: bool) -> list[tuple[str, dict[str, Any]]]:
        """The events by which to publish a change of a user."""
        events: list[tuple[str, dict[str, Any]]] = []
        if user is None:
            return events
        if change.unknown or is_online is not (user.key in self._online):
            last_seen = None if is_online else timestamp(change.changed_at)
            presence = {"username": change.username or user.username, "online": is_online, "last_seen": last_seen}
            events.append(("presence", presence | {"display_name": user.display_name, "picture": user.picture}))
        if change.profile:
            events.append(("profile", views.profile(user, time.time_ns() // 1_000_000)))
        return events

    async def _find_rooms(self, pending: Mapping[int, _Pending]) -> None:
        """Read the rooms of users, where they are to be read."""
        found = [key for key, change in pending.items() if change.all_rooms or change.joined]
        if not found or not self._rooms:
            return
        rooms = await self._db.read(partial(members.rooms_of, user_keys=found))
        for user_key in found:
            change = pending[user_key]
            member_of = rooms.get(user_key, set())
            change.rooms.update(filter(self._shows, member_of if change.all_rooms else member_of & change.joined))


def _read(conn: Transaction, shown: Collection[int]) -> tuple[dict[int, set[int]], dict[int, UserRow]]:
    """For each of these users, the users whom they have blocked; and the users."""
    return blocks.blocked_of(conn, shown), users.by_id(conn, shown)
