"""The relay: requests of Engine.IO sessions that another node owns are passed on to it.

The first characters of a session's id are those of its node. A request that arrives elsewhere goes to that node over
a stream of its own, which begins with a pass (`relay_pass.py`). On it the owner serves the request as if the client
were connected to it. So the requests of different clients never share a stream.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import secrets
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final
from urllib.parse import quote

import httptools

from server.transport.admission import address_of
from server.transport.buffered_session import Receive, Scope, Send
from server.transport.relay_pass import RelayPasses
from server.transport.relay_stream import RelayStream, SocketDirectory, StreamOpener, join, opening
from server.transport.uvicorn_websocket import detachable

OWNER: Final = 4
"""Characters of a session's id that name its node."""
MAX_OPEN: Final = 10_000
"""Streams of this node to others. Beyond them, requests are answered with 503."""
OPEN_S: Final = 3.0
"""Time limit for another node to accept a stream. A process that has ended refuses it immediately."""
MAX_ANSWER: Final = 16 * 1024 * 1024
"""The most bytes of an answer that are relayed."""
ANSWER_S: Final = 60.0
"""How long an owner may be silent before it answers: longer than a poll, which takes a heartbeat (25 s)."""
_PASSED_ON: Final = frozenset((b"host", b"origin", b"content-type", b"user-agent"))
"""Headers that the owner of a session looks at."""

Owner = Callable[[str], Awaitable[tuple[str, str] | None]]
"""Id and URL of the node whose id begins with `OWNER` characters; the URL may be ""."""
Refusal = tuple[int, str]
UNKNOWN_SESSION: Final[Refusal] = (400, "Session ID unknown")

logger = logging.getLogger("tidings.transport")


class _Answer:
    """An HTTP answer, parsed as its bytes arrive."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = bytearray()
        self.complete = False
        self.status = 0
        self.following = b""
        """The bytes after a 101."""
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Raises `httptools.HttpParserError`."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.following = data[upgrade.args[0] :]
            self.status, self.complete = self._parser.get_status_code(), True

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.status, self.complete = self._parser.get_status_code(), True


class Relay:
    """Passes requests on to the nodes that own their sessions."""

    def __init__(
        self, node_id: str, passes: RelayPasses, owner: Owner, sockets: SocketDirectory, *, max_open: int = MAX_OPEN
    ) -> None:
        """`sockets`: of the nodes on this machine."""
        self.passes = passes
        self.relayed: Counter[str] = Counter(polling=0, websocket=0)
        """Requests passed on since the start, by transport."""
        self.failed = 0
        """Requests whose owner was known, but could not be reached."""
        self._node_id = node_id
        self._owner = owner
        self._sockets = sockets
        self._opener = StreamOpener(sockets)
        self._max_open = max_open
        self._opening = 0
        self._streams: set[RelayStream] = set()
        self._stopped = False

    def __len__(self) -> int:
        return len(self._streams)

    def listen(self) -> socket.socket | None:
        """A listening Unix socket for the other nodes on this machine; None if there cannot be one."""
        try:
            return self._sockets.listen(self._node_id)
        except OSError as error:
            logger.warning("other nodes on this machine cannot relay requests here over a Unix socket: %s", error)
            return None

    def neighbour(self, value: bytes) -> str | None:
        """The address of the Unix socket of the node that a pass is for, if it is another one on this machine.

        Nodes that share a port, as workers do, get streams for each other.
        """
        recipient = self.passes.recipient(value)
        return None if recipient in (None, self._node_id) else self._sockets.address(recipient)

    def stop(self) -> None:
        """End all streams, and open no more."""
        self._stopped = True
        for stream in list(self._streams):
            stream.abort()
        self._sockets.close()

    async def request(self, sid: str, scope: Scope, receive: Receive, send: Send) -> bool:
        """Pass an HTTP request on, and its answer back. Returns False if nothing was answered: there is no owner."""
        stream = await self._open(sid, scope)
        if stream is None:
            return False
        if isinstance(stream, tuple):
            await _refuse(send, *stream)
            return True
        self.relayed["polling"] += 1
        answer = _Answer()
        try:
            upload = asyncio.ensure_future(_upload(stream, scope, receive))
            download = asyncio.ensure_future(self._read_answer(stream, answer))
            try:
                await asyncio.wait((upload, download), return_when=asyncio.FIRST_COMPLETED)
                if not download.done():  # the client has gone; its session's node learns it by the end of the stream
                    return True
                if not download.result():
                    self.failed += 1
                    return False
            finally:
                upload.cancel()
                download.cancel()
                await asyncio.gather(upload, download, return_exceptions=True)
        finally:
            self._close(stream)
        headers = [header for header in answer.headers if header[0] not in (b"connection", b"date", b"server")]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": bytes(answer.body)})
        return True

    async def websocket(self, sid: str, scope: Scope, send: Send) -> Refusal | None:
        """Pass a WebSocket on. Returns None if it was accepted, or how to refuse it."""
        client = detachable(scope)
        stream = None if client is None else await self._open(sid, scope)
        if client is None or stream is None:
            return UNKNOWN_SESSION
        if isinstance(stream, tuple):
            return stream
        self.relayed["websocket"] += 1
        joined = False
        try:
            key = base64.b64encode(secrets.token_bytes(16))
            await stream.write(
                b"%b%bUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: %b\r\n\r\n" % (_request_line(scope), _headers(scope), key)
            )
            answer = _Answer()
            if not await self._read_answer(stream, answer):
                self.failed += 1
                return UNKNOWN_SESSION
            if answer.status != 101:
                return answer.status, _message(bytes(answer.body))
            await send({"type": "websocket.accept"})
            transport, early, on_lost = client.detach()
            joined = True

            def lost() -> None:
                on_lost()
                self._streams.discard(stream)

            early_answer = answer.following + stream.take()
            join(transport, stream.transport, to_client=early_answer, to_stream=early, on_lost=lost)
            return None
        finally:
            if not joined:
                self._close(stream)

    async def _open(self, sid: str, scope: Scope) -> RelayStream | Refusal | None:
        """A stream to the owner of a session, past its door. A refusal: too many streams. None: no owner."""
        if self._stopped or len(sid) <= OWNER or not sid.isascii():
            return None
        owner = await self._owner(sid[:OWNER])
        if owner is None:
            return None
        if len(self._streams) + self._opening >= self._max_open:
            return 503, "too many relayed requests"
        self._opening += 1
        stream = None
        try:
            async with asyncio.timeout(OPEN_S):
                opened = await self._opener.open(*owner)
                if opened is not None:
                    stream, host = opened
                    answer = _Answer()
                    await stream.write(opening(host, self.passes.issue(owner[0], address_of(scope))))
                    if await self._read_answer(stream, answer) and answer.status == 101 and not self._stopped:
                        self._streams.add(stream)
                        return stream
        except TimeoutError:
            pass
        finally:
            self._opening -= 1
            if stream is not None and stream not in self._streams:
                stream.abort()
        self.failed += 1
        return None

    async def _read_answer(self, stream: RelayStream, answer: _Answer) -> bool:
        """Read until an answer is complete. Returns False if it does not come."""
        with suppress(TimeoutError, httptools.HttpParserError):
            while not answer.complete and len(answer.body) <= MAX_ANSWER:
                async with asyncio.timeout(ANSWER_S):
                    data = await stream.read()
                if not data:
                    return False
                answer.feed(data)
        return answer.complete

    def _close(self, stream: RelayStream) -> None:
        self._streams.discard(stream)
        stream.abort()


async def _upload(stream: RelayStream, scope: Scope, receive: Receive) -> None:
    """Write a request. Returns when the client has gone."""
    length = next((value for name, value in scope["headers"] if name == b"content-length"), None)
    chunked = length is None and scope["method"] == "POST"
    framing = b"Transfer-Encoding: chunked\r\n" if chunked else b""
    if length is not None:
        framing = b"Content-Length: %b\r\n" % length
    await stream.write(b"%b%b%bConnection: close\r\n\r\n" % (_request_line(scope), _headers(scope), framing))
    more = True
    while (event := await receive())["type"] != "http.disconnect":
        body = event.get("body", b"")
        if more and body:
            await stream.write(b"%x\r\n%b\r\n" % (len(body), body) if chunked else body)
        if more and not event.get("more_body", False):
            more = False
            if chunked:
                await stream.write(b"0\r\n\r\n")


def _request_line(scope: Scope) -> bytes:
    method = scope.get("method", "GET").encode()
    query = quote(scope.get("query_string", b""), safe="!$%&'()*+,-./:;=?@_~").encode()
    return b"%b %b?%b HTTP/1.1\r\n" % (method, quote(scope["path"]).encode(), query)


def _headers(scope: Scope) -> bytes:
    return b"".join(b"%b: %b\r\n" % header for header in scope["headers"] if header[0] in _PASSED_ON)


def _message(body: bytes) -> str:
    """The text of a refusal."""
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode("utf-8", "replace")


async def _refuse(send: Send, status: int, text: str) -> None:
    body = json.dumps({"message": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
