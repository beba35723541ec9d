"""The base of the dialects' clients.

A dialect is a subclass of `DialectClient`: it decodes the frames of its system's document, requests canonical
actions, and translates their answers and events. The rules are the core's.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Final
from weakref import ref

import orjson

from tidings.actions.context import Context
from tidings.actions.dispatch import Answer
from tidings.contract.actions import ConnectAuth
from tidings.contract.events import EVENTS, MessageChanged
from tidings.contract.models import Message, View
from tidings.fanout.connection import Connection
from tidings.gateways.client_session import Backend
from tidings.gateways.websocket_client import WebSocketClient, WebSocketLink
from tidings.supervision import spawn
from tidings.transport.websocket_frames import NORMAL, TEXT, frame, joined
from tidings.transport.websocket_server import WebSocketSession

PING_SOON_S: Final = 0.5
"""Delay of a PING after a write. These clients send no cursors, so only a PONG proves what has arrived."""


class DialectCodec:
    """A `fanout.connection.EventCodec` for one connection: an event may have another form for each client."""

    plain = False
    json = False

    def __init__(self, client: DialectClient) -> None:
        self._client = ref(client)  # weak: the client references its codec
        self._begins: dict[str, int] = {}
        """Room id -> the seq of the first message that the connection got."""
        self._unfinished: set[str] = set()
        """Ids of messages that it got while they were streaming."""

    def encode(self, event: str, payload: Any) -> bytes:
        """Return an empty message for an event that the dialect does not have."""
        client, model = self._client(), EVENTS.get(event)
        if client is None or model is None:
            return b""
        whole = self._whole(event, model.model_validate(payload))
        translated = None if whole is None else client.translate(*whole)
        return b"" if translated is None else orjson.dumps(translated)

    def _whole(self, event: str, view: View) -> tuple[str, View] | None:
        """An event without streams, which no dialect has: a message arrives when it is finished."""
        if isinstance(view, Message):
            self._begins.setdefault(view.room_id, view.seq)
            if view.state == "streaming":
                self._unfinished.add(view.id)
                return None
        elif event == "message_finished" and isinstance(view, MessageChanged):
            # A replay has had the message already, unless it stands before the replay: then its last one hid it.
            message = view.message
            is_new = message.id in self._unfinished or message.seq < self._begins.get(view.room_id, view.seq)
            self._unfinished.discard(message.id)
            return ("message", message) if is_new else None
        return event, view

    def value(self, value: Any) -> bytes:
        return orjson.dumps(value)

    def packet(self, message: bytes) -> str:
        return message.decode()

    def frame(self, message: bytes) -> bytes:
        return frame(TEXT, message) if message else b""

    def frames(self, messages: Iterable[bytes]) -> bytes:
        return joined(TEXT, filter(None, messages))


class DialectClient(WebSocketClient):
    """One client of a dialect. Its frames arrive at `received`."""

    accepts_keys: ClassVar[bool] = False
    name: ClassVar[str]
    """The name of the dialect, and of the device of its connections, because these clients do not name one."""

    def __init__(self, backend: Backend, session: WebSocketSession) -> None:
        super().__init__(backend, session, WebSocketLink(session, DialectCodec(self), self.name))
        self._disconnecting: asyncio.Task[None] | None = None

    # -- for subclasses: to define -------------------------------------------------------------------------------

    @abstractmethod
    def translate(self, event: str, view: View) -> object | None:
        """Return the dialect's JSON for an event, `ready` and `closing` included; None if it has none."""

    @abstractmethod
    def signed_in(self) -> None:
        """The client has signed in; the replay starts after `entered`."""

    def entered(self) -> None:
        """The connection is in its rooms; the replay follows."""

    def initial_rooms(self) -> set[str] | None:
        """Ids of the rooms to begin with, if the client enters and leaves rooms; None for all of the user's rooms."""
        return None

    # -- for subclasses: to use ----------------------------------------------------------------------------------

    @property
    def username(self) -> str:
        assert self.connection is not None, "not signed in"
        return self.connection.principal.username

    def sign_in_by_token(self, token: str) -> None:
        """Start to sign in; ends in `signed_in` or `refused`."""
        self.sign_in(lambda: ConnectAuth(token=token, device=self.name))

    async def query(self, connection: Connection, action: str, payload: object) -> Any:
        """Run an action before the client has signed in (`prepare`), and return its data. Raises `ActionError`."""
        context = Context(self.parts, connection.principal, address=self._address)
        return (await self._backend.dispatcher.execute(action, payload, context)).result()

    def send(self, value: object) -> None:
        """Send a value as JSON."""
        self._link.send(orjson.dumps(value))

    def send_text(self, text: str) -> None:
        self._link.send(text.encode())

    def disconnect(self, code: int = NORMAL, farewell: object | None = None) -> None:
        """Send the farewell, if there is one, as JSON; then close."""
        self._link.end("client disconnect", code, b"" if farewell is None else orjson.dumps(farewell))

    def disconnect_when_written(self, farewell: object) -> None:
        """`disconnect` once the cursors that have moved so far are written: another node will not repeat."""

        async def disconnect() -> None:
            await self.parts.journal.flush_cursors()
            self.disconnect(farewell=farewell)

        self._disconnecting = spawn(disconnect(), "disconnect")

    def when_delivered(self, callback: Callable[[], None]) -> None:
        """Call back when everything sent so far has arrived, or immediately if a PONG cannot prove it."""
        self._session.confirm(callback)

    def after_answers(self, callback: Callable[[], None]) -> None:
        """Call back when all earlier actions are answered."""
        self.actions.answer(Answer(), lambda _: callback())

    # -- called by the base --------------------------------------------------------------------------------------

    def accepted(self, connection: Connection) -> None:
        connection.only = self.initial_rooms()
        self._session.authenticated(self)
        self.signed_in()
