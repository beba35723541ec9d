"""Who may do what in a room: one table, asked by every door and again inside the transaction that appends."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from server.contract.errors import ActionError, ErrorCode, not_found
from server.contract.models import Role, RoomKind


class Permission(StrEnum):
    READ = "read"
    SEND = "send"
    INVITE = "invite"
    JOIN = "join"
    LEAVE = "leave"


_MEMBER = frozenset({Permission.READ, Permission.SEND, Permission.INVITE, Permission.LEAVE})

ALLOWED: Final[dict[Role | None, frozenset[Permission]]] = {
    None: frozenset({Permission.JOIN}),
    Role.MEMBER: _MEMBER,
    Role.MODERATOR: _MEMBER,
    Role.OWNER: _MEMBER,
}
"""What a role may do; `None` is a signed-in user who is not in the room."""

WITHOUT: Final[dict[tuple[RoomKind, bool], frozenset[Permission]]] = {
    (RoomKind.TOPIC, False): frozenset({Permission.INVITE}),
    (RoomKind.TOPIC, True): frozenset({Permission.JOIN}),
    (RoomKind.GROUP, True): frozenset({Permission.JOIN}),
    (RoomKind.DIRECT, True): frozenset({Permission.JOIN, Permission.INVITE, Permission.LEAVE}),
}
"""What nobody may do in such a room, by (kind, is_private)."""


def refusal(
    kind: RoomKind, is_private: bool, role: Role | None, banned: bool, need: Permission
) -> ActionError | None:
    """Why the action is refused, or None.

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
    return None
