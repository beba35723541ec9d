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

import orjson

from tidings.auth.principal import Principal
from tidings.contract.errors import CloseReason
from tidings.log.notices import Joined, Left
from tidings.log.views import JsonPayload

_NODE, _NUMBERS = secrets.token_urlsafe(9), itertools.count(1)
"""Parts of connection ids, which are unique over all nodes and no secret: a random id would cost a system call."""


class EventCodec(Protocol):
    """How events are encoded for a kind of connection. One instance per kind: it is the key of shared encodings."""

    plain: bool
    """Whether payloads go over the wire unchanged. Otherwise `encode` may also return an empty message: no event."""
    json: bool
    """Whether a payload may be given to `encode` as an `orjson.Fragment`."""

    def encode(self, event: str, payload: Any) -> bytes:
        """The event as one message of this codec."""

    def value(self, value: Any) -> bytes:
        """A value as it is encoded within a payload."""

    def packet(self, message: bytes) -> Any:
        """An encoded message as a gateway queues it."""

    def frame(self, message: bytes) -> bytes:
        """An encoded message as a WebSocket frame."""

    def frames(self, messages: Iterable[bytes]) -> bytes:
        """Encoded messages as WebSocket frames in one buffer."""


def _encode(codec: EventCodec, event: str, payload: Any) -> bytes:
    if type(payload) is JsonPayload:
        payload = orjson.Fragment(payload.text) if codec.json else orjson.loads(payload.text)
    return codec.encode(event, payload)


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
        """`common` and `own`: that batch with other events at some indexes. `parts`: these batches, concatenated."""
        self.events = events
        self.transient = transient
        self._common = common
        self._own = own or {}
        self._parts = parts
        self._messages: dict[EventCodec, list[bytes]] = {}
        self._frames: dict[EventCodec, bytes] = {}

    @classmethod
    def encoded(cls, codec: EventCodec, messages: list[bytes]) -> Batch:
        """A batch of encoded messages, for connections with this codec."""
        batch = cls(())
        batch._messages[codec] = messages
        return batch

    @classmethod
    def joined(cls, parts: Sequence[Batch], *, transient: bool = False) -> Batch:
        """Concatenate batches without encoding or framing them again."""
        return cls((), transient=transient, parts=parts)

    def replaced(self, own: Mapping[int, tuple[str, Any]]) -> Batch:
        """This batch with other events at some indexes; the common ones are not encoded again."""
        return Batch(self.events, common=self, own=own)

    def messages(self, codec: EventCodec) -> list[bytes]:
        """The events as messages of a codec."""
        messages = self._messages.get(codec)
        if messages is None:
            if self._parts:
                messages = [message for part in self._parts for message in part.messages(codec)]
            elif self._common is None:
                messages = [_encode(codec, event, payload) for event, payload in self.events]
            else:
                messages = list(self._common.messages(codec))
                for index, (event, payload) in self._own.items():
                    messages[index] = _encode(codec, event, payload)
            self._messages[codec] = messages
        return messages

    def packets(self, codec: EventCodec) -> tuple[list[Any], int]:
        """The messages as a gateway queues them, and their size together in bytes."""
        messages = self.messages(codec)
        return [codec.packet(message) for message in messages if message], sum(map(len, messages))

    def frames(self, codec: EventCodec) -> bytes:
        """The messages as WebSocket frames in one buffer, which all connections share."""
        frames = self._frames.get(codec)
        if frames is None:
            if self._parts:
                frames = b"".join([part.frames(codec) for part in self._parts])
            else:
                frames = codec.frames(self.messages(codec))
            self._frames[codec] = frames
        return frames


class Link(Protocol):
    """A gateway's end of one connection. Everything goes out in the order of the calls."""

    @property
    def gateway(self) -> str:
        """The gateway of the connection: "socketio", "websocket", or the name of a dialect."""

    @property
    def transport(self) -> str:
        """The current transport: "polling" or "websocket"."""

    @property
    def buffered(self) -> int:
        """Bytes that wait in this process for the client to read."""

    @property
    def reason(self) -> str:
        """Why the connection has ended: a `CloseReason`, or the reason of the transport."""

    @property
    def codec(self) -> EventCodec:
        """How events are encoded for it."""

    def write(self, batch: Batch) -> None:
        """Queue a batch; never blocks. A queue that overflows closes the connection as a slow consumer."""

    async def drain(self) -> None:
        """Wait until most of the queue has been written. Returns immediately if the connection is closed."""

    def confirm(self) -> None:
        """Ask the client to prove that everything written so far has arrived, before the next heartbeat does."""

    async def settle(self) -> None:
        """Refuse further actions of the client, and wait until the others are answered."""

    def close(self, reason: CloseReason) -> None:
        """Send `closing` with the reason, then close. The queue goes out first, if the client reads."""


class Connection:
    """A live connection. `rooms` has its position in each room that it may get; absent means not a member.

    `sent` records positions; they become cursors when the client proves that it has received them: an
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
        "leaving",
        "link",
        "only",
        "opened_at",
        "principal",
        "replay",
        "rooms",
        "seen_at",
        "unannounced_rooms",
        "when_closed",
        "when_confirmed",
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
        """Ids of the user's rooms that the connection shows; None: all of them."""
        self.unannounced_rooms: set[int] = set()
        """Rooms whose `room_added` is not written yet: the device gets no other event of them before it."""
        self.closed = False
        self.when_closed: list[Callable[[Connection], None]] = []
        """Called once, when the connection has ended."""
        self.leaving = False
        """Whether its node is shutting down: nothing but `closing` is written any more."""
        self.when_confirmed: Callable[[Connection], None] | None = None
        """Called whenever everything written has arrived."""
        self.ending_session = False
        """Whether an action that may withdraw its session is running: the connection closes after the answer."""
        self.deferred: list[Joined | Left] | None = []
        self.replay: asyncio.Task[None] | None = None
        self.expiry: asyncio.TimerHandle | None = None
        self._unconfirmed: dict[int, int] = {}
        self._under_ping: dict[int, int] = {}
        self._epoch_unconfirmed = self._epoch_under_ping = 0

    def has_ended(self) -> bool:
        """Whether the connection has ended, or is about to; call it again after each wait."""
        return self.closed or self.leaving

    def shows(self, room_id: str) -> bool:
        """Whether the connection shows a room that its user is in."""
        return self.only is None or room_id in self.only

    def emit(self, event: str, payload: Any) -> None:
        """Send one event to this connection alone."""
        if not self.has_ended():
            self.link.write(Batch([(event, payload)]))

    def write_entries(self, batch: Batch, room_key: int, seq: int) -> None:
        """Write entries of a room, the last of which is `seq`: it is the connection's position from here on."""
        if self.leaving:
            return
        self.link.write(batch)
        self.rooms[room_key] = self._unconfirmed[room_key] = seq

    def sent(self, room_key: int, seq: int) -> None:
        """Record that the client has the room up to `seq` once it has received everything written so far."""
        self.rooms[room_key] = seq
        self._unconfirmed[room_key] = seq

    def forget(self, room_key: int) -> None:
        """Remove a room: the user is no longer in it."""
        self.rooms.pop(room_key, None)
        self.unannounced_rooms.discard(room_key)
        self._unconfirmed.pop(room_key, None)
        self._under_ping.pop(room_key, None)

    def forget_all(self) -> None:
        """Remove all rooms: the connection has ended."""
        self.rooms.clear()
        self.unannounced_rooms.clear()
        self._unconfirmed.clear()
        self._under_ping.clear()

    def is_confirmed(self) -> bool:
        """Whether everything written so far has arrived."""
        return not self._unconfirmed and not self._under_ping

    def confirm(self) -> None:
        """Ask for a confirmation, if anything written is unconfirmed."""
        if self._unconfirmed or self._epoch_unconfirmed:
            self.link.confirm()

    def ping_written(self) -> None:
        """A PING goes out after everything that was written so far."""
        self._under_ping |= self._unconfirmed
        self._unconfirmed = {}
        if self._epoch_unconfirmed:
            self._epoch_under_ping, self._epoch_unconfirmed = self._epoch_unconfirmed, 0

    def pong_received(self) -> dict[int, int]:
        """The last PING is answered. Returns room -> seq of what has arrived since the previous PONG."""
        arrived, self._under_ping = self._under_ping, {}
        return arrived

    def epoch_written(self, epoch: int) -> None:
        """The client learns of a log epoch once it has read everything written so far."""
        self._epoch_unconfirmed = epoch

    def epoch_arrived(self) -> int:
        """After `pong_received`: the epoch that the client has learned of since the PONG before; 0: none."""
        arrived, self._epoch_under_ping = self._epoch_under_ping, 0
        return arrived
