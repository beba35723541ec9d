"""What should come of each action: who is in which room, and which refusal is due. The server's independent judge."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class Room:
    room_id: str
    kind: str
    topic_name: str | None
    is_private: bool
    members: set[str]
    log: list[tuple[int, str, str]] = field(default_factory=list)
    """(seq, id, sender) of its messages."""
    claimed: dict[tuple[str, str], str] = field(default_factory=dict)
    """(sender, client_id) -> id of what it made."""


class Refusal(Exception):
    """The error code that is due."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Model:
    def __init__(self, users: list[str]) -> None:
        self.users = users
        self.rooms: list[Room] = []

    def of(self, user: str) -> set[str]:
        """The ids of the rooms that a user is in."""
        return {room.room_id for room in self.rooms if user in room.members}

    def topic(self, name: str) -> Room | None:
        return next((room for room in self.rooms if room.topic_name == name), None)

    def direct(self, a: str, b: str) -> Room | None:
        pair = {a, b}
        return next((room for room in self.rooms if room.kind == "direct" and room.members == pair), None)

    def find(self, me: str, ref: dict[str, Any]) -> Room | str:
        """What a room reference means: a room, or the user with whom there is no conversation yet."""
        name = ref.get("topic_name", ref.get("username"))
        if (room_id := ref.get("room_id")) is not None:
            found = next((room for room in self.rooms if room.room_id == room_id), None)
        else:
            assert isinstance(name, str)
            found = self.topic(name) if "topic_name" in ref else None
            if found is None and name in self.users:
                if name == me:
                    raise Refusal("invalid")
                return self.direct(me, name) or name
        if found is None:
            raise Refusal("not_found")
        return found

    def named(self, ref: dict[str, Any]) -> Room:
        """What a reference means where a name can only be a topic's."""
        found = self.topic(ref["topic_name"]) if "topic_name" in ref else self.find("", ref)
        if not isinstance(found, Room):
            raise Refusal("not_found")
        return found

    def entered(self, me: str, ref: dict[str, Any]) -> Room:
        """The room, if the user is in it."""
        room = self.find(me, ref)
        if isinstance(room, str):
            raise Refusal("not_found")
        if me not in room.members:
            raise Refusal("not_found" if room.is_private else "forbidden")
        return room

    def may_create(self, name: str) -> None:
        if self.topic(name) is not None or name in self.users:
            raise Refusal("conflict")

    def may_join(self, me: str, ref: dict[str, Any]) -> Room:
        room = self.named(ref)
        if room.is_private and me not in room.members:
            raise Refusal("not_found")
        if me in room.members:
            raise Refusal("conflict")
        return room

    def may_leave(self, me: str, ref: dict[str, Any]) -> Room:
        room = self.entered(me, ref)
        if room.kind == "direct":
            raise Refusal("forbidden")
        return room

    def may_invite(self, me: str, ref: dict[str, Any], username: str) -> Room:
        room = self.named(ref)
        if username not in self.users or (room.is_private and me not in room.members):
            raise Refusal("not_found")
        if room.kind == "direct" or not room.is_private:
            raise Refusal("forbidden")
        if username in room.members:
            raise Refusal("conflict")
        return room

    def may_send(self, me: str, ref: dict[str, Any], client_id: str | None, reply_to: str | None) -> str | None:
        """The id of the message that this is a retry of, if it is."""
        room = self.find(me, ref)
        if isinstance(room, str):
            if reply_to is not None:
                raise Refusal("invalid")
            return None
        if client_id is not None and (before := room.claimed.get((me, client_id))) is not None:
            return before
        self.entered(me, ref)
        if reply_to is not None and all(reply_to != one for _, one, _ in room.log):
            raise Refusal("invalid")
        return None

    def sent(self, me: str, ref: dict[str, Any], message: dict[str, Any]) -> None:
        """A message was acknowledged; the first to a user has made the conversation."""
        room = self.find(me, ref)
        if isinstance(room, str):
            room = Room(message["room_id"], "direct", None, True, {me, room})
            self.rooms.append(room)
        assert message["room_id"] == room.room_id
        if message["id"] not in [one for _, one, _ in room.log]:
            room.log.append((message["seq"], message["id"], me))
            room.log.sort()
            if message["client_id"] is not None:
                room.claimed[me, message["client_id"]] = message["id"]
