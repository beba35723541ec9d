"""The permissions in a room: one table, checked before a read, and in the transaction of a change."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from tidings.contract.errors import ActionError, ErrorCode, not_found
from tidings.contract.models import Posting, Role, RoomKind, timestamp


class Permission(StrEnum):
    READ = "read"
    SEND = "send"
    EDIT = "edit"
    """Only the caller's own messages."""
    DELETE = "delete"
    """Only the caller's own messages."""
    DELETE_ANY = "delete any"
    REACT = "react"
    TYPE = "type"
    INVITE = "invite"
    INVITE_BY_LINK = "invite by link"
    JOIN = "join"
    LEAVE = "leave"
    SET_TITLE = "set the title"
    SET_PURPOSE = "set the purpose"
    SET_PICTURE = "set the picture"
    SET_POSTING = "choose who may write"
    KICK = "kick"
    BAN = "ban"
    """Includes unbanning, and listing the banned users and the reported messages."""
    MUTE = "mute"
    SET_ROLE = "set a role"


class KeyScope(StrEnum):
    """A right of a key, in any room."""

    PUBLISH = "publish"
    """Messages and events."""
    ROOMS = "rooms"
    """Create, delete and change rooms and their members."""
    USERS = "users"
    """Create and disable users, and make tokens for them."""
    READ = "read"
    """History, events, members, presence."""
    ACT = "act"
    """Act as any user, whom the HTTP header `Tidings-User` names."""


GRANTED: Final[dict[KeyScope, frozenset[Permission]]] = {
    KeyScope.PUBLISH: frozenset(
        {Permission.SEND, Permission.EDIT, Permission.DELETE, Permission.REACT, Permission.TYPE}
    ),
    KeyScope.ROOMS: frozenset(
        {
            Permission.DELETE_ANY,
            Permission.INVITE,
            Permission.SET_TITLE,
            Permission.SET_PURPOSE,
            Permission.SET_PICTURE,
            Permission.SET_POSTING,
            Permission.KICK,
            Permission.BAN,
            Permission.MUTE,
            Permission.SET_ROLE,
        }
    ),
    KeyScope.READ: frozenset({Permission.READ}),
}
"""The permissions that a scope gives in every room, whether the key's user is a member or not."""
NO_PERMISSIONS: Final[frozenset[Permission]] = frozenset()

_MEMBER = frozenset(
    {
        Permission.READ,
        Permission.SEND,
        Permission.EDIT,
        Permission.DELETE,
        Permission.REACT,
        Permission.TYPE,
        Permission.INVITE,
        Permission.INVITE_BY_LINK,
        Permission.LEAVE,
    }
)
_MODERATES = frozenset(
    {
        Permission.DELETE_ANY,
        Permission.SET_TITLE,
        Permission.SET_PURPOSE,
        Permission.SET_PICTURE,
        Permission.KICK,
        Permission.BAN,
        Permission.MUTE,
        Permission.SET_ROLE,
    }
)

ALLOWED: Final[dict[Role | None, frozenset[Permission]]] = {
    None: frozenset({Permission.JOIN}),
    Role.MEMBER: _MEMBER,
    Role.MODERATOR: _MEMBER | _MODERATES,
    Role.OWNER: _MEMBER | _MODERATES | {Permission.SET_POSTING},
}
"""The permissions of each role; `None` is a signed-in user who is not a member."""

WITHOUT: Final[dict[tuple[RoomKind, bool], frozenset[Permission]]] = {
    (RoomKind.TOPIC, False): frozenset({Permission.INVITE_BY_LINK, Permission.SET_TITLE}),
    (RoomKind.TOPIC, True): frozenset({Permission.JOIN, Permission.SET_TITLE}),
    (RoomKind.GROUP, True): frozenset({Permission.JOIN}),
    (RoomKind.DIRECT, True): frozenset(
        {Permission.JOIN, Permission.INVITE, Permission.INVITE_BY_LINK, Permission.LEAVE, Permission.SET_POSTING}
    )
    | _MODERATES,
}
"""Permissions that do not exist in a kind of room, by (kind, is_private)."""

SPEAKING: Final = frozenset({Permission.SEND, Permission.EDIT, Permission.REACT, Permission.TYPE})
"""Permissions that a muted member lacks, and a user whom the other member of a direct conversation has blocked."""

WRITING: Final = frozenset({Permission.SEND, Permission.EDIT, Permission.TYPE})
"""Permissions that a member lacks where only moderators write."""

ON_A_MESSAGE: Final = frozenset({Permission.EDIT, Permission.DELETE, Permission.DELETE_ANY, Permission.REACT})
"""Permissions on a message, referred to by its id: users outside its room get `not_found`, even in a public room."""

_RANK: Final[dict[Role | None, int]] = {None: 0, Role.MEMBER: 1, Role.MODERATOR: 2, Role.OWNER: 3}


def refusal(
    kind: RoomKind,
    is_private: bool,
    role: Role | None,
    banned: bool,
    need: Permission,
    *,
    muted_until: int | None = None,
    blocked: bool = False,
    posting: str = Posting.MEMBERS,
    granted: frozenset[Permission] = NO_PERMISSIONS,
) -> ActionError | None:
    """The error that refuses an action; None if it is allowed.

    A non-member of a private room gets the same error as for a room that does not exist.

    Args:
        muted_until: ms since the epoch, if the member is muted now.
        blocked: whether the other member of a direct conversation has blocked the caller.
        posting: who may write to the room.
        granted: what the caller may do without being a member, by the scopes of a key.
    """
    if need in granted:
        is_missing = need in WITHOUT[kind, is_private]
        return ActionError(ErrorCode.FORBIDDEN, _missing_permission(kind, need)) if is_missing else None
    if role is None and is_private:
        return not_found()
    if need is Permission.JOIN and role is not None:
        return ActionError(ErrorCode.CONFLICT, "already a member")
    if role is None and banned:
        return ActionError(ErrorCode.FORBIDDEN, "banned from this room")
    if need in WITHOUT[kind, is_private]:
        return ActionError(ErrorCode.FORBIDDEN, _missing_permission(kind, need))
    if need not in ALLOWED[role]:
        return ActionError(
            ErrorCode.FORBIDDEN, "not a member" if role is None else f"a {role} may not {_VERBS.get(need, need)}"
        )
    if need in WRITING and role is Role.MEMBER and posting == Posting.MODERATORS:
        return ActionError(ErrorCode.FORBIDDEN, "only moderators may write to this room")
    if need in SPEAKING:
        if muted_until is not None:
            until = timestamp(muted_until)
            return ActionError(ErrorCode.FORBIDDEN, f"muted until {until}", muted_until=until)
        if blocked:
            return ActionError(ErrorCode.FORBIDDEN, "this user does not accept messages from you")
    return None


_VERBS: Final = {
    Permission.DELETE_ANY: "delete messages of others",
    Permission.KICK: "remove members",
    Permission.BAN: "ban users",
    Permission.MUTE: "mute members",
    Permission.SET_ROLE: "change roles",
}


def _missing_permission(kind: RoomKind, need: Permission) -> str:
    if need is Permission.SET_TITLE:
        return f"a {'topic' if kind is RoomKind.TOPIC else 'direct conversation'} has no title to set"
    if kind is RoomKind.TOPIC:
        return "a public topic has no invitation links: anyone may subscribe"
    if need in (Permission.INVITE, Permission.INVITE_BY_LINK):
        return "a direct conversation has exactly two members"
    return "a direct conversation " + ("cannot be left" if need is Permission.LEAVE else "has no moderators")


def may_act_on(actor: Role | None, target: Role | None, *, make: Role | None = None) -> ActionError | None:
    """The error if the actor may not kick, ban or mute the target, or `make` them a role; None if they may.

    The actor's role must be higher than the target's, and at least as high as the new one.
    """
    if _RANK[target] >= _RANK[actor]:
        return ActionError(ErrorCode.FORBIDDEN, f"a {actor} may not do that to a {target}")
    if _RANK[make] > _RANK[actor]:
        return ActionError(ErrorCode.FORBIDDEN, f"a {actor} may not make someone {make}")
    return None
