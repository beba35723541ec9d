"""The payloads of the actions, with their names on the wire. Those for operators are in `administration.py`.

Unknown fields are refused: ignoring a misspelt `client_id` would silently remove its guarantee.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    SkipValidation,
    StringConstraints,
    field_validator,
    model_validator,
)

from tidings.contract.events import is_reserved
from tidings.contract.models import Notify, Posting, Role, RoomKind

MAX_CONTENT = 16_384
MAX_STREAM = 131_072
"""Characters of a message that streams."""
MAX_DATA = 16_384
"""Bytes of the data of a message, as JSON in UTF-8."""
MAX_EVENT_DATA = 65_536
"""Bytes of the data of an application event, as JSON in UTF-8."""
MAX_CURSORS = 10_000
MAX_WRONG_CURSORS = 20
MAX_ID = 64
MAX_SEQ = 2**53 - 1
MAX_PAGE_BYTES = 1024 * 1024
"""Approximate size of the contents in one page of messages; a page has at least one message."""
MAX_GROUP = 256
"""The most members of a group."""
MAX_SECONDS = 10 * 366 * 24 * 3600

NO_NUL = r"^[^\x00]*$"  # PostgreSQL cannot store U+0000 in a text
_VISIBLE = r"^[^\s\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]+$"

Username = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=NO_NUL), Field(examples=["omar"])]
"""A username as typed. Usernames that differ only in case are the same user (RFC 8265)."""

TopicName = Annotated[
    str, StringConstraints(min_length=1, max_length=512, pattern=NO_NUL), Field(examples=["noticias"])
]
"""A topic name as typed; checked after NFC and trimming."""

Id = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID, pattern=NO_NUL)]
ClientId = Annotated[
    str,
    StringConstraints(min_length=1, max_length=64, pattern=NO_NUL),
    Field(
        description="Chosen by the sender, unique per room. However often the message is sent, it takes effect once"
    ),
]
Content = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_CONTENT, pattern=NO_NUL),
    Field(examples=["Buenos días"]),
]
ContentBesideData = Annotated[
    str,
    StringConstraints(max_length=MAX_CONTENT, pattern=NO_NUL),
    Field(examples=["Buenos días"], description="May be empty if the message has `data`, or streams"),
]
Json = Annotated[JsonValue, SkipValidation]
"""Any JSON; `tidings.actions.events.encode_data` checks it."""
MessageData = Annotated[
    dict[str, Json] | None,
    Field(examples=[{"order": 17}], description=f"A JSON object of up to {MAX_DATA:,} bytes, for applications"),
]


def _publishable(name: str) -> str:
    if is_reserved(name):
        raise ValueError("this name is an event of the server, or reserved by Socket.IO's clients")
    return name


EventName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_.:-]{0,63}$"),
    AfterValidator(_publishable),
    Field(examples=["order.paid"], description="Not the name of an event of the server, nor reserved by Socket.IO"),
]
DeviceName = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=NO_NUL)]


def _integral(value: object) -> object:
    """Accept 1.0, which JSON Schema counts among the integers (Validation, 6.1.1) but strict validation does not."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


INTEGRAL = BeforeValidator(_integral)
Seq = Annotated[int, Field(ge=0, le=MAX_SEQ)]
Limit200 = Annotated[int, Field(ge=1, le=200)]
Limit500 = Annotated[int, Field(ge=1, le=500)]


Emoji = Annotated[
    str,
    StringConstraints(min_length=1, max_length=32, pattern=_VISIBLE),
    Field(examples=["👍"], description="An emoji, or a short name of one; no whitespace or control characters"),
]
Title = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=NO_NUL, strip_whitespace=True)]
Purpose = Annotated[str, StringConstraints(min_length=1, max_length=250, pattern=NO_NUL, strip_whitespace=True)]
Section = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=NO_NUL, strip_whitespace=True)]
Seconds = Annotated[int, Field(ge=1, le=MAX_SECONDS), INTEGRAL]


def one_of(kind: type[StrEnum]) -> BeforeValidator:
    """Accept the text of the wire, which strict validation refuses for an enum."""

    def parse(value: object) -> object:
        if isinstance(value, str) and value in list(kind):
            return kind(value)
        raise ValueError(f"one of {', '.join(kind)}")

    return BeforeValidator(parse)


class Payload(BaseModel):
    """Base of every action's payload."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class NoPayload(Payload):
    """Nothing, `null` or `{}`."""


def _exactlyone_of(*names: str) -> ConfigDict:
    """The rule as JSON Schema; `null` counts as left out."""
    rule: list[JsonValue] = [{"required": [name], "properties": {name: {"type": "string"}}} for name in names]
    return ConfigDict(json_schema_extra={"oneOf": rule})


class RoomRef(Payload):
    """A room reference: exactly one of the three."""

    model_config = _exactlyone_of("room_id", "topic_name", "username")

    room_id: Id | None = None
    topic_name: TopicName | None = Field(
        default=None, description="A topic; or, if no topic has that name, the user of that name"
    )
    username: Username | None = Field(default=None, description="The direct conversation with that user")

    @model_validator(mode="after")
    def _exactly_one(self) -> RoomRef:
        if (self.room_id is None) + (self.topic_name is None) + (self.username is None) != 2:
            raise ValueError("give exactly one of room_id, topic_name, username")
        return self


class SubjectInRoom(Payload):
    """A user in a room. `username` is that user, so the room is `room_id` or `topic_name`."""

    model_config = _exactlyone_of("room_id", "topic_name")

    room_id: Id | None = None
    topic_name: TopicName | None = None
    username: Username

    @model_validator(mode="after")
    def _exactly_one(self) -> SubjectInRoom:
        if (self.room_id is None) == (self.topic_name is None):
            raise ValueError("give exactly one of room_id, topic_name")
        return self


PostingField = Annotated[
    Posting, one_of(Posting), Field(description="Who may write: `members`, or `moderators` and the owner only")
]


class Create(Payload):
    topic_name: TopicName
    is_private: bool = False
    posting: PostingField = Posting.MEMBERS
    purpose: Purpose | None = None


class PreviewTopic(Payload):
    model_config = _exactlyone_of("room_id", "topic_name")

    room_id: Id | None = None
    topic_name: TopicName | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> PreviewTopic:
        if (self.room_id is None) == (self.topic_name is None):
            raise ValueError("give exactly one of room_id, topic_name")
        return self


class Subscribe(Payload):
    topic_name: TopicName


class Unsubscribe(RoomRef):
    pass


class Invite(SubjectInRoom):
    pass


class FileName(Payload):
    name: Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=NO_NUL)] = Field(
        description="Only the part after the last slash is kept", examples=["playa.jpg"]
    )
    size: Annotated[int, Field(ge=1, le=2**53)] = Field(description="Bytes", examples=[48213])

    _accept_integral = field_validator("size", mode="before")(_integral)


class FileRef(Payload):
    file_id: Id


class GetFiles(Payload):
    file_ids: Annotated[list[Id], Field(min_length=1, max_length=100)]


class MessageFile(Payload):
    id: Id = Field(description="Of an upload of the sender that is complete, and in no message yet")
    alt: Annotated[str, StringConstraints(max_length=1000, pattern=NO_NUL, strip_whitespace=True)] | None = Field(
        default=None, description="What the image shows, for those who do not see it"
    )


class SendMessage(RoomRef):
    content: ContentBesideData
    data: MessageData = None
    files: Annotated[list[MessageFile], Field(max_length=10)] = Field(
        default=[], description="With files, `content` may be empty", examples=[[]]
    )
    client_id: ClientId | None = Field(default=None, examples=["4f0c6a52-hola-1"])
    reply_to: Id | None = Field(default=None, description="`id` of a message in the same room")
    thread: Id | None = Field(
        default=None,
        description="`id` of a message in the same room, in whose thread this one is a reply: unread there, and not"
        " in the room",
    )
    stream: bool = Field(default=False, description="The message is written by `append`, and ended by `finish`")


class Edit(Payload):
    message_id: Id
    content: ContentBesideData
    data: MessageData = Field(default=None, description="Left out: unchanged; null: removed")


class Append(Payload):
    message_id: Id
    offset: int = Field(
        ge=0, le=MAX_STREAM, description="Characters (Unicode code points) of the content before `text`"
    )
    text: Content

    _accept_integral = field_validator("offset", mode="before")(_integral)


class Finish(Payload):
    message_id: Id
    offset: Annotated[int, Field(ge=0, le=MAX_STREAM)] | None = Field(
        default=None, description="Characters of the whole message, to be compared"
    )
    content: Annotated[str, StringConstraints(max_length=MAX_STREAM, pattern=NO_NUL)] | None = Field(
        default=None, description="In place of what was appended"
    )
    data: MessageData = Field(default=None, description="Left out: unchanged; null: removed")

    _accept_integral = field_validator("offset", mode="before")(_integral)


class Stop(Payload):
    message_id: Id


class Delete(Payload):
    message_id: Id


class React(Payload):
    message_id: Id
    emoji: Emoji
    remove: bool = False


class _PageOfLog(RoomRef):
    before: Seq | None = Field(default=None, description="Only those with a smaller seq")
    after: Seq | None = Field(default=None, description="Only those with a larger seq")
    limit: Limit200 = 50

    @model_validator(mode="after")
    def _one_direction(self) -> _PageOfLog:
        if self.before is not None and self.after is not None:
            raise ValueError("give before or after, not both")
        return self


class GetHistory(_PageOfLog):
    thread: Id | None = Field(
        default=None, description="`id` of the message that began a thread: only the replies in it"
    )
    without_threads: bool = Field(default=False, description="Without all replies in threads")


class FollowThread(Payload):
    message_id: Id = Field(description="Of any message of the thread")
    following: bool = True


class GetThreads(Payload):
    after: Id | None = Field(default=None, description="`next` of the previous page")
    limit: Limit200 = 50


class GetPreviews(Payload):
    message_ids: list[Id] = Field(min_length=1, max_length=50, examples=[["p7RbN4sYc1Hd"]])


class Publish(RoomRef):
    event: EventName
    data: Json = Field(description=f"Any JSON of up to {MAX_EVENT_DATA:,} bytes", examples=[{"id": 17}])
    client_id: ClientId | None = Field(default=None, examples=["order-17-paid"])
    transient: bool = Field(
        default=False, description="Only for members who are connected now: not in the log, delivered at most once"
    )


class GetEvents(_PageOfLog):
    event: EventName | None = Field(default=None, description="Only events of this name")


class Typing(RoomRef):
    typing: bool = True


def _limit_wrong_cursors(value: object) -> object:
    """Bound the error text: of many invalid entries, pass on only the first `MAX_WRONG_CURSORS`."""
    if not isinstance(value, Mapping) or len(value) <= MAX_WRONG_CURSORS:
        return value
    if len(value) > MAX_CURSORS:
        raise ValueError(f"more than {MAX_CURSORS:,} rooms")
    invalid = [room for room, seq in value.items() if not _is_cursor(room, seq)]
    return {room: value[room] for room in invalid[:MAX_WRONG_CURSORS]} if len(invalid) > MAX_WRONG_CURSORS else value


def _is_cursor(room: object, seq: object) -> bool:
    is_id = type(room) is str and 1 <= len(room) <= MAX_ID and "\0" not in room
    return is_id and type(seq) is int and 0 <= seq <= MAX_SEQ


CursorMap = Annotated[dict[Id, Seq], BeforeValidator(_limit_wrong_cursors)]
"""room_id -> seq"""


class Delivered(Payload):
    cursors: CursorMap = Field(
        max_length=MAX_CURSORS, description="room_id -> seq up to which this device has received everything"
    )


class Read(RoomRef):
    seq: Seq
    thread: Id | None = Field(
        default=None, description="`id` of a message: its thread is read up to `seq`, and not the room"
    )

    _accept_integral = field_validator("seq", mode="before")(_integral)


class MarkUnread(RoomRef):
    seq: Annotated[int, Field(ge=1, le=MAX_SEQ, examples=[1]), INTEGRAL]


class SetPreferences(RoomRef):
    """Fields that are left out stay unchanged."""

    notify: Annotated[Notify, one_of(Notify)] | None = Field(
        default=None, description="`all`, `mentions`, or `nothing`", examples=["mentions"]
    )
    quiet_for: Seconds | None = Field(default=None, description="Seconds; null: no longer quiet", examples=[3600])
    favourite: bool | None = None
    section: Section | None = Field(default=None, description="null: none", examples=["Trabajo"])


class GetRooms(Payload):
    kind: Annotated[RoomKind, one_of(RoomKind)] | None = None
    member: bool | None = Field(
        default=None, description="true: only rooms that the caller is in; false: only others"
    )
    after: Id | None = Field(default=None, description="`next` of the previous page")
    limit: Limit500 = 100


class ConnectToRoom(Payload):
    topic_name: TopicName = Field(validation_alias=AliasChoices("topic_name", "roomName"))
    username: Username | None = Field(default=None, description="If given, it must be the caller's own")

    @model_validator(mode="before")
    @classmethod
    def _one_name(cls, raw: object) -> object:
        if not isinstance(raw, Mapping) or not {"topic_name", "roomName"} <= raw.keys():
            return raw
        if raw["topic_name"] != raw["roomName"]:
            raise ValueError("topic_name and roomName differ")
        return {name: value for name, value in raw.items() if name != "roomName"}


class GetMembers(RoomRef):
    after: Username | None = Field(default=None, description="`next` of the previous page")
    limit: Limit500 = 100


class GetReceipts(RoomRef):
    pass


class CreateConversation(Payload):
    usernames: list[Username] = Field(
        min_length=1,
        max_length=MAX_GROUP - 1,
        description="The other members. One, without a title: a direct conversation",
    )
    title: Title | None = None
    posting: PostingField = Posting.MEMBERS
    purpose: Purpose | None = Field(default=None, description="Not for a direct conversation", examples=[None])


class SetTitle(RoomRef):
    title: Title


class SetPurpose(RoomRef):
    purpose: Purpose | None = Field(description="null: none")


class SetPicture(RoomRef):
    picture: Id | None = Field(
        description="Of a complete upload of the caller that is an image; null: none", examples=[None]
    )


class SetPosting(RoomRef):
    posting: PostingField


class Kick(SubjectInRoom):
    pass


class BanUser(SubjectInRoom):
    duration: Seconds | None = Field(default=None, description="Seconds; default: for ever")


class Unban(SubjectInRoom):
    pass


class Mute(SubjectInRoom):
    duration: Annotated[int, Field(ge=0, le=MAX_SECONDS), INTEGRAL] = Field(
        default=3600, description="Seconds; 0: no longer muted"
    )


class SetRole(SubjectInRoom):
    role: Annotated[Role, one_of(Role)] = Field(
        description="`owner` hands the room over; the previous owner becomes a moderator"
    )


class GetBans(RoomRef):
    after: Username | None = Field(default=None, description="`next` of the previous page")
    limit: Limit500 = 100


class ReportMessage(Payload):
    message_id: Id
    reason: Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=NO_NUL, strip_whitespace=True)] = (
        Field(examples=["an advertisement"])
    )


class GetReports(RoomRef):
    after: Id | None = Field(default=None, description="`next` of the previous page")
    limit: Limit500 = 100


class CloseReport(Payload):
    report_id: Id


class CreateInvitationLink(RoomRef):
    expires_in: Seconds | None = Field(default=7 * 24 * 3600, description="Seconds; null: never")
    uses: Annotated[int, Field(ge=1, le=1_000_000), INTEGRAL] | None = Field(
        default=None, description="How many users may join with it; null: any number"
    )


class GetInvitationLinks(RoomRef):
    after: Id | None = Field(default=None, description="`next` of the previous page")
    limit: Limit500 = 100


class InvitationCode(Payload):
    code: Id


class BlockUser(Payload):
    username: Username


class Search(Payload):
    query: Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=NO_NUL)] = Field(
        description='Words that the message must all contain; `"a phrase"`; `prefix*`; filters: `from:`, `in:`,'
        " `has:`, `after:`, `before:`",
        examples=['"good morning" lunch*'],
    )
    room_id: Id | None = Field(default=None, description="Only in this room")
    topic_name: TopicName | None = Field(default=None, description="Only in this topic")
    username: Username | None = Field(default=None, description="Only in the direct conversation with that user")
    before: Id | None = Field(default=None, description="`next` of the previous page")
    limit: Annotated[int, Field(ge=1, le=100)] = 20

    @model_validator(mode="after")
    def _at_most_one(self) -> Search:
        if sum(ref is not None for ref in (self.room_id, self.topic_name, self.username)) > 1:
            raise ValueError("give at most one of room_id, topic_name, username")
        return self


class EchoContent(Payload):
    content: Content


class GetEchoHistory(Payload):
    before: Id | None = Field(default=None, description="`next` of the previous page")
    limit: Limit200 = 50


class GetPending(Payload):
    device: DeviceName | None = Field(
        default=None, description="Default: the connection's device, otherwise `default`"
    )
    after: Id | None = Field(default=None, description="`next` of the previous page")
    limit: Limit500 = 100


class ClearPending(Payload):
    device: DeviceName | None = Field(
        default=None, description="Default: the connection's device, otherwise `default`"
    )
    room_id: Id | None = Field(default=None, description="Default: every room")


class ChangePassword(Payload):
    password: str = Field(description="The current password")
    new_password: str = Field(description="8–72 bytes in UTF-8")


class ResetPassword(Payload):
    code: Id = Field(description="Of a link that an administrator has made")
    new_password: str = Field(description="8–72 bytes in UTF-8")


class Deactivate(Payload):
    password: str


class DeleteAccount(Deactivate):
    messages: Literal["keep", "delete"] = Field(
        default="keep",
        description="What becomes of the caller's messages: `delete` leaves empty ones in their places",
    )


class RevokeSession(Payload):
    session_id: Id


class Authenticate(Payload):
    token: str = Field(min_length=1, max_length=8192)


class Register(Payload):
    username: Username
    password: str = Field(description="8–72 bytes in UTF-8")
    invitation: Id | None = Field(
        default=None,
        description="The code of a registration link; needed where registration is by invitation",
        examples=[None],
    )


class Login(Payload):
    username: Username
    password: str


class ConnectAuth(BaseModel):
    """The `auth` object of a Socket.IO connect; unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    token: str = Field(min_length=1, max_length=8192)
    device: DeviceName = Field(
        default="default",
        examples=["laptop"],
        description="Names this installation of the client; every device receives everything",
    )
    cursors: CursorMap = Field(
        default_factory=dict,
        max_length=MAX_CURSORS,
        examples=[{"Zm3kQ9vT2xLw": 41}],
        description="room_id -> seq up to which this device has the room's log",
    )
