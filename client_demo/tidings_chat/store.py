"""The client's state on disk: its token, a cursor per room, and the outbox.

One small SQLite file per server, user and device. Several processes may have it open (a chat, and a script that
sends); `receiving` lets only one of them receive as the device.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
import unicodedata
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import aiosqlite

from tidings_chat.errors import Busy

_VERSION: Final = 2
_SCHEMA: Final = """
CREATE TABLE kept (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE cursor (
    device TEXT NOT NULL, room_id TEXT NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (device, room_id)
) WITHOUT ROWID;
CREATE TABLE outbox (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    client_id TEXT NOT NULL UNIQUE,
    room TEXT NOT NULL,
    content TEXT NOT NULL
);
"""
_MIGRATIONS: Final = {
    1: """
ALTER TABLE outbox ADD COLUMN reply_to TEXT;
ALTER TABLE outbox ADD COLUMN tried INTEGER NOT NULL DEFAULT 1;
ALTER TABLE outbox ADD COLUMN edited INTEGER NOT NULL DEFAULT 0;
""",
}
"""Version -> the statements that lead to the next one. An older client may have tried what is in its outbox."""

RoomRef = dict[str, str]
"""A room reference of the contract: exactly one of `room_id`, `topic_name`, `username`."""


@dataclass(frozen=True)
class Unsent:
    """A message that the server has not acknowledged."""

    client_id: str
    room: RoomRef
    content: str
    reply_to: str | None = None
    edited: bool = False
    """The content was changed after an attempt to send it: the server may have the older one."""

    @property
    def payload(self) -> dict[str, Any]:
        reply_to = {"reply_to": self.reply_to} if self.reply_to else {}
        return {**self.room, "content": self.content, "client_id": self.client_id, **reply_to}


def default_directory() -> Path:
    """`$XDG_STATE_HOME/tidings`, or `~/.local/state/tidings` (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_STATE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".local" / "state") / "tidings"


def state_path(directory: Path, server: str, user: str, device: str) -> Path:
    """The file of one device of one user on one server: a name that people can read, made unique by a hash."""
    user = unicodedata.normalize("NFKC", user).lower()
    digest = hashlib.sha256("\n".join((server, user, device)).encode("utf-8", "surrogatepass")).hexdigest()[:12]
    name = f"{user}-{device}-{server.partition('://')[2]}"
    return directory / f"{re.sub(r'[^a-zA-Z0-9.-]+', '_', name)[:80]}-{digest}.sqlite3"


class Store:
    """The state of one device: `async with Store(path, device) as store`.

    A message to be sent is synced to disk before `enqueue` returns. Everything else survives the end of the process,
    but not a power cut, which costs a repeat or a new sign-in, never a message.

    Every write is one statement. Concurrent callers therefore need no lock, and a cancelled caller leaves nothing
    half done. All go through `execute_fetchall`, which frees its cursor in SQLite's thread: freed in another one, a
    cursor resets its statement, which the next caller with the same SQL may be executing.
    """

    def __init__(self, path: Path, device: str) -> None:
        self.unsent = 0
        """How many messages wait for their acknowledgement. Only the process in `receiving` changes that."""
        self._path = path
        self._device = device
        self._open = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Store:
        """Open the file, creating or migrating it. Raises `Busy` if a newer client has written it."""
        _create(self._path)
        async with contextlib.AsyncExitStack() as stack:
            self._db = await stack.enter_async_context(_connection(self._path, "NORMAL"))
            await self._migrate()
            self._durable = await stack.enter_async_context(_connection(self._path, "FULL"))
            ((self.unsent,),) = await self._db.execute_fetchall("SELECT count(*) FROM outbox")
            self._open = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._open.aclose()

    async def _migrate(self) -> None:
        """In one transaction. No other coroutine has this connection yet, and an error closes it: a rollback."""
        await self._db.execute("BEGIN IMMEDIATE")
        ((version,),) = await self._db.execute_fetchall("PRAGMA user_version")
        if version not in (0, *_MIGRATIONS, _VERSION):
            raise Busy(f"{self._path} was written by another version of this client ({version})")
        for step in range(version, _VERSION):
            for statement in (_MIGRATIONS[step] if step else _SCHEMA).split(";"):
                await self._db.execute(statement)
        await self._db.execute(f"PRAGMA user_version={_VERSION}")
        await self._db.execute("COMMIT")

    # Values by name

    async def get(self, name: str) -> str | None:
        for (value,) in await self._db.execute_fetchall("SELECT value FROM kept WHERE name = ?", (name,)):
            return str(value)
        return None

    async def put(self, **values: str | None) -> None:
        """Store all these values; None deletes one. The deletions come first, in a statement of their own."""
        deleted = [name for name, value in values.items() if value is None]
        stored = [part for name, value in values.items() if value is not None for part in (name, value)]
        if deleted:
            await self._db.execute_fetchall(
                f"DELETE FROM kept WHERE name IN ({', '.join('?' * len(deleted))})", deleted
            )
        if stored:
            rows = ", ".join(["(?, ?)"] * (len(stored) // 2))
            await self._db.execute_fetchall(f"INSERT OR REPLACE INTO kept VALUES {rows}", stored)

    # Receiving

    @contextlib.contextmanager
    def receiving(self, room: str = "") -> Iterator[None]:
        """Be the only process that receives as this device, or that receives one room as this device.

        The lock ends with the block, or with the process. Raises `Busy` if another process holds it.
        """
        if sys.platform == "win32":  # no flock there: the user has to see to it
            yield
            return
        import fcntl

        name = hashlib.sha256(f"{self._device}\n{room}".encode("utf-8", "surrogatepass")).hexdigest()[:12]
        # A separate file: closing any descriptor of the database would drop SQLite's locks on it.
        with open(self._path.with_suffix(f".{name}.lock"), "a", opener=_private) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise Busy(
                    f"another process receives as device {self._device!r}: choose another --device for this one"
                ) from None
            yield

    @contextlib.asynccontextmanager
    async def take(self, room_id: str, seq: int) -> AsyncIterator[bool]:
        """Take the entry `seq` of a room once: `async with store.take(…) as new: if new: show(…)`.

        The cursor moves when the block ends, and not if it raises. So an entry is shown exactly once, unless the
        process dies between showing and the commit: then it is shown again, never lost. No lock is held meanwhile,
        because showing may block; `receiving` keeps other processes from taking entries of the same device.
        """
        cursor = await self.cursor(room_id)
        new = cursor is None or seq > cursor
        yield new
        if new:
            await self._db.execute_fetchall(
                "INSERT OR REPLACE INTO cursor VALUES (?, ?, ?)", (self._device, room_id, seq)
            )

    async def cursor(self, room_id: str) -> int | None:
        """The seq of the last entry taken from a room."""
        rows = await self._db.execute_fetchall(
            "SELECT seq FROM cursor WHERE device = ? AND room_id = ?", (self._device, room_id)
        )
        for (seq,) in rows:
            return int(seq)
        return None

    async def cursors(self) -> dict[str, int]:
        """room_id -> the seq of the last entry taken."""
        rows = await self._db.execute_fetchall("SELECT room_id, seq FROM cursor WHERE device = ?", (self._device,))
        return {str(room_id): int(seq) for room_id, seq in rows}

    async def begin(self, first: Mapping[str, int]) -> None:
        """Record, by room_id, the first seq that was received; a room that has a cursor keeps it."""
        await self._db.execute_fetchall(
            "INSERT OR IGNORE INTO cursor SELECT ?, key, value - 1 FROM json_each(?)",
            (self._device, json.dumps(first)),
        )

    async def forget(self, room_id: str) -> None:
        """Delete the cursor of a room: its log starts from the beginning for this device."""
        await self._db.execute_fetchall(
            "DELETE FROM cursor WHERE device = ? AND room_id = ?", (self._device, room_id)
        )

    # Sending

    async def enqueue(
        self, room: RoomRef, content: str, client_id: str | None = None, reply_to: str | None = None
    ) -> Unsent:
        """Store a message for sending, after all that were enqueued before it."""
        unsent = Unsent(client_id or str(uuid.uuid4()), room, content, reply_to)
        await self._durable.execute_fetchall(
            "INSERT INTO outbox (client_id, room, content, reply_to, tried) VALUES (?, ?, ?, ?, 0)",
            (unsent.client_id, json.dumps(room), content, reply_to),
        )
        self.unsent += 1
        return unsent

    async def try_next(self) -> tuple[Unsent, bool] | None:
        """The oldest message, marked as tried: from now on the server may have it. True at its first attempt."""
        rows = await self._db.execute_fetchall(
            "UPDATE outbox SET tried = tried + 1 WHERE position = (SELECT min(position) FROM outbox)"
            f" RETURNING {_UNSENT}, tried"
        )
        for *columns, attempts in rows:
            return _unsent(columns), attempts == 1
        return None

    async def not_tried(self, unsent: Unsent) -> None:
        """Undo the mark of `try_next`: the message never left."""
        await self._db.execute_fetchall("UPDATE outbox SET tried = 0 WHERE client_id = ?", (unsent.client_id,))

    async def acknowledge(self, unsent: Unsent, content: str | None) -> Unsent | None:
        """Delete a message that the server has with this content; the message itself if it was changed since."""
        deleted = await self._db.execute_fetchall(
            "DELETE FROM outbox WHERE client_id = ? AND (NOT edited OR content = ?) RETURNING 1",
            (unsent.client_id, content),
        )
        self.unsent -= len(list(deleted))
        rows = await self._db.execute_fetchall(
            f"SELECT {_UNSENT} FROM outbox WHERE client_id = ?", (unsent.client_id,)
        )
        return next(map(_unsent, rows), None)

    async def discard(self, unsent: Unsent) -> Unsent:
        """Delete a message that the server will never accept, and return its last state."""
        rows = await self._db.execute_fetchall(
            f"DELETE FROM outbox WHERE client_id = ? RETURNING {_UNSENT}", (unsent.client_id,)
        )
        deleted = list(map(_unsent, rows))
        self.unsent -= len(deleted)
        return deleted[0] if deleted else unsent

    async def last_unsent(self, room: RoomRef) -> Unsent | None:
        """The newest message to a room that is not acknowledged."""
        rows = await self._db.execute_fetchall(
            f"SELECT {_UNSENT} FROM outbox WHERE room = ? ORDER BY position DESC LIMIT 1", (json.dumps(room),)
        )
        return next(map(_unsent, rows), None)

    async def change(self, unsent: Unsent, content: str) -> bool:
        """Replace the content of an unsent message; False if it is no longer unsent."""
        rows = await self._db.execute_fetchall(
            "UPDATE outbox SET content = ?, edited = tried > 0 WHERE client_id = ? RETURNING 1",
            (content, unsent.client_id),
        )
        return bool(list(rows))

    async def withdraw(self, unsent: Unsent) -> bool:
        """Delete a message that was never tried; False if the server may have it."""
        rows = await self._db.execute_fetchall(
            "DELETE FROM outbox WHERE client_id = ? AND NOT tried RETURNING 1", (unsent.client_id,)
        )
        withdrawn = len(list(rows))
        self.unsent -= withdrawn
        return bool(withdrawn)


_UNSENT: Final = "client_id, room, content, reply_to, edited"


def _unsent(columns: Sequence[Any]) -> Unsent:
    client_id, room, content, reply_to, edited = columns
    return Unsent(client_id, json.loads(room), content, reply_to, bool(edited))


@contextlib.asynccontextmanager
async def _connection(path: Path, synchronous: Literal["NORMAL", "FULL"]) -> AsyncIterator[aiosqlite.Connection]:
    async with aiosqlite.connect(path, isolation_level=None, timeout=10) as connection:
        await connection.execute("PRAGMA journal_mode=WAL")
        await connection.execute(f"PRAGMA synchronous={synchronous}")
        yield connection


def _create(path: Path) -> None:
    """Make the file readable by its user only. SQLite gives its side files the same mode."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
