"""How much one user may have, whatever the rate at which they get it. 0: no bound.

What a user makes or enters beyond a bound is refused with `too_large` and `details.limit`. Devices and sessions are
not refused: a new one takes the place of the one that was used longest ago.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.engine import Connection as Transaction

from db.queries import quotas
from server.contract.errors import ActionError, ErrorCode
from server.contract.models import RoomKind

DEVICES = 100
SESSIONS = 100
LINKS = 50
"""Invitation links of one user into one room."""
ROOMS = 3_000
"""A connection enters all of them in one step of the event loop, which takes half of what a step may take."""
OWNED = 1_000
"""Topics, and groups, that one user owns."""
ECHO_ENTRIES = 10_000


@dataclass(frozen=True, slots=True)
class Quotas:
    devices: int = DEVICES
    sessions: int = SESSIONS
    links: int = LINKS
    rooms: int = ROOMS
    topics: int = OWNED
    groups: int = OWNED
    echo_entries: int = ECHO_ENTRIES

    def check_rooms(self, conn: Transaction, user_key: int, who: str = "you are") -> None:
        """Raises `too_large` if the user is in as many rooms as they may be in."""
        if self.rooms and quotas.rooms_of(conn, user_key, self.rooms) >= self.rooms:
            raise _too_many(f"{who} in {self.rooms:,} rooms already", self.rooms)

    def check_owned(self, conn: Transaction, user_key: int, kind: RoomKind) -> None:
        """Raises `too_large` if the user owns as many rooms of a kind as they may, or is in too many."""
        most = self.topics if kind == RoomKind.TOPIC else self.groups
        if most and quotas.owned_by(conn, user_key, kind, most) >= most:
            raise _too_many(f"you own {most:,} {kind}s already", most)
        self.check_rooms(conn, user_key)

    def check_links(self, conn: Transaction, room_key: int, user_key: int) -> None:
        """Raises `too_large` if the user has made as many invitation links into the room as they may."""
        if self.links and quotas.links_of(conn, room_key, user_key) >= self.links:
            raise _too_many(f"you have made {self.links:,} invitation links into this room already", self.links)


def _too_many(message: str, limit: int) -> ActionError:
    return ActionError(ErrorCode.TOO_LARGE, message, limit=limit)
