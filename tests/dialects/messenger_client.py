"""A user of the messenger, over HTTP and WebSocket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.support.client import DEADLINE_S
from tests.support.node import NO_TLS, PASSWORD


class Person:
    """A client as the document describes it."""

    def __init__(self, url: str, username: str, token: str = "") -> None:
        self.url = url
        self.username = username
        self.token = token
        self.answer: httpx.Response

    async def ask(self, route: str, status: int = 200, /, **fields: Any) -> Any:
        """Request an endpoint; returns its `Data`."""
        method, path = route.split(" ", 1)
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        async with httpx.AsyncClient(base_url=self.url, timeout=DEADLINE_S, verify=NO_TLS) as http:
            self.answer = await http.request(method, path, json=fields or None, headers=headers)
        return envelope(self.answer, status)["Data"]

    async def create(self) -> Person:
        self.token = await self.ask("POST /user", 201, Username=self.username, Password=PASSWORD)
        return self

    async def talk_to(self, other: Person | str) -> str:
        name = other if isinstance(other, str) else other.username
        conversation: str = await self.ask("POST /conversation", 201, Recipient=name)
        return conversation

    async def say(self, conversation: str, text: str) -> str:
        message: str = await self.ask("POST /message", 201, ConversationId=conversation, Message=text)
        return message

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Socket]:
        """A WebSocket that has authenticated."""
        async with opened(self.url) as ws:
            await ws.send(self.token)
            assert await ws.next() == {"Message": "Websocket Authenticated"}
            yield ws


class Socket:
    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def send(self, frame: str | bytes) -> None:
        await self.connection.send(frame)

    async def say(self, frame: object) -> None:
        await self.send(json.dumps(frame))

    async def next(self) -> Any:
        async with asyncio.timeout(DEADLINE_S):
            return json.loads(await self.connection.recv())

    async def event(self, name: str) -> dict[str, Any]:
        """The `Data` of the next frame, an event of that name."""
        frame = await self.next()
        assert frame.keys() == {"Message", "Data"}
        assert frame["Message"] == name, frame
        data: dict[str, Any] = frame["Data"]
        return data

    async def refusal(self) -> str:
        """The message of the next frame, an error."""
        frame = await self.next()
        assert frame.keys() == {"Message", "Data"}
        assert frame["Data"] is None
        message: str = frame["Message"]
        assert message
        assert "fault of the server" not in message
        return message

    async def closed(self) -> int | None:
        """Wait for the close, without a frame before it; returns its code."""
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(ConnectionClosed):
                raise AssertionError(await self.connection.recv())
        return self.connection.close_code


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[Socket]:
    address = url.replace("http", "ws", 1) + "/websocket"
    async with connect(address, compression=None, ping_interval=None, proxy=None, **options) as connection:
        ws = Socket(connection)
        assert await ws.next() == {"Message": "Websocket Open"}
        yield ws


def envelope(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    body: dict[str, Any] = answer.json()
    assert body.keys() == {"Message", "Data"}
    assert isinstance(body["Message"], str)
    assert body["Message"]
    if status >= 400:
        assert body["Data"] is None
    return body


async def people(url: str, *usernames: str) -> list[Person]:
    return [await Person(url, username).create() for username in usernames]
