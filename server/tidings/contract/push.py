"""The payloads of the actions on push notifications."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, StringConstraints

from tidings.contract.actions import NO_NUL, Id, Payload

_Endpoint = Annotated[str, StringConstraints(min_length=1, max_length=2048, pattern=NO_NUL)]
_Key = Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=NO_NUL)]
MAX_KEYS = 8


def _limit_keys(value: object) -> object:
    """Refuse too many keys before each of them is validated."""
    if isinstance(value, dict) and len(value) > MAX_KEYS:
        raise ValueError(f"more than {MAX_KEYS} keys")
    return value


_Keys = Annotated[
    dict[Annotated[str, StringConstraints(min_length=1, max_length=32, pattern=NO_NUL)], _Key],
    BeforeValidator(_limit_keys),
]


class SubscribePush(Payload):
    endpoint: _Endpoint = Field(
        description="As the browser gives it: https, on the Internet. Of another provider: what it sends to",
        examples=["https://push.example.org/send/dGlkaW5ncw"],
    )
    keys: _Keys = Field(
        default_factory=dict,
        max_length=MAX_KEYS,
        description="As the browser gives them: `p256dh` and `auth`",
        examples=[
            {
                "p256dh": "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
                "auth": "BTBZMqHH6r4Tts7J_aSIgg",
            }
        ],
    )
    with_content: bool = Field(default=True, description="Whether notifications say who wrote what")
    provider: Annotated[str, StringConstraints(min_length=1, max_length=32, pattern=NO_NUL)] = Field(
        default="web", description="`web`, or another one of this server", examples=["web"]
    )


class PushSubscriptionRef(Payload):
    subscription_id: Id
