"""The interactive client: reads lines, runs commands, sends messages, and draws the status bar."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from prompt_toolkit.formatted_text import StyleAndTextTuples
from rich.console import RenderableType

from tidings.contract.events import Ready, RoomAdded, RoomRemoved
from tidings.contract.models import History, Message, Profile, Room, View
from tidings_chat import render
from tidings_chat.account import Account
from tidings_chat.arguments import find_message
from tidings_chat.attachments import summary
from tidings_chat.background import BackgroundTasks
from tidings_chat.colours import ALERT, BAD
from tidings_chat.errors import InvalidCommand, message_of, why_ended
from tidings_chat.event_display import EventDisplay
from tidings_chat.events import read_event
from tidings_chat.i18n import m, n, t
from tidings_chat.message_cache import MessageCache
from tidings_chat.navigation import Navigation
from tidings_chat.positions import ReadMarks, ScreenPosition
from tidings_chat.registry import Commands, is_command
from tidings_chat.rooms import Rooms
from tidings_chat.roster import TYPING_LASTS, Roster
from tidings_chat.screen import Screen
from tidings_chat.shortcuts import RoomKeys, suggestions
from tidings_chat.state import RoomRef, State
from tidings_client import Client, Offline, Refused, Status, TidingsError, Unsent

_TYPING_EVERY: Final = 3.0


class Chat:
    """Implements `registry.CommandContext` over the live connection, in the room that is open."""

    def __init__(
        self, account: Account, state: State, client: Client, commands: Commands[Chat], *, bell: bool = True
    ) -> None:
        """`bell`: whether the terminal rings for mentions and direct messages."""
        self.account = account
        self.device = client.device
        self.client = client
        self.rooms = Rooms()
        self.screen = Screen(self._prompt, self._status, self._suggest, self._typed, self._switch)
        self.keys = RoomKeys()
        self.reads = ReadMarks(client)
        self.leaving = False
        self._state = state
        self._commands = commands
        self._messages = MessageCache()
        self._roster = Roster(account.username)
        self._background = BackgroundTasks()
        self.navigation = Navigation(client, self.rooms, state, self.screen, self._roster, self._background)
        self.display = EventDisplay(
            account.username,
            self.rooms,
            self.screen,
            self.navigation,
            self._messages,
            self._roster,
            self.keys,
            self.reads.mark,
            bell=bell,
        )
        self._position = ScreenPosition(client.store)
        self._events: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        client.on("*", lambda name, *payload: self._events.put_nowait((name, payload)))
        self._sent_typing_at = 0.0

    async def run(self) -> None:
        """Run until the user leaves. Raises the error by which the client has ended."""
        with self.screen:
            tasks = [
                asyncio.create_task(part) for part in (self._show_events(), self._read_lines(), self.reads.run())
            ]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if self.client.is_closed:
                    raise why_ended(self.client.ended())
                for task in done:
                    task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await self._position.store()
                await self.reads.send()
                await self._background.cancel()
        if self.client.unsent:
            count = len(self.client.unsent)
            print(
                n(
                    "{count} message not sent yet: it will be when you come back.",
                    "{count} messages not sent yet: they will be when you come back.",
                    count,
                )
            )

    # Events

    async def _show_events(self) -> None:
        """Show what the client has received, in order, until it has ended."""
        while not self.client.is_closed:
            name, payload = await self._events.get()
            match payload:
                case [Status(state="offline", reason=reason)]:
                    self.display.show_offline(reason)
                case [Unsent() as unsent, Refused() as error]:
                    self.display.show_refused(unsent, error)
                case [dict() as data]:
                    await self._show(name, data)
            self.screen.redraw()
            if self._events.empty():
                await self._position.store()

    async def _show(self, name: str, data: dict[str, Any]) -> None:
        if name == "connect":
            self._background.start(self._load_own_profile())
            with contextlib.suppress(Offline, Refused):  # the next connect loads them
                await self.rooms.load(self.client.ask)
            async for entry in self._position.not_shown():
                await self._show(entry.name, entry.data)
        elif name == "reset" and "event" not in data:  # an application's event may have this name, too
            self._position.forget(data["room_id"])
            self.display.show_reset(data["room_id"])
            async for entry in self._position.not_shown(data["room_id"]):
                await self._show(entry.name, entry.data)
        elif self._position.passes(data) and (event := read_event(name, data)) is not None:
            if isinstance(event, RoomAdded):
                self.rooms.add(event.room)
            elif isinstance(event, Ready):
                self._state.put(expires_at=event.token_expires_at)
            self.rooms.apply(event, self.account.username)
            self.display.show(name, event)
            if isinstance(event, RoomRemoved):
                self.rooms.remove(event.room_id)
                self._position.forget(event.room_id)

    async def _load_own_profile(self) -> None:
        own = await self.ask("get_profile", {"username": self.account.username})
        self.display.quiet_until = Profile.model_validate(own, extra="ignore").do_not_disturb_until

    # The input line

    async def _read_lines(self) -> None:
        draft = ""  # stays in the input line
        while not self.leaving:
            line = await self.screen.line(draft)
            draft = ""
            if line is None:
                return
            if line.strip() and self.navigation.current is None and not is_command(line.strip()):
                self.screen.print(render.note(t("No room is open: /join TOPIC, or /open ROOM-or-USER."), ALERT))
                draft = line
            elif line.strip():
                await self._run(line.strip())

    async def _run(self, line: str) -> None:
        """Run a command, or send a message to the open room."""
        if is_command(line):
            await self._reporting(self._commands.run(self, line))
        elif self.navigation.current is not None:
            text = line.removeprefix("/") if line.startswith("//") else line
            await self._reporting(self.send(self.navigation.current.ref, text))

    def start(self, command: Awaitable[None]) -> None:
        """Run a command that may last, while others can be typed."""
        self._background.start(self._reporting(command))

    async def _reporting(self, command: Awaitable[None]) -> None:
        try:
            await command
        except Refused as error:
            self.screen.print(render.note(message_of(error), BAD))
        except TidingsError as error:
            self.screen.print(render.note(message_of(error), ALERT))

    def _switch(self, key: int) -> None:
        """Open the room on Alt+`key`. The text in the input line stays."""
        room_id = self.keys.room_id(key)
        if room_id is not None and not self.navigation.is_open(room_id):
            self._background.start(self._run(f"/open {room_id}"))

    def _typed(self, line: str) -> None:
        """Send a typing notice, at most every `_TYPING_EVERY` seconds; for an empty line, that typing has stopped."""
        typing = bool(line) and not line.startswith("/")
        current = self.navigation.current
        if current is None or current.room_id is None or not self._is_online:
            return
        now = time.monotonic()
        if typing and now - self._sent_typing_at > _TYPING_EVERY:
            self._sent_typing_at = now
        elif not line and now - self._sent_typing_at < TYPING_LASTS:
            self._sent_typing_at = 0.0
        else:
            return
        self._background.start(self.client.ask("typing", {"room_id": current.room_id, "typing": typing}))

    # Sending

    @property
    def _is_online(self) -> bool:
        return self.client.status.state == "online"

    async def send(
        self,
        room: RoomRef,
        content: str,
        reply_to: str | None = None,
        thread: str | None = None,
        files: Sequence[Path] = (),
    ) -> None:
        """Raises `OSError` and `ValueError` like `Room.enqueue`."""
        unsent = await self.client.room(**room).enqueue(content, files=files, reply_to=reply_to, thread=thread)
        self._sent_typing_at = 0.0
        if not self._is_online:
            self.screen.print(render.note(t("waits to be sent: {content}", content=summary(unsent))))

    def last_unsent(self) -> Unsent | None:
        """The user's newest message to the open room, if it is not acknowledged."""
        current = self.navigation.current
        if current is None:
            return None
        # A message that was written before the conversation existed refers to it by the username.
        references = (current.ref, {"username": current.title.removeprefix("@")})
        waiting = [
            unsent
            for unsent in self.client.unsent
            if any(ref.items() <= unsent.payload.items() for ref in references)
        ]
        return waiting[-1] if waiting else None

    async def change(self, unsent: Unsent, content: str) -> bool:
        """Replace the content of an unsent message; False if it was sent meanwhile."""
        changed = await unsent.edit(content)
        if changed and not self._is_online:
            self.screen.print(render.note(t("waits to be sent: {content}", content=content)))
        return changed

    async def withdraw(self, unsent: Unsent) -> bool:
        """Delete an unsent message; False if the server may have it."""
        withdrawn = await unsent.withdraw()
        if withdrawn:
            self.screen.print(render.note(t("will not be sent: {content}", content=summary(unsent))))
        return withdrawn

    # `registry.CommandContext`

    async def ask(self, action: str, payload: dict[str, Any]) -> dict[str, Any]:
        return await self.client.ask(action, payload)

    async def ask_in_room(self, action: str, **payload: Any) -> dict[str, Any]:
        current = self.navigation.current
        if current is None:
            raise InvalidCommand(t("no room is open"))
        if "username" in payload and "username" in current.ref:
            raise InvalidCommand(t("a conversation is between two; /new makes a group, /create a topic"))
        return await self.ask(action, {**current.ref, **payload})

    async def message(self, reference: str, *, own: bool = False) -> Message:
        current = self.navigation.current
        if current is None or current.room_id is None:
            raise InvalidCommand(t("no room is open") if current is None else t("nothing is said here yet"))
        room_id = current.room_id
        sender = self.account.username if own else None

        async def last() -> Message | None:
            if self._messages.last(room_id, sender) is None:
                await self._load(room_id, limit=100)
            return self._messages.last(room_id, sender)

        async def at(seq: int) -> Message | None:
            if self._messages.get(room_id, seq) is None:
                await self._load(room_id, before=seq + 1, limit=1)
            return self._messages.get(room_id, seq)

        return await find_message(reference, last=last, at=at)

    async def _load(self, room_id: str, **page: int) -> None:
        data = await self.ask("history", {"room_id": room_id, **page})
        for message in History.model_validate(data, extra="ignore").messages:
            self._messages.add(message)

    async def download(self, file_id: str, target: Path) -> Path:
        return await self.client.download(file_id, target)

    def show(self, *renderables: RenderableType, views: Iterable[View] = ()) -> None:
        self.screen.print(*renderables)

    async def read_secret(self, prompt: str) -> str:
        return await self.screen.secret(prompt)

    async def entered(self, room: Room) -> None:
        self.navigation.open(room)

    def title_of(self, room_id: str) -> str:
        return self.rooms.title(room_id)

    # The prompt and the status bar

    def _prompt(self) -> str:
        current = self.navigation.current
        return render.visible(current.title) if current else t("no room")

    def _status(self) -> StyleAndTextTuples:
        online = self._is_online
        current = self.navigation.current
        parts: list[tuple[str, str]] = [
            ("class:bar.good" if online else "class:bar.bad", " ● " if online else " ○ "),
            ("", self.account.username),
        ]
        if self.client.unsent:
            parts.append(("class:bar.bad", f"  {_to_send(self.client.unsent)}"))
        if not online:
            parts.append(("class:bar.bad", f"  {t(self.display.offline_reason or m('not connected'))}"))
        if current is not None and current.room_id is not None:
            parts += self._roster.status(current.room_id, online=online)
        self.keys.assign(self.rooms)
        rooms = self.keys.bar(self.rooms, current.room_id if current else None)
        if rooms:
            parts += [("", "\n"), *rooms]
        return [(style, render.visible(text, keep="\n")) for style, text in parts]

    def _suggest(self, line: str) -> Iterable[str]:
        current = self.navigation.current
        files = self._messages.files(current.room_id) if current and current.room_id else ()
        return suggestions(line, self._commands.names, self.rooms, self._roster.names, files)


def _to_send(unsent: Sequence[Unsent]) -> str:
    """How many messages are unsent, and how much of the first one's files is uploaded."""
    told = n("{count} message to send", "{count} messages to send", len(unsent))
    size = sum(file.size for file in unsent[0].files)
    return f"{told} ({100 * unsent[0].uploaded // size} %)" if size else told
