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
from tests.support.node import SECRET_KEY, RunningNode


def signed(claims: dict[str, Any], **texts: str) -> str:
    """A token with these claims; `texts` are claims as JSON that Python's encoder would not write."""
    fields = {name: json.dumps(value) for name, value in claims.items()} | texts
    payload = "{" + ", ".join(f'"{name}": {text}' for name, text in fields.items()) + "}"
    parts = (b'{"alg": "HS256", "typ": "JWT"}', payload.encode())
    body = b".".join(urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    return (body + b"." + urlsafe_b64encode(digest(SECRET_KEY.encode(), body, sha256)).rstrip(b"=")).decode()


FORMS: dict[str, dict[str, str]] = {
    "an expiry beyond any float": {"exp": "1e400"},
    "an expiry of 400 digits": {"exp": "9" * 400},
    "an expiry in 30 million years": {"exp": "1000000000000000"},
    "an expiry right after the last that can be written": {"exp": "253402214401"},
    "an expiry that is a text": {"exp": '"9999999999"'},
    "an expiry that is a list": {"exp": "[9999999999]"},
    "a start beyond any float": {"nbf": "1e400"},
    "a session with half a character": {"sid": '"\\ud800"'},
    "a session with U+0000": {"sid": '"\\u0000"'},
    "a session of 2,000 characters": {"sid": f'"{"x" * 2000}"'},
    "a session that is an object": {"sid": "{}"},
    "a name with half a character": {"sub": '"\\ud800"'},
    "a claim nested 1,200 deep": {"deep": "[" * 1200 + "]" * 1200},
}


@pytest.fixture
async def claims(lite: RunningNode) -> dict[str, Any]:
    return jwt.decode(await lite.register("omar"), SECRET_KEY, ["HS256"], audience="tidings")


async def test_malformed_claims_with_a_valid_signature_are_refused_by_every_gateway(
    lite: RunningNode, claims: dict[str, Any]
) -> None:
    valid = signed(claims)
    answers = {name: await ask(lite.url, valid) for name, (ask, _) in DOORS.items()}
    assert answers == dict.fromkeys(DOORS, "ok"), "every gateway accepts a valid token"
    for form, texts in FORMS.items():
        token = signed(claims, **texts)
        answers = {name: await ask(lite.url, token) for name, (ask, _) in DOORS.items()}
        assert answers == {name: refused for name, (_, refused) in DOORS.items()}, form


async def test_a_channel_ticket_without_a_valid_end_is_refused(lite: RunningNode, claims: dict[str, Any]) -> None:
    ask, refused = DOORS["/echo_ws?token="]
    ticket = claims | {"aud": "tidings:echo_ws", "until": claims["exp"]}
    assert await ask(lite.url, signed(ticket)) == "ok"
    for until in ("1e400", "1000000000000000", '"never"', "-1"):
        assert await ask(lite.url, signed(ticket, until=until)) == refused, until


async def test_one_bad_session_id_does_not_fail_concurrent_connects(server: RunningNode) -> None:
    """Concurrent arrivals share one read."""
    claims = jwt.decode(await server.register("omar"), SECRET_KEY, ["HS256"], audience="tidings")
    bad = [signed(claims, **FORMS[form]) for form in FORMS if "session" in form]
    auth = server.node.auth
    for _ in range(5):
        arrivals = [auth.arrive(token, "laptop") for malformed in bad for token in (malformed, signed(claims))]
        outcomes = await asyncio.gather(*arrivals, return_exceptions=True)
        assert [getattr(outcome, "code", "ok") for outcome in outcomes[::2]] == ["unauthenticated"] * len(bad)
        assert [isinstance(outcome, tuple) for outcome in outcomes[1::2]] == [True] * len(bad), outcomes


async def test_a_token_issued_in_the_future_is_accepted(lite: RunningNode, claims: dict[str, Any]) -> None:
    for ahead_s in (2, 3600, 10**9):
        token = signed(claims | {"iat": int(time.time()) + ahead_s})
        answers = {name: await ask(lite.url, token) for name, (ask, _) in DOORS.items()}
        assert answers == dict.fromkeys(DOORS, "ok"), ahead_s


@pytest.mark.parametrize("issued", ["1e400", "9" * 400, '"yesterday"', "-1", "[]"])
async def test_a_malformed_issue_time_disturbs_no_connection(
    lite: RunningNode, claims: dict[str, Any], issued: str
) -> None:
    token = signed(claims, iat=issued)
    async with connected(lite.url, token) as omar, connected(lite.url, signed(claims), device="phone") as phone:
        await omar.ask("create", topic_name="noticias")
        assert (await phone.ask("message", topic_name="noticias", content="Hola"))["seq"] == 1
        await omar.event("message")
        second = Client(lite.url, token)
        await second.connect()
        await second.close()
