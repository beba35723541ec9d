"""What one node tells the others.

A broker is a hint, the database is the truth: a notice may be lost (the hub finds the gap by its seq, or by the
periodic check of heads) and may come twice (the hub drops what it has), but on one channel the notices of one node
come in the order in which they were published.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from db.queries.rooms import Snapshot
from db.queries.rows import EntryRow
from server.contract.errors import CloseReason


@dataclass(frozen=True, slots=True)
class RoomChannel:
    key: int


@dataclass(frozen=True, slots=True)
class UserChannel:
    key: int


Channel = RoomChannel | UserChannel


@dataclass(frozen=True, slots=True)
class Appended:
    """Entries were committed to a room; consecutive, in seq order."""

    room_key: int
    entries: Sequence[EntryRow]
    members: int
    """How many the room has after them."""


@dataclass(frozen=True, slots=True)
class Transient:
    """An event that is not in the log: to the members who are online, at most once, and first to be dropped."""

    room_key: int
    event: str
    payload: dict[str, Any]
    except_connection: str | None = None
    up_to_members: int | None = None
    """Only if the room has no more members than that."""
    members: int | None = None
    """How many the room has now, if that has changed."""


@dataclass(frozen=True, slots=True)
class Joined:
    """A user became a member at position `snapshot.room.last_seq`."""

    user_key: int
    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Left:
    """A user is no longer a member."""

    user_key: int
    room_key: int
    room_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Personal:
    """An event for all devices of one user, at most once."""

    user_key: int
    event: str
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class PresenceChanged:
    """Members of a room have come online, or gone; to the members who are online, at most once."""

    room_key: int
    changes: Sequence[Change]


@dataclass(frozen=True, slots=True)
class Change:
    """One user's presence now."""

    user_key: int
    payload: dict[str, Any]
    hidden_from: frozenset[int]
    """Users who are not to know."""


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """A session (or, with None, every session of the user) was withdrawn."""

    user_key: int
    session_key: int | None
    reason: CloseReason


Notice = Appended | Transient | Joined | Left | Personal | PresenceChanged | Withdrawn


class Broker(Protocol):
    """Joins the nodes. `publish` never blocks and never fails its caller."""

    async def start(self, receive: Callable[[Notice], None]) -> None: ...

    async def stop(self) -> None: ...

    def publish(self, channel: Channel, notice: Notice) -> None:
        """Pass a notice to every node that is subscribed to the channel, this one included."""

    def subscribe(self, channel: Channel) -> None: ...

    def unsubscribe(self, channel: Channel) -> None: ...

    def online(self, user_key: int, online: bool) -> None:
        """This node has its first connection of a user, or lost its last."""

    async def who_is_online(self, user_keys: Iterable[int] | None = None) -> set[int]:
        """Users with a connection on any node: of those asked about, or all."""


class MemoryBroker:
    """The broker of a single node: a notice is received within the call that publishes it."""

    def __init__(self) -> None:
        self._receive: Callable[[Notice], None] | None = None
        self._channels: set[Channel] = set()
        self._online: set[int] = set()

    async def start(self, receive: Callable[[Notice], None]) -> None:
        self._receive = receive

    async def stop(self) -> None:
        self._receive = None

    def publish(self, channel: Channel, notice: Notice) -> None:
        if self._receive is not None and channel in self._channels:
            self._receive(notice)

    def subscribe(self, channel: Channel) -> None:
        self._channels.add(channel)

    def unsubscribe(self, channel: Channel) -> None:
        self._channels.discard(channel)

    def online(self, user_key: int, online: bool) -> None:
        if online:
            self._online.add(user_key)
        else:
            self._online.discard(user_key)

    async def who_is_online(self, user_keys: Iterable[int] | None = None) -> set[int]:
        return set(self._online) if user_keys is None else self._online.intersection(user_keys)
