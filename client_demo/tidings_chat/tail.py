"""A room's messages on standard output: pending first, then live, each once."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from tidings.contract.events import MessageChanged
from tidings.contract.models import ApplicationEvent, Message, Profile, Room, View
from tidings_chat import render
from tidings_chat.account import Account
from tidings_chat.errors import why_ended, why_offline
from tidings_chat.events import read_event
from tidings_chat.i18n import m, t
from tidings_chat.rooms import all_rooms, title
from tidings_chat.scripts import UNKNOWN, join
from tidings_chat.state import State
from tidings_client import Client, Entry, Refused, Status, Store, TidingsError, connect


class Tail:
    """Prints the messages of one room: first those pending for this device, then live ones.

    A message is printed and flushed before the position moves past it, so the next tail continues after it.
    """

    def __init__(
        self, state: State, room: str, *, as_json: bool, changes: bool, events: bool, count: int | None
    ) -> None:
        self._state = state
        self._room = room
        self._as_json = as_json
        self._changes = changes
        self._events = events
        self._remaining = count
        self._begins: int | None = None
        """The seq of the first entry that a tail has received in this room."""
        self._unfinished: list[int] = []
        """The seqs of messages that were not printed, because they were streaming."""
        self._room_id: str | None = None
        self._title = room

    async def run(self, account: Account, store: Store, device: str, timeout: float | None) -> bool:
        """True if `count` messages were printed, or if no count was given and the time is over."""
        if self._has_enough():
            return True
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                await self._resolve(account)
                token = account.fresh_token
                async with connect(account.server, token, store=store, device=device, wait=False) as client:
                    client.on("status", _report)
                    try:
                        await self._print_all(client)
                    except TidingsError as error:
                        raise why_ended(error) from None
        except TimeoutError:
            if not limit.expired():
                raise
            return self._remaining is None
        return True

    async def _print_all(self, client: Client) -> None:
        reasons: list[Any] = []
        client.on("room_removed", lambda removed: reasons.append(removed.get("reason")))
        room_id = self._room_id or await self._conversation(client)
        known = json.loads(self._state.get(f"tail {room_id}") or "{}")
        self._begins, self._unfinished = known.get("begins"), known.get("unfinished", [])
        room = client.room(room_id=room_id)
        async for entry in room.entries(consumer="tail", until=self._has_enough):
            self._show(entry)
            state = {"begins": self._begins, "unfinished": self._unfinished}
            if state != known:
                known = {**state, "unfinished": [*self._unfinished]}
                self._state.put(**{f"tail {room_id}": json.dumps(known)})
        if not self._has_enough():
            reason = t(reasons[-1] if reasons else m("gone"))
            raise TidingsError(t("no longer in {room}: {reason}", room=self._title, reason=reason))

    def _has_enough(self) -> bool:
        return self._remaining == 0

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

    async def _conversation(self, client: Client) -> str:
        """Wait until the conversation with the user exists."""
        changed = asyncio.Event()
        for event in ("room_added", "status"):
            client.on(event, lambda _: changed.set())
        while True:
            for room in await client.room_infos():
                if room.topic_name is None and room.title == self._room:
                    self._select(room)
                    return room.room_id
            await changed.wait()
            changed.clear()

    def _select(self, room: Room) -> None:
        self._room_id, self._title = room.room_id, title(room)

    def _show(self, entry: Entry) -> None:
        if self._begins is None:
            self._begins = entry.seq
        match read_event(entry.name, entry.data):
            case Message(state="streaming") as message if not self._changes:
                self._unfinished.append(message.seq)
            case Message() as message:
                self._print_message(entry.name, message, message)
            case MessageChanged(message=message) as changed if self._changes:
                self._print_message(entry.name, changed, message)
            case MessageChanged(message=message) if entry.name == "message_finished":
                # It was printed already if it was finished when it came, unless it stands before the first entry.
                if message.seq in self._unfinished or message.seq < self._begins:
                    self._print_message("message", message, message)
                self._unfinished = [seq for seq in self._unfinished if seq != message.seq]
            case ApplicationEvent() as published if self._events:
                if self._as_json:
                    self._print(render.as_json(published, published.event))
                else:
                    self._print(render.plain_published(published, self._title))

    def _print_message(self, name: str, view: View, message: Message) -> None:
        if self._as_json:
            self._print(render.as_json(view, name if self._changes else None))
        else:
            self._print(render.plain(message, self._title, name if view is not message else ""))

    def _print(self, line: str) -> None:
        print(line, flush=True)
        if self._remaining is not None:
            self._remaining -= 1


def _report(status: Status) -> None:
    if status.state == "offline":
        print(t("{reason}: trying again", reason=why_offline(status.reason)), file=sys.stderr)
