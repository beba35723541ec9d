"""A room: send to it, and consume what arrives in it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tidings.contract import models
from tidings_client.contract import read
from tidings_client.errors import InvalidEvent, Refused, StoreFailed
from tidings_client.events import ApplicationEvent
from tidings_client.files import File
from tidings_client.outbox import Unsent
from tidings_client.stores import Entry, Kind
from tidings_client.streams import MessageStream
from tidings_client.timeline import Timeline

if TYPE_CHECKING:
    from tidings_client.client import Client

Until = Callable[[], bool]
_NEVER: Final[Until] = bool
_PAGE: Final = 200


class Room:
    def __init__(
        self, client: Client, reference: dict[str, str] | None = None, info: models.Room | None = None
    ) -> None:
        self._client = client
        self._reference = reference or {}
        self.info = info
        """The room as it was when it was looked up; None if it was not yet."""
        if info is not None:
            self._reference = {"room_id": info.room_id}

    @property
    def room_id(self) -> str | None:
        """None if the room was named otherwise, and was not used yet."""
        return self._reference.get("room_id")

    @property
    def name(self) -> str:
        """The topic's name, a group's title, or the other user of a direct conversation."""
        known = (self.info.topic_name or self.info.title) if self.info else None
        return known or next(iter(self._reference.values()))

    # Sending

    async def send(
        self,
        content: str = "",
        *,
        files: Sequence[File | Path | str] = (),
        reply_to: str | None = None,
        thread: str | None = None,
        data: dict[str, Any] | None = None,
    ) -> models.Message:
        """Send a message, once and after those before it; returns when the server has it on disk.

        It is in the store before anything is sent: if this is cancelled, or the process ends, it is sent later. Waits
        while there is no connection. Raises a `Refused` if the server will never accept it. `thread`: the id of a
        message in whose thread this one is a reply.

        `files`: up to ten. Their contents are copied to the store first, and may change or go afterwards. Raises
        `OSError` if there is no such file, `ValueError` if it is empty.
        """
        unsent = await self.enqueue(content, files=files, reply_to=reply_to, thread=thread, data=data)
        return read(models.Message, await unsent.sent())

    async def enqueue(
        self,
        content: str = "",
        *,
        files: Sequence[File | Path | str] = (),
        reply_to: str | None = None,
        thread: str | None = None,
        data: dict[str, Any] | None = None,
        client_id: str | None = None,
    ) -> Unsent:
        """Store a message to be sent like `send` does, and return without waiting for the server.

        `client_id`: yours, unique in the room; a message that you enqueue again with it is sent once.
        """
        optional = {"reply_to": reply_to, "thread": thread, "data": data}
        fields = {name: value for name, value in optional.items() if value is not None}
        payload = {**self._reference, "content": content, **fields}
        return await self._client.enqueue("message", payload, client_id, files)

    async def publish(
        self, event: str, data: Any, *, transient: bool = False, client_id: str | None = None
    ) -> models.Published:
        """Publish an application event: like `send`, or, `transient`, now and only to who is connected.

        Raises `InvalidEvent` if the event has a type in `connect(events=…)`, and the data is not of it.
        """
        payload = {**self._reference, "event": event, "data": self._client.event_types.dump(event, data)}
        if transient:
            return read(models.Published, await self._client.ask("publish", {**payload, "transient": True}))
        return read(models.Published, await (await self._client.enqueue("publish", payload, client_id)).sent())

    def stream(
        self, *, reply_to: str | None = None, thread: str | None = None, data: dict[str, Any] | None = None
    ) -> MessageStream:
        """Write a message while others read it: `async with room.stream() as stream: await stream.write("…")`."""
        optional = {"reply_to": reply_to, "thread": thread, "data": data}
        fields = {name: value for name, value in optional.items() if value is not None}
        return MessageStream(self._client, {**self._reference, "content": "", "stream": True, **fields})

    async def edit(self, message_id: str, content: str) -> models.Message:
        data = await self._client.insist("edit", {"message_id": message_id, "content": content})
        return read(models.Message, data)

    async def delete(self, message_id: str) -> None:
        await self._client.insist("delete", {"message_id": message_id})

    async def react(self, message_id: str, emoji: str, *, remove: bool = False) -> models.Message:
        payload = {"message_id": message_id, "emoji": emoji, "remove": remove}
        return read(models.Message, await self._client.insist("react", payload))

    async def typing(self, typing: bool = True) -> None:
        await self._client.ask("typing", {**self._reference, "typing": typing})

    async def read(self, seq: int, *, thread: str | None = None) -> int:
        """Mark the room, or a thread in it, as read up to `seq`; returns how many messages are unread there."""
        of = {} if thread is None else {"thread": thread}
        return read(models.Unread, await self._client.insist("read", {**self._reference, "seq": seq, **of})).unread

    # Looking up

    async def members(self) -> list[models.Member]:
        members: list[models.Member] = []
        after: dict[str, str] = {}
        while True:
            page = read(
                models.Members, await self._client.insist("get_members", {**self._reference, "limit": 500, **after})
            )
            members += page.members
            if page.next is None:
                return members
            after = {"after": page.next}

    async def history(
        self,
        *,
        before: int | None = None,
        after: int | None = None,
        limit: int = 50,
        thread: str | None = None,
        without_threads: bool = False,
    ) -> models.History:
        """A page of messages: of the room, of one `thread`, or of the room without the replies in threads."""
        optional = {"before": before, "after": after, "thread": thread}
        given = {name: value for name, value in optional.items() if value is not None}
        if without_threads:
            given["without_threads"] = True
        data = await self._client.insist("history", {**self._reference, "limit": limit, **given})
        return read(models.History, data)

    async def resolve(self) -> str:
        """The room's id. Raises a `Refused` if there is no such room among those of the user."""
        if self.room_id is None:
            ((kind, name),) = self._reference.items()
            for info in await self._client.room_infos():
                known = info.topic_name if kind == "topic_name" else info.title
                if (
                    known
                    and known.casefold() == name.casefold()
                    and (info.topic_name is None) == (kind == "username")
                ):
                    self.info, self._reference = info, {"room_id": info.room_id}
                    return info.room_id
            raise Refused.read({"code": "not_found", "message": f"you are in no room {name}"})
        return self.room_id

    # Receiving

    async def messages(self, *, consumer: str = "default", until: Until = _NEVER) -> AsyncIterator[models.Message]:
        """The messages of the room: what this device has missed, then live ones; each once, in order, as it is now.

        The position is stored when the next message is asked for. So after a crash, or a `break`, the message that
        was being processed comes again, and no other one. Consumers of different names each get all messages. A
        message that is still being written comes when it is opened; `Timeline` follows its text. Ends when the user
        leaves the room; raises `Closed` when the client ends.

        `until` is called when a message has been processed and the position is stored; True ends the iteration.
        """
        async for entry in self._consume("message", f"messages {consumer}", until):
            yield read(models.Message, entry.data)

    async def events(
        self, name: str | None = None, *, consumer: str = "default", until: Until = _NEVER
    ) -> AsyncIterator[ApplicationEvent]:
        """The application events of the room, of one name or of all, as `messages` has the messages.

        Raises `InvalidEvent` if the event's data is not of its type in `connect(events=…)`. That event comes again,
        to a program that has another type for it, unless the consumer goes past it: `await error.skip()`.
        """
        consumer = f"events {name or '*'} {consumer}"
        async for entry in self._consume("event", consumer, until):
            if name in (None, entry.name):
                try:
                    event = self._client.event_types.read(entry.data)
                except InvalidEvent as error:
                    error.skip = partial(self._client.store.move, entry.room_id, consumer, entry.seq)
                    raise
                yield event

    async def entries(self, *, consumer: str = "default", until: Until = _NEVER) -> AsyncIterator[Entry]:
        """All entries of the room's log, as `messages` has the messages: also edits, reactions, members, ….

        An entry has the `seq`, `name` and `data` of its event. After `reset`, only messages are read again.
        """
        async for entry in self._consume(None, f"entries {consumer}", until):
            yield entry

    def on(self, event: str, handler: Callable[[dict[str, Any]], Any]) -> Callable[[], None]:
        """`Client.on` for the events of this room, once its id is known."""

        def here(payload: dict[str, Any]) -> Any:
            return handler(payload) if payload.get("room_id") == self.room_id else None

        return self._client.on(event, here)

    async def timeline(self) -> Timeline:
        """The live list of the room's messages, for a user interface."""
        timeline = Timeline(self._client, await self.resolve())
        await timeline.load()
        return timeline

    async def _consume(self, kind: Kind | None, consumer: str, until: Until) -> AsyncIterator[Entry]:
        room_id = await self.resolve()
        store = self._client.store
        changed = asyncio.Event()
        removed = False
        resets = 0
        done: int | None = None  # how far the entries have been processed, if the store could not record it
        entries: deque[Entry] = deque()

        def arrived(name: str, payload: Any, *_: Any) -> None:
            nonlocal removed, resets, done
            if isinstance(payload, dict) and payload.get("room_id") == room_id:
                removed |= name == "room_removed"
                if name == "reset" and "event" not in payload:  # an application's event may have this name, too
                    resets += 1
                    done = None
                    entries.clear()
                changed.set()
            elif name == "status":
                changed.set()

        unsubscribe = self._client.on("*", arrived)
        try:
            while not removed and not until():
                changed.clear()
                if self._client.is_closed:
                    raise self._client.ended()
                position, floor = await store.position(room_id, consumer)
                position = max(position, done or 0) if position is not None else done
                if position is not None and position < floor:
                    entries.extend(await self._missing(kind, position, floor))
                if not entries:
                    entries.extend(await store.entries(room_id, kind, position or 0, 100))
                if not entries:
                    await changed.wait()
                while entries:
                    entry = entries.popleft()
                    if entry.seq <= (done or 0):
                        continue
                    at = resets
                    yield entry
                    if resets != at:
                        break
                    done = entry.seq
                    try:
                        await store.move(room_id, consumer, entry.seq)
                    except StoreFailed:  # the next move makes up for this one
                        if self._client.is_closed:
                            raise
                    if until():
                        return
        except StoreFailed as error:
            if self._client.is_closed:
                raise self._client.ended() from error
            raise
        finally:
            unsubscribe()

    async def _missing(self, kind: Kind | None, after: int, floor: int) -> list[Entry]:
        """The next entries that are not held any more, from the server; if there are none, the first held ones."""
        action, field = ("get_events", "events") if kind == "event" else ("history", "messages")
        room_id = await self.resolve()
        page = await self._client.insist(action, {"room_id": room_id, "after": after, "limit": _PAGE})
        older = [
            Entry(room_id, row["seq"], row.get("event", "message"), row) for row in page[field] if row["seq"] <= floor
        ]
        return older or await self._client.store.entries(room_id, kind, floor, 100)
