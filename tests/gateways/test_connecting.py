"""Connecting: which clients are accepted, how others are refused, and slow clients that delay nobody."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from websockets.exceptions import InvalidStatus

from tests.conformance.wire import eventually
from tests.gateways.plain import plain
from tests.gateways.raw import ENGINE, dumps, entered, opened, polling
from tests.support.client import Client
from tests.support.node import RunningNode, running_node, settings_for
from tests.support.timers import Timers
from tidings.transport.socketio_server import CONNECT_TIMEOUT_S

# -- tokens -----------------------------------------------------------------------------------------------------


def signed(claims: dict[str, Any], key: str | None = None) -> str:
    """A token with the node's own key, unless another is given."""
    own = settings_for("sqlite://", Path()).secret_key.get_secret_value()
    return jwt.encode(claims, own if key is None else key, algorithm="HS256")


async def test_a_wrong_token_is_refused_with_the_matching_code(gateway: RunningNode) -> None:
    good = await gateway.register("omar")
    claims = jwt.decode(good, options={"verify_signature": False})
    head, body, signature = good.split(".")
    revoked = await gateway.login("omar")
    async with entered(gateway.url, revoked) as raw:
        await raw.send('42["logout"]')
        await raw.until_closed()
    wrong: dict[str, tuple[Any, str]] = {
        "no auth at all": (None, "unauthenticated"),
        "no token": ({}, "unauthenticated"),
        "null": ({"token": None}, "unauthenticated"),
        "a number": ({"token": 7}, "unauthenticated"),
        "a list": ({"token": [good]}, "unauthenticated"),
        "auth that is a text": (good, "unauthenticated"),
        "auth that is a list": ([good], "unauthenticated"),
        "empty": ({"token": ""}, "unauthenticated"),
        "garbage": ({"token": "garbage"}, "unauthenticated"),
        "dots": ({"token": ".."}, "unauthenticated"),
        "not ASCII": ({"token": "ñ.ñ.ñ"}, "unauthenticated"),
        "too long": ({"token": good + "x" * 5000}, "unauthenticated"),
        "another signature": ({"token": f"{head}.{body}.{signature[::-1]}"}, "unauthenticated"),
        "another key, and expired": ({"token": signed({**claims, "exp": 1}, "x" * 32)}, "unauthenticated"),
        "another user": ({"token": signed({**claims, "sub": "diego"})}, "unauthenticated"),
        "expired": ({"token": signed({**claims, "exp": int(time.time()) - 1})}, "token_expired"),
        "withdrawn": ({"token": revoked}, "token_revoked"),
    }
    for case, (auth, code) in wrong.items():
        async with opened(gateway.url) as raw:
            error = await raw.connect_refused("" if auth is None else dumps(auth))
            assert (error["code"], error["retryable"]) == (code, False), case
            await raw.enter(good)  # the same session still accepts a good token


async def test_a_session_that_was_refused_twice_is_closed(gateway: RunningNode) -> None:
    async with opened(gateway.url) as raw:
        for _ in range(2):
            assert (await raw.connect_refused(dumps({"token": "garbage"})))["code"] == "unauthenticated"
        assert await raw.until_closed() == []
    async with opened(gateway.url) as raw:
        for _ in range(100):
            await raw.send("40/admin,")
        assert len(await raw.until_closed()) == 8


@pytest.mark.parametrize("token", ["garbage", 7])
async def test_the_token_is_checked_before_the_other_fields(gateway: RunningNode, token: object) -> None:
    """Otherwise a stranger could have the server validate a long payload and list its errors."""
    wrong = {"token": token, "device": 7, "cursors": {str(n): -1 for n in range(10_000)}}
    async with opened(gateway.url) as raw:
        assert (await raw.connect_refused(dumps(wrong)))["code"] == "unauthenticated"
    async with plain(gateway.url) as client:
        answer = await client.ask("authenticate", **wrong)
        assert answer["error"]["code"] == "unauthenticated"


async def test_auth_of_the_wrong_shape_is_invalid_and_names_the_field(gateway: RunningNode) -> None:
    token = await gateway.register("omar")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"device": 7}, "device"),
        ({"device": ""}, "device"),
        ({"device": "x" * 65}, "device"),
        ({"cursors": []}, "cursors"),
        ({"cursors": {"room": "1"}}, "cursors.room"),
        ({"cursors": {"room": -1}}, "cursors.room"),
        ({"cursors": {"room": 2**53}}, "cursors.room"),
        ({"cursors": {"room": 1.5}}, "cursors.room"),
        ({"cursors": {str(n): 1 for n in range(10_001)}}, "cursors"),
    ]
    for auth, field in wrong:
        async with opened(gateway.url) as raw:
            error = await raw.connect_refused(dumps({"token": token, **auth}))
            assert error["code"] == "invalid", auth
            assert field in error["details"]["fields"], (auth, error)
            await raw.enter(token, field_of_the_client="ignored by the server")


async def test_a_stock_client_gets_the_error_object_as_the_refusals_data(gateway: RunningNode) -> None:
    client = Client(gateway.url, "garbage")
    with pytest.raises(Exception, match="One or more namespaces failed to connect"):
        await client.connect()
    assert client.refusal["data"]["code"] == "unauthenticated"


# -- time and number --------------------------------------------------------------------------------------------


async def test_a_client_that_answers_pings_but_never_connects_is_closed(
    quiet_log: None, sqlite_url: str, tmp_path: Path
) -> None:
    assert CONNECT_TIMEOUT_S == 10
    timers = Timers()
    options = {"timers": timers, "engine": {"ping_interval": 4, "ping_timeout": 20}}
    async with running_node(sqlite_url, tmp_path, options=options) as node:
        token = await node.register("omar")
        async with (
            entered(node.url, token) as in_time,
            opened(node.url) as silent,
            opened(node.url) as refused,
            entered(node.url, token) as left,
            polling(node.url) as polled,
        ):
            await refused.connect_refused('{"token":"garbage"}')
            await left.send("41")
            await eventually(lambda: len(node.node.hub.connections) == 1)
            timers.advance(4)
            await silent.ping()
            timers.advance(5)
            assert len(node.node.socketio.eio.sockets) == 5
            timers.advance(5)  # the session that left its namespace has had ten seconds, too
            await refused.until_closed()
            await silent.until_closed()
            await left.until_closed()
            await polled.until("1")
            await in_time.is_alive()
            assert len(node.node.socketio.eio.sockets) == 1


async def _handshakes(url: str, number: int) -> int:
    """Open polling sessions and abandon them; returns how many the server accepted."""
    request = f"GET {ENGINE}polling HTTP/1.1\r\nHost: {url.removeprefix('http://')}\r\n"
    reader, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
    writer.write((f"{request}\r\n" * (number - 1) + f"{request}Connection: close\r\n\r\n").encode())
    answers = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    await writer.wait_closed()
    assert answers.count(b"HTTP/1.1 ") == number
    return answers.count(b"HTTP/1.1 200 ")


async def test_abandoned_handshakes_leave_nothing(quiet_log: None, sqlite_url: str, tmp_path: Path) -> None:
    timers = Timers()
    options = {"timers": timers, "engine": {"linger": 0.1}}
    async with running_node(sqlite_url, tmp_path, options=options) as node:
        assert await _handshakes(node.url, 300) == 300
        eio = node.node.socketio.eio
        timers.advance(CONNECT_TIMEOUT_S)
        await asyncio.wait_for(eio._empty.wait(), 30)
        assert not eio.sockets
        assert not eio.half_open
        assert not node.node.socketio.server._peers
        async with entered(node.url, await node.register("omar")) as raw:
            await raw.is_alive()


async def test_beyond_the_cap_the_oldest_connection_without_authentication_is_dropped(
    quiet_log: None, sqlite_url: str, tmp_path: Path
) -> None:
    """A newcomer may have a good token, so it is accepted. Authenticated connections do not count."""
    async with (
        running_node(sqlite_url, tmp_path, options={"engine": {"max_half_open": 3}}) as node,
        AsyncExitStack() as stack,
    ):
        token = await node.register("omar")
        raws = [await stack.enter_async_context(opened(node.url)) for _ in range(3)]
        await raws[0].enter(token)
        polled = await stack.enter_async_context(polling(node.url))
        newcomers = [await stack.enter_async_context(opened(node.url)) for _ in range(3)]
        for raw in raws[1:]:
            await raw.until_closed()
        assert (await polled.http.get(polled.address)).status_code == 400
        half_open = node.node.socketio.eio.half_open
        assert (half_open.dropped, len(half_open)) == (3, 3)
        await (await stack.enter_async_context(entered(node.url, token))).is_alive()
        await newcomers[0].until_closed()
        for raw in (raws[0], *newcomers[1:]):
            await raw.enter(token) if raw is not raws[0] else await raw.is_alive()
        assert not half_open


async def test_one_address_cannot_take_all_the_connections_without_authentication(
    quiet_log: None, sqlite_url: str, tmp_path: Path
) -> None:
    async with running_node(sqlite_url, tmp_path, rate_limits="on") as node:
        token = await node.register("omar")
        async with entered(node.url, token) as inside:
            half_open = node.node.socketio.eio.half_open
            assert await _handshakes(node.url, 201) == 201
            assert (half_open.dropped, len(half_open)) == (1, 200)
            await inside.is_alive()
            neighbour = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
            async with httpx.AsyncClient(base_url=node.url, transport=neighbour) as other:
                assert (await other.get(ENGINE + "polling")).status_code == 200
            assert (half_open.dropped, len(half_open)) == (1, 201)
        node.node.socketio.eio.linger = 0.1  # no client polls those sessions to their end


# -- origins ----------------------------------------------------------------------------------------------------

FOREIGN = (
    "https://evil.example",
    "http://127.0.0.1",
    "http://127.0.0.1:1",
    "null",
    "",
    "http://[",
    "http://[::1",
    "not a url",
    "http://ñ.example",
)


async def _open_with(url: str, headers: dict[str, str]) -> tuple[int, int, httpx.Headers]:
    """A handshake with these headers: the status over polling and over WebSocket, and the headers over polling."""
    async with httpx.AsyncClient(base_url=url) as http:
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        answer = await http.get(ENGINE + "polling", headers=raw)
        if answer.status_code == 200:
            sid = json.loads(answer.text[1:])["sid"]
            await http.post(f"{ENGINE}polling&sid={sid}", content="1", headers=raw)
    try:
        async with opened(url, **headers):
            return answer.status_code, 101, answer.headers
    except InvalidStatus as refusal:
        return answer.status_code, refusal.response.status_code, answer.headers


async def test_a_browser_on_a_foreign_page_is_refused_and_the_log_names_its_origin_once(
    gateway: RunningNode, caplog: pytest.LogCaptureFixture
) -> None:
    ours = f"https://{gateway.node.id.lower()}.example"  # new to the log
    for origin in (ours, *FOREIGN, ours):
        polled, upgraded, headers = await _open_with(gateway.url, {"Origin": origin})
        assert (polled, upgraded) == (403, 403), origin
        assert "access-control-allow-origin" not in headers, origin
    logged = [record.getMessage() for record in caplog.records if ours in record.getMessage()]
    assert logged == [f"refused a page of the origin '{ours}'; see TIDINGS_CORS_ORIGINS"]
    forged = {"Origin": "https://evil.example", "X-Forwarded-Host": "evil.example"}
    assert (await _open_with(gateway.url, forged))[:2] == (403, 403)
    assert not gateway.node.socketio.eio.sockets


async def test_a_foreign_page_cannot_use_a_session_that_is_open(gateway: RunningNode) -> None:
    async with polling(gateway.url, await gateway.register("omar")) as session:
        foreign = {"Origin": "https://evil.example"}
        for method in ("GET", "POST", "OPTIONS"):
            answer = await session.http.request(method, session.address, headers=foreign, content="41")
            assert answer.status_code == 403, method
        await session.post('421["get_rooms",{}]')
        assert '"ok":true' in await session.until("431")


async def test_the_servers_own_pages_and_programs_without_origin_are_accepted(gateway: RunningNode) -> None:
    polled, upgraded, headers = await _open_with(gateway.url, {"Origin": gateway.url})
    assert (polled, upgraded) == (200, 101)
    assert headers["access-control-allow-origin"] == gateway.url
    assert (await _open_with(gateway.url, {}))[:2] == (200, 101)


async def test_only_the_origins_of_the_settings_are_accepted(
    quiet_log: None, sqlite_url: str, tmp_path: Path
) -> None:
    allowed = ["https://chat.example", "http://localhost:5173"]
    async with running_node(sqlite_url, tmp_path, cors_origins=allowed) as node:
        for origin in (*allowed, node.url):
            polled, upgraded, headers = await _open_with(node.url, {"Origin": origin})
            assert (polled, upgraded) == (200, 101), origin
            assert headers["access-control-allow-origin"] == origin
            assert "origin" in headers["vary"].lower()
        for origin in (*FOREIGN, "http://chat.example", "https://chat.example:444", "https://chat.example.evil"):
            assert (await _open_with(node.url, {"Origin": origin}))[:2] == (403, 403), origin
        async with httpx.AsyncClient(base_url=node.url) as http:
            preflight = await http.options(ENGINE + "polling", headers={"Origin": allowed[0]})
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == allowed[0]
        assert "POST" in preflight.headers["access-control-allow-methods"]
