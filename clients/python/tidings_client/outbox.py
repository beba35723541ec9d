"""Sends requests in order and each once, across lost connections and restarts of the client.

A request is in the store before it is sent and until the server has answered it. After a lost answer, the client does
not know whether it took effect: it sends it again with the same `client_id`, and the server answers with what it
already has. Only one request is in flight, so none overtakes another that has to wait.

The files of a message are uploaded before it is sent. The later requests of its room wait for that, others do not.

A message may be edited while it waits. After an attempt to send it, the server may have the former content: the
answer shows it, and an `edit` follows before the message counts as sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import unicodedata
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final

from tidings_client.connection import log
from tidings_client.errors import NotConnected, Offline, Refused, StoreFailed, TidingsError
from tidings_client.files import Ask, File, Transfers, UnsentFile
from tidings_client.stores import Store, StoredUnsent

_SIGN_IN_FIRST: Final = {"unauthenticated", "token_expired", "token_revoked"}
"""These refuse the client, not the request, which waits until the client is signed in again."""
_MAX_WAIT: Final = 30.0


class Unsent:
    """A message or an event that the server has not acknowledged yet."""

    def __init__(self, outbox: Outbox, stored: StoredUnsent) -> None:
        self.client_id = stored.client_id
        self.action = stored.action
        self.payload = stored.payload
        self.tried = stored.tried
        """Whether it was sent, so that the server may have it."""
        self.edited = stored.edited
        """Whether it was edited after that, so that the server may have an older content."""
        self.files = stored.files
        self.uploaded = 0
        """The bytes of its files that the server has."""
        kind = next((name for name in ("room_id", "username", "topic_name") if name in self.payload), "")
        self.room = kind, unicodedata.normalize("NFKC", str(self.payload.get(kind)).strip()).lower()
        """The kind of the reference to its room, and the reference."""
        self.has_uploads = False
        """Whether the server had all of its files a moment ago, on this connection."""
        self._outbox = outbox
        self._answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answer.add_done_callback(lambda answer: answer.cancelled() or answer.exception())

    @property
    def content(self) -> str:
        return str(self.payload.get("content", ""))

    @property
    def state(self) -> str:
        """`waiting`, `tried`, `sent`, `refused` or `withdrawn`."""
        if self._answer.cancelled():
            return "withdrawn"
        if self._answer.done():
            return "sent" if self._answer.exception() is None else "refused"
        return "tried" if self.tried else "waiting"

    async def sent(self) -> dict[str, Any]:
        """Wait until the server has acknowledged it, and return its answer.

        Raises a `Refused` if the server will never accept it, `Closed` if the client ends before (it stays in the
        outbox), `CancelledError` if it was withdrawn.
        """
        return await asyncio.shield(self._answer)

    @property
    def waits_for_uploads(self) -> bool:
        return bool(self.files) and not self.tried and not self.has_uploads

    async def edit(self, content: str) -> bool:
        """Replace the content of a message; False if it is too late, because it is acknowledged."""
        return await self._outbox.edit(self, content)

    async def withdraw(self) -> bool:
        """Remove it from the outbox; False if it is too late, because it has been tried."""
        return await self._outbox.withdraw(self)

    def stored(self) -> StoredUnsent:
        return StoredUnsent(self.client_id, self.action, self.payload, self.tried, self.edited, self.files)

    def request(self) -> dict[str, Any]:
        """The payload, with the uploads of its files."""
        files = [{"id": file.upload_id, "alt": file.alt} for file in self.files]
        return {**self.payload, "files": files} if files else self.payload

    def settle(self, outcome: dict[str, Any] | TidingsError) -> None:
        if self._answer.done():
            return
        if isinstance(outcome, TidingsError):
            self._answer.set_exception(outcome)
        else:
            self._answer.set_result(outcome)


class Outbox:
    def __init__(
        self,
        store: Store,
        ask: Ask,
        transfers: Transfers,
        changed: Callable[[Unsent], None],
        refused: Callable[[Unsent, Refused], None],
    ) -> None:
        """
        Args:
            changed: called when a request enters, changes its state, has uploaded more of its files, or leaves.
            refused: gets a request that the server will never accept, and why.
        """
        self._store = store
        self._ask = ask
        self._transfers = transfers
        self._uploading: tuple[Unsent, asyncio.Task[None]] | None = None
        self._changed = changed
        self._refused = refused
        self._send_soon = asyncio.Event()
        self._upload_soon = asyncio.Event()
        self._online = False
        self._queue: list[Unsent] = []

    @property
    def unsent(self) -> list[Unsent]:
        """All requests that are not acknowledged, in order."""
        return list(self._queue)

    async def load(self) -> None:
        self._queue = [Unsent(self, stored) for stored in await self._store.outbox()]

    async def enqueue(
        self,
        action: str,
        payload: dict[str, Any],
        client_id: str | None = None,
        files: Sequence[File | Path | str] = (),
    ) -> Unsent:
        """Store a request; it is durable when this returns, with the contents of its files.

        Raises `StoreFailed`, or for a file `OSError` and `ValueError`; then nothing will be sent.
        """
        client_id = client_id or str(uuid.uuid4())
        for known in self._queue:
            if known.client_id == client_id:
                return known
        kept: list[UnsentFile] = []
        try:
            for given in files:
                file = given if isinstance(given, File) else File(Path(given))
                key, size = await self._store.keep(file.content)
                kept.append(UnsentFile(key, file.shown_name, size, file.alt))
                if not size:
                    raise ValueError(f"{file.shown_name} is empty")
            payload = {**payload, "client_id": client_id}
            unsent = Unsent(self, StoredUnsent(client_id, action, payload, tried=False, files=tuple(kept)))
            await self._store.enqueue(unsent.stored())
        except BaseException:
            await self._store.discard([file.key for file in kept])
            raise
        self._queue.append(unsent)
        self._changed(unsent)
        self._send_soon.set()
        if files:
            self._upload_soon.set()
        return unsent

    async def edit(self, unsent: Unsent, content: str) -> bool:
        if unsent.state not in ("waiting", "tried"):
            return False
        unsent.payload = {**unsent.payload, "content": content}
        unsent.edited = unsent.tried
        await self._store.enqueue(unsent.stored())
        self._changed(unsent)
        return True

    async def withdraw(self, unsent: Unsent) -> bool:
        if unsent.state != "waiting":
            return False
        if self._uploading is not None and unsent is self._uploading[0]:
            self._uploading[1].cancel()
        self._queue.remove(unsent)
        unsent._answer.cancel()
        await self._store.dequeue(unsent.client_id)
        self._changed(unsent)
        self._send_soon.set()
        return True

    def set_online(self, online: bool) -> None:
        self._online = online
        if online:
            self._send_soon.set()
            self._upload_soon.set()
        else:
            for unsent in self._queue:
                unsent.has_uploads = False

    def end(self, reason: TidingsError) -> None:
        """Answer those who wait; the requests stay in the store."""
        for unsent in self._queue:
            unsent.settle(reason)

    def parts(self) -> list[Coroutine[Any, Any, None]]:
        """The loops that run as long as the client does."""
        return [
            self._run(self._to_send, self._send, self._send_soon),
            self._run(self._to_upload, self._upload, self._upload_soon),
        ]

    async def _run(
        self,
        find: Callable[[], Unsent | None],
        attempt: Callable[[Unsent], Awaitable[float | None]],
        soon: asyncio.Event,
    ) -> None:
        """Attempt what is found. An attempt returns None if it is over, or the seconds to wait (0: a while)."""
        wait = 0.0
        while True:
            soon.clear()
            unsent = find() if self._online else None
            if unsent is None:
                await soon.wait()
                continue
            uploaded = unsent.uploaded
            pause = await attempt(unsent)
            if pause is None or unsent.uploaded > uploaded:
                wait = 0.0
            if pause is None:
                continue
            wait = min(_MAX_WAIT, max(0.25, wait * 2))
            if pause:
                await asyncio.sleep(pause)
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await soon.wait()

    def _to_send(self) -> Unsent | None:
        held: set[tuple[str, str]] = set()
        kinds: set[str] = set()
        for unsent in self._queue:
            # References of two kinds may mean the same room.
            if not unsent.waits_for_uploads and unsent.room not in held and kinds <= {unsent.room[0]}:
                return unsent
            held.add(unsent.room)
            kinds.add(unsent.room[0])
        return None

    def _to_upload(self) -> Unsent | None:
        return next((unsent for unsent in self._queue if unsent.waits_for_uploads), None)

    async def _send(self, unsent: Unsent) -> float | None:
        is_first = not unsent.tried
        try:
            unsent.tried = True
            if is_first:
                self._changed(unsent)
                await self._store.enqueue(unsent.stored())
            try:
                answer = await self._ask(unsent.action, unsent.request())
            except NotConnected:
                if is_first:
                    unsent.tried = unsent.edited = unsent.has_uploads = False
                    await self._recorded(self._store.enqueue(unsent.stored()))
                return 0.0
            while unsent.edited and (content := unsent.content) != answer.get("content"):
                answer = await self._ask("edit", {"message_id": answer["id"], "content": content})
                unsent.edited = unsent.content != content
        except StoreFailed:
            unsent.tried = not is_first
            return 0.0
        except Offline:
            return 0.0
        except Refused as error:
            if error.retryable or error.code in _SIGN_IN_FIRST:
                return error.retry_after or 0.0
            if unsent.files and not is_first:  # the server does not have it; perhaps its uploads have ended
                unsent.tried = unsent.edited = unsent.has_uploads = False
                self._upload_soon.set()
                return None
            await self._settle(unsent, error)
        except TidingsError as error:  # an answer that this version cannot read: it took effect
            await self._settle(unsent, error)
        else:
            await self._settle(unsent, answer)
        return None

    async def _settle(self, unsent: Unsent, outcome: dict[str, Any] | TidingsError) -> None:
        unsent.settle(outcome)
        if isinstance(outcome, Refused):
            self._refused(unsent, outcome)
        self._queue.remove(unsent)
        await self._recorded(self._store.dequeue(unsent.client_id))
        self._changed(unsent)

    async def _upload(self, unsent: Unsent) -> float | None:
        uploading = asyncio.create_task(self._upload_files(unsent))
        self._uploading = unsent, uploading
        try:
            await asyncio.wait([uploading])
            if unsent not in self._queue:  # it was withdrawn, whatever has become of its upload
                uploading.cancelled() or uploading.exception()
                return None
            uploading.result()
        except (Offline, StoreFailed):
            return 0.0
        except Refused as error:
            if error.retryable or error.code in _SIGN_IN_FIRST:
                return error.retry_after or 0.0
            await self._settle(unsent, error)
        else:
            unsent.has_uploads = self._online
        finally:
            uploading.cancel()
            await asyncio.wait([uploading])
            self._uploading = None
        self._send_soon.set()
        return None

    async def _upload_files(self, unsent: Unsent) -> None:
        for at, file in enumerate(unsent.files):
            before = sum(each.size for each in unsent.files[:at])

            async def moved(uploading: UnsentFile, offset: int, at: int = at, before: int = before) -> None:
                if uploading != unsent.files[at]:
                    unsent.files = (*unsent.files[:at], uploading, *unsent.files[at + 1 :])
                    await self._store.enqueue(unsent.stored())
                unsent.uploaded = before + offset
                self._changed(unsent)

            await self._transfers.upload(self._ask, file, self._store.content(file.key), moved)

    async def _recorded(self, write: Awaitable[None]) -> None:
        """Write; if that fails, the request is sent once more after a restart, with the same `client_id`."""
        try:
            await write
        except StoreFailed as error:
            log.warning("the outbox: %s", error)
