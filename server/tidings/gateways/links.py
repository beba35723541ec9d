"""The base of every gateway's `Link`: writes to a session of the transport, and closes clients that do not read."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from tidings.contract.errors import CloseReason
from tidings.fanout.connection import Batch, EventCodec
from tidings.gateways.action_queue import ActionQueue
from tidings.transport.buffered_session import BufferedSession

S = TypeVar("S", bound=BufferedSession)
C = TypeVar("C", bound=EventCodec)


class BaseLink(ABC, Generic[S, C]):
    """A `fanout.connection.Link` over a session of the transport. Subclasses define how it closes."""

    gateway: str

    def __init__(self, session: S, codec: C) -> None:
        self.codec = codec
        self.actions: ActionQueue | None = None
        """The queue that is stopped when the link closes."""
        self._session = session
        self._overflowed = False

    @property
    @abstractmethod
    def transport(self) -> str:
        """See `Link.transport`."""

    @property
    def buffered(self) -> int:
        return self._session.buffered

    @property
    def reason(self) -> str:
        # A client can leave the namespace and keep the session.
        return self._session.end_reason.replace(" ", "_") or "left"

    @property
    def has_ended(self) -> bool:
        """Whether the session has ended."""
        return self._session.closing

    def write(self, batch: Batch) -> None:
        if self._overflowed:
            return
        session = self._session
        if batch.transient and not session.has_room(session.server.max_buffered // 2):
            return
        if session.wire is not None:
            buffer = batch.frames(self.codec)
            accepted = not buffer or session.put_frames(buffer)
        else:
            packets, size = batch.packets(self.codec)
            accepted = not packets or session.put(packets, size)
        if not accepted and not batch.transient:
            self._overflow()

    def send(self, message: bytes) -> None:
        """Send one message of the codec."""
        if self._overflowed:
            return
        session = self._session
        if session.wire is not None:
            accepted = session.put_frames(self.codec.frame(message))
        else:
            accepted = session.put([self.codec.packet(message)], len(message))
        if not accepted:
            self._overflow()

    def _overflow(self) -> None:
        """Close a client that does not read, in a later step: the caller may be iterating over connections.

        Until then nothing is accepted: frames after a dropped one would leave a gap that no cursor shows.
        """
        self._overflowed = True
        asyncio.get_running_loop().call_soon(self.close, CloseReason.SLOW_CONSUMER)

    async def drain(self) -> None:
        await self._session.drain()

    def confirm(self) -> None:
        self._session.prove()

    async def settle(self) -> None:
        if self.actions is not None:
            await self.actions.settle()

    @abstractmethod
    def close(self, reason: CloseReason) -> None:
        """See `Link.close`."""
