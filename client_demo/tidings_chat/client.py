"""A connected device of a user: everything between the wire and a screen or a script.

It stays connected, brings its cursors at every connect, shows each entry exactly once and in order, acknowledges what
it received, sends the outbox, and renews its token.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from tidings.contract.actions import MAX_CURSORS
from tidings.contract.errors import CloseReason, Error, ErrorCode
from tidings.contract.events import Closing, MemberChanged, Ready, RoomAdded, RoomEntry, RoomRemoved
from tidings.contract.models import ApplicationEvent, History, Message
from tidings_chat.account import Account
from tidings_chat.connection import Connection, Event
from tidings_chat.errors import ClientError, Offline, Refused, SignedOut
from tidings_chat.outbox import Outbox
from tidings_chat.rooms import Rooms
from tidings_chat.store import Store, Unsent

_BACKOFF: Final = 0.25
_MAX_BACKOFF: Final = 15.0
_MARKERS_AFTER: Final = 0.4
_RENEW_BEFORE: Final = 300.0


class Client:
    """While `run` runs, use `ask` and `outbox.send`."""

    def __init__(
        self,
        account: Account,
        store: Store,
        device: str,
        show: Callable[[Event], Awaitable[None]],
        offline: Callable[[str], None],
        failed: Callable[[Unsent, Error], None],
        is_wanted: Callable[[str], bool] = lambda room_id: True,
    ) -> None:
        """
        Args:
            show: gets every event in order, and each entry of a room exactly once, also across restarts. If it
                raises, `run` raises the same, and the entry counts as not shown.
            offline: gets a sentence that says why there is no connection.
            failed: gets a message that the server will never accept, and its error.
            is_wanted: where it returns False, the entries of that room stay pending for a later run of the device.
        """
        self.account = account
        self.rooms = Rooms()
        self._store = store
        self._device = device
        self._show = show
        self._is_wanted = is_wanted
        self._offline = offline
        self._arrivals: asyncio.Queue[Event] = asyncio.Queue()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._begun: set[str] = set()
        self._markers: dict[tuple[str, str], int] = {}
        self._markers_moved = asyncio.Event()
        self._attempts = 0
        self._connection = Connection(account.server, self._auth, self._arrivals.put_nowait, self._arrivals.join)
        self.ask = self._connection.ask
        self.outbox = Outbox(store, self.ask, failed, lambda: self.is_open)

    @property
    def is_open(self) -> bool:
        return self._connection.is_open

    async def run(self) -> None:
        """Run until cancelled. Raises a `ClientError`, such as `SignedOut`, if a reconnect would be futile."""
        self._begun = set(await self._store.cursors())
        parts: list[Coroutine[Any, Any, None]] = [
            self._stay_connected(),
            self._record_arrivals(),
            self._take_events(),
            self._send_markers(),
            self._renew_in_time(),
            self.outbox.run(),
        ]
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # Connecting

    async def _auth(self) -> dict[str, Any]:
        """The payload of a connect: the token, the device, and a cursor for each room."""
        cursors = [
            (room_id, seq) for room_id, seq in (await self._store.cursors()).items() if self._is_wanted(room_id)
        ]
        return {"token": await self.account.token(), "device": self._device, "cursors": dict(cursors[:MAX_CURSORS])}

    async def _stay_connected(self) -> None:
        while True:
            wait = None
            try:
                closing = await self._connection.run()
                self._offline("the connection was lost" if closing is None else f"closed: {closing.reason}")
                await self._handle_closing(closing)
            except Offline as error:
                self._offline(str(error))
            except Refused as error:
                self._offline(str(error))
                if error.code is ErrorCode.TOKEN_REVOKED:
                    raise SignedOut(f"{error}: sign in again") from None
                if error.code in (ErrorCode.UNAUTHENTICATED, ErrorCode.TOKEN_EXPIRED):
                    await self._renew()
                elif not error.error.retryable and error.code is not ErrorCode.INTERNAL:
                    raise
                wait = error.retry_after
            if wait is None:
                wait = min(_MAX_BACKOFF, _BACKOFF * 2**self._attempts) * random.uniform(0.5, 1)
            self._attempts = min(self._attempts + 1, 10)
            await asyncio.sleep(wait)

    async def _handle_closing(self, closing: Closing | None) -> None:
        """Return if the client should reconnect after this `closing`; otherwise raise."""
        if closing is None or closing.reconnect:
            return
        if closing.reason is CloseReason.TOKEN_EXPIRED:
            await self._renew()
        elif closing.reason is CloseReason.TOKEN_REVOKED:
            raise SignedOut("signed out by the server: sign in again")
        else:
            raise ClientError(f"the server closed the connection for good: {closing.reason}")

    async def _renew(self) -> None:
        with contextlib.suppress(Offline):
            await self.account.renew()

    async def _renew_in_time(self) -> None:
        """Renew the token, and authenticate the connection with it, before the old one expires."""
        while True:
            remaining = await self.account.expires_in()
            await asyncio.sleep(max(1.0, remaining - min(_RENEW_BEFORE, remaining / 4)) if remaining > 0 else 1.0)
            if not self.is_open or await self.account.expires_in() > _RENEW_BEFORE:
                continue
            with contextlib.suppress(Offline, Refused):
                await self.account.renew()
                await self.ask("authenticate", {"token": await self.account.token()})

    # Receiving

    async def _record_arrivals(self) -> None:
        """Write to disk where a room begins for this device, then pass its entries on to be taken.

        The connection answers no PING before that: once it is answered, the server counts the entries as delivered,
        while they may still wait in the queue when this process dies.
        """
        while True:
            batch = [await self._arrivals.get()]
            while not self._arrivals.empty():
                batch.append(self._arrivals.get_nowait())
            first: dict[str, int] = {}
            for event in batch:
                room_id, seq = position(event)
                if room_id and seq and room_id not in self._begun:
                    first.setdefault(room_id, seq)
            if first:
                await self._store.begin(first)
                self._begun |= first.keys()
            for event in batch:
                self._events.put_nowait(event)
                self._arrivals.task_done()

    async def _take_events(self) -> None:
        while True:
            event = await self._events.get()
            match event.data:
                case None:  # connected
                    self.outbox.wake()
                    with contextlib.suppress(Offline, Refused):
                        await self.rooms.load(self.ask)
                    await self._show(event)
                case Ready() as ready:
                    self._attempts = 0
                    await self._store.put(expires_at=ready.token_expires_at)
                    for room_id in filter(self._is_wanted, ready.reset):
                        with contextlib.suppress(Offline, Refused):  # the next connect resets it again
                            await self._read_again(room_id)
                    await self._show(event)
                case RoomAdded(room=room):
                    self.rooms.add(room)
                    await self._show(event)
                case RoomRemoved(room_id=room_id):
                    await self._show(event)
                    self.rooms.remove(room_id)
                    await self._store.forget(room_id)
                    self._begun.discard(room_id)
                case _:
                    await self._take(event)

    async def _take(self, event: Event) -> None:
        room_id, seq = position(event)
        if not room_id or not seq:
            self.rooms.apply(event.data, self.account.username)
            await self._show(event)
            return
        if not self._is_wanted(room_id):
            return
        async with self._store.take(room_id, seq) as new:
            if new:
                self.rooms.apply(event.data, self.account.username)
                await self._show(event)
        if new:
            self._mark("delivered", room_id, seq)

    async def _read_again(self, room_id: str) -> None:
        """The log ends before our cursor: take what follows the cursor, if anything; else drop the cursor."""
        before = after = await self._store.cursor(room_id) or 0
        while True:
            data = await self.ask("history", {"room_id": room_id, "after": after, "limit": 200})
            page = History.model_validate(data, extra="ignore")
            for message in page.messages:
                await self._take(Event("message", message))
                after = message.seq
            if not page.has_more or not page.messages:
                break
        if after == before:
            await self._store.forget(room_id)
            self._begun.discard(room_id)

    # Markers: how far this device has received, and the user has read. They are cumulative: one call covers many
    # entries, and the next call makes up for a lost one.

    def read(self, room_id: str, seq: int) -> None:
        """Mark a room as read up to `seq`; the server gets the marker shortly."""
        self._mark("read", room_id, seq)

    def _mark(self, action: str, room_id: str, seq: int) -> None:
        if seq > self._markers.get((action, room_id), 0):
            self._markers[action, room_id] = seq
            self._markers_moved.set()

    async def _send_markers(self) -> None:
        while True:
            await self._markers_moved.wait()
            await asyncio.sleep(_MARKERS_AFTER)
            await self.send_markers()

    async def send_markers(self) -> None:
        """Send the markers now. If that fails, the cursors of the next connect replace the `delivered` ones."""
        self._markers_moved.clear()
        markers, self._markers = self._markers, {}
        delivered = {room_id: seq for (action, room_id), seq in markers.items() if action == "delivered"}
        with contextlib.suppress(Offline, Refused):
            if delivered:
                await self.ask("delivered", {"cursors": delivered})
            for (action, room_id), seq in markers.items():
                if action == "read":
                    await self.ask("read", {"room_id": room_id, "seq": seq})


def position(event: Event) -> tuple[str | None, int | None]:
    """The room and seq of an entry; (None, None) for an event that is not in a log."""
    match event.data:
        case Message() | MemberChanged() | RoomEntry() | ApplicationEvent() as entry:
            return entry.room_id, entry.seq
    return None, None
