"""What the client keeps on disk: its token, how far it has received each room, and what is not yet sent.

One small SQLite file per server, user and device. Several processes may have it open (a chat, and a script that
sends); only one at a time receives as one device, which `receiving` sees to.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sqlite3
import sys
import unicodedata
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from client_demo.errors import Busy

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
"""From that version to the next one. What an older client left in its outbox may have been tried."""

RoomRef = dict[str, str]
"""A room reference of the contract: exactly one of `room_id`, `topic_name`, `username`."""


@dataclass(frozen=True)
class Unsent:
    """A message that the server has not acknowledged yet."""

    client_id: str
    room: RoomRef
    content: str
    reply_to: str | None = None
    edited: bool = False
    """Its content was changed after it had been tried: the server may have an older one."""

    @property
    def payload(self) -> dict[str, Any]:
        answers = {"reply_to": self.reply_to} if self.reply_to else {}
        return {**self.room, "content": self.content, "client_id": self.client_id, **answers}


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
    """The state of one device.

    A message to be sent is synced to disk before `enqueue` returns. Everything else outlives the process, but not
    a power cut: what that loses costs a repeat or a new sign-in, never a message.
    """

    def __init__(self, path: Path, device: str) -> None:
        self._path = path
        self._device = device
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite gives its side files the same mode
        self._db = sqlite3.connect(path, isolation_level=None, timeout=10)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        with self._transaction():
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version not in (0, *_MIGRATIONS, _VERSION):
                raise Busy(f"{path} was written by another version of this client ({version})")
            for step in range(version, _VERSION):
                for statement in (_MIGRATIONS[step] if step else _SCHEMA).split(";"):
                    self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version={_VERSION}")

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    # What is simply kept

    def get(self, name: str) -> str | None:
        row = self._db.execute("SELECT value FROM kept WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def put(self, **values: str | None) -> None:
        """Keep all of these, together; None forgets."""
        with self._transaction():
            for name, value in values.items():
                if value is None:
                    self._db.execute("DELETE FROM kept WHERE name = ?", (name,))
                else:
                    self._db.execute("INSERT OR REPLACE INTO kept VALUES (?, ?)", (name, value))

    # Receiving

    @contextlib.contextmanager
    def receiving(self, room: str = "") -> Iterator[None]:
        """Be the one process that receives as this device, or one of its rooms as this device; or raise `Busy`.

        Ends with the process at the latest.
        """
        if sys.platform == "win32":  # no flock there: that only one runs is up to the user
            yield
            return
        import fcntl

        name = hashlib.sha256(f"{self._device}\n{room}".encode("utf-8", "surrogatepass")).hexdigest()[:12]
        # A file of its own: closing any descriptor of the database would drop SQLite's locks on it.
        with open(self._path.with_suffix(f".{name}.lock"), "a", opener=_private) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise Busy(
                    f"another process receives as device {self._device!r}: give this one a --device of its own"
                ) from None
            yield

    @contextlib.contextmanager
    def take(self, room_id: str, seq: int) -> Iterator[bool]:
        """Take the entry `seq` of a room, once: `with store.take(…) as new: if new: show(…)`.

        The cursor moves when the block ends well, and not if it raises. So an entry is shown exactly once, unless
        the process dies between showing and the commit: then it is shown again, never lost. No lock is held
        meanwhile (showing may block); that no other process takes for the same device, `receiving` sees to.
        """
        cursor = self.cursor(room_id)
        new = cursor is None or seq > cursor
        yield new
        if new:
            self._db.execute("INSERT OR REPLACE INTO cursor VALUES (?, ?, ?)", (self._device, room_id, seq))

    def cursor(self, room_id: str) -> int | None:
        """seq of the last entry taken from a room."""
        row = self._db.execute(
            "SELECT seq FROM cursor WHERE device = ? AND room_id = ?", (self._device, room_id)
        ).fetchone()
        return None if row is None else int(row[0])

    def cursors(self) -> dict[str, int]:
        """room_id -> seq of the last entry taken."""
        rows = self._db.execute("SELECT room_id, seq FROM cursor WHERE device = ?", (self._device,))
        return dict(rows.fetchall())

    def begin(self, room_id: str, seq: int) -> None:
        """Note that nothing of a room from `seq` on has been taken yet, unless the room has a cursor already."""
        self._db.execute("INSERT OR IGNORE INTO cursor VALUES (?, ?, ?)", (self._device, room_id, seq - 1))

    def forget(self, room_id: str) -> None:
        """Drop the cursor of a room: its log begins anew for this device."""
        self._db.execute("DELETE FROM cursor WHERE device = ? AND room_id = ?", (self._device, room_id))

    # Sending

    def enqueue(
        self, room: RoomRef, content: str, client_id: str | None = None, reply_to: str | None = None
    ) -> Unsent:
        """Keep a message for sending, after all that were enqueued before it."""
        unsent = Unsent(client_id or str(uuid.uuid4()), room, content, reply_to)
        self._db.execute("PRAGMA synchronous=FULL")
        try:
            self._db.execute(
                "INSERT INTO outbox (client_id, room, content, reply_to, tried) VALUES (?, ?, ?, ?, 0)",
                (unsent.client_id, json.dumps(room), content, reply_to),
            )
        finally:
            self._db.execute("PRAGMA synchronous=NORMAL")
        return unsent

    def next_unsent(self) -> Unsent | None:
        """The oldest message that is not acknowledged."""
        return next(self._unsent("ORDER BY position LIMIT 1"), None)

    def get_unsent(self, client_id: str) -> Unsent | None:
        """That message as it should be now; None if it is sent, or withdrawn."""
        return next(self._unsent("WHERE client_id = ?", client_id), None)

    def last_unsent(self, room: RoomRef) -> Unsent | None:
        """The newest message to a room that is not acknowledged."""
        return next(self._unsent("WHERE room = ? ORDER BY position DESC LIMIT 1", json.dumps(room)), None)

    def _unsent(self, which: str, *values: str) -> Iterator[Unsent]:
        rows = self._db.execute(f"SELECT client_id, room, content, reply_to, edited FROM outbox {which}", values)
        for client_id, room, content, reply_to, edited in rows.fetchall():
            yield Unsent(client_id, json.loads(room), content, reply_to, bool(edited))

    def tried(self, unsent: Unsent) -> bool:
        """It goes out now: from here on the server may have it. True if that was the first time."""
        first = self._db.execute("UPDATE outbox SET tried = 1 WHERE client_id = ? AND NOT tried", (unsent.client_id,))
        return first.rowcount == 1

    def untried(self, unsent: Unsent) -> None:
        """It did not go out after all."""
        self._db.execute("UPDATE outbox SET tried = 0 WHERE client_id = ?", (unsent.client_id,))

    def change(self, unsent: Unsent, content: str) -> bool:
        """Give a message that waits another content; False if it waits no more."""
        changed = self._db.execute(
            "UPDATE outbox SET content = ?, edited = tried WHERE client_id = ?", (content, unsent.client_id)
        )
        return changed.rowcount == 1

    def withdraw(self, unsent: Unsent) -> bool:
        """Take back a message that was never tried; False if the server may have it."""
        gone = self._db.execute("DELETE FROM outbox WHERE client_id = ? AND NOT tried", (unsent.client_id,))
        return gone.rowcount == 1

    def unsent(self) -> int:
        """How many messages wait to be sent."""
        (count,) = self._db.execute("SELECT count(*) FROM outbox").fetchone()
        return int(count)

    def done(self, unsent: Unsent) -> None:
        """The server has it, or never will: it is not sent again."""
        self._db.execute("DELETE FROM outbox WHERE client_id = ?", (unsent.client_id,))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
