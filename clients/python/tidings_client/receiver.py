"""Records what arrives, once and in order, before anybody sees it and before it is confirmed to the server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Final

from tidings.contract.actions import MAX_CURSORS
from tidings_client.connection import Event, log
from tidings_client.errors import Offline, Refused, StoreFailed
from tidings_client.stores import KEPT, Entry

if TYPE_CHECKING:
    from tidings_client.client import Client

_DELIVERED_AFTER: Final = 0.4
_PAGE: Final = 200
_MAX_PAGES: Final = 5
_ALONE: Final = ("connect", "ready", "room_removed")
"""Events that change how the next ones are recorded."""


class Receiver:
    """The events of a client's connections, one connection after the other."""

    def __init__(
        self, client: Client, ready: Callable[[dict[str, Any]], Awaitable[None]], emit: Callable[..., None]
    ) -> None:
        """
        Args:
            ready: is awaited with the payload of `ready`; if it raises `StoreFailed`, the connection is lost.
            emit: passes an event on, by name and payload.
        """
        self._client = client
        self._ready = ready
        self._emit = emit
        self._arrivals: asyncio.Queue[Event] = asyncio.Queue()
        self._is_lost = False
        """Whether the connection's events are no longer recorded, because one of them could not be."""
        self._resetting: dict[str, list[Entry]] = {}
        """By room whose log has changed: the entries that wait until it has been read again."""
        self._cursors: dict[str, int] = {}
        """While the server replays: the cursors of this connect."""
        self._delivered: dict[str, int] = {}
        self._delivered_moved = asyncio.Event()

    def receive(self, event: Event) -> None:
        self._arrivals.put_nowait(event)

    async def recorded(self) -> None:
        """Wait until all that has arrived is recorded. Raises `StoreFailed` if it cannot be."""
        await self._arrivals.join()
        if self._is_lost:
            raise StoreFailed("what arrived could not be recorded")

    async def begin(self) -> dict[str, int]:
        """Return the cursors for a connect; they include all that has arrived."""
        await self._arrivals.join()
        self._cursors = dict(list((await self._client.store.cursors()).items())[:MAX_CURSORS])
        return self._cursors

    def parts(self) -> list[Coroutine[Any, Any, None]]:
        """Coroutines that run as long as the client does."""
        return [self._record(), self._confirm()]

    async def _record(self) -> None:
        """Record batch by batch, and then pass it on.

        If a batch cannot be recorded, the connection ends without confirming it, and the server sends it again.
        """
        while True:
            batch = [await self._arrivals.get()]
            while not self._arrivals.empty():
                batch.append(self._arrivals.get_nowait())
            for part in _parts(batch):
                if part[0].name == "connect":
                    self._is_lost = False
                    self._resetting.clear()
                    self._emit("connect", {})
                elif not self._is_lost:
                    try:
                        await self._take(part)
                    except StoreFailed as error:
                        log.warning("cannot record what arrived: %s", error)
                        self._is_lost = True
                        self._client.drop(error)
            for _ in batch:
                self._arrivals.task_done()

    async def _take(self, events: Iterable[Event]) -> None:
        arrived: list[tuple[Event, Entry | None]] = []
        for event in events:
            entry = _entry(event)
            if entry is not None:
                if entry.seq <= self._cursors.get(entry.room_id, 0):
                    self._resetting.setdefault(
                        entry.room_id, []
                    )  # only a log that has gone back is replayed from there
                if entry.room_id in self._resetting:
                    self._resetting[entry.room_id].append(entry)
                    continue
            arrived.append((event, entry))
        entries = [entry for _, entry in arrived if entry is not None]
        new = {(entry.room_id, entry.seq) for entry in await self._client.store.take(entries)} if entries else set()
        for event, entry in arrived:
            if entry is None:
                await self._handle(event)
            elif (entry.room_id, entry.seq) in new:
                new.remove((entry.room_id, entry.seq))
                self._delivered[entry.room_id] = entry.seq
                self._delivered_moved.set()
            else:
                continue
            self._emit(event.name, event.data)

    async def _handle(self, event: Event) -> None:
        if event.name == "room_removed":
            await self._client.store.forget(event.data.get("room_id", ""))
        elif event.name == "ready":
            await self._ready(event.data)
            self._cursors = {}
            reset = {room_id: self._resetting.pop(room_id, []) for room_id in event.data.get("reset") or ()}
            repeated, self._resetting = self._resetting, reset
            for entries in repeated.values():
                await self._take(map(_event, entries))
            for room_id in reset:
                self._client.start_task(self._read_again(room_id))

    async def _read_again(self, room_id: str) -> None:
        """The log of a room was restored, or begins after the cursor: hold what it has now.

        Consumers go back to before the first message that is another one in the log than it was here.
        """
        store, waiting = self._client.store, self._resetting[room_id]
        try:
            held = {row["seq"]: row["id"] for row in await store.newest(room_id, "message", KEPT)}
            messages, is_complete = await self._newest(room_id, held)
            known = {message["seq"]: message["id"] for message in messages}
            oldest = messages[0]["seq"] if messages else 0
            differ = [seq for seq, message_id in held.items() if seq >= oldest and known.get(seq) != message_id]
            if self._resetting.get(room_id) is not waiting:
                return  # another connection has begun, and the server resets the room again
            common = min(differ) - 1 if differ else None
            await store.replace(room_id, messages, 0 if is_complete else oldest - 1, common)
            if self._resetting.get(room_id) is not waiting:
                return
            del self._resetting[room_id]
            self._emit("reset", {"room_id": room_id})
            await self._take(map(_event, waiting))
        except Refused:
            await store.forget(room_id)  # the room is not there any more
        except StoreFailed as error:
            self._client.drop(error)  # the next connect resets the room again
        finally:
            if self._resetting.get(room_id) is waiting:
                del self._resetting[room_id]

    async def _newest(self, room_id: str, held: dict[int, str]) -> tuple[list[dict[str, Any]], bool]:
        """The newest messages of a log, back to one that is held, and whether there are none before them."""
        messages: list[dict[str, Any]] = []
        before: dict[str, int] = {}
        for _ in range(_MAX_PAGES):
            page = await self._client.insist("history", {"room_id": room_id, "limit": _PAGE, **before})
            messages = [*page["messages"], *messages]
            if not page["has_more"] or not page["messages"]:
                return messages, True
            if any(held.get(message["seq"]) == message["id"] for message in page["messages"]):
                break
            before = {"before": messages[0]["seq"]}
        return messages, False

    async def _confirm(self) -> None:
        """Tell the server what was received. A lost call is made up for by the cursors of the next connect."""
        while True:
            await self._delivered_moved.wait()
            await asyncio.sleep(_DELIVERED_AFTER)
            self._delivered_moved.clear()
            delivered, self._delivered = self._delivered, {}
            with contextlib.suppress(Offline, Refused):
                await self._client.ask("delivered", {"cursors": delivered})


def _entry(event: Event) -> Entry | None:
    """The entry that an event brings: whatever has `room_id` and `seq`, also if its name is of a later version."""
    room_id, seq = event.data.get("room_id"), event.data.get("seq")
    return Entry(room_id, seq, event.name, event.data) if isinstance(room_id, str) and type(seq) is int else None


def _event(entry: Entry) -> Event:
    return Event(entry.name, entry.data)


def _parts(batch: list[Event]) -> list[list[Event]]:
    """Split a batch so that each event of `_ALONE` comes alone."""
    parts: list[list[Event]] = []
    for event in batch:
        if not parts or event.name in _ALONE or parts[-1][0].name in _ALONE:
            parts.append([])
        parts[-1].append(event)
    return parts
