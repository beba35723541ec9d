"""The preferences of a member for a room: operations of the journal that are no entries of the log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tidings.contract.errors import invalid
from tidings.contract.permissions import Permission
from tidings.log.notices import Personal
from tidings.log.transaction import Operation, RoomLog, Work
from tidings.log.views import preferences
from tidings_db.queries import log, members, rooms
from tidings_db.queries.rooms import Snapshot


def publish_preferences(work: Work, room: RoomLog, user_key: int) -> Snapshot:
    """Tell a member's devices their preferences, after the entries before."""
    work.publish_entries(room)
    snapshot = rooms.snapshot(work.conn, user_key, room.row.key)
    payload = {
        "room_id": room.row.room_id,
        "preferences": preferences(snapshot).model_dump(mode="json"),
        "unread": snapshot.unread,
    }
    work.publish(Personal(user_key, "preferences", payload))
    return snapshot


@dataclass(frozen=True, slots=True)
class Prefer(Operation[Snapshot]):
    """Change the actor's preferences for a room."""

    changed: Mapping[str, object]
    """By column; `quiet_for` in seconds."""

    def apply(self, work: Work) -> Snapshot:
        assert self.room_key is not None
        room = work.room(self.room_key)
        work.check(room, self.actor, Permission.READ)
        work.save()
        columns = dict(self.changed)
        if "quiet_for" in columns:
            seconds = columns.pop("quiet_for")
            columns["quiet_until"] = work.now + seconds * 1000 if isinstance(seconds, int) else None
        before = rooms.snapshot(work.conn, self.actor.user_key, self.room_key)
        if all(getattr(before.preferences, name) == value for name, value in columns.items()):
            return before
        members.prefer(work.conn, self.room_key, self.actor.user_key, columns)
        return publish_preferences(work, room, self.actor.user_key)


@dataclass(frozen=True, slots=True)
class MarkRoomUnread(Operation[int]):
    """Mark a room as unread from a message on, for the actor; the result is the number of unread messages."""

    seq: int

    def apply(self, work: Work) -> int:
        assert self.room_key is not None
        room, user_key = work.room(self.room_key), self.actor.user_key
        work.check(room, self.actor, Permission.READ)
        if self.seq > room.row.last_seq:
            raise invalid("seq", f"the room's log ends at {room.row.last_seq}")
        work.save()
        columns = {
            "unread_from": self.seq,
            "unread_messages": log.messages_upto(work.conn, room.row, self.seq - 1),
            "unread_marked_at": rooms.reading(work.conn, user_key, room.row).read_seq,
        }
        members.prefer(work.conn, self.room_key, user_key, columns)
        return publish_preferences(work, room, user_key).unread
