"""The payload of every event, with its names on the wire."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from pydantic import ConfigDict, Field

from tidings.contract.errors import CloseReason
from tidings.contract.models import (
    DO_NOT_DISTURB,
    PICTURE,
    Message,
    Posting,
    Preferences,
    Receipt,
    Report,
    Role,
    Room,
    Thread,
    Timestamp,
    UserStatus,
    View,
)


class Ready(View):
    """The missed entries have been replayed; later events are live."""

    username: str
    device: str
    replayed: int = Field(description="Entries sent from the log before this event")
    reset: list[str] = Field(
        description="Rooms whose log was restored before the given cursor, or begins after it: request `history`"
    )
    token_expires_at: Timestamp
    display_name: str | None = None


class RoomEntry(View):
    """An entry of a room's log, as an event."""

    room_id: str
    seq: int = Field(description="Position of the entry in its room's log")


class MessageChanged(RoomEntry):
    """`seq` is the position of the change; `message` is the message in its current state."""

    message: Message


class MessageAppend(View):
    """Text of a message that is streaming: cut what you have of the message to `offset`, and add `text`."""

    room_id: str
    message_id: str
    offset: int = Field(ge=0, description="Characters (Unicode code points) before `text`")
    text: str


class MemberChange(StrEnum):
    JOINED = "joined"
    LEFT = "left"
    KICKED = "kicked"
    BANNED = "banned"
    ROLE = "role"


class MemberChanged(View):
    """A user joined, left or changed role. Public topics do not log it, so there is no `seq` there."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)  # `seq` may be left out

    room_id: str
    seq: int | None = None
    username: str
    change: MemberChange
    role: Role | None = Field(description="The role after the change; null: no longer a member")


class RoomChanged(RoomEntry):
    """The title has changed, or the purpose, the picture, or who may write."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)

    username: str = Field(description="The member who changed it")
    title: str | None = Field(default=None, description="Of a group; left out if unchanged")
    posting: Posting | None = Field(default=None, description="Left out if unchanged")
    purpose: str | None = Field(default=None, description="Left out if unchanged; null: removed")
    picture: str | None = Field(default=None, description=f"Left out if unchanged; null: removed. {PICTURE}")


class PreferencesChanged(View):
    """The user's own preferences for a room have changed, on any device."""

    room_id: str
    preferences: Preferences
    unread: int


class ThreadChanged(Thread):
    """The user follows a thread now, or no longer, or has read it, on any device. Later replies are `message`s."""


class RoomAdded(View):
    room: Room


class RoomRemoved(View):
    room_id: str
    reason: str = Field(
        description="left, kicked, banned, deleted, or gone (any of these while the device was offline)"
    )


class TypingNow(View):
    room_id: str
    username: str
    typing: bool


class Reported(View):
    """A member has reported a message: to the owner and the moderators of its room who are online."""

    room_id: str
    report: Report


class Presence(View):
    username: str
    online: bool
    last_seen: Timestamp | None
    display_name: str | None = None
    picture: str | None = Field(default=None, description=PICTURE)


class ProfileChanged(View):
    """A user has changed their profile. Sent to whom presence is sent, and to the user's own connections."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)  # `folded` may be left out

    username: str
    display_name: str | None
    status: UserStatus | None
    do_not_disturb_until: Timestamp | None = Field(description=DO_NOT_DISTURB)
    picture: str | None = Field(description=PICTURE)
    folded: list[str] | None = Field(default=None, description="To the user's own connections only, if it changed")


class Closing(View):
    """The last event before the server closes a connection."""

    reason: CloseReason
    reconnect: bool


EVENTS: Final[dict[str, type[View]]] = {
    "ready": Ready,
    "message": Message,
    "message_edited": MessageChanged,
    "message_deleted": MessageChanged,
    "message_append": MessageAppend,
    "message_finished": MessageChanged,
    "reaction": MessageChanged,
    "member": MemberChanged,
    "room_added": RoomAdded,
    "room_removed": RoomRemoved,
    "room_changed": RoomChanged,
    "preferences": PreferencesChanged,
    "thread": ThreadChanged,
    "typing": TypingNow,
    "presence": Presence,
    "profile": ProfileChanged,
    "receipt": Receipt,
    "reported": Reported,
    "closing": Closing,
}
"""Every event the server emits, by name; the events of applications have names of their own."""

_RESERVED: Final = frozenset(
    (
        "connect",
        "connect_error",
        "disconnect",
        "disconnecting",
        "newListener",
        "removeListener",
    )
)
"""Names that Socket.IO's clients do not accept."""


def is_reserved(name: str) -> bool:
    """Whether an application may not use this name for an event in `/`."""
    return name in EVENTS or name in _RESERVED


EVENT: Final = "event"
"""The kind of the entries that are events of applications (`ApplicationEvent`)."""

ENTRIES: Final[dict[str, str]] = {
    "message": "message",
    "edit": "message_edited",
    "delete": "message_deleted",
    "finish": "message_finished",
    "reaction": "reaction",
    "member": "member",
    "title": "room_changed",
    "purpose": "room_changed",
    "picture": "room_changed",
    "posting": "room_changed",
}
"""Every kind of entry in a room's log, and the event by which it is sent; but `EVENT`, whose events have any name.

The event of a kind that is neither a message nor a change of one has `room_id`, `seq`, and the fields of the entry's
body; `username` is the user who appended the entry, unless the body names another.
"""
