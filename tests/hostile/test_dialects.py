"""Frames of other systems' clients block the event loop no longer than Tidings' own."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.hostile.contents import CONTENTS
from tests.hostile.meter import BUDGET_S, MeteredNode, longest_step
from tests.hostile.payloads import Attack, of_json, worse_values
from tests.support.client import DEADLINE_S
from tests.support.node import NO_TLS, PASSWORD

LIVE_BYTES, REST_BYTES = 950_000, 250_000
Frames = list[dict[str, Any]]


class Dialect:
    """A WebSocket of a dialect: its path, its opening frames, and valid frames."""

    def __init__(self, path: str, hello: list[str], frames: Frames) -> None:
        self.path, self.hello, self.frames = path, hello, frames

    def attacks(self) -> Iterator[Attack]:
        for frame in self.frames:
            yield from of_json(frame, LIVE_BYTES)
            yield from worse_values(frame, REST_BYTES)


DIALECTS: dict[str, Callable[[str, str], Dialect]] = {
    "topics": lambda token, _room: Dialect(
        f"/{token}",
        [],
        [
            {"action": "message", "topic_name": "noticias", "content": "hola"},
            {"action": "invite", "topic_name": "noticias", "username": "diego"},
        ],
    ),
    "rooms": lambda token, _room: Dialect(
        "/",
        [
            '{"username": "omar"}',
            json.dumps({"action": "connect_to_room", "token": token, "args": {"roomName": "noticias"}}),
        ],
        [
            {"action": "send_message", "token": token, "args": {"roomName": "noticias", "message": "hola"}},
            {"action": "connect_to_room", "token": token, "args": {"username": "omar", "roomName": "noticias"}},
        ],
    ),
    "rooms, without a name": lambda _token, _room: Dialect("/", [], [{"username": "omar"}]),
    "messenger": lambda token, room: Dialect(
        "/websocket",
        [token],
        [
            {"Message": "New Message", "Data": {"ConversationId": room, "Message": "hola"}},
            {"Message": "Typing", "User": "omar", "ConvId": "none"},
        ],
    ),
    "messenger, without a token": lambda _token, _room: Dialect("/websocket", [], [{"token": "x"}]),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.long
async def test_no_frame_of_a_dialect_holds_the_loop(node: MeteredNode, name: str) -> None:
    token, room_id = await _prepare(node)
    dialect = DIALECTS[name](token, room_id)
    socket: ClientConnection | None = None
    held = []
    for kind, text in dialect.attacks():

        async def attempt(text: str = text) -> None:
            nonlocal socket
            with contextlib.suppress(ConnectionClosed):
                if socket is None:
                    socket = await connect(node.url.replace("http", "ws", 1) + dialect.path, **_OPTIONS)
                    for frame in dialect.hello:
                        await socket.send(frame)
                await socket.send(text)
                await _settle(socket)
                return
            socket = None

        spent = await longest_step(node, attempt)
        if spent >= BUDGET_S:
            held.append(f"{kind}: {spent * 1000:.0f} ms")
    if socket is not None:
        await socket.close()
    assert held == []


_OPTIONS: dict[str, Any] = {"compression": None, "ping_interval": None, "max_size": None, "proxy": None}


async def _settle(socket: ClientConnection) -> None:
    """Wait for the PONG, and for up to one second for an answer."""
    async with asyncio.timeout(DEADLINE_S):
        pong = await socket.ping()
        reading = asyncio.ensure_future(_read(socket))
        try:
            await asyncio.wait({pong, reading}, return_when=asyncio.ALL_COMPLETED, timeout=1)
        finally:
            reading.cancel()
            await asyncio.wait({reading})
        if not reading.cancelled():
            reading.result()


async def _read(socket: ClientConnection) -> None:
    """Read one answer."""
    await socket.recv()


@pytest.mark.parametrize("channel", ["echo_ws", "pub_ws"])
async def test_no_content_of_a_channel_holds_the_loop(node: MeteredNode, channel: str) -> None:
    token, _ = await _prepare(node)
    address = f"{node.url.replace('http', 'ws', 1)}/{channel}?token={token}"
    async with connect(address, **_OPTIONS) as socket:
        for kind, content in {**CONTENTS, "too long": "é" * 450_000}.items():

            async def attempt(content: str = content) -> None:
                await socket.send(content)
                await asyncio.wait_for(socket.recv(), DEADLINE_S)

            assert await longest_step(node, attempt) < BUDGET_S, kind


BODIES: dict[str, dict[str, Any]] = {
    "POST /user": {"Username": "ana", "Password": PASSWORD},
    "POST /user/login": {"Username": "omar", "Password": "wrong password"},
    "POST /conversation": {"Recipients": ["diego"]},
    "POST /message": {"Recipient": "diego", "Message": "hola"},
    "PUT /message": {"MessageId": "x", "Message": "hola"},
    "POST /register": {"username": "ana", "password": PASSWORD},
    "POST /login": {"login": "omar", "password": "wrong password"},
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "route", [route if route == "POST /message" else pytest.param(route, marks=pytest.mark.long) for route in BODIES]
)
async def test_no_body_of_a_dialect_holds_the_loop(node: MeteredNode, route: str) -> None:
    token, _ = await _prepare(node)
    method, path = route.split(" ")
    right = BODIES[route]
    held = []
    async with httpx.AsyncClient(
        base_url=node.url, verify=NO_TLS, headers={"Authorization": f"Bearer {token}"}, timeout=DEADLINE_S
    ) as http:
        for kind, text in [*of_json(right, REST_BYTES), *worse_values(right, REST_BYTES)]:

            async def attempt(text: str = text) -> None:
                await http.request(method, path, content=text.encode("utf-8", "surrogatepass"))

            spent = await longest_step(node, attempt)
            if spent >= BUDGET_S:
                held.append(f"{kind}: {spent * 1000:.0f} ms")
    assert held == []


async def _prepare(node: MeteredNode) -> tuple[str, str]:
    """Register omar and diego; returns omar's token and the id of his topic."""
    token = await node.register("omar")
    await node.register("diego")
    async with httpx.AsyncClient(
        base_url=node.url, verify=NO_TLS, headers={"Authorization": f"Bearer {token}"}
    ) as http:
        room: dict[str, Any] = (await http.post("/api/topics", json={"topic_name": "noticias"})).json()
    return token, room["room_id"]
