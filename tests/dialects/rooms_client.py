"""A client of the chat rooms."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from tests.support.client import DEADLINE_S
from tests.support.node import RunningNode
from tests.support.process import ServerProcess
from tidings.contract.errors import ErrorCode

PUSHED = ("message", "user_joined", "user_left", "closing")


class Chatter:
    """A client of the documented protocol. It separates answers and pushes, and keeps the order of each."""

    def __init__(self, socket: ClientConnection, token: str) -> None:
        self.socket = socket
        self.token = token
        self.pushed: list[dict[str, Any]] = []

    async def say(self, frame: object) -> None:
        await self.socket.send(frame if isinstance(frame, str | bytes) else json.dumps(frame))

    async def receive(self) -> dict[str, Any]:
        """The next frame, after checking its documented shape."""
        text = await asyncio.wait_for(self.socket.recv(), DEADLINE_S)
        assert isinstance(text, str)
        frame: dict[str, Any] = json.loads(text)
        assert frame.keys() == {"statusCode", "type", "data"}, frame
        assert frame["statusCode"] in ("ok", "error")
        assert isinstance(frame["data"], dict)
        if frame["statusCode"] == "error":
            assert frame["data"]["code"]
            assert frame["data"]["code"] != ErrorCode.INTERNAL
            assert isinstance(frame["data"]["message"], str)
        return frame

    async def answer(self) -> dict[str, Any]:
        while (frame := await self.receive())["type"] in PUSHED:
            self.pushed.append(frame)
        return frame

    async def ask(self, action: str, **args: Any) -> dict[str, Any]:
        await self.say({"token": self.token, "action": action, "args": args})
        return await self.answer()

    async def ok(self, action: str, **args: Any) -> dict[str, Any]:
        """Run a command that succeeds; returns its data."""
        answer = await self.ask(action, **args)
        assert (answer["statusCode"], answer["type"]) == ("ok", action), answer
        data: dict[str, Any] = answer["data"]
        return data

    async def code(self, action: str, **args: Any) -> str:
        answer = await self.ask(action, **args)
        assert answer["statusCode"] == "error", answer
        return str(answer["data"]["code"])

    async def push(self, kind: str) -> dict[str, Any]:
        """The data of the next push of a kind."""
        while True:
            for at, frame in enumerate(self.pushed):
                if frame["type"] == kind:
                    del self.pushed[at]
                    data: dict[str, Any] = frame["data"]
                    return data
            self.pushed.append(await self.receive())

    async def connect_to(self, room: str) -> list[str]:
        """Connect to a room; returns the usernames in it."""
        data = await self.ok("connect_to_room", roomName=room)
        assert data.keys() == {"roomName", "usernames"}
        assert data["roomName"] == room
        return sorted(data["usernames"])

    async def counts(self) -> dict[str, int]:
        counts: dict[str, int] = (await self.ok("get_rooms"))["rooms"]
        return counts


@asynccontextmanager
async def opened(gateway: RunningNode | ServerProcess, token: str = "", **options: Any) -> AsyncIterator[Chatter]:
    """An unused WebSocket."""
    url = gateway.url.replace("http", "ws", 1)
    async with connect(url, compression=None, ping_interval=None, max_size=None, proxy=None, **options) as socket:
        yield Chatter(socket, token)


@asynccontextmanager
async def chatting(
    gateway: RunningNode | ServerProcess, username: str, token: str | None = None
) -> AsyncIterator[Chatter]:
    """A user who has sent their username; without a token, they are registered first."""
    async with opened(gateway, token or await gateway.register(username)) as chatter:
        await chatter.say({"username": username})
        yield chatter
