"""The change of a user's chat room: an operation of the journal."""

from __future__ import annotations

from dataclasses import dataclass

from tidings.contract.errors import ActionError
from tidings.contract.events import MemberChange
from tidings.contract.permissions import Permission
from tidings.log.memberships import admit, remove
from tidings.log.transaction import Operation, Work
from tidings_db.queries import places
from tidings_db.queries.journal import NOBODY


@dataclass(frozen=True, slots=True)
class TakePlace(Operation[bool]):
    """Put the actor into a chat room, as a member, and end the membership that only the former place had begun.

    The result is False, and nothing is changed, if the actor is in another room than `former_key` meanwhile.
    """

    former_key: int | None
    """The room that the actor probably is in; None: no room. It is locked, too."""

    @property
    def room_keys(self) -> list[int]:
        assert self.room_key is not None
        return [self.room_key] if self.former_key is None else [self.room_key, self.former_key]

    def apply(self, work: Work) -> bool:
        assert self.room_key is not None
        room, actor = work.room(self.room_key), self.actor
        place = places.claim(work.conn, actor.user_key, self.room_key)
        if place is not None and place.room_key not in self.room_keys:
            return False
        brought_in = work.standings.get((self.room_key, actor.user_key), NOBODY).role is None
        if brought_in:
            try:
                work.check(room, actor, Permission.JOIN)
                admit(work, room, actor, actor.user_key, actor.username)
            except ActionError:
                if place is None:
                    places.remove(work.conn, actor.user_key)
                raise
        elif place is not None and place.room_key == self.room_key:
            brought_in = place.brought_in
        places.put(work.conn, actor.user_key, self.room_key, brought_in=brought_in)
        if place is not None and place.room_key != self.room_key and place.brought_in:
            remove(work, work.room(place.room_key), actor, actor.user_key, actor.username, MemberChange.LEFT)
        return True
