"""TCP, HTTP/1.1 and WebSockets byte by byte, from any loopback address: the caller decides every sent byte."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

DEADLINE_S = 30.0
HOME = "127.0.0.1"
CLOSE, PING, PONG, TEXT, BINARY = 0x8, 0x9, 0xA, 0x1, 0x2
_NO_LINGER = struct.pack("ii", 1, 0)
GONE = (ConnectionError, asyncio.IncompleteReadError, OSError)
"""The exceptions of asyncio for an ended connection."""


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    """By name in lower case."""
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The error code of the contract, or ""."""
        with suppress(ValueError):
            found = self.json()
            if isinstance(found, dict):
                return str(found.get("code", ""))
        return ""


class Refused(Exception):
    """The handshake of a WebSocket got an answer other than 101, or none."""

    def __init__(self, answer: Answer | None) -> None:
        super().__init__("no answer" if answer is None else f"{answer.status} {answer.body[:200]!r}")
        self.answer = answer


class Connection:
    """A TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, url: str, source: str = HOME) -> Self:
        parts = urlsplit(url)
        async with asyncio.timeout(DEADLINE_S):
            return cls(*await asyncio.open_connection(parts.hostname, parts.port, local_addr=(source, 0)))

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, method: str = "GET") -> Answer:
        """The next HTTP answer. Raises `GONE` if the connection ends before it is complete."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        status = int(first.split()[1])
        if status in {101, 204} or method == "HEAD":
            return Answer(status, headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(await self.reader.readline(), 16):
                body += await self.reader.readexactly(size)
                await self.reader.readexactly(2)
            await self.reader.readexactly(2)
        elif "content-length" in headers:
            body = await self.reader.readexactly(int(headers["content-length"]))
        else:
            body = await self.reader.read()
        return Answer(status, headers, body)

    async def until_closed(self, within: float) -> bytes | None:
        """All bytes until the peer closes; None if the connection is still open after `within` seconds."""
        received = bytearray()
        try:
            async with asyncio.timeout(within):
                while data := await self.reader.read(1 << 16):
                    received += data
        except TimeoutError:
            return None
        except GONE:
            pass
        return bytes(received)

    def abort(self) -> None:
        """End the connection with a RST."""
        sock: socket.socket | None = self.writer.get_extra_info("socket")
        if sock is not None:
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        drop(self.writer)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        drop(self.writer)


def drop(writer: asyncio.StreamWriter) -> None:
    """End a connection without waiting. Idempotent, as a transport's `abort` is not."""
    with suppress(AttributeError):
        writer.transport.abort()


Headers = Mapping[str, str] | Sequence[tuple[str, str]]


def head(method: str, path: str, headers: Headers, host: str | None = "127.0.0.1") -> bytes:
    """The complete head of a request. Text is sent as UTF-8 without checks."""
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
    if host is not None and not any(name.lower() == "host" for name, _ in pairs):
        pairs.insert(0, ("Host", host))
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in pairs)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogatepass")


class Http:
    """A client that keeps its connection, and reconnects when the server has closed it."""

    def __init__(self, url: str, token: str | None = None, source: str = HOME) -> None:
        self.url = url
        self.token = token
        self.source = source
        self._connection: Connection | None = None

    async def ask(
        self,
        method: str,
        path: str,
        payload: Any = None,
        *,
        body: bytes | None = None,
        headers: Headers = (),
        deadline: float = DEADLINE_S,
    ) -> Answer:
        """Send a request. Raises `GONE` or TimeoutError without a complete answer."""
        pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
        if payload is not None:
            body = json.dumps(payload).encode()
            pairs.append(("Content-Type", "application/json"))
        if self.token is not None:
            pairs.append(("Authorization", f"Bearer {self.token}"))
        if body is not None or method in ("POST", "PUT", "PATCH"):
            pairs.append(("Content-Length", str(len(body or b""))))
        data = head(method, path, pairs) + (body or b"")
        if self._connection is not None and self._connection.reader.at_eof():
            self.close()  # the server closes a connection after 5 s without a request
        async with asyncio.timeout(deadline):
            for again in (True, False):
                fresh = self._connection is None
                connection = self._connection = self._connection or await Connection.open(self.url, self.source)
                try:
                    await connection.write(data)
                    answer = await connection.answer(method)
                except BaseException as error:
                    self.close()
                    if isinstance(error, GONE) and not fresh and again and method == "GET":
                        continue  # the idle connection was closed
                    raise
                if answer.headers.get("connection") == "close":
                    self.close()
                return answer
        raise AssertionError("unreachable")

    def close(self) -> None:
        if self._connection is not None:
            drop(self._connection.writer)
            self._connection = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


async def ask(url: str, method: str, path: str, payload: Any = None, **options: Any) -> Answer:
    """One request on a new connection; options: `token`, `source`, and those of `Http.ask`."""
    async with Http(url, options.pop("token", None), options.pop("source", HOME)) as http:
        return await http.ask(method, path, payload, **options)


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = True,
    length: int | None = None,
    width: int | None = None,
) -> bytes:
    """A WebSocket frame (RFC 6455, 5.2); invalid with another `length` than the payload's, or another `width`."""
    stated = len(payload) if length is None else length
    width = (0 if stated < 126 else 2 if stated < 65536 else 8) if width is None else width
    first = bytes((fin << 7 | rsv << 4 | opcode,))
    flag = 0x80 if masked else 0
    if width == 0:
        first += bytes((flag | stated,))
    else:
        first += bytes((flag | (126 if width == 2 else 127),)) + stated.to_bytes(width, "big")
    if not masked:
        return first + payload
    key = os.urandom(4)
    return first + key + mask(payload, key)


def mask(payload: bytes, key: bytes) -> bytes:
    size = len(payload)
    if not size:
        return b""
    repeated = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(size, "big")


def handshake(path: str, headers: Headers = (), host: str | None = "127.0.0.1") -> bytes:
    """The opening handshake of a WebSocket; `headers` follow the usual ones."""
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
    usual = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Version": "13",
    }
    given = {name.lower() for name, _ in pairs}
    return head("GET", path, [(n, v) for n, v in usual.items() if n.lower() not in given] + pairs, host)


class WebSocket(Connection):
    """A WebSocket. PINGs are answered during `receive`."""

    close_code: int | None = None
    """The code of the received close frame: 1005 without a code, None without a frame."""

    @classmethod
    async def connect(
        cls, url: str, path: str, headers: Headers = (), source: str = HOME, deadline: float = DEADLINE_S
    ) -> Self:
        """Raises `Refused`; with None if the connection ends without an answer. TimeoutError if nothing happens."""
        self = await cls.open(url, source)
        try:
            async with asyncio.timeout(deadline):
                await self.write(handshake(path, headers))
                answer = await self.answer()
        except GONE:
            self.abort()
            raise Refused(None) from None
        except BaseException:
            self.abort()
            raise
        if answer.status != 101:
            self.abort()
            raise Refused(answer)
        return self

    async def send(self, data: str | bytes) -> None:
        """A message, as text or binary."""
        if isinstance(data, str):
            await self.write(frame(TEXT, data.encode("utf-8", "surrogatepass")))
        else:
            await self.write(frame(BINARY, data))

    async def receive_frame(self) -> tuple[int, bytes]:
        first, second = await self.reader.readexactly(2)
        size = second & 0x7F
        if size == 126:
            size = int.from_bytes(await self.reader.readexactly(2), "big")
        elif size == 127:
            size = int.from_bytes(await self.reader.readexactly(8), "big")
        return first & 0xF, await self.reader.readexactly(size)

    async def receive(self) -> str | bytes:
        """The next message. Raises `Ended` when the WebSocket is over."""
        try:
            while True:
                opcode, payload = await self.receive_frame()
                if opcode == PING:
                    self.writer.write(frame(PONG, payload))
                elif opcode == CLOSE:
                    self.close_code = int.from_bytes(payload[:2], "big") if payload else 1005
                    self.writer.write(frame(CLOSE, payload[:2]))
                    raise Ended(self.close_code)
                elif opcode == TEXT:
                    return payload.decode("utf-8", "surrogatepass")
                elif opcode == BINARY:
                    return payload
        except GONE:
            raise Ended(self.close_code) from None

    async def until_end(self, within: float = DEADLINE_S) -> tuple[bool, list[str | bytes]]:
        """Whether the WebSocket ended within so many seconds, and the messages until then."""
        received: list[str | bytes] = []
        try:
            async with asyncio.timeout(within):
                while True:
                    received.append(await self.receive())
        except TimeoutError:
            return False, received
        except Ended:
            return True, received

    async def close(self) -> None:
        """The closing handshake, then the end."""
        with suppress(*GONE, TimeoutError):
            async with asyncio.timeout(5):
                await self.write(frame(CLOSE, b"\x03\xe8"))
                while await self.reader.read(1 << 16):
                    pass
        drop(self.writer)


class Ended(Exception):
    """A WebSocket has ended; the argument is the close code or None."""
