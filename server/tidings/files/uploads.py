"""Uploads: their parts become a file, and what no message needs any more is deleted.

What holds:

* a part is durable, and noted in the database, before it is acknowledged; an upload goes on after it, on any node;
* a file that is complete never changes; a message may have it from then on, and its sender alone decides that;
* a file is deleted after its message, or a day after the last part of an upload that no message took. It is out of
  reach before its contents are deleted, so a message never has a file without its content.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import json
import logging
import secrets
import shutil
import sys
import unicodedata
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import filetype
from sqlalchemy.engine import Connection as Transaction

from tidings.auth.principal import Principal
from tidings.contract.errors import ActionError, ErrorCode, not_found
from tidings.contract.permissions import Permission
from tidings.files.store import CHUNK, FileStore
from tidings.log.messages import new_message_id
from tidings.log.quotas import Quotas
from tidings.log.retention import RETENTION_S, now_ms
from tidings.supervision import Periodic, spawn
from tidings_db.engine import Database, Write
from tidings_db.queries import files
from tidings_db.queries.files import FileRow

logger = logging.getLogger("tidings.files")

CONTENT, PREVIEW = "content", "preview"
MAX_PREVIEW = 4 * 1024 * 1024
"""Bytes; more than an image of 800 × 800 pixels has."""
KEPT_MS = 24 * 3600 * 1000
"""How long an upload waits for its next part, and a complete file for its message."""
MAX_PARTS = 2000
MIN_PART = 64 * 1024
"""Of a part that broke off, fewer bytes are dropped."""
EXAMINED_S = 40.0
"""The longest that an image is examined."""
SWEPT = 100
"""Files that are deleted together."""
UNKNOWN, IMAGE = "application/octet-stream", "image/"
_HEAD = 8192


UPLOADS = "api/uploads"
"""The path below which the bytes of uploads arrive."""


class BrokenOff(Exception):
    """The client has gone in the middle of a part."""


def purpose(file_id: str) -> str:
    """The purpose of the ticket in a link to a file."""
    return f"file:{file_id}"


class Files(Periodic):
    def __init__(
        self,
        database: Database,
        store: FileStore,
        incoming: Path,
        quotas: Quotas,
        *,
        max_bytes: int,
        origin: str = "",
        interval_s: float = RETENTION_S,
    ) -> None:
        """
        Args:
            incoming: the folder for parts and files that are under way.
            max_bytes: of one file.
            origin: the address at which files are served; empty: that of the server.
        """
        super().__init__(interval_s, logger, "files could not be deleted")
        self.store = store
        self.max_bytes = max_bytes
        self.origin = f"{origin}/" if origin else ""
        self._db = database
        self._incoming = incoming
        self._quotas = quotas
        self._receiving: set[str] = set()
        self._completing: dict[str, asyncio.Task[None]] = {}
        self._examining = asyncio.Semaphore(1)

    def check_size(self, size: int) -> None:
        """Raises `too_large`."""
        if size > self.max_bytes:
            raise ActionError(ErrorCode.TOO_LARGE, "the file is too large", limit=self.max_bytes)

    async def create(self, owner: Principal, name: str, size: int) -> FileRow:
        """Begin an upload. Raises `too_large` if the user may not store so much."""

        def insert(conn: Transaction) -> FileRow:
            now = now_ms()
            self._quotas.check_files(conn, owner.user_key, size)
            file_id = new_message_id(now)
            files.create(conn, file_id, owner.user_key, clean_name(name), size, now, now + KEPT_MS)
            created = files.get(conn, file_id)
            assert created is not None
            return created

        return await self._db.write(insert)

    async def find(self, owner: Principal, file_id: str) -> FileRow:
        """An upload of the user, or what has become of it. Raises `not_found`."""
        file = await self._db.read(partial(files.get, file_id=file_id))
        if file is None or file.user_key != owner.user_key or file.expires_at == 0:
            raise not_found("file")
        return file

    async def readable(self, caller: Principal, file_ids: Sequence[str]) -> list[FileRow]:
        """Of some files, those that the caller may read: complete ones, of messages in the caller's rooms or the
        caller's own. A key may read those of its room, or of all."""
        read = Permission.READ
        query = partial(files.readable, user_key=caller.user_key, file_ids=file_ids, any_room=read in caller.granted)
        found = await self._db.read(query)
        if read not in caller.granted:
            return found
        return [file for file in found if file.room_key is None or read in caller.granted_in(file.room_key)]

    async def receive(self, file: FileRow, chunks: AsyncIterator[bytes]) -> int:
        """Add a part to an upload, and complete the file with the last one. Returns how many bytes are durable.

        Of a part that breaks off, what has come is kept. Raises `too_large`, or `conflict` after another part, and
        without reading anything while this node receives another one.
        """
        received = file.received
        if file.parts is None:  # complete, and perhaps of another size than its upload
            return received
        if received < file.size:
            received += await self._receive(file, chunks)
        if received == file.size:
            await self._completed(file.id)
        return received

    async def _receive(self, file: FileRow, chunks: AsyncIterator[bytes]) -> int:
        if len(file.part_keys) >= MAX_PARTS:
            raise ActionError(ErrorCode.TOO_LARGE, "the upload has too many parts", limit=MAX_PARTS)
        if file.id in self._receiving:
            found = {"offset": file.received, "size": file.size}
            raise ActionError(ErrorCode.CONFLICT, "another part of the upload is being received", **found)
        key, missing = f"{file.id}/part-{secrets.token_hex(8)}", file.size - file.received
        self._receiving.add(file.id)
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._receiving.discard, file.id)
            folder = await stack.enter_async_context(self._folder())
            size, broke_off = await _write(folder / "part", chunks, missing)
            if size == 0 or (broke_off and size < min(MIN_PART, missing)):
                return 0
            await self.store.put(key, folder / "part")
        noted = partial(files.receive, file=file, part=key, size=size, expires_at=now_ms() + KEPT_MS)
        if not await self._db.write(noted):
            await self.store.remove([key])
            raise ActionError(ErrorCode.CONFLICT, "another part of the upload came first")
        return size

    async def _completed(self, file_id: str) -> None:
        """Make a file of the parts, once. Goes on if its caller is cancelled."""
        task = self._completing.get(file_id)
        if task is None:
            task = self._completing[file_id] = spawn(self._complete(file_id), "tidings.files.complete")
            task.add_done_callback(lambda _: self._completing.pop(file_id))
        await asyncio.shield(task)

    async def _complete(self, file_id: str) -> None:
        file = await self._db.read(partial(files.get, file_id=file_id))
        if file is None or file.parts is None:
            return
        async with self._folder() as folder:
            source, content, preview = folder / "source", folder / CONTENT, folder / PREVIEW
            for key in file.part_keys:
                await self.store.save(key, file.size, source)
            found: dict[str, Any] = {"type": await asyncio.to_thread(media_type, source), "preview": False}
            if found["type"].startswith(IMAGE):
                async with self._examining:
                    examined = await _examine(source, content, preview)
                found = examined or {"type": UNKNOWN, "preview": False}
            kept = content if found["preview"] else source
            found["size"] = (await anyio.Path(kept).stat()).st_size
            await self.store.put(f"{file_id}/{CONTENT}", kept)
            if found["preview"]:
                await self.store.put(f"{file_id}/{PREVIEW}", preview)
        if await self._db.write(partial(files.complete, file_id=file_id, **found)):
            await self.store.remove(file.part_keys)
        else:
            await self.store.delete(file_id)

    @contextlib.asynccontextmanager
    async def _folder(self) -> AsyncIterator[Path]:
        """A new folder, which is deleted afterwards."""
        folder = self._incoming / secrets.token_hex(8)
        await asyncio.to_thread(folder.mkdir, 0o700, parents=True)
        try:
            yield folder
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def discard(self, owner: Principal, file_id: str) -> None:
        """Withdraw an upload, or a file without a message. Raises `not_found`."""
        if not await self._db.write(partial(files.discard, user_key=owner.user_key, file_id=file_id)):
            raise not_found("file")
        self.hurry()

    async def _round(self) -> None:
        await self.run_once(now_ms())

    async def run_once(self, now: int) -> None:
        """Delete all files that have expired at `now` (ms), and what a process that died has left."""
        while expired := await self._db.write(partial(files.expire, now=now, limit=SWEPT), Write.LAZY):
            for file_id in expired:
                await self.store.delete(file_id)
            await self._db.write(partial(files.delete, file_ids=expired), Write.LAZY)
        await asyncio.to_thread(_remove_old, self._incoming, now / 1000 - KEPT_MS / 1000)


async def _write(target: Path, chunks: AsyncIterator[bytes], most: int) -> tuple[int, bool]:
    """Write what comes to a new file: how many bytes, and whether it broke off. Raises `too_large` beyond `most`."""
    size, waiting, broke_off = 0, bytearray(), False
    async with await anyio.open_file(target, "xb") as file:
        try:
            async for chunk in chunks:
                size += len(chunk)
                if size > most:
                    raise ActionError(ErrorCode.TOO_LARGE, "more bytes than the upload has", limit=most)
                waiting += chunk
                if len(waiting) >= CHUNK:
                    await file.write(waiting)
                    waiting = bytearray()
        except BrokenOff:
            broke_off = True
        await file.write(waiting)
    return size, broke_off


async def _examine(source: Path, content: Path, preview: Path) -> dict[str, Any] | None:
    """Run `tidings.files.examine`: what it found; None: it is no image that is shown."""
    program = (sys.executable, "-P", "-m", "tidings.files.examine", source, content, preview)
    none, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*program, stdin=none, stdout=pipe, stderr=none)
    try:
        output, _ = await asyncio.wait_for(process.communicate(), EXAMINED_S)
    except TimeoutError:
        return None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return {**json.loads(output), "preview": True} if process.returncode == 0 else None


def media_type(source: Path) -> str:
    """The media type of a file by its content; one that is not known is that of a text or of any bytes."""
    with source.open("rb") as file:
        head = file.read(_HEAD)
    guessed: str | None = filetype.guess_mime(head)
    if guessed is not None:
        return guessed
    with contextlib.suppress(UnicodeDecodeError):
        if "\0" not in codecs.getincrementaldecoder("utf-8")().decode(head):
            return "text/plain"
    return UNKNOWN


def clean_name(name: str) -> str:
    """The last part of a name that may be a path, without characters that are not shown."""
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    shown = "".join(char for char in last if unicodedata.category(char)[0] != "C").strip()
    return shown if shown.strip(".") else "file"


def _remove_old(folder: Path, before: float) -> None:
    """Remove what is in a folder from before a time (s)."""
    if not folder.is_dir():
        return
    for child in folder.iterdir():
        if child.stat().st_mtime < before:
            shutil.rmtree(child, ignore_errors=True)
