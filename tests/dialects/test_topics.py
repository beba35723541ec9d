"""The topics protocol: every example and promise of its documents."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import secrets
import shlex
import sys
import termios
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.conformance.wire import eventually
from tests.delivery.support import expiry_timers, make_topic, manual_pong_connection, rest, small_socket, store_held
from tests.e2e.javascript import SCRIPTS, node
from tests.gateways.test_websocket_auth import resigned
from tests.support.client import DEADLINE_S, connected
from tests.support.depth import examples
from tests.support.node import RunningNode, running_node
from tests.support.process import ServerProcess
from tests.support.timers import Timers
from tidings.contract.actions import MAX_CONTENT
from tidings.contract.errors import ActionError, ErrorCode
from tidings.gateways.client_session import MAX_EARLY
from tidings.transport.socketio_server import CONNECT_TIMEOUT_S

USERS = ("omar", "diego", "satoshi", "memoor")
"""The users of the document."""

SUBSCRIBE = '{"action": "suscribe","topic_name": "public_topic_to_suscribe"}'
INVITE = '{"action": "invite","topic_name": "private_topic_name_to_invite","username": "eder"}'
CREATE = '{"action": "create","topic_name": "create_new_topic", "is_private": true}'
MESSAGE = '{"action": "message","topic_name": "noticias","content": "Content of the message"}'
DISCONNECT = '{"action": "disconnect"}'

ANSWERS = {
    "suscribe": {"topic_name", "is_private"},
    "subscribe": {"topic_name", "is_private"},
    "create": {"topic_name", "is_private"},
    "invite": {"topic_name", "username"},
    "message": {"topic_name", "id", "seq", "sent_at"},
    "disconnect": set(),
}
"""The fields of an answer beside `action` and `status`."""
PUSH = {"action", "topic_name", "sender", "content", "sent_at", "pending"}


class Talker:
    """A WebSocket that checks every frame against the document."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.pushed: list[dict[str, Any]] = []
        self.last: dict[str, Any] = {}
        self.ping: bytes | None = None

    async def receive(self) -> dict[str, Any]:
        text = await asyncio.wait_for(self.socket.recv(), DEADLINE_S)
        assert isinstance(text, str)
        frame: dict[str, Any] = json.loads(text)
        if "ping" in frame:
            self.ping = bytes.fromhex(frame["ping"])
        elif "status" not in frame:
            assert set(frame) == PUSH, frame
            assert frame["action"] == "message"
            self.pushed.append(frame)
        elif frame["status"] == "ok":
            assert set(frame) == ANSWERS[frame["action"]] | {"action", "status"}, frame
        else:
            assert set(frame) == {"action", "status", "code", "message"}, frame
            assert frame["status"] == "error"
        self.last = frame
        return frame

    async def answer(self) -> dict[str, Any]:
        """The next frame that is not a message."""
        while "status" not in (frame := await self.receive()):
            pass
        return frame

    async def say(self, frame: str | bytes) -> dict[str, Any]:
        """Send a raw frame and wait for its answer."""
        await self.socket.send(frame)
        return await self.answer()

    async def ask(self, action: str, **fields: Any) -> dict[str, Any]:
        """Send an action that succeeds."""
        answer = await self.say(json.dumps({"action": action, **fields}))
        assert (answer["action"], answer["status"]) == (action, "ok"), answer
        return answer

    async def code(self, action: str, **fields: Any) -> str:
        """Send an action that is refused; returns the error code."""
        answer = await self.say(json.dumps({"action": action, **fields}))
        assert (answer["action"], answer["status"]) == (action, "error"), answer
        assert answer["message"]
        code: str = answer["code"]
        return code

    async def until(self, content: str) -> dict[str, Any]:
        """Read up to the message with that content, unless it has arrived."""
        while True:
            for push in self.pushed:
                if push["content"] == content:
                    return push
            await self.receive()

    async def until_closed(self) -> int | None:
        """Read until the server closes; returns the close code."""
        try:
            while True:
                await self.receive()
        except ConnectionClosed:
            return self.socket.close_code

    async def until_ping(self) -> None:
        """Read up to the next PING, on a socket that does not answer it."""
        while self.ping is None:
            await self.receive()

    async def pong(self) -> None:
        """Answer the received PING."""
        assert self.ping is not None
        await self.socket.pong(self.ping)
        self.ping = None

    async def nothing_more(self) -> list[str]:
        """The contents of all pushes, after those in flight have arrived. Pending messages may arrive later."""
        mark = secrets.token_hex(8)
        name = f"mark {mark}"
        await self.ask("create", topic_name=name)
        await self.ask("message", topic_name=name, content=mark)
        await self.until(mark)
        return [push["content"] for push in self.pushed if not push["topic_name"].startswith("mark ")]


def address(url: str, token: str) -> str:
    return f"{url.replace('http', 'ws', 1)}/{token}"


@asynccontextmanager
async def talking(url: str, token: str) -> AsyncIterator[Talker]:
    async with connect(
        address(url, token), compression=None, ping_interval=None, max_size=None, proxy=None
    ) as socket:
        yield Talker(socket)


@pytest.fixture
async def tokens(gateway: RunningNode) -> dict[str, str]:
    """The tokens of the document's users, and of the user whom it invites."""
    return {name: await gateway.register(name) for name in (*USERS, "eder")}


async def _refusal(url: str) -> tuple[int, dict[str, Any]]:
    with pytest.raises(InvalidStatus) as refused:
        await connect(url, proxy=None)
    response = refused.value.response
    assert response.headers["content-type"] == "application/json"
    return response.status_code, json.loads(response.body or b"")


# -- the actions of the document --------------------------------------------------------------------------------


async def test_users_can_subscribe_to_public_topics_only(gateway: RunningNode, tokens: dict[str, str]) -> None:
    room_id = await make_topic(gateway.url, tokens["omar"], "public_topic_to_suscribe")
    await make_topic(gateway.url, tokens["omar"], "secretos", is_private=True)
    async with talking(gateway.url, tokens["diego"]) as diego, talking(gateway.url, tokens["satoshi"]) as satoshi:
        assert await diego.say(SUBSCRIBE) == {
            "action": "suscribe",
            "status": "ok",
            "topic_name": "public_topic_to_suscribe",
            "is_private": False,
        }
        await satoshi.ask("subscribe", topic_name="public_topic_to_suscribe")
        assert (await diego.say(SUBSCRIBE))["code"] == "conflict"
        # The refusal does not reveal that a private topic exists.
        hidden = await diego.say('{"action": "suscribe","topic_name": "secretos"}')
        assert hidden == await diego.say('{"action": "suscribe","topic_name": "no such topic"}')
        assert hidden["code"] == "not_found"
    async with rest(gateway.url, tokens["omar"]) as http:
        members = (await http.get("/api/members", params={"room_id": room_id})).json()["members"]
        assert [member["username"] for member in members] == ["diego", "omar", "satoshi"]


async def test_a_member_can_invite_to_a_private_topic(gateway: RunningNode, tokens: dict[str, str]) -> None:
    name = "private_topic_name_to_invite"
    async with (
        talking(gateway.url, tokens["omar"]) as omar,
        talking(gateway.url, tokens["diego"]) as diego,
        talking(gateway.url, tokens["eder"]) as eder,
    ):
        await omar.ask("create", topic_name=name, is_private=True)
        assert (await diego.say(INVITE))["code"] == "not_found"  # diego is not a member
        assert await omar.say(INVITE) == {"action": "invite", "status": "ok", "topic_name": name, "username": "eder"}
        assert (await omar.say(INVITE))["code"] == "conflict"
        assert await eder.ask("invite", topic_name=name, username="diego")
        assert await omar.code("invite", topic_name=name, username="nobody") == "not_found"
        await omar.ask("message", topic_name=name, content="welcome")
        for member in (omar, eder, diego):
            push = await member.until("welcome")
            assert (push["topic_name"], push["sender"], push["pending"]) == (name, "omar", False)


async def test_users_can_create_public_and_private_topics(gateway: RunningNode, tokens: dict[str, str]) -> None:
    async with talking(gateway.url, tokens["omar"]) as omar, talking(gateway.url, tokens["diego"]) as diego:
        assert await omar.say(CREATE) == {
            "action": "create",
            "status": "ok",
            "topic_name": "create_new_topic",
            "is_private": True,
        }
        assert (await omar.say(CREATE))["code"] == "conflict"
        assert (await omar.ask("create", topic_name="noticias"))["is_private"] is False
        assert (await omar.ask("create", topic_name="deportes", is_private=False))["is_private"] is False
        assert await diego.code("create", topic_name="NOTICIAS") == "conflict"
        assert await diego.code("create", topic_name="omar") == "conflict", "a user has that name"
        await diego.ask("subscribe", topic_name="deportes")
        assert await diego.code("subscribe", topic_name="create_new_topic") == "not_found"


async def test_a_message_is_sent_to_a_topic_or_to_a_user(gateway: RunningNode, tokens: dict[str, str]) -> None:
    await make_topic(gateway.url, tokens["omar"], "noticias", tokens["diego"])
    async with (
        talking(gateway.url, tokens["omar"]) as omar,
        talking(gateway.url, tokens["diego"]) as diego,
        talking(gateway.url, tokens["satoshi"]) as satoshi,
    ):
        assert (await satoshi.say(MESSAGE))["code"] == "forbidden", "satoshi is not a member of the public topic"
        assert await diego.code("subscribe", topic_name="noticias") == "conflict"  # later messages are not pending
        sent = await omar.say(MESSAGE)
        assert (sent["action"], sent["status"], sent["topic_name"], sent["seq"]) == ("message", "ok", "noticias", 1)
        for member in (omar, diego):  # the sender, too
            assert await member.until("Content of the message") == {
                "action": "message",
                "topic_name": "noticias",
                "sender": "omar",
                "content": "Content of the message",
                "sent_at": sent["sent_at"],
                "pending": False,
            }
        for content in ("only for you", "and this"):
            assert (await omar.ask("message", topic_name="Satoshi", content=content))["topic_name"] == "satoshi"
            assert (await omar.until(content))["topic_name"] == "satoshi"
            push = await satoshi.until(content)
            assert (push["topic_name"], push["sender"]) == ("omar", "omar")
        # A reply goes to the topic_name of the push.
        await satoshi.ask("message", topic_name=satoshi.pushed[-1]["topic_name"], content="thank you")
        assert (await omar.until("thank you"))["topic_name"] == "satoshi"
        assert (await satoshi.until("thank you"))["topic_name"] == "omar"
        assert await diego.nothing_more() == ["Content of the message"]
        assert await omar.code("message", topic_name="omar", content="to myself") == "invalid"
        assert await omar.code("message", topic_name="nobody", content="hello") == "not_found"


async def test_disconnect_is_answered_after_earlier_actions_and_ends_the_connection(
    gateway: RunningNode, tokens: dict[str, str]
) -> None:
    async with talking(gateway.url, tokens["omar"]) as omar:
        for frame in ('{"action": "create", "topic_name": "noticias"}', MESSAGE, MESSAGE, DISCONNECT, MESSAGE):
            await omar.socket.send(frame)
        answers = [await omar.answer() for _ in range(4)]
        assert [answer["action"] for answer in answers] == ["create", "message", "message", "disconnect"]
        assert answers[-1] == {"action": "disconnect", "status": "ok"}
        assert await omar.until_closed() == 1000
    async with rest(gateway.url, tokens["omar"]) as http:  # later frames are ignored
        page = (await http.get("/api/messages", params={"topic_name": "noticias"})).json()
        assert len(page["messages"]) == 2


async def test_a_user_gets_the_pending_messages_at_the_next_connect(
    gateway: RunningNode, tokens: dict[str, str]
) -> None:
    await make_topic(gateway.url, tokens["omar"], "noticias", tokens["diego"])
    async with talking(gateway.url, tokens["omar"]) as omar:
        async with talking(gateway.url, tokens["diego"]) as diego:
            await diego.nothing_more()
        for n in range(300):
            await omar.ask("message", topic_name="noticias", content=f"{n}")
        await omar.ask("message", topic_name="diego", content="direct")
        async with talking(gateway.url, tokens["diego"]) as diego:
            await diego.until("299")
            await diego.until("direct")
            assert [push["content"] for push in diego.pushed if push["topic_name"] == "noticias"] == [
                f"{n}" for n in range(300)
            ]
            assert [push["topic_name"] for push in diego.pushed if push["content"] == "direct"] == ["omar"]
            assert all(push["pending"] for push in diego.pushed)
            await omar.ask("message", topic_name="noticias", content="live")
            assert (await diego.until("live"))["pending"] is False
            await diego.ask("disconnect")
        # Messages delivered before the disconnect are not pending again.
        await omar.ask("message", topic_name="noticias", content="new")
        async with talking(gateway.url, tokens["diego"]) as diego:
            await diego.until("new")
            assert await diego.nothing_more() == ["new"]
            assert diego.pushed[0]["pending"]


async def test_the_queue_of_pending_messages_is_managed_over_rest(
    gateway: RunningNode, tokens: dict[str, str]
) -> None:
    room_id = await make_topic(gateway.url, tokens["omar"], "noticias", tokens["diego"])
    async with talking(gateway.url, tokens["diego"]) as diego:
        await diego.ask("disconnect")
    queue = {"params": {"device": "topics"}}
    async with talking(gateway.url, tokens["omar"]) as omar, rest(gateway.url, tokens["diego"]) as http:
        for content in ("one", "two"):
            await omar.ask("message", topic_name="noticias", content=content)
        (pending,) = (await http.get("/api/pending", **queue)).json()["rooms"]
        assert (pending["room_id"], pending["pending"]) == (room_id, 2)
        assert (await http.delete("/api/pending", **queue)).is_success
        assert (await http.get("/api/pending", **queue)).json()["rooms"] == []
        await omar.ask("message", topic_name="noticias", content="three")
    async with talking(gateway.url, tokens["diego"]) as diego:
        await diego.until("three")
        assert await diego.nothing_more() == ["three"]


# -- connection and authentication ------------------------------------------------------------------------------

DOCUMENTED = (
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJleHAiOjE2ODIzNDkwMzUsImlhdCI6MTY4MjI2MjYzNSwic3ViIjoib21hciIsInBheWxvYWQi"
    "Onsi"
    "ZGVzY3JpcHRpb24iOiJUZXN0IHRva2VuIn19.BYeL0-7k_bM2BvLS0Me-vvd0om-WkXGSvuhm4WPuxWs",
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJleHAiOjE2ODIzNDkwMDUsImlhdCI6MTY4MjI2MjYwNSwic3ViIjoiZGllZ28iLCJwYXlsb2Fk"
    "Ijp7ImRlc2NyaXB0aW9uIjoiVGVzdCB0b2tlbiJ9fQ.yiS5HlCEoqUjW0pp9UerpymJJvD_07lJCCSMZr0vAf8",
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJleHAiOjE2ODIzNDkwNTcsImlhdCI6MTY4MjI2MjY1Nywic3ViIjoic2F0b3NoaSIsInBheWxv"
    "YWQiOnsiZGVzY3JpcHRpb24iOiJUZXN0IHRva2VuIn19.Mxl6LujulMFeGWF7LvNG5G4NbFwp18HAQKoV7LgmhVM",
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJleHAiOjE2ODIzNDkxMTksImlhdCI6MTY4MjI2MjcxOSwic3ViIjoibWVtb29yIiwicGF5bG9h"
    "ZCI6eyJkZXNjcmlwdGlvbiI6IlRlc3QgdG9rZW4ifX0.DNO5TU4ie8-gPWUx9BEtai1QD_3MyZg7tlDE7kRdcII",
)
"""The tokens in the document, expired and of another server."""


async def test_an_invalid_expired_or_withdrawn_token_is_refused_in_the_handshake(
    gateway: RunningNode, tokens: dict[str, str]
) -> None:
    valid = tokens["omar"]
    withdrawn = await gateway.login("omar")
    async with rest(gateway.url, withdrawn) as http:
        assert (await http.post("/api/logout")).status_code == 204
    for token, reason in (
        *((token, "no valid token") for token in DOCUMENTED),
        (valid[:-3], "no valid token"),
        ("omar", "no valid token"),
        ("x" * 5000, "no valid token"),
        ("%00", "no valid token"),
        (resigned(valid, exp=int(time.time()) - 1), "the token has expired"),
        (withdrawn, "the token was withdrawn"),
    ):
        assert await _refusal(address(gateway.url, token)) == (401, {"message": reason}), token
    for path in (f"{valid}/", f"x/{valid}", f"{valid}%2Fx"):
        with pytest.raises(InvalidStatus):
            await connect(address(gateway.url, path), proxy=None)
    assert not gateway.node.hub.connections
    async with talking(gateway.url, valid) as omar:
        assert await omar.nothing_more() == []


async def test_the_topics_protocol_does_not_shadow_other_paths(gateway: RunningNode, tokens: dict[str, str]) -> None:
    async with connect(f"{address(gateway.url, 'ws')}?token={tokens['omar']}", proxy=None) as plain:
        assert json.loads(await asyncio.wait_for(plain.recv(), DEADLINE_S))["event"] == "ready"
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as http:
        assert (await http.get(f"/{tokens['omar']}")).status_code == 404  # the path has no page


async def test_requests_wait_within_bounds_until_the_token_is_verified(
    gateway: RunningNode, tokens: dict[str, str], sqlite_url: str
) -> None:
    ended = gateway.gone("diego")
    async with AsyncExitStack() as stack:
        async with store_held(sqlite_url):  # a new device is stored first
            omar = await stack.enter_async_context(talking(gateway.url, tokens["omar"]))
            await omar.socket.send(CREATE)
            await omar.socket.send(MESSAGE)
            flood = await stack.enter_async_context(talking(gateway.url, tokens["diego"]))
            for _ in range(MAX_EARLY + 1):
                await flood.socket.send(MESSAGE)
            assert (await flood.answer())["code"] == "rate_limited"
            assert await flood.until_closed() == 1008
        assert (await omar.answer())["status"] == "ok"
        assert (await omar.answer())["code"] == "not_found"
    await asyncio.wait_for(ended.wait(), DEADLINE_S)
    assert "diego" not in {connection.principal.username for connection in gateway.node.hub.connections}


async def test_a_store_that_hangs_closes_the_connection_as_unavailable(
    gateway: RunningNode, tokens: dict[str, str], sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    timers, dialect = Timers(), gateway.node.dialects.find(f"/{tokens['omar']}")
    assert dialect is not None
    with monkeypatch.context() as patch:
        patch.setattr(dialect.server, "timers", timers)
        async with store_held(sqlite_url), talking(gateway.url, tokens["omar"]) as omar:
            await eventually(lambda: bool(dialect.server.sessions))
            timers.advance(CONNECT_TIMEOUT_S)
            assert await omar.until_closed() == 1008
            assert omar.last | {"message": ""} == _ended("unavailable")
    async with talking(gateway.url, tokens["omar"]) as omar:
        await omar.nothing_more()


async def test_a_connection_ends_with_its_token(
    gateway: RunningNode, tokens: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    exp = int(time.time()) + 3600
    second = await gateway.login("omar")
    timers = expiry_timers(monkeypatch, gateway)
    async with (
        talking(gateway.url, resigned(tokens["omar"], exp=exp)) as expires,
        talking(gateway.url, second) as withdrawn,
        talking(gateway.url, tokens["omar"]) as stays,
    ):
        await withdrawn.nothing_more()
        async with rest(gateway.url, second) as http:
            await http.post("/api/logout")
        assert await withdrawn.until_closed() == 4401
        assert withdrawn.last | {"message": ""} == _ended("token_revoked")
        timers.advance(3540)
        await expires.nothing_more()
        timers.advance(60)
        assert await expires.until_closed() == 4401
        assert expires.last | {"message": ""} == _ended("token_expired")
        await stays.nothing_more()


def _ended(code: str) -> dict[str, Any]:
    return {"action": "disconnect", "status": "error", "code": code, "message": ""}


async def test_a_stopping_server_announces_the_shutdown(gateway: RunningNode, tokens: dict[str, str]) -> None:
    async with talking(gateway.url, tokens["omar"]) as omar:
        await omar.nothing_more()
        await gateway.stop()
        assert await omar.until_closed() == 1012
        assert omar.last | {"message": ""} == _ended("shutdown")


# -- tokens for trying things out -------------------------------------------------------------------------------


async def test_the_token_route_serves_one_day_tokens_to_the_same_machine(sqlite_url: str, tmp_path: Path) -> None:
    async with (
        running_node(sqlite_url, tmp_path, dev_tokens=True) as node,
        httpx.AsyncClient(base_url=node.url, timeout=30) as http,
    ):
        for username in ("omar", "Omar"):  # the second request finds the user
            answer = await http.get("/token?username=" + username)
            assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
            token = answer.json()["token"]
            claims = jwt.decode(token, options={"verify_signature": False})
            assert (claims["sub"], claims["exp"] - claims["iat"]) == ("omar", 24 * 3600)
            assert answer.json() == {
                "token": token,
                "expires_at": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(claims["exp"])),
            }
            async with talking(node.url, token) as omar:
                await omar.nothing_more()
        async with talking(node.url, token) as omar:
            await omar.ask("create", topic_name="noticias")
        for query, status in (
            ("", 422),
            ("?username=", 422),
            ("?username=two words", 422),
            ("?username=omar&username=diego", 422),
            ("?username=noticias", 409),
        ):
            refused = await http.get(f"/token{query}")
            assert (refused.status_code, refused.headers["content-type"]) == (status, "application/problem+json")
        for host in ("localhost", "localhost:5000", "[::1]:8000"):
            assert (await http.get("/token?username=omar", headers={"Host": host})).status_code == 200
        await node.node.auth.set_disabled(await node.node.auth.user("omar"), True)
        assert (await http.get("/token?username=omar")).json()["code"] == "forbidden"


_FROM_ELSEWHERE: list[list[tuple[str, str]]] = [
    *([("Host", host)] for host in ("evil.example", "evil.example:8000", "localhost.evil.example", "[::", "")),
    *(
        [(name, "203.0.113.9")]
        for name in ("X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Server", "X-Real-IP", "Forwarded", "Via")
    ),
    [("X-Forwarded-For", "127.0.0.1")],
    *([("Origin", origin)] for origin in ("https://evil.example", "null", "http://localhost:3000", "")),
    *([("Sec-Fetch-Site", site)] for site in ("cross-site", "same-site")),
]


async def test_the_token_route_refuses_proxies_and_foreign_pages(sqlite_url: str, tmp_path: Path) -> None:
    async with (
        running_node(sqlite_url, tmp_path, dev_tokens=True) as node,
        httpx.AsyncClient(base_url=node.url, timeout=30) as http,
    ):
        for headers in _FROM_ELSEWHERE:
            refused = await http.get("/token?username=root", headers=headers)
            assert refused.status_code in (403, 421), headers  # 421: not a host of this server, for any route
            assert refused.json()["code"] == "forbidden", headers
            assert "access-control-allow-origin" not in refused.headers
        preflight = {"Origin": "https://evil.example", "Access-Control-Request-Method": "GET"}
        allowed = await http.options("/token?username=root", headers=preflight)
        assert (allowed.status_code, "access-control-allow-origin" in allowed.headers) == (405, False)
        with pytest.raises(ActionError, match="no such user"):
            await node.node.auth.user("root")
        own = {"Origin": node.url, "Sec-Fetch-Site": "same-origin"}
        for headers in (own, {"Sec-Fetch-Site": "none"}, {"User-Agent": "curl/8.5.0"}):
            assert (await http.get("/token?username=root", headers=headers)).status_code == 200


async def test_the_token_route_refuses_other_machines(sqlite_url: str, tmp_path: Path) -> None:
    """Only the peer address counts. The test calls the application directly to set it."""
    async with running_node(sqlite_url, tmp_path, dev_tokens=True) as node:
        for peer, status in ((("203.0.113.9", 5), 403), (None, 403), (("127.0.0.1", 5), 200), (("::1", 5), 200)):
            transport = httpx.ASGITransport(node.app, client=peer)  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=30) as http:
                assert (await http.get("/token?username=omar")).status_code == status, peer


async def test_without_the_setting_there_is_no_token_route(gateway: RunningNode) -> None:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as http:
        missing, token = await http.get("/nothing"), await http.get("/token?username=omar")
        assert token.status_code == 404
        assert token.json() == missing.json()
        assert (await http.get("/openapi.json")).json()["paths"].get("/token") is None


# -- side by side with the others -------------------------------------------------------------------------------


async def test_socketio_and_topics_clients_exchange_messages(gateway: RunningNode, tokens: dict[str, str]) -> None:
    async with connected(gateway.url, tokens["omar"]) as omar, talking(gateway.url, tokens["diego"]) as diego:
        room = await omar.ask("create", topic_name="noticias")
        await diego.ask("subscribe", topic_name="noticias")
        sent = await omar.ask("message", topic_name="noticias", content="from a browser")
        assert (await diego.until("from a browser"))["sent_at"] == sent["created_at"]
        answer = await diego.ask("message", topic_name="noticias", content="from wscat")
        event = await omar.event("message", lambda m: m["content"] == "from wscat")
        assert (event["id"], event["seq"], event["created_at"], event["room_id"]) == (
            answer["id"],
            answer["seq"],
            answer["sent_at"],
            room["room_id"],
        )


async def test_a_group_is_named_by_its_id(gateway: RunningNode, tokens: dict[str, str]) -> None:
    await make_topic(gateway.url, tokens["omar"], "noticias", tokens["diego"])
    async with connected(gateway.url, tokens["omar"]) as omar:
        group = {"usernames": ["diego", "satoshi"], "title": "noticias"}  # the name of a topic
        old = (await omar.ask("create_conversation", group))["room_id"]
        await omar.ask("message", room_id=old, content="before")
        async with talking(gateway.url, tokens["diego"]) as diego:
            new = (await omar.ask("create_conversation", group))["room_id"]
            await omar.ask("message", room_id=new, content="now")
            for room_id, content in ((old, "before"), (new, "now")):
                assert (await diego.until(content))["topic_name"] == room_id
                answer = await diego.ask("message", topic_name=room_id, content=f"after {content}")
                assert answer["topic_name"] == room_id
                event = await omar.event("message", lambda m, content=content: m["content"] == f"after {content}")
                assert event["room_id"] == room_id
            await diego.ask("invite", topic_name=old, username="memoor")
            async with talking(gateway.url, tokens["eder"]) as eder:
                assert await eder.code("message", topic_name=old, content="I know the id") == "not_found"
            await omar.ask("kick", room_id=old, username="diego")
            assert await diego.code("message", topic_name=old, content="still here?") == "not_found"


async def test_edits_and_deletions_are_not_sent_and_deleted_messages_are_not_pending(
    gateway: RunningNode, tokens: dict[str, str]
) -> None:
    await make_topic(gateway.url, tokens["omar"], "noticias", tokens["diego"])
    async with talking(gateway.url, tokens["diego"]) as diego:
        await diego.nothing_more()
    async with connected(gateway.url, tokens["omar"]) as omar:
        ids = [(await omar.ask("message", topic_name="noticias", content=f"{n}"))["id"] for n in range(4)]
        await omar.ask("edit", message_id=ids[1], content="one")
        await omar.ask("delete", message_id=ids[2])
        await omar.ask("react", message_id=ids[3], emoji="👍")
        async with talking(gateway.url, tokens["diego"]) as diego:
            await diego.until("3")
            await omar.ask("edit", message_id=ids[0], content="zero")
            await omar.ask("delete", message_id=ids[0])
            await omar.ask("typing", topic_name="noticias")
            assert await diego.nothing_more() == ["0", "one", "3"]


# -- permissions ------------------------------------------------------------------------------------------------


async def test_topics_clients_have_the_same_permissions_as_other_clients(
    gateway: RunningNode, tokens: dict[str, str]
) -> None:
    await make_topic(gateway.url, tokens["omar"], "abierto", tokens["diego"])
    await make_topic(gateway.url, tokens["omar"], "cerrado", is_private=True)
    async with connected(gateway.url, tokens["omar"]) as owner, talking(gateway.url, tokens["diego"]) as diego:
        assert await diego.code("message", topic_name="cerrado", content="hello") == "not_found"
        assert await diego.code("invite", topic_name="cerrado", username="eder") == "not_found"
        assert await diego.code("invite", topic_name="abierto", username="eder") == "forbidden"
        await owner.ask("mute", topic_name="abierto", username="diego")
        assert await diego.code("message", topic_name="abierto", content="muted") == "forbidden"
        await owner.ask("ban", topic_name="abierto", username="diego")
        assert await diego.code("message", topic_name="abierto", content="banned") == "forbidden"
        assert await diego.code("subscribe", topic_name="abierto") == "forbidden"
        await owner.ask("message", topic_name="abierto", content="without him")
        await owner.ask("block", username="diego")
        assert await diego.code("message", topic_name="omar", content="blocked") == "forbidden"
        assert await diego.nothing_more() == []


# -- malformed --------------------------------------------------------------------------------------------------

MALFORMED: dict[str, tuple[str | bytes, str | None, str]] = {
    "nothing": ("", None, "invalid"),
    "not JSON": ("hola", None, "invalid"),
    "half an object": ('{"action": "message"', None, "invalid"),
    "two objects": (DISCONNECT * 2, None, "invalid"),
    "not a number": ('{"action": NaN}', None, "invalid"),
    "deep nesting": ("[" * 100_000, None, "invalid"),
    "an integer without end": ('{"action": ' + "9" * 5000 + "}", None, "invalid"),
    "a list": ('["disconnect"]', None, "invalid"),
    "null": ("null", None, "invalid"),
    "a text": ('"disconnect"', None, "invalid"),
    "binary": (DISCONNECT.encode(), None, "invalid"),
    "binary that is nothing": (b"", None, "invalid"),
    "no action": ('{"topic_name": "noticias"}', None, "invalid"),
    "an action that is null": ('{"action": null}', None, "invalid"),
    "an action that is a list": ('{"action": ["message"]}', None, "invalid"),
    "an unknown action": ('{"action": "fly"}', "fly", "unknown_action"),
    "an action that is half a character": ('{"action": "\\ud800"}', "?", "unknown_action"),
    "an action of the contract that the document has not": ('{"action": "get_rooms"}', "get_rooms", "unknown_action"),
    "an event": ('{"action": "connect"}', "connect", "unknown_action"),
    "no topic": ('{"action": "message", "content": "x"}', "message", "invalid"),
    "a topic that is null": ('{"action": "message", "topic_name": null, "content": "x"}', "message", "invalid"),
    "a topic that is a number": ('{"action": "message", "topic_name": 7, "content": "x"}', "message", "invalid"),
    "a topic that is a list": ('{"action": "message", "topic_name": [], "content": "x"}', "message", "invalid"),
    "a topic that is an object": ('{"action": "invite", "topic_name": {}, "username": "x"}', "invite", "invalid"),
    "a topic that is half a character": (
        '{"action": "message", "topic_name": "\\ud800", "content": "x"}',
        "message",
        "invalid",
    ),
    "no content": ('{"action": "message", "topic_name": "noticias"}', "message", "invalid"),
    "empty content": ('{"action": "message", "topic_name": "noticias", "content": ""}', "message", "invalid"),
    "content that is a number": (
        '{"action": "message", "topic_name": "noticias", "content": 1}',
        "message",
        "invalid",
    ),
    "too much content": (
        json.dumps({"action": "message", "topic_name": "noticias", "content": "x" * (MAX_CONTENT + 1)}),
        "message",
        "too_large",
    ),
    "nobody to invite": ('{"action": "invite", "topic_name": "noticias"}', "invite", "invalid"),
    "private as a text": ('{"action": "create", "topic_name": "x", "is_private": "yes"}', "create", "invalid"),
    "private as null": ('{"action": "create", "topic_name": "x", "is_private": null}', "create", "invalid"),
    "a field of the contract": (
        '{"action": "message", "topic_name": "noticias", "content": "x", "client_id": "1"}',
        "message",
        "invalid",
    ),
    "another way to name a room": ('{"action": "message", "room_id": "x", "content": "x"}', "message", "invalid"),
    "a misspelt field": ('{"action": "suscribe", "topic": "noticias"}', "suscribe", "invalid"),
    "a field too many": ('{"action": "disconnect", "now": true}', "disconnect", "invalid"),
}


async def test_a_malformed_frame_is_answered_in_order_and_the_connection_stays(
    gateway: RunningNode, tokens: dict[str, str]
) -> None:
    async with talking(gateway.url, tokens["omar"]) as omar:
        await omar.ask("create", topic_name="noticias")
        for fault, (frame, action, code) in MALFORMED.items():
            answer = await omar.say(frame)
            assert (answer["action"], answer["status"], answer["code"]) == (action, "error", code), (fault, answer)
        # Among valid frames, it is answered in order.
        for frame in (MESSAGE, "hola", MESSAGE):
            await omar.socket.send(frame)
        assert [(await omar.answer())["status"] for _ in range(3)] == ["ok", "error", "ok"]
        assert await omar.nothing_more() == ["Content of the message"] * 2


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_NAMES = st.sampled_from(["topic_name", "username", "content", "is_private", "room_id", "client_id"])
_FRAMES = (
    st.text(max_size=50)
    | st.binary(max_size=50)
    | _VALUES.map(json.dumps)
    | st.builds(
        lambda action, fields: json.dumps(fields | {"action": action}),
        st.sampled_from(["suscribe", "subscribe", "invite", "create", "message"]) | _VALUES,
        st.dictionaries(_NAMES, _VALUES | st.sampled_from(["noticias", "diego"]), max_size=4),
    )
)
_PHASES = (Phase.explicit, Phase.generate)
_KNOWN = {code.value for code in ErrorCode} - {"internal"}


async def test_every_frame_is_answered_once_and_never_with_an_internal_error(
    gateway: RunningNode, tokens: dict[str, str]
) -> None:
    sent: list[str | bytes] = []

    @settings(max_examples=examples(300), phases=_PHASES, deadline=None, database=None, derandomize=True)
    @given(_FRAMES.filter(lambda frame: "disconnect" not in str(frame)))
    def collect(frame: str | bytes) -> None:
        sent.append(frame)

    collect()
    async with talking(gateway.url, tokens["omar"]) as omar:
        await omar.ask("create", topic_name="noticias")
        for frame in sent:
            answer = await omar.say(frame)
            assert answer.get("code", "ok") in _KNOWN | {"ok"}, (frame, answer)
        await omar.nothing_more()


# -- order, once, and the bound ---------------------------------------------------------------------------------


async def test_all_members_get_every_message_once_in_the_same_order(
    gateway: RunningNode, tokens: dict[str, str]
) -> None:
    await make_topic(gateway.url, tokens["omar"], "noticias", tokens["diego"])
    async with talking(gateway.url, tokens["omar"]) as omar, talking(gateway.url, tokens["diego"]) as diego:
        for n in range(100):
            for name, talker in (("omar", omar), ("diego", diego)):
                await talker.socket.send(
                    json.dumps({"action": "message", "topic_name": "noticias", "content": f"{name} {n}"})
                )
        seqs: dict[str, list[int]] = {"omar": [], "diego": []}
        for name, talker in (("omar", omar), ("diego", diego)):
            for _ in range(100):
                seqs[name].append((await talker.answer())["seq"])
            await talker.until("omar 99")
            await talker.until("diego 99")
        assert sorted(seqs["omar"] + seqs["diego"]) == list(range(1, 201))
        assert all(own == sorted(own) for own in seqs.values())
        assert await omar.nothing_more() == await diego.nothing_more()
        assert len(omar.pushed) == 201
        for name in seqs:
            own = [push["content"] for push in omar.pushed if push["sender"] == name]
            assert own[:100] == [f"{name} {n}" for n in range(100)]


async def test_messages_shown_before_a_disconnect_are_not_repeated(
    gateway: RunningNode, tokens: dict[str, str]
) -> None:
    await make_topic(gateway.url, tokens["omar"], "noticias", tokens["diego"])
    async with talking(gateway.url, tokens["omar"]) as omar:
        async with small_socket(
            gateway.url, f"/{tokens['diego']}", create_connection=manual_pong_connection
        ) as socket:
            diego = Talker(socket)
            await omar.ask("message", topic_name="noticias", content="one")
            await diego.until("one")
            await diego.until_ping()
            await omar.ask("message", topic_name="noticias", content="after the PING")
            await diego.until("after the PING")
            await socket.send(DISCONNECT)
            await diego.pong()
            await diego.until_ping()
            await diego.pong()
            assert await diego.until_closed() == 1000
            assert diego.last == {"action": "disconnect", "status": "ok"}
        async with talking(gateway.url, tokens["diego"]) as diego:
            assert await diego.nothing_more() == []


async def test_a_lost_connection_loses_no_message(gateway: RunningNode, tokens: dict[str, str]) -> None:
    await make_topic(gateway.url, tokens["omar"], "noticias", tokens["diego"])
    async with talking(gateway.url, tokens["omar"]) as omar:
        async with small_socket(
            gateway.url, f"/{tokens['diego']}", create_connection=manual_pong_connection
        ) as socket:
            diego = Talker(socket)
            await omar.ask("message", topic_name="noticias", content="confirmed")
            await diego.until("confirmed")
            await diego.until_ping()
            await omar.ask("message", topic_name="noticias", content="confirmed by the next PING")
            await diego.until("confirmed by the next PING")
            await diego.pong()
            await diego.until_ping()
            await diego.pong()
            await diego.code("message", topic_name="nowhere", content="the PONG was read before this")
            await omar.ask("message", topic_name="noticias", content="unconfirmed")
            await diego.until("unconfirmed")
            socket.transport.abort()
        await omar.ask("message", topic_name="noticias", content="missed")
        async with talking(gateway.url, tokens["diego"]) as diego:
            await diego.until("missed")
            assert await diego.nothing_more() == ["unconfirmed", "missed"]


async def test_a_slow_consumer_is_closed_and_loses_nothing(gateway: RunningNode, tokens: dict[str, str]) -> None:
    await make_topic(gateway.url, tokens["omar"], "noticias", tokens["diego"], tokens["satoshi"])
    async with (
        talking(gateway.url, tokens["omar"]) as omar,
        talking(gateway.url, tokens["satoshi"]) as reader,
        small_socket(gateway.url, f"/{tokens['diego']}") as socket,
    ):
        slow, total = Talker(socket), 0
        await slow.nothing_more()
        while "diego" in {connection.principal.username for connection in gateway.node.hub.connections}:
            for n in range(total, total + 50):
                content = f"{n} ".ljust(16_000, "x")
                await omar.socket.send(
                    json.dumps({"action": "message", "topic_name": "noticias", "content": content})
                )
            total += 50
            while len(reader.pushed) < total:
                await reader.receive()
            while len(omar.pushed) < total:
                await omar.receive()
            assert max(connection.link.buffered for connection in gateway.node.hub.connections) < 8 * 2**20
            assert total < 4000
        await slow.until_closed()
        received = [int(push["content"].split()[0]) for push in slow.pushed[1:]]
        assert received == list(range(len(received)))
        assert len(received) < total
    async with talking(gateway.url, tokens["diego"]) as diego:
        await diego.until(reader.pushed[-1]["content"])
        replayed = [int(push["content"].split()[0]) for push in diego.pushed]
        assert replayed == list(range(replayed[0], total))
        assert replayed[0] <= len(received)


# -- wscat, at a terminal ---------------------------------------------------------------------------------------


class Terminal:
    """wscat on a pseudo-terminal, with the lines that the document shows."""

    def __init__(self, process: asyncio.subprocess.Process, screen: asyncio.StreamReader, keyboard: int) -> None:
        self._process = process
        self._screen = screen
        self._keyboard = keyboard
        self.frames: list[dict[str, Any]] = []

    def type(self, line: str) -> None:
        os.write(self._keyboard, line.encode() + b"\r")

    async def until(self, **shown: Any) -> dict[str, Any]:
        """The next shown frame with these members."""
        async with asyncio.timeout(DEADLINE_S):
            while line := await self._line():
                if match := re.search(r"< (\{.*\})", line):
                    frame: dict[str, Any] = json.loads(match[1])
                    self.frames.append(frame)
                    if shown.items() <= frame.items():
                        return frame
        raise AssertionError(f"wscat ended without showing {shown}")

    async def connected(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while "Connected" not in (line := await self._line()):
                assert line, "wscat ended without a connection"

    async def ended(self) -> str:
        """Wait for wscat to end; returns its last output."""
        last = ""
        async with asyncio.timeout(DEADLINE_S):
            while line := await self._line():
                last += line
            await self._process.wait()
        return last

    async def _line(self) -> str:
        try:
            return (await self._screen.readline()).decode()
        except OSError:  # Linux: no process has the terminal open any more
            return ""


@asynccontextmanager
async def at_a_terminal(command: str) -> AsyncIterator[Terminal]:
    """Run the line that `tidings token` prints; yields once wscat is connected."""
    program, *args = shlex.split(command)
    assert program == "wscat"
    keyboard, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (50, 5000))  # wide enough for every line
    process = await asyncio.create_subprocess_exec(
        node("wscat"),
        str(SCRIPTS / "node_modules/wscat/bin/wscat"),
        *args,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    screen = asyncio.StreamReader(limit=2**20)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(screen), os.fdopen(os.dup(keyboard), "rb", 0)
    )
    try:
        started = Terminal(process, screen, keyboard)
        await started.connected()
        yield started
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        transport.close()
        os.close(keyboard)


async def wscat_line(process: ServerProcess, username: str) -> str:
    """The line that `tidings token` prints for a running server, beside the token."""
    port = process.url.rpartition(":")[2]
    command = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tidings",
        "token",
        username,
        env={**os.environ, "TIDINGS_DATA_DIR": str(process.data_dir), "TIDINGS_PORT": port},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    token, line = (text.decode().strip() for text in await command.communicate())
    assert line == f"wscat -c ws://127.0.0.1:{port}/{token}"
    return line


async def test_the_four_users_of_the_document_can_chat_with_wscat(tmp_path: Path) -> None:
    process = ServerProcess(tmp_path / "data", TIDINGS_DEV_TOKENS="true")
    await process.start()
    try:
        omars = await wscat_line(process, "omar")
        lines = {}
        async with httpx.AsyncClient(base_url=process.url, timeout=30) as http:
            for name in ("diego", "satoshi", "memoor"):
                token = (await http.get("/token", params={"username": name})).json()["token"]
                lines[name] = f"wscat -c {address(process.url, token)}"
        async with at_a_terminal(omars) as omar:
            omar.type('{"action": "create","topic_name": "noticias"}')
            await omar.until(action="create", status="ok", topic_name="noticias")
            omar.type('{"action": "create","topic_name": "secreto", "is_private": true}')
            await omar.until(action="create", status="ok", is_private=True)
            async with at_a_terminal(lines["diego"]) as diego, at_a_terminal(lines["satoshi"]) as satoshi:
                for user in (diego, satoshi):
                    user.type('{"action": "suscribe","topic_name": "noticias"}')
                    await user.until(action="suscribe", status="ok")
                omar.type('{"action": "invite","topic_name": "secreto","username": "satoshi"}')
                await omar.until(action="invite", status="ok")
                omar.type(MESSAGE)
                for user in (omar, diego, satoshi):
                    push = await user.until(action="message", sender="omar")
                    assert (push["topic_name"], push["pending"]) == ("noticias", False)
                    assert push["content"] == "Content of the message"
                diego.type(DISCONNECT)
                await diego.until(action="disconnect", status="ok")
                assert "Disconnected (code: 1000" in await diego.ended()
                satoshi.type('{"action": "message","topic_name": "diego","content": "¿dónde estás?"}')
                satoshi.type('{"action": "message","topic_name": "secreto","content": "first"}')
                await satoshi.until(action="message", status="ok", topic_name="secreto")
                satoshi.type('{"action": "message","topic_name": "noticias","content": "second"}')
                assert (await satoshi.until(action="message", status="ok", topic_name="noticias"))["seq"] == 2
            await omar.until(content="second")
            async with at_a_terminal(lines["memoor"]) as memoor, at_a_terminal(lines["diego"]) as diego:
                assert (await diego.until(topic_name="satoshi"))["content"] == "¿dónde estás?"
                memoor.type('{"action": "message","topic_name": "secreto","content": "let me in"}')
                await memoor.until(status="error", code="not_found")
                memoor.type("hola")
                await memoor.until(status="error", code="invalid")
                omar.type('{"action": "message","topic_name": "diego","content": "last"}')
                await diego.until(content="last")
                messages = [(frame["topic_name"], frame["content"], frame["pending"]) for frame in diego.frames]
                assert sorted(messages) == [
                    ("noticias", "second", True),
                    ("omar", "last", False),
                    ("satoshi", "¿dónde estás?", True),
                ]
                assert "secreto" not in {frame.get("topic_name") for frame in memoor.frames}
    finally:
        await process.kill()
