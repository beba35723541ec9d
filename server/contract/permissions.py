"""Who may do what in a room: one table, asked by every door and again inside the transaction that appends."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from server.contract.errors import ActionError, ErrorCode, not_found
from server.contract.models import Role, RoomKind, timestamp


class Permission(StrEnum):
    READ = "read"
    SEND = "send"
    EDIT = "edit"
    """One's own messages."""
    DELETE = "delete"
    """One's own messages."""
    DELETE_ANY = "delete any"
    REACT = "react"
    TYPE = "type"
    INVITE = "invite"
    JOIN = "join"
    LEAVE = "leave"
    SET_TITLE = "set the title"
    KICK = "kick"
    BAN = "ban"
    """And unban, and see who is banned."""
    MUTE = "mute"
    SET_ROLE = "set a role"


_MEMBER = frozenset(
    {
        Permission.READ,
        Permission.SEND,
        Permission.EDIT,
        Permission.DELETE,
        Permission.REACT,
        Permission.TYPE,
        Permission.INVITE,
        Permission.LEAVE,
    }
)
_MODERATES = frozenset(
    {
        Permission.DELETE_ANY,
        Permission.SET_TITLE,
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
    Role.OWNER: _MEMBER | _MODERATES,
}
"""What a role may do; `None` is a signed-in user who is not in the room."""

WITHOUT: Final[dict[tuple[RoomKind, bool], frozenset[Permission]]] = {
    (RoomKind.TOPIC, False): frozenset({Permission.INVITE, Permission.SET_TITLE}),
    (RoomKind.TOPIC, True): frozenset({Permission.JOIN, Permission.SET_TITLE}),
    (RoomKind.GROUP, True): frozenset({Permission.JOIN}),
    (RoomKind.DIRECT, True): frozenset({Permission.JOIN, Permission.INVITE, Permission.LEAVE}) | _MODERATES,
}
"""What nobody may do in such a room, by (kind, is_private)."""

SPEAKING: Final = frozenset({Permission.SEND, Permission.EDIT, Permission.REACT, Permission.TYPE})
"""What a muted member may not do, nor who was blocked by the other in a direct conversation."""

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
) -> ActionError | None:
    """Why the action is refused, or None. `muted_until`: ms since the epoch, if the member is muted now.

    Who is not in a private room is told that there is none: the same error as for a room that does not exist.
    """
    if role is None and is_private:
        return not_found()
    if need is Permission.JOIN and role is not None:
        return ActionError(ErrorCode.CONFLICT, "already a member")
    if role is None and banned:
        return ActionError(ErrorCode.FORBIDDEN, "banned from this room")
    if need in WITHOUT[kind, is_private]:
        return ActionError(ErrorCode.FORBIDDEN, f"{need} is not possible in this kind of room")
    if need not in ALLOWED[role]:
        return ActionError(ErrorCode.FORBIDDEN, "not a member" if role is None else f"a {role} may not {need}")
    if need in SPEAKING:
        if muted_until is not None:
            until = timestamp(muted_until)
            return ActionError(ErrorCode.FORBIDDEN, f"muted until {until}", muted_until=until)
        if blocked:
            return ActionError(ErrorCode.FORBIDDEN, "this user does not take messages from you")
    return None


def may_act_on(actor: Role | None, target: Role | None, *, make: Role | None = None) -> ActionError | None:
    """Why a moderator may not act on that user (kick, ban, mute, or `make` them something), or None.

    One acts only on who stands below oneself, and raises nobody above oneself.
    """
    if _RANK[target] >= _RANK[actor]:
        return ActionError(ErrorCode.FORBIDDEN, f"a {actor} may not do that to a {target}")
    if _RANK[make] > _RANK[actor]:
        return ActionError(ErrorCode.FORBIDDEN, f"a {actor} may not make someone {make}")
    return None
