"""Notices that the log has gone back: a restored backup, or a database that has lost commits.

Clients keep the seqs of the entries that they have received. A restored log gives the same seqs to new entries, and a
client whose cursor is beyond the restored head would never receive them. So each return begins an **epoch**: the
database records the head of each room, and the catch-up names the rooms that a device has to read again.

The evidence is a mark, a random string that the node leaves both in the database and in a file of its own, and
replaces while it writes. A database with none of the node's last marks is not the one that it wrote to. The file is
synced before the database gets the mark that it announces, so a crash in between leaves no doubt.

PostgreSQL may also lose what it committed after the last mark, if a replica takes over that was behind. So a running
node looks for the entries that it has committed since.

Without the file, the node cannot know whether the database is complete. On SQLite, where the file lies beside the
database, the database was copied from elsewhere: an epoch begins. On PostgreSQL the node is new.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.engine import Connection as Transaction

from tidings.log.latest_entries import LatestEntries
from tidings.supervision import Periodic
from tidings_db.engine import Database
from tidings_db.queries import epochs

MAX_FILES = 256
MARK_S = 5.0
"""The interval at which the mark is replaced, if anything was written since."""

logger = logging.getLogger("tidings.epochs")


@dataclass(slots=True)
class Marks:
    """The content of the node's file."""

    instance: str
    node: str
    marks: list[str] = field(default_factory=list)
    """The database has one of them. There is a second one while it is being written to the database."""


class MarkFile:
    """Keeps `Marks` on disk. Several nodes in one directory have a file each. All methods block."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: int | None = None

    def claim(self) -> None:
        """Take the first file that no other running node has."""
        path = self._path
        for number in range(1, MAX_FILES + 1):
            self._path = path if number == 1 else path.with_name(f"{path.name}-{number}")
            try:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                lock = os.open(self._path.with_name(f"{self._path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
            except OSError:
                return  # `save` says so
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(lock)
                continue
            self._lock = lock
            return

    def release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def load(self) -> Marks | None:
        """None: there is no file, or it cannot be read."""
        try:
            content = json.loads(self._path.read_bytes())
            return Marks(str(content["instance"]), str(content["node"]), [str(mark) for mark in content["marks"]])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            logger.warning("%s cannot be read and is written anew", self._path)
            return None

    def save(self, marks: Marks) -> None:
        """Replace the file; it is synced when this returns. Raises `OSError`."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                json.dump({"instance": marks.instance, "node": marks.node, "marks": marks.marks}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._path)
        except OSError:
            with suppress(FileNotFoundError):
                temporary.unlink()
            raise
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


class Epochs(Periodic):
    """`current` is the epoch of the log."""

    def __init__(
        self,
        database: Database,
        file: MarkFile,
        writes: Callable[[], int],
        gone_back: Callable[[], None],
        interval_s: float = MARK_S,
        latest: LatestEntries | None = None,
        *,
        is_shared: bool = True,
    ) -> None:
        """
        Args:
            writes: counts the transactions that this node has written.
            latest: the entries among them.
            is_shared: whether other nodes may serve the database, too.
            gone_back: called when an epoch begins while the server runs: its heads and positions are invalid.
        """
        super().__init__(interval_s, logger, "the database could not be marked")
        self.current = 0
        self.instance = ""
        """The id of the database, after the start."""
        self._db = database
        self._file = file
        self._writes = writes
        self._gone_back = gone_back
        self._latest = latest or LatestEntries()
        self._is_shared = is_shared
        self._marks: Marks | None = None
        """None: the file cannot be written, so only other processes begin epochs."""
        self._cannot_save = False
        """Whether the last save failed, which is logged once."""
        self._marked_at = 0
        """`writes` when the mark was last replaced."""

    async def start(self) -> None:
        """Compare the database with the file. Raises `StoreUnavailable`."""
        if self._is_shared:
            await asyncio.to_thread(self._file.claim)
        marks = await asyncio.to_thread(self._file.load)
        instance, mark, has_witnesses = await self._db.read(lambda conn: _evidence(conn, marks))
        instance_id, self.current = instance or (secrets.token_urlsafe(12), 0)
        cause = ""
        if marks is None or marks.instance != instance_id:
            if has_witnesses and not self._is_shared:
                cause = "the database was not written here"
            marks = Marks(instance_id, secrets.token_urlsafe(12))
        elif mark not in marks.marks:
            cause = "the database is older than when this server last wrote to it"
        else:
            marks.marks = [mark]
        self._marks = marks
        if not marks.marks or cause:
            marks.marks = [_mark()]
            # First the file: after a crash in between, the next start comes to the same conclusion.
            if not await self._save(marks):
                self._marks = None
            marks.instance, self.current = await self._db.write(
                lambda conn: _enter(conn, instance_id, self._marks, lost=bool(cause))
            )
        self.instance = marks.instance
        if cause:
            logger.warning("epoch %d of the log begins: %s", self.current, cause)
        await super().start()

    async def stop(self) -> None:
        await super().stop()
        with suppress(Exception):
            await self._round()
        self._file.release()

    async def _round(self) -> None:
        known, instance = self.current, await self._db.read(epochs.instance)
        if instance is not None and instance[1] != self.current:
            self._adopt(instance[1], "another process has begun it")
        marks, writes = self._marks, self._writes()
        if marks is None or writes == self._marked_at:
            return
        if len(marks.marks) == 1:  # otherwise the last round failed, and may have written the second one
            marks.marks.append(_mark())
        if not await self._save(marks):
            return
        node, mark = marks.node, marks.marks[-1]
        unchecked, kept = self._latest.unchecked(), self._latest.kept()

        def move(conn: Transaction) -> int | None:
            """Returns a new epoch if the database has none of the marks, or not all of the entries."""
            is_marked = epochs.move_mark(conn, node, marks.marks, mark, _now())
            if is_marked and not epochs.lost(conn, unchecked):
                return None
            if not is_marked:
                epochs.add_witness(conn, node, mark, _now())
            lost = epochs.lost(conn, kept)
            if self._is_shared and epochs.covers(conn, known, lost):
                return None  # another node has begun an epoch for the same loss
            return epochs.begin_epoch(conn, lost)

        epoch = await self._db.write(move)
        if epoch is None:
            self._latest.checked(len(unchecked))
        else:
            self._latest.clear()
            self._adopt(epoch, "the database has lost what this server had written to it")
        marks.marks = [mark]
        self._marked_at = writes
        await self._save(marks)

    async def _save(self, marks: Marks) -> bool:
        try:
            await asyncio.to_thread(self._file.save, marks)
        except OSError as error:
            if not self._cannot_save:
                logger.warning("a restored backup will not be noticed: %s", error)
            self._cannot_save = True
            return False
        self._cannot_save = False
        return True

    def _adopt(self, epoch: int, cause: str) -> None:
        logger.error("epoch %d of the log begins: %s; all connections are closed", epoch, cause)
        self.current = epoch
        self._gone_back()


def _evidence(conn: Transaction, marks: Marks | None) -> tuple[tuple[str, int] | None, str | None, bool]:
    """The database's id and epoch, the mark of the file's node, and whether the database has a mark of any node."""
    return epochs.instance(conn), epochs.mark_of(conn, marks.node) if marks else None, epochs.has_witnesses(conn)


def _enter(conn: Transaction, instance_id: str, marks: Marks | None, *, lost: bool) -> tuple[str, int]:
    """Write the mark, if there is one, in a new epoch if entries were lost; returns the database's id and the epoch.

    The id differs from `instance_id` if another node has started on a new database at the same time.
    """
    instance_id = epochs.ensure_instance(conn, instance_id)
    epoch = epochs.begin_epoch(conn) if lost else epochs.current(conn)
    if marks is not None:
        epochs.add_witness(conn, marks.node, marks.marks[-1], _now())
    return instance_id, epoch


def begin(conn: Transaction) -> int:
    """Begin an epoch: for an operator who has restored a backup."""
    epochs.ensure_instance(conn, secrets.token_urlsafe(12))
    return epochs.begin_epoch(conn)


def _mark() -> str:
    return secrets.token_urlsafe(12)


def _now() -> int:
    return time.time_ns() // 1_000_000
