"""The journal's transaction, and the base of the changes (operations) that are applied in it.

`apply` sees the rooms locked, with all the changes of the batch before it, and either raises `ActionError` before it
has changed anything, or changes the room and adds notices to publish. The transaction may run again, so an operation
keeps no state of a run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

import orjson
from sqlalchemy.engine import Connection

from tidings.auth import names
from tidings.auth.principal import Principal
from tidings.contract.errors import not_found
from tidings.contract.models import Role, RoomKind
from tidings.contract.permissions import NO_PERMISSIONS, Permission, refusal
from tidings.log.notices import Appended, Notice
from tidings.log.quotas import Quotas
from tidings.log.views import room_name
from tidings_db.queries import journal, members
from tidings_db.queries.feed import MembershipChange
from tidings_db.queries.journal import NOBODY
from tidings_db.queries.members import MemberStanding
from tidings_db.queries.progress import MarkerRow
from tidings_db.queries.rows import EntryRow, RoomRow

T = TypeVar("T")
NEW_ROOMS = 0
"""A key that no room has, for changes that create rooms."""


class RoomLog:
    """A locked room within the transaction: its head, and what is appended to it."""

    def __init__(self, row: RoomRow) -> None:
        self.row = row
        self.unsaved: list[EntryRow] = []
        self.unpublished: list[EntryRow] = []
        self.views: dict[int, dict[str, Any]] = {}
        """seq -> the message of an unpublished entry, as its sender sees it."""
        self.unsaved_memberships: list[MembershipChange] = []
        self.changed = False

    def append(self, kind: str, actor: Principal, now: int, **fields: Any) -> EntryRow:
        """Put an entry at the next seq."""
        row = self.row
        seq, counts = row.last_seq + 1, kind == "message" and fields.get("thread") is None
        entry = EntryRow(
            room_key=row.key,
            seq=seq,
            kind=kind,
            message_id=fields.get("message_id"),
            sender_key=actor.user_key,
            sender=actor.username,
            client_id=fields.get("client_id"),
            content=fields.get("content"),
            reply_to=fields.get("reply_to"),
            body=fields.get("body"),
            messages=row.messages + counts,
            created_at=now,
            edited_at=None,
            deleted=False,
            target_seq=fields.get("target_seq"),
            data=fields.get("data"),
            state=fields.get("state"),
            thread=fields.get("thread"),
            replies=fields.get("replies"),
            files=fields.get("files"),
            target=fields.get("target"),
        )
        self.row = row._replace(
            last_seq=seq,
            messages=entry.messages,
            last_message_seq=seq if counts else row.last_message_seq,
        )
        self.unsaved.append(entry)
        self.unpublished.append(entry)
        self.changed = True
        return entry

    def resize(self, by: int) -> None:
        """Count members that join, or memberships that end (`by` is negative)."""
        removals = self.row.removals + (by < 0)
        self.row = self.row._replace(members=self.row.members + by, removals=removals)
        self.changed = True

    def change_member(self, user_key: int, username: str, change: str, role: str | None) -> MembershipChange:
        """Number a change of a member, after `resize`. `role`: after the change; None: no longer a member."""
        row = self.row = self.row._replace(changes=self.row.changes + 1)
        membership = MembershipChange(
            row.key, user_key, username, change, role, row.members, row.removals, row.changes
        )
        self.unsaved_memberships.append(membership)
        self.changed = True
        return membership


@dataclass(slots=True)
class Work:
    """One run of the journal's transaction."""

    transaction: Connection | None
    """None: the operations make no queries (`Operation.queries`)."""
    now: int
    """ms since the epoch."""
    quotas: Quotas = field(default_factory=Quotas)
    withdrawn: set[int] = field(default_factory=set)
    """The sessions that may not act any more."""
    rooms: dict[int, RoomLog] = field(default_factory=dict)
    standings: dict[tuple[int, int], MemberStanding] = field(default_factory=dict)
    sent: dict[tuple[int, int, str], EntryRow] = field(default_factory=dict)
    known_messages: set[tuple[int, str]] = field(default_factory=set)
    mentions: dict[tuple[int, str], tuple[str, ...]] = field(default_factory=dict)
    """(room, content) -> the name keys that the content may mention."""
    named: dict[tuple[int, str], str] = field(default_factory=dict)
    """(room, name key) -> username, of members whom messages may mention."""
    markers: dict[tuple[int, int], MarkerRow] = field(default_factory=dict)
    notices: list[Notice] = field(default_factory=list)

    @property
    def conn(self) -> Connection:
        assert self.transaction is not None
        return self.transaction

    def load(self, loaded: journal.Loaded) -> None:
        self.now, self.withdrawn = loaded.now, loaded.withdrawn
        self.rooms = {key: RoomLog(row) for key, row in loaded.rooms.items()}
        self.standings, self.sent = dict(loaded.standings), dict(loaded.sent)
        self.known_messages = loaded.known_messages

    def room(self, key: int) -> RoomLog:
        room = self.rooms.get(key)
        if room is None:
            raise not_found()
        return room

    def check(self, room: RoomLog, actor: Principal, need: Permission) -> MemberStanding:
        """Check a caller against the permission table, as of this position in the log. Raises `ActionError`."""
        standing = self.standings.get((room.row.key, actor.user_key), NOBODY)
        muted_until = standing.muted_until
        error = refusal(
            RoomKind(room.row.kind),
            room.row.is_private,
            Role(standing.role) if standing.role else None,
            standing.banned,
            need,
            muted_until=muted_until if muted_until is not None and muted_until > self.now else None,
            blocked=standing.blocked,
            posting=room.row.posting,
            granted=actor.granted_in(room.row.key) if actor.granted else NO_PERMISSIONS,
        )
        if error is not None:
            raise error
        return standing

    def mentioned(self, room: RoomLog, content: str) -> str | None:
        """The usernames of the members that a content mentions, as a JSON list; None if there are none."""
        if "@" not in content:
            return None
        key = room.row.key
        if (key, content) not in self.mentions:  # its author joined in this batch, after the contents were searched
            self.search_mentions([(key, content)])
        usernames = [self.named[key, name] for name in self.mentions[key, content] if (key, name) in self.named]
        return orjson.dumps(usernames).decode() if usernames else None

    def search_mentions(self, contents: Iterable[tuple[int, str]]) -> None:
        """Find the members that contents mention. `contents`: (room, content)."""
        mentions = {(key, content): names.mentions(content) for key, content in contents}
        self.mentions |= mentions
        name_keys = {(key, name) for (key, _), mentioned in mentions.items() for name in mentioned}
        if name_keys:
            self.named |= members.by_name(self.conn, list(name_keys))

    def save(self) -> None:
        """Write the appended entries, the heads and the read markers."""
        journal.save(self.conn, self.take_writes(), self.now)

    def take_writes(self) -> journal.Writes:
        """Take the rows that are not saved yet; they count as saved afterwards."""
        entries = [entry for room in self.rooms.values() for entry in room.unsaved]
        heads = [room.row for room in self.rooms.values() if room.changed]
        memberships = [change for room in self.rooms.values() for change in room.unsaved_memberships]
        markers, self.markers = self.markers, {}
        for room in self.rooms.values():
            room.unsaved, room.unsaved_memberships, room.changed = [], [], False
        return journal.Writes(entries, heads, markers, memberships)

    def publish(self, notice: Notice) -> None:
        """Publish a notice after the commit, in the order of the calls."""
        self.notices.append(notice)

    def publish_entries(self, room: RoomLog) -> None:
        if room.unpublished:
            row = room.row
            notice = Appended(row.key, room.unpublished, row.members, row.removals, room.views, room_name(row))
            self.publish(notice)
            room.unpublished, room.views = [], {}

    def finish(self) -> list[Notice]:
        """Returns the notices to publish after the commit."""
        for room in self.rooms.values():
            self.publish_entries(room)
        return self.notices


@dataclass(frozen=True, slots=True)
class Operation(ABC, Generic[T]):
    """A change. `room_key` is the room that it changes; None for one that creates a room."""

    vital: ClassVar[bool] = False
    """Whether it is made even on a full disk: without it, a user could not connect."""

    actor: Principal
    room_key: int | None

    @abstractmethod
    def apply(self, work: Work) -> T:
        """Make the change and return the result of the action."""

    @property
    def queries(self) -> bool:
        """Whether the change makes queries besides those that all changes of a batch share."""
        return True

    @property
    def creates(self) -> Collection[str]:
        """Names that no other node may use meanwhile to create a room: its own or its users', and its owner's."""
        return ()

    @property
    def room_keys(self) -> list[int]:
        """The rooms that it changes, which the transaction locks."""
        return [] if self.room_key is None else [self.room_key]

    @property
    def lock_keys(self) -> list[int]:
        """The rooms whose locks it waits for; `NEW_ROOMS` for one that creates a room."""
        return [NEW_ROOMS] if self.room_key is None and self.creates else self.room_keys

    def users(self) -> list[int]:
        """Keys of the users whose standing in its rooms the change needs."""
        return [self.actor.user_key]

    @property
    def size(self) -> int:
        """Approximate bytes that it holds in memory while it waits."""
        return 256

    @property
    def names(self) -> int:
        """The most usernames that are looked up for the mentions in its content."""
        return 0
