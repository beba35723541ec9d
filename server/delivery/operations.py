"""What the journal can write: one class per change, applied inside the journal's transaction.

`apply` sees the rooms locked, with all the changes of the batch before it, and either raises `ActionError` before it
has changed anything, or changes the room and says what is to be published. The transaction may be run again, so an
operation keeps nothing of a run.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import orjson
from sqlalchemy.engine import Connection

from db.queries import log, progress, queue, rooms, users
from db.queries.members import Standing
from db.queries.progress import MarkerRow
from db.queries.rows import EntryRow, RoomRow
from db.queries.users import DeviceRow
from server.contract.errors import ActionError, ErrorCode, invalid, not_found
from server.contract.models import Role, RoomKind
from server.contract.permissions import Permission, refusal
from server.delivery.broker import (
    Appended,
    Channel,
    Notice,
    Personal,
    RoomChannel,
    Transient,
    UserChannel,
)
from server.delivery.connection import Principal
from server.delivery.cursors import RECEIPT_MEMBERS
from server.delivery.frames import message, room_name
from server.delivery.views import receipt

T = TypeVar("T")
NOBODY = Standing(None, False)


def new_message_id(now: int) -> str:
    """128 bits: the time first, so that the index grows at its end, then 80 that nobody can guess."""
    return (now.to_bytes(6, "big") + secrets.token_bytes(10)).hex()


class RoomLog:
    """A locked room within the transaction: its head, and what is appended to it."""

    def __init__(self, row: RoomRow) -> None:
        self.row = row
        self.unsaved: list[EntryRow] = []
        self.unpublished: list[EntryRow] = []
        self.changed = False

    def append(self, kind: str, actor: Principal, now: int, **fields: Any) -> EntryRow:
        """Put an entry at the next seq."""
        row = self.row
        seq, is_message = row.last_seq + 1, kind == "message"
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
            messages=row.messages + is_message,
            created_at=now,
            edited_at=None,
            deleted=False,
            target_seq=fields.get("target_seq"),
            target=fields.get("target"),
        )
        self.row = row._replace(
            last_seq=seq,
            messages=entry.messages,
            last_message_seq=seq if is_message else row.last_message_seq,
        )
        self.unsaved.append(entry)
        self.unpublished.append(entry)
        self.changed = True
        return entry

    def resize(self, by: int) -> None:
        self.row = self.row._replace(members=self.row.members + by)
        self.changed = True


@dataclass(slots=True)
class Work:
    """One run of the journal's transaction."""

    conn: Connection
    now: int
    rooms: dict[int, RoomLog] = field(default_factory=dict)
    standings: dict[tuple[int, int], Standing] = field(default_factory=dict)
    sent: dict[tuple[int, int, str], EntryRow] = field(default_factory=dict)
    known_messages: set[tuple[int, str]] = field(default_factory=set)
    named: set[tuple[int, str]] = field(default_factory=set)
    """Members (room, username), of those whom messages may mention."""
    markers: dict[tuple[int, int], MarkerRow] = field(default_factory=dict)
    notices: list[tuple[Channel, Notice]] = field(default_factory=list)

    def room(self, key: int) -> RoomLog:
        found = self.rooms.get(key)
        if found is None:
            raise not_found()
        return found

    def check(self, room: RoomLog, user_key: int, need: Permission) -> Standing:
        """Judge a user by the permission table, as things stand at this place of the log. Raises `ActionError`."""
        standing = self.standings.get((room.row.key, user_key), NOBODY)
        muted_until = standing.muted_until
        refused = refusal(
            RoomKind(room.row.kind),
            room.row.is_private,
            Role(standing.role) if standing.role else None,
            standing.banned,
            need,
            muted_until=muted_until if muted_until is not None and muted_until > self.now else None,
            blocked=standing.blocked,
        )
        if refused is not None:
            raise refused
        return standing

    def mentioned(self, room: RoomLog, names: Sequence[str]) -> str | None:
        """The members among some usernames, as a message keeps them."""
        found = [name for name in names if (room.row.key, name) in self.named]
        return orjson.dumps(found).decode() if found else None

    def save(self) -> None:
        """Write what was appended and what has moved."""
        entries = [entry for room in self.rooms.values() for entry in room.unsaved]
        if entries:
            log.add(self.conn, entries)
        heads = [room.row for room in self.rooms.values() if room.changed]
        if heads:
            rooms.save_heads(self.conn, heads)
        if self.markers:
            progress.save_markers(self.conn, self.markers, self.now)
            self.markers = {}
        for room in self.rooms.values():
            room.unsaved, room.changed = [], False

    def publish(self, channel: Channel, notice: Notice) -> None:
        """Publish after the commit, at this place between the entries of the room."""
        self.notices.append((channel, notice))

    def publish_entries(self, room: RoomLog) -> None:
        if room.unpublished:
            self.publish(RoomChannel(room.row.key), Appended(room.row.key, room.unpublished, room.row.members))
            room.unpublished = []

    def finish(self) -> list[tuple[Channel, Notice]]:
        self.save()
        for room in self.rooms.values():
            self.publish_entries(room)
        return self.notices


@dataclass(frozen=True, slots=True)
class Operation(ABC, Generic[T]):
    """A change. `room_key` is the room it is about; None for one that makes a room."""

    actor: Principal
    room_key: int | None

    @abstractmethod
    def apply(self, work: Work) -> T:
        """Make the change and return what the action answers with."""

    def users(self) -> list[int]:
        """Whose standing in the room is needed."""
        return [self.actor.user_key]

    @property
    def size(self) -> int:
        """Bytes held while it waits, nearly."""
        return 256


@dataclass(frozen=True, slots=True)
class Send(Operation[dict[str, Any]]):
    """Append a message, once per `client_id`; answers with it as its sender gets it."""

    content: str
    client_id: str | None = None
    reply_to: str | None = None
    mentions: tuple[str, ...] = ()
    """Usernames that it may mention, if they are members."""

    @property
    def size(self) -> int:
        return 512 + (len(self.content) if self.content.isascii() else 4 * len(self.content))

    def apply(self, work: Work) -> dict[str, Any]:
        assert self.room_key is not None
        room = work.room(self.room_key)
        if self.client_id is not None:
            before = work.sent.get((self.room_key, self.actor.user_key, self.client_id))
            if before is not None:
                return message(room_name(room.row), before, to_sender=True)
        work.check(room, self.actor.user_key, Permission.SEND)
        if self.reply_to is not None and (self.room_key, self.reply_to) not in work.known_messages:
            raise invalid("reply_to", "no such message in this room")
        message_id = new_message_id(work.now)
        entry = room.append(
            "message",
            self.actor,
            work.now,
            message_id=message_id,
            client_id=self.client_id,
            content=self.content,
            reply_to=self.reply_to,
            body=work.mentioned(room, self.mentions) if self.mentions else None,
        )
        if self.client_id is not None:
            work.sent[self.room_key, self.actor.user_key, self.client_id] = entry
        work.markers[self.room_key, self.actor.user_key] = MarkerRow(entry.seq, entry.messages)
        return message(room_name(room.row), entry, to_sender=True)


MAX_EMOJIS = 64
"""Different emojis on one message, at most."""
MAX_REACTIONS = 2000
"""Reactions to one message, at most: each of its events carries all of them."""


@dataclass(frozen=True, slots=True)
class Change(Operation[T]):
    """Change a message that was sent before, for everybody: those who were away find it changed, and are told."""

    seq: int
    held: int
    """Bytes of the message, nearly."""

    @property
    def size(self) -> int:
        return 512 + self.held

    def message(self, work: Work, need: Permission) -> tuple[RoomLog, EntryRow]:
        """The message as it is now. Raises `not_found` if retention has taken it, or `ActionError` as `check`."""
        assert self.room_key is not None
        room = work.room(self.room_key)
        work.check(room, self.actor.user_key, need)
        work.save()
        found = log.at(work.conn, [(self.room_key, self.seq)]).get((self.room_key, self.seq))
        if found is None:
            raise not_found("message")
        return room, found

    def write(self, work: Work, room: RoomLog, kind: str, new: EntryRow, **body: Any) -> None:
        """Store the message as it is now, and append the entry that tells of it."""
        log.rewrite(work.conn, new)
        if new.client_id is not None:  # what its sender is told if they send it again
            claim = (new.room_key, new.sender_key, new.client_id)
            if claim in work.sent:
                work.sent[claim] = new
        # What can still be said of the message when retention has taken it.
        body |= {"id": new.message_id, "sender": new.sender, "created_at": new.created_at}
        told = orjson.dumps(body).decode()
        room.append(kind, self.actor, work.now, target=new, target_seq=new.seq, body=told)

    def wire(self, room: RoomLog, entry: EntryRow) -> dict[str, Any]:
        return message(room_name(room.row), entry, to_sender=entry.sender_key == self.actor.user_key)


@dataclass(frozen=True, slots=True)
class Edit(Change[dict[str, Any]]):
    """Replace the content of one's own message; answers with the message. The same content again is no change."""

    content: str
    mentions: tuple[str, ...] = ()

    def apply(self, work: Work) -> dict[str, Any]:
        room, before = self.message(work, Permission.EDIT)
        if before.deleted:
            raise not_found("message")
        if before.sender_key != self.actor.user_key:
            raise ActionError(ErrorCode.FORBIDDEN, "only who wrote a message may edit it")
        if before.content == self.content:
            return self.wire(room, before)
        body = work.mentioned(room, self.mentions)
        after = before._replace(content=self.content, body=body, edited_at=work.now)
        self.write(work, room, "edit", after)
        return self.wire(room, after)


@dataclass(frozen=True, slots=True)
class Delete(Change[dict[str, Any]]):
    """Leave a tombstone in a message's place; its content is gone. Deleting it again is no change."""

    def apply(self, work: Work) -> dict[str, Any]:
        room, before = self.message(work, Permission.DELETE)
        if before.sender_key != self.actor.user_key:
            work.check(room, self.actor.user_key, Permission.DELETE_ANY)
        if not before.deleted:
            after = before._replace(content=None, body=None, reactions=None, deleted=True)
            self.write(work, room, "delete", after)
        return {}


@dataclass(frozen=True, slots=True)
class React(Change[dict[str, Any]]):
    """Put an emoji on a message, or take it off; answers with the message. Doing it again is no change."""

    emoji: str
    remove: bool

    def apply(self, work: Work) -> dict[str, Any]:
        room, before = self.message(work, Permission.REACT)
        if before.deleted:
            raise not_found("message")
        me = self.actor.username
        reactions: dict[str, list[str]] = orjson.loads(before.reactions) if before.reactions else {}
        users_of = reactions.get(self.emoji, [])
        if (me in users_of) is not self.remove:
            return self.wire(room, before)
        if self.remove:
            users_of.remove(me)
            if not users_of:
                del reactions[self.emoji]
        else:
            if self.emoji not in reactions and len(reactions) >= MAX_EMOJIS:
                raise ActionError(ErrorCode.TOO_LARGE, "too many different emojis", limit=MAX_EMOJIS)
            if sum(map(len, reactions.values())) >= MAX_REACTIONS:
                raise ActionError(ErrorCode.TOO_LARGE, "too many reactions", limit=MAX_REACTIONS)
            reactions[self.emoji] = [*users_of, me]
        after = before._replace(reactions=orjson.dumps(reactions).decode() if reactions else None)
        self.write(work, room, "reaction", after, emoji=self.emoji, remove=self.remove)
        return self.wire(room, after)


@dataclass(frozen=True, slots=True)
class NameDevice(Operation[DeviceRow]):
    """Name a device of the actor for the first time."""

    name: str

    def apply(self, work: Work) -> DeviceRow:
        work.save()
        return users.add_device(work.conn, self.actor.user_key, self.name, work.now)


@dataclass(frozen=True, slots=True)
class SkipPending(Operation[None]):
    """Move the cursors of a device of the actor to the heads: of one room, or of all that they are in."""

    device_key: int

    def apply(self, work: Work) -> None:
        if self.room_key is not None:
            standing = work.standings.get((self.room_key, self.actor.user_key))
            if standing is None or standing.role is None:
                raise not_found()
        work.save()
        queue.clear(work.conn, self.actor.user_key, self.device_key, self.room_key)


@dataclass(frozen=True, slots=True)
class MarkRead(Operation[int]):
    """Move the actor's read marker forwards; returns how many messages are left unread."""

    seq: int

    def apply(self, work: Work) -> int:
        assert self.room_key is not None
        room = work.room(self.room_key)
        work.check(room, self.actor.user_key, Permission.READ)
        if self.seq > room.row.last_seq:
            raise invalid("seq", f"the room's log ends at {room.row.last_seq}")
        work.save()
        at = (self.room_key, self.actor.user_key)
        marker = progress.marker(work.conn, *at)
        if self.seq > marker.seq:
            marker = MarkerRow(self.seq, log.messages_upto(work.conn, room.row, self.seq))
            progress.save_markers(work.conn, {at: marker}, work.now)
            work.publish_entries(room)
            for row in progress.receipts(work.conn, [at]):
                if row.members <= RECEIPT_MEMBERS:
                    work.publish(RoomChannel(row.room_key), Transient(row.room_key, "receipt", receipt(row)))
                else:
                    work.publish(UserChannel(row.user_key), Personal(row.user_key, "receipt", receipt(row)))
        return room.row.messages - max(marker.messages, room.row.first_messages)
