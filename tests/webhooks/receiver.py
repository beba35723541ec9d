"""An HTTP server that receives webhooks; a test may replace its behaviour, and kill it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.support.client import DEADLINE_S
from tests.support.ports import port_of


@dataclass(frozen=True)
class Request:
    path: str
    headers: dict[str, str]
    raw: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.raw)
        return body

    @property
    def data(self) -> dict[str, Any]:
        data: dict[str, Any] = self.body["data"]
        return data

    @property
    def place(self) -> tuple[str, int]:
        return self.data["room_id"], self.data["seq"]


Behaviour = Callable[[Request], Awaitable[int | bytes]]
"""Returns the status, or all of the answer; raises ConnectionError to break off."""


async def accepts(_request: Request) -> int:
    return 200


class Receiver:
    def __init__(self) -> None:
        self.behaviour: Behaviour = accepts
        self.received: list[Request] = []
        """Every complete request, repeats included."""
        self.accepted: list[Request] = []
        """Those that were answered 2xx."""
        self.connections = 0
        self._port = port_of(self)
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/hook"

    async def start(self) -> None:
        """Serve; after `kill`, on the same port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def kill(self) -> None:
        """Refuse connections, and break off those that are open."""
        if self._server is not None:
            self._server.close()
            self._server = None
        serving = list(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        self.connections += 1
        try:
            while True:
                request = await _read(reader)
                self.received.append(request)
                self._changed.set()
                answer = await self.behaviour(request)
                if isinstance(answer, int):
                    if 200 <= answer < 300:
                        self.accepted.append(request)
                    # A 204 has no body (RFC 9110, 15.3.5): what followed it would be read as the next answer.
                    end = b"\r\n" if answer == 204 else b"content-length: 2\r\n\r\nok"
                    answer = b"HTTP/1.1 %d X\r\n%s" % (answer, end)
                self._changed.set()
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._serving.discard(task)
            writer.transport.abort()
            self._changed.set()


async def _read(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, path, _ = head[0].split(" ")
    assert method == "POST"
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    return Request(path, headers, await reader.readexactly(int(headers["content-length"])))


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    await receiver.start()
    try:
        yield receiver
    finally:
        await receiver.kill()


def verify(request: Request, secret: str, now: float) -> None:
    """Verify a request as the specification of Standard Webhooks says it, independently of the server's code."""
    kind, _, encoded = secret.partition("_")
    assert kind == "whsec"
    key = base64.b64decode(encoded, validate=True)
    assert 24 <= len(key) <= 64
    timestamp = request.headers["webhook-timestamp"]
    assert abs(now - int(timestamp)) < 300
    assert "." not in request.id
    content = ".".join((request.id, timestamp, request.raw.decode())).encode()
    expected = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    versions = [signature.partition(",") for signature in request.headers["webhook-signature"].split(" ")]
    assert any(version == "v1" and hmac.compare_digest(value, expected) for version, _, value in versions)
