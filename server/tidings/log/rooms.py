"""Changes of rooms themselves: operations of the journal."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import orjson

from tidings.auth.principal import Principal
from tidings.contract.errors import ActionError, ErrorCode, no_image, not_found
from tidings.contract.models import Posting, Role, RoomKind
from tidings.contract.permissions import Permission
from tidings.log.notices import Joined, Left
from tidings.log.transaction import Operation, Work
from tidings_db.queries import blocks, feed, files, members, rooms, users
from tidings_db.queries.rooms import Snapshot
from tidings_db.queries.rows import direct_key


def new_room_id() -> str:
    return secrets.token_hex(12)


@dataclass(frozen=True, slots=True)
class ChangeTitle(Operation[Snapshot]):
    """Change the title of a group."""

    title: str

    def apply(self, work: Work) -> Snapshot:
        assert self.room_key is not None
        room = work.room(self.room_key)
        work.check(room, self.actor, Permission.SET_TITLE)
        if room.row.title != self.title:
            rooms.set_title(work.conn, self.room_key, self.title)
            room.row = room.row._replace(title=self.title)
            room.append("title", self.actor, work.now, body=orjson.dumps({"title": self.title}).decode())
        work.save()
        return rooms.snapshot(work.conn, self.actor.user_key, self.room_key)


@dataclass(frozen=True, slots=True)
class ChangePurpose(Operation[Snapshot]):
    """Change or remove the purpose of a topic or group."""

    purpose: str | None

    def apply(self, work: Work) -> Snapshot:
        assert self.room_key is not None
        room = work.room(self.room_key)
        work.check(room, self.actor, Permission.SET_PURPOSE)
        if room.row.purpose != self.purpose:
            rooms.set_purpose(work.conn, self.room_key, self.purpose)
            room.row = room.row._replace(purpose=self.purpose)
            room.append("purpose", self.actor, work.now, body=orjson.dumps({"purpose": self.purpose}).decode())
        work.save()
        return rooms.snapshot(work.conn, self.actor.user_key, self.room_key)


@dataclass(frozen=True, slots=True)
class ChangePicture(Operation[Snapshot]):
    """Change or remove the picture of a topic or group."""

    picture: str | None

    def apply(self, work: Work) -> Snapshot:
        assert self.room_key is not None
        room = work.room(self.room_key)
        work.check(room, self.actor, Permission.SET_PICTURE)
        if room.row.picture != self.picture:
            if not files.set_picture(work.conn, self.picture, self.actor.user_key, self.room_key):
                raise no_image()
            rooms.set_picture(work.conn, self.room_key, self.picture)
            room.row = room.row._replace(picture=self.picture)
            room.append("picture", self.actor, work.now, body=orjson.dumps({"picture": self.picture}).decode())
        work.save()
        return rooms.snapshot(work.conn, self.actor.user_key, self.room_key)


@dataclass(frozen=True, slots=True)
class ChangePosting(Operation[Snapshot]):
    """Change who may write to a room."""

    posting: Posting

    def apply(self, work: Work) -> Snapshot:
        assert self.room_key is not None
        room = work.room(self.room_key)
        work.check(room, self.actor, Permission.SET_POSTING)
        if room.row.posting != self.posting:
            rooms.set_posting(work.conn, self.room_key, self.posting)
            room.row = room.row._replace(posting=self.posting)
            room.append("posting", self.actor, work.now, body=orjson.dumps({"posting": self.posting}).decode())
        work.save()
        return rooms.snapshot(work.conn, self.actor.user_key, self.room_key)


@dataclass(frozen=True, slots=True)
class CreateTopic(Operation[Snapshot]):
    topic_name: str
    name_key: str
    is_private: bool
    posting: Posting = Posting.MEMBERS
    purpose: str | None = None

    @property
    def creates(self) -> tuple[str, ...]:
        return self.name_key, _quota_of(self.actor)

    def apply(self, work: Work) -> Snapshot:
        conn, now, owner = work.conn, work.now, self.actor.user_key
        work.quotas.check_owned(conn, owner, RoomKind.TOPIC)
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
            posting=self.posting,
            purpose=self.purpose,
        )
        assert key is not None, "the name was claimed"
        return _begin(work, key, {owner: Role.OWNER})[owner]


@dataclass(frozen=True, slots=True)
class DeleteRoom(Operation[None]):
    """Delete a topic or a group, and free a topic's name. Its actor need not be a member."""

    only_topic: bool = False
    """Whether a group is `not_found`."""

    def apply(self, work: Work) -> None:
        assert self.room_key is not None
        room = work.room(self.room_key)
        is_wrong = room.row.kind == RoomKind.DIRECT or (self.only_topic and room.row.kind != RoomKind.TOPIC)
        if is_wrong or (room.row.is_private and not room.row.members):
            raise not_found("topic")
        work.publish_entries(room)
        room.resize(-room.row.members)
        work.save()
        for user_key in rooms.delete_topic(work.conn, self.room_key):
            work.publish(Left(user_key, self.room_key, room.row.room_id, "deleted", room.row.removals))
        del work.rooms[self.room_key]


@dataclass(frozen=True, slots=True)
class OpenDirect(Operation[int]):
    """Find or create the direct conversation of two users; the result is its key."""

    other_key: int

    @property
    def creates(self) -> tuple[str, ...]:
        return (direct_key(self.actor.user_key, self.other_key),)

    def apply(self, work: Work) -> int:
        pair = (self.actor.user_key, self.other_key)
        direct = rooms.find_direct(work.conn, *pair)
        if direct is not None:
            return direct.key
        # Only the actor's quota counts: a user whose quota is used up must stay reachable.
        work.quotas.check_rooms(work.conn, self.actor.user_key)
        blocked = {key for key in pair if blocks.blockers_of(work.conn, key) & set(pair)}
        if self.actor.user_key in blocked:
            raise ActionError(ErrorCode.FORBIDDEN, "this user does not accept messages from you")
        key = rooms.insert_room(
            work.conn,
            room_id=new_room_id(),
            kind=RoomKind.DIRECT,
            is_private=True,
            direct_key=direct_key(*pair),
            members=2,
            created_at=work.now,
        )
        if key is None:  # another node has created it meanwhile
            direct = rooms.find_direct(work.conn, *pair)
            assert direct is not None
            return direct.key
        _begin(work, key, dict.fromkeys(pair, Role.MEMBER), blocked=blocked)
        return key


@dataclass(frozen=True, slots=True)
class CreateGroup(Operation[Snapshot]):
    """Create a group: the actor is its owner, the invited users are members immediately."""

    invited: tuple[int, ...]
    title: str | None
    posting: Posting = Posting.MEMBERS
    purpose: str | None = None

    @property
    def creates(self) -> tuple[str, ...]:
        return (_quota_of(self.actor),)

    def apply(self, work: Work) -> Snapshot:
        owner = self.actor.user_key
        work.quotas.check_owned(work.conn, owner, RoomKind.GROUP)
        for user_key in self.invited:
            work.quotas.check_rooms(work.conn, user_key, "one of them is")
        key = rooms.insert_room(
            work.conn,
            room_id=new_room_id(),
            kind=RoomKind.GROUP,
            is_private=True,
            title=self.title,
            members=1 + len(self.invited),
            created_at=work.now,
            posting=self.posting,
            purpose=self.purpose,
        )
        assert key is not None
        return _begin(work, key, {owner: Role.OWNER} | dict.fromkeys(self.invited, Role.MEMBER))[owner]


def _quota_of(owner: Principal) -> str:
    return f"rooms of {owner.user_key}"


def _begin(
    work: Work, room_key: int, first: Mapping[int, Role], *, blocked: Iterable[int] = ()
) -> dict[int, Snapshot]:
    """Add the first members of a new room. They are not entries of its log."""
    row = rooms.lock(work.conn, [room_key])[room_key]
    for user_key, role in first.items():
        members.add(work.conn, row, user_key, role, work.now, blocked=user_key in blocked)
    feed.add(work.conn, members=[(room_key, user_key) for user_key in first])
    snapshots = {user_key: rooms.snapshot(work.conn, user_key, room_key) for user_key in first}
    for user_key, snapshot in snapshots.items():
        work.publish(Joined(user_key, snapshot))
    return snapshots
