"""Sending: strictly in order, and each message once, across lost connections and restarts of the client.

A message is on disk before it is sent and until the server has acknowledged it. When the answer is lost, whether the
message took effect is not known: it is sent again with the same `client_id`, and the server answers with the message
that it already has. One is in flight at a time, so nothing overtakes a message that has to wait.

A message may be changed while it waits. If it has been tried, the server may have it as it was: then the answer
tells, and the `edit` goes out before the message counts as sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from client_demo.errors import NotConnected, Offline, Refused
from client_demo.store import RoomRef, Store, Unsent
from server.contract.errors import Error, ErrorCode

Ask = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
_WAIT: Final = 0.5
_WAIT_MOST: Final = 30.0
_NOT_THE_MESSAGE: Final = {ErrorCode.UNAUTHENTICATED, ErrorCode.TOKEN_EXPIRED, ErrorCode.TOKEN_REVOKED}
"""Refusals of the one who asks, not of what is asked: the message waits until we are signed in again."""


class Outbox:
    def __init__(self, store: Store, ask: Ask, failed: Callable[[Unsent, Error], None]) -> None:
        """`failed` is told of a message that the server will never take; it is not sent again."""
        self._store = store
        self._ask = ask
        self._failed = failed
        self._woken = asyncio.Event()

    def send(self, room: RoomRef, content: str, reply_to: str | None = None) -> None:
        """On disk when this returns; on its way when there is a connection."""
        self._store.enqueue(room, content, reply_to=reply_to)
        self.wake()

    def wake(self) -> None:
        """Something has changed: there is a message, or a connection."""
        self._woken.set()

    async def run(self) -> None:
        waited = 0.0
        while True:
            self._woken.clear()
            unsent = self._store.next_unsent()
            if unsent is None:
                await self._woken.wait()
                continue
            first = self._store.tried(unsent)
            try:
                await self._send(unsent)
            except NotConnected:
                if first:
                    self._store.untried(unsent)
                waited = _longer(waited)
                await self._pause(waited)
            except Offline:
                waited = _longer(waited)
                await self._pause(waited)
            except Refused as why:
                if why.error.retryable:
                    waited = _longer(waited)
                    await asyncio.sleep(why.retry_after if why.retry_after is not None else waited)
                elif why.code in _NOT_THE_MESSAGE:
                    waited = _longer(waited)
                    await self._pause(waited)
                else:
                    refused = self._store.get_unsent(unsent.client_id) or unsent
                    self._store.done(unsent)
                    self._failed(refused, why.error)
            else:
                waited = 0.0

    async def _send(self, unsent: Unsent) -> None:
        sent = await self._ask("message", unsent.payload)
        while (wanted := self._store.get_unsent(unsent.client_id)) is not None:
            if not wanted.edited or wanted.content == sent.get("content"):
                self._store.done(unsent)
                return
            sent = await self._ask("edit", {"message_id": sent["id"], "content": wanted.content})

    async def _pause(self, seconds: float) -> None:
        """Wait, or until woken: by a connection, for one."""
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            pass


def _longer(waited: float) -> float:
    return min(_WAIT_MOST, max(_WAIT, waited * 2))
