"""A client that sends exactly the packets of the test, as Engine.IO text over a WebSocket or polling requests."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.support.node import NO_TLS
from tidings.contract.errors import Error
from tidings.contract.events import Closing

DEADLINE_S = 30.0
ENGINE = "/socket.io/?EIO=4&transport="
SEPARATOR = "\x1e"
HEAD = re.compile(r"^4\d(/[^,]*,)?\d*")
"""Types, namespace and id of a Socket.IO packet, which precede its data."""


def dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


class Raw:
    """One WebSocket. `packets` holds the received packets without PINGs, which are answered."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.packets: list[str | bytes] = []
        self._asked = 0

    async def send(self, *packets: str | bytes) -> None:
        for packet in packets:
            await self.socket.send(packet)

    async def receive(self) -> str | bytes:
        """The next packet. Raises `ConnectionClosed`."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                packet = await self.socket.recv()
                if packet == "2":
                    await self.socket.send("3")
                    continue
                self.packets.append(packet)
                return packet

    async def ping(self) -> None:
        """Wait for a PING, and answer it; other packets are dropped."""
        async with asyncio.timeout(DEADLINE_S):
            while await self.socket.recv() != "2":
                pass
            await self.socket.send("3")

    async def until(self, prefix: str) -> Any:
        """The data of the next Socket.IO packet that begins with `prefix`."""
        while True:
            packet = await self.receive()
            if isinstance(packet, str) and packet.startswith(prefix):
                return json.loads(HEAD.sub("", packet) or "null")

    async def until_closed(self) -> list[str | bytes]:
        """All packets until the server closes the WebSocket; fails if it does not."""
        received: list[str | bytes] = []
        try:
            while True:
                received.append(await self.receive())
        except ConnectionClosed:
            return received

    async def enter(self, token: str, **auth: Any) -> Raw:
        """Connect to the namespace `/` and wait until the replay is over."""
        await self.send("40" + dumps({"token": token, **auth}))
        await self.until('42["ready",')
        return self

    async def connect_refused(self, auth: str) -> dict[str, Any]:
        """Send a CONNECT with `auth` as JSON text that is refused; returns the error object."""
        await self.send("40" + auth)
        refused = await self.until("44")
        assert set(refused) == {"message", "data"}, refused
        Error.model_validate(refused["data"])
        assert refused["message"] == refused["data"]["message"]
        error: dict[str, Any] = refused["data"]
        return error

    async def ask(self, *event: Any) -> dict[str, Any]:
        """Send an event (name and arguments) and wait for its acknowledgement."""
        return await self.ask_text(dumps(list(event)))

    async def ask_text(self, event: str) -> dict[str, Any]:
        """As `ask`, with the event as JSON text."""
        self._asked += 1
        await self.send(f"42{self._asked}{event}")
        (answer,) = await self.until(f"43{self._asked}")
        assert set(answer) == ({"ok", "data"} if answer["ok"] else {"ok", "error"}), answer
        if not answer["ok"]:
            Error.model_validate(answer["error"])
        result: dict[str, Any] = answer
        return result

    async def refusal(self, *event: Any) -> dict[str, Any]:
        """As `ask`, for an action that is refused; returns the error object."""
        answer = await self.ask(*event)
        assert answer["ok"] is False, answer
        error: dict[str, Any] = answer["error"]
        return error

    async def is_alive(self) -> None:
        """Assert that the connection still answers."""
        assert (await self.ask("get_rooms", {}))["ok"]


@asynccontextmanager
async def opened(url: str, **headers: str) -> AsyncIterator[Raw]:
    """A WebSocket after the Engine.IO handshake, not connected to any namespace."""
    address = url.replace("http", "ws", 1) + ENGINE + "websocket"
    async with connect(
        address, additional_headers=headers, compression=None, ping_interval=None, max_size=None, proxy=None
    ) as socket:
        raw = Raw(socket)
        packet = await raw.receive()
        assert isinstance(packet, str)
        assert packet.startswith("0{"), packet
        yield raw


@asynccontextmanager
async def entered(url: str, token: str, **auth: Any) -> AsyncIterator[Raw]:
    """A connection after `ready`."""
    async with opened(url) as raw:
        yield await raw.enter(token, **auth)


def closing_of(packets: list[str | bytes]) -> Mapping[str, Any]:
    """The payload of `closing`, which must be the last event of a connection that the server ended."""
    events = [json.loads(p[2:]) for p in packets if isinstance(p, str) and p.startswith("42[")]
    assert events, packets
    name, payload = events[-1]
    assert name == "closing", events
    Closing.model_validate(payload)
    result: Mapping[str, Any] = payload
    return result


class Polling:
    """A session on the polling transport."""

    def __init__(self, http: httpx.AsyncClient, sid: str) -> None:
        self.http = http
        self.sid = sid
        self.packets: list[str] = []

    @property
    def address(self) -> str:
        return f"{ENGINE}polling&sid={self.sid}"

    async def post(self, *packets: str) -> httpx.Response:
        return await self.http.post(self.address, content=SEPARATOR.join(packets).encode())

    async def poll(self) -> list[str]:
        answer = await self.http.get(self.address)
        assert answer.status_code == 200, answer.text
        packets = answer.text.split(SEPARATOR)
        self.packets += packets
        return packets

    async def until(self, prefix: str) -> str:
        """Poll until a packet begins with `prefix`; returns that packet."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                for at, packet in enumerate(self.packets):
                    if packet.startswith(prefix):
                        del self.packets[: at + 1]
                        return packet
                self.packets.clear()
                if "2" in await self.poll():
                    await self.post("3")


@asynccontextmanager
async def polling(url: str, token: str | None = None) -> AsyncIterator[Polling]:
    """A polling session; with a token, connected and past `ready`."""
    async with httpx.AsyncClient(base_url=url, verify=NO_TLS, timeout=DEADLINE_S) as http:
        answer = await http.get(ENGINE + "polling")
        assert answer.status_code == 200, answer.text
        session = Polling(http, json.loads(answer.text[1:])["sid"])
        if token is not None:
            assert (await session.post("40" + dumps({"token": token}))).text == "ok"
            await session.until('42["ready",')
        try:
            yield session
        finally:
            await session.post("1")
            await http.get(session.address)  # fetches the remaining packets
