"""A client of `/ws` that sends exactly the frames of the test."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.support.client import DEADLINE_S
from tidings.contract.errors import Error
from tidings.contract.events import EVENTS


class Plain:
    """One WebSocket. `frames` holds the received frames."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.frames: list[dict[str, Any]] = []
        self._asked = 0

    async def send(self, **frame: Any) -> None:
        await self.socket.send(json.dumps(frame))

    async def receive(self) -> dict[str, Any]:
        """The next frame; it must be an event or an answer of the contract. Raises `ConnectionClosed`."""
        text = await asyncio.wait_for(self.socket.recv(), DEADLINE_S)
        assert isinstance(text, str)
        frame: dict[str, Any] = json.loads(text)
        if "event" in frame:
            assert set(frame) == {"event", "data"}, frame
            EVENTS[frame["event"]].model_validate(frame["data"])
        elif frame["ok"]:
            assert set(frame) - {"id"} == {"ok", "data"}, frame
        else:
            assert set(frame) - {"id"} == {"ok", "error"}, frame
            Error.model_validate(frame["error"])
        self.frames.append(frame)
        return frame

    async def answer(self) -> dict[str, Any]:
        """The next frame that is not an event."""
        while "event" in (frame := await self.receive()):
            pass
        return frame

    async def event(self, name: str) -> dict[str, Any]:
        """The payload of the next event of that name."""
        while (frame := await self.receive()).get("event") != name:
            pass
        payload: dict[str, Any] = frame["data"]
        return payload

    async def until_closed(self) -> int | None:
        """Read until the server closes the WebSocket; returns the close code."""
        try:
            while True:
                await self.receive()
        except ConnectionClosed:
            return self.socket.close_code

    def contents(self) -> list[str]:
        return [frame["data"]["content"] for frame in self.frames if frame.get("event") == "message"]

    async def ask(self, action: str, **data: Any) -> dict[str, Any]:
        """Send a request and wait for its answer; returns the answer without its id."""
        self._asked += 1
        await self.send(id=self._asked, action=action, data=data)
        while (frame := await self.receive()).get("id") != self._asked:
            pass
        return {key: value for key, value in frame.items() if key != "id"}

    async def code(self, action: str, **data: Any) -> str:
        """As `ask`, for a request that is refused; returns the error code."""
        answer = await self.ask(action, **data)
        assert answer["ok"] is False, answer
        code: str = answer["error"]["code"]
        return code

    async def is_alive(self) -> None:
        assert (await self.ask("get_rooms"))["ok"]


@asynccontextmanager
async def plain(url: str, *, headers: dict[str, str] | None = None, **query: str) -> AsyncIterator[Plain]:
    """A WebSocket after the opening handshake."""
    address = url.replace("http", "ws", 1) + "/ws" + (f"?{urlencode(query)}" if query else "")
    async with connect(
        address, additional_headers=headers, compression=None, ping_interval=None, max_size=None, proxy=None
    ) as socket:
        yield Plain(socket)


@asynccontextmanager
async def entered(url: str, token: str, **auth: Any) -> AsyncIterator[Plain]:
    """A connection after `ready`."""
    async with plain(url) as client:
        assert (await client.ask("authenticate", token=token, **auth))["ok"]
        await client.event("ready")
        yield client
