"""The memory of a client: a cursor per room, the entries it received, positions of consumers, and the outbox.

`Store` is the interface. `SQLiteStore` keeps everything in one file, or in memory if it has no path. Contents of
files are beside it, so that a large one is neither in memory nor in the way of what arrives.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal, Protocol, TypeVar

from tidings_client.errors import StoreFailed, StoreInUse, StoreOfAnother
from tidings_client.files import UnsentFile, keep

T = TypeVar("T")
Kind = Literal["message", "event"]
KEPT: Final = 1000
"""Entries per room that are kept in any case, the newest ones."""
_VERSION: Final = 2
_PRUNE_AFTER: Final = 128
_SCHEMA: Final = """
CREATE TABLE value (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE room (room_id TEXT PRIMARY KEY, cursor INTEGER NOT NULL, floor INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE entry (
    room_id TEXT NOT NULL, seq INTEGER NOT NULL, kind TEXT NOT NULL, data TEXT NOT NULL, PRIMARY KEY (room_id, seq)
) WITHOUT ROWID;
CREATE TABLE position (
    room_id TEXT NOT NULL, consumer TEXT NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (room_id, consumer)
) WITHOUT ROWID;
CREATE TABLE outbox (
    place INTEGER PRIMARY KEY AUTOINCREMENT, client_id TEXT NOT NULL UNIQUE, action TEXT NOT NULL,
    payload TEXT NOT NULL, tried INTEGER NOT NULL, -- 2: and edited after that
    files TEXT NOT NULL DEFAULT '[]'
);
"""
_FROM_1: Final = "ALTER TABLE outbox ADD COLUMN files TEXT NOT NULL DEFAULT '[]'"


@dataclass(frozen=True)
class Entry:
    """An entry of a room's log, as it arrived."""

    room_id: str
    seq: int
    name: str
    data: dict[str, Any]

    @property
    def kind(self) -> Kind | None:
        """None for an entry that is neither a message nor an application's event."""
        if self.name == "message":
            return "message"
        return "event" if self.data.get("event") == self.name else None

    @property
    def changed(self) -> dict[str, Any] | None:
        """The message that this entry changed, as it is now. That holds for entries of later versions, too."""
        message = None if self.kind else self.data.get("message")
        return message if isinstance(message, dict) and isinstance(message.get("seq"), int) else None


@dataclass(frozen=True)
class StoredUnsent:
    """A request of the outbox. `tried`: the server may have it; `edited`: perhaps with an older content."""

    client_id: str
    action: str
    payload: dict[str, Any]
    tried: bool
    edited: bool = False
    files: tuple[UnsentFile, ...] = ()


class Store(Protocol):
    """Each method is atomic and raises `StoreFailed` if it has had no effect."""

    async def open(self) -> None:
        """Raises `StoreInUse` if another process has it open."""

    async def close(self) -> None: ...

    async def claim(self, owner: str) -> None:
        """Belong to this user and device. Raises `StoreOfAnother` if it belongs to another."""

    async def cursors(self) -> dict[str, int]:
        """room_id -> the seq of the last entry that was taken."""

    async def take(self, entries: Sequence[Entry]) -> list[Entry]:
        """Record entries, and move the cursors to them; returns those that were new, in order."""

    async def entries(self, room_id: str, kind: Kind | None, after: int, limit: int) -> list[Entry]:
        """Messages, events, or entries of all kinds (None) after a seq, in seq order; messages as they are now."""

    async def newest(self, room_id: str, kind: Kind, limit: int) -> list[dict[str, Any]]:
        """The last messages or events, in seq order."""

    async def replace(self, room_id: str, messages: Sequence[dict[str, Any]], floor: int, common: int | None) -> None:
        """Hold these messages of a log that has changed, instead of all entries so far.

        `floor`: the log before it is unknown. `common`: move consumers that are beyond this seq back to it.
        """

    async def forget(self, room_id: str) -> None:
        """Delete all that is known of a room."""

    async def position(self, room_id: str, consumer: str) -> tuple[int | None, int]:
        """How far a consumer is (None: it has not begun), and the seq after which all entries are held."""

    async def move(self, room_id: str, consumer: str, seq: int) -> None: ...

    async def outbox(self) -> list[StoredUnsent]:
        """All requests, in order."""

    async def enqueue(self, unsent: StoredUnsent) -> None:
        """Store a request durably; one that has the same `client_id` is replaced in its place."""

    async def dequeue(self, client_id: str) -> None:
        """Delete a request, and the contents of its files."""

    async def keep(self, content: bytes | Path) -> tuple[str, int]:
        """Copy the content of a file durably, for a request that follows: its key, and its bytes.

        Raises `OSError` if the path of the content cannot be read.
        """

    def content(self, key: str) -> Path:
        """The path at which a content can be read."""

    async def discard(self, keys: Sequence[str]) -> None:
        """Delete contents that no request has."""


class SQLiteStore:
    """A store in a file, or in memory.

    Every method is one transaction, run to its end in a thread of the store even if its caller is cancelled. A
    committed transaction survives a power cut. The file is readable by its user only.

    Contents of files are in the folder `PATH.files`; without a path, in a temporary one until `close`.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self._path = None if path is None else Path(path)
        self._thread: ThreadPoolExecutor | None = None
        self._lock: IO[str] | None = None
        self._untidy: dict[str, int] = {}
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    async def open(self) -> None:
        self._thread = ThreadPoolExecutor(1, "tidings-store")
        try:
            await self._run(self._open)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(thread, self._close)
            thread.shutdown()

    async def claim(self, owner: str) -> None:
        def claim() -> None:
            self._db.execute("INSERT OR IGNORE INTO value VALUES ('owner', ?)", (owner,))
            ((found,),) = self._db.execute("SELECT value FROM value WHERE name = 'owner'")
            if found != owner:
                raise StoreOfAnother(f"{self._path or 'the store'} belongs to {found}, not to {owner}")

        await self._transact(claim)

    async def cursors(self) -> dict[str, int]:
        return await self._transact(lambda: dict(self._db.execute("SELECT room_id, cursor FROM room")))

    async def take(self, entries: Sequence[Entry]) -> list[Entry]:
        return await self._transact(lambda: [entry for entry in entries if self._take(entry)])

    async def entries(self, room_id: str, kind: Kind | None, after: int, limit: int) -> list[Entry]:
        query = (
            "SELECT seq, kind, data FROM entry WHERE room_id = ? AND seq > ? AND ? IN (kind, '') ORDER BY seq LIMIT ?"
        )
        return await self._transact(
            lambda: [
                Entry(room_id, seq, *_named(kind, json.loads(data)))
                for seq, kind, data in self._db.execute(query, (room_id, after, kind or "", limit))
            ]
        )

    async def newest(self, room_id: str, kind: Kind, limit: int) -> list[dict[str, Any]]:
        query = "SELECT data FROM entry WHERE room_id = ? AND kind = ? ORDER BY seq DESC LIMIT ?"
        return await self._transact(lambda: _parsed(self._db.execute(query, (room_id, kind, limit)))[::-1])

    async def replace(self, room_id: str, messages: Sequence[dict[str, Any]], floor: int, common: int | None) -> None:
        def replace() -> None:
            self._db.execute("DELETE FROM entry WHERE room_id = ?", (room_id,))
            self._db.execute("DELETE FROM room WHERE room_id = ?", (room_id,))
            for message in messages:
                self._put(room_id, message["seq"], "message", message)
            if messages:
                self._db.execute("INSERT INTO room VALUES (?, ?, ?)", (room_id, messages[-1]["seq"], floor))
            end = (
                messages[-1]["seq"] if messages else 0
            )  # no consumer may be beyond it: it would miss what comes next
            last = end if common is None else min(common, end)
            self._db.execute("UPDATE position SET seq = min(seq, ?) WHERE room_id = ?", (last, room_id))

        await self._transact(replace)

    async def forget(self, room_id: str) -> None:
        def forget() -> None:
            for table in ("room", "entry", "position"):
                self._db.execute(f"DELETE FROM {table} WHERE room_id = ?", (room_id,))

        await self._transact(forget)

    async def position(self, room_id: str, consumer: str) -> tuple[int | None, int]:
        def position() -> tuple[int | None, int]:
            where = (room_id, consumer)
            seqs = [seq for (seq,) in self._db.execute(f"SELECT seq FROM position WHERE {_CONSUMER}", where)]
            floors = [seq for (seq,) in self._db.execute("SELECT floor FROM room WHERE room_id = ?", (room_id,))]
            return (seqs[0] if seqs else None), (floors[0] if floors else 0)

        return await self._transact(position)

    async def move(self, room_id: str, consumer: str, seq: int) -> None:
        await self._transact(
            lambda: self._db.execute("INSERT OR REPLACE INTO position VALUES (?, ?, ?)", (room_id, consumer, seq))
        )

    async def outbox(self) -> list[StoredUnsent]:
        query = "SELECT client_id, action, payload, tried, files FROM outbox ORDER BY place"
        return await self._transact(
            lambda: [
                StoredUnsent(client_id, action, json.loads(payload), tried > 0, tried > 1, _unsent_files(files))
                for client_id, action, payload, tried, files in self._db.execute(query)
            ]
        )

    async def enqueue(self, unsent: StoredUnsent) -> None:
        await self._transact(
            lambda: self._db.execute(
                "INSERT INTO outbox (client_id, action, payload, tried, files) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (client_id) DO UPDATE"
                " SET payload = excluded.payload, tried = excluded.tried, files = excluded.files",
                (
                    *(unsent.client_id, unsent.action, _json(unsent.payload), unsent.tried + unsent.edited),
                    json.dumps([asdict(file) for file in unsent.files]),
                ),
            )
        )

    async def dequeue(self, client_id: str) -> None:
        query = "DELETE FROM outbox WHERE client_id = ? RETURNING files"
        removed = await self._transact(lambda: self._db.execute(query, (client_id,)).fetchall())
        await self.discard([file.key for (files,) in removed for file in _unsent_files(files)])

    async def keep(self, content: bytes | Path) -> tuple[str, int]:
        folder, key = await self._run(self._make_folder), secrets.token_hex(16)
        # Not in the store's own thread: what arrives need not wait for a large file.
        copying = asyncio.get_running_loop().run_in_executor(None, keep, content, folder / key)
        try:
            return key, await asyncio.shield(copying)
        except asyncio.CancelledError:

            def remove(_: asyncio.Future[int]) -> None:
                if copying.exception() is None:
                    (folder / key).unlink(missing_ok=True)

            copying.add_done_callback(remove)
            raise

    def content(self, key: str) -> Path:
        return self._folder / key

    async def discard(self, keys: Sequence[str]) -> None:
        def discard() -> None:
            for key in keys:
                with contextlib.suppress(OSError):  # else at the next `open`
                    self.content(key).unlink(missing_ok=True)

        if keys:
            await self._run(discard)

    # In the thread

    def _open(self) -> None:
        if self._path is not None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _locked(self._path)
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
        self._db = sqlite3.connect(self._path or ":memory:", isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        with self._transaction():
            ((version,),) = self._db.execute("PRAGMA user_version")
            if version not in (0, 1, _VERSION):
                raise StoreFailed(f"{self._path} was written by another version of this library ({version})")
            for statement in {0: _SCHEMA, 1: _FROM_1}.get(version, "").split(";"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version={_VERSION}")
            requests = self._db.execute("SELECT files FROM outbox").fetchall()
        if self._path is not None and self._folder.is_dir():
            known = {file.key for (files,) in requests for file in _unsent_files(files)}
            for content in self._folder.iterdir():
                if content.name not in known:
                    content.unlink()

    @property
    def _folder(self) -> Path:
        return Path(self._temporary.name if self._temporary is not None else f"{self._path}.files")

    def _make_folder(self) -> Path:
        if self._path is None:
            self._temporary = self._temporary or tempfile.TemporaryDirectory(prefix="tidings-")
        self._folder.mkdir(mode=0o700, exist_ok=True)
        return self._folder

    def _close(self) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()
        with contextlib.suppress(AttributeError, sqlite3.Error):
            self._db.close()
        if self._lock is not None:
            self._lock.close()

    def _take(self, entry: Entry) -> bool:
        room_id, seq = entry.room_id, entry.seq
        known = self._db.execute("SELECT cursor FROM room WHERE room_id = ?", (room_id,)).fetchone()
        if known is not None and seq <= known[0]:
            return False
        self._db.execute(
            "INSERT INTO room VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET cursor = excluded.cursor",
            (room_id, seq, seq - 1),
        )
        self._put(room_id, seq, entry.kind or entry.name, entry.data)
        self._untidy[room_id] = self._untidy.get(room_id, _PRUNE_AFTER) + 1
        if self._untidy[room_id] > _PRUNE_AFTER:
            self._prune(room_id)
        if entry.changed is not None:
            self._db.execute(
                "UPDATE entry SET data = ? WHERE room_id = ? AND seq = ? AND kind = 'message'",
                (_json(entry.changed), room_id, entry.changed["seq"]),
            )
        return True

    def _put(self, room_id: str, seq: int, kind: str, data: dict[str, Any]) -> None:
        self._db.execute("INSERT OR REPLACE INTO entry VALUES (?, ?, ?, ?)", (room_id, seq, kind, _json(data)))

    def _prune(self, room_id: str) -> None:
        """Delete the entries that are neither among the newest nor ahead of a consumer."""
        self._untidy[room_id] = 0
        query = "SELECT seq FROM entry WHERE room_id = ? ORDER BY seq DESC LIMIT 1 OFFSET ?"
        oldest = self._db.execute(query, (room_id, KEPT)).fetchone()
        if oldest is None:
            return
        ((behind,),) = self._db.execute("SELECT min(seq) FROM position WHERE room_id = ?", (room_id,))
        last = oldest[0] if behind is None else min(oldest[0], behind)
        if self._db.execute("DELETE FROM entry WHERE room_id = ? AND seq <= ?", (room_id, last)).rowcount:
            self._db.execute("UPDATE room SET floor = max(floor, ?) WHERE room_id = ?", (last, room_id))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    async def _transact(self, work: Callable[[], T]) -> T:
        def transact() -> T:
            with self._transaction():
                return work()

        return await self._run(transact)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._thread is None:
            raise StoreFailed("the store is closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except (sqlite3.Error, OSError) as error:
            raise StoreFailed(f"{self._path or 'the store'}: {error}") from error


_CONSUMER: Final = "room_id = ? AND consumer = ?"


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _unsent_files(rows: str) -> tuple[UnsentFile, ...]:
    return tuple(UnsentFile(**row) for row in json.loads(rows))


def _named(kind: str, data: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name of a stored entry: that of an application's event is in its data."""
    return (data["event"] if kind == "event" else kind), data


def _parsed(rows: sqlite3.Cursor) -> list[dict[str, Any]]:
    return [json.loads(data) for (data,) in rows]


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _locked(path: Path) -> IO[str]:
    """Lock a file beside the store, until it is closed or the process ends. Raises `StoreInUse`."""
    # It stays open. A separate file: closing any descriptor of the database would drop SQLite's locks on it.
    lock = open(f"{path}.lock", "a", opener=_private)  # noqa: SIM115
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise StoreInUse(f"another process has {path} open: give each process a store and a device") from None
    return lock
