"""A client of the topics protocol."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.client import DEADLINE_S

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


async def _refusal(url: str) -> tuple[int, dict[str, Any]]:
    with pytest.raises(InvalidStatus) as refused:
        await connect(url, proxy=None)
    response = refused.value.response
    assert response.headers["content-type"] == "application/json"
    return response.status_code, json.loads(response.body or b"")
