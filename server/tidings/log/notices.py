"""Notices: the messages between the parts of a node, and between nodes, as plain data.

A notice is a hint; the database is the truth. A notice may be lost, late, repeated or out of order. Its receiver
detects that (entries by their seq, sessions by the periodic check), or loses only a transient event.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, get_args

import orjson

from tidings.contract.errors import CloseReason
from tidings.log.views import EncodedEntry, RoomName
from tidings_db.queries.feed import MembershipChange
from tidings_db.queries.rooms import Snapshot
from tidings_db.queries.rows import EntryRow


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
    """seq -> the message that the entry is, or that it changes, as its sender sees it. A cache of this node."""
    name: RoomName | None = field(default=None, compare=False, repr=False)
    """The room's name on the wire. Only of this node's own commits."""


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
class Piece:
    """Text that was appended to a message that streams."""

    room_key: int
    room_id: str
    message_id: str
    seq: int
    """Of the message."""
    offset: int
    """Code points before it."""
    text: str


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
class Withdrawn:
    """A session was withdrawn; `session_key` None: every session of the user."""

    user_key: int
    session_key: int | None
    reason: CloseReason


@dataclass(frozen=True, slots=True)
class ApplicationMessage:
    """A message between the nodes of an application, encoded by `tidings.cluster.applications`."""

    node: str
    """The id of its sender."""
    text: str


Notice = Appended | Transient | Piece | Joined | Left | MembershipChanged | Personal | ApplicationMessage | Withdrawn
Carried = Transient | Piece | Personal | ApplicationMessage
"""Notices that are in no log and no table: only a broker carries them to other nodes."""


class Fanout(Protocol):
    """The part of the fan-out that the log uses. Every method is called on the event loop, and none blocks."""

    @property
    def is_shared(self) -> bool:
        """Whether other nodes may serve the database, too."""

    def publish(self, *notices: Notice) -> None:
        """Publish notices of committed changes, in this order. Never raises: a failure is logged."""

    def suspect(self, room_keys: Iterable[int]) -> None:
        """Something may have been committed to these rooms that was not published: compare their heads soon."""

    def suspect_session(self, user_key: int, session_key: int) -> None:
        """A session was withdrawn, perhaps on another node: close its connections here soon."""

    def has_device(self, device_key: int) -> bool:
        """Whether a device is connected here."""


VERSION = b"\x01"
"""Begins an encoded notice. A node ignores notices of versions that it does not know."""
_CARRIED: dict[str, type[Carried]] = {kind.__name__: kind for kind in get_args(Carried)}


def encode(notice: Carried) -> bytes:
    """A notice as bytes for another node. Raises TypeError if its payload is not JSON: a bug of the publisher."""
    values = {field.name: getattr(notice, field.name) for field in fields(notice)}
    return VERSION + orjson.dumps([type(notice).__name__, values], default=list)


def decode(data: bytes) -> Carried:
    """The inverse of `encode`. Raises ValueError if the bytes are not a notice of this version."""
    if not data.startswith(VERSION):
        raise ValueError("not a notice of this version")
    try:
        kind, values = orjson.loads(data[len(VERSION) :])
        if "hidden_from" in values:
            values["hidden_from"] = frozenset(values["hidden_from"])
        return _CARRIED[kind](**values)
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"not a notice: {error!r}") from error
