"""A live socket of a device as the fan-out sees it: its user, its rooms and positions, and the batches written to it.

An event is encoded once per codec and shared by every connection that uses it. The events of one journal batch travel
as one `Batch`, so that a transport can write them in one call.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from server.contract.errors import CloseReason
from server.log.notices import Joined, Left
from server.principal import Principal

_NODE, _NUMBERS = secrets.token_urlsafe(9), itertools.count(1)
"""A connection's id is unique over all nodes, and no secret: a random number for each would cost a system call."""


class EventCodec(Protocol):
    """How a kind of connection writes an event. One instance per kind: it is the key of the shared encodings."""

    plain: bool
    """Whether an event's payload goes over the wire as it is; otherwise `encode` may also give nothing."""

    def encode(self, event: str, payload: Any) -> bytes:
        """The event as one message of this codec."""

    def value(self, value: Any) -> bytes:
        """A value as it stands in a payload: the encoding of a whole is made of those of its parts."""

    def packet(self, message: bytes) -> Any:
        """Such a message as a gateway queues it."""

    def frame(self, message: bytes) -> bytes:
        """Such a message as a WebSocket frame."""

    def frames(self, messages: Iterable[bytes]) -> bytes:
        """Such messages as WebSocket frames in one buffer."""


class Batch:
    """Events in order, for one or many connections; each is encoded once per codec."""

    __slots__ = ("_common", "_frames", "_messages", "_own", "_parts", "events", "transient")

    def __init__(
        self,
        events: Sequence[tuple[str, Any]],
        *,
        transient: bool = False,
        common: Batch | None = None,
        own: Mapping[int, tuple[str, Any]] | None = None,
        parts: Sequence[Batch] = (),
    ) -> None:
        """`common` and `own`: as that batch, but for the events at some places. `parts`: these batches in a row."""
        self.events = events
        self.transient = transient
        self._common = common
        self._own = own or {}
        self._parts = parts
        self._messages: dict[EventCodec, list[bytes]] = {}
        self._frames: dict[EventCodec, bytes] = {}

    @classmethod
    def encoded(cls, codec: EventCodec, messages: list[bytes]) -> Batch:
        """Events that are encoded already, for connections that speak this codec."""
        batch = cls(())
        batch._messages[codec] = messages
        return batch

    @classmethod
    def joined(cls, parts: Sequence[Batch], *, transient: bool = False) -> Batch:
        """The events of several batches in a row; none of them is encoded or framed again."""
        return cls((), transient=transient, parts=parts)

    def but(self, own: Mapping[int, tuple[str, Any]]) -> Batch:
        """This batch with other events at some places; the common ones are not encoded again."""
        return Batch(self.events, common=self, own=own)

    def messages(self, codec: EventCodec) -> list[bytes]:
        """The events as messages of a codec."""
        made = self._messages.get(codec)
        if made is None:
            if self._parts:
                made = [one for part in self._parts for one in part.messages(codec)]
            elif self._common is None:
                made = [codec.encode(event, payload) for event, payload in self.events]
            else:
                made = list(self._common.messages(codec))
                for at, (event, payload) in self._own.items():
                    made[at] = codec.encode(event, payload)
            self._messages[codec] = made
        return made

    def packets(self, codec: EventCodec) -> tuple[list[Any], int]:
        """The messages as a gateway queues them, and their size together in bytes."""
        messages = self.messages(codec)
        return [codec.packet(message) for message in messages if message], sum(map(len, messages))

    def frames(self, codec: EventCodec) -> bytes:
        """The messages as WebSocket frames in one buffer, for every connection the same."""
        made = self._frames.get(codec)
        if made is None:
            if self._parts:
                made = b"".join([part.frames(codec) for part in self._parts])
            else:
                made = codec.frames(self.messages(codec))
            self._frames[codec] = made
        return made


class Link(Protocol):
    """A gateway's end of one connection. Everything goes out in the order of the calls."""

    @property
    def gateway(self) -> str:
        """The gateway that it came by: "socketio", "websocket"."""

    @property
    def transport(self) -> str:
        """The transport that carries it now: "polling", "websocket"."""

    @property
    def buffered(self) -> int:
        """Bytes that wait in this process for the client to read."""

    @property
    def reason(self) -> str:
        """Why it has ended: a `CloseReason`, or the reason of the transport."""

    @property
    def codec(self) -> EventCodec:
        """How events are encoded for it."""

    def write(self, batch: Batch) -> None:
        """Queue a batch; never blocks. A queue that overflows closes the connection as a slow consumer."""

    async def drain(self) -> None:
        """Wait until most of the queue has left. Returns immediately if the connection is closed."""

    def confirm(self) -> None:
        """Ask the client to prove that everything written so far has arrived, before the next heartbeat does."""

    def close(self, reason: CloseReason) -> None:
        """Send `closing` with the reason, then close. The queue goes out first, if the client reads."""


class Connection:
    """`rooms` holds the position of each room that this connection may get: absent means not a member.

    Positions are noted by `sent`; they become cursors when the client proves that it has received them: an
    Engine.IO PONG answers a PING that was written after them.
    """

    __slots__ = (
        "_epoch_unconfirmed",
        "_epoch_under_ping",
        "_unconfirmed",
        "_under_ping",
        "closed",
        "deferred",
        "device",
        "device_key",
        "ending_session",
        "epoch",
        "expiry",
        "id",
        "link",
        "only",
        "opened_at",
        "principal",
        "replay",
        "rooms",
        "seen_at",
        "unannounced_rooms",
        "when_closed",
    )

    def __init__(self, link: Link, principal: Principal, device: str) -> None:
        self.id = f"{_NODE}-{next(_NUMBERS)}"
        self.link = link
        self.principal = principal
        self.device = device
        self.opened_at = time.monotonic()
        self.device_key = 0
        self.seen_at: int | None = None
        self.epoch: int | None = None
        """The log epoch that the device has learned of; None: the device is new."""
        self.rooms: dict[int, int] = {}
        self.only: set[str] | None = None
        """Ids of the rooms that it shows, of those that its user is in; None: all of them."""
        self.unannounced_rooms: set[int] = set()
        """Rooms whose `room_added` is still to be written: the device gets nothing of them before it."""
        self.closed = False
        self.when_closed: list[Callable[[Connection], None]] = []
        """Called once, when the connection has ended."""
        self.ending_session = False
        """Whether an action that may withdraw its session is running: the connection closes after the answer."""
        self.deferred: list[Joined | Left] | None = []
        self.replay: asyncio.Task[None] | None = None
        self.expiry: asyncio.TimerHandle | None = None
        self._unconfirmed: dict[int, int] = {}
        self._under_ping: dict[int, int] = {}
        self._epoch_unconfirmed = self._epoch_under_ping = 0

    def has_ended(self) -> bool:
        """Whether the connection has ended; call it again after each wait."""
        return self.closed

    def wants(self, room_id: str) -> bool:
        """Whether it shows a room that its user is in."""
        return self.only is None or room_id in self.only

    def emit(self, event: str, payload: Any) -> None:
        """Send one event to this connection alone."""
        if not self.closed:
            self.link.write(Batch([(event, payload)]))

    def write_entries(self, batch: Batch, room_key: int, seq: int) -> None:
        """Write entries of a room, the last of which is `seq`: it is the connection's position from here on."""
        self.link.write(batch)
        self.rooms[room_key] = self._unconfirmed[room_key] = seq

    def sent(self, room_key: int, seq: int) -> None:
        """Note that the client has the room up to `seq` once it has read everything written so far."""
        self.rooms[room_key] = seq
        self._unconfirmed[room_key] = seq

    def forget(self, room_key: int) -> None:
        """The user is no longer in the room."""
        self.rooms.pop(room_key, None)
        self.unannounced_rooms.discard(room_key)
        self._unconfirmed.pop(room_key, None)
        self._under_ping.pop(room_key, None)

    def confirm(self) -> None:
        """Ask for a confirmation, if anything written is unconfirmed."""
        if self._unconfirmed:
            self.link.confirm()

    def ping_written(self) -> None:
        """A PING goes out after everything that was written so far."""
        self._under_ping |= self._unconfirmed
        self._unconfirmed = {}
        if self._epoch_unconfirmed:
            self._epoch_under_ping, self._epoch_unconfirmed = self._epoch_unconfirmed, 0

    def pong_received(self) -> dict[int, int]:
        """The last PING is answered: room -> seq that have arrived since the PONG before."""
        arrived, self._under_ping = self._under_ping, {}
        return arrived

    def epoch_written(self, epoch: int) -> None:
        """The client learns of a log epoch once it has read everything written so far."""
        self._epoch_unconfirmed = epoch

    def epoch_arrived(self) -> int:
        """After `pong_received`: the epoch that the client has learned of since the PONG before; 0: none."""
        arrived, self._epoch_under_ping = self._epoch_under_ping, 0
        return arrived
