"""The interactive client: reads lines, runs commands, sends messages, and draws the status bar."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable
from typing import Any, Final

from prompt_toolkit.formatted_text import StyleAndTextTuples
from rich.console import RenderableType

from tidings.contract.errors import Error
from tidings.contract.models import History, Message, Room, View
from tidings_chat import render
from tidings_chat.account import Account
from tidings_chat.arguments import find_message
from tidings_chat.background import BackgroundTasks
from tidings_chat.client import Client
from tidings_chat.connection import Event
from tidings_chat.errors import ClientError, InvalidCommand, Refused
from tidings_chat.event_display import EventDisplay
from tidings_chat.message_cache import MessageCache
from tidings_chat.navigation import Navigation
from tidings_chat.registry import Commands, is_command
from tidings_chat.roster import TYPING_LASTS, Roster
from tidings_chat.screen import Screen
from tidings_chat.shortcuts import RoomKeys, suggestions
from tidings_chat.store import RoomRef, Store, Unsent

_TYPING_EVERY: Final = 3.0


class Chat:
    """Implements `registry.CommandContext` over the live connection, in the room that is open."""

    def __init__(
        self, account: Account, store: Store, device: str, commands: Commands[Chat], *, bell: bool = True
    ) -> None:
        """`bell`: whether the terminal rings for mentions and direct messages."""
        self.account = account
        self.device = device
        self.client = Client(account, store, device, self._show, self._show_offline, self._show_refused)
        self.screen = Screen(self._prompt, self._status, self._suggest, self._typed, self._switch)
        self.keys = RoomKeys()
        self.leaving = False
        self._store = store
        self._commands = commands
        self._messages = MessageCache()
        self._roster = Roster(account.username)
        self._background = BackgroundTasks()
        self.navigation = Navigation(self.client, store, self.screen, self._roster, self._background)
        self.display = EventDisplay(
            self.client, self.screen, self.navigation, self._messages, self._roster, self.keys, bell=bell
        )
        self._sent_typing_at = 0.0

    async def run(self) -> None:
        """Run until the user leaves. Raises what `Client.run` raises."""
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
                            await self.client.send_markers()
                for task in (running, reading):
                    task.cancel()
                await asyncio.gather(running, reading, return_exceptions=True)
                await self._background.cancel()
        if self._store.unsent:
            print(f"{_messages(self._store.unsent)} not sent yet: they will be when you come back.")

    # Events

    async def _show(self, event: Event) -> None:
        await self.display.show(event)

    def _show_offline(self, reason: str) -> None:
        self.display.show_offline(reason)

    def _show_refused(self, unsent: Unsent, error: Error) -> None:
        self.display.show_refused(unsent, error)

    # The input line

    async def _read_lines(self) -> None:
        draft = ""  # stays in the input line
        while not self.leaving:
            line = await self.screen.line(draft)
            draft = ""
            if line is None:
                return
            if line.strip() and self.navigation.current is None and not is_command(line.strip()):
                self.screen.print(render.note("No room is open: /join TOPIC, or /open ROOM-or-USER.", "yellow"))
                draft = line
            elif line.strip():
                await self._run(line.strip())

    async def _run(self, line: str) -> None:
        """Run a command, or send a message to the open room."""
        try:
            if is_command(line):
                await self._commands.run(self, line)
            elif self.navigation.current is not None:
                text = line.removeprefix("/") if line.startswith("//") else line
                await self.send(self.navigation.current.ref, text)
        except Refused as error:
            self.screen.print(render.note(str(error), "red"))
        except ClientError as error:
            self.screen.print(render.note(str(error), "yellow"))

    def _switch(self, key: int) -> None:
        """Open the room on Alt+`key`. The text in the input line stays."""
        room_id = self.keys.room_id(key)
        if room_id is not None and not self.navigation.is_open(room_id):
            self._background.start(self._run(f"/open {room_id}"))

    def _typed(self, line: str) -> None:
        """Send a typing notice, at most every `_TYPING_EVERY` seconds; for an empty line, that typing has stopped."""
        typing = bool(line) and not line.startswith("/")
        current = self.navigation.current
        if current is None or current.room_id is None or not self.client.is_open:
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

    async def send(self, room: RoomRef, content: str, reply_to: str | None = None) -> None:
        await self.client.outbox.send(room, content, reply_to)
        self._sent_typing_at = 0.0
        if not self.client.is_open:
            self.screen.print(render.note(f"waits to be sent: {content}"))

    async def last_unsent(self) -> Unsent | None:
        """The user's newest message to the open room, if it is not acknowledged."""
        current = self.navigation.current
        if current is None:
            return None
        # A message that was written before the conversation existed refers to it by the username.
        by_username = await self._store.last_unsent({"username": current.title.removeprefix("@")})
        return await self._store.last_unsent(current.ref) or by_username

    async def change(self, unsent: Unsent, content: str) -> bool:
        """Replace the content of an unsent message; False if it was sent meanwhile."""
        changed = await self._store.change(unsent, content)
        if changed and not self.client.is_open:
            self.screen.print(render.note(f"waits to be sent: {content}"))
        return changed

    async def withdraw(self, unsent: Unsent) -> bool:
        """Delete an unsent message; False if the server may have it."""
        withdrawn = await self._store.withdraw(unsent)
        if withdrawn:
            self.screen.print(render.note(f"will not be sent: {unsent.content}"))
        return withdrawn

    # `registry.CommandContext`

    async def ask(self, action: str, payload: dict[str, Any]) -> dict[str, Any]:
        return await self.client.ask(action, payload)

    async def ask_in_room(self, action: str, **payload: Any) -> dict[str, Any]:
        current = self.navigation.current
        if current is None:
            raise InvalidCommand("no room is open")
        if "username" in payload and "username" in current.ref:
            raise InvalidCommand("a conversation is between two; /new makes a group, /create a topic")
        return await self.ask(action, {**current.ref, **payload})

    async def message(self, reference: str, *, own: bool = False) -> Message:
        current = self.navigation.current
        if current is None or current.room_id is None:
            raise InvalidCommand("no room is open" if current is None else "nothing is said here yet")
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

    def show(self, *renderables: RenderableType, views: Iterable[View] = ()) -> None:
        self.screen.print(*renderables)

    async def read_secret(self, prompt: str) -> str:
        return await self.screen.secret(prompt)

    async def entered(self, room: Room) -> None:
        await self.navigation.open(room)

    def title_of(self, room_id: str) -> str:
        return self.client.rooms.title(room_id)

    # The prompt and the status bar

    def _prompt(self) -> str:
        current = self.navigation.current
        return render.visible(current.title) if current else "no room"

    def _status(self) -> StyleAndTextTuples:
        online = self.client.is_open
        current = self.navigation.current
        parts: list[tuple[str, str]] = [
            ("class:bar.good" if online else "class:bar.bad", " ● " if online else " ○ "),
            ("", self.account.username),
        ]
        if self._store.unsent:
            parts.append(("class:bar.bad", f"  {_messages(self._store.unsent)} to send"))
        if not online:
            parts.append(("class:bar.bad", f"  {self.display.offline_reason or 'not connected'}"))
        if current is not None and current.room_id is not None:
            parts += self._roster.status(current.room_id, online=online)
        self.keys.assign(self.client.rooms)
        rooms = self.keys.bar(self.client.rooms, current.room_id if current else None)
        if rooms:
            parts += [("", "\n"), *rooms]
        return [(style, render.visible(text, keep="\n")) for style, text in parts]

    def _suggest(self, line: str) -> Iterable[str]:
        return suggestions(line, self._commands.names, self.client.rooms, self._roster.names)


def _messages(count: int) -> str:
    return "1 message" if count == 1 else f"{count} messages"
