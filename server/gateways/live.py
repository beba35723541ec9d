"""What the gateways of live connections share: how a frame is read, the way out, the heartbeat and the end."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from server.auth import unauthenticated
from server.context import Parts
from server.contract.actions import ConnectAuth
from server.contract.errors import CloseReason, invalid
from server.delivery.connection import Connection
from server.delivery.frames import Batch, Codec
from server.gateways.inbox import Inbox
from server.transport.outlet import Outlet
from server.transport.protocol import Json

S = TypeVar("S", bound=Outlet)
C = TypeVar("C", bound=Codec)


class LiveLink(ABC, Generic[S, C]):
    """A connection's way out, as `delivery.connection.Link` has it; how it is closed is the gateway's own."""

    def __init__(self, session: S, codec: C) -> None:
        self.codec = codec
        self.inbox: Inbox | None = None
        self._session = session
        self._overflowed = False

    @property
    def buffered(self) -> int:
        return self._session.buffered

    @property
    def reason(self) -> str:
        return self._session.ended_for.replace(" ", "_") or "left"  # the namespace, not the session

    def write(self, batch: Batch) -> None:
        if self._overflowed:
            return
        session = self._session
        if batch.transient and not session.has_room(session.server.max_buffered // 2):
            return
        if session.wire is not None:
            buffer = batch.frames(self.codec)
            sent = not buffer or session.put_frames(buffer)
        else:
            packets, size = batch.packets(self.codec)
            sent = not packets or session.put(packets, size)
        if not sent and not batch.transient:
            self._overflow()

    def send(self, message: bytes) -> None:
        """Send one message of the codec."""
        if self._overflowed:
            return
        session = self._session
        if session.wire is not None:
            sent = session.put_frames(self.codec.frame(message))
        else:
            sent = session.put([self.codec.packet(message)], len(message))
        if not sent:
            self._overflow()

    def _overflow(self) -> None:
        """The client does not read. Not closed now: whoever writes is going through the connections of a room.

        Nothing goes out from here on: after what was dropped, it would leave a gap that no cursor tells of.
        """
        self._overflowed = True
        asyncio.get_running_loop().call_soon(self.close, CloseReason.SLOW_CONSUMER)

    async def drain(self) -> None:
        await self._session.drain()

    @abstractmethod
    def close(self, reason: CloseReason) -> None:
        """As `Link`."""


class CursorHeartbeat:
    """A PONG proves that everything written before its PING has arrived. A `transport.outlet.Heartbeat`."""

    def __init__(self, connection: Connection, parts: Parts) -> None:
        self._connection = connection
        self._parts = parts

    def ping_written(self) -> None:
        self._connection.ping_written()

    def pong_received(self) -> None:
        arrived = self._connection.pong_received()
        if arrived:
            self._parts.cursors.advance(self._connection, arrived)


def ended(parts: Parts, connection: Connection) -> None:
    """The connection is gone."""
    parts.typists.ended(connection)
    parts.hub.remove(connection)
    parts.cursors.ended(connection)


def read_auth(data: object) -> ConnectAuth:
    """What a client says of itself when it connects. Raises `unauthenticated` or `ValidationError`."""
    if data is None or not isinstance(data, Mapping) or data.get("token") is None:
        raise unauthenticated("give a token")
    try:
        return ConnectAuth.model_validate(data, strict=True)
    except ValidationError as error:
        if any(problem["loc"][:1] == ("token",) for problem in error.errors()):
            raise unauthenticated() from None
        raise


def json_object(data: str | bytes) -> dict[str, Any]:
    """What a frame holds. Raises `invalid`."""
    if isinstance(data, bytes):
        raise invalid("frame", "a text frame is wanted, not a binary one")
    try:
        found = Json.loads(data)
    except ValueError:
        raise invalid("frame", "not JSON") from None
    if not isinstance(found, dict):
        raise invalid("frame", "not an object")
    return found
