"""The server's own API, for code in the same process: `app.tidings`."""

from __future__ import annotations

from pydantic import ValidationError
from sqlalchemy.engine import Connection as Transaction

from tidings.actions.access import is_member
from tidings.contract.actions import SubjectInRoom
from tidings_db.engine import Database


class ServerApi:
    """The server's API for an application, which acts on behalf of no user.

    All methods may raise `StoreUnavailable`.
    """

    def __init__(self, database: Database) -> None:
        self._db = database

    async def is_member(self, room: str, username: str) -> bool:
        """Whether a user is a member of a room now. False if there is no such room or user.

        An application may pass on whatever a client has sent, of any type.

        Args:
            room: a `room_id`, or the name of a topic.
        """
        try:
            SubjectInRoom.model_validate({"topic_name": room, "username": username}, strict=True)
        except ValidationError:
            return False

        def find(conn: Transaction) -> bool:
            return is_member(conn, room, username)

        return await self._db.read(find)
