"""Changes of who is in a room, and of what they may do there: operations of the journal."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import orjson

from db.queries import members, progress, rooms, users
from db.queries.members import Standing
from db.queries.rooms import Snapshot
from db.queries.rows import direct_key
from server.contract.actions import MAX_GROUP
from server.contract.errors import ActionError, ErrorCode, invalid, not_found
from server.contract.events import MemberChange
from server.contract.models import Role, RoomKind
from server.contract.permissions import Permission, may_act_on
from server.delivery.broker import Joined, Left, Personal, RoomChannel, Transient, UserChannel
from server.delivery.connection import Principal
from server.delivery.operations import NOBODY, Operation, RoomLog, Work

MEMBER_EVENTS_UP_TO = 200
"""Public topics tell who comes and goes only while they have no more members than this."""


def new_room_id() -> str:
    return secrets.token_hex(12)


def _admit(work: Work, room: RoomLog, actor: Principal, user_key: int, username: str) -> Snapshot:
    """Make a user a member, whoever brought them. Raises `conflict`, `forbidden` or `too_large`."""
    key = room.row.key
    theirs = work.standings.get((key, user_key), NOBODY)
    if theirs.role is not None:
        raise ActionError(ErrorCode.CONFLICT, f"{username} is already a member")
    if theirs.banned:
        raise ActionError(ErrorCode.FORBIDDEN, f"{username} is banned from this room")
    if room.row.kind == RoomKind.GROUP and room.row.members >= MAX_GROUP:
        raise ActionError(ErrorCode.TOO_LARGE, f"a group has {MAX_GROUP} members at most", limit=MAX_GROUP)
    # Who comes to a room that everybody has left takes it over.
    role = Role.OWNER if room.row.members == 0 else Role.MEMBER
    room.resize(+1)
    _tell_members(work, room, actor, username, MemberChange.JOINED, role)
    work.save()
    muted_until = members.add(work.conn, room.row, user_key, role, work.now)
    # Of an earlier membership: with a cursor, a device that was away would not be told of the new one.
    progress.forget_cursors_of_user(work.conn, key, user_key)
    work.standings[key, user_key] = Standing(role, False, muted_until)
    work.named.add((key, username))
    snapshot = rooms.snapshot(work.conn, user_key, key)
    work.publish(UserChannel(user_key), Joined(user_key, snapshot))
    return snapshot


def _remove(work: Work, room: RoomLog, actor: Principal, user_key: int, username: str, change: MemberChange) -> None:
    """End a membership. An owner's place goes to the longest-standing moderator, else member."""
    key = room.row.key
    was = work.standings[key, user_key].role
    work.save()
    members.remove(work.conn, key, user_key)
    work.standings[key, user_key] = NOBODY
    work.named.discard((key, username))
    work.publish_entries(room)
    work.publish(UserChannel(user_key), Left(user_key, key, room.row.room_id, change))
    room.resize(-1)
    _tell_members(work, room, actor, username, change, None)
    if was == Role.OWNER:
        heir = members.successor(work.conn, key)
        if heir is not None:
            _give_role(work, room, actor, heir[0], heir[1], Role.OWNER)


def _give_role(work: Work, room: RoomLog, actor: Principal, user_key: int, username: str, role: Role) -> None:
    key = room.row.key
    members.set_role(work.conn, key, user_key, role)
    standing = work.standings.get((key, user_key))
    if standing is None:  # not among those the batch is about
        standing = members.standing(work.conn, key, user_key, work.now)
    work.standings[key, user_key] = standing._replace(role=role)
    _tell_members(work, room, actor, username, MemberChange.ROLE, role, user_key)


def _tell_members(
    work: Work,
    room: RoomLog,
    actor: Principal,
    username: str,
    change: MemberChange,
    role: Role | None,
    user_key: int | None = None,
) -> None:
    """Private rooms and conversations log who comes and goes; public topics only tell who is there.

    `user_key`: the user concerned, if they are still in and have to know however large the topic is.
    """
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
        if user_key is not None and room.row.members > MEMBER_EVENTS_UP_TO:
            work.publish(UserChannel(user_key), Personal(user_key, "member", payload))


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
        # After it: who may not know of the room is not told anything else, either.
        invited = self.user_key != self.actor.user_key
        if invited and self.user_key in users.blockers_of(work.conn, self.actor.user_key):
            raise ActionError(ErrorCode.FORBIDDEN, f"{self.username} does not take invitations from you")
        return _admit(work, room, self.actor, self.user_key, self.username)


@dataclass(frozen=True, slots=True)
class JoinByLink(Operation[Snapshot]):
    """Become a member by an invitation link."""

    code: str

    def apply(self, work: Work) -> Snapshot:
        assert self.room_key is not None
        room = work.room(self.room_key)
        if members.link(work.conn, self.code, work.now) is None:
            raise not_found("invitation link")
        snapshot = _admit(work, room, self.actor, self.actor.user_key, self.actor.username)
        members.use_link(work.conn, self.code)
        return snapshot


@dataclass(frozen=True, slots=True)
class Leave(Operation[None]):
    """Leave a room. An owner's place goes to the longest-standing moderator, else member."""

    def apply(self, work: Work) -> None:
        assert self.room_key is not None
        room = work.room(self.room_key)
        work.check(room, self.actor.user_key, Permission.LEAVE)
        _remove(work, room, self.actor, self.actor.user_key, self.actor.username, MemberChange.LEFT)


@dataclass(frozen=True, slots=True)
class Moderation(Operation[None]):
    """What a moderator does to another user of a room."""

    user_key: int
    username: str

    def users(self) -> list[int]:
        return [self.actor.user_key, self.user_key]

    def judge(self, work: Work, need: Permission, *, make: Role | None = None) -> tuple[RoomLog, Standing]:
        """The room, and what the other is in it. Raises `ActionError`."""
        assert self.room_key is not None
        room = work.room(self.room_key)
        mine = work.check(room, self.actor.user_key, need)
        if self.user_key == self.actor.user_key:
            raise invalid("username", "that is yourself")
        theirs = work.standings.get((self.room_key, self.user_key), NOBODY)
        refused = may_act_on(_role(mine), _role(theirs), make=make)
        if refused is not None:
            raise refused
        return room, theirs


def _role(standing: Standing) -> Role | None:
    return None if standing.role is None else Role(standing.role)


@dataclass(frozen=True, slots=True)
class Kick(Moderation):
    """Remove a member, who may come back."""

    def apply(self, work: Work) -> None:
        room, theirs = self.judge(work, Permission.KICK)
        if theirs.role is None:
            raise not_found("member")
        _remove(work, room, self.actor, self.user_key, self.username, MemberChange.KICKED)


@dataclass(frozen=True, slots=True)
class Ban(Moderation):
    """Remove a user, if they are a member, and do not let them come back; for `duration` seconds, or for ever."""

    duration: int | None

    def apply(self, work: Work) -> None:
        room, theirs = self.judge(work, Permission.BAN)
        if theirs.role is not None:
            _remove(work, room, self.actor, self.user_key, self.username, MemberChange.BANNED)
        until = None if self.duration is None else work.now + self.duration * 1000
        members.add_ban(work.conn, room.row.key, self.user_key, work.now, until)
        work.standings[room.row.key, self.user_key] = Standing(None, True)


@dataclass(frozen=True, slots=True)
class Unban(Moderation):
    """Let a banned user come back."""

    def apply(self, work: Work) -> None:
        room, theirs = self.judge(work, Permission.BAN)
        if not theirs.banned:
            raise not_found("ban")
        members.remove_ban(work.conn, room.row.key, self.user_key)
        work.standings[room.row.key, self.user_key] = NOBODY


@dataclass(frozen=True, slots=True)
class Mute(Moderation):
    """Let a member not speak for `duration` seconds; with 0, speak again. It outlives leaving and coming back."""

    duration: int

    def apply(self, work: Work) -> None:
        room, theirs = self.judge(work, Permission.MUTE)
        if theirs.role is None:
            raise not_found("member")
        until = work.now + self.duration * 1000 if self.duration else None
        members.set_mute(work.conn, room.row.key, self.user_key, until)
        work.standings[room.row.key, self.user_key] = theirs._replace(muted_until=until)


@dataclass(frozen=True, slots=True)
class SetRole(Moderation):
    """Give a member a role not above one's own. Who makes another the owner is a moderator from then on."""

    role: Role

    def apply(self, work: Work) -> None:
        room, theirs = self.judge(work, Permission.SET_ROLE, make=self.role)
        if theirs.role is None:
            raise not_found("member")
        if theirs.role == self.role:
            return
        work.save()
        _give_role(work, room, self.actor, self.user_key, self.username, self.role)
        if self.role == Role.OWNER:
            _give_role(work, room, self.actor, self.actor.user_key, self.actor.username, Role.MODERATOR)


@dataclass(frozen=True, slots=True)
class SetTitle(Operation[Snapshot]):
    """Give a group another title."""

    title: str

    def apply(self, work: Work) -> Snapshot:
        assert self.room_key is not None
        room = work.room(self.room_key)
        work.check(room, self.actor.user_key, Permission.SET_TITLE)
        if room.row.title != self.title:
            rooms.set_title(work.conn, self.room_key, self.title)
            room.row = room.row._replace(title=self.title)
            room.append("title", self.actor, work.now, body=orjson.dumps({"title": self.title}).decode())
        work.save()
        return rooms.snapshot(work.conn, self.actor.user_key, self.room_key)


@dataclass(frozen=True, slots=True)
class CreateLink(Operation[str]):
    """Make an invitation link; returns its code."""

    expires_at: int | None
    uses: int | None

    def apply(self, work: Work) -> str:
        assert self.room_key is not None
        room = work.room(self.room_key)
        work.check(room, self.actor.user_key, Permission.INVITE)
        code = secrets.token_urlsafe(15)
        members.add_link(
            work.conn,
            code,
            self.room_key,
            self.actor.user_key,
            work.now,
            expires_at=self.expires_at,
            uses=self.uses,
        )
        return code


@dataclass(frozen=True, slots=True)
class DeleteLink(Operation[None]):
    """Make an invitation link void. Any member may who may invite."""

    code: str

    def apply(self, work: Work) -> None:
        assert self.room_key is not None
        room = work.room(self.room_key)
        try:
            work.check(room, self.actor.user_key, Permission.INVITE)
        except ActionError:
            raise not_found("invitation link") from None
        members.remove_link(work.conn, self.code)


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
class DeleteTopic(Operation[None]):
    """Take a topic from its members, and its name from it: an administrator's, who need not be in it."""

    def apply(self, work: Work) -> None:
        assert self.room_key is not None
        room = work.room(self.room_key)
        if room.row.kind != RoomKind.TOPIC or (room.row.is_private and not room.row.members):
            raise not_found("topic")
        work.publish_entries(room)
        room.resize(-room.row.members)
        work.save()
        for user_key in rooms.delete_topic(work.conn, self.room_key):
            work.publish(UserChannel(user_key), Left(user_key, self.room_key, room.row.room_id, "deleted"))
        del work.rooms[self.room_key]


@dataclass(frozen=True, slots=True)
class OpenDirect(Operation[int]):
    """The key of the one direct conversation of two users; made if need be."""

    other_key: int

    def apply(self, work: Work) -> int:
        pair = (self.actor.user_key, self.other_key)
        found = rooms.find_direct(work.conn, *pair)
        if found is not None:
            return found.key
        deaf = {key for key in pair if users.blockers_of(work.conn, key) & set(pair)}
        if self.actor.user_key in deaf:
            raise ActionError(ErrorCode.FORBIDDEN, "this user does not take messages from you")
        key = rooms.insert_room(
            work.conn,
            room_id=new_room_id(),
            kind=RoomKind.DIRECT,
            is_private=True,
            direct_key=direct_key(*pair),
            members=2,
            created_at=work.now,
        )
        if key is None:  # another node was quicker
            found = rooms.find_direct(work.conn, *pair)
            assert found is not None
            return found.key
        _begin(work, key, dict.fromkeys(pair, Role.MEMBER), blocked=deaf)
        return key


@dataclass(frozen=True, slots=True)
class CreateGroup(Operation[Snapshot]):
    """Make a group; the actor is its owner, the others are members at once."""

    others: tuple[int, ...]
    title: str | None

    def apply(self, work: Work) -> Snapshot:
        me = self.actor.user_key
        key = rooms.insert_room(
            work.conn,
            room_id=new_room_id(),
            kind=RoomKind.GROUP,
            is_private=True,
            title=self.title,
            members=1 + len(self.others),
            created_at=work.now,
        )
        assert key is not None
        return _begin(work, key, {me: Role.OWNER} | dict.fromkeys(self.others, Role.MEMBER))[me]


def _begin(
    work: Work, room_key: int, first: Mapping[int, Role], *, blocked: Iterable[int] = ()
) -> dict[int, Snapshot]:
    """Fill a new room with its first members: they are its beginning, not entries of its log."""
    row = rooms.lock(work.conn, [room_key])[room_key]
    for user_key, role in first.items():
        members.add(work.conn, row, user_key, role, work.now, blocked=user_key in blocked)
    snapshots = {user_key: rooms.snapshot(work.conn, user_key, room_key) for user_key in first}
    for user_key, snapshot in snapshots.items():
        work.publish(UserChannel(user_key), Joined(user_key, snapshot))
    return snapshots
