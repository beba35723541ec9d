"""A room's messages on standard output: pending first, then live, each once."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable

from tidings.contract.events import MessageChanged, RoomAdded, RoomRemoved
from tidings.contract.models import ApplicationEvent, Message, Profile, Room, RoomKind, View
from tidings_chat import render
from tidings_chat.account import Account
from tidings_chat.client import Client, position
from tidings_chat.connection import Event
from tidings_chat.errors import ClientError, Refused
from tidings_chat.rooms import all_rooms, title
from tidings_chat.scripts import UNKNOWN, join
from tidings_chat.store import Store


class _Enough(Exception):
    """`count` messages are printed; the current entry is not taken."""


class Tail:
    """Prints the messages of one room: first those pending for this device, then live ones.

    A message is printed and flushed before the cursor moves past it, so the next tail continues after it.
    """

    def __init__(self, room: str, *, as_json: bool, changes: bool, events: bool, count: int | None) -> None:
        self._room = room
        self._as_json = as_json
        self._changes = changes
        self._events = events
        self._remaining = count
        self._begins: int | None = None
        """The seq of the first entry that this run has received."""
        self._unfinished: set[int] = set()
        """The seqs of messages that were streaming when this run received them."""
        self._room_id: str | None = None
        self._title = room
        self._enough = asyncio.Event()

    async def run(self, account: Account, store: Store, device: str, timeout: float | None) -> bool:
        """True if `count` messages were printed, or if no count was given and the time is over."""
        client = Client(account, store, device, self._show, _report, lambda *_: None, self._is_in_room)
        if self._remaining == 0:
            return True
        await self._resolve(account)
        with store.receiving(self._room_id or self._room):
            return await self._print_until_enough(client, timeout)

    async def _print_until_enough(self, client: Client, timeout: float | None) -> bool:
        running = asyncio.create_task(client.run())
        enough = asyncio.create_task(self._enough.wait())
        try:
            await asyncio.wait([running, enough], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if client.is_open:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(2):
                        await client.send_markers()
            if running.done() and not self._enough.is_set():
                running.result()
        finally:
            for task in (running, enough):
                task.cancel()
            await asyncio.gather(running, enough, return_exceptions=True)
        return self._enough.is_set() or self._remaining is None

    async def _resolve(self, account: Account) -> None:
        """Find the room, joining a topic; or note whose conversation to wait for."""
        name = self._room.casefold()
        for room in await all_rooms(account.ask, member=True):
            if name in {n.casefold() for n in (room.topic_name, room.title) if n} or room.room_id == self._room:
                self._select(room)
                return
        try:
            self._select(await join(account, self._room))
        except Refused as error:
            if error.code not in UNKNOWN:
                raise
            try:
                data = await account.ask("get_profile", {"username": self._room})
            except Refused:
                raise error from None
            self._room = Profile.model_validate(data, extra="ignore").username

    def _select(self, room: Room) -> None:
        self._room_id, self._title = room.room_id, title(room)

    def _is_in_room(self, room_id: str) -> bool:
        return room_id == self._room_id

    async def _show(self, event: Event) -> None:
        room_id, seq = position(event)
        if room_id == self._room_id and self._begins is None:
            self._begins = seq
        match event.data:
            case Message(room_id=self._room_id, state="streaming") as message if not self._changes:
                self._unfinished.add(message.seq)
            case Message(room_id=self._room_id) as message:
                self._print_message(event.name, message, message)
            case MessageChanged(room_id=self._room_id, message=message) as changed if self._changes:
                self._print_message(event.name, changed, message)
            case MessageChanged(room_id=self._room_id, message=message) if event.name == "message_finished":
                # A replay has printed the message already, unless it stands before the replay.
                if message.seq in self._unfinished or message.seq < (self._begins or 0):
                    self._print_message("message", message, message)
                self._unfinished.discard(message.seq)
            case ApplicationEvent(room_id=self._room_id) as published if self._events:
                self._print_published(published)
            case RoomAdded(room=room) if self._room_id is None:
                if room.kind is RoomKind.DIRECT and room.title == self._room:
                    self._select(room)
            case RoomRemoved(room_id=self._room_id) as removed:
                raise ClientError(f"no longer in {self._title}: {removed.reason}")

    def _print_message(self, name: str, view: View, message: Message) -> None:
        if self._as_json:
            self._print(lambda: render.as_json(view, name if self._changes else None))
        else:
            self._print(lambda: render.plain(message, self._title, name if view is not message else ""))

    def _print_published(self, event: ApplicationEvent) -> None:
        if self._as_json:
            self._print(lambda: render.as_json(event, event.event))
        else:
            self._print(lambda: render.plain_published(event, self._title))

    def _print(self, line: Callable[[], str]) -> None:
        if self._remaining == 0:
            raise _Enough
        print(line(), flush=True)
        if self._remaining is not None:
            self._remaining -= 1
            if self._remaining == 0:
                self._enough.set()


def _report(reason: str) -> None:
    print(f"{reason}: trying again", file=sys.stderr)
