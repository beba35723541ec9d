"""A device of a user, connected: everything that stands between the wire and a screen or a script.

It stays connected, brings its cursors at every connect, hands each entry over exactly once and in order, tells the
server what has been received, sends what waits in the outbox, and renews its token.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine
from typing import Any, Final

from client_demo.account import Account
from client_demo.connection import Connection, Event
from client_demo.errors import ClientError, Offline, Refused, SignedOut
from client_demo.outbox import Outbox
from client_demo.rooms import Rooms
from client_demo.store import Store, Unsent
from server.contract.actions import MAX_CURSORS
from server.contract.errors import CloseReason, Error, ErrorCode
from server.contract.events import Closing, MemberChanged, MessageChanged, Ready, RoomAdded, RoomChanged, RoomRemoved
from server.contract.models import History, Message

_BACKOFF: Final = 0.25
_BACKOFF_MOST: Final = 15.0
_TELL_AFTER: Final = 0.4
_RENEW_BEFORE: Final = 300.0


class Client:
    """`run` it; meanwhile `ask` and `outbox.send`."""

    def __init__(
        self,
        account: Account,
        store: Store,
        device: str,
        show: Callable[[Event], None],
        offline: Callable[[str], None],
        failed: Callable[[Unsent, Error], None],
        wants: Callable[[str], bool] = lambda room_id: True,
    ) -> None:
        """
        `show` gets every event in order; an entry of a room exactly once, also across restarts. If it raises, `run`
        ends with that, and the entry counts as not shown. `offline` is told in a sentence why there is no
        connection; `failed`, what could not be sent. The entries of a room that `wants` denies are left where they
        are, for another run of the same device that wants them.
        """
        self.account = account
        self.rooms = Rooms()
        self._store = store
        self._device = device
        self._show = show
        self._wants = wants
        self._offline = offline
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._begun = set(store.cursors())
        self._markers: dict[tuple[str, str], int] = {}
        self._markers_moved = asyncio.Event()
        self._attempts = 0
        self._connection = Connection(account.server, self._auth, self._arrived)
        self.ask = self._connection.ask
        self.outbox = Outbox(store, self.ask, failed)

    @property
    def is_open(self) -> bool:
        return self._connection.is_open

    async def run(self) -> None:
        """Until cancelled. Raises `SignedOut`, or `Refused` where it makes no sense to come back."""
        parts: list[Coroutine[Any, Any, None]] = [
            self._stay_connected(),
            self._take_events(),
            self._tell_markers(),
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

    def _auth(self) -> dict[str, Any]:
        """The payload of each connect, made when it is sent."""
        cursors = [(room_id, seq) for room_id, seq in self._store.cursors().items() if self._wants(room_id)]
        return {"token": self.account.token, "device": self._device, "cursors": dict(cursors[:MAX_CURSORS])}

    async def _stay_connected(self) -> None:
        while True:
            wait = None
            try:
                closing = await self._connection.live()
                self._offline("the connection was lost" if closing is None else f"closed: {closing.reason}")
                await self._answer_closing(closing)
            except Offline as why:
                self._offline(str(why))
            except Refused as why:
                self._offline(str(why))
                if why.code is ErrorCode.TOKEN_REVOKED:
                    raise SignedOut(f"{why}: sign in again") from None
                if why.code in (ErrorCode.UNAUTHENTICATED, ErrorCode.TOKEN_EXPIRED):
                    await self._renew()
                elif not why.error.retryable and why.code is not ErrorCode.INTERNAL:
                    raise
                wait = why.retry_after
            if wait is None:
                wait = min(_BACKOFF_MOST, _BACKOFF * 2**self._attempts) * random.uniform(0.5, 1)
            self._attempts = min(self._attempts + 1, 10)
            await asyncio.sleep(wait)

    async def _answer_closing(self, closing: Closing | None) -> None:
        """Do what the server's `closing` asks for; return if we should come back."""
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
        """Bring the connection a fresh token before the old one ends."""
        while True:
            left = self.account.expires_in
            await asyncio.sleep(max(1.0, left - min(_RENEW_BEFORE, left / 4)) if left > 0 else 1.0)
            if not self.is_open or self.account.expires_in > _RENEW_BEFORE:
                continue
            with contextlib.suppress(Offline, Refused):
                await self.account.renew()
                await self.ask("authenticate", {"token": self.account.token})

    # Receiving

    def _arrived(self, event: Event) -> None:
        """Called in the order of arrival.

        Where a room begins for this device is on disk at once: from here on the server may take what it sent for
        received (a PONG proves it), while it still waits in this queue.
        """
        room_id, seq = position(event)
        if room_id and seq and room_id not in self._begun:
            self._store.begin(room_id, seq)
            self._begun.add(room_id)
        self._events.put_nowait(event)

    async def _take_events(self) -> None:
        while True:
            event = await self._events.get()
            match event.data:
                case None:  # connected
                    self.outbox.wake()
                    with contextlib.suppress(Offline, Refused):
                        await self.rooms.load(self.ask)
                    self._show(event)
                case Ready() as ready:
                    self._attempts = 0
                    self._store.put(expires_at=ready.token_expires_at)
                    for room_id in filter(self._wants, ready.reset):
                        with contextlib.suppress(Offline, Refused):  # then the next connect resets it again
                            await self._read_again(room_id)
                    self._show(event)
                case RoomAdded(room=room):
                    self.rooms.add(room)
                    self._show(event)
                case RoomRemoved(room_id=room_id):
                    self._show(event)
                    self.rooms.remove(room_id)
                    self._store.forget(room_id)
                    self._begun.discard(room_id)
                case _:
                    self._take(event)

    def _take(self, event: Event) -> None:
        room_id, seq = position(event)
        if not room_id or not seq:
            self.rooms.apply(event.data, self.account.username)
            self._show(event)
            return
        if not self._wants(room_id):
            return
        with self._store.take(room_id, seq) as new:
            if new:
                self.rooms.apply(event.data, self.account.username)
                self._show(event)
        if new:
            self._mark("delivered", room_id, seq)

    async def _read_again(self, room_id: str) -> None:
        """The log does not know our cursor: take what it has after it; if there is nothing, begin anew."""
        before = after = self._store.cursor(room_id) or 0
        while True:
            data = await self.ask("history", {"room_id": room_id, "after": after, "limit": 200})
            page = History.model_validate(data, extra="ignore")
            for message in page.messages:
                self._take(Event("message", message))
                after = message.seq
            if not page.has_more or not page.messages:
                break
        if after == before:
            self._store.forget(room_id)
            self._begun.discard(room_id)

    # Markers: how far we have received and read. Cumulative, so that one call tells of many, and a lost one is
    # made good by the next.

    def read(self, room_id: str, seq: int) -> None:
        """The user has read a room up to here; the server is told soon."""
        self._mark("read", room_id, seq)

    def _mark(self, action: str, room_id: str, seq: int) -> None:
        if seq > self._markers.get((action, room_id), 0):
            self._markers[action, room_id] = seq
            self._markers_moved.set()

    async def _tell_markers(self) -> None:
        while True:
            await self._markers_moved.wait()
            await asyncio.sleep(_TELL_AFTER)
            await self.tell_markers()

    async def tell_markers(self) -> None:
        """Tell the server now. What it cannot be told, the cursors of the next connect tell, or nobody."""
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
    """The room and seq of an entry; (None, None) for what is not in a log."""
    match event.data:
        case Message() | MessageChanged() | MemberChanged() | RoomChanged() as entry:
            return entry.room_id, entry.seq
    return None, None
