"""The fan-out of a node as its other parts see it: publishes notices of the log, and delivers them to connections.

A notice takes effect within one step of the event loop. One of another node may be lost, late, repeated or out of
order: entries are compared with the head of their room, and missing ones are read from the database (`repair.py`).

The fence: an entry of a public topic is delivered only when every removal that was committed before it is known here.
So no member who was removed on another node gets a later entry, whatever is lost or late between the nodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tidings.fanout.catchup import CatchUp
from tidings.fanout.cluster import Cluster
from tidings.fanout.connection import Batch
from tidings.fanout.hub import Hub
from tidings.fanout.publisher import Publisher
from tidings.fanout.session_check import SessionCheck
from tidings.log.notices import (
    Appended,
    ApplicationMessage,
    Joined,
    Left,
    MembershipChanged,
    Notice,
    Personal,
    Piece,
    Transient,
    Withdrawn,
)


class Delivery:
    """A `tidings.log.notices.Fanout`."""

    def __init__(
        self, cluster: Cluster, publisher: Publisher, hub: Hub, catch_up: CatchUp, sessions: SessionCheck
    ) -> None:
        self._cluster = cluster
        self._hub = hub
        self._catch_up = catch_up
        self._sessions = sessions
        self.publish = publisher.publish
        """See `Fanout.publish`."""

    # -- for the log ---------------------------------------------------------------------------------------------

    @property
    def is_shared(self) -> bool:
        """See `Fanout.is_shared`."""
        return self._cluster.is_shared

    def suspect(self, room_keys: Iterable[int]) -> None:
        """See `Fanout.suspect`."""
        self._hub.suspect(room_keys)

    def suspect_session(self, user_key: int, session_key: int) -> None:
        """See `Fanout.suspect_session`."""
        self._sessions.look([(user_key, session_key)])

    def has_device(self, device_key: int) -> bool:
        """See `Fanout.has_device`."""
        return self._hub.has_device(device_key)

    # -- notices -------------------------------------------------------------------------------------------------

    def receive(self, notice: Notice) -> None:
        """Apply a notice to the connections of this node."""
        match notice:
            case Appended():
                live_room = self._hub.live_rooms.get(notice.room_key)
                if live_room is not None:
                    self._hub.repairs.published(live_room, notice)
            case Transient():
                self._transient(notice)
            case Piece():
                self._hub.streams.received(notice)
            case Joined():
                self._hub.when_moved(notice.snapshot.room.key, notice.user_key)
                for connection in self._hub.connections_of(notice.user_key):
                    self._catch_up.change_membership(connection, notice)
            case Left():
                self._left(notice)
            case MembershipChanged():
                self._hub.member_events.note(notice.change)
            case Personal():
                if notice.event == "presence":  # the user may be blocked from here on
                    self._hub.presence.hide(notice.user_key, notice.payload)
                batch = Batch([(notice.event, self._ordered(notice))])
                for connection in self._hub.connections_of(notice.user_key):
                    connection.link.write(batch)
            case ApplicationMessage():
                self._cluster.application_message(notice)
            case Withdrawn():
                for connection in self._hub.connections_of(notice.user_key):
                    if notice.session_key in (None, connection.principal.session_key):
                        connection.link.close(notice.reason)

    def _left(self, notice: Left) -> None:
        self._hub.when_moved(notice.room_key, notice.user_key)
        for connection in self._hub.connections_of(notice.user_key):
            self._catch_up.change_membership(connection, notice)
        live_room = self._hub.live_rooms.get(notice.room_key)
        if live_room is not None:
            live_room.count_removal(notice.removals)

    def _ordered(self, notice: Transient | Personal) -> dict[str, Any]:
        """The payload of a notice, which may be older than one that has overtaken it."""
        return self._hub.receipts.newest(notice.payload) if notice.event == "receipt" else notice.payload

    def _transient(self, notice: Transient) -> None:
        live_room = self._hub.live_rooms.get(notice.room_key)
        if live_room is None:
            return
        self._hub.typists.received(notice, self._transient)
        if self._cluster.is_behind():
            return
        batch = Batch([(notice.event, self._ordered(notice))], transient=True)
        for connection in live_room.attached:
            if connection.id == notice.except_connection or connection.principal.user_key in notice.hidden_from:
                continue
            if notice.room_key not in connection.unannounced_rooms:
                connection.link.write(batch)
