"""Applies what the feed brings: the changes that other nodes have committed.

A change says where to look. Entries are read from the log, memberships and sessions from their tables.
"""

from __future__ import annotations

from tidings.cluster.broker import Broker
from tidings.cluster.online import ClusterUsers
from tidings.cluster.reconcile import Reconciler
from tidings.contract.events import MemberChange
from tidings.fanout.hub import Hub
from tidings.fanout.session_check import SessionCheck
from tidings_db.queries.feed import Changes, MembershipChange


class ChangesElsewhere:
    """A `tidings.cluster.feed.FeedReceiver`."""

    def __init__(
        self, broker: Broker, hub: Hub, reconciler: Reconciler, sessions: SessionCheck, users: ClusterUsers
    ) -> None:
        self._broker = broker
        self._hub = hub
        self._reconciler = reconciler
        self._sessions = sessions
        self._users = users

    def changed(self, changes: Changes) -> None:
        """See `FeedReceiver.changed`."""
        hub, elsewhere = self._hub, set(changes.members)
        for room_key, (head, _) in changes.heads.items():
            live_room = hub.live_rooms.get(room_key)
            if live_room is not None and head > live_room.head:
                if self._broker.carries_entries:
                    hub.repairs.expect_head(live_room, head)  # they may be under way
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
        self._reconciler.reconcile(unsettled, reasons)
        for room_key in changes.gone:
            self._reconciler.reconcile_room(room_key, "deleted")
        self._sessions.look(changes.sessions)
        if changes.blocks:
            hub.presence.blocked()
        for user_key in changes.profiles:
            hub.presence.profile_changed(user_key)
        if changes.online:
            self._users.changed(changes.online)
        hub.presence.joined_elsewhere(elsewhere)

    def compare_all(self) -> None:
        """See `FeedReceiver.compare_all`."""
        hub = self._hub
        hub.suspect(hub.live_rooms)
        self._reconciler.reconcile_all()
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
