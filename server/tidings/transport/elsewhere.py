"""The Engine.IO sessions of other nodes, which requests that arrive here may be for."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from typing import Final

from tidings.transport.buffered_session import Receive, Scope, Send

RELAY_PROTOCOL: Final = b"tidings-relay"
"""The protocol to which a connection between nodes is upgraded."""
RELAY_HEADER: Final = b"tidings-relay"
"""The header with the pass."""
Refusal = tuple[int, str]
"""Status and reason."""
UNKNOWN_SESSION: Final[Refusal] = (400, "Session ID unknown")


class Elsewhere:
    """There are no other nodes. `tidings.cluster.relay` replaces every method."""

    async def request(self, sid: str, scope: Scope, receive: Receive, send: Send) -> bool:
        """Pass an HTTP request on, and its answer back. Returns False if nothing was answered: there is no owner."""
        return False

    async def websocket(self, sid: str, scope: Scope, send: Send) -> Refusal | None:
        """Pass a WebSocket on. Returns None if it was accepted, or how to refuse it."""
        return UNKNOWN_SESSION

    def listen(self) -> socket.socket | None:
        """A listening Unix socket for the other nodes on this machine; None if there cannot be one."""
        return None

    def admit(self, value: bytes, target: bytes) -> str | None:
        """Begin a stream from another node. Returns the address of the client, or None if the pass is not valid.

        Args:
            value: the pass.
            target: of the request that begins the stream.
        """
        return None

    def pass_on(
        self, transport: asyncio.Transport, value: bytes, target: bytes, following: bytes
    ) -> Coroutine[object, object, None] | None:
        """Join a stream, whose reading is paused, to the node that its pass is for, if it is another one here.

        Nodes that share a port, as workers do, get streams for each other. Otherwise returns None.
        """
        return None

    async def leave(self) -> None:
        """Move the sessions of other nodes away from this one, which is about to stop."""
