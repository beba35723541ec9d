"""The files of messages in a backup: `files/<id>/<name>`, then `files.sha256`, as `sha256sum` writes it.

Only complete files are in it. A restored database knows nothing of an upload that was under way: its client begins
again.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from tidings.files.store import FileStore
from tidings.files.uploads import CONTENT, MAX_PREVIEW, PREVIEW
from tidings.settings import SettingsError
from tidings_db import copies
from tidings_db.queries import files

LISTING = "files.sha256"
NO_FILES = hashlib.sha256().hexdigest()
"""The digest of an empty listing."""
_FOLDER = "files/"
_NAME = re.compile(rf"{_FOLDER}[\w-]+/({CONTENT}|{PREVIEW})", re.ASCII)
_CHUNK = 1024 * 1024


class Copied(NamedTuple):
    kept: int
    gone: int
    """Files whose content is not in the store: their messages were deleted after the database was copied, or it is
    lost."""


def holds(name: str) -> bool:
    """Whether a member of a backup is the content of a file."""
    return _NAME.fullmatch(name) is not None


def listed(name: str, digest: str) -> bytes:
    """The line of a member in the listing."""
    return f"{digest}  {name}\n".encode()


def add_files(tar: tarfile.TarFile, database: Path, store: FileStore, directory: Path) -> Copied:
    """Add the files that a copied database has, and write their listing to the directory.

    A content is copied to the directory first, and added only if it is there as a whole.
    """
    kept = gone = 0
    copy = directory / "file"
    with _bridged() as runner, (directory / LISTING).open("wb") as listing:

        def add(file_id: str, name: str, most: int, size: int | None) -> bool:
            copy.unlink(missing_ok=True)
            try:
                runner.run(store.save(f"{file_id}/{name}", most, copy))
            except FileNotFoundError:
                return False
            if size not in (None, copy.stat().st_size):
                return False
            member = f"{_FOLDER}{file_id}/{name}"
            tar.add(copy, member)
            with copy.open("rb") as file:
                listing.write(listed(member, hashlib.file_digest(file, "sha256").hexdigest()))
            return True

        def add_all(conn: Any) -> None:
            nonlocal kept, gone
            for file_id, size, preview in files.contents(conn):
                if add(file_id, CONTENT, size, size) and (not preview or add(file_id, PREVIEW, MAX_PREVIEW, None)):
                    kept += 1
                else:
                    gone += 1

        copies.change(database, add_all)
    return Copied(kept, gone)


def put_files(archive: Path, store: FileStore, directory: Path) -> None:
    """Put the files of a backup that was checked into the store; they are durable when this returns."""
    copy = directory / "file"
    with _bridged() as runner, tarfile.open(archive, "r:*") as tar:
        for member in tar:
            if holds(member.name) and (file := tar.extractfile(member)) is not None:
                with copy.open("wb") as target:
                    copy_chunks(file, target)
                runner.run(store.put(member.name.removeprefix(_FOLDER), copy))


def copy_chunks(source: IO[bytes], target: IO[bytes]) -> str:
    """Copy a file, in chunks; returns the SHA-256 of its content, in hex."""
    digest = hashlib.sha256()
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
        target.write(chunk)
    return digest.hexdigest()


@contextmanager
def _bridged() -> Iterator[asyncio.Runner]:
    """Runs what a store does; what a bucket raises becomes `SettingsError`."""
    with asyncio.Runner() as runner:
        try:
            yield runner
        except Exception as error:
            if type(error).__module__.partition(".")[0] != "obstore":
                raise
            raise SettingsError(f"the bucket of TIDINGS_FILES_URL cannot be used: {error}") from None
