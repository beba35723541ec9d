"""The terminal's own state on disk: the sign-in, and what is open.

One small SQLite file per server, user and device, which several processes may have open (a chat, and a script that
sends). What the client library remembers is in files beside it: one for the chat, one for tails.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sqlite3
import unicodedata
from pathlib import Path
from typing import Final

from tidings_chat.errors import Busy
from tidings_chat.i18n import t
from tidings_client import Entry, SQLiteStore
from tidings_client.stores import StoredUnsent

_VERSION: Final = 3
_KEPT: Final = "CREATE TABLE IF NOT EXISTS kept (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"
_FROM_1: Final = (
    "ALTER TABLE outbox ADD COLUMN reply_to TEXT",
    "ALTER TABLE outbox ADD COLUMN tried INTEGER NOT NULL DEFAULT 1",
    "ALTER TABLE outbox ADD COLUMN edited INTEGER NOT NULL DEFAULT 0",
)
"""Version 1 may have tried what is in its outbox."""

RoomRef = dict[str, str]
"""A room reference of the contract: exactly one of `room_id`, `topic_name`, `username`."""


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


class State:
    """Values by name: `with State(path) as state`. They survive the end of the process, but not a power cut."""

    def __init__(self, path: Path) -> None:
        """Open the file, creating it for its user only. Raises `Busy` if a newer client has written it."""
        self._path = path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self._db = sqlite3.connect(path, isolation_level=None, timeout=10)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("BEGIN IMMEDIATE")
            self._migrate()
            self._db.execute("COMMIT")
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> State:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def _migrate(self) -> None:
        ((version,),) = self._db.execute("PRAGMA user_version")
        if version > _VERSION:
            raise Busy(
                t(
                    "{file} was written by another version of this client ({version})",
                    file=self._path,
                    version=version,
                )
            )
        for statement in (*(_FROM_1 if version == 1 else ()), _KEPT, f"PRAGMA user_version={_VERSION}"):
            self._db.execute(statement)

    def get(self, name: str) -> str | None:
        for (value,) in self._db.execute("SELECT value FROM kept WHERE name = ?", (name,)):
            return str(value)
        return None

    def put(self, **values: str | None) -> None:
        """Store all these values; None deletes one."""
        self._db.execute("BEGIN IMMEDIATE")
        for name, value in values.items():
            if value is None:
                self._db.execute("DELETE FROM kept WHERE name = ?", (name,))
            else:
                self._db.execute("INSERT OR REPLACE INTO kept VALUES (?, ?)", (name, value))
        self._db.execute("COMMIT")

    async def store(self, kind: str, device: str, *, has_outbox: bool = False) -> SQLiteStore:
        """The library's store for a chat or for tails, which get what earlier versions of this client kept here.

        Those had a cursor per room and device, and one outbox. Raises `StoreInUse`.
        """
        store = SQLiteStore(self._path.with_suffix(f".{kind}.sqlite3"))
        with contextlib.suppress(sqlite3.OperationalError):  # there are no such tables
            cursors = self._db.execute("SELECT room_id, seq FROM cursor WHERE device = ?", (device,)).fetchall()
            query = "SELECT client_id, room, content, reply_to, tried, edited FROM outbox ORDER BY position"
            outbox = self._db.execute(query).fetchall() if has_outbox else []
            if cursors or outbox:
                await store.open()
                try:
                    await store.take([Entry(room_id, seq, "taken before", {}) for room_id, seq in cursors])
                    for client_id, room, content, reply_to, tried, edited in outbox:
                        reply = {"reply_to": reply_to} if reply_to else {}
                        payload = {**json.loads(room), "content": content, "client_id": client_id, **reply}
                        await store.enqueue(StoredUnsent(client_id, "message", payload, tried > 0, edited > 0))
                        self._db.execute("DELETE FROM outbox WHERE client_id = ?", (client_id,))
                finally:
                    await store.close()
                self._db.execute("DELETE FROM cursor WHERE device = ?", (device,))
        return store
