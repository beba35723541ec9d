"""Notices: the messages between nodes, as plain data with a codec.

A notice is a hint; the database is the truth. A notice may be lost, late, repeated or out of order. Its receiver
detects that (entries by their seq, sessions by the periodic check), or loses only a transient event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import orjson

from tidings.contract.errors import CloseReason
from tidings.log.views import EncodedEntry, RoomName
from tidings_db.queries.feed import MembershipChange
from tidings_db.queries.rooms import Snapshot
from tidings_db.queries.rows import EntryRow, RoomRow


@dataclass(frozen=True, slots=True)
class RoomChannel:
    key: int


@dataclass(frozen=True, slots=True)
class UserChannel:
    key: int


Channel = RoomChannel | UserChannel


@dataclass(frozen=True, slots=True)
class Appended:
    """Entries were committed to a room: consecutive, in seq order."""

    room_key: int
    entries: Sequence[EntryRow | EncodedEntry]
    members: int
    """How many members the room has after these entries."""
    removals: int
    """How many memberships of the room have ended before these entries."""
    views: Mapping[int, dict[str, Any]] = field(default_factory=dict, compare=False, repr=False)
    """seq -> the message that the entry is, or that it changes, as its sender sees it. A cache of this node, which
    `encode` leaves out."""
    name: RoomName | None = field(default=None, compare=False, repr=False)
    """The room's name on the wire. Only of this node's own commits; `encode` leaves it out."""


@dataclass(frozen=True, slots=True)
class Transient:
    """An event that is not in the log, for the members who are online: delivered at most once, dropped first."""

    room_key: int
    event: str
    payload: dict[str, Any]
    except_connection: str | None = None
    hidden_from: frozenset[int] = frozenset()
    """Users who must not get it."""


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
    removals: int
    """How many memberships of the room have ended, this one included."""


@dataclass(frozen=True, slots=True)
class MembershipChanged:
    """A member of a public topic has come, gone, or got another role."""

    change: MembershipChange


@dataclass(frozen=True, slots=True)
class Personal:
    """An event for all devices of one user: delivered at most once."""

    user_key: int
    event: str
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class PresenceChanged:
    """Members of a room have come online or gone offline: delivered at most once."""

    room_key: int
    changes: Sequence[UserPresence]


@dataclass(frozen=True, slots=True)
class UserPresence:
    """The presence of one user."""

    user_key: int
    payload: dict[str, Any]
    hidden_from: frozenset[int]
    """Users who must not know."""


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """A session was withdrawn; `session_key` None: every session of the user."""

    user_key: int
    session_key: int | None
    reason: CloseReason


Notice = Appended | Transient | Joined | Left | MembershipChanged | Personal | PresenceChanged | Withdrawn


class Fanout(Protocol):
    """What the log needs of the fan-out. Every method is called on the event loop, and none blocks."""

    def publish(self, notices: Sequence[tuple[Channel, Notice]]) -> None:
        """Publish notices of committed changes, in this order. Never raises: a failure is logged."""

    def suspect(self, room_keys: Iterable[int]) -> None:
        """Something may have been committed to these rooms that was not published: compare their heads soon."""

    def suspect_session(self, user_key: int, session_key: int) -> None:
        """A session was withdrawn, perhaps on another node: close its connections here soon."""

    def has_device(self, device_key: int) -> bool:
        """Whether a device is connected here."""


VERSION = 1
"""The first byte of an encoded notice. A node ignores notices of versions that it does not know."""

_CHANNELS: dict[str, type[RoomChannel] | type[UserChannel]] = {"room": RoomChannel, "user": UserChannel}
_CHANNEL_NAMES = {kind: name for name, kind in _CHANNELS.items()}
_NOTICES: dict[str, type[Notice]] = {
    kind.__name__: kind
    for kind in (Appended, Transient, Joined, Left, MembershipChanged, Personal, PresenceChanged, Withdrawn)
}


def encode(channel: Channel, notice: Notice) -> bytes:
    """A notice and its channel as bytes for another node.

    Raises TypeError if a payload is not JSON: a bug of the publisher.
    """
    # A shallow dict: nested rows are tuples, which orjson writes as arrays.
    values = {column.name: getattr(notice, column.name) for column in fields(notice) if column.compare}
    value = [_CHANNEL_NAMES[type(channel)], channel.key, type(notice).__name__, values]
    return bytes([VERSION]) + orjson.dumps(value, default=_plain)


def _plain(value: object) -> Any:
    if isinstance(value, tuple | frozenset):
        return list(value)
    raise TypeError(f"{type(value).__name__} is not plain data")


def decode(data: bytes) -> tuple[Channel, Notice]:
    """The inverse of `encode`. Raises ValueError if the bytes are not a notice of this version."""
    if data[:1] != bytes([VERSION]):
        raise ValueError("not a notice of this version")
    try:
        channel, key, kind, values = orjson.loads(data[1:])
        for name, rebuild in _REBUILT.get(kind, ()):
            values[name] = rebuild(values[name])
        return _CHANNELS[channel](key), _NOTICES[kind](**values)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"not a notice: {error!r}") from error


def _entry(values: Sequence[Any]) -> EntryRow:
    entry = EntryRow(*values)
    return entry if entry.target is None else entry._replace(target=_entry(entry.target))


def _snapshot(values: Sequence[Any]) -> Snapshot:
    snapshot = Snapshot(*values)
    last = snapshot.last_message
    return snapshot._replace(room=RoomRow(*snapshot.room), last_message=None if last is None else _entry(last))


def _presence(values: dict[str, Any]) -> UserPresence:
    return UserPresence(values["user_key"], values["payload"], frozenset(values["hidden_from"]))


_REBUILT: dict[str, tuple[tuple[str, Callable[[Any], Any]], ...]] = {
    "Appended": (("entries", lambda rows: [_entry(row) for row in rows]),),
    "Transient": (("hidden_from", frozenset),),
    "Joined": (("snapshot", _snapshot),),
    "MembershipChanged": (("change", lambda values: MembershipChange(*values)),),
    "PresenceChanged": (("changes", lambda changes: [_presence(change) for change in changes]),),
    "Withdrawn": (("reason", CloseReason),),
}
"""The fields of each notice whose type JSON does not preserve, with the function that restores it."""
