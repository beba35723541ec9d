"""Changes of memberships, roles, bans and invitation links: operations of the journal."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import orjson

from tidings.auth.principal import Principal
from tidings.contract.actions import MAX_GROUP
from tidings.contract.errors import ActionError, ErrorCode, invalid, not_found
from tidings.contract.events import MemberChange
from tidings.contract.models import Role, RoomKind
from tidings.contract.permissions import Permission, may_act_on
from tidings.log.notices import Joined, Left, MembershipChanged
from tidings.log.transaction import Operation, RoomLog, Work
from tidings_db.names import username_key
from tidings_db.queries import blocks, members, progress, rooms
from tidings_db.queries.journal import NOBODY
from tidings_db.queries.members import LinkRow, MemberStanding
from tidings_db.queries.rooms import Snapshot


def admit(work: Work, room: RoomLog, actor: Principal, user_key: int, username: str) -> Snapshot:
    """Make a user a member. Raises `conflict`, `forbidden` or `too_large`."""
    key = room.row.key
    standing = work.standings.get((key, user_key), NOBODY)
    if standing.role is not None:
        raise ActionError(ErrorCode.CONFLICT, f"{username} is already a member")
    if standing.banned:
        raise ActionError(ErrorCode.FORBIDDEN, f"{username} is banned from this room")
    if room.row.kind == RoomKind.GROUP and room.row.members >= MAX_GROUP:
        raise ActionError(ErrorCode.TOO_LARGE, f"a group has {MAX_GROUP} members at most", limit=MAX_GROUP)
    invited = user_key != actor.user_key
    work.quotas.check_rooms(work.conn, user_key, f"{username} is" if invited else "you are")
    # The first to join a room that everybody has left becomes its owner.
    role = Role.OWNER if room.row.members == 0 else Role.MEMBER
    room.resize(+1)
    _publish_change(work, room, actor, user_key, username, MemberChange.JOINED, role)
    work.save()
    muted_until = members.add(work.conn, room.row, user_key, role, work.now)
    # Cursors of an earlier membership: with one, a device that was away would get no `room_added` for the new one.
    progress.forget_cursors_of_user(work.conn, key, user_key)
    work.standings[key, user_key] = MemberStanding(role, False, muted_until)
    work.named[key, username_key(username)] = username
    snapshot = rooms.snapshot(work.conn, user_key, key)
    work.publish(Joined(user_key, snapshot))
    return snapshot


def remove(work: Work, room: RoomLog, actor: Principal, user_key: int, username: str, change: MemberChange) -> None:
    """End a membership and delete the member's invitation links.

    If an owner leaves, the longest-standing moderator, else member, becomes the owner.
    """
    key = room.row.key
    former_role = work.standings[key, user_key].role
    work.save()
    members.remove(work.conn, key, user_key)
    members.remove_links_of(work.conn, key, user_key)
    work.standings[key, user_key] = NOBODY
    work.named.pop((key, username_key(username)), None)
    work.publish_entries(room)
    room.resize(-1)
    work.publish(Left(user_key, key, room.row.room_id, change, room.row.removals))
    _publish_change(work, room, actor, user_key, username, change, None)
    if former_role == Role.OWNER:
        heir = members.successor(work.conn, key)
        if heir is not None:
            _give_role(work, room, actor, heir[0], heir[1], Role.OWNER)


def _give_role(work: Work, room: RoomLog, actor: Principal, user_key: int, username: str, role: Role) -> None:
    key = room.row.key
    members.set_role(work.conn, key, user_key, role)
    standing = work.standings.get((key, user_key))
    if standing is None:  # the heir: no operation of the batch is about them
        standing = members.standing(work.conn, key, user_key, work.now)
    work.standings[key, user_key] = standing._replace(role=role)
    _publish_change(work, room, actor, user_key, username, MemberChange.ROLE, role)


def _publish_change(
    work: Work,
    room: RoomLog,
    actor: Principal,
    user_key: int,
    username: str,
    change: MemberChange,
    role: Role | None,
) -> None:
    """Log the change in private rooms and conversations; in public topics, publish it as an event only."""
    membership = room.change_member(user_key, username, change, role)
    if room.row.is_private:
        body = {"username": username, "change": change, "role": role}
        room.append("member", actor, work.now, body=orjson.dumps(body).decode())
        work.publish_entries(room)
    else:
        work.publish_entries(room)
        work.publish(MembershipChanged(membership))


@dataclass(frozen=True, slots=True)
class Join(Operation[Snapshot]):
    """Make a user a member: the actor of a public topic, or another user by invitation."""

    user_key: int
    username: str
    need: Permission

    def users(self) -> list[int]:
        return [self.actor.user_key, self.user_key]

    def apply(self, work: Work) -> Snapshot:
        assert self.room_key is not None
        room = work.room(self.room_key)
        work.check(room, self.actor, self.need)
        # After the check: a user who may not know of the room learns nothing from other errors.
        invited = self.user_key != self.actor.user_key
        if invited and self.user_key in blocks.blockers_of(work.conn, self.actor.user_key):
            raise ActionError(ErrorCode.FORBIDDEN, f"{self.username} does not accept invitations from you")
        return admit(work, room, self.actor, self.user_key, self.username)


@dataclass(frozen=True, slots=True)
class JoinByLink(Operation[Snapshot]):
    """Become a member by an invitation link."""

    code: str

    def apply(self, work: Work) -> Snapshot:
        assert self.room_key is not None
        room = work.room(self.room_key)
        if members.link(work.conn, self.code, work.now) is None:
            raise not_found("invitation link")
        snapshot = admit(work, room, self.actor, self.actor.user_key, self.actor.username)
        members.use_link(work.conn, self.code)
        return snapshot


@dataclass(frozen=True, slots=True)
class Leave(Operation[None]):
    """Leave a room. If the owner leaves, the longest-standing moderator, else member, becomes the owner."""

    def apply(self, work: Work) -> None:
        assert self.room_key is not None
        room = work.room(self.room_key)
        work.check(room, self.actor, Permission.LEAVE)
        remove(work, room, self.actor, self.actor.user_key, self.actor.username, MemberChange.LEFT)


@dataclass(frozen=True, slots=True)
class Moderation(Operation[None]):
    """A change that a moderator makes to another user of a room."""

    user_key: int
    username: str

    def users(self) -> list[int]:
        return [self.actor.user_key, self.user_key]

    def judge(self, work: Work, need: Permission, *, make: Role | None = None) -> tuple[RoomLog, MemberStanding]:
        """Check what the actor may do to the user; returns the room and the user's standing. Raises `ActionError`."""
        assert self.room_key is not None
        room = work.room(self.room_key)
        standing = work.check(room, self.actor, need)
        if self.user_key == self.actor.user_key:
            raise invalid("username", "that is yourself")
        target = work.standings.get((self.room_key, self.user_key), NOBODY)
        if need not in self.actor.granted_in(self.room_key):
            error = may_act_on(_role(standing), _role(target), make=make)
            if error is not None:
                raise error
        return room, target


def _role(standing: MemberStanding) -> Role | None:
    return None if standing.role is None else Role(standing.role)


@dataclass(frozen=True, slots=True)
class KickMember(Moderation):
    """Remove a member; they may join again."""

    def apply(self, work: Work) -> None:
        room, target = self.judge(work, Permission.KICK)
        if target.role is None:
            raise not_found("member")
        remove(work, room, self.actor, self.user_key, self.username, MemberChange.KICKED)


@dataclass(frozen=True, slots=True)
class BanFromRoom(Moderation):
    """Ban a user for `duration` seconds or for ever, and remove them if they are a member."""

    duration: int | None

    def apply(self, work: Work) -> None:
        room, target = self.judge(work, Permission.BAN)
        if target.role is not None:
            remove(work, room, self.actor, self.user_key, self.username, MemberChange.BANNED)
        until = None if self.duration is None else work.now + self.duration * 1000
        members.add_ban(work.conn, room.row.key, self.user_key, work.now, until)
        work.standings[room.row.key, self.user_key] = MemberStanding(None, True)


@dataclass(frozen=True, slots=True)
class LiftBan(Moderation):
    """Let a banned user come back."""

    def apply(self, work: Work) -> None:
        room, target = self.judge(work, Permission.BAN)
        if not target.banned:
            raise not_found("ban")
        members.remove_ban(work.conn, room.row.key, self.user_key)
        work.standings[room.row.key, self.user_key] = NOBODY


@dataclass(frozen=True, slots=True)
class MuteMember(Moderation):
    """Mute a member for `duration` seconds, or end it with 0. A mute survives leaving and joining again."""

    duration: int

    def apply(self, work: Work) -> None:
        room, target = self.judge(work, Permission.MUTE)
        if target.role is None:
            raise not_found("member")
        until = work.now + self.duration * 1000 if self.duration else None
        members.set_mute(work.conn, room.row.key, self.user_key, until)
        work.standings[room.row.key, self.user_key] = target._replace(muted_until=until)


@dataclass(frozen=True, slots=True)
class ChangeRole(Moderation):
    """Give a member a role not above the actor's. If it is `owner`, the former owner becomes a moderator."""

    role: Role

    def apply(self, work: Work) -> None:
        room, target = self.judge(work, Permission.SET_ROLE, make=self.role)
        if target.role is None:
            raise not_found("member")
        if target.role == self.role:
            return
        if target.role == Role.OWNER:
            raise ActionError(ErrorCode.FORBIDDEN, "the owner keeps that role until another member gets it")
        work.save()
        former_owners = members.owners(work.conn, room.row.key)
        _give_role(work, room, self.actor, self.user_key, self.username, self.role)
        if self.role == Role.OWNER:
            for user_key, username in former_owners:
                _give_role(work, room, self.actor, user_key, username, Role.MODERATOR)


@dataclass(frozen=True, slots=True)
class CreateLink(Operation[LinkRow]):
    """Make an invitation link."""

    expires_at: int | None
    uses: int | None

    def apply(self, work: Work) -> LinkRow:
        assert self.room_key is not None
        room, actor = work.room(self.room_key), self.actor
        work.check(room, actor, Permission.INVITE_BY_LINK)
        work.quotas.check_links(work.conn, self.room_key, actor.user_key)
        code, limits = secrets.token_urlsafe(15), (self.expires_at, self.uses)
        link = LinkRow(self.room_key, room.row.room_id, code, actor.username, work.now, *limits)
        members.add_link(work.conn, link, actor.user_key)
        return link


@dataclass(frozen=True, slots=True)
class DeleteLink(Operation[None]):
    """Delete an invitation link. Moderators may delete any link, other members their own."""

    code: str

    def apply(self, work: Work) -> None:
        assert self.room_key is not None
        room = work.room(self.room_key)
        try:
            standing = work.check(room, self.actor, Permission.INVITE_BY_LINK)
        except ActionError:
            raise not_found("invitation link") from None
        link = members.link(work.conn, self.code, work.now)
        if link is None:
            raise not_found("invitation link")
        if standing.role == Role.MEMBER and link.username != self.actor.username:
            raise ActionError(ErrorCode.FORBIDDEN, "a member may delete only their own invitation links")
        members.remove_link(work.conn, self.code)
