"""The contents of files: uploads of what a message has, and downloads. They go over HTTP, and go on after a cut.

An upload is that of tus 1.0 (https://tus.io/protocols/resumable-upload); see docs/protocol.md#files.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import itertools
import os
import re
import secrets
import stat
import sys
import unicodedata
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import urljoin

import aiohttp

from tidings.contract import models
from tidings_client.contract import read
from tidings_client.errors import Offline, Refused, StoreFailed

Ask = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
_PART: Final = 512 * 1024
_MAX_PARTS: Final = 1000
"""Half of what the server takes: a part that broke off counts, too."""
_CHUNK: Final = 256 * 1024
_TUS: Final = {"Tus-Resumable": "1.0.0"}
_PART_TYPE: Final = {"Content-Type": "application/offset+octet-stream"}
_UPLOADING: Final = aiohttp.ClientTimeout(total=120, sock_connect=15)
"""For one part; the last one is answered when the file is complete."""
_DOWNLOADING: Final = aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=60)
_NETWORK: Final = (aiohttp.ClientError, ConnectionError, TimeoutError)
_CODES: Final = {401: "unauthenticated", 413: "too_large"}
"""For answers without a body, and for those of a proxy."""
_ATTEMPTS: Final = 6
"""Of a download, that bring no further byte, before it is given up."""
_LOOKED_UP: Final = {"not_found", "conflict"}
"""The next attempt asks where the upload goes on."""


@dataclass(frozen=True)
class File:
    """A file to be sent: its content, or the path that has it."""

    content: bytes | Path
    name: str | None = None
    """The name for others; None: that of the path."""
    alt: str | None = None
    """A description of an image, for those who do not see it."""

    @property
    def shown_name(self) -> str:
        name = self.name or (self.content.name if isinstance(self.content, Path) else "file")
        return name.encode(errors="replace").decode()


@dataclass(frozen=True)
class UnsentFile:
    """A file of an unsent message. `key`: of its content in the store; `upload_id`: None before its upload began."""

    key: str
    name: str
    size: int
    alt: str | None = None
    upload_id: str | None = None
    url: str = ""


Moved = Callable[[UnsentFile, int], Awaitable[None]]
"""Gets a file with its upload, and the bytes of it that the server has."""


class Transfers:
    def __init__(self, url: str, token: Callable[[], str]) -> None:
        """`url`: the address of the server."""
        self._url = f"{url.rstrip('/')}/"
        self._token = token

    async def upload(self, ask: Ask, file: UnsentFile, content: Path, moved: Moved) -> None:
        """Upload what the server does not have yet; begins anew if the upload has ended.

        Raises `Offline`, after which another call goes on, and `Refused`.
        """
        async with self._session(_UPLOADING) as http:
            headers = {**_TUS, "Authorization": f"Bearer {self._token()}"}
            offset = None
            if file.upload_id is not None:
                async with http.head(urljoin(self._url, file.url), headers=headers) as answer:
                    offset = await _offset(answer) if answer.status != 404 else None
            if offset is None:
                begun = read(models.Upload, await ask("create_upload", {"name": file.name, "size": file.size}))
                file, offset = replace(file, upload_id=begun.id, url=begun.url), begun.offset
            await moved(file, offset)
            while True:
                part = await asyncio.to_thread(_part, file, content, offset)
                async with http.patch(
                    urljoin(self._url, file.url),
                    headers={**headers, **_PART_TYPE, "Upload-Offset": str(offset)},
                    data=io.BytesIO(part),
                    allow_redirects=False,
                ) as answer:
                    before, offset = offset, await _offset(answer)
                if part and offset <= before:
                    raise Offline("a part of the upload did not arrive")
                await moved(file, offset)
                if offset >= file.size:  # also of one that had all its bytes: now it is complete
                    return

    async def download(self, ask: Ask, file_id: str, target: Path) -> Path:
        """See `Client.download`."""
        part, file = await asyncio.to_thread(_begin, target)
        try:
            failures = 0
            while True:
                links = read(models.LinkedFiles, await ask("get_files", {"file_ids": [file_id]})).files
                if not links:
                    raise Refused.read({"code": "not_found", "message": "there is no such file for you"})
                begin = file.tell()
                try:
                    await self._fetch(links[0], file)
                    break
                except Offline:
                    failures = 1 if file.tell() > begin else failures + 1
                    if failures == _ATTEMPTS:
                        raise
                    await asyncio.sleep(0.1 * 2**failures)
            file.close()
            return await asyncio.to_thread(_publish, part, target, links[0].name)
        finally:
            file.close()
            await asyncio.to_thread(part.unlink, missing_ok=True)

    async def _fetch(self, link: models.LinkedFile, file: IO[bytes]) -> None:
        """Get what is missing. Raises `Offline`."""
        begin = file.tell()
        if begin == link.size:
            return
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={begin}-"} if begin else {})}
        url = urljoin(self._url, link.url)
        async with self._session(_DOWNLOADING) as http, http.get(url, headers=headers) as answer:
            if answer.status == 200:
                file.seek(0)
                file.truncate()
            elif answer.status != 206:
                raise Offline(f"the download was answered with {answer.status}")
            async for chunk in answer.content.iter_chunked(_CHUNK):
                await asyncio.to_thread(file.write, chunk)
        if file.tell() != link.size:
            raise Offline("the download was cut")

    @contextlib.asynccontextmanager
    async def _session(self, timeout: aiohttp.ClientTimeout) -> AsyncIterator[aiohttp.ClientSession]:
        try:
            async with aiohttp.ClientSession(timeout=timeout) as http:
                yield http
        except _NETWORK as error:
            raise Offline(f"no answer from {self._url}: {error}") from None


async def _offset(answer: aiohttp.ClientResponse) -> int:
    """How many bytes of an upload the server has. Raises `Offline` if that is to be looked up, and `Refused`."""
    offset = answer.headers.get("Upload-Offset", "")
    if answer.status in (200, 204) and offset.isdecimal():
        return int(offset)
    problem: Any = None
    with contextlib.suppress(ValueError):
        problem = await answer.json(content_type=None)
    problem = problem if isinstance(problem, dict) else {}
    code = problem.get("code") or _CODES.get(answer.status)
    if code is None or code in _LOOKED_UP:
        raise Offline(f"the upload was answered with {answer.status}")
    raise Refused.read({**problem, "code": code, "message": problem.get("detail") or answer.reason})


# In a thread


def keep(content: bytes | Path, target: Path) -> int:
    """Copy a content to a new file that survives a power cut; returns its bytes.

    Raises `OSError` if the path of the content is not that of a file to read, `StoreFailed` if it cannot be copied.
    """
    with contextlib.ExitStack() as opened:
        source = opened.enter_context(io.BytesIO(content) if isinstance(content, bytes) else _open(content))
        try:
            with open(target, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as copy:
                while chunk := source.read(_CHUNK):
                    copy.write(chunk)
                copy.flush()
                os.fsync(copy.fileno())
                size = copy.tell()
            for folder in (target.parent, target.parent.parent):
                _sync(folder)
        except OSError as error:
            target.unlink(missing_ok=True)
            raise StoreFailed(f"{target}: {error}") from error
    return size


def _sync(folder: Path) -> None:
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _open(path: Path) -> IO[bytes]:
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):  # a pipe might never end
        kind = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(kind, os.strerror(kind), str(path))
    return path.open("rb")


def _part(file: UnsentFile, content: Path, offset: int) -> bytes:
    """The next part of a content. Raises a `Refused` if the store has lost it: it can never be sent."""
    part = b""
    with contextlib.suppress(OSError), content.open("rb") as source:
        source.seek(offset)
        part = source.read(max(_PART, -(-file.size // _MAX_PARTS)))
    if not part and offset < file.size:
        raise Refused.read({"code": "not_found", "message": f"the store has lost the content of {file.name}"})
    return part


def _begin(target: Path) -> tuple[Path, IO[bytes]]:
    """A new file beside the target. Raises `FileExistsError` if the target is a file."""
    if target.exists() and not target.is_dir():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    part = (target if target.is_dir() else target.parent) / f".{secrets.token_hex(8)}.part"
    return part, part.open("xb")


def _publish(part: Path, target: Path, name: str) -> Path:
    """Give a complete file its name, or, in a folder, the first free one. Never replaces a file."""
    is_folder = target.is_dir()
    for number in itertools.count(1):
        path = target / safe_name(name, number) if is_folder else target
        try:
            os.link(part, path)  # unlike a rename, not onto a file
            return path
        except FileExistsError:
            if not is_folder:
                raise
        except OSError:  # no links in this file system
            if not path.exists():
                return part.rename(path)
            if not is_folder:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
    raise AssertionError("unreachable")


_UNSAFE: Final = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def safe_name(name: str, number: int = 1) -> str:
    """The name of a file as a name in any folder: no path, no hidden characters, not hidden; `name (2).txt` for 2."""
    last = re.split(r"[/\\]", name.rstrip("/\\"))[-1]
    shown = "".join(char for char in last if unicodedata.category(char) not in _UNSAFE)
    stem, suffix = os.path.splitext(re.sub(r'[<>:"|?*]', "_", shown).strip(". ") or "file")
    stem = stem.encode()[:160].decode(errors="ignore")
    return f"{stem}{f' ({number})' if number > 1 else ''}{suffix[:20]}"
