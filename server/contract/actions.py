"""The payload of every action, by the names on the wire.

Unknown fields are refused: a misspelt `client_id` would otherwise lose its promise in silence.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    model_validator,
)

from server.contract.models import Role, RoomKind

MAX_CONTENT = 16_384
MAX_CURSORS = 10_000
MAX_GROUP = 256
"""Members of a group, at most."""
MAX_SECONDS = 10 * 366 * 24 * 3600

_NO_NUL = r"^[^\x00]*$"  # PostgreSQL cannot hold U+0000 in a text
_VISIBLE = r"^[^\s\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]+$"

Username = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=_NO_NUL), Field(examples=["omar"])]
"""A username as typed; its length and characters are judged in mapped form (RFC 8265)."""

TopicName = Annotated[
    str, StringConstraints(min_length=1, max_length=512, pattern=_NO_NUL), Field(examples=["noticias"])
]
"""A topic name as typed; judged after NFC and trimming."""

Id = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=_NO_NUL)]
ClientId = Annotated[
    str,
    StringConstraints(min_length=1, max_length=64, pattern=_NO_NUL),
    Field(description="Chosen by the sender, unique per room: however often it is sent, it takes effect once"),
]
Content = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_CONTENT, pattern=_NO_NUL),
    Field(examples=["Buenos días"]),
]
DeviceName = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=_NO_NUL)]
Seq = Annotated[int, Field(ge=0, le=2**53 - 1)]
Limit200 = Annotated[int, Field(ge=1, le=200)]
Limit500 = Annotated[int, Field(ge=1, le=500)]


Emoji = Annotated[
    str,
    StringConstraints(min_length=1, max_length=32, pattern=_VISIBLE),
    Field(examples=["👍"], description="An emoji, or a short name of one; no whitespace or control characters"),
]
Title = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=_NO_NUL, strip_whitespace=True)]
Seconds = Annotated[int, Field(ge=1, le=MAX_SECONDS)]


def _kind(value: object) -> object:
    """A kind is a text on the wire; strict validation would take nothing but the enum's own members."""
    return RoomKind(value) if isinstance(value, str) and value in list(RoomKind) else value


def _role(value: object) -> object:
    return Role(value) if isinstance(value, str) and value in list(Role) else value


class Payload(BaseModel):
    """Base of every action's payload."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class NoPayload(Payload):
    """Nothing, `null` or `{}`."""


def _exactly_one_of(*names: str) -> ConfigDict:
    """The rule as JSON Schema; `null` is as good as left out."""
    rule: list[JsonValue] = [{"required": [name], "properties": {name: {"type": "string"}}} for name in names]
    return ConfigDict(json_schema_extra={"oneOf": rule})


class RoomRef(Payload):
    """A room reference: exactly one of the three."""

    model_config = _exactly_one_of("room_id", "topic_name", "username")

    room_id: Id | None = None
    topic_name: TopicName | None = Field(
        default=None, description="A topic; or, if no topic has that name, the user of that name"
    )
    username: Username | None = Field(default=None, description="The direct conversation with that user")

    @model_validator(mode="after")
    def _exactly_one(self) -> RoomRef:
        if sum(ref is not None for ref in (self.room_id, self.topic_name, self.username)) != 1:
            raise ValueError("give exactly one of room_id, topic_name, username")
        return self


class SubjectInRoom(Payload):
    """A room and a user it is about: here `username` is that user, so the room is one of the other two."""

    model_config = _exactly_one_of("room_id", "topic_name")

    room_id: Id | None = None
    topic_name: TopicName | None = None
    username: Username

    @model_validator(mode="after")
    def _exactly_one(self) -> SubjectInRoom:
        if (self.room_id is None) == (self.topic_name is None):
            raise ValueError("give exactly one of room_id, topic_name")
        return self


class Create(Payload):
    topic_name: TopicName
    is_private: bool = False


class Subscribe(Payload):
    topic_name: TopicName


class Unsubscribe(RoomRef):
    pass


class Invite(SubjectInRoom):
    pass


class SendMessage(RoomRef):
    content: Content
    client_id: ClientId | None = Field(default=None, examples=["4f0c6a52-hola-1"])
    reply_to: Id | None = Field(default=None, description="`id` of a message in the same room")


class Edit(Payload):
    message_id: Id
    content: Content


class Delete(Payload):
    message_id: Id


class React(Payload):
    message_id: Id
    emoji: Emoji
    remove: bool = False


class GetHistory(RoomRef):
    before: Seq | None = Field(default=None, description="Only messages with a smaller seq")
    after: Seq | None = Field(default=None, description="Only messages with a larger seq")
    limit: Limit200 = 50

    @model_validator(mode="after")
    def _one_direction(self) -> GetHistory:
        if self.before is not None and self.after is not None:
            raise ValueError("give before or after, not both")
        return self


class Typing(RoomRef):
    typing: bool = True


class Delivered(Payload):
    cursors: dict[Id, Seq] = Field(
        max_length=MAX_CURSORS, description="room_id -> seq up to which this device has received everything"
    )


class Read(RoomRef):
    seq: Seq


class GetRooms(Payload):
    kind: Annotated[RoomKind, BeforeValidator(_kind)] | None = None
    member: bool | None = Field(default=None, description="Only rooms that the caller is in, or only others")
    after: Id | None = Field(default=None, description="`next` of the page before")
    limit: Limit500 = 100


class ConnectToRoom(Payload):
    topic_name: TopicName = Field(validation_alias=AliasChoices("topic_name", "roomName"))


class GetMembers(RoomRef):
    after: Username | None = Field(default=None, description="`next` of the page before")
    limit: Limit500 = 100


class GetReceipts(RoomRef):
    pass


class GetProfile(Payload):
    username: Username


class CreateConversation(Payload):
    usernames: list[Username] = Field(
        min_length=1, max_length=MAX_GROUP - 1, description="The others. One, and no title: the direct conversation"
    )
    title: Title | None = None


class SetTitle(RoomRef):
    title: Title


class Kick(SubjectInRoom):
    pass


class BanUser(SubjectInRoom):
    duration: Seconds | None = Field(default=None, description="Seconds; not given: for ever")


class Unban(SubjectInRoom):
    pass


class Mute(SubjectInRoom):
    duration: Annotated[int, Field(ge=0, le=MAX_SECONDS)] = Field(
        default=3600, description="Seconds; 0: may speak again at once"
    )


class SetRole(SubjectInRoom):
    role: Annotated[Role, BeforeValidator(_role)] = Field(
        description="`owner` hands the room over: who was the owner is a moderator then"
    )


class GetBans(RoomRef):
    after: Username | None = Field(default=None, description="`next` of the page before")
    limit: Limit500 = 100


class CreateInvitationLink(RoomRef):
    expires_in: Seconds | None = Field(default=7 * 24 * 3600, description="Seconds; null: never")
    uses: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None, description="How many may come by it; null: any number"
    )


class InvitationCode(Payload):
    code: Id


class BlockUser(Payload):
    username: Username


class Search(Payload):
    query: Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=_NO_NUL)] = Field(
        description='Words, all of which are in the message; `"a phrase"`; `begin*`',
        examples=['"good morning" lunch*'],
    )
    room_id: Id | None = Field(default=None, description="Only in this room")
    topic_name: TopicName | None = Field(default=None, description="Only in this topic")
    username: Username | None = Field(default=None, description="Only in the direct conversation with that user")
    before: Id | None = Field(default=None, description="`next` of the page before")
    limit: Annotated[int, Field(ge=1, le=100)] = 20

    @model_validator(mode="after")
    def _at_most_one(self) -> Search:
        if sum(ref is not None for ref in (self.room_id, self.topic_name, self.username)) > 1:
            raise ValueError("give at most one of room_id, topic_name, username")
        return self


class EchoContent(Payload):
    content: Content


class GetEchoHistory(Payload):
    before: Id | None = Field(default=None, description="`next` of the page before")
    limit: Limit200 = 50


class GetPending(Payload):
    device: DeviceName | None = Field(default=None, description="Not given: the connection's own, else `default`")
    after: Id | None = Field(default=None, description="`next` of the page before")
    limit: Limit500 = 100


class ClearPending(Payload):
    device: DeviceName | None = Field(default=None, description="Not given: the connection's own, else `default`")
    room_id: Id | None = Field(default=None, description="Not given: of every room")


class ChangePassword(Payload):
    password: str = Field(description="The present one")
    new_password: str = Field(description="8–72 bytes in UTF-8")


class Deactivate(Payload):
    password: str


class RevokeSession(Payload):
    session_id: Id


class AdminUserRef(Payload):
    username: Username


class AdminRoomRef(Payload):
    room_id: Id


class AdminGetUsers(Payload):
    after: Username | None = Field(default=None, description="`next` of the page before")
    limit: Limit500 = 100


class AdminGetTopics(Payload):
    after: Id | None = Field(default=None, description="`next` of the page before")
    limit: Limit500 = 100


class Authenticate(Payload):
    token: str = Field(min_length=1, max_length=4096)


class Register(Payload):
    username: Username
    password: str = Field(description="8–72 bytes in UTF-8")


class Login(Payload):
    username: Username
    password: str


class ConnectAuth(BaseModel):
    """What a client gives when it connects (Socket.IO `auth`); other fields in it are the client's own."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    token: str = Field(min_length=1, max_length=4096)
    device: DeviceName = Field(
        default="default", examples=["laptop"], description="This installation of the client; each gets everything"
    )
    cursors: dict[Id, Seq] = Field(
        default_factory=dict,
        max_length=MAX_CURSORS,
        examples=[{"Zm3kQ9vT2xLw": 41}],
        description="room_id -> seq up to which this device holds the room's log",
    )
