"""The payloads of the actions on users' profiles."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from tidings.contract.actions import NO_NUL, Emoji, Id, Limit500, Payload, Seconds, Username
from tidings.contract.models import FOLDED

DisplayName = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=NO_NUL, strip_whitespace=True)]
Folded = Annotated[str, StringConstraints(min_length=1, max_length=68, pattern=NO_NUL)]


class GetProfile(Payload):
    username: Username


class SetStatus(Payload):
    text: Annotated[str, StringConstraints(max_length=100, pattern=NO_NUL, strip_whitespace=True)] = Field(
        default="", description="May be empty beside an emoji", examples=["On holiday"]
    )
    emoji: Emoji | None = Field(default=None, examples=["🌴"])
    expires_in: Seconds | None = Field(default=None, description="Seconds; null: until it is changed")

    @model_validator(mode="after")
    def _not_empty(self) -> SetStatus:
        if not self.text and self.emoji is None:
            raise ValueError("a text or an emoji is needed")
        return self


class SetProfile(Payload):
    display_name: DisplayName | None = Field(
        default=None, description="Shown beside the username", examples=["Diego Pérez"]
    )
    status: SetStatus | None = None
    do_not_disturb: Seconds | None = Field(
        default=None, description="Seconds, in which clients do not ring or notify", examples=[3600]
    )
    picture: Id | None = Field(
        default=None, description="Of a complete upload of the caller that is an image", examples=[None]
    )
    folded: Annotated[list[Folded], Field(max_length=500)] | None = Field(
        default=None, description=f"{FOLDED}. Kept for the user's own devices", examples=[["topics", "own Trabajo"]]
    )


class GetUsers(Payload):
    query: Annotated[str, StringConstraints(max_length=64, pattern=NO_NUL)] | None = Field(
        default=None,
        description="Each of its words must be the begin of a word of the username or the display name. Case,"
        " diacritics and punctuation are ignored; blank: all users",
        examples=["gar"],
    )
    after: Username | None = Field(default=None, description="`next` of the previous page")
    limit: Limit500 = 100
