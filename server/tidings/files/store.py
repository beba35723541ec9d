"""Where the contents of files are: a directory, or a bucket of an S3-compatible service.

A key is `<file id>/<name>`. A content never changes, and is durable when `put` returns. Nothing here blocks the event
loop: the directory is read and written in threads, and the bucket by `obstore`, which has threads of its own.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import anyio

CHUNK = 256 * 1024
"""Bytes that are read or written together."""


class FileStore(ABC):
    @abstractmethod
    async def put(self, key: str, source: Path) -> None:
        """Store the content of a file of this machine, which may be moved away."""

    @abstractmethod
    def read(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes `start` <= n < `end` of a content. Raises `FileNotFoundError`."""

    @abstractmethod
    async def remove(self, keys: Sequence[str]) -> None:
        """Delete some contents of a file."""

    @abstractmethod
    async def delete(self, file_id: str) -> None:
        """Delete all contents of a file."""

    async def save(self, key: str, size: int, target: Path) -> None:
        """Append a content of `size` bytes to a file of this machine."""
        async with await anyio.open_file(target, "ab") as file:
            async for chunk in self.read(key, 0, size):
                await file.write(chunk)


class FolderStore(FileStore):
    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, key: str) -> Path:
        file_id = key.partition("/")[0]
        return self.root / file_id[-2:] / key  # the ids begin with the time

    async def put(self, key: str, source: Path) -> None:
        await asyncio.to_thread(self._put, self.path(key), source)

    def _put(self, target: Path, source: Path) -> None:
        missing = [folder for folder in (target.parent.parent, target.parent) if not folder.exists()]
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        staged = target.with_name(f".{secrets.token_hex(8)}")
        shutil.move(source, staged)
        staged.chmod(0o600)
        with staged.open("rb") as file:
            os.fsync(file.fileno())
        staged.replace(target)
        for folder in (target.parent, *(made.parent for made in missing)):
            _sync_folder(folder)

    async def read(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        async with await anyio.open_file(self.path(key), "rb") as file:
            await file.seek(start)
            while start < end and (chunk := await file.read(min(CHUNK, end - start))):
                start += len(chunk)
                yield chunk

    async def remove(self, keys: Sequence[str]) -> None:
        await asyncio.to_thread(self._remove, keys)

    def _remove(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.path(key).unlink(missing_ok=True)

    async def delete(self, file_id: str) -> None:
        await asyncio.to_thread(shutil.rmtree, self.path(file_id), ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class BucketStore(FileStore):
    """A bucket of an S3-compatible service. Its region, endpoint and keys are in the variables `AWS_*`."""

    def __init__(self, url: str) -> None:
        import obstore.store  # not imported by a server without a bucket

        parts = urlsplit(url)
        self._store = obstore.store.S3Store(
            parts.netloc,
            prefix=parts.path.strip("/") or None,
            client_options={"allow_http": True},  # the endpoint says whether it is
        )

    async def put(self, key: str, source: Path) -> None:
        await self._store.put_async(key, source)

    async def read(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        if start < end:
            found = await self._store.get_async(key, options={"range": (start, end)})
            async for chunk in found.stream(min_chunk_size=CHUNK):
                yield bytes(chunk)

    async def remove(self, keys: Sequence[str]) -> None:
        await self._store.delete_async(keys)

    async def delete(self, file_id: str) -> None:
        async for page in self._store.list(f"{file_id}/"):
            await self.remove([found["path"] for found in page])


def make_store(url: str, data_dir: Path) -> FileStore:
    """`url`: `s3://bucket/prefix`; empty: the folder `files` of the data directory."""
    return BucketStore(url) if url else FolderStore(data_dir / "files")
