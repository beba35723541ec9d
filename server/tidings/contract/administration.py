"""The payloads of the actions of administrators, of keys, and about webhooks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from tidings.contract.actions import (
    INTEGRAL,
    MAX_SECONDS,
    MAX_SEQ,
    NO_NUL,
    Id,
    Limit500,
    Payload,
    Seconds,
    Seq,
    Username,
    one_of,
)
from tidings.contract.models import Timestamp
from tidings.contract.permissions import KeyScope
from tidings.contract.profiles import DisplayName


class AdminUserRef(Payload):
    username: Username


class AdminRoomRef(Payload):
    room_id: Id


class UserRef(Payload):
    username: Username


class PutUser(UserRef):
    display_name: DisplayName | None = Field(
        default=None,
        description="Shown beside the username; left out: unchanged; null: removed",
        examples=["Omar García"],
    )


class MakeToken(UserRef):
    minutes: Annotated[int, Field(ge=1, le=MAX_SECONDS // 60), INTEGRAL] | None = Field(
        default=None, description="Lifetime; default: that of every token"
    )


class MemberOfRoom(Payload):
    room_id: Id
    username: Username


class GetAudit(Payload):
    before: Seq | None = Field(default=None, description="`next` of the previous page")
    limit: Limit500 = 100


class AdminGetUsers(Payload):
    query: Annotated[str, StringConstraints(max_length=200, pattern=NO_NUL)] | None = Field(
        default=None, description="Begins of words of the names; left out: all users", examples=["di"]
    )
    after: Username | None = Field(default=None, description="`next` of the previous page")
    limit: Limit500 = 100


class AdminDeleteUser(Payload):
    username: Username
    messages: Literal["keep", "delete"] = Field(
        default="keep", description="What becomes of the user's messages: `delete` leaves empty ones in their places"
    )


class SetRegistration(Payload):
    registration: Literal["open", "invite", "closed"] = Field(
        description="Who may create an account: anyone, whoever has a registration link, or nobody", examples=["open"]
    )


class AdminCreateKey(Payload):
    username: Username = Field(description="Of the key's own user, who is made if necessary", examples=["shop"])
    scopes: list[Annotated[KeyScope, one_of(KeyScope)]] = Field(
        min_length=1, max_length=len(KeyScope), examples=[["publish"]]
    )
    room_id: Id | None = Field(
        default=None, description="The only room in which its scopes hold; default: any", examples=[None]
    )


class AdminKeyRef(Payload):
    key_id: Id


class AdminGetRooms(Payload):
    after: Id | None = Field(default=None, description="`next` of the previous page")
    limit: Limit500 = 100


class AdminGetTopics(Payload):
    after: Id | None = Field(default=None, description="`next` of the previous page")
    limit: Limit500 = 100


class AdminGetReports(Payload):
    after: Id | None = Field(default=None, description="`next` of the previous page")
    limit: Limit500 = 100


class CreateRegistrationLink(Payload):
    expires_in: Seconds = Field(default=7 * 24 * 3600, description="Seconds")
    uses: Annotated[int, Field(ge=1, le=1_000_000), INTEGRAL] = Field(
        default=1, description="How many users may register with it"
    )


class GetRegistrationLinks(Payload):
    after: Id | None = Field(default=None, description="`next` of the previous page")
    limit: Limit500 = 100


class RegistrationLinkRef(Payload):
    link_id: Id


WEBHOOK_EVENT = r"^(\*|[A-Za-z][A-Za-z0-9_.:-]{0,63})$"
WebhookEvent = Annotated[str, StringConstraints(pattern=WEBHOOK_EVENT)]


class AdminCreateWebhook(Payload):
    url: Annotated[str, StringConstraints(min_length=1, max_length=2048, pattern=NO_NUL)] = Field(
        description="https, on the Internet; `TIDINGS_WEBHOOK_PRIVATE` allows http and private networks",
        examples=["https://example.org/hook"],
    )
    events: list[WebhookEvent] = Field(
        min_length=1,
        max_length=64,
        description="Names of events that are entries of a log, those of applications included; `*`: all of them",
        examples=[["message"]],
    )
    room_id: Id | None = Field(default=None, description="Only of this room; default: of every room", examples=[None])


class AdminGetWebhooks(Payload):
    pass


class AdminGetKeys(Payload):
    pass


class AdminGetHealth(Payload):
    pass


class AdminWebhookRef(Payload):
    webhook_id: Id


class AdminReplayWebhook(AdminWebhookRef):
    room_id: Id | None = Field(default=None, description="Default: that of the webhook, or every room")
    after: Annotated[int, Field(ge=0, le=MAX_SEQ), INTEGRAL] | None = Field(
        default=None,
        description="Send the entries after this seq, which may also skip some. Needs a room",
        examples=[41],
    )
    since: Timestamp | None = Field(default=None, description="Send the entries since then again", examples=[None])

    @model_validator(mode="after")
    def _exactly_one(self) -> AdminReplayWebhook:
        if (self.after is None) == (self.since is None):
            raise ValueError("give exactly one of after, since")
        return self
