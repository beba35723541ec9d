"""The change of a user's chat room: an operation of the journal."""

from __future__ import annotations

from dataclasses import dataclass

from db.queries import places
from db.queries.journal import NOBODY
from db.queries.places import PlaceRow
from server.contract.errors import not_found
from server.log.transaction import Operation, Work


@dataclass(frozen=True, slots=True)
class TakePlace(Operation[PlaceRow | None]):
    """Put the actor, a member, into a chat room; the result is the place before."""

    brought_in: bool
    """Whether the actor has become a member only to enter the room."""

    def apply(self, work: Work) -> PlaceRow | None:
        assert self.room_key is not None
        if work.standings.get((self.room_key, self.actor.user_key), NOBODY).role is None:
            raise not_found()
        return places.put(work.conn, self.actor.user_key, self.room_key, brought_in=self.brought_in)
