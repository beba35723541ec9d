"""A visitor of the channels."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.client import DEADLINE_S
from tests.support.node import NO_TLS, RunningNode

CHANNELS = ("echo_ws", "pub_ws")


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
