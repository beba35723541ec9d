"""Every gateway behind one interface: `ask` sends any text and waits until the server has handled it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import httpx
import msgpack
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.hostile.meter import MeteredNode
from tests.support.client import DEADLINE_S
from tests.support.node import NO_TLS
from tidings.actions.dispatch import Action

ENGINE = "/socket.io/?EIO=4&transport="
LIVE_BYTES = 950_000
"""The size of a payload over a live connection: a little less than the transport accepts."""
REST_BYTES = 250_000
QUERY_BYTES = 60_000


class Door(ABC):
    """A signed-in client of one gateway."""

    budget = LIVE_BYTES
    node: MeteredNode
    """The server behind it."""
    token: str

    @classmethod
    def has(cls, action: Action) -> bool:
        """Whether the gateway offers the action."""
        return action.live

    @abstractmethod
    async def ask(self, action: Action, payload: str) -> None:
        """Request an action with this JSON text as payload; return when it is answered or the connection closed."""

    @abstractmethod
    async def close(self) -> None: ...


class _Socket(Door):
    """A WebSocket, reopened after the server has closed it."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url.replace("http", "ws", 1)
        self.token = token
        self.socket: ClientConnection | None = None
        self.asked = 0

    async def open(self, path: str) -> ClientConnection:
        # Without a bound on unread messages: a close would wait ten seconds for them to be read.
        return await connect(
            self.url + path, compression=None, ping_interval=None, max_size=None, max_queue=None, proxy=None
        )

    @abstractmethod
    async def enter(self) -> ClientConnection:
        """Open and sign in."""

    @abstractmethod
    def frame(self, action: Action, payload: str) -> str | bytes: ...

    @abstractmethod
    def is_answer(self, frame: str | bytes) -> bool:
        """Whether the frame answers the last request."""

    async def ask(self, action: Action, payload: str) -> None:
        self.asked += 1
        await self.send(self.frame(action, payload))

    async def send(self, *frames: str | bytes) -> None:
        """Send frames, and wait for the answer to the last one or for the close."""
        with contextlib.suppress(ConnectionClosed):
            if self.socket is None:
                self.socket = await self.enter()
            for frame in frames:
                await self.socket.send(frame)
            async with asyncio.timeout(DEADLINE_S):
                while not self.is_answer(await self.receive(self.socket)):
                    pass
            return
        self.socket = None

    async def receive(self, socket: ClientConnection) -> str | bytes:
        return await socket.recv()

    async def close(self) -> None:
        if self.socket is not None:
            await self.socket.close()


class SocketIO(_Socket):
    async def enter(self) -> ClientConnection:
        socket = await self.open(f"{ENGINE}websocket")
        await socket.send("40" + json.dumps({"token": self.token}))
        while not str(await socket.recv()).startswith('42["ready"'):
            pass
        return socket

    def frame(self, action: Action, payload: str) -> str:
        return f'42{self.asked}["{action.name}",{payload}]'

    def is_answer(self, frame: str | bytes) -> bool:
        return str(frame).startswith(f"43{self.asked}[")

    async def receive(self, socket: ClientConnection) -> str | bytes:
        frame = await socket.recv()
        if frame == "2":
            await socket.send("3")
        return frame


class Msgpack(SocketIO):
    """For a server with `TIDINGS_PARSER=msgpack`. A JSON text that Python cannot load is not sent."""

    async def enter(self) -> ClientConnection:
        socket = await self.open(f"{ENGINE}websocket")
        await socket.send(msgpack.packb({"type": 0, "data": {"token": self.token}, "nsp": "/"}))
        while b"ready" not in bytes(await socket.recv(decode=False)):
            pass
        return socket

    def frame(self, action: Action, payload: str) -> bytes:
        with contextlib.suppress(ValueError, RecursionError, OverflowError):
            data = [action.name, json.loads(payload)]
            packed: bytes = msgpack.packb({"type": 2, "data": data, "nsp": "/", "id": self.asked})
            return packed
        return msgpack.packb({"type": 2, "data": ["echo"], "nsp": "/", "id": self.asked})  # type: ignore[no-any-return]

    def is_answer(self, frame: str | bytes) -> bool:
        return isinstance(frame, bytes) and msgpack.unpackb(frame).get("id") == self.asked


class Polling(Door):
    def __init__(self, url: str, token: str) -> None:
        self.http = httpx.AsyncClient(base_url=url, verify=NO_TLS, timeout=DEADLINE_S)
        self.token = token
        self.asked = 0
        self._sid: str | None = None

    @property
    def _address(self) -> str:
        return f"{ENGINE}polling&sid={self._sid}"

    async def _until(self, wanted: str) -> bool:
        """Poll until a packet begins with `wanted`; False if the session has ended."""
        while True:
            answer = await self.http.get(self._address)
            if not answer.is_success:
                return False
            packets = answer.text.split("\x1e")
            if "2" in packets:
                await self.http.post(self._address, content=b"3")
            if any(packet.startswith(wanted) for packet in packets):
                return True

    async def ask(self, action: Action, payload: str) -> None:
        self.asked += 1
        await self.post(f'42{self.asked}["{action.name}",{payload}]')

    async def post(self, body: str) -> None:
        """Send a body, and wait for the answer with the id `asked`."""
        if self._sid is None:
            opened = await self.http.get(f"{ENGINE}polling")
            self._sid = json.loads(opened.text[1:])["sid"]
            await self.http.post(self._address, content="40" + json.dumps({"token": self.token}))
            assert await self._until('42["ready"')
        posted = await self.http.post(self._address, content=body.encode())
        if not (posted.is_success and await self._until(f"43{self.asked}[")):
            self._sid = None

    async def close(self) -> None:
        if self._sid is not None:
            await self.http.post(self._address, content=b"1")
            await self.http.get(self._address)
        await self.http.aclose()


class Plain(_Socket):
    async def enter(self) -> ClientConnection:
        socket = await self.open("/ws")
        await socket.send(json.dumps({"action": "authenticate", "data": {"token": self.token}}))
        while not str(await socket.recv()).startswith('{"event":"ready"'):
            pass
        return socket

    def frame(self, action: Action, payload: str) -> str:
        return f'{{"id":{self.asked},"action":"{action.name}","data":{payload}}}'

    def is_answer(self, frame: str | bytes) -> bool:
        # A frame that is not JSON is answered without an id.
        return not str(frame).startswith('{"event":')


class Rest(Door):
    budget = REST_BYTES

    def __init__(self, url: str, token: str) -> None:
        self.token = token
        headers = {"Authorization": f"Bearer {token}"}
        self.http = httpx.AsyncClient(base_url=url, verify=NO_TLS, timeout=DEADLINE_S, headers=headers)

    @classmethod
    def has(cls, action: Action) -> bool:
        return action.http is not None

    async def ask(self, action: Action, payload: str) -> None:
        assert action.http is not None
        method, path = action.http.split(" ", 1)
        fields: dict[str, Any] = {}
        with contextlib.suppress(ValueError, RecursionError):
            loaded = json.loads(payload)
            fields = loaded if isinstance(loaded, dict) else {}
        for name in action.request.model_fields:
            if f"{{{name}}}" in path:
                given = str(fields.pop(name, "x"))[:QUERY_BYTES].encode("utf-8", "replace")
                path = path.replace(f"{{{name}}}", quote(given, safe="") or "x")
        if method in ("GET", "DELETE"):
            given = "&".join(f"{name}={str(value)[: QUERY_BYTES // 3]}" for name, value in fields.items())
            path += "?" + quote(given.encode("utf-8", "replace"), safe="=&")
            await self.http.request(method, path[:QUERY_BYTES])
        else:
            await self.http.request(method, path[:QUERY_BYTES], content=payload.encode())

    async def close(self) -> None:
        await self.http.aclose()


DOORS: dict[str, type[Door]] = {
    "socketio": SocketIO,
    "polling": Polling,
    "websocket": Plain,
    "rest": Rest,
    "msgpack": Msgpack,
}


@asynccontextmanager
async def door_of(name: str, url: str, token: str) -> AsyncIterator[Door]:
    door = DOORS[name](url, token)
    try:
        yield door
    finally:
        await door.close()
