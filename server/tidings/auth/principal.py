"""The identity of a caller."""

from __future__ import annotations

from dataclasses import dataclass

from tidings.contract.permissions import NO_PERMISSIONS, KeyScope, Permission

NO_SESSION = 0
"""The session of an account of the server itself, which nobody withdraws."""


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated user with a session."""

    user_key: int
    username: str
    session_key: int
    sid: str
    expires_at: int
    """`exp` of the presented token, in ms since the epoch."""
    admin: bool = False
    scopes: frozenset[KeyScope] | None = None
    """Of a key; None: a user, who has the rights of a user."""
    granted: frozenset[Permission] = NO_PERMISSIONS
    """The permissions in rooms that the scopes give."""
    only_room: int | None = None
    """The only room in which they hold; None: any."""
    key_name: str | None = None
    """The key that acts as this user; None: the user themselves, or the key's own."""

    display_name: str | None = None

    def granted_in(self, room_key: int) -> frozenset[Permission]:
        """The permissions in a room that do not depend on a membership."""
        return self.granted if self.only_room is None or self.only_room == room_key else NO_PERMISSIONS
