"""The commands `backup`, `restore` and `move`.

A backup is a tar file: `tidings.db`, a SQLite database whichever database it is of; `secret_key`, if the data
directory holds it; and last `backup.json`, with the SHA-256 of both. So a file that was cut is no backup.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import shutil
import sqlite3
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from sqlalchemy.engine import make_url

from tidings import __version__
from tidings.auth.tokens import now_ms
from tidings.cli.database import check_data_dir
from tidings.cli.file_lock import only_server
from tidings.contract.models import timestamp
from tidings.log import epochs
from tidings.settings import MIGRATIONS_NEEDED, Settings, SettingsError
from tidings_db import copies
from tidings_db.schema import migrate, pending

T = TypeVar("T")

DATABASE, SECRET, CONTENTS = "tidings.db", "secret_key", "backup.json"
_FORMAT = 1
_CHUNK = 1024 * 1024
_MAX_CONTENTS = 64 * 1024
_LOGS = ("-wal", "-shm")


def add_backup_parsers(commands: Any) -> None:
    backup = commands.add_parser("backup", help="write the database and the signing key to a file, as of one moment")
    backup.add_argument("file", type=Path, help="a new file; compressed if it ends in .gz")
    restore = commands.add_parser("restore", help="put a backup in place of the database, and begin an epoch")
    restore.add_argument("file", type=Path)
    restore.add_argument("--force", action="store_true", help="replace a database that is there")
    move = commands.add_parser(
        "move", help="copy the SQLite database, which no server uses, into an empty PostgreSQL one"
    )
    move.add_argument("database_url", help="as TIDINGS_DATABASE_URL has it; the password may come from PGPASSWORD")


def backup(settings: Settings, args: argparse.Namespace) -> int:
    check_data_dir(settings)
    target: Path = args.file
    if target.exists():
        raise SettingsError(f"{target} exists already")
    if pending(settings.database):
        raise SettingsError(MIGRATIONS_NEEDED)
    with _directory_for(target) as directory:
        taken_at = timestamp(now_ms())
        files = [directory / DATABASE]
        copies.save(settings.database, files[0])
        rows = copies.check(files[0])
        if not settings.secret_key.get_secret_value():
            files.append(directory / SECRET)
            files[1].write_bytes(settings.signing_keys()[0])
        digests = {file.name: _digest(file) for file in files}
        contents = {"format": _FORMAT, "version": __version__, "taken_at": taken_at, "rows": rows, "sha256": digests}
        files.append(directory / CONTENTS)
        files[-1].write_text(json.dumps(contents, indent=1))
        archive = directory / "archive"
        with tarfile.open(archive, "w:gz" if target.suffix == ".gz" else "w") as tar:
            for file in files:
                tar.add(file, file.name)
        _extract(archive, None)
        _sync(archive)
        os.rename(archive, target)
        _sync(target.absolute().parent)
    print(f"{target}: {_described(rows)}, {target.stat().st_size / 2**20:,.1f} MiB; read back and checked")
    return 0


def restore(settings: Settings, args: argparse.Namespace) -> int:
    settings.prepare_data_dir()
    with _directory_for(settings.data_dir / "restored") as directory:
        contents = _extract(args.file, directory)
        path = directory / DATABASE
        try:
            rows = copies.check(path)
        except sqlite3.DatabaseError as error:
            raise SettingsError(f"{args.file} is damaged: {error}") from None
        if settings.database.startswith("sqlite"):
            copies.change(path, epochs.begin)
            asyncio.run(_replace(settings, path, force=args.force))
        else:
            _refuse(lambda: copies.load(path, settings.database, epochs.begin, replace=args.force))
        told = _restore_secret(settings, directory / SECRET)
    print(f"restored {_described(rows)} as of {contents['taken_at']}; an epoch of the log begins{told}")
    return 0


def move(settings: Settings, args: argparse.Namespace) -> int:
    if not settings.database.startswith("sqlite"):
        raise SettingsError("TIDINGS_DATABASE_URL is not a SQLite database")
    check_data_dir(settings)
    target = Settings(database_url=args.database_url).database
    if target.startswith("sqlite"):
        raise SettingsError("name a PostgreSQL database, as postgresql+asyncpg://user@host/name")

    def copy(source: Path) -> dict[str, int]:
        migrate(settings.database)
        return _refuse(lambda: copies.load(source, target, lambda _: None))

    rows = asyncio.run(_alone(settings, copy))
    print(
        f"copied {_described(rows)}. Set TIDINGS_DATABASE_URL to the new database, keep the signing key, and start"
        " the server; it builds the search index anew. The SQLite database stays as it is"
    )
    return 0


def _described(rows: dict[str, int]) -> str:
    return f"{rows['user']:,} users, {rows['room']:,} rooms, {rows['entry']:,} entries"


@contextmanager
def _directory_for(target: Path) -> Iterator[Path]:
    """An empty directory beside a file, and gone afterwards; what an earlier run has left of it is removed."""
    directory = target.absolute().with_name(f".{target.name}.partial")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _extract(archive: Path, directory: Path | None) -> dict[str, Any]:
    """Check a backup, and write its files to a directory; returns its contents. Raises `SettingsError`."""
    digests: dict[str, str] = {}
    contents: Any = {}
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is None or member.name not in (DATABASE, SECRET, CONTENTS):
                    raise SettingsError(f"{archive} is no backup of Tidings: {member.name} is in it")
                if member.name == CONTENTS:
                    contents = json.loads(file.read(_MAX_CONTENTS))
                else:
                    with open(os.devnull if directory is None else directory / member.name, "wb") as copy:
                        digests[member.name] = _digest(file, copy)
    except (tarfile.TarError, EOFError, ValueError, zlib.error) as error:
        raise SettingsError(f"{archive} is no complete backup: {error}") from None
    if not isinstance(contents, dict) or contents.get("format") != _FORMAT:
        raise SettingsError(f"{archive} is no complete backup, or one of a newer version")
    if contents.get("sha256") != digests or DATABASE not in digests:
        raise SettingsError(f"{archive} is damaged: its files are not those that were backed up")
    return dict(contents)


def _digest(file: Path | IO[bytes], copy: IO[bytes] | None = None) -> str:
    """SHA-256 of a file, in hex, while it is copied."""
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return _digest(opened, copy)
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
        if copy is not None:
            copy.write(chunk)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refuse(work: Callable[[], T]) -> T:
    try:
        return work()
    except copies.NotEmpty as error:
        raise SettingsError(str(error)) from None


def _file_of(settings: Settings) -> Path:
    """The SQLite file itself, not a link to it."""
    return Path(make_url(settings.database).database or "").resolve()


async def _alone(settings: Settings, work: Callable[[Path], T]) -> T:
    """Do something with a SQLite database while no server runs on it."""
    path = _file_of(settings)
    async with only_server(path, 0):
        return await asyncio.to_thread(work, path)


async def _replace(settings: Settings, restored: Path, *, force: bool) -> None:
    def put(path: Path) -> None:
        if path.exists() and not force:
            raise SettingsError(f"there is a database already, {path}: --force replaces it")
        with _directory_for(path) as directory:
            copy = directory / DATABASE
            shutil.move(restored, copy)  # the data directory may be on another file system
            _sync(copy)
            # Before the database: SQLite would apply the old log to the new one.
            for suffix in _LOGS:
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            os.replace(copy, path)
            _sync(path.parent)

    await _alone(settings, put)


def _restore_secret(settings: Settings, secret: Path) -> str:
    """Put the signing key of a backup in its place; returns what is to be said of it."""
    if not secret.exists():
        return "; the signing key was not in the data directory, and so is not in the backup"
    if settings.secret_key.get_secret_value():
        same = secret.read_bytes().strip() in settings.signing_keys()
        return "" if same else "; tokens of then are not valid, because TIDINGS_SECRET_KEY is another signing key"
    _sync(secret)
    os.replace(secret, settings.data_dir / SECRET)
    return ""
