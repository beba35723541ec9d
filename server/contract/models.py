"""What answers and events carry: rooms, messages, members, profiles.

Every time is ISO 8601 in UTC with milliseconds; every id is opaque.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Timestamp = Annotated[
    str,
    StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$"),
    Field(description="ISO 8601, UTC, milliseconds", examples=["2026-01-31T09:30:00.250Z"]),
]


def timestamp(ms: int) -> str:
    """Format milliseconds since the Unix epoch as the wire's ISO 8601."""
    seconds, millis = divmod(ms, 1000)
    return f"{_to_the_second(seconds)}.{millis:03d}Z"


@lru_cache(4096)
def _to_the_second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


class View(BaseModel):
    """Base of everything the server sends."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_serialization_defaults_required=True)


class RoomKind(StrEnum):
    TOPIC = "topic"
    DIRECT = "direct"
    GROUP = "group"


class Role(StrEnum):
    OWNER = "owner"
    MODERATOR = "moderator"
    MEMBER = "member"


class Message(View):
    """One message of a room's log, in its present state."""

    id: str
    room_id: str
    topic_name: str | None
    seq: int = Field(ge=1, description="Position of the message in its room's log")
    sender: str
    content: str = Field(description="Empty when `deleted`")
    created_at: Timestamp
    edited_at: Timestamp | None = None
    deleted: bool = False
    client_id: str | None = Field(default=None, description="What the sender gave; goes to the sender only")
    reply_to: str | None = Field(default=None, description="`id` of the message this one answers")
    reactions: dict[str, list[str]] = Field(default_factory=dict, description="emoji -> usernames")
    mentions: list[str] = Field(default_factory=list, description="Usernames of mentioned members")


class Room(View):
    """A room as the caller sees it: `role`, `read_seq` and `unread` are the caller's own."""

    room_id: str
    kind: RoomKind
    topic_name: str | None = None
    title: str | None = Field(
        default=None,
        description="A group's title; in a direct conversation the other's username",
        examples=[None],
    )
    is_private: bool
    role: Role | None = Field(description="null: not a member")
    members: int
    online: int = Field(
        description="Members connected to the node that answers, the caller too: up to 2 in a direct conversation"
    )
    last_seq: int = Field(description="seq of the newest entry; 0 in an empty room")
    read_seq: int = Field(description="How far the caller has read; 0 if not a member")
    unread: int = Field(description="Messages after `read_seq`")
    last_message: Message | None = None


class Member(View):
    username: str
    role: Role
    online: bool
    last_seen: Timestamp | None = Field(description="null: online, or never seen")


class Profile(View):
    username: str
    online: bool
    last_seen: Timestamp | None
    created_at: Timestamp


class Empty(View):
    """`{}`: done, nothing to tell."""


class Session(View):
    """One login of the caller."""

    session_id: str
    created_at: Timestamp
    expires_at: Timestamp
    current: bool = Field(description="The one that asks")
    user_agent: str | None = Field(description="What the client called itself when it signed in")


class Sessions(View):
    sessions: list[Session] = Field(description="Newest first; those that are still good")


class InvitationLink(View):
    code: str
    room_id: str
    expires_at: Timestamp | None = Field(description="null: never")
    uses_left: int | None = Field(description="null: any number")


class Ban(View):
    username: str
    created_at: Timestamp
    expires_at: Timestamp | None = Field(description="null: for ever")


class Bans(View):
    bans: list[Ban]
    next: str | None = Field(description="Give it as `after` for the next page; null: this was the last")


class Usernames(View):
    usernames: list[str]


class Snippet(View):
    text: str
    match: bool = Field(description="Whether it is what was searched for")


class Found(View):
    """Answer of `search`."""

    messages: list[Message] = Field(description="Newest first")
    snippets: dict[str, list[Snippet]] = Field(description="Message id -> its part around the match")
    next: str | None = Field(description="Give it as `before` for the next page; null: this was the last")


class Echo(View):
    content: str


class Direction(StrEnum):
    SENT = "sent"
    RECEIVED = "received"


class EchoEntry(View):
    direction: Direction = Field(description="`sent` by the caller, or `received` as the answer")
    content: str
    created_at: Timestamp


class EchoHistory(View):
    entries: list[EchoEntry] = Field(description="In order")
    next: str | None = Field(description="Give it as `before` for the page of older ones; null: there are none")


class ExportLine(View):
    """One record of an export; besides its `type`, it has the fields of what it is a record of.

    `session`, `device`, `cursor` (how far a device has received a room), `room` (one that the caller is in),
    `read_marker`, `block`, `invitation_link`, `echo`, then `message` and `reaction` (put on a message, or taken off),
    of every room that the caller ever wrote to. `end` is the last, with `lines`; `error`, if it comes instead, is an
    [Error](#error).
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    type: Literal[
        "profile",
        "session",
        "device",
        "room",
        "read_marker",
        "cursor",
        "block",
        "invitation_link",
        "echo",
        "message",
        "reaction",
        "end",
        "error",
    ]


class PendingRoom(View):
    room_id: str
    topic_name: str | None
    cursor: int = Field(description="seq up to which the device has received the room's log")
    last_seq: int
    pending: int = Field(description="Entries that the device still misses")


class Pending(View):
    rooms: list[PendingRoom] = Field(description="Only rooms of which something is pending")
    next: str | None = Field(description="Give it as `after` for the next page; null: this was the last")


class AdminUser(View):
    username: str
    online: bool
    last_seen: Timestamp | None
    created_at: Timestamp
    disabled: bool
    admin: bool


class AdminUsers(View):
    users: list[AdminUser]
    next: str | None = Field(description="Give it as `after` for the next page; null: this was the last")


class AdminTopic(View):
    room_id: str
    topic_name: str
    is_private: bool
    members: int
    online: int
    entries: int = Field(description="How many its log holds")
    messages: int = Field(description="How many messages were sent to it")
    created_at: Timestamp


class AdminTopics(View):
    topics: list[AdminTopic]
    next: str | None = Field(description="Give it as `after` for the next page; null: this was the last")


class History(View):
    messages: list[Message] = Field(description="In seq order")
    has_more: bool = Field(description="More in the direction that was asked for")


class Unread(View):
    unread: int


class Rooms(View):
    rooms: list[Room]
    next: str | None = Field(description="Give it as `after` for the next page; null: this was the last")


class Members(View):
    members: list[Member]
    next: str | None = Field(description="Give it as `after` for the next page; null: this was the last")


class Receipt(View):
    """How far a member has received and read a room."""

    room_id: str
    username: str
    delivered_seq: int = Field(description="How far their furthest device has received; at first, where they joined")
    read_seq: int = Field(description="How far they have read; who writes has read up to there")


class Receipts(View):
    receipts: list[Receipt] = Field(description="By username; none in rooms of more than 50 members")


class ConnectedRoom(View):
    """Answer of `connect_to_room`; `roomName` is spelled as that system documents it."""

    roomName: str
    usernames: list[str] = Field(description="Members who are online")
    room: Room


class Credentials(View):
    """Answer of `register`, `login` and `refresh`."""

    token: str
    expires_at: Timestamp
    user: Profile


class Authenticated(View):
    token_expires_at: Timestamp


class Answer(View):
    """The one acknowledgement argument of every action that succeeded."""

    ok: bool = True
    data: dict[str, Any]
