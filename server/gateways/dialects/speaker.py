"""What the dialects over a WebSocket share: a session, its way out, and the canonical actions behind it.

A dialect is a subclass of `Speaker`, one for each WebSocket. It reads frames, asks actions, and says what its
system's document has for their answers and for events. It holds no rules; those are the core's.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, ClassVar, Final

import orjson

from server.auth import now_ms, unauthenticated
from server.context import Context, Parts
from server.contract.actions import ConnectAuth
from server.contract.errors import ActionError, CloseReason, Error, ErrorCode
from server.contract.models import timestamp
from server.delivery.catchup import CatchUp
from server.delivery.connection import Connection
from server.dispatch import Answer, Dispatcher
from server.gateways.inbox import Inbox
from server.gateways.live import CursorHeartbeat, LiveLink, ended
from server.gateways.websocket import CLOSE_CODES, MAX_EARLY, MAX_EARLY_BYTES
from server.opening import open_connection
from server.transport.admission import HalfOpen
from server.transport.frames import NORMAL, TEXT, frame, joined
from server.transport.protocol import CONNECT_TIMEOUT_S
from server.transport.websocket import WebSocketServer, WebSocketSession

Ask = Callable[[str, object], Awaitable[Any]]
"""Performs a canonical action with that payload for who signs in; its data. Raises `ActionError`."""
PING_SOON_S: Final = 0.5
"""What was written is proved to have arrived after so long: these clients bring no cursors."""


class SpeakerCodec:
    """A `delivery.frames.Codec` for one connection: what is said of an event depends on who hears it."""

    plain = False

    def __init__(self, speaker: Speaker) -> None:
        self._speaker = speaker

    def encode(self, event: str, payload: Any) -> bytes:
        """Empty for an event that the dialect does not have."""
        said = self._speaker.told(event, payload)
        return b"" if said is None else orjson.dumps(said)

    def value(self, value: Any) -> bytes:
        return orjson.dumps(value)

    def packet(self, message: bytes) -> str:
        return message.decode()

    def frame(self, message: bytes) -> bytes:
        return frame(TEXT, message) if message else b""

    def frames(self, messages: Iterable[bytes]) -> bytes:
        return joined(TEXT, filter(None, messages))


class SpeakerLink(LiveLink[WebSocketSession, SpeakerCodec]):
    transport = "websocket"

    def __init__(self, session: WebSocketSession, speaker: Speaker) -> None:
        super().__init__(session, SpeakerCodec(speaker))
        self.gateway = speaker.name

    def close(self, reason: CloseReason, code: int | None = None) -> None:
        last = self.codec.encode("closing", {"reason": reason, "reconnect": reason.reconnect})
        code = CLOSE_CODES[reason] if code is None else code
        self.end(reason, code, last, drop=reason is CloseReason.SLOW_CONSUMER)

    def end(self, reason: str, code: int, last: bytes = b"", *, drop: bool = False) -> None:
        """Say the last word, then close."""
        session = self._session
        if session.closing or session.sealed:
            return
        if self.inbox is not None:
            self.inbox.stop()
        session.seal([self.codec.packet(last)] if last else [], drop=drop)
        session.end(reason, code, politely=True)


class Speaker(ABC):
    """One WebSocket of a dialect."""

    name: ClassVar[str]
    """The dialect's. Its connections are of the device of that name, for these clients bring no cursors."""
    purpose: ClassVar[str] = ""
    """What a ticket must be for, to be as good as a token here."""

    def __init__(self, gateway: SpeakerGateway, session: WebSocketSession) -> None:
        self._gateway = gateway
        self._session = session
        self._link = SpeakerLink(session, self)
        self._inbox: Inbox | None = None
        self._timeout: asyncio.TimerHandle | None = None
        self._signing_in: asyncio.Task[None] | None = None
        self._early: list[str | bytes] = []
        self._early_bytes = 0
        self.connection: Connection | None = None
        self.opened_at = ""
        """When the connection was authenticated: what was created before had been waiting for it."""

    # -- the dialect's own ---------------------------------------------------------------------------------------

    @abstractmethod
    def opened(self, query: Mapping[str, str]) -> None:
        """The WebSocket is open; `self.path` and `query` are its address."""

    @abstractmethod
    def received(self, data: str | bytes) -> None:
        """A frame has come in. What comes while it is found out who sends it waits for that."""

    @abstractmethod
    def told(self, event: str, payload: Any) -> object | None:
        """What the dialect says of a canonical event (also `ready` and `closing`), as JSON; None: nothing."""

    @abstractmethod
    def refused(self, error: Error) -> None:
        """The client does not get in: say so and `leave`. Also if it gives no token in time."""

    async def prepare(self, ask: Ask) -> None:  # noqa: B027 - most have nothing to learn
        """Learn what must be known before anything is said to who signs in. What it raises refuses them."""

    def hears(self) -> set[str] | None:
        """Ids of the rooms that it begins with, and `enter`s and leaves others; None: it hears of all there are."""
        return None

    @abstractmethod
    def arrived(self) -> None:
        """Signed in; what was missed follows, when it has `entered`."""

    def entered(self) -> None:  # noqa: B027 - most have nothing to do
        """The connection is in its rooms; what was missed follows."""

    # -- at its hand ---------------------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        return self._session.path

    @property
    def username(self) -> str:
        """Of who has signed in."""
        assert self.connection is not None
        return self.connection.principal.username

    @property
    def parts(self) -> Parts:
        return self._gateway.parts

    def context(self) -> Context:
        """The surroundings of one action."""
        assert self.connection is not None, "not signed in"
        return Context(self.parts, self.connection.principal, self.connection, self._session.address)

    def say(self, said: object) -> None:
        """Send a frame."""
        self._link.send(orjson.dumps(said))

    def say_text(self, text: str) -> None:
        """Send a frame that is no JSON."""
        self._link.send(text.encode())

    def leave(self, code: int = NORMAL, last: object | None = None) -> None:
        """Say the last word, if there is one, and close."""
        self._link.end("client disconnect", code, b"" if last is None else orjson.dumps(last))

    def ask(self, action: str, payload: object, size: int, then: Callable[[Answer], None]) -> None:
        """Ask a canonical action; `then` is called with its answer, in the order of asking."""
        assert self._inbox is not None, "not signed in"
        if not self._inbox.push(action, payload, size, then):
            self._link.close(CloseReason.PROTOCOL_ERROR)

    def answer(self, error: ActionError, then: Callable[[Answer], None]) -> None:
        """Answer, in its turn, what cannot be an action."""
        assert self._inbox is not None, "not signed in"
        if not self._inbox.refuse(error, then):
            self._link.close(CloseReason.PROTOCOL_ERROR)

    def confirmed(self, then: Callable[[], None]) -> None:
        """Call back when what was said so far is known to have arrived, if that can be known."""
        self._session.confirm(then)

    def in_turn(self, then: Callable[[], None]) -> None:
        """Call back when all that was asked before is answered."""
        assert self._inbox is not None, "not signed in"
        if not self._inbox.answer(Answer(), lambda _: then()):
            self._link.close(CloseReason.PROTOCOL_ERROR)

    async def enter(self, room_id: str, *, since: int | None = None) -> bool:
        """As `CatchUp.enter`."""
        assert self.connection is not None, "not signed in"
        return await self._gateway.catch_up.enter(self.connection, room_id, since=since)

    def leave_room(self, room_id: str) -> None:
        """As `CatchUp.leave`."""
        assert self.connection is not None, "not signed in"
        self._gateway.catch_up.leave(self.connection, room_id)

    def sign_in(self, token: str) -> None:
        """Begin to; then `arrived` is called, or `refused`."""
        assert self._signing_in is None, "once"
        self._signing_in = asyncio.create_task(self._sign_in(token))

    @property
    def signing_in(self) -> bool:
        return self._signing_in is not None and self.connection is None

    # -- called by the gateway -----------------------------------------------------------------------------------

    def wait_for_token(self, seconds: float) -> None:
        def too_late() -> None:
            if self.signing_in:
                self.refused(ActionError(ErrorCode.UNAVAILABLE, "the store cannot be reached now").error)
            elif self.connection is None:
                self.refused(unauthenticated("no token in time").error)

        self._timeout = asyncio.get_running_loop().call_later(seconds, too_late)

    def take(self, data: str | bytes) -> None:
        if not self.signing_in:
            self.received(data)
            return
        self._early.append(data)
        self._early_bytes += len(data)
        if len(self._early) > MAX_EARLY or self._early_bytes > MAX_EARLY_BYTES:
            self.refused(ActionError(ErrorCode.RATE_LIMITED, "too many requests before the authentication").error)

    def failing(self, code: int) -> None:
        self._link.close(CloseReason.PROTOCOL_ERROR, code)

    def stop(self) -> None:
        self._link.close(CloseReason.SHUTDOWN)

    def ended(self) -> None:
        self._early.clear()
        if self._timeout is not None:
            self._timeout.cancel()
        if self.connection is not None:
            ended(self.parts, self.connection)

    async def _ask_first(self, connection: Connection, action: str, payload: object) -> Any:
        context = Context(self.parts, connection.principal, address=self._session.address)
        return (await self._gateway.dispatcher.execute(action, payload, context)).result()

    async def _sign_in(self, token: str) -> None:
        gateway, session, connection = self._gateway, self._session, None
        try:
            auth = ConnectAuth(token=token, device=self.name)
            opened = connection = await open_connection(gateway.parts, self._link, auth, self.purpose)
            self.opened_at = timestamp(now_ms())
            await self.prepare(lambda action, payload: self._ask_first(opened, action, payload))
            if session.closing or session.sealed:
                gateway.parts.hub.remove(connection)
                return
            self._inbox = self._link.inbox = Inbox(gateway.dispatcher, self.context)
            self.connection = connection
            connection.only = self.hears()
            connection.entered = self.entered
            if self._timeout is not None:
                self._timeout.cancel()
            session.authenticated(CursorHeartbeat(connection, gateway.parts))
            self.arrived()
            gateway.catch_up.start(connection, {})
            early, self._early = self._early, []
            for waiting in early:
                self.received(waiting)
        except Exception as problem:
            if connection is not None:
                gateway.parts.hub.remove(connection)
            self._signing_in = None
            self.refused(gateway.dispatcher.describe(problem, "connect"))


class SpeakerGateway:
    """The WebSockets of one dialect: a `transport.websocket.Listener`."""

    def __init__(
        self,
        speaker: Callable[[SpeakerGateway, WebSocketSession], Speaker],
        parts: Parts,
        dispatcher: Dispatcher,
        catch_up: CatchUp,
        half_open: HalfOpen,
        *,
        connect_timeout: float = CONNECT_TIMEOUT_S,
        **transport: Any,
    ) -> None:
        """`connect_timeout`: seconds within which to authenticate. `transport`: options of `WebSocketServer`."""
        self.parts = parts
        self.dispatcher = dispatcher
        self.catch_up = catch_up
        self._speaker = speaker
        self._connect_timeout = connect_timeout
        self.server = WebSocketServer(self, half_open, ping_soon=PING_SOON_S, **transport)

    async def stop(self) -> None:
        """Close every connection: the server goes away."""
        for session in list(self.server.sessions):
            _of(session).stop()
        await self.server.end_all(CloseReason.SHUTDOWN)

    def opened(self, session: WebSocketSession, query: Mapping[str, str]) -> None:
        speaker = session.data = self._speaker(self, session)
        speaker.wait_for_token(self._connect_timeout)
        speaker.opened(query)

    def message(self, session: WebSocketSession, data: str | bytes) -> None:
        _of(session).take(data)

    def failing(self, session: WebSocketSession, code: int) -> None:
        _of(session).failing(code)

    def ended(self, session: WebSocketSession) -> None:
        _of(session).ended()


def _of(session: WebSocketSession) -> Speaker:
    speaker: Speaker = session.data
    return speaker
