"""One live socket of a device, as delivery sees it: who it is, what it may get, and how far it is."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from server.contract.errors import CloseReason
from server.delivery.broker import Joined, Left
from server.delivery.frames import Batch, Codec

_NODE, _NUMBERS = secrets.token_urlsafe(9), itertools.count(1)
"""A connection's id is no secret, only nobody else's, on no node: a random number for each would be a system call."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who acts: a user, by a session."""

    user_key: int
    username: str
    session_key: int
    sid: str
    expires_at: int
    """`exp` of the token that was shown, ms since the epoch."""
    admin: bool = False


class Link(Protocol):
    """A gateway's end of one connection. Everything goes out in the order of the calls."""

    @property
    def gateway(self) -> str:
        """By which gateway it came: "socketio", "websocket"."""

    @property
    def transport(self) -> str:
        """What carries it now: "polling", "websocket"."""

    @property
    def buffered(self) -> int:
        """Bytes that wait in this process for the client to read."""

    @property
    def reason(self) -> str:
        """Why it has ended: a `CloseReason`, or what the transport says."""

    @property
    def codec(self) -> Codec:
        """How events are encoded for it."""

    def write(self, batch: Batch) -> None:
        """Queue a batch; never blocks. A queue that overflows closes the connection as a slow consumer."""

    async def drain(self) -> None:
        """Wait until most of what is queued has left. Returns at once when the connection is closed."""

    def close(self, reason: CloseReason) -> None:
        """Say why (`closing`), then close. What was queued before goes out first, if the client reads."""


class Connection:
    """`rooms` holds the position of each room that this connection may get: absent means not a member.

    Positions are noted by `sent`; they become cursors when the client proves that it has received them: an
    Engine.IO PONG answers a PING that was written after them.
    """

    __slots__ = (
        "_unconfirmed",
        "_under_ping",
        "closed",
        "deferred",
        "device",
        "device_key",
        "entered",
        "expiry",
        "id",
        "link",
        "only",
        "opened_at",
        "principal",
        "replay",
        "rooms",
        "seen_at",
        "untold",
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
        self.rooms: dict[int, int] = {}
        self.only: set[str] | None = None
        """Ids of the rooms that it is about, though its user may be in more; None: all of them."""
        self.untold: set[int] = set()
        """Rooms that the device is still to be told of: it gets nothing of them before `room_added`."""
        self.closed = False
        self.when_closed: list[Callable[[Connection], None]] = []
        """Called once, when the connection is gone."""
        self.entered: Callable[[], None] | None = None
        """Called once, when it is in its rooms; the replay follows."""
        self.deferred: list[Joined | Left] | None = []
        self.replay: asyncio.Task[None] | None = None
        self.expiry: asyncio.TimerHandle | None = None
        self._unconfirmed: dict[int, int] = {}
        self._under_ping: dict[int, int] = {}

    def has_ended(self) -> bool:
        """Whether the connection is gone; ask again after each wait."""
        return self.closed

    def wants(self, room_id: str) -> bool:
        """Whether it is about a room that its user is in."""
        return self.only is None or room_id in self.only

    def emit(self, event: str, payload: Any) -> None:
        """Send one event to this connection alone."""
        if not self.closed:
            self.link.write(Batch([(event, payload)]))

    def sent(self, room_key: int, seq: int) -> None:
        """Entries up to `seq` have been written."""
        self.rooms[room_key] = seq
        self._unconfirmed[room_key] = seq

    def forget(self, room_key: int) -> None:
        """The user is no longer in the room."""
        self.rooms.pop(room_key, None)
        self.untold.discard(room_key)
        self._unconfirmed.pop(room_key, None)
        self._under_ping.pop(room_key, None)

    def ping_written(self) -> None:
        """A PING goes out after everything that was written so far."""
        self._under_ping |= self._unconfirmed
        self._unconfirmed = {}

    def pong_received(self) -> dict[int, int]:
        """The last PING is answered: room -> seq that have arrived since the PONG before."""
        arrived, self._under_ping = self._under_ping, {}
        return arrived
