"""The objects in answers and events: rooms, messages, members, profiles.

Every time is ISO 8601 in UTC with milliseconds; every id is opaque.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

Timestamp = Annotated[
    str,
    StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$"),
    Field(description="ISO 8601, UTC, milliseconds", examples=["2026-01-31T09:30:00.250Z"]),
]

NextPage = Annotated[
    str | None, Field(description="Pass it as `after` to get the next page; null: this was the last one")
]


def timestamp(ms: int) -> str:
    """Format milliseconds since the Unix epoch as the wire's ISO 8601."""
    seconds, millis = divmod(ms, 1000)
    return f"{_format_seconds(seconds)}.{millis:03d}Z"


@lru_cache(4096)
def _format_seconds(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


class View(BaseModel):
    """Base of all objects that the server sends."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, json_schema_serialization_defaults_required=True, defer_build=True
    )


class RoomKind(StrEnum):
    TOPIC = "topic"
    DIRECT = "direct"
    GROUP = "group"


class Role(StrEnum):
    OWNER = "owner"
    MODERATOR = "moderator"
    MEMBER = "member"


class Posting(StrEnum):
    """The members who may write to a room."""

    MEMBERS = "members"
    MODERATORS = "moderators"
    """And the owner, and keys with the scope `publish`."""


class Notify(StrEnum):
    """The messages of a room that a member wants to be told of."""

    ALL = "all"
    MENTIONS = "mentions"
    NOTHING = "nothing"


class StoredFile(View):
    id: str
    name: str
    type: str = Field(description="Media type, judged by the content", examples=["image/png"])
    size: int = Field(description="Bytes")
    width: int | None = Field(default=None, description="Of an image, in pixels; null: it is not shown as an image")
    height: int | None = None


class Attachment(StoredFile):
    """A file of a message."""

    alt: str | None = Field(default=None, description="What the image shows, for those who do not see it")


class LinkedFile(StoredFile):
    """A file with links that only the caller may use, for as long as the caller may read it."""

    url: str = Field(description="Relative to the address of the server, or that of `TIDINGS_FILES_ORIGIN`")
    preview_url: str | None = Field(default=None, description="Of an image of at most 800 × 800 pixels, as WebP")
    expires_at: Timestamp = Field(description="When the links end")


class LinkedFiles(View):
    files: list[LinkedFile] = Field(description="Without those that the caller may not read, or that are gone")


class Upload(View):
    """An upload, which goes on with `PATCH url` from `offset` on: see docs/protocol.md#files."""

    id: str
    url: str = Field(description="Relative to the address of the server")
    name: str = Field(description="As others see it")
    size: int
    offset: int = Field(description="Bytes that are durable")


MessageState = Literal["complete", "streaming", "interrupted"]


class Message(View):
    """A message of a room's log, in its current state."""

    id: str
    room_id: str
    topic_name: str | None
    seq: int = Field(ge=1, description="Position of the message in its room's log")
    sender: str
    content: str = Field(description="Empty when `deleted`")
    created_at: Timestamp
    edited_at: Timestamp | None = None
    deleted: bool = False
    client_id: str | None = Field(default=None, description="As given by the sender; sent to the sender only")
    reply_to: str | None = Field(default=None, description="`id` of the message this one answers")
    reactions: dict[str, list[str]] = Field(default_factory=dict, description="emoji -> usernames")
    mentions: list[str] = Field(default_factory=list, description="Usernames of mentioned members")
    data: dict[str, JsonValue] | None = Field(default=None, description="What an application has attached to it")
    state: MessageState = Field(
        default="complete",
        description="`streaming`: its author still appends to it. `interrupted`: its author fell silent",
    )
    thread: str | None = Field(
        default=None,
        exclude_if=lambda thread: thread is None,
        description="Only of a reply in a thread: `id` of the message that began it",
    )
    replies: int = Field(
        default=0,
        exclude_if=lambda replies: not replies,
        description="Only with a thread: how many replies are in it; of a reply, which of them it is, from 1 on",
    )
    files: list[Attachment] = Field(
        default=[], exclude_if=lambda files: not files, description="Left out if there are none"
    )


class Thread(View):
    """A thread as the caller has it: a message, and the replies to it beside the room."""

    message: Message = Field(description="The one that began it")
    following: bool
    unread: int = Field(description="Of the `message.replies`; 0 if not following")


class Threads(View):
    threads: list[Thread] = Field(description="Those that the caller follows; the one with the newest reply first")
    next: NextPage


class LinkPreview(View):
    """The summary of a linked page, as that page states it."""

    message_id: str
    url: str = Field(description="As it stands in the message", examples=["https://example.org/menu"])
    title: str = Field(description="Of up to 200 characters, as the other texts without control characters")
    description: str | None = Field(description="Of up to 300 characters", examples=["Today: soup"])
    site_name: str | None = Field(description="Of up to 60 characters", examples=["Example"])


class LinkPreviews(View):
    previews: list[LinkPreview]
    pending: list[str] = Field(
        description="The ids of messages with links that are being fetched: ask again in a second",
        examples=[["p7RbN4sYc1Hd"]],
    )


class Appending(View):
    """Answer of `append`."""

    offset: int = Field(description="Characters (Unicode code points) of the message, with this text")
    stored: int = Field(description="How many of them are durable")
    stop: bool = Field(description="Whether a member has asked the author to stop")


class ApplicationEvent(View):
    """An event as an application published it: an entry of a room's log, or transient."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)  # some fields may be left out

    room_id: str
    topic_name: str | None
    seq: int | None = Field(default=None, ge=1, description="Position in the room's log; left out if transient")
    id: str | None = Field(default=None, description="Left out if transient")
    event: str = Field(description="The name under which it was published, and is sent")
    sender: str
    created_at: Timestamp
    data: JsonValue
    client_id: str | None = Field(default=None, description="As given by the sender; sent to the sender only")


class Published(View):
    """Answer of `publish`: the event is durable. Empty if it is transient."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)

    id: str | None = None
    room_id: str | None = None
    seq: int | None = None
    event: str | None = None
    created_at: Timestamp | None = None


class Preferences(View):
    """The preferences of a member for a room. Only the member sees them, on every device."""

    notify: Notify = Field(description="Until it is chosen: `mentions` in topics, `all` in conversations")
    quiet_until: Timestamp | None = Field(description="Nothing rings before; null: not quiet")
    favourite: bool
    section: str | None = Field(description="The member's own group of rooms", examples=["Trabajo"])
    unread_from: int | None = Field(
        description="Marked as unread from this seq on. Sending a message ends it, and reading up to this seq",
        examples=[None],
    )


PICTURE = "The id of an image, for `get_files`"


class Room(View):
    """A room as the caller sees it: `role`, `read_seq` and `unread` are the caller's own."""

    room_id: str
    kind: RoomKind
    topic_name: str | None = None
    title: str | None = Field(
        default=None,
        description="A group's title; in a direct conversation the other member's username",
        examples=[None],
    )
    is_private: bool
    role: Role | None = Field(description="null: not a member")
    members: int
    online: int = Field(
        description="Members who are online, including the caller; up to 2 in a direct conversation. Those on other"
        " nodes are counted when the room is asked for, and in `room_added` may be missing"
    )
    last_seq: int = Field(description="seq of the newest entry; 0 in an empty room")
    read_seq: int = Field(description="The caller's read marker; 0 if not a member")
    unread: int = Field(description="Messages after `read_seq`, or from an earlier `preferences.unread_from` on")
    last_message: Message | None = None
    posting: Posting = Field(default=Posting.MEMBERS, description="The members who may write")
    purpose: str | None = Field(default=None, description="What a topic or group is for")
    picture: str | None = Field(default=None, description=PICTURE)
    preferences: Preferences | None = Field(default=None, description="The caller's own; null: not a member")


class TopicPreview(View):
    """Answer of `preview_topic`."""

    room_id: str
    topic_name: str
    purpose: str | None
    members: int
    is_member: bool = Field(description="Whether the caller is in it; false without a token")


class UserStatus(View):
    text: str = Field(description="Empty: only the emoji", examples=["On holiday"])
    emoji: str | None = Field(examples=["🌴"])
    until: Timestamp | None = Field(description="null: until it is changed")


FOLDED = (
    "The folded sections of the user's list of rooms: `unread`, `favourites`, `direct`, `topics`, or `own ` and the"
    " name of one of the user's own"
)
DO_NOT_DISTURB = "Until then the user's clients do not ring or notify; null: they do"


class Member(View):
    username: str
    role: Role
    online: bool
    last_seen: Timestamp | None = Field(description="null: online, or never seen")
    display_name: str | None = None
    muted_until: Timestamp | None = Field(
        default=None, description="Only moderators and the member see it; null: not muted, or hidden"
    )
    status: UserStatus | None = None
    do_not_disturb_until: Timestamp | None = Field(default=None, description=DO_NOT_DISTURB)
    picture: str | None = Field(default=None, description=PICTURE)


class Profile(View):
    username: str
    online: bool
    last_seen: Timestamp | None
    created_at: Timestamp
    display_name: str | None = Field(default=None, description="Shown; the username stays the name")
    status: UserStatus | None = None
    do_not_disturb_until: Timestamp | None = Field(default=None, description=DO_NOT_DISTURB)
    picture: str | None = Field(default=None, description=PICTURE)


class Users(View):
    users: list[Profile]
    next: NextPage


class Account(Profile):
    """The caller's own profile."""

    admin: bool = Field(description="Whether the caller is an administrator")
    folded: list[str] = Field(default=[], description=FOLDED)


class UserToken(View):
    token: str
    expires_at: Timestamp


class AuditEntry(View):
    """A request of a key or an administrator that changes rooms, users or the server, or acts as a user."""

    id: int = Field(examples=[12])
    at: Timestamp
    key: str = Field(description="The username of the key, or of the administrator")
    username: str | None = Field(description="The user as whom it acted; null: itself")
    action: str
    request: dict[str, JsonValue] = Field(description="Its fields, without contents and data")


class AuditLog(View):
    entries: list[AuditEntry] = Field(description="The newest first")
    next: int | None = Field(description="Pass it as `before` to get the next page; null: this was the last one")


class Empty(View):
    """`{}`: success, without data."""


class Session(View):
    """One login of the caller."""

    session_id: str
    created_at: Timestamp
    last_used_at: Timestamp = Field(description="Accurate to about an hour")
    expires_at: Timestamp = Field(description="The expiry of its newest token")
    online: bool = Field(description="Whether it has a live connection")
    current: bool = Field(description="Whether this request belongs to it")
    user_agent: str | None = Field(description="The `User-Agent` of the sign-in")


class Sessions(View):
    sessions: list[Session] = Field(description="The valid ones, newest first")


class InvitationLink(View):
    code: str
    room_id: str
    username: str = Field(description="The member who created it; the link ends with their membership")
    created_at: Timestamp
    expires_at: Timestamp | None = Field(description="null: never")
    uses_left: int | None = Field(description="null: any number")


class RegistrationLink(View):
    link_id: str
    username: str | None = Field(description="The administrator who created it; null: `tidings invite`")
    created_at: Timestamp
    expires_at: Timestamp
    uses_left: int


class NewRegistrationLink(RegistrationLink):
    code: str = Field(description="For `register`, and for the page: `/?invitation=<code>`. It is not shown again")


class PasswordLink(View):
    """A link to a new password; an earlier one of the user ends with it."""

    code: str = Field(description="For `reset_password`, and for the page: `/?reset=<code>`. It is not shown again")
    expires_at: Timestamp


class RegistrationLinks(View):
    links: list[RegistrationLink] = Field(description="The valid ones")
    next: NextPage


class Registration(View):
    registration: Literal["open", "invite", "closed"] = Field(
        description="Who may create an account: anyone, whoever has a registration link, or nobody"
    )


class InvitationLinks(View):
    links: list[InvitationLink]
    next: NextPage


class Ban(View):
    username: str
    created_at: Timestamp
    expires_at: Timestamp | None = Field(description="null: for ever")


class Bans(View):
    bans: list[Ban]
    next: NextPage


class Report(View):
    """A message that a member has brought to the moderators."""

    report_id: str
    message: Message = Field(description="In its current state")
    content: str = Field(description="That of the message when it was reported")
    username: str = Field(description="The member who reported it")
    reason: str
    created_at: Timestamp


class Reports(View):
    reports: list[Report] = Field(description="The open ones, oldest first")
    next: NextPage


class Usernames(View):
    usernames: list[str]


class Snippet(View):
    text: str
    match: bool = Field(description="Whether this part matches the query")


class SearchResults(View):
    """Answer of `search`."""

    messages: list[Message] = Field(description="Newest first")
    snippets: dict[str, list[Snippet]] = Field(
        description="Message id -> an excerpt of its text and the names of its files, around the match"
    )
    next: str | None = Field(description="Pass it as `before` to get the next page; null: this was the last one")


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
    next: str | None = Field(description="Pass it as `before` to get older entries; null: there are none")


class ExportLine(View):
    """One record of an export: its `type`, and the fields of that type.

    The types are `profile`, `session`, `device`, `cursor` (of a device in a room), `room` (that the caller is in),
    `read_marker`, `thread` (that the caller follows, or followed), `block`, `invitation_link`, `report` (of a
    message), `file` (that the caller uploaded: `get_files` has links to those that the caller may read), `echo`,
    then `message`, `event` (of an application) and `reaction` (added to a message, or removed), from every room
    that the caller ever wrote to. The last record is `end`, with the number of `lines`, or an `error`, which is an
    [Error](#error).
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    type: Literal[
        "profile",
        "session",
        "device",
        "room",
        "read_marker",
        "thread",
        "cursor",
        "block",
        "invitation_link",
        "report",
        "file",
        "echo",
        "message",
        "event",
        "reaction",
        "end",
        "error",
    ]


class PendingRoom(View):
    room_id: str
    topic_name: str | None
    cursor: int = Field(description="seq up to which the device has received the room's log")
    last_seq: int
    pending: int = Field(description="Number of entries that the device has not received")


class Pending(View):
    rooms: list[PendingRoom] = Field(description="Only rooms with pending entries")
    next: NextPage


class AdminUser(View):
    username: str
    online: bool
    last_seen: Timestamp | None
    created_at: Timestamp
    disabled: bool
    admin: bool
    display_name: str | None = None
    service: bool = Field(default=False, description="Whether it is the user of a key, or of the server itself")


class AdminUsers(View):
    users: list[AdminUser]
    next: NextPage


class AdminTopic(View):
    room_id: str
    topic_name: str
    is_private: bool
    members: int
    online: int
    entries: int = Field(description="Number of entries in its log")
    messages: int = Field(description="Number of messages sent to it")
    created_at: Timestamp


class AdminTopics(View):
    topics: list[AdminTopic]
    next: NextPage


class AdminRoom(View):
    """A topic or a group."""

    room_id: str
    topic_name: str | None
    title: str | None
    is_private: bool
    members: int
    online: int
    messages: int = Field(description="Number of messages sent to it")
    size: int = Field(description="About how many characters its log has, by the last 100 entries")
    created_at: Timestamp


class AdminRooms(View):
    rooms: list[AdminRoom]
    next: NextPage


class AdminKey(View):
    key_id: str
    username: str = Field(description="Of the key's own user")
    scopes: list[str]
    room_id: str | None = Field(description="The only room in which its scopes hold; null: any")
    created_at: Timestamp
    last_used_at: Timestamp | None = Field(description="Accurate to about an hour; null: never")
    revoked_at: Timestamp | None


class AdminKeys(View):
    keys: list[AdminKey] = Field(description="In the order of their creation")


class AdminNewKey(View):
    key: str = Field(description="It is not shown again", examples=["tk_x5n0cJ0uYl2wT7bq"])


class AdminHealth(View):
    """The server process that answers. The durations are those of the last minute or two."""

    trouble: str | None = Field(description="Why it should get no traffic; null: it is ready")
    degraded: str | None = Field(description="What is away, though messages arrive; null: nothing")
    version: str
    node: str
    started_at: Timestamp
    connections: int
    online_users: int = Field(description="Users with a connection to this process")
    delivery_ms: int | None = Field(
        description="99 % of entries of this process took no longer to its connections; null: there were none"
    )
    commit_ms: int | None = Field(description="99 % of transactions of the log took no longer; null: there were none")
    loop_lag_ms: int | None = Field(description="99 % of the event loop's timers were no later")
    waiting_changes: int = Field(description="Changes that wait for a commit")
    database_errors: int = Field(description="Failures of the database since the process started")
    database_bytes: int
    disk_free_bytes: int = Field(description="On the disk of the data directory")
    disk_bytes: int


class AdminWebhook(View):
    webhook_id: str
    url: str
    events: list[str]
    room_id: str | None = Field(description="null: every room")
    created_at: Timestamp
    failing_since: Timestamp | None = Field(description="The first failure since it last succeeded")
    disabled_at: Timestamp | None
    disabled_reason: str | None


class AdminNewWebhook(View):
    webhook_id: str
    secret: str = Field(description="Verifies the requests; it is not shown again")


class AdminWebhooks(View):
    webhooks: list[AdminWebhook]


class PushSubscription(View):
    """An address for the caller's notifications."""

    subscription_id: str
    provider: str
    with_content: bool = Field(description="Whether notifications say who wrote what")
    created_at: Timestamp
    current: bool = Field(description="Whether it belongs to the session of this request")
    user_agent: str | None = Field(description="The `User-Agent` of the sign-in of its session")


class PushSubscriptions(View):
    public_key: str | None = Field(
        description="What a browser needs to subscribe, as `applicationServerKey`; null: push notifications are off"
    )
    subscriptions: list[PushSubscription] = Field(description="The oldest first")


class PushNotification(View):
    """The content of a notification: the newest message of a room that the user has not read."""

    room_id: str
    title: str | None = Field(default=None, description="The name of the topic, or the title of the group")
    seq: int
    thread: str | None = Field(default=None, description="The id of the message that began its thread")
    sender: str | None = Field(default=None, description="null: the subscription is without content")
    display_name: str | None = Field(default=None, description="That of the sender")
    text: str | None = Field(default=None, description="The begin of the message")
    unread: int = Field(description="Unread messages in all rooms: for the badge")


class WebhookTest(View):
    delivered: bool = Field(description="Whether it was answered 2xx")
    status: int | None = Field(description="The HTTP status of the answer; null: there was none")
    reason: str


class History(View):
    messages: list[Message] = Field(description="In seq order")
    has_more: bool = Field(description="Whether there are more in the requested direction")
    began: Message | None = Field(
        default=None,
        exclude_if=lambda began: began is None,
        description="Only of a `thread`: the message that began it",
    )


class PublishedEvents(View):
    events: list[ApplicationEvent] = Field(description="In seq order")
    has_more: bool = Field(description="Whether there are more in the requested direction")


class Unread(View):
    unread: int


class Rooms(View):
    rooms: list[Room]
    next: NextPage


class Members(View):
    members: list[Member]
    next: NextPage


class Receipt(View):
    """The seqs up to which a member has received and read a room."""

    room_id: str
    username: str
    delivered_seq: int = Field(description="The furthest cursor of their devices; initially where they joined")
    read_seq: int = Field(description="Their read marker; sending a message moves it to that message")


class Receipts(View):
    receipts: list[Receipt] = Field(description="By username; none in rooms of more than 50 members")


class ConnectedRoom(View):
    """Answer of `connect_to_room`; the spelling `roomName` is that of the documented chat-rooms protocol."""

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
