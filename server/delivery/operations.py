"""What the journal can write: one class per change, applied inside the journal's transaction.

`apply` sees the rooms locked, with all the changes of the batch before it, and either raises `ActionError` before it
has changed anything, or changes the room and says what is to be published. The transaction may be run again, so an
operation keeps nothing of a run.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import orjson
from sqlalchemy.engine import Connection

from db.queries import log, rooms, users
from db.queries.log import MarkerRow
from db.queries.rooms import Snapshot, Standing
from db.queries.rows import EntryRow, RoomRow
from db.queries.users import DeviceRow
from server.contract.errors import ActionError, ErrorCode, invalid, not_found
from server.contract.events import MemberChange
from server.contract.models import Role, RoomKind
from server.contract.permissions import Permission, refusal
from server.delivery.broker import (
    Appended,
    Channel,
    Joined,
    Left,
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
MEMBER_EVENTS_UP_TO = 200
"""Public topics tell who comes and goes only while they have no more members than this."""
_NOBODY = Standing(None, False)


def new_room_id() -> str:
    return secrets.token_hex(12)


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
    markers: dict[tuple[int, int], MarkerRow] = field(default_factory=dict)
    notices: list[tuple[Channel, Notice]] = field(default_factory=list)

    def room(self, key: int) -> RoomLog:
        found = self.rooms.get(key)
        if found is None:
            raise not_found()
        return found

    def check(self, room: RoomLog, user_key: int, need: Permission) -> Standing:
        """Judge a user by the permission table, as things stand at this place of the log. Raises `ActionError`."""
        standing = self.standings.get((room.row.key, user_key), _NOBODY)
        refused = refusal(
            RoomKind(room.row.kind),
            room.row.is_private,
            Role(standing.role) if standing.role else None,
            standing.banned,
            need,
        )
        if refused is not None:
            raise refused
        return standing

    def save(self) -> None:
        """Write what was appended and what has moved."""
        entries = [entry for room in self.rooms.values() for entry in room.unsaved]
        if entries:
            log.add(self.conn, entries)
        heads = [room.row for room in self.rooms.values() if room.changed]
        if heads:
            rooms.save_heads(self.conn, heads)
        if self.markers:
            log.save_markers(self.conn, self.markers, self.now)
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
        )
        if self.client_id is not None:
            work.sent[self.room_key, self.actor.user_key, self.client_id] = entry
        work.markers[self.room_key, self.actor.user_key] = MarkerRow(entry.seq, entry.messages)
        return message(room_name(room.row), entry, to_sender=True)


@dataclass(frozen=True, slots=True)
class Join(Operation[Snapshot]):
    """Make a user a member: oneself of a public topic, or somebody else by invitation."""

    user_key: int
    username: str
    need: Permission

    def users(self) -> list[int]:
        return [self.actor.user_key, self.user_key]

    def apply(self, work: Work) -> Snapshot:
        assert self.room_key is not None
        room = work.room(self.room_key)
        work.check(room, self.actor.user_key, self.need)
        theirs = work.standings.get((self.room_key, self.user_key), _NOBODY)
        if theirs.role is not None:
            raise ActionError(ErrorCode.CONFLICT, f"{self.username} is already a member")
        if theirs.banned:
            raise ActionError(ErrorCode.FORBIDDEN, f"{self.username} is banned from this room")
        # Who comes to a topic that everybody has left takes it over.
        role = Role.OWNER if room.row.kind == RoomKind.TOPIC and room.row.members == 0 else Role.MEMBER
        room.resize(+1)
        _tell_members(work, room, self.actor, self.username, MemberChange.JOINED, role)
        work.save()
        rooms.add_member(work.conn, room.row, self.user_key, role, work.now)
        # Of an earlier membership: with a cursor, a device that was away would not be told of the new one.
        rooms.forget_cursors_of_user(work.conn, self.room_key, self.user_key)
        work.standings[self.room_key, self.user_key] = Standing(role, False)
        snapshot = rooms.snapshot(work.conn, self.user_key, self.room_key)
        work.publish(UserChannel(self.user_key), Joined(self.user_key, snapshot))
        return snapshot


@dataclass(frozen=True, slots=True)
class Leave(Operation[None]):
    """Leave a room. An owner's place goes to the longest-standing moderator, else member."""

    def apply(self, work: Work) -> None:
        assert self.room_key is not None
        room = work.room(self.room_key)
        standing = work.check(room, self.actor.user_key, Permission.LEAVE)
        work.save()
        rooms.remove_member(work.conn, self.room_key, self.actor.user_key)
        work.standings[self.room_key, self.actor.user_key] = _NOBODY
        work.publish_entries(room)
        work.publish(
            UserChannel(self.actor.user_key),
            Left(self.actor.user_key, self.room_key, room.row.room_id, MemberChange.LEFT),
        )
        room.resize(-1)
        _tell_members(work, room, self.actor, self.actor.username, MemberChange.LEFT, None)
        if standing.role == Role.OWNER:
            heir = rooms.successor(work.conn, self.room_key)
            if heir is not None:
                rooms.set_role(work.conn, self.room_key, heir[0], Role.OWNER)
                work.standings[self.room_key, heir[0]] = Standing(Role.OWNER, False)
                _tell_members(work, room, self.actor, heir[1], MemberChange.ROLE, Role.OWNER)


def _tell_members(
    work: Work, room: RoomLog, actor: Principal, username: str, change: MemberChange, role: Role | None
) -> None:
    """Private rooms and conversations log who comes and goes; public topics only tell who is there."""
    body = {"username": username, "change": change, "role": role}
    if room.row.is_private:
        room.append("member", actor, work.now, body=orjson.dumps(body).decode())
        work.publish_entries(room)
    else:
        work.publish_entries(room)
        payload = {"room_id": room.row.room_id, "seq": None, **body}
        work.publish(
            RoomChannel(room.row.key),
            Transient(
                room.row.key,
                "member",
                payload,
                up_to_members=MEMBER_EVENTS_UP_TO,
                members=room.row.members,
            ),
        )


@dataclass(frozen=True, slots=True)
class CreateTopic(Operation[Snapshot]):
    topic_name: str
    name_key: str
    is_private: bool

    def apply(self, work: Work) -> Snapshot:
        conn, now, owner = work.conn, work.now, self.actor.user_key
        if not users.claim_name(conn, self.name_key, "topic"):
            raise ActionError(ErrorCode.CONFLICT, "the name is taken")
        key = rooms.insert_room(
            conn,
            room_id=new_room_id(),
            kind=RoomKind.TOPIC,
            is_private=self.is_private,
            topic_name=self.topic_name,
            name_key=self.name_key,
            members=1,
            created_at=now,
        )
        assert key is not None, "the name was claimed"
        return _begin(work, key, {owner: Role.OWNER})[owner]


@dataclass(frozen=True, slots=True)
class NameDevice(Operation[DeviceRow]):
    """Name a device of the actor for the first time."""

    name: str

    def apply(self, work: Work) -> DeviceRow:
        work.save()
        return users.add_device(work.conn, self.actor.user_key, self.name, work.now)


@dataclass(frozen=True, slots=True)
class OpenDirect(Operation[int]):
    """The key of the one direct conversation of two users; made if need be."""

    other_key: int

    def apply(self, work: Work) -> int:
        pair = (self.actor.user_key, self.other_key)
        key = rooms.insert_room(
            work.conn,
            room_id=new_room_id(),
            kind=RoomKind.DIRECT,
            is_private=True,
            direct_key=rooms.direct_key(*pair),
            members=2,
            created_at=work.now,
        )
        if key is None:  # the other was quicker
            found = rooms.find_direct(work.conn, *pair)
            assert found is not None
            return found.key
        _begin(work, key, dict.fromkeys(pair, Role.MEMBER))
        return key


def _begin(work: Work, room_key: int, members: dict[int, Role]) -> dict[int, Snapshot]:
    """Fill a new room with its first members: they are its beginning, not entries of its log."""
    row = rooms.lock(work.conn, [room_key])[room_key]
    for user_key, role in members.items():
        rooms.add_member(work.conn, row, user_key, role, work.now)
    snapshots = {user_key: rooms.snapshot(work.conn, user_key, room_key) for user_key in members}
    for user_key, snapshot in snapshots.items():
        work.publish(UserChannel(user_key), Joined(user_key, snapshot))
    return snapshots


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
        marker = log.marker(work.conn, *at)
        if self.seq > marker.seq:
            marker = MarkerRow(self.seq, log.messages_upto(work.conn, self.room_key, self.seq))
            log.save_markers(work.conn, {at: marker}, work.now)
            work.publish_entries(room)
            for row in log.receipts(work.conn, [at]):
                if row.members <= RECEIPT_MEMBERS:
                    work.publish(RoomChannel(row.room_key), Transient(row.room_key, "receipt", receipt(row)))
                else:
                    work.publish(UserChannel(row.user_key), Personal(row.user_key, "receipt", receipt(row)))
        return room.row.messages - marker.messages
