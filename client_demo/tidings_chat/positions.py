"""How far the screen has come: what was shown, and what the user has read."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

from tidings_client import Client, Entry, Store, StoreFailed, TidingsError

_CONSUMER: Final = "screen"
_PAGE: Final = 200
_MARKS_AFTER: Final = 0.4
_LEAVE_WITHIN: Final = 1.0


class ScreenPosition:
    """The last entry of each room that was shown: each is shown once, also across restarts.

    The client passes an entry on after it has recorded it. If this process dies before showing it, the next one shows
    it from the store; if it dies after that and before storing the position, once more.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._shown: dict[str, int] = {}
        self._moved: set[str] = set()
        self._has_caught_up = False

    def passes(self, data: dict[str, Any]) -> bool:
        """Move to an event that is to be shown; False for an entry that was shown already."""
        room_id, seq = data.get("room_id"), data.get("seq")
        if isinstance(room_id, str) and isinstance(seq, int):
            if seq <= self._shown.get(room_id, 0):
                return False
            self._shown[room_id] = seq
            self._moved.add(room_id)
        return True

    def forget(self, room_id: str) -> None:
        self._shown.pop(room_id, None)
        self._moved.discard(room_id)

    async def store(self) -> None:
        with contextlib.suppress(StoreFailed):  # the next call makes up for this one
            for room_id in list(self._moved):
                seq = self._shown[room_id]
                await self._store.move(room_id, _CONSUMER, seq)
                if self._shown.get(room_id) == seq:
                    self._moved.discard(room_id)

    async def not_shown(self, room_id: str | None = None) -> AsyncIterator[Entry]:
        """The entries of a room beyond its position; without a room, those that an earlier process has left.

        Each of them has to pass before the next is asked for.
        """
        if room_id is None and self._has_caught_up:
            return
        for each in [room_id] if room_id else await self._store.cursors():
            self._shown[each] = (await self._store.position(each, _CONSUMER))[0] or 0
            while entries := await self._store.entries(each, None, self._shown[each], _PAGE):
                for entry in entries:
                    yield entry
        self._has_caught_up = self._has_caught_up or room_id is None


class ReadMarks:
    """How far the user has read each room. A mark is cumulative: the next one makes up for a lost one."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._marks: dict[str, int] = {}
        self._moved = asyncio.Event()

    def mark(self, room_id: str, seq: int) -> None:
        """Mark a room as read up to `seq`; the server gets the mark shortly."""
        self._marks[room_id] = max(seq, self._marks.get(room_id, 0))
        self._moved.set()

    async def run(self) -> None:
        while True:
            await self._moved.wait()
            await asyncio.sleep(_MARKS_AFTER)
            await self.send()

    async def send(self) -> None:
        """Send the marks now, unless the server cannot be reached."""
        self._moved.clear()
        marks, self._marks = self._marks, {}
        with contextlib.suppress(TidingsError, TimeoutError):
            async with asyncio.timeout(_LEAVE_WITHIN):
                for room_id, seq in marks.items():
                    await self._client.ask("read", {"room_id": room_id, "seq": seq})
