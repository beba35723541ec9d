"""The Engine.IO server: handshake, polling and WebSocket requests, on ASGI.

Protocol: Engine.IO v4 (https://socket.io/docs/v4/engine-io-protocol/).
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, Final, Protocol

import orjson

from tidings.transport.admission import (
    CROWDED,
    MAX_HALF_OPEN,
    ORIGIN_REFUSED,
    HalfOpen,
    address_of,
    headers_of,
    origin_allowed,
    refuse_websocket,
)
from tidings.transport.buffered_session import (
    BufferedSession,
    Packet,
    Receive,
    Scope,
    Send,
    SessionServer,
    open_carrier,
)
from tidings.transport.elsewhere import UNKNOWN_SESSION, Elsewhere
from tidings.transport.engine_session import (
    CLOSE,
    NOOP,
    OPEN,
    POLL_PACKETS,
    EngineSession,
    ProtocolError,
    Transport,
    decode_payload,
    encode_payload,
)
from tidings.transport.handshake import Handshake, WebSocketOpening
from tidings.transport.input_limits import parameters
from tidings.transport.python_socketio import EngineOptions
from tidings.transport.turn import TaskTurn
from tidings.transport.websocket_frames import packet_frame
from tidings.transport.websocket_wire import State, Wire

logger = logging.getLogger("tidings.transport")

RANDOM_BYTES: Final = 12
"""Of a session's id, encoded as 16 characters."""
UPGRADE_TIMEOUT_S = 10.0
"""The time limit of an upgrade; then its WebSocket is closed."""

UNKNOWN_TRANSPORT: Final = "Transport unknown"
BAD_METHOD: Final = "Bad handshake method"
UNSUPPORTED_VERSION: Final = (
    "Unsupported protocol version: use socket.io-client 3 or 4, or another client of Engine.IO protocol 4"
)
_CODES: Final = {
    UNKNOWN_TRANSPORT: 0,
    UNKNOWN_SESSION[1]: 1,
    BAD_METHOD: 2,
    ORIGIN_REFUSED: 4,
    UNSUPPORTED_VERSION: 5,
}
"""The codes of Node's server; clients know the errors by them."""


class _TooLarge(Exception):
    """A body has more bytes than `maxPayload`."""


class EngineListener(Protocol):
    """Receives the events of the sessions."""

    def opened(self, session: EngineSession, handshake: Handshake) -> None:
        """A session was opened."""

    def message(self, session: EngineSession, data: Packet) -> None:
        """A message has arrived. Raises `ProtocolError`."""

    def broken(self, session: EngineSession) -> bool:
        """The client has violated the protocol. Returns True if the listener notifies it and ends the session."""

    def ended(self, session: EngineSession, reason: str) -> None:
        """The session has ended; packets sent from now on may not arrive."""


class EngineServer(EngineOptions, SessionServer):
    """Opens and ends the sessions. `max_half_open` limits those without authentication; `timers` are those of the
    heartbeats and of connecting."""

    def __init__(self, *args: Any, **options: Any) -> None:
        own = ("max_buffered", "linger", "timers")
        SessionServer.__init__(self, **{name: options.pop(name) for name in own if name in options})
        self.upgrade_timeout: float = options.pop("upgrade_timeout", UPGRADE_TIMEOUT_S)
        self.half_open = HalfOpen(
            options.pop("max_half_open", MAX_HALF_OPEN), options.pop("max_half_open_per_source", MAX_HALF_OPEN)
        )
        self.id_prefix: str = options.pop("id_prefix", "")
        """Begins the ids of all sessions."""
        self.elsewhere: Elsewhere = options.pop("elsewhere", Elsewhere())
        EngineOptions.__init__(self, *args, **options)
        self.listener: EngineListener

    def generate_id(self) -> str:
        """A session's id: 96 random bits after the prefix."""
        return self.id_prefix + secrets.token_urlsafe(RANDOM_BYTES)

    # -- called by sessions --------------------------------------------------------------------------------------

    def authenticated(self, sid: str) -> None:
        """The session no longer counts as half open."""
        self.half_open.remove(sid)

    def forget(self, session: BufferedSession) -> None:
        assert isinstance(session, EngineSession)
        super().forget(session)
        self.sockets.pop(session.sid, None)
        self.authenticated(session.sid)

    def session_of(self, sid: str) -> EngineSession | None:
        """The session with that id, unless it has ended with nothing left to send."""
        session: EngineSession | None = self.sockets.get(sid)
        if session is not None:
            session.check_timeout()
        return None if session is None or session.is_flushed() else session

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
        asked = headers.get("access-control-request-headers", "content-type")
        # With a `*` any site could act with its visitor's cookies.
        credentials = self.cors_credentials and "*" not in (self.cors_allowed_origins or ())
        return [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
            (b"access-control-allow-headers", asked.encode("latin-1")),
            (b"vary", b"origin, access-control-request-headers"),
            *([(b"access-control-allow-credentials", b"true")] if credentials else []),
        ]

    def _refusal(self, query: Mapping[str, str], headers: dict[str, str], transport: str) -> tuple[int, str] | None:
        """Status and text of the refusal of a request, as Node's server sends them; None if it can be served."""
        if not self._origin_allowed(headers):
            return 403, ORIGIN_REFUSED
        if query.get("transport") != transport:
            return 400, UNKNOWN_TRANSPORT
        if query.get("EIO") != "4":
            return 400, UNSUPPORTED_VERSION
        sid = query.get("sid")
        if sid is None and self._stopping:  # a client may reconnect over a TCP connection that is still open
            return 503, "the server is shutting down"
        if sid is not None and self.session_of(sid) is None:
            return UNKNOWN_SESSION
        return None

    def _open(self, handshake: Handshake) -> EngineSession:
        session = EngineSession(self, self.generate_id())
        self.sockets[session.sid] = session
        self.remember(session)
        self.half_open.add(session.sid, handshake.address, partial(session.end, CROWDED))
        self.listener.opened(session, handshake)
        session.heartbeat.start()
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
            start += [
                (b"cache-control", b"no-store"),
                (b"x-content-type-options", b"nosniff"),
                *(self._cors(headers) if status != 403 else []),
            ]
            await send({"type": "http.response.start", "status": status, "headers": start})
            await send({"type": "http.response.body", "body": body})

        async def refuse(refusal: tuple[int, str]) -> None:
            await answer(refusal[0], _error(refusal[1]), "application/json")

        method = scope["method"]
        if method == "OPTIONS":
            allowed = self._origin_allowed(headers)
            await answer(204 if allowed else 403, "")
            return
        refusal = self._refusal(query, headers, "polling")
        if refusal is None and method not in ("GET", "POST"):
            refusal = 400, BAD_METHOD
        if refusal is None and "sid" not in query and method != "GET":
            refusal = 400, BAD_METHOD
        if refusal is UNKNOWN_SESSION and await self.elsewhere.request(query["sid"], scope, receive, send):
            return
        if refusal is not None:
            await refuse(refusal)
        elif "sid" not in query:
            session = self._open(_handshake_of(scope, headers))
            await answer(200, self._handshake(session, ["websocket"]))
        elif method == "GET":
            session = self.sockets[query["sid"]]
            try:
                await answer(*await self._poll(session, query.get("t"), receive))
            except BaseException:  # cancelled, or sending failed: the packets of this answer are lost
                session.end(self.reason.TRANSPORT_CLOSE)
                raise
        else:
            answered = await self._post(self.sockets[query["sid"]], query.get("t"), receive)
            await (refuse(answered) if answered is UNKNOWN_SESSION else answer(*answered))

    async def _poll(self, session: EngineSession, stamp: str | None, receive: Receive) -> tuple[int, str]:
        """`stamp`: the client's parameter `t`, which is new in each poll.

        HTTP clients, browsers included, repeat a GET by themselves whose connection was lost without an answer. The
        server may have sent the answer: then the repeated GET gets the same one, and no packet is missed.
        """
        if stamp is not None and session.last_poll is not None and session.last_poll[0] == stamp:
            return 200, session.last_poll[1]
        session.last_poll = None
        if session.transport is Transport.WEBSOCKET:
            return 400, "session has been upgraded"
        if session.polling:
            session.end(self.reason.TRANSPORT_ERROR, poll_answer=CLOSE)
            return 400, "overlapping polls"
        if session.transport is Transport.UPGRADING:
            return 200, NOOP
        session.polling = True
        try:
            packets = await self._take_unless_disconnected(session, receive)
        finally:
            session.polling = False
        if packets is None:  # the client is gone; its packets may or may not have arrived
            session.end(self.reason.TRANSPORT_CLOSE)
            return 400, "gone"
        body = encode_payload(packets or [NOOP])
        if stamp is not None:
            session.last_poll = stamp, body
        session.polls.packets_sent()
        if session.is_flushed():
            session.finish()
        return 200, body

    async def _take_unless_disconnected(self, session: EngineSession, receive: Receive) -> list[Packet] | None:
        """The packets for the answer to a poll; None if the client disconnected while it waited."""

        async def disconnected() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        take, leave = asyncio.ensure_future(session.polls.take(POLL_PACKETS)), asyncio.ensure_future(disconnected())
        try:
            await asyncio.wait({take, leave}, return_when=asyncio.FIRST_COMPLETED)
            return None if leave.done() else take.result()
        finally:
            for task in (take, leave):
                task.cancel()

    async def _post(self, session: EngineSession, stamp: str | None, receive: Receive) -> tuple[int, str]:
        """`stamp` as for `_poll`: browsers repeat a POST, too; its packets are received once.

        Only a POST that is the same in all is a repeat: Dart's client makes `t` from the milliseconds, so that two
        POSTs may have the same one.
        """
        if session.transport is Transport.WEBSOCKET:
            return 400, "session has been upgraded"
        if session.posting is not None:  # no stock client does this, and the bodies together would be unbounded
            session.end(self.reason.TRANSPORT_ERROR)
            return 400, "overlapping posts"
        try:
            body = await self._body(session, receive)
        except _TooLarge:
            session.end(self.reason.TRANSPORT_ERROR)
            return 413, ""
        if body is None:
            return 400, "gone"
        seen = stamp, hash(body)
        if stamp is not None and seen == session.last_post:
            return 200, "ok"
        if session.closing:
            if body == CLOSE.encode():  # the client does not poll for the last packets
                session.finish()
            # After a refused POST, a stock client would drop the last packets that it has not dispatched yet.
            return UNKNOWN_SESSION if session.state is State.CLOSED else (200, "ok")
        session.last_post = seen
        turn = TaskTurn()
        try:
            for packet in decode_payload(body):
                session.receive_packet(packet)
                if session.has_ended():
                    break
                if turn.is_over():
                    await asyncio.sleep(0)
        except ProtocolError as error:
            logger.info("a client broke the protocol: %s", error)
            session.end(self.reason.TRANSPORT_ERROR)
            return 400, "bad payload"
        return 200, "ok"

    async def _body(self, session: EngineSession, receive: Receive) -> bytes | None:
        """The body of a POST; None if the client or the session ended before it was complete. Raises `_TooLarge`."""
        chunks, size, more = [], 0, True
        try:
            async with asyncio.timeout(None) as limit:
                session.posting = partial(limit.reschedule, 0)
                while more:
                    event = await receive()
                    if event["type"] == "http.disconnect":
                        return None
                    chunks.append(event.get("body", b""))
                    size += len(chunks[-1])
                    more = event.get("more_body", False)
                    if size > self.max_http_buffer_size:
                        raise _TooLarge
        except TimeoutError:
            return None
        finally:
            session.posting = None
        return b"".join(chunks)

    def broken(self, session: EngineSession, error: ProtocolError) -> None:
        """End a session whose client has violated the protocol over a WebSocket, which can still send the reason."""
        # Not the session id: whoever reads it in the log could use the session.
        logger.info("a client broke the protocol: %s", error)
        if not self.listener.broken(session):
            session.end(self.reason.TRANSPORT_ERROR)

    # -- WebSocket -----------------------------------------------------------------------------------------------

    def open_websocket(self, opening: WebSocketOpening) -> tuple[bytes, Callable[[Wire], None]] | None:
        """Open a session (`WebSocketOpener`). `handle_request` handles upgrades and refusals."""
        query = _query(opening.query_string)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in opening.headers.items()}
        if "sid" in query or self._refusal(query, headers, "websocket") is not None:
            return None
        session = self._open(
            Handshake(opening.address, "websocket", opening.path.decode("latin-1"), opening.query_string, headers)
        )
        return packet_frame(self._handshake(session, [])), session.bind

    async def _websocket(
        self, scope: Scope, receive: Receive, send: Send, query: Mapping[str, str], headers: dict[str, str]
    ) -> None:
        await receive()  # websocket.connect
        refusal = self._refusal(query, headers, "websocket")
        if refusal is UNKNOWN_SESSION:
            refusal = await self.elsewhere.websocket(query["sid"], scope, send)
            if refusal is None:
                return
        if refusal is not None:
            await refuse_websocket(scope, send, *refusal, _error(refusal[1]))
            return
        session = self.session_of(query["sid"]) if "sid" in query else None
        await send({"type": "websocket.accept", "subprotocol": next(iter(scope.get("subprotocols", ())), None)})
        if session is not None and (session.transport is not Transport.POLLING or session.closing):
            await send({"type": "websocket.close"})
            return
        websocket = open_carrier(scope, receive, send, self.low_water)
        if session is None:
            session = self._open(_handshake_of(scope, headers))
            session.put([self._handshake(session, [])], 0)
            session.bind(websocket)
        else:
            session.begin_upgrade(websocket, self.upgrade_timeout)
        await websocket.serve()


def _error(message: str) -> str:
    """The body of a refusal, as of Node's server."""
    code = _CODES.get(message)
    return json.dumps({"message": message} if code is None else {"code": code, "message": message})


@lru_cache(maxsize=16)
def _query(query_string: bytes) -> Mapping[str, str]:
    """The first value of each parameter."""
    return parameters(query_string)


def _handshake_of(scope: Scope, headers: Mapping[str, str]) -> Handshake:
    return Handshake(address_of(scope), scope["type"], scope["path"], scope.get("query_string", b""), headers)
