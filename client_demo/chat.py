"""The interactive client: what happens on the wire, shown; what is typed, done."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from prompt_toolkit.formatted_text import StyleAndTextTuples
from rich.console import RenderableType

from client_demo import commands, desk, render
from client_demo.account import Account
from client_demo.client import Client
from client_demo.connection import Event
from client_demo.desk import Mistake
from client_demo.errors import ClientError, Offline, Refused
from client_demo.log import Log
from client_demo.people import TYPING_LASTS, People
from client_demo.rooms import title
from client_demo.screen import Screen
from client_demo.store import RoomRef, Store, Unsent
from server.contract.errors import Error
from server.contract.events import (
    MemberChanged,
    MessageChanged,
    Presence,
    Ready,
    RoomAdded,
    RoomChanged,
    RoomRemoved,
    TypingNow,
)
from server.contract.models import History, Members, Message, Receipt, Receipts, Role, Room, RoomKind, View

_TYPING_EVERY: Final = 3.0
_EMOJIS: Final = ("👍", "❤️", "😂", "🎉", "👀", "🙏")


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
        self._entering: str | None = ""
        self._log = Log()
        self._people = People(account.username)
        self._day = ""
        self._said_typing = 0.0
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

    def send(self, room: RoomRef, content: str, reply_to: str | None = None) -> None:
        self.client.outbox.send(room, content, reply_to)
        self._said_typing = 0.0
        if not self.client.is_open:
            self.screen.print(render.note(f"waits to be sent: {content}"))

    # What has not been sent yet, and can still be changed

    def waiting(self) -> Unsent | None:
        """The user's newest message to this room, if it is not acknowledged."""
        current = self.current
        if current is None:
            return None
        begun = self._store.last_unsent({"username": current.title.removeprefix("@")})
        return self._store.last_unsent(current.ref) or begun

    def change(self, unsent: Unsent, content: str) -> bool:
        """Give it another content; False if it has been sent meanwhile."""
        changed = self._store.change(unsent, content)
        if changed and not self.client.is_open:
            self.screen.print(render.note(f"waits to be sent: {content}"))
        return changed

    def withdraw(self, unsent: Unsent) -> bool:
        """Do not send it; False if the server may have it."""
        withdrawn = self._store.withdraw(unsent)
        if withdrawn:
            self.screen.print(render.note(f"will not be sent: {unsent.content}"))
        return withdrawn

    # What a command has at hand (`desk.Desk`)

    async def ask(self, action: str, payload: dict[str, Any]) -> dict[str, Any]:
        return await self.client.ask(action, payload)

    async def about(self, action: str, **payload: Any) -> dict[str, Any]:
        if self.current is None:
            raise Mistake("no room is open")
        if "username" in payload and "username" in self.current.ref:
            raise Mistake("a conversation is between two; /new makes a group, /create a topic")
        return await self.ask(action, {**self.current.ref, **payload})

    async def message(self, which: str, *, mine: bool = False) -> Message:
        if self.current is None or self.current.room_id is None:
            raise Mistake("no room is open" if self.current is None else "nothing is said here yet")
        room_id = self.current.room_id

        async def last() -> Message | None:
            held = self._log.last(room_id, self.account.username if mine else None)
            if held is None:
                await self._look(room_id, limit=100)
            return held or self._log.last(room_id, self.account.username if mine else None)

        async def at(seq: int) -> Message | None:
            held = self._log.get(room_id, seq)
            if held is None:
                await self._look(room_id, before=seq + 1, limit=1)
            return held or self._log.get(room_id, seq)

        return await desk.pointed(which, last=last, at=at)

    async def _look(self, room_id: str, **page: int) -> None:
        data = await self.ask("history", {"room_id": room_id, **page})
        for message in History.model_validate(data, extra="ignore").messages:
            self._log.add(message)

    def show(self, *looks: RenderableType, views: Iterable[View] = ()) -> None:
        self.screen.print(*looks)

    async def secret(self, prompt: str) -> str:
        return await self.screen.secret(prompt)

    def title_of(self, room_id: str) -> str:
        return self.client.rooms.title(room_id)

    def _typed(self, line: str) -> None:
        """Say that we are typing, at most every few seconds; and that we stopped, if the line was emptied."""
        typing = bool(line) and not line.startswith("/")
        if self.current is None or self.current.room_id is None or not self.client.is_open:
            return
        now = time.monotonic()
        if typing and now - self._said_typing > _TYPING_EVERY:
            self._said_typing = now
        elif not line and now - self._said_typing < TYPING_LASTS:
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
    def entering(self, topic: str | None) -> Iterator[None]:
        """While the user enters a topic, or any room (None), its `room_added` is no news."""
        self._entering = None if topic is None else topic.casefold()
        try:
            yield
        finally:
            self._entering = ""

    def enter(self, room: Room) -> None:
        """Make a room the current one."""
        self.client.rooms.add(room)
        self._enter(Current({"room_id": room.room_id}, title(room), room.room_id))
        if room.last_message is not None and room.last_message.sender == self.account.username:
            self._people.said(room.last_message)
        self.background(self._see_who_is_there(room.room_id))
        self.background(self._see_how_far(room.room_id))

    async def _see_who_is_there(self, room_id: str) -> None:
        found = Members.model_validate(await self.ask("get_members", {"room_id": room_id}), extra="ignore")
        self._people.are_in(room_id, found.members)
        self.screen.redraw()

    async def _see_how_far(self, room_id: str) -> None:
        found = Receipts.model_validate(await self.ask("get_receipts", {"room_id": room_id}), extra="ignore")
        for receipt in found.receipts:
            self._people.got(receipt)
        self.screen.redraw()

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
            self._print_message(self._log.add(message), here=True)

    # What happens

    def _show(self, event: Event) -> None:
        match event.data:
            case None:
                self._why_offline = ""
            case Message() as message:
                self._show_message(message)
            case MessageChanged() as change:
                self._show_change(event.name, change)
            case MemberChanged() as change:
                self._show_member(change)
            case RoomChanged() as change:
                self._show_title(change)
            case RoomAdded(room=room):
                self._show_added(room)
            case RoomRemoved() as removed:
                self._show_removed(removed)
            case Ready() as ready:
                for room_id in ready.reset:
                    self._log.forget(room_id)
                self._greet(ready)
            case TypingNow() as typing:
                self._people.types(typing)
            case Receipt() as receipt:
                self._people.got(receipt)
            case Presence() as presence:
                self._show_presence(presence)
            case View():
                pass
        self.screen.redraw()

    def _show_change(self, what: str, change: MessageChanged) -> None:
        """Nothing, where the message was shown as it is: a replay has each message as it is now."""
        before = self._log.change(change)
        if before != change.message:
            room = "" if self._is_here(change.room_id) else self.title_of(change.room_id)
            self.screen.print(render.changed(what, before, change.message, self.account.username, room))

    def _is_here(self, room_id: str) -> bool:
        return self.current is not None and self.current.room_id == room_id

    def _show_member(self, change: MemberChanged) -> None:
        if self._is_here(change.room_id):
            self.background(self._see_who_is_there(change.room_id))
        if change.role is None:
            self._people.left(change.room_id, change.username)
        if change.username != self.account.username or change.role is not None:
            self._people.names.add(change.username)
            mine = change.username == self.account.username
            self.screen.print(render.member(change, self.title_of(change.room_id), mine=mine))

    def _show_title(self, change: RoomChanged) -> None:
        which = "this group" if self._is_here(change.room_id) else "a group of yours"
        self.screen.print(render.note(f"{change.username} named {which} {change.title}"))
        room = self.client.rooms.get(change.room_id)
        if self.current is not None and room is not None and self._is_here(change.room_id):
            self.current = replace(self.current, title=title(room))

    def _show_message(self, message: Message) -> None:
        self._log.add(message)
        self._print_message(message)
        self._people.said(message)
        if self.current and self.current.room_id == message.room_id:
            self.client.read(message.room_id, message.seq)

    def _print_message(self, message: Message, *, here: bool = False) -> None:
        today = render.day(message.created_at)
        if today != self._day:
            self._day = today
            self.screen.print(render.heading(today))
        room = "" if here or self._is_here(message.room_id) else self.title_of(message.room_id)
        answers = self._log.find(message.room_id, message.reply_to) if message.reply_to else None
        self.screen.print(render.message(message, self.account.username, room, answers))

    def _show_added(self, room: Room) -> None:
        current = self.current
        if current and current.room_id is None and room.kind is RoomKind.DIRECT:
            if room.title == current.ref.get("username"):
                self.enter(room)
        elif (
            self._greeted
            and room.kind is not RoomKind.DIRECT
            and not self._is_here(room.room_id)
            and self._entering is not None
            and self._entering != (room.topic_name or room.room_id).casefold()
        ):
            self.screen.print(
                render.note(f"you are in {title(room)} now: /open {room.topic_name or room.title or room.room_id}")
            )

    def _show_removed(self, removed: RoomRemoved) -> None:
        if self.client.rooms.get(removed.room_id) is not None:
            where = self.client.rooms.title(removed.room_id)
            self.screen.print(render.note(f"you are no longer in {where}: {removed.reason}"))
        if self.current and self.current.room_id == removed.room_id:
            self.leave()

    def _show_presence(self, presence: Presence) -> None:
        self._people.is_online(presence.username, presence.online)
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
        self._people.nobody_types()
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
        if self.current is not None and self.current.room_id is not None:
            parts += self._people.seen(self.current.room_id, there=online)
        return [(style, render.visible(text)) for style, text in parts]

    def _suggest(self, line: str) -> Iterable[str]:
        word = line.rpartition(" ")[2].casefold()
        words = line.split(" ")
        if " " not in line:
            found: Iterable[str] = (f"/{name}" for name in commands.NAMES)
            found = found if line.startswith("/") else (f"@{who}" for who in self._people.names)
        elif words[0] == "/help":
            found = commands.NAMES
        elif words[0] in ("/react", "/unreact"):
            found = _EMOJIS if len(words) == 3 else ()
        elif words[0] == "/role" and len(words) == 3:
            found = list(Role)
        elif word.startswith("@"):
            found = (f"@{who}" for who in self._people.names)
        elif line.startswith("/"):
            topics = {room.topic_name or room.title or "" for room in self.client.rooms}
            found = topics | self._people.names
        else:
            found = (f"@{who}" for who in self._people.names)
        return sorted(entry for entry in found if entry and entry.casefold().startswith(word))


def _messages(count: int) -> str:
    return "1 message" if count == 1 else f"{count} messages"
