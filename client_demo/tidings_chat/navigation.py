"""Which room is open in the chat."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tidings.contract.models import Members, Receipts, Room, RoomKind
from tidings_chat.background import BackgroundTasks
from tidings_chat.rooms import Rooms, title
from tidings_chat.roster import Roster
from tidings_chat.screen import Screen
from tidings_chat.state import RoomRef, State
from tidings_client import Client


@dataclass(frozen=True)
class CurrentRoom:
    """The room that a typed line is sent to. A conversation without a message has no `room_id` yet."""

    ref: RoomRef
    title: str
    room_id: str | None


class Navigation:
    """Opens and leaves rooms. The state remembers the open room for the next start."""

    def __init__(
        self,
        client: Client,
        rooms: Rooms,
        state: State,
        screen: Screen,
        roster: Roster,
        background: BackgroundTasks,
    ) -> None:
        self.current: CurrentRoom | None = None
        self._client = client
        self._rooms = rooms
        self._state = state
        self._screen = screen
        self._roster = roster
        self._background = background
        self._joining: str | None = ""

    def is_open(self, room_id: str) -> bool:
        return self.current is not None and self.current.room_id == room_id

    def open(self, room: Room) -> None:
        self._rooms.add(room)
        self._set(CurrentRoom({"room_id": room.room_id}, title(room), room.room_id))
        if room.last_message is not None:
            self._roster.show_last(room.last_message)
        self.refresh_members(room.room_id)
        self._background.start(self._load_receipts(room.room_id))

    def open_last(self) -> None:
        """Open the room that was open when the client was last used, if the user is still in it."""
        room = self._rooms.get(self._state.get("open") or "")
        if room is not None:
            self.open(room)

    def open_conversation(self, username: str) -> None:
        """Open the conversation with a user before it exists on the server."""
        self._set(CurrentRoom({"username": username}, f"@{username}", None))

    def close(self) -> None:
        self._set(None)

    def _set(self, current: CurrentRoom | None) -> None:
        self.current = current
        self._state.put(open=current.room_id if current else None)
        self._screen.redraw()

    def rename(self, room_id: str) -> None:
        """Show the new title of a room, if it is the open one."""
        room = self._rooms.get(room_id)
        if self.current is not None and room is not None and self.is_open(room_id):
            self.current = replace(self.current, title=title(room))

    def begins(self, room: Room) -> bool:
        """Whether this is the open conversation, which its first message has just created."""
        current = self.current
        return (
            current is not None
            and current.room_id is None
            and room.kind is RoomKind.DIRECT
            and room.title == current.ref.get("username")
        )

    @contextlib.contextmanager
    def joining(self, topic: str | None) -> Iterator[None]:
        """While the user joins this topic, or any room (None), its `room_added` is not announced."""
        self._joining = None if topic is None else topic.casefold()
        try:
            yield
        finally:
            self._joining = ""

    def is_joining(self, room: Room) -> bool:
        return self._joining is None or self._joining == (room.topic_name or room.room_id).casefold()

    def refresh_members(self, room_id: str) -> None:
        self._background.start(self._load_members(room_id))

    async def _load_members(self, room_id: str) -> None:
        data = await self._client.ask("get_members", {"room_id": room_id})
        self._roster.set_members(room_id, Members.model_validate(data, extra="ignore").members)
        self._screen.redraw()

    async def _load_receipts(self, room_id: str) -> None:
        data = await self._client.ask("get_receipts", {"room_id": room_id})
        for receipt in Receipts.model_validate(data, extra="ignore").receipts:
            self._roster.set_receipt(receipt)
        self._screen.redraw()
