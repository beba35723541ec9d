"""The interactive client: what happens on the wire, shown; what is typed, done."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from prompt_toolkit.formatted_text import StyleAndTextTuples

from client_demo import commands, render
from client_demo.account import Account
from client_demo.client import Client
from client_demo.connection import Event
from client_demo.errors import ClientError, Offline, Refused
from client_demo.rooms import title
from client_demo.screen import Screen
from client_demo.store import RoomRef, Store, Unsent
from server.contract.errors import Error
from server.contract.events import (
    MemberChanged,
    MessageChanged,
    Presence,
    Ready,
    Receipt,
    RoomAdded,
    RoomRemoved,
    TypingNow,
)
from server.contract.models import Message, Room, RoomKind, View

_TYPING_EVERY: Final = 3.0
_TYPING_LASTS: Final = 6.0


@dataclass(frozen=True)
class Current:
    """The room that what is typed goes to. A conversation that has no message yet has no `room_id`."""

    ref: RoomRef
    title: str
    room_id: str | None


class Chat:
    def __init__(self, account: Account, store: Store, device: str) -> None:
        self.account = account
        self.device = device
        self.client = Client(account, store, device, self._show, self._went_offline, self._not_sent)
        self.screen = Screen(self._prompt, self._status, self._suggest, self._typed)
        self.current: Current | None = None
        self.leaving = False
        self._store = store
        self._why_offline = "connecting…"
        self._greeted = False
        self._entering = ""
        self._day = ""
        self._typists: dict[tuple[str, str], float] = {}
        self._last_sent: dict[str, int] = {}
        self._receipts: dict[str, dict[str, Receipt]] = {}
        self._said_typing = 0.0
        self._people: set[str] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self) -> None:
        """Until the user leaves. Raises what ends the client, if something does."""
        with self.screen:
            running = asyncio.create_task(self.client.run())
            reading = asyncio.create_task(self._read_lines())
            try:
                await asyncio.wait([running, reading], return_when=asyncio.FIRST_COMPLETED)
                if running.done():
                    running.result()
                reading.result()
            finally:
                if self.client.is_open:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(1):
                            await self.client.tell_markers()
                for task in [running, reading, *self._tasks]:
                    task.cancel()
                await asyncio.gather(running, reading, *self._tasks, return_exceptions=True)
        waiting = self._store.unsent()
        if waiting:
            print(f"{_messages(waiting)} not sent yet: they will be when you come back.")

    # What is typed

    async def _read_lines(self) -> None:
        while not self.leaving:
            line = await self.screen.line()
            if line is None:
                return
            if line.strip():
                await self._do(line.strip())

    async def _do(self, line: str) -> None:
        try:
            if line.startswith("/") and not line.startswith("//"):
                await commands.run(self, line)
            elif self.current is None:
                self.screen.print(render.note("No room is open: /join TOPIC, or /open ROOM-or-USER.", "yellow"))
            else:
                self.send(self.current.ref, line.removeprefix("/") if line.startswith("//") else line)
        except Refused as why:
            self.screen.print(render.note(str(why), "red"))
        except ClientError as why:
            self.screen.print(render.note(str(why), "yellow"))

    def send(self, room: RoomRef, content: str) -> None:
        self.client.outbox.send(room, content)
        self._said_typing = 0.0
        if not self.client.is_open:
            self.screen.print(render.note(f"waits to be sent: {content}"))

    def _typed(self, line: str) -> None:
        """Say that we are typing, at most every few seconds; and that we stopped, if the line was emptied."""
        typing = bool(line) and not line.startswith("/")
        if self.current is None or self.current.room_id is None or not self.client.is_open:
            return
        now = time.monotonic()
        if typing and now - self._said_typing > _TYPING_EVERY:
            self._said_typing = now
        elif not line and now - self._said_typing < _TYPING_LASTS:
            self._said_typing = 0.0
        else:
            return
        self.background(self.client.ask("typing", {"room_id": self.current.room_id, "typing": typing}))

    def background(self, work: Coroutine[Any, Any, Any]) -> None:
        """Do something whose failure nobody needs to hear of."""

        async def quietly() -> None:
            with contextlib.suppress(Offline, Refused):
                await work

        task = asyncio.create_task(quietly())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Where we are

    @contextlib.contextmanager
    def entering(self, topic: str) -> Iterator[None]:
        """While the user enters a topic, its `room_added` is no news."""
        self._entering = topic.casefold()
        try:
            yield
        finally:
            self._entering = ""

    def enter(self, room: Room) -> None:
        """Make a room the current one."""
        self.client.rooms.add(room)
        self._enter(Current({"room_id": room.room_id}, title(room), room.room_id))

    def enter_conversation(self, username: str) -> None:
        """Make the conversation with a user the current one, before it exists."""
        self._enter(Current({"username": username}, f"@{username}", None))

    def _enter(self, current: Current | None) -> None:
        self.current = current
        self._store.put(open=current.room_id if current else None)
        self.screen.redraw()

    def leave(self) -> None:
        self._enter(None)

    def show_history(self, messages: Iterable[Message]) -> None:
        """Print a page of the current room."""
        for message in messages:
            self._print_message(message, here=True)

    # What happens

    def _show(self, event: Event) -> None:
        match event.data:
            case None:
                self._why_offline = ""
            case Message() as message:
                self._show_message(message)
            case MessageChanged(message=message):
                what = {"message_edited": "edited", "message_deleted": "deleted", "reaction": "reaction"}
                self.screen.print(render.note(f"{what.get(event.name, event.name)}:"))
                self._print_message(message)
            case MemberChanged() as change if change.username != self.account.username:
                self._people.add(change.username)
                self.screen.print(render.member(change, self.client.rooms.title(change.room_id)))
            case RoomAdded(room=room):
                self._show_added(room)
            case RoomRemoved() as removed:
                self._show_removed(removed)
            case Ready() as ready:
                self._greet(ready)
            case TypingNow() as typing:
                until = time.monotonic() + _TYPING_LASTS if typing.typing else 0.0
                self._typists[typing.room_id, typing.username] = until
            case Receipt() as receipt:
                self._receipts.setdefault(receipt.room_id, {})[receipt.username] = receipt
            case Presence() as presence:
                self._show_presence(presence)
            case View():
                pass
        self.screen.redraw()

    def _show_message(self, message: Message) -> None:
        self._print_message(message)
        self._typists.pop((message.room_id, message.sender), None)
        if message.sender == self.account.username:
            self._last_sent[message.room_id] = message.seq
        else:
            self._people.add(message.sender)
        if self.current and self.current.room_id == message.room_id:
            self.client.read(message.room_id, message.seq)

    def _print_message(self, message: Message, *, here: bool = False) -> None:
        today = render.day(message.created_at)
        if today != self._day:
            self._day = today
            self.screen.print(render.heading(today))
        here = here or (self.current is not None and self.current.room_id == message.room_id)
        room = "" if here else self.client.rooms.title(message.room_id)
        self.screen.print(render.message(message, self.account.username, room))

    def _show_added(self, room: Room) -> None:
        current = self.current
        if current and current.room_id is None and room.kind is RoomKind.DIRECT:
            if room.title == current.ref.get("username"):
                self.enter(room)
        elif (
            self._greeted
            and room.kind is not RoomKind.DIRECT
            and self._entering != (room.topic_name or "").casefold()
        ):
            self.screen.print(render.note(f"you are in {title(room)} now: /open {room.topic_name or room.room_id}"))

    def _show_removed(self, removed: RoomRemoved) -> None:
        if self.client.rooms.get(removed.room_id) is not None:
            where = self.client.rooms.title(removed.room_id)
            self.screen.print(render.note(f"you are no longer in {where}: {removed.reason}"))
        if self.current and self.current.room_id == removed.room_id:
            self.leave()

    def _show_presence(self, presence: Presence) -> None:
        if self.current and self.current.title == f"@{presence.username}":
            self.screen.print(render.note(f"{presence.username} is {'online' if presence.online else 'offline'}"))

    def _greet(self, ready: Ready) -> None:
        for room_id in ready.reset:
            self.screen.print(render.note(f"the history of {self.client.rooms.title(room_id)} has changed: /history"))
        if ready.replayed:
            self.screen.print(render.note(f"↑ {ready.replayed} while you were away"))
        if self._greeted:
            self.screen.print(render.note("connected again"))
            return
        self._greeted = True
        self.screen.print(render.rooms(self.client.rooms), render.note("/help says what you can do here."))
        room = self.client.rooms.get(self._store.get("open") or "")
        if room is not None:
            self.enter(room)

    def _went_offline(self, why: str) -> None:
        if not self._why_offline and self._greeted:
            self.screen.print(render.note(f"{why}: trying again", "yellow"))
        self._why_offline = why
        self._typists.clear()
        self.screen.redraw()

    def _not_sent(self, unsent: Unsent, error: Error) -> None:
        self.screen.print(render.note(f"not sent: {unsent.content} — {error.message} ({error.code})", "red"))

    # The input line

    def _prompt(self) -> str:
        return render.visible(self.current.title) if self.current else "no room"

    def _status(self) -> StyleAndTextTuples:
        online = self.client.is_open
        parts: list[tuple[str, str]] = [
            ("class:bar.good" if online else "class:bar.bad", " ● " if online else " ○ "),
            ("", self.account.username),
        ]
        waiting = self._store.unsent()
        if waiting:
            parts.append(("class:bar.bad", f"  {_messages(waiting)} to send"))
        if not online:
            parts.append(("class:bar.bad", f"  {self._why_offline or 'not connected'}"))
        room_id = self.current.room_id if self.current else None
        typists = [
            who for (room, who), until in self._typists.items() if room == room_id and until > time.monotonic()
        ]
        if typists:
            parts.append(("", f"  {', '.join(typists)} {'is' if len(typists) == 1 else 'are'} typing…"))
        elif room_id and (how_far := self._how_far(room_id)):
            parts.append(("class:bar.quiet", f"  {how_far}"))
        return [(style, render.visible(text)) for style, text in parts]

    def _how_far(self, room_id: str) -> str:
        """Who has got, and who has read, our last message in a room."""
        seq = self._last_sent.get(room_id)
        receipts = self._receipts.get(room_id, {}).values()
        others = [r for r in receipts if r.username != self.account.username]
        if seq is None:
            return ""
        read = [r.username for r in others if r.read_seq >= seq]
        arrived = [r.username for r in others if r.delivered_seq >= seq]
        return f"✓✓ read by {', '.join(read)}" if read else f"✓ reached {', '.join(arrived)}" if arrived else ""

    def _suggest(self, line: str) -> Iterable[str]:
        word = line.rpartition(" ")[2].casefold()
        if " " not in line:
            found: Iterable[str] = (f"/{name}" for name in commands.NAMES)
        elif line.startswith("/"):
            topics = {room.topic_name or room.title or "" for room in self.client.rooms}
            found = topics | self._people
        else:
            found = (f"@{who}" for who in self._people)
        return sorted(entry for entry in found if entry and entry.casefold().startswith(word))


def _messages(count: int) -> str:
    return "1 message" if count == 1 else f"{count} messages"
