"""The fan-out of a node as its other parts see it: publishes notices of the log, and delivers those of the broker.

A notice takes effect within one step of the event loop. It may be lost, late, repeated or out of order: entries are
compared with the head of their room, and missing ones are read from the database (`repair.py`). What other nodes have
committed is in the feed (`feed.py`); memberships that it mentions are read (`reconcile.py`).

The fence: an entry of a public topic is delivered only when every removal that was committed before it is known here.
So no member who was removed on another node gets a later entry, whatever is lost or late between the nodes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from tidings.contract.events import MemberChange
from tidings.fanout.broker import Broker
from tidings.fanout.catchup import CatchUp
from tidings.fanout.connection import Batch
from tidings.fanout.feed import Feed
from tidings.fanout.hub import Hub
from tidings.fanout.online import OnlineUsers
from tidings.fanout.reconcile import Reconciler
from tidings.fanout.session_check import SessionCheck
from tidings.log.notices import (
    Appended,
    Channel,
    Joined,
    Left,
    MembershipChanged,
    Notice,
    Personal,
    PresenceChanged,
    Transient,
    Withdrawn,
)
from tidings_db.queries.feed import Changes, MembershipChange

logger = logging.getLogger("tidings.delivery")


class Delivery:
    """A `tidings.log.notices.Fanout`."""

    def __init__(
        self,
        broker: Broker,
        hub: Hub,
        catch_up: CatchUp,
        reconciler: Reconciler,
        feed: Feed,
        sessions: SessionCheck,
        online_users: OnlineUsers,
    ) -> None:
        self._broker = broker
        self._hub = hub
        self._catch_up = catch_up
        self._reconciler = reconciler
        self._feed = feed
        self._sessions = sessions
        self._users = online_users

    async def start(self) -> None:
        """Receive notices from here on. Raises `StoreUnavailable`."""
        await self._broker.start(self.receive)
        await self._feed.start(self)

    async def stop(self) -> None:
        await self._feed.stop()
        await self._broker.stop()
        await self._reconciler.stop()

    # -- for the log ---------------------------------------------------------------------------------------------

    def publish(self, notices: Sequence[tuple[Channel, Notice]]) -> None:
        self._broker.share(notices)
        for channel, notice in notices:
            try:
                if isinstance(notice, MembershipChanged):  # whether or not the room is live here
                    self._hub.member_events.note(notice.change)
                self._broker.publish_shared(channel, notice)
            except Exception:
                logger.exception("a notice could not be delivered")

    def suspect(self, room_keys: Iterable[int]) -> None:
        self._hub.suspect(room_keys)

    def suspect_session(self, user_key: int, session_key: int) -> None:
        self._sessions.look([(user_key, session_key)])

    def has_device(self, device_key: int) -> bool:
        return self._hub.has_device(device_key)

    # -- changes of other nodes ----------------------------------------------------------------------------------

    def changed(self, changes: Changes) -> None:
        """As `FeedReceiver.changed`."""
        hub, elsewhere = self._hub, set(changes.members)
        for room_key, (head, _) in changes.heads.items():
            live_room = hub.live_rooms.get(room_key)
            if live_room is not None and head > live_room.head:
                if self._broker.carries_entries:
                    hub.repairs.observe(live_room, head)  # they may be under way
                else:
                    live_room.known_head = max(live_room.known_head, head)
                    hub.repairs.repair(live_room)
        unsettled = changes.members
        for change in changes.memberships:
            if change.is_removal and self._removed_elsewhere(change):
                unsettled.discard((change.room, change.user))
            elif change.change == MemberChange.JOINED:
                unsettled.add((change.room, change.user))
            hub.member_events.note(change)
        reasons = {(change.room, change.user): change.change for change in changes.memberships if change.is_removal}
        self._reconciler.look(unsettled, reasons)
        for room_key in changes.gone:
            self._reconciler.look_at_room(room_key, "deleted")
        self._sessions.look(changes.sessions)
        if changes.blocks:
            hub.presence.blocked()
        if changes.online:
            self._users.changed(changes.online)
        hub.presence.joined_elsewhere(elsewhere)

    def compare_all(self) -> None:
        """As `FeedReceiver.compare_all`."""
        hub = self._hub
        hub.suspect(hub.live_rooms)
        self._reconciler.look_at_all()
        self._sessions.look((user_key, None) for user_key in hub.user_keys)
        hub.presence.blocked()
        self._users.compare_all()

    def _removed_elsewhere(self, change: MembershipChange) -> bool:
        """Take a removed member's connections out of a public topic. The log of a private room contains removals.

        Returns whether nothing is left to look at.
        """
        live_room = self._hub.live_rooms.get(change.room)
        connections = self._hub.connections_of(change.user)
        self._reconciler.applied(change.room, change.user)
        if live_room is None or not live_room.is_fenced:
            return not any(
                connection.deferred is not None or change.room in connection.rooms for connection in connections
            )
        for connection in connections:
            known = live_room.attached.get(connection)
            if known is not None and known < change.removals:
                self._hub.removed(connection, change.change, change.room)
        live_room.count_removal(change.removals)
        return not any(connection.deferred is not None for connection in connections)

    # -- notices of the broker -----------------------------------------------------------------------------------

    def receive(self, notice: Notice) -> None:
        """Apply a notice to the connections of this node."""
        match notice:
            case Appended():
                self._appended(notice)
            case Transient():
                self._transient(notice)
            case Joined():
                self._reconciler.applied(notice.snapshot.room.key, notice.user_key)
                for connection in self._hub.connections_of(notice.user_key):
                    self._catch_up.change_membership(connection, notice)
            case Left():
                self._left(notice)
            case MembershipChanged():
                self._hub.member_events.note(notice.change)
            case PresenceChanged():
                self._hub.announcer.collect(notice)
            case Personal():
                if notice.event == "presence":  # the user may be blocked from here on
                    self._hub.presence.hide(notice.user_key, notice.payload)
                batch = Batch([(notice.event, self._ordered(notice))])
                for connection in self._hub.connections_of(notice.user_key):
                    connection.link.write(batch)
            case Withdrawn():
                for connection in self._hub.connections_of(notice.user_key):
                    if notice.session_key in (None, connection.principal.session_key):
                        connection.link.close(notice.reason)

    def _appended(self, notice: Appended) -> None:
        hub = self._hub
        live_room = hub.live_rooms.get(notice.room_key)
        if live_room is None:
            return
        if notice.entries[-1].seq > live_room.head:
            live_room.members = notice.members
        hub.repairs.published(live_room, notice, others_follow=self._broker.carries_entries)

    def _left(self, notice: Left) -> None:
        self._reconciler.applied(notice.room_key, notice.user_key)
        for connection in self._hub.connections_of(notice.user_key):
            self._catch_up.change_membership(connection, notice)
        live_room = self._hub.live_rooms.get(notice.room_key)
        if live_room is not None:
            live_room.count_removal(notice.removals)

    def _ordered(self, notice: Transient | Personal) -> dict[str, Any]:
        """The payload of a notice, which may be older than one that has overtaken it."""
        return self._hub.receipts.newest(notice.payload) if notice.event == "receipt" else notice.payload

    def _transient(self, notice: Transient) -> None:
        self._hub.typists.received(notice, self._transient)
        live_room = self._hub.live_rooms.get(notice.room_key)
        if live_room is None or self._feed.is_behind():
            return
        batch = Batch([(notice.event, self._ordered(notice))], transient=True)
        for connection in live_room.attached:
            if connection.id == notice.except_connection or connection.principal.user_key in notice.hidden_from:
                continue
            if notice.room_key not in connection.unannounced_rooms:
                connection.link.write(batch)
