"""Malformed claims signed with the server's key are refused at every gateway, without side effects."""

from __future__ import annotations

import asyncio
import json
import time
from base64 import urlsafe_b64encode
from hashlib import sha256
from hmac import digest
from typing import Any

import jwt
import pytest

from tests.accounts.token_doors import DOORS
from tests.support.client import Client, connected
from tests.support.node import RunningNode

KEY = "a key for tests only, of 32 bytes and more"


def signed(claims: dict[str, Any], **texts: str) -> str:
    """A token with these claims; `texts` are claims as JSON that Python's encoder would not write."""
    fields = {name: json.dumps(value) for name, value in claims.items()} | texts
    payload = "{" + ", ".join(f'"{name}": {text}' for name, text in fields.items()) + "}"
    parts = (b'{"alg": "HS256", "typ": "JWT"}', payload.encode())
    body = b".".join(urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    return (body + b"." + urlsafe_b64encode(digest(KEY.encode(), body, sha256)).rstrip(b"=")).decode()


FORMS: dict[str, dict[str, str]] = {
    "an end beyond any float": {"exp": "1e400"},
    "an end of 400 digits": {"exp": "9" * 400},
    "an end in 30 million years": {"exp": "1000000000000000"},
    "an end right after the last that can be written": {"exp": "253402214401"},
    "an end that is a text": {"exp": '"9999999999"'},
    "an end that is a list": {"exp": "[9999999999]"},
    "a beginning beyond any float": {"nbf": "1e400"},
    "a session with half a character": {"sid": '"\\ud800"'},
    "a session with U+0000": {"sid": '"\\u0000"'},
    "a session as long as a page": {"sid": f'"{"x" * 2000}"'},
    "a session that is an object": {"sid": "{}"},
    "a name with half a character": {"sub": '"\\ud800"'},
    "a claim as deep as a mine": {"deep": "[" * 1200 + "]" * 1200},
}


@pytest.fixture
async def claims(lite: RunningNode) -> dict[str, Any]:
    return jwt.decode(await lite.register("omar"), KEY, ["HS256"], audience="tidings")


async def test_what_only_the_key_can_sign_is_refused_at_every_door_as_any_other_wrong_token(
    lite: RunningNode, claims: dict[str, Any]
) -> None:
    good = signed(claims)
    said = {name: await ask(lite.url, good) for name, (ask, _) in DOORS.items()}
    assert said == dict.fromkeys(DOORS, "ok"), "the doors open to a good one"
    for form, texts in FORMS.items():
        token = signed(claims, **texts)
        said = {name: await ask(lite.url, token) for name, (ask, _) in DOORS.items()}
        assert said == {name: refused for name, (_, refused) in DOORS.items()}, form


async def test_a_channels_ticket_that_would_never_end_is_refused(lite: RunningNode, claims: dict[str, Any]) -> None:
    ask, refused = DOORS["/echo_ws?token="]
    ticket = claims | {"aud": "tidings:echo_ws", "until": claims["exp"]}
    assert await ask(lite.url, signed(ticket)) == "ok"
    for until in ("1e400", "1000000000000000", '"never"', "-1"):
        assert await ask(lite.url, signed(ticket, until=until)) == refused, until


async def test_one_bad_session_id_does_not_fail_concurrent_connects(server: RunningNode) -> None:
    """Concurrent arrivals share one read."""
    claims = jwt.decode(await server.register("omar"), KEY, ["HS256"], audience="tidings")
    bad = [signed(claims, **FORMS[form]) for form in FORMS if "session" in form]
    auth = server.node.auth
    for _ in range(5):
        arrivals = [auth.arrive(token, "laptop") for one in bad for token in (one, signed(claims))]
        outcomes = await asyncio.gather(*arrivals, return_exceptions=True)
        assert [getattr(one, "code", "ok") for one in outcomes[::2]] == ["unauthenticated"] * len(bad)
        assert [isinstance(one, tuple) for one in outcomes[1::2]] == [True] * len(bad), outcomes


async def test_a_clock_that_was_set_back_refuses_no_token(lite: RunningNode, claims: dict[str, Any]) -> None:
    for ahead_s in (2, 3600, 10**9):
        token = signed(claims | {"iat": int(time.time()) + ahead_s})
        said = {name: await ask(lite.url, token) for name, (ask, _) in DOORS.items()}
        assert said == dict.fromkeys(DOORS, "ok"), ahead_s


@pytest.mark.parametrize("issued", ["1e400", "9" * 400, '"yesterday"', "-1", "[]"])
async def test_an_absurd_time_of_issue_harms_nobody(lite: RunningNode, claims: dict[str, Any], issued: str) -> None:
    token = signed(claims, iat=issued)
    async with connected(lite.url, token) as omar, connected(lite.url, signed(claims), device="phone") as other:
        await omar.ask("create", topic_name="noticias")
        assert (await other.ask("message", topic_name="noticias", content="Hola"))["seq"] == 1
        await omar.event("message")
        again = Client(lite.url, token)
        await again.connect()
        await again.close()
