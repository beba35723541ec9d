"""The two-channels protocol: everything that its document promises."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest
from socketio.exceptions import ConnectionError as SocketIOConnectionError
from sqlalchemy import select
from sqlalchemy.engine import Connection as Transaction
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin

from tests.delivery.support import expiry_timers
from tests.echo.upstream import EchoServer, echo_server
from tests.support.client import DEADLINE_S, Client, Refused, connected
from tests.support.node import NO_TLS, PASSWORD, RunningNode, running_node
from tidings.auth.tokens import now_ms
from tidings.cli.commands import main
from tidings.gateways.dialects.channels import PublicChannel
from tidings_db.models import users

CHANNELS = ("echo_ws", "pub_ws")


@pytest.fixture
async def http(gateway: RunningNode) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.url, verify=NO_TLS, timeout=30) as client:
        yield client


@pytest.fixture
async def upstream() -> AsyncIterator[EchoServer]:
    async with echo_server() as server:
        yield server


@pytest.fixture
async def proxy(quiet_log: None, sqlite_url: str, tmp_path: Path, upstream: EchoServer) -> AsyncIterator[RunningNode]:
    """A node in proxy mode."""
    async with running_node(sqlite_url, tmp_path, echo_upstream=upstream.url) as node:
        yield node


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def link(url: str, token: str, channel: str) -> str:
    """Request the link of a channel."""
    async with httpx.AsyncClient(base_url=url, verify=NO_TLS, timeout=30) as http:
        answer = await http.get(f"/{channel}", headers=bearer(token))
        assert answer.status_code == 200, answer.text
        assert answer.json().keys() == {"link", "expires_in"}
        address: str = answer.json()["link"]
        return address


async def history(url: str, token: str, **query: str) -> list[tuple[str, str]]:
    async with httpx.AsyncClient(base_url=url, verify=NO_TLS, timeout=30) as http:
        answer = await http.get("/history", headers=bearer(token), params=query)
        assert answer.status_code == 200, answer.text
        return [(entry["direction"], entry["message"]) for entry in answer.json()["history"]]


class Channel:
    """A WebSocket of a channel."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def say(self, frame: str | bytes) -> None:
        await self.socket.send(frame)

    async def receive(self) -> str:
        text = await asyncio.wait_for(self.socket.recv(), DEADLINE_S)
        assert isinstance(text, str)
        return text

    async def echo(self, content: str) -> str:
        await self.say(content)
        return await self.receive()

    async def message(self) -> tuple[str, str]:
        """The next frame of the public channel: username and message."""
        frame = json.loads(await self.receive())
        assert frame.keys() == {"id", "username", "message", "created_at"}, frame
        return frame["username"], frame["message"]

    async def refusal(self) -> str:
        """The code of the next frame, an error."""
        frame = json.loads(await self.receive())
        assert frame.keys() == {"error"}
        assert isinstance(frame["error"]["message"], str)
        return str(frame["error"]["code"])

    async def read(self) -> None:
        """Read until the connection ends."""
        while True:
            await self.receive()

    async def until_closed(self) -> int | None:
        with pytest.raises(ConnectionClosed):
            await self.receive()
        return self.socket.close_code


@asynccontextmanager
async def opened(address: str) -> AsyncIterator[Channel]:
    async with connect(address, compression=None, ping_interval=None, max_size=None, proxy=None) as socket:
        yield Channel(socket)


@asynccontextmanager
async def entered(node: RunningNode, username: str, channel: str) -> AsyncIterator[Channel]:
    """Register a user and open their channel by its link."""
    async with opened(await link(node.url, await node.register(username), channel)) as socket:
        yield socket


async def refusal(address: str) -> int:
    """The status with which a handshake is refused."""
    with pytest.raises(InvalidStatus) as refused:
        async with opened(address):
            pass
    return refused.value.response.status_code


# -- users -----------------------------------------------------------------------------------------------------------


async def test_registering_needs_a_login_and_a_password(http: httpx.AsyncClient) -> None:
    answer = await http.post("/register", json={"username": "ana", "password": PASSWORD})
    assert answer.status_code == 201
    assert answer.json().keys() == {"access_token", "token_type", "expires_at", "username"}
    assert (await http.post("/register", json={"login": "ben", "password": PASSWORD})).status_code == 201
    assert (await http.get("/api/me", headers=bearer(answer.json()["access_token"]))).json()["username"] == "ana"


async def test_a_login_is_unique_and_a_password_is_checked(http: httpx.AsyncClient) -> None:
    await http.post("/register", json={"username": "ana", "password": PASSWORD})
    for fields, status in (
        ({"username": "ANA", "password": PASSWORD}, 409),
        ({"username": "ben", "password": "short"}, 422),
        ({"username": "ben", "password": "x" * 73}, 422),
        ({"username": "a b", "password": PASSWORD}, 422),
        ({"username": "ben"}, 422),
        ({"password": PASSWORD}, 422),
        ({"username": "ben", "login": "ben", "password": PASSWORD}, 422),
        ({"username": "ben", "password": 7}, 422),
    ):
        answer = await http.post("/register", json=fields)
        assert answer.status_code == status, fields
        assert answer.json()["detail"]


async def test_a_password_is_stored_as_a_hash(gateway: RunningNode, http: httpx.AsyncClient) -> None:
    await http.post("/register", json={"username": "ana", "password": PASSWORD})
    stored = (await gateway.node.auth.user("ana")).password_hash
    assert stored is not None
    assert stored.startswith("$2b$")


async def test_signing_in_is_answered_with_a_jwt(http: httpx.AsyncClient) -> None:
    await http.post("/register", json={"username": "ana", "password": PASSWORD})
    form = {"grant_type": "password", "username": "ana", "password": PASSWORD, "scope": "", "client_id": ""}
    for answer in (
        await http.post("/login", json={"username": "ana", "password": PASSWORD}),
        await http.post("/login", data={"username": "ana", "password": PASSWORD}),
        await http.post("/login", data=form, headers={"Authorization": "Basic Og=="}),
    ):
        assert answer.status_code == 200
        assert answer.headers["Cache-Control"] == "no-store"
        token = answer.json()
        assert token["token_type"] == "bearer"
        assert jwt.decode(token["access_token"], options={"verify_signature": False})["sub"] == "ana"
        assert (await http.get("/history", headers=bearer(token["access_token"]))).status_code == 200


async def test_wrong_credentials_are_refused(http: httpx.AsyncClient) -> None:
    await http.post("/register", json={"username": "ana", "password": PASSWORD})
    for fields in ({"username": "ana", "password": "not the password"}, {"username": "nobody", "password": PASSWORD}):
        assert (await http.post("/login", json=fields)).status_code == 401
        assert (await http.post("/login", data=fields)).status_code == 401


async def test_the_openapi_page_offers_to_authorize_with_a_password(http: httpx.AsyncClient) -> None:
    assert (await http.get("/docs")).status_code == 200
    document = (await http.get("/openapi.json")).json()
    flow = document["components"]["securitySchemes"]["password"]["flows"]["password"]
    await http.post("/register", json={"username": "ana", "password": PASSWORD})
    login = await http.post(flow["tokenUrl"], data={"username": "ana", "password": PASSWORD})
    assert {"password": []} in document["paths"]["/api/me"]["get"]["security"]
    assert (await http.get("/api/me", headers=bearer(login.json()["access_token"]))).status_code == 200


NONSENSE: list[tuple[str, bytes]] = [
    ("application/json", b""),
    ("application/json", b"{"),
    ("application/json", b"[]"),
    ("application/json", b'"\xff"'),
    ("application/json", b'{"username": {}, "password": []}'),
    ("application/json", b'{"username": "\\ud800", "password": "\\ud800\\ud800\\ud800"}'),
    ("application/x-www-form-urlencoded", b""),
    ("application/x-www-form-urlencoded", b"\xff=\xff"),
    ("application/x-www-form-urlencoded", b"username=%ff&password=%ff%ff%ff%ff%ff%ff%ff%ff"),
    ("application/x-www-form-urlencoded", b"username=ana&username=ben&password=correct+horse"),
    ("application/x-www-form-urlencoded", b"grant_type=client_credentials&username=ana&password=correct+horse"),
    ("application/x-www-form-urlencoded", b"&".join(b"a%d=1" % number for number in range(1000))),
    ("multipart/form-data; boundary=x", b"--x--"),
    ("text/plain", b"username=ana"),
]


@pytest.mark.parametrize("path", ["/register", "/login"])
async def test_malformed_http_bodies_are_refused(http: httpx.AsyncClient, path: str) -> None:
    for kind, body in NONSENSE:
        answer = await http.post(path, content=body, headers={"Content-Type": kind})
        assert answer.status_code in (401, 422), (kind, body, answer.text)
        assert answer.headers["Content-Type"] == "application/problem+json"
    answer = await http.post(path, content=b"x" * 300_000)
    assert answer.status_code == 413
    assert (await http.get(path)).status_code == 405


# -- links -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/echo_ws", "/pub_ws", "/history"])
async def test_links_and_history_need_a_valid_token(gateway: RunningNode, http: httpx.AsyncClient, path: str) -> None:
    token = await gateway.register("ana")
    user = await gateway.node.auth.user("ana")
    expired, _ = await gateway.node.auth.sign_in(user, -1000)
    assert (await http.get(path, headers=bearer(token))).status_code == 200
    assert (await http.get(path)).status_code == 401
    assert (await http.get(path, headers=bearer("wrong"))).status_code == 401
    assert (await http.get(path, headers=bearer(expired))).json()["code"] == "token_expired"
    await http.post("/api/logout", headers=bearer(token))
    assert (await http.get(path, headers=bearer(token))).json()["code"] == "token_revoked"


@pytest.mark.parametrize("channel", CHANNELS)
async def test_a_link_is_valid_for_its_channel_only_and_expires_soon(gateway: RunningNode, channel: str) -> None:
    token = await gateway.register("ana")
    address = urlsplit(await link(gateway.url, token, channel))
    assert f"http://{address.netloc}" == gateway.url
    assert address.path == f"/{channel}"
    ticket = parse_qs(address.query)["token"][0]
    claims = jwt.decode(ticket, options={"verify_signature": False})
    assert 0 < claims["exp"] - now_ms() / 1000 <= 300
    other = next(name for name in CHANNELS if name != channel)
    assert await refusal(f"ws://{address.netloc}/{other}?token={ticket}") == 401
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as http:
        for path in ("/history", "/api/me", f"/{channel}"):
            assert (await http.get(path, headers=bearer(ticket))).status_code == 401
    with pytest.raises(SocketIOConnectionError):
        await Client(gateway.url, ticket).connect()


@pytest.mark.parametrize("channel", CHANNELS)
async def test_a_channel_needs_a_valid_token_or_ticket(gateway: RunningNode, channel: str) -> None:
    token = await gateway.register("ana")
    user = await gateway.node.auth.user("ana")
    address = gateway.url.replace("http", "ws", 1) + f"/{channel}"
    expired, _ = await gateway.node.auth.sign_in(user, -1000)
    ticket = (await link(gateway.url, token, channel)).partition("token=")[2]
    for query in ("", "?token=", "?token=wrong", f"?token={expired}", f"?token={token}x", "?token=%ff"):
        assert await refusal(address + query) == 401, query
    async with opened(f"{address}?token={ticket}"), opened(f"{address}?token={token}"):
        pass
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as http:
        await http.post("/api/logout", headers=bearer(token))
    assert await refusal(f"{address}?token={token}") == 401
    assert await refusal(f"{address}?token={ticket}") == 401


@pytest.mark.parametrize("channel", CHANNELS)
async def test_the_end_of_a_session_closes_its_channels(
    gateway: RunningNode, channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await gateway.register("ana")
    user = await gateway.node.auth.user("ana")
    short, _ = await gateway.node.auth.sign_in(user, 3_600_000)
    by_link, by_token = await link(gateway.url, token, channel), await link(gateway.url, short, channel)
    timers = expiry_timers(monkeypatch, gateway)
    async with opened(by_link) as linked, opened(by_token) as direct:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as http:
            await http.post("/api/logout", headers=bearer(token))
        assert (await linked.refusal(), await linked.until_closed()) == ("token_revoked", 4401)
        timers.advance(3600)
        assert (await direct.refusal(), await direct.until_closed()) == ("token_expired", 4401)


async def test_a_channel_opened_by_a_link_stays_open_as_long_as_the_token(gateway: RunningNode) -> None:
    token = await gateway.register("ana")
    async with opened(await link(gateway.url, token, "echo_ws")) as ana:
        await ana.echo("hi")
        (connection,) = gateway.node.hub.connections
        exp = jwt.decode(token, options={"verify_signature": False})["exp"]
        assert connection.principal.expires_at == exp * 1000


# -- the echo channel ------------------------------------------------------------------------------------------------


async def test_the_echo_channel_returns_each_content(gateway: RunningNode) -> None:
    async with entered(gateway, "ana", "echo_ws") as ana:
        for content in ("hello", " ", '{"json": [1]}', "два слова", "a\nb", "👋" * 16_384):
            assert await ana.echo(content) == content
        for number in range(300):
            await ana.say(f"{number}")
        assert [await ana.receive() for _ in range(300)] == [*map(str, range(300))]


async def test_the_history_survives_the_channel_and_the_server(gateway: RunningNode) -> None:
    token = await gateway.register("ana")
    async with opened(await link(gateway.url, token, "echo_ws")) as ana:
        for content in ("one", "two"):
            await ana.echo(content)
        expected = [(direction, content) for content in ("one", "two") for direction in ("sent", "received")]
        assert await history(gateway.url, token) == expected
    await gateway.stop()
    await gateway.start()
    assert await history(gateway.url, token) == expected
    assert await history(gateway.url, await gateway.register("ben")) == []


async def test_a_long_history_is_answered_in_pages(gateway: RunningNode, http: httpx.AsyncClient) -> None:
    token = await gateway.register("ana")
    contents = [f"{number}" for number in range(2_600)]
    async with opened(await link(gateway.url, token, "echo_ws")) as ana:
        for at in range(0, len(contents), 200):
            for content in contents[at : at + 200]:
                await ana.say(content)
            assert [await ana.receive() for _ in range(200)] == contents[at : at + 200]
    newest = (await http.get("/history", headers=bearer(token))).json()
    assert len(newest["history"]) == 5_000
    older = (await http.get("/history", headers=bearer(token), params={"before": newest["next"]})).json()
    assert older["next"] is None
    whole = [entry["message"] for entry in older["history"] + newest["history"] if entry["direction"] == "sent"]
    assert whole == contents
    assert (await http.get("/history", headers=bearer(token), params={"before": "x"})).status_code == 404


async def test_in_proxy_mode_the_upstream_answers(proxy: RunningNode, upstream: EchoServer) -> None:
    async def shouts(ws: Any, content: str) -> None:
        await ws.send(content.upper())

    upstream.behaviour = shouts
    token = await proxy.register("ana")
    async with opened(await link(proxy.url, token, "echo_ws")) as ana:
        assert await ana.echo("hello") == "HELLO"
        assert await ana.echo("привет") == "ПРИВЕТ"
        assert upstream.received == ["hello", "привет"]
        assert await history(proxy.url, token) == [
            ("sent", "hello"),
            ("received", "HELLO"),
            ("sent", "привет"),
            ("received", "ПРИВЕТ"),
        ]
    await upstream.until(lambda: not upstream.clients)


async def test_in_proxy_mode_everything_from_the_upstream_is_delivered_and_stored_in_order(
    proxy: RunningNode, upstream: EchoServer
) -> None:
    async def talks(ws: Any, content: str) -> None:
        for reply in (f"{content} 1", f"{content} 2", "\0", f"{content} 3"):
            await ws.send(reply)

    upstream.greeting, upstream.behaviour = "welcome", talks
    token = await proxy.register("ana")
    async with opened(await link(proxy.url, token, "echo_ws")) as ana:
        assert await ana.receive() == "welcome"
        for content in ("a", "b"):
            await ana.say(content)
            assert [await ana.receive() for _ in range(3)] == [f"{content} 1", f"{content} 2", f"{content} 3"]
        await upstream.clients[0].send("unasked")
        assert await ana.receive() == "unasked"
    received = [content for direction, content in await history(proxy.url, token) if direction == "received"]
    assert received == ["welcome", "a 1", "a 2", "a 3", "b 1", "b 2", "b 3", "unasked"]


async def test_a_missing_upstream_is_an_error_and_the_channel_stays(proxy: RunningNode, upstream: EchoServer) -> None:
    token = await proxy.register("ana")
    async with opened(await link(proxy.url, token, "echo_ws")) as ana:
        await upstream.stop()
        await ana.say("is anybody there?")
        assert await ana.refusal() == "unavailable"
        await upstream.start()
        assert await ana.echo("and now?") == "and now?"
    assert await history(proxy.url, token) == [
        ("sent", "is anybody there?"),
        ("sent", "and now?"),
        ("received", "and now?"),
    ]


@pytest.mark.parametrize("channel", CHANNELS)
async def test_invalid_content_is_an_error_and_the_channel_stays(gateway: RunningNode, channel: str) -> None:
    async with entered(gateway, "ana", channel) as ana:
        for noise, code in (("", "invalid"), (b"bytes", "invalid"), ("\0", "invalid"), ("x" * 16_385, "too_large")):
            await ana.say(noise)
            assert await ana.refusal() == code
        await ana.say("still here")
        assert "still here" in await ana.receive()


async def test_an_echo_channel_gets_no_messages_of_rooms(gateway: RunningNode) -> None:
    token = await gateway.register("ana")
    async with (
        connected(gateway.url, token, device="laptop") as socketio,
        connected(gateway.url, await gateway.register("ben")) as ben,
    ):
        await socketio.ask("create", topic_name="news")
        async with opened(await link(gateway.url, token, "echo_ws")) as ana:
            await ana.echo("before")
            await ben.ask("subscribe", topic_name="news")
            await ben.ask("message", topic_name="news", content="not for the echo channel")
            await socketio.event("message")
            assert await ana.echo("after") == "after"
            await socketio.close()
            (news,) = (await ben.ask("get_rooms"))["rooms"]
            assert news["online"] == 1  # a user on the echo channel alone gets no messages
            assert await ana.echo("alone") == "alone"


# -- the public channel ----------------------------------------------------------------------------------------------


async def test_a_newcomer_gets_all_messages_since_the_start_and_then_new_ones(gateway: RunningNode) -> None:
    async with entered(gateway, "ana", "pub_ws") as ana:
        for number in range(250):
            await ana.say(f"{number}")
        messages = [await ana.message() for _ in range(250)]
        assert messages == [("ana", f"{number}") for number in range(250)]
        async with entered(gateway, "ben", "pub_ws") as ben:
            await ana.say("welcome")
            assert [await ben.message() for _ in range(251)] == [*messages, ("ana", "welcome")]
            await ben.say("thanks")
            assert await ana.message() == ("ana", "welcome")
            assert await ana.message() == ("ben", "thanks")
            assert await ben.message() == ("ben", "thanks")


async def test_messages_from_before_the_start_are_not_repeated(gateway: RunningNode) -> None:
    token = await gateway.register("ana")
    async with opened(await link(gateway.url, token, "pub_ws")) as ana:
        await ana.say("old")
        await ana.message()
    await gateway.stop()
    await gateway.start()
    async with connected(gateway.url, await gateway.register("ben")) as ben:
        await ben.ask("subscribe", topic_name="public")
        await ben.ask("message", topic_name="public", content="new")
        async with opened(await link(gateway.url, token, "pub_ws")) as ana:
            assert await ana.message() == ("ben", "new")


async def test_newcomers_miss_and_repeat_nothing_while_messages_are_sent(gateway: RunningNode) -> None:
    """Each joins at another moment, while messages are sent."""
    number = 400
    async with entered(gateway, "ana", "pub_ws") as ana:

        async def talk() -> None:
            for at in range(number):
                await ana.say(f"{at}")
                await ana.message()

        async def listen(name: str, after: int) -> list[str]:
            async with entered(gateway, name, "pub_ws") as channel:
                return [(await channel.message())[1] for _ in range(number)]

        talking = asyncio.create_task(talk())
        received = await asyncio.gather(*(listen(f"user{at}", at) for at in range(8)))
        await talking
    assert all(contents == [*map(str, range(number))] for contents in received)


async def test_socketio_and_the_public_channel_exchange_messages(gateway: RunningNode) -> None:
    async with (
        entered(gateway, "ana", "pub_ws") as ana,
        connected(gateway.url, await gateway.register("ben")) as ben,
    ):
        await ben.ask("subscribe", topic_name="public")
        await ana.say("hi, ben")
        message = await ben.event("message")
        assert (message["sender"], message["content"], message["topic_name"]) == ("ana", "hi, ben", "public")
        await ben.ask("message", topic_name="public", content="hi, ana")
        assert [await ana.message() for _ in range(2)] == [("ana", "hi, ben"), ("ben", "hi, ana")]


async def test_no_visitor_owns_the_public_channel(gateway: RunningNode) -> None:
    async with (
        entered(gateway, "ana", "pub_ws"),
        connected(gateway.url, await gateway.login("ana")) as ana,
        connected(gateway.url, await gateway.register("ben")) as ben,
    ):
        await ben.ask("subscribe", topic_name="public")
        members = (await ana.ask("get_members", topic_name="public"))["members"]
        assert {(member["username"], member["role"]) for member in members} == {
            ("ana", "member"),
            ("ben", "member"),
            ("channels", "owner"),
        }
        with pytest.raises(Refused, match="forbidden"):
            await ana.ask("kick", topic_name="public", username="ben")
        for client in (ana, ben):
            await client.ask("unsubscribe", topic_name="public")
        await ben.ask("subscribe", topic_name="public")
        assert (await ben.ask("get_rooms", member=True))["rooms"][0]["role"] == "member"
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as http:
        for password in ("", "!", PASSWORD):
            answer = await http.post("/login", json={"username": "channels", "password": password})
            assert answer.status_code in (401, 422)


async def test_concurrent_first_visitors_create_one_channel(gateway: RunningNode) -> None:
    tokens = await asyncio.gather(*(gateway.register(f"user{number}") for number in range(6)))
    links = await asyncio.gather(*(link(gateway.url, token, "pub_ws") for token in tokens))
    assert len(set(links)) == 6
    async with httpx.AsyncClient(base_url=gateway.url, headers=bearer(tokens[0]), timeout=30) as http:
        members = (await http.get("/api/members", params={"topic_name": "public"})).json()["members"]
    assert [member["username"] for member in members] == ["channels", *(f"user{number}" for number in range(6))]


async def test_a_banned_user_is_disconnected_and_gets_no_link(gateway: RunningNode) -> None:
    async with connected(gateway.url, await gateway.register("mod")) as moderator:
        await moderator.ask("create", topic_name="public")  # a user who creates it first owns it
        token = await gateway.register("ana")
        address = await link(gateway.url, token, "pub_ws")
        async with opened(address) as ana:
            await ana.say("hi")
            await ana.message()
            await moderator.ask("mute", topic_name="public", username="ana", duration=60)
            await ana.say("hi again")
            assert await ana.refusal() == "forbidden"
            await moderator.ask("ban", topic_name="public", username="ana")
            assert (await ana.refusal(), await ana.until_closed()) == ("forbidden", 1008)
        async with httpx.AsyncClient(base_url=gateway.url, headers=bearer(token), timeout=30) as http:
            assert (await http.get("/pub_ws")).status_code == 403
        async with opened(address) as ana:
            assert (await ana.refusal(), await ana.until_closed()) == ("forbidden", 1008)


async def test_the_public_channel_is_a_conflict_if_a_user_has_its_name(gateway: RunningNode) -> None:
    token = await gateway.register("public")
    before = len(await _usernames(gateway))
    async with httpx.AsyncClient(base_url=gateway.url, headers=bearer(token), timeout=30) as http:
        for _ in range(3):
            assert (await http.get("/pub_ws")).status_code == 409
    async with opened(gateway.url.replace("http", "ws", 1) + f"/pub_ws?token={token}") as channel:
        assert (await channel.refusal(), await channel.until_closed()) == ("conflict", 1008)
    assert len(await _usernames(gateway)) == before + 1


async def test_a_user_with_the_owners_name_does_not_own_the_channel(gateway: RunningNode) -> None:
    token = await gateway.register("channels")
    async with (
        entered(gateway, "ana", "pub_ws"),
        connected(gateway.url, token) as channels,
    ):
        room = await channels.ask("subscribe", topic_name="public")
        assert room["role"] == "member"


async def _usernames(gateway: RunningNode) -> list[str]:
    def load(conn: Transaction) -> list[str]:
        return list(conn.scalars(select(users.c.username)))

    return await gateway.node.database.read(load)


@pytest.mark.parametrize("channel", CHANNELS)
async def test_a_slow_consumer_of_a_channel_is_closed(sqlite_url: str, tmp_path: Path, channel: str) -> None:
    async with (
        running_node(sqlite_url, tmp_path, options={"websocket": {"linger": 0.5}}) as gateway,
        entered(gateway, "omar", channel) as omar,
    ):
        ended = gateway.gone()
        omar.socket.transport.pause_reading()
        async with asyncio.timeout(3 * DEADLINE_S):
            with contextlib.suppress(ConnectionClosed):
                while not ended.is_set():  # excess messages are refused, so go on until the buffer is full
                    await omar.say("x" * 16_000)
                    await asyncio.sleep(0)
            await ended.wait()
        omar.socket.transport.resume_reading()
        with pytest.raises(ConnectionClosed):
            await omar.read()


# -- settings --------------------------------------------------------------------------------------------------------


def test_settings_are_read_from_an_env_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".env").write_text(f"TIDINGS_DATA_DIR={tmp_path / 'here'}\nTIDINGS_ACCESS_TOKEN_EXPIRE_MINUTES=30\n")
    monkeypatch.chdir(tmp_path)
    assert main(["token", "ana"]) == 0
    claims = jwt.decode(capsys.readouterr().out.strip(), options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 30 * 60
    assert (tmp_path / "here" / "tidings.db").exists()


@pytest.mark.parametrize("action", ["subscribe", "connect_to_room"])
async def test_the_public_channel_exists_before_its_first_link(gateway: RunningNode, action: str) -> None:
    ana, ben = await gateway.register("ana"), await gateway.register("ben")
    async with connected(gateway.url, ana) as first, connected(gateway.url, ben) as second:
        await asyncio.gather(first.ask(action, topic_name="public"), second.ask(action, topic_name="Public"))
        members = (await first.ask("get_members", topic_name="public"))["members"]
        assert {(member["username"], member["role"]) for member in members} == {
            ("ana", "member"),
            ("ben", "member"),
            ("channels", "owner"),
        }
        with pytest.raises(Refused) as refused:
            await first.ask(action, topic_name="publicity")
        assert refused.value.code == "not_found"


# -- browser extensions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["chrome-extension", "moz-extension"])
async def test_a_browser_extension_is_accepted_by_its_origin(
    quiet_log: None, sqlite_url: str, tmp_path: Path, scheme: str
) -> None:
    extension, other = (f"{scheme}://{letter * 32}" for letter in "ab")
    async with running_node(sqlite_url, tmp_path, cors_origins=extension) as node:
        token = await node.register("ana")
        for channel in ("echo_ws", "pub_ws"):
            address = await link(node.url, token, channel)
            options: dict[str, Any] = {"compression": None, "ping_interval": None, "proxy": None}
            async with connect(address, origin=Origin(extension), **options) as socket:
                await socket.send("hello")
                assert "hello" in str(await asyncio.wait_for(socket.recv(), DEADLINE_S))
            with pytest.raises(InvalidStatus) as refused:
                await connect(address, origin=Origin(other), **options)
            assert refused.value.response.status_code == 403
            assert b"TIDINGS_CORS_ORIGINS" in refused.value.response.body


async def test_the_public_channel_is_listed_before_its_first_visitor(database_url: str, tmp_path: Path) -> None:
    """The first start creates it; the next one finds it and writes nothing."""
    rooms, statuses = [], []
    for _ in range(2):
        async with running_node(database_url, tmp_path, public_channel="start") as node:
            token = (await node.node.auth.token_for("ana"))[0]
            async with httpx.AsyncClient(base_url=node.url, headers=bearer(token), timeout=30) as http:
                (room,) = (await http.get("/api/rooms")).json()["rooms"]
                rooms.append((room["room_id"], room["topic_name"], room["is_private"], room["role"]))
                link = await http.get("/pub_ws")
                assert link.status_code == 200
                statuses.append((await http.get("/api/users/channels")).status_code)
    assert rooms[0][1:] == ("public", False, None)
    assert rooms[1][:2] == rooms[0][:2]
    assert statuses == [200, 200]


async def test_a_server_that_cannot_create_the_public_channel_creates_it_on_the_first_visit(
    quiet_log: None, sqlite_url: str, tmp_path: Path
) -> None:
    with contextlib.closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)) as store:
        refuse = "BEGIN SELECT RAISE(ABORT, 'no users now'); END"
        store.execute(f"CREATE TRIGGER refusing BEFORE INSERT ON {users.name} {refuse}")
        async with running_node(sqlite_url, tmp_path, public_channel="start") as node:
            store.execute("DROP TRIGGER refusing")
            token = await node.register("ana")
            async with httpx.AsyncClient(base_url=node.url, headers=bearer(token), timeout=30) as http:
                assert (await http.get("/api/rooms")).json()["rooms"] == []
                assert (await http.get("/pub_ws")).status_code == 200
                assert [room["topic_name"] for room in (await http.get("/api/rooms")).json()["rooms"]] == ["public"]


async def test_a_store_that_cannot_be_written_does_not_delay_the_start(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidings.gateways.dialects.mounting.PREPARE_S", 0.01)
    prepare = PublicChannel.prepare
    with contextlib.closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)) as store:

        async def locked(channel: PublicChannel) -> None:
            store.execute("BEGIN IMMEDIATE")
            await prepare(channel)

        monkeypatch.setattr(PublicChannel, "prepare", locked)
        async with running_node(sqlite_url, tmp_path, public_channel="start") as node:
            assert store.in_transaction
            store.execute("ROLLBACK")
            headers = bearer(await node.register("ana"))
            async with (
                httpx.AsyncClient(base_url=node.url, headers=headers, timeout=30) as http,
                asyncio.timeout(DEADLINE_S),
            ):
                while [room["topic_name"] for room in (await http.get("/api/rooms")).json()["rooms"]] != ["public"]:
                    pass
