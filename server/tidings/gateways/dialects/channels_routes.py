"""The channels' HTTP routes, as the OpenAPI document describes them; `channels` serves them."""

from __future__ import annotations

from functools import partial
from typing import Final

from tidings.gateways.dialects.routes import (
    NAME,
    PASSWORD_FLOW,
    SECONDS,
    TEXT,
    TIME,
    TOKEN,
    DialectRoute,
    Tag,
    list_of,
    record,
)

_TAG: Final = Tag("dialect: channels", "The two channels: users, links to the WebSockets, the echo log")
_SIGNED_IN: Final = record(access_token=TOKEN, token_type={"const": "bearer"}, expires_at=TIME, username=NAME)
_LINK: Final = record(
    link={"type": "string", "examples": ["ws://127.0.0.1:8000/echo_ws?token=…"]}, expires_in=SECONDS
)
_ECHOED: Final = record(
    history=list_of(record(direction={"enum": ["sent", "received"]}, message=TEXT, created_at=TIME)),
    next={
        "type": ["string", "null"],
        "description": "Pass it as `before` to get older entries; null: there are none",
    },
)
_route: Final = partial(DialectRoute, tag=_TAG)


def _credentials(http: str, name: str, action: str, status: int, summary: str) -> DialectRoute:
    return _route(
        http=http,
        name=name,
        summary=summary,
        status=status,
        answer=_SIGNED_IN,
        body={name: f"{action}.{name.replace('login', 'username')}" for name in ("username", "login", "password")},
        one_of=("username", "login"),
        actions=(action,),
        anonymous=True,
        form=True,
        token="access_token",
    )


ROUTES: Final = (
    _credentials("POST /register", "channels_register", "register", 201, "Create a user, and sign in"),
    _credentials(f"POST {PASSWORD_FLOW}", "channels_login", "login", 200, "Sign in"),
    _route(
        http="GET /echo_ws",
        name="channels_echo_link",
        summary="Get a link to the echo channel, valid for some minutes",
        answer=_LINK,
    ),
    _route(
        http="GET /pub_ws",
        name="channels_public_link",
        summary="Enter the public channel: get a link to it, valid for some minutes",
        answer=_LINK,
        actions=("subscribe", "create"),
    ),
    _route(
        http="GET /history",
        name="channels_history",
        summary="Get the newest entries of the caller's echo log, in order",
        answer=_ECHOED,
        query={"before": "echo_history.before"},
        actions=("echo_history",),
    ),
)
