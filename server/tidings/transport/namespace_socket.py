"""A client in a namespace, and the state of its session."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tidings.transport.engine_session import EngineSession
from tidings.transport.socketio_codecs import CONNECT, CONNECT_ERROR, PartialPacket

if TYPE_CHECKING:
    from tidings.transport.socketio_server import SocketIOServer

MAX_REFUSED = 8
"""Refusals after which a session that is in no namespace is closed. An unknown namespace counts 1, others 4."""

D = TypeVar("D")


class NamespaceSocket(Generic[D]):
    """One client in one namespace. `data` belongs to the listener."""

    __slots__ = ("accepted", "data", "held", "held_bytes", "namespace", "peer", "sid")

    def __init__(self, peer: Peer[D], namespace: str) -> None:
        self.peer = peer
        self.namespace = namespace
        self.sid = secrets.token_urlsafe(15)
        self.accepted = False
        self.data: D | None = None
        self.held: list[Sequence[str | bytes]] = []
        """Packets of events for a client that is not accepted yet: it gets them if it is."""
        self.held_bytes = 0

    @property
    def session(self) -> EngineSession:
        return self.peer.session

    def accept(self) -> None:
        """Accept the client in the namespace."""
        self.accepted = True
        self.peer.server.accepted(self)
        if self.namespace == "/":
            codec = self.peer.server.codec
            message = codec.accept(self.sid)
            self.session.put([codec.packet(message)], len(message))
        else:
            self.send(CONNECT, {"sid": self.sid})

    def refuse(self, error: dict[str, Any], weight: int = MAX_REFUSED // 2) -> None:
        """Refuse the client with `connect_error`. `weight`: counts as this many refusals."""
        self.peer.sockets.pop(self.namespace, None)
        self.send(CONNECT_ERROR, error)
        if not any(socket.accepted for socket in self.peer.sockets.values()):
            self.peer.refusals += weight
            if self.peer.refusals >= MAX_REFUSED:
                self.session.end("connect refused", politely=True)

    def send(self, kind: int, data: Any, ack_id: int | None = None) -> bool:
        codec = self.peer.server.codec
        packets = codec.packets(codec.packet_class(kind, data=data, namespace=self.namespace, id=ack_id))
        return self.session.put(packets, sum(map(len, packets)))

    def has_left(self) -> bool:
        """Whether the client has left the namespace, was refused, or is gone."""
        return self.session.closing or self.peer.sockets.get(self.namespace) is not self


@dataclass(slots=True, eq=False)
class Peer(Generic[D]):
    """The state of the protocol for one Engine.IO session."""

    server: SocketIOServer[D]
    session: EngineSession
    address: str
    sockets: dict[str, NamespaceSocket[D]] = field(default_factory=dict)
    timeout: asyncio.TimerHandle | None = None
    """Ends a session that is in no namespace."""
    overflowed: bool = False
    partial: PartialPacket | None = None
    partial_timeout: asyncio.TimerHandle | None = None
    refusals: int = 0
    """Refusals while the session was in no namespace; see `MAX_REFUSED`."""

    def cancel_timeout(self) -> None:
        if self.timeout is not None:
            self.timeout.cancel()
            self.timeout = None
