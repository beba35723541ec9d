"""Sends messages in order and each once, across lost connections and restarts of the client.

A message is on disk before it is sent and until the server has acknowledged it. After a lost answer, the client does
not know whether the message took effect: it sends it again with the same `client_id`, and the server answers with
the message that it already has. Only one message is in flight, so none overtakes another that has to wait.

The user may edit a message while it waits. After an attempt to send it, the server may have the former content: the
answer shows it, and an `edit` follows before the message counts as sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from tidings.contract.errors import Error, ErrorCode
from tidings_chat.errors import NotConnected, Offline, Refused
from tidings_chat.store import RoomRef, Store, Unsent

Ask = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
_RETRY_AFTER: Final = 0.5
_MAX_RETRY_AFTER: Final = 30.0
_SIGN_IN_FIRST: Final = {ErrorCode.UNAUTHENTICATED, ErrorCode.TOKEN_EXPIRED, ErrorCode.TOKEN_REVOKED}
"""These refuse the client, not the message, which waits until the client is signed in again."""


class Outbox:
    def __init__(
        self,
        store: Store,
        ask: Ask,
        failed: Callable[[Unsent, Error], None],
        is_open: Callable[[], bool] = lambda: True,
    ) -> None:
        """
        Args:
            failed: gets a message that the server will never accept, and the error.
            is_open: whether there is a connection. Without one, no message counts as tried, so it can be withdrawn.
        """
        self._store = store
        self._ask = ask
        self._failed = failed
        self._is_open = is_open
        self._woken = asyncio.Event()

    async def send(self, room: RoomRef, content: str, reply_to: str | None = None) -> None:
        """Store a message; it is on disk when this returns, and is sent as soon as there is a connection."""
        await self._store.enqueue(room, content, reply_to=reply_to)
        self.wake()

    def wake(self) -> None:
        """There is a new message, or a new connection: try again now."""
        self._woken.set()

    async def run(self) -> None:
        wait = 0.0
        while True:
            self._woken.clear()
            attempt = await self._store.try_next() if self._is_open() else None
            if attempt is None:
                await self._woken.wait()
                continue
            unsent, is_first = attempt
            try:
                await self._send(unsent, is_first=is_first)
            except Offline:
                wait = _longer(wait)
                await self._pause(wait)
            except Refused as error:
                if error.error.retryable:
                    wait = _longer(wait)
                    await asyncio.sleep(error.retry_after if error.retry_after is not None else wait)
                elif error.code in _SIGN_IN_FIRST:
                    wait = _longer(wait)
                    await self._pause(wait)
                else:
                    self._failed(await self._store.discard(unsent), error.error)
            else:
                wait = 0.0

    async def _send(self, unsent: Unsent, *, is_first: bool) -> None:
        try:
            sent = await self._ask("message", unsent.payload)
        except NotConnected:
            if is_first:
                await self._store.not_tried(unsent)
            raise
        while (changed := await self._store.acknowledge(unsent, sent.get("content"))) is not None:
            sent = await self._ask("edit", {"message_id": sent["id"], "content": changed.content})

    async def _pause(self, seconds: float) -> None:
        """Wait for `seconds`, or until `wake`."""
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            pass


def _longer(wait: float) -> float:
    return min(_MAX_RETRY_AFTER, max(_RETRY_AFTER, wait * 2))
