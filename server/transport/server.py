"""The Engine.IO server: handshake, polling and WebSocket requests, on ASGI.

Protocol: Engine.IO v4 (https://socket.io/docs/v4/engine-io-protocol/).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, Protocol
from urllib.parse import parse_qs

import orjson
from engineio import AsyncServer

from server.transport.admission import (
    MAX_HALF_OPEN,
    HalfOpen,
    address_of,
    headers_of,
    origin_allowed,
    refuse_websocket,
)
from server.transport.direct import Opening, Wire, take_over
from server.transport.frames import packet_frame
from server.transport.outlet import (
    LINGER_S,
    MAX_BUFFERED,
    Packet,
    Receive,
    Scope,
    Send,
    WebSocketClosed,
    receive_packet,
    send_packet,
)
from server.transport.session import (
    CLOSE,
    NOOP,
    OPEN,
    PING,
    PONG,
    UPGRADE,
    EngineSession,
    ProtocolError,
    decode_payload,
    encode_payload,
)

logger = logging.getLogger("tidings.transport")

POLL_PACKETS = 16
"""Packets in one answer to a poll: python-engineio's client takes no more, and closes if there are."""
UPGRADE_TIMEOUT_S = 10.0
"""A WebSocket that is to take a polling session over has done so by then, or is closed."""


class Listener(Protocol):
    """Who the sessions belong to."""

    def opened(self, session: EngineSession, address: str) -> None:
        """A session has begun."""

    def message(self, session: EngineSession, data: Packet) -> None:
        """A message has come in. Raises `ProtocolError`."""

    def ended(self, session: EngineSession, reason: str) -> None:
        """The session is over; nothing that it sends from now on arrives for sure."""


class EngineServer(AsyncServer):  # type: ignore[misc]
    """python-engineio's server with sessions of our own. `max_half_open` bounds those not authenticated yet."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.max_buffered: int = options.pop("max_buffered", MAX_BUFFERED)
        self.low_water = self.max_buffered // 4
        self.linger: float = options.pop("linger", LINGER_S)
        self.upgrade_timeout: float = options.pop("upgrade_timeout", UPGRADE_TIMEOUT_S)
        self.half_open = HalfOpen(
            options.pop("max_half_open", MAX_HALF_OPEN), options.pop("max_half_open_per_address", MAX_HALF_OPEN)
        )
        self._empty = asyncio.Event()
        self._empty.set()
        options |= {"monitor_clients": False, "async_handlers": False}
        super().__init__(*args, **options)
        self.listener: Listener

    # -- what sessions ask for -----------------------------------------------------------------------------------

    def authenticated(self, sid: str) -> None:
        """The session no longer counts as half open."""
        self.half_open.remove(sid)

    def forget(self, session: EngineSession) -> None:
        self.sockets.pop(session.sid, None)
        self.authenticated(session.sid)
        if not self.sockets:
            self._empty.set()

    def session_of(self, sid: str) -> EngineSession | None:
        """The session with that id, unless it has ended and nothing waits for the client's next poll."""
        found: EngineSession | None = self.sockets.get(sid)
        if found is not None:
            found.check_timeout()
        return None if found is None or found.said_all() else found

    async def end_all(self, reason: str) -> None:
        """End every session, politely, and wait until all are gone or the linger time is over."""
        for session in list(self.sockets.values()):
            session.end(reason, politely=True)
        try:
            await asyncio.wait_for(self._empty.wait(), self.linger)
        except TimeoutError:
            for session in list(self.sockets.values()):
                session.finish()

    # -- requests ------------------------------------------------------------------------------------------------

    async def handle_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI request on the Engine.IO path."""
        query = _query(scope.get("query_string", b""))
        headers = headers_of(scope)
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send, query, headers)
        else:
            await self._http(scope, receive, send, query, headers)

    def _origin_allowed(self, headers: dict[str, str]) -> bool:
        return origin_allowed(headers, self.cors_allowed_origins)

    def _cors(self, headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
        origin = headers.get("origin")
        if origin is None:
            return []
        return [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
            (b"access-control-allow-headers", b"content-type"),
            (b"vary", b"origin"),
        ]

    def _refusal(
        self, address: str, query: Mapping[str, str], headers: dict[str, str], transport: str
    ) -> tuple[int, str] | None:
        """Status and text for a request that cannot be served, whatever its session; codes as Node's server."""
        if not self._origin_allowed(headers):
            return 403, "origin not allowed"
        if query.get("transport") != transport:
            return 400, "transport unknown"
        if query.get("EIO") != "4":
            return 400, "unsupported protocol version"
        sid = query.get("sid")
        if sid is not None and self.session_of(sid) is None:
            return 400, "session id unknown"
        if sid is None and self.half_open.is_full(address):
            return 503, "too many connections without authentication"
        return None

    def _open(self, address: str) -> EngineSession:
        session = EngineSession(self, self.generate_id())
        self.sockets[session.sid] = session
        self._empty.clear()
        self.half_open.add(session.sid, address)
        self.listener.opened(session, address)
        session.start_heartbeat()
        return session

    def _handshake(self, session: EngineSession, upgrades: list[str]) -> str:
        return (
            OPEN
            + orjson.dumps(
                {
                    "sid": session.sid,
                    "upgrades": upgrades,
                    "pingInterval": round(self.ping_interval * 1000),
                    "pingTimeout": round(self.ping_timeout * 1000),
                    "maxPayload": self.max_http_buffer_size,
                }
            ).decode()
        )

    # -- polling -------------------------------------------------------------------------------------------------

    async def _http(
        self, scope: Scope, receive: Receive, send: Send, query: Mapping[str, str], headers: dict[str, str]
    ) -> None:
        async def answer(status: int, text: str, content_type: str = "text/plain; charset=UTF-8") -> None:
            body = text.encode()
            start = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
            start += [(b"cache-control", b"no-store"), *(self._cors(headers) if status != 403 else [])]
            await send({"type": "http.response.start", "status": status, "headers": start})
            await send({"type": "http.response.body", "body": body})

        method = scope["method"]
        if method == "OPTIONS":
            allowed = self._origin_allowed(headers)
            await answer(204 if allowed else 403, "")
            return
        refused = self._refusal(address_of(scope), query, headers, "polling")
        if refused is None and method not in ("GET", "POST"):
            refused = 400, "bad handshake method"
        if refused is None and "sid" not in query and method != "GET":
            refused = 400, "bad handshake method"
        if refused is not None:
            await answer(refused[0], json.dumps({"message": refused[1]}), "application/json")
        elif "sid" not in query:
            session = self._open(address_of(scope))
            await answer(200, self._handshake(session, ["websocket"]))
        elif method == "GET":
            await answer(*await self._poll(self.sockets[query["sid"]], receive))
        else:
            await answer(*await self._post(self.sockets[query["sid"]], receive))

    async def _poll(self, session: EngineSession, receive: Receive) -> tuple[int, str]:
        if session.upgraded:
            return 400, "session has been upgraded"
        if session.polling:
            session.end(self.reason.TRANSPORT_ERROR, last=CLOSE)
            return 400, "overlapping polls"
        if session.upgrading:
            return 200, NOOP
        session.polling = True
        try:
            packets = await self._take_or_leave(session, receive)
        finally:
            session.polling = False
        if packets is None:  # whoever polled is gone: what it should have got cannot be told apart from lost
            session.end(self.reason.TRANSPORT_CLOSE)
            return 400, "gone"
        body = encode_payload(packets or [NOOP])
        session.taken()
        if session.said_all():
            session.finish()
        return 200, body

    async def _take_or_leave(self, session: EngineSession, receive: Receive) -> list[Packet] | None:
        """The packets to answer a poll with; None if the client went away while it waited."""

        async def left() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        take, leave = asyncio.ensure_future(session.take(POLL_PACKETS)), asyncio.ensure_future(left())
        try:
            await asyncio.wait({take, leave}, return_when=asyncio.FIRST_COMPLETED)
            return take.result() if take.done() else None
        finally:
            for task in (take, leave):
                task.cancel()

    async def _post(self, session: EngineSession, receive: Receive) -> tuple[int, str]:
        if session.upgraded:
            return 400, "session has been upgraded"
        chunks, size, more = [], 0, True
        while more:
            event = await receive()
            if event["type"] == "http.disconnect":
                return 400, "gone"
            chunks.append(event.get("body", b""))
            size += len(chunks[-1])
            more = event.get("more_body", False)
            if size > self.max_http_buffer_size:
                session.end(self.reason.TRANSPORT_ERROR)
                return 413, "payload too large"
        body = b"".join(chunks)
        if session.closing:
            if body == CLOSE.encode():  # nobody comes for its last words
                session.finish()
            return 400, "session id unknown"
        try:
            for packet in decode_payload(body):
                session.receive_packet(packet)
                if session.has_ended():
                    break
        except ProtocolError as error:
            self.broken(session, error)
            return 400, "bad payload"
        return 200, "ok"

    def broken(self, session: EngineSession, error: ProtocolError) -> None:
        """The client broke the protocol."""
        logger.info("a client broke the protocol: %s", error)  # the id of a session is all it takes to use it
        session.end(self.reason.TRANSPORT_ERROR)

    # -- WebSocket -----------------------------------------------------------------------------------------------

    def open_websocket(self, opening: Opening) -> tuple[bytes, Callable[[Wire], None]] | None:
        """Open a session, as `transport.direct.Opens`. Upgrades and refusals are left to `handle_request`."""
        query = _query(opening.query_string)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in opening.headers.items()}
        if "sid" in query or self._refusal(opening.address, query, headers, "websocket") is not None:
            return None
        session = self._open(opening.address)
        session.upgraded = True
        return packet_frame(self._handshake(session, [])), session.bind

    async def _websocket(
        self, scope: Scope, receive: Receive, send: Send, query: Mapping[str, str], headers: dict[str, str]
    ) -> None:
        await receive()  # websocket.connect
        refused = self._refusal(address_of(scope), query, headers, "websocket")
        if refused is not None:
            await refuse_websocket(scope, send, *refused)
            return
        session = self.session_of(query["sid"]) if "sid" in query else None
        await send({"type": "websocket.accept"})
        if session is not None and (session.upgraded or session.probe is not None or session.closing):
            await send({"type": "websocket.close"})
            return
        wire = take_over(scope)
        if session is None:
            session = self._open(address_of(scope))
            session.upgraded = True
            if wire is not None:
                session.put([self._handshake(session, [])], 0)
                session.bind(wire)
                return
            await send_packet(send, self._handshake(session, []))
        elif wire is not None:
            Probe(self, session, wire)
            return
        elif not await self._upgrade(session, receive, send):
            await send({"type": "websocket.close"})
            return
        await session.serve(receive, send)

    async def _upgrade(self, session: EngineSession, receive: Receive, send: Send) -> bool:
        """Move a polling session to this WebSocket (protocol, "Upgrade"). What is queued goes out on it."""
        try:
            async with asyncio.timeout(self.upgrade_timeout) as limit:
                session.probe = partial(limit.reschedule, 0)
                if await receive_packet(receive) != PING + "probe":
                    return False
                session.upgrading = True
                await send_packet(send, PONG + "probe")
                session.nudge_poll()
                if await receive_packet(receive) != UPGRADE or session.closing:
                    return False
                session.upgraded = True
                return True
        except (WebSocketClosed, TimeoutError):
            return False
        finally:
            session.probe = None
            session.upgrading = False


@lru_cache(maxsize=16)
def _query(query_string: bytes) -> Mapping[str, str]:
    """The first value of each."""
    return {key: value[0] for key, value in parse_qs(query_string.decode("latin-1")).items()}


class Probe:
    """An upgrade under way, on a WebSocket that was taken over (protocol, "Upgrade")."""

    def __init__(self, server: EngineServer, session: EngineSession, wire: Wire) -> None:
        self._session = session
        self._wire = wire
        self._over = False
        self._timer = asyncio.get_running_loop().call_later(server.upgrade_timeout, self._give_up)
        session.probe = self._give_up
        wire.take_over(self, server.max_http_buffer_size)

    def message(self, data: Packet) -> None:
        session, wire = self._session, self._wire
        if self._over:
            return
        if data == PING + "probe" and not session.upgrading:
            session.upgrading = True
            wire.write(packet_frame(PONG + "probe"))
            session.nudge_poll()
        elif data == UPGRADE and session.upgrading:
            self._end()
            session.upgraded = True
            session.bind(wire)
        else:
            self._give_up()

    def writable(self) -> None: ...

    def pong(self, payload: bytes) -> None: ...

    def failing(self, code: int) -> None: ...

    def lost(self) -> None:
        self._end()

    def _give_up(self) -> None:
        """The session goes on polling, or has ended."""
        self._end()
        self._wire.close_or_abort()

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._timer.cancel()
            self._session.probe = None
            self._session.upgrading = False
