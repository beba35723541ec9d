"""The commands `backup`, `restore` and `move`.

A backup is a tar file: `tidings.db`, a SQLite database whichever database it is of; `secret_key`, if the data
directory holds it; the files of messages, with `files.sha256`; and last `backup.json`, with the SHA-256 of all but
these files. So a file that was cut is no backup.
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
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.engine import Connection, make_url

from tidings import __version__
from tidings.auth.tokens import now_ms
from tidings.cli.backup_files import LISTING, NO_FILES, add_files, copy_chunks, holds, listed, put_files
from tidings.cli.database import check_data_dir
from tidings.cli.file_lock import only_server
from tidings.contract.models import timestamp
from tidings.files.store import make_store
from tidings.log import epochs
from tidings.settings import MIGRATIONS_NEEDED, Settings, SettingsError
from tidings_db import copies
from tidings_db.queries import files
from tidings_db.schema import migrate, pending

T = TypeVar("T")

DATABASE, SECRET, CONTENTS = "tidings.db", "secret_key", "backup.json"
_FORMAT = 1
_MAX_CONTENTS = 64 * 1024
_LOGS = ("-wal", "-shm")


def add_backup_parsers(commands: Any) -> None:
    backup = commands.add_parser(
        "backup", help="write the database, the signing key and the files of messages to a file, as of one moment"
    )
    backup.add_argument("file", type=Path, help="a new file; compressed if it ends in .gz")
    backup.add_argument(
        "--without-files", action="store_true", help="leave out the files of messages: they are backed up otherwise"
    )
    restore = commands.add_parser("restore", help="put a backup in place of the database, and begin an epoch")
    restore.add_argument("file", type=Path)
    restore.add_argument("--force", action="store_true", help="replace a database and a signing key that are there")
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
        database = directory / DATABASE
        parts = [database]
        copies.save(settings.database, database)
        rows = copies.check(database)
        if not settings.secret_key.get_secret_value():
            parts.append(directory / SECRET)
            parts[1].write_bytes(settings.signing_keys()[0])
        contents = {"format": _FORMAT, "version": __version__, "taken_at": taken_at, "rows": rows}
        archive = directory / "archive"
        with tarfile.open(archive, "w:gz" if target.suffix == ".gz" else "w") as tar:
            for part in parts:
                tar.add(part, part.name)
            said = "; without the files of messages"
            if not args.without_files:
                copied = add_files(tar, database, make_store(settings.files_url, settings.data_dir), directory)
                said = f", {copied.kept:,} files"
                if copied.gone:
                    said += f"; {copied.gone:,} more have no content: it was deleted meanwhile, or is lost"
                contents |= {"files": copied.kept, "files_gone": copied.gone}
                parts.append(directory / LISTING)
                tar.add(parts[-1], LISTING)
            contents["sha256"] = {part.name: _digest(part) for part in parts}
            (directory / CONTENTS).write_text(json.dumps(contents, indent=1))
            tar.add(directory / CONTENTS, CONTENTS)
        _extract(archive, None)
        _sync(archive)
        os.rename(archive, target)
        _sync(target.absolute().parent)
    print(f"{target}: {_described(rows)}{said}; {target.stat().st_size / 2**20:,.1f} MiB; read back and checked")
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
        if not args.force:
            _check_secret(settings, directory / SECRET)
        # Before the database: nobody finds a message without its files.
        put = partial(put_files, args.file, make_store(settings.files_url, settings.data_dir), directory)
        if settings.database.startswith("sqlite"):
            copies.change(path, _begin)
            asyncio.run(_replace(settings, path, put, force=args.force))
        else:
            _refuse(lambda: copies.check_replaceable(settings.database, replace=args.force))
            put()
            _refuse(lambda: copies.load(path, settings.database, _begin, replace=args.force))
        told = _restore_secret(settings, directory / SECRET)
        kept = f", {contents['files']:,} files" if LISTING in contents["sha256"] else ""
        if rows["file"] and not kept:
            told += "; the files of messages are not in the backup: bring them back from where you keep them"
    print(f"restored {_described(rows)}{kept} as of {contents['taken_at']}; an epoch of the log begins{told}")
    return 0


def _begin(conn: Connection) -> None:
    """Change a copy of a database that becomes the current one."""
    files.drop_uploads(conn)  # their parts are gone, or those of a later state
    epochs.begin(conn)


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
    """Check a backup, and write its parts to a directory, except for files of messages; returns its contents.

    Raises `SettingsError`.
    """
    digests: dict[str, str] = {}
    contents: Any = {}
    listing = hashlib.sha256()
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                file = tar.extractfile(member)
                of_message = holds(member.name)
                if file is None or not (of_message or member.name in (DATABASE, SECRET, LISTING, CONTENTS)):
                    raise SettingsError(f"{archive} is no backup of Tidings: {member.name} is in it")
                if member.name == CONTENTS:
                    contents = json.loads(file.read(_MAX_CONTENTS))
                    continue
                target = os.devnull if directory is None or of_message else directory / member.name
                with open(target, "wb") as copy:
                    digest = copy_chunks(file, copy)
                if of_message:
                    listing.update(listed(member.name, digest))
                else:
                    digests[member.name] = digest
    except (tarfile.TarError, EOFError, ValueError, zlib.error) as error:
        raise SettingsError(f"{archive} is no complete backup: {error}") from None
    if not isinstance(contents, dict) or contents.get("format") != _FORMAT:
        raise SettingsError(f"{archive} is no complete backup, or one of a newer version")
    is_complete = DATABASE in digests and digests.get(LISTING, NO_FILES) == listing.hexdigest()
    if contents.get("sha256") != digests or not is_complete:
        raise SettingsError(f"{archive} is damaged: its files are not those that were backed up")
    return dict(contents)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


async def _replace(settings: Settings, restored: Path, first: Callable[[], None], *, force: bool) -> None:
    def put(path: Path) -> None:
        if path.exists() and not force:
            raise SettingsError(f"there is a database already, {path}: --force replaces it")
        first()
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


def _check_secret(settings: Settings, secret: Path) -> None:
    """Raises SettingsError if `_restore_secret` would replace another signing key."""
    current = settings.data_dir / SECRET
    if settings.secret_key.get_secret_value() or not (secret.exists() and current.exists()):
        return
    if secret.read_bytes().strip() != current.read_bytes().strip():
        raise SettingsError(f"there is another signing key already, {current}: --force replaces it")


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
