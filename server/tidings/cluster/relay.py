"""The relay: requests of Engine.IO sessions that another node owns are passed on to it.

The first characters of a session's id are those of its node. A request that arrives elsewhere goes to that node over
a stream of its own, which begins with a pass (`relay_pass.py`). On it the owner serves the request as if the client
were connected to it. So the requests of different clients never share a stream.

A node that is about to stop asks the owners of the sessions that it relays to move them.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import re
import secrets
import socket
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from typing import Final
from urllib.parse import quote

import httptools

from tidings.cluster.relay_pass import RelayPasses
from tidings.cluster.relay_stream import RelayStream, SocketDirectory, StreamOpener, join, opening
from tidings.transport.admission import address_of
from tidings.transport.buffered_session import Receive, Scope, Send
from tidings.transport.elsewhere import UNKNOWN_SESSION, Elsewhere, Refusal
from tidings.transport.uvicorn_websocket import detachable

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
MOVED_S: Final = 5.0
"""How long the last sessions of other nodes may take to leave this one, once their owners were asked to move them."""
_SESSION: Final = re.compile(r"[A-Za-z0-9_-]{5,64}", re.ASCII)
"""The id of a session."""
_MOVE: Final = b"/move/"
"""Begins the target of a stream that asks to move the sessions that follow; of others it is "/" and a session."""
_PASSED_ON: Final = frozenset((b"host", b"origin", b"content-type", b"user-agent"))
"""Headers that the owner of a session looks at."""

Owner = Callable[[str], Awaitable[tuple[str, str] | None]]
"""Id and URL of the node whose id begins with `OWNER` characters; the URL may be ""."""
Target = bytes

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


class Relay(Elsewhere):
    """Passes requests on to the nodes that own their sessions."""

    def __init__(
        self,
        node_id: str,
        passes: RelayPasses,
        owner: Owner,
        sockets: SocketDirectory,
        move_here: Callable[[Sequence[str]], object],
        *,
        max_open: int = MAX_OPEN,
    ) -> None:
        """
        Args:
            sockets: of the nodes on this machine.
            move_here: called with the ids of sessions of this node whose streams pass through one that will stop.
        """
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
        self._move_here = move_here
        self._opening = 0
        self._streams: dict[RelayStream, str] = {}
        """The session of each stream."""
        self._moving = False
        """Whether this node is about to stop."""
        self._asking: set[asyncio.Task[None]] = set()
        self._stream_ended = asyncio.Event()
        self._stopped = False

    @property
    def streams(self) -> int:
        """Requests and WebSockets that are being relayed."""
        return len(self._streams)

    def listen(self) -> socket.socket | None:
        try:
            return self._sockets.listen(self._node_id)
        except OSError as error:
            logger.warning("other nodes on this machine cannot relay requests here over a Unix socket: %s", error)
            return None

    def admit(self, value: bytes, target: Target) -> str | None:
        address = self.passes.admit(value)
        if address is not None and target.startswith(_MOVE):
            self._move_here(target[len(_MOVE) :].decode("latin-1").split(","))
        return address

    def pass_on(
        self, transport: asyncio.Transport, value: bytes, target: Target, following: bytes
    ) -> Coroutine[object, object, None] | None:
        recipient = self.passes.recipient(value)
        address = None if recipient in (None, self._node_id) else self._sockets.address(recipient)
        return None if address is None else self._pass_on(transport, address, value, target, following)

    async def _pass_on(
        self, transport: asyncio.Transport, address: str, value: bytes, target: Target, following: bytes
    ) -> None:
        try:
            _, stream = await asyncio.get_running_loop().create_unix_connection(RelayStream, address)
        except OSError:
            transport.close()
            return
        if not target.startswith(_MOVE):
            self._add(stream, target[1:].decode("latin-1"))
        begin = opening(target, "tidings", value) + following
        join(transport, stream.transport, to_client=b"", to_stream=begin, on_lost=lambda: self._remove(stream))
        if not transport.is_closing():
            transport.resume_reading()

    # -- moving sessions -----------------------------------------------------------------------------------------

    @property
    def sessions(self) -> Sequence[str]:
        """The sessions of other nodes whose requests this one relays now."""
        return list(dict.fromkeys(self._streams.values()))

    async def move(self, sessions: Iterable[str]) -> None:
        """Ask the owners of sessions to move them, and do so for each stream that begins from now on."""
        self._moving = True
        by_owner: defaultdict[str, list[str]] = defaultdict(list)
        for sid in sessions:
            if _SESSION.fullmatch(sid):
                by_owner[sid[:OWNER]].append(sid)
        await asyncio.gather(*map(self._ask_to_move, by_owner.values()))

    async def leave(self) -> None:
        await self.move(self.sessions)
        await self.moved()

    async def moved(self) -> None:
        """Wait until all sessions of other nodes have left this one, `MOVED_S` at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(MOVED_S):
                while self._streams:
                    self._stream_ended.clear()
                    await self._stream_ended.wait()

    async def is_any_ready(self, node_ids: Iterable[str]) -> bool:
        """Whether any of these nodes can be reached, and says that it is ready."""
        for node_id in node_ids:
            owner = await self._owner(node_id[:OWNER])
            stream = None if owner is None else await self._begin(owner, b"/", "")
            if stream is None:
                continue
            try:
                async with asyncio.timeout(OPEN_S):
                    answer = _Answer()
                    await stream.write(b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    if await self._read_answer(stream, answer) and answer.status == 200:
                        return True
            except TimeoutError:
                pass
            finally:
                stream.abort()
        return False

    async def _ask_to_move(self, sessions: Sequence[str]) -> None:
        owner = await self._owner(sessions[0][:OWNER])
        if owner is not None:
            stream = await self._begin(owner, _MOVE + ",".join(sessions).encode(), "")
            if stream is not None:
                stream.abort()

    def _add(self, stream: RelayStream, sid: str) -> None:
        self._streams[stream] = sid
        if self._moving:
            asking = asyncio.create_task(self.move([sid]))
            self._asking.add(asking)
            asking.add_done_callback(self._asking.discard)

    def _remove(self, stream: RelayStream) -> None:
        self._streams.pop(stream, None)
        self._stream_ended.set()

    async def stop(self) -> None:
        """End all streams, and open no more."""
        self._stopped = True
        for stream in list(self._streams):
            stream.abort()
        self._sockets.close()

    async def request(self, sid: str, scope: Scope, receive: Receive, send: Send) -> bool:
        if scope["method"] not in ("GET", "POST"):
            await _refuse(send, 400, "bad handshake method")
            return True
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
                self._remove(stream)

            early_answer = answer.following + stream.take()
            join(transport, stream.transport, to_client=early_answer, to_stream=early, on_lost=lost)
            return None
        finally:
            if not joined:
                self._close(stream)

    async def _open(self, sid: str, scope: Scope) -> RelayStream | Refusal | None:
        """A stream to the owner of a session. A refusal: too many streams. None: no owner."""
        if self._stopped or not _SESSION.fullmatch(sid):
            return None
        owner = await self._owner(sid[:OWNER])
        if owner is None:
            return None
        if len(self._streams) + self._opening >= self._max_open:
            return 503, "too many relayed requests"
        self._opening += 1
        try:
            stream = await self._begin(owner, b"/" + sid.encode(), address_of(scope))
        finally:
            self._opening -= 1
        if stream is None:
            self.failed += 1
        else:
            self._add(stream, sid)
        return stream

    async def _begin(self, owner: tuple[str, str], target: Target, address: str) -> RelayStream | None:
        """A stream that another node has accepted. `address`: of the client that it is for."""
        stream, accepted = None, False
        try:
            async with asyncio.timeout(OPEN_S):
                opened = await self._opener.open(*owner)
                if opened is None:
                    return None
                stream, host = opened
                answer = _Answer()
                await stream.write(opening(target, host, self.passes.issue(owner[0], address)))
                if await self._read_answer(stream, answer):
                    accepted = answer.status == 101 and not self._stopped
        except TimeoutError:
            pass
        finally:
            if stream is not None and not accepted:
                stream.abort()
        return stream if accepted else None

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
        self._remove(stream)
        stream.abort()


async def _upload(stream: RelayStream, scope: Scope, receive: Receive) -> None:
    """Write a request. Returns when the client has gone."""
    length = next((value for name, value in scope["headers"] if name == b"content-length"), None)
    has_body = scope["method"] == "POST"
    chunked = has_body and length is None
    framing = b"Transfer-Encoding: chunked\r\n" if chunked else b""
    if has_body and length is not None:
        framing = b"Content-Length: %b\r\n" % length
    await stream.write(b"%b%b%bConnection: close\r\n\r\n" % (_request_line(scope), _headers(scope), framing))
    more = has_body
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
