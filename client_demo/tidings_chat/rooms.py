"""The rooms that the user is a member of, and their titles."""

from __future__ import annotations

from typing import Any

from tidings.contract.events import MemberChange, MemberChanged, MessageChanged, PreferencesChanged, RoomChanged
from tidings.contract.models import Message, Preferences, Receipt, Room, RoomKind, View
from tidings.contract.models import Rooms as Page
from tidings_chat.i18n import t
from tidings_client.contract import Ask


class Rooms:
    def __init__(self) -> None:
        self._by_id: dict[str, Room] = {}

    def __iter__(self) -> Any:
        return iter(self._by_id.values())

    async def load(self, ask: Ask) -> None:
        """Load all rooms of the user, page by page."""
        self._by_id = {room.room_id: room for room in await all_rooms(ask, member=True)}

    def add(self, room: Room) -> None:
        self._by_id[room.room_id] = room

    def remove(self, room_id: str) -> None:
        self._by_id.pop(room_id, None)

    def apply(self, event: View | None, me: str) -> None:
        """Apply an event to the room that it names."""
        room = self._by_id.get(getattr(event, "room_id", ""))
        if room is not None and event is not None:
            self._by_id[room.room_id] = applied(room, event, me)

    def get(self, room_id: str) -> Room | None:
        return self._by_id.get(room_id)

    def find(self, name: str) -> Room | None:
        """Find a room by room_id, topic name, or the other user's name, in any case."""
        folded = name.strip().casefold()
        for room in self._by_id.values():
            if room.room_id == name or folded in {n.casefold() for n in (room.topic_name, room.title) if n}:
                return room
        return None

    def title(self, room_id: str) -> str:
        room = self._by_id.get(room_id)
        return title(room) if room else "?"


def title(room: Room) -> str:
    """`#topic`, `@user`, or a group's title."""
    if room.topic_name is not None:
        return f"#{room.topic_name}"
    if room.kind is RoomKind.DIRECT:
        return f"@{room.title or '?'}"
    return room.title or t("a group")


def applied(room: Room, event: View, me: str) -> Room:
    """The room after an event; the same room if its snapshot already includes the event.

    A snapshot with `last_seq` L includes every entry up to L. An event without a seq (a member joins or leaves a
    public topic) is counted when it arrives; the next snapshot corrects the count.
    """
    seq = getattr(event, "seq", None)
    if seq is not None and seq <= room.last_seq:
        return room
    update: dict[str, Any] = {} if seq is None else {"last_seq": seq}
    match event:
        case Message(thread=str()):
            pass  # it is unread in its thread
        case Message(sender=sender):
            update["last_message"] = event
            update |= {"unread": room.unread + 1}
            if sender == me:
                update |= {"unread": 0, "read_seq": seq, "preferences": _unmarked(room)}
        case MessageChanged(message=message):
            if room.last_message is not None and room.last_message.id == message.id:
                update["last_message"] = message
        case RoomChanged(title=new_title, posting=new_posting):
            update |= {name: getattr(event, name) for name in event.model_fields_set & {"purpose", "picture"}}
            update |= {} if new_title is None else {"title": new_title}
            update |= {} if new_posting is None else {"posting": new_posting}
        case MemberChanged(change=MemberChange.ROLE, username=username, role=role):
            update |= {"role": role} if username == me else {}
        case MemberChanged(change=change, username=username):
            update["members"] = room.members + (1 if change is MemberChange.JOINED else -1)
        case PreferencesChanged(preferences=preferences, unread=unread):
            update |= {"preferences": preferences, "unread": unread}
        case Receipt(username=username, read_seq=read_seq) if username == me and read_seq > room.read_seq:
            update["read_seq"] = read_seq
            update |= {"unread": 0} if read_seq >= room.last_seq else {}
    return room.model_copy(update=update)


def _unmarked(room: Room) -> Preferences | None:
    return room.preferences and room.preferences.model_copy(update={"unread_from": None})


async def all_rooms(ask: Ask, **filters: Any) -> list[Room]:
    """All pages of `get_rooms`, with `filters` in the payload."""
    rooms: list[Room] = []
    after: str | None = None
    while True:
        data = await ask("get_rooms", {**filters, "limit": 500, **({"after": after} if after else {})})
        page = Page.model_validate(data, extra="ignore")
        rooms += page.rooms
        after = page.next
        if after is None:
            return rooms


def merged(known: Receipt | None, received: Receipt) -> Receipt:
    """The further of both: the answer of `get_receipts` may be older than an event that arrived before it."""
    if known is None:
        return received
    furthest = {
        "delivered_seq": max(known.delivered_seq, received.delivered_seq),
        "read_seq": max(known.read_seq, received.read_seq),
    }
    return received.model_copy(update=furthest)
