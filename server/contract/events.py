"""The payload of every event, by the names on the wire."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from pydantic import ConfigDict, Field

from server.contract.errors import CloseReason
from server.contract.models import Message, Receipt, Role, Room, Timestamp, View


class Ready(View):
    """What the device missed has been replayed; from here on events are live."""

    username: str
    device: str
    replayed: int = Field(description="Entries sent from the log before this event")
    reset: list[str] = Field(
        description="Rooms whose cursor the log does not know or no longer reaches: ask `history`"
    )
    token_expires_at: Timestamp


class MessageChanged(View):
    """`seq` is the position of the change; `message` is the message as it is now."""

    room_id: str
    seq: int
    message: Message


class MemberChange(StrEnum):
    JOINED = "joined"
    LEFT = "left"
    KICKED = "kicked"
    BANNED = "banned"
    ROLE = "role"


class MemberChanged(View):
    """Who came, went or changed role; without `seq` in public topics, which do not log it."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)  # `seq` may be left out

    room_id: str
    seq: int | None = None
    username: str
    change: MemberChange
    role: Role | None = Field(description="The role after the change; null once gone")


class RoomChanged(View):
    """A group has another title."""

    room_id: str
    seq: int
    username: str = Field(description="Who changed it")
    title: str


class RoomAdded(View):
    room: Room


class RoomRemoved(View):
    room_id: str
    reason: str = Field(description="left, kicked, banned, deleted, or gone (noticed at a reconnect)")


class TypingNow(View):
    room_id: str
    username: str
    typing: bool


class Presence(View):
    username: str
    online: bool
    last_seen: Timestamp | None


class Closing(View):
    """The last event before the server closes a connection."""

    reason: CloseReason
    reconnect: bool


EVENTS: Final[dict[str, type[View]]] = {
    "ready": Ready,
    "message": Message,
    "message_edited": MessageChanged,
    "message_deleted": MessageChanged,
    "reaction": MessageChanged,
    "member": MemberChanged,
    "room_added": RoomAdded,
    "room_removed": RoomRemoved,
    "room_changed": RoomChanged,
    "typing": TypingNow,
    "presence": Presence,
    "receipt": Receipt,
    "closing": Closing,
}
"""Every event the server emits, by name."""
