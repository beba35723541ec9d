"""How much one user may own or join in all, independently of rates. 0: no bound.

Anything beyond is refused with `too_large` and `details.limit`. Devices and sessions are not refused: a new one
replaces the one that was used longest ago.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.engine import Connection as Transaction

from tidings.auth.limits import QUOTAS
from tidings.contract.errors import ActionError, ErrorCode
from tidings.contract.models import RoomKind
from tidings_db.queries import files, quotas


@dataclass(frozen=True, slots=True)
class Quotas:
    devices: int = QUOTAS["devices"]
    sessions: int = QUOTAS["sessions"]
    rooms: int = QUOTAS["rooms"]
    topics: int = QUOTAS["topics"]
    """Topics that one user owns."""
    groups: int = QUOTAS["groups"]
    links: int = QUOTAS["links"]
    """Invitation links of one user to one room."""
    echo_entries: int = QUOTAS["echo_entries"]
    files: int = QUOTAS["files"]
    """Bytes of all files of a user."""

    def check_rooms(self, conn: Transaction, user_key: int, subject: str = "you are") -> None:
        """Raises `too_large` if the user is in as many rooms as allowed. `subject` begins the error text."""
        if self.rooms and quotas.rooms_of(conn, user_key, self.rooms) >= self.rooms:
            raise _too_many(f"{subject} in {self.rooms:,} rooms already", self.rooms)

    def check_owned(self, conn: Transaction, user_key: int, kind: RoomKind) -> None:
        """Raises `too_large` if the user owns as many rooms of the kind as allowed, or is in too many rooms."""
        limit = self.topics if kind == RoomKind.TOPIC else self.groups
        if limit and quotas.owned_by(conn, user_key, kind, limit) >= limit:
            raise _too_many(f"you own {limit:,} {kind}s already", limit)
        self.check_rooms(conn, user_key)

    def check_links(self, conn: Transaction, room_key: int, user_key: int) -> None:
        """Raises `too_large` if the user has made as many invitation links to the room as allowed."""
        if self.links and quotas.links_of(conn, room_key, user_key) >= self.links:
            raise _too_many(f"you have made {self.links:,} invitation links into this room already", self.links)

    def check_files(self, conn: Transaction, user_key: int, size: int) -> None:
        """Raises `too_large` if a file of `size` bytes is more than the user may still store."""
        if self.files and files.bytes_of(conn, user_key) + size > self.files:
            raise _too_many(f"your files would have more than {self.files:,} bytes", self.files)


def _too_many(message: str, limit: int) -> ActionError:
    return ActionError(ErrorCode.TOO_LARGE, message, limit=limit)
