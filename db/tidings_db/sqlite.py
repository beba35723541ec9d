"""SQLite: one writing connection, several reading ones, and their threads.

Only the writer writes and checkpoints, in its own thread; this also avoids the WAL-reset bug of SQLite 3.7.0–3.51.2.
A brief transaction runs in the event loop's thread instead if the writer's thread is idle and the disk is fast. The
readers cannot write or checkpoint; a read sees one snapshot.

Guarantees after a failed sync (`tidings_db.wal` explains what Linux does then):

* Every commit syncs the log, even for data that could be recreated, because no commit after an unsynced
  one is durable. A commit whose sync fails affects only itself; SQLite overwrites it with the next one.
* Checkpoints are explicit, because SQLite's automatic ones hide their errors. If a reader keeps a checkpoint from
  reaching the end of the log, SQLite records the position without syncing the file; this module remembers it.
* After any failure of the store, and after opening it, nothing is written until the log has been rewritten and
  synced, the pages of an unsynced checkpoint have been rewritten and synced, and a checkpoint and a commit have
  succeeded. Until then the log is not deleted either.

Guarantees when the files are removed, replaced or truncated under the server (`files.py`), or SQLite reports damage:
nothing that would be lost is written, and so nothing is acknowledged. Files that return are repaired as above. A
truncated log is not checkpointed, because its missing part would become zeros in the database.

A transaction costs one thread switch. A driver that switches for each call (aiosqlite) needs four per statement,
which take more processor time than the query.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from tidings_db.connections import (
    NO_WAIT,
    READERS,
    Locks,
    Write,
    commit,
    driver_of,
    on_driver,
    reading_engine,
    roll_back,
    writing_engine,
)
from tidings_db.failures import BUSY_TIMEOUT_MS, DAMAGED, NO_SPACE, StoreUnavailable, is_damage, is_full
from tidings_db.files import Files, FilesAway, LogCut
from tidings_db.space import Space
from tidings_db.wal import Log

logger = logging.getLogger("tidings.db")
T = TypeVar("T")

QUICK_S = 0.002
"""Average time of a transaction above which none runs in the event loop's thread."""
RECENT = 16
"""Approximate number of transactions in the average: after one of 50 ms, the next dozen or two run in the thread."""
CHECKPOINT_FRAMES = 1000
"""Growth of the log, in pages, that triggers a checkpoint."""
CHECKPOINT_PATIENCE_MS = 10
"""Time that a checkpoint waits for readers of an older snapshot; then it stops at their position."""
_CHECK_LOG_EVERY = 16
"""Commits between two checks of the length of the log."""
FILES_S = 0.1
"""The shortest interval between two checks of the files."""


class Sqlite:
    """A SQLite file. Errors of SQLAlchemy and of the driver are not translated here."""

    def __init__(self, url: URL, *, synced: bool, checkpoints: bool, clock: Callable[[], float]) -> None:
        """`synced`: a commit waits for the disk. `clock`: returns seconds, to time transactions."""
        self._url = url.set(drivername="sqlite+pysqlite")
        self._synced = synced
        self._checkpoints = checkpoints
        self._clock = clock
        self._suspect = True
        """Whether the disk may lack data that SQLite believes to be there."""
        self._damage = ""
        """The damage that prevents all writes until a restart; empty if there is none."""
        self._log: Log | None = None
        self._files: Files | None = None
        self._checked_at = -FILES_S
        """Time of the last successful check of the files; monotonic."""
        self._space: Space | None = None
        self._commits = 0
        self._checkpointed = b"", 0
        """The salt of the last checkpointed log, and its number of frames then."""
        self._unsynced = b"", 0
        """The salt of the last checkpointed log, and the number of frames written to the database without a sync."""
        self.checkpoint_due = False
        self._average_s = 2 * QUICK_S  # so that the first transactions run in the thread
        self._writer: Engine | None = None
        self._writing: Connection | None = None
        self._settings: dict[str, int] = {}  # settings of `_writing` that `_set` has changed
        self._thread: ThreadPoolExecutor | None = None
        self._readers: Engine | None = None
        self._reader_threads: ThreadPoolExecutor | None = None

    async def start(self) -> None:
        self._thread = ThreadPoolExecutor(1, "tidings-db-writer")
        self._writer = writing_engine(self._url, synced=self._synced)
        self._reader_threads = ThreadPoolExecutor(READERS, "tidings-db-reader")
        self._readers = reading_engine(self._url)
        await self._in_writer_thread(self._open_writer)
        await asyncio.get_running_loop().run_in_executor(self._reader_threads, self._open_readers)

    async def stop(self) -> None:
        """Finish running reads, then close every connection. All writes have ended before."""
        readers, self._readers = self._readers, None
        try:
            if self._thread is not None and self._log is not None:
                await self._in_writer_thread(self._settle)
            if self._reader_threads is not None and readers is not None:
                self._reader_threads.shutdown()
                readers.dispose()
        finally:
            if self._thread is not None:
                # The last connection to close checkpoints, so the writer's must be the last.
                writer, self._writer = self._writer, None
                if writer is not None:
                    await self._in_writer_thread(self._close_writer, writer)
                self._thread.shutdown()
                self._thread = None

    def read(self, query: Callable[[Connection], T]) -> asyncio.Future[T]:
        assert self._reader_threads is not None, "not started"
        return asyncio.get_running_loop().run_in_executor(self._reader_threads, self._read, query)

    def _read(self, query: Callable[[Connection], T]) -> T:
        assert self._readers is not None, "not started"
        try:
            with self._readers.connect() as conn:
                return query(conn)
        except (DBAPIError, sqlite3.Error) as error:
            self._note_damage(error)
            raise

    def write(self, change: Callable[[Connection], T], how: Write, _locks: Locks | None) -> asyncio.Future[T]:
        """Run a transaction in the writer's thread, after the earlier ones."""
        assert self._thread is not None, "not started"
        return asyncio.get_running_loop().run_in_executor(self._thread, self.transact, change, how)

    def checkpoint(self) -> asyncio.Future[None]:
        """Checkpoint in the writer's thread. After a failure, the next transaction recovers first."""
        assert self._thread is not None, "not started"
        self.checkpoint_due = False
        return asyncio.get_running_loop().run_in_executor(self._thread, self._checkpoint_or_suspect)

    @property
    def suspect(self) -> bool:
        """Whether the next transaction must recover the store first, or cannot begin at all."""
        return self._suspect or bool(self._damage)

    @property
    def quick(self) -> bool:
        """Whether a brief transaction may run in the event loop's thread, which saves two thread switches.

        It may while recent ones took up to `QUICK_S` on average. So one slow commit may block the loop; the next ones
        run in the thread until fast commits have lowered the average.
        """
        return self._average_s <= QUICK_S and not (self._suspect or self._damage or self.full)

    @staticmethod
    def probe(conn: Connection) -> None:
        """Check that the file can be written to."""
        (version,) = conn.exec_driver_sql("PRAGMA user_version").one()
        conn.exec_driver_sql(f"PRAGMA user_version={int(version) ^ 1}")

    def transact(self, change: Callable[[Connection], T], how: Write) -> T:
        """Run and time one transaction. `Write.BRIEF` raises `WouldWait` instead of waiting for a lock."""
        began = self._clock()
        vital, wait = how is Write.VITAL, how is not Write.BRIEF
        try:
            if self._space is not None and not vital:
                self._space.check()
            try:
                return self._transact_now(change, wait)
            except (DBAPIError, sqlite3.Error, OSError) as error:
                made_room = self._space is not None and self._space.note(error)
                if not (vital and made_room):
                    raise
            return self._transact_now(change, wait)  # now with the space of the deleted reserve
        finally:
            self._average_s += (self._clock() - began - self._average_s) / RECENT

    def _transact_now(self, change: Callable[[Connection], T], wait: bool) -> T:
        """Run a transaction; after a failure of the store, on a new connection and after `_recover`."""
        self._check_files()
        conn = self._connection()
        try:
            if self._suspect:
                self._recover(conn)
            self._set(conn, "busy_timeout", BUSY_TIMEOUT_MS if wait else 0)
            if not wait:
                conn.info[NO_WAIT] = True
            result = commit(conn, change)
        except (DBAPIError, sqlite3.Error) as error:
            self._note_damage(error)
            raise
        finally:
            self._drop_if_invalidated(conn)
        self._commits += 1
        if self._commits % _CHECK_LOG_EVERY == 0:
            self._check_log()
        return result

    def _connection(self) -> Connection:
        assert self._writer is not None, "not started"
        if self._writing is None:
            self._writing = self._writer.connect()
        return self._writing

    def _drop_if_invalidated(self, conn: Connection) -> None:
        if conn.invalidated:
            self._suspect, self._writing = True, None
            self._settings.clear()
            conn.close()

    def _recover(self, conn: Connection) -> None:
        """Repair the files, and check that they can be written to."""
        self._repair(conn)
        commit(conn, self.probe)
        self._suspect = False

    def _repair(self, conn: Connection) -> None:
        """Bring the disk to the state that SQLite assumes. Raises `sqlite3.Error` or `OSError`."""
        assert self._log is not None, "not started"
        self._set(conn, "busy_timeout", BUSY_TIMEOUT_MS)
        transaction = conn.begin()  # keeps other processes from writing
        try:
            self._log.renew()
            log, frames = self._unsynced
            if frames and log == self._log.length()[0]:
                self._log.redo(frames)
            self._unsynced = b"", 0
        finally:
            roll_back(conn, transaction)
        if self._checkpoints:
            self._checkpoint(conn)

    # -- the files -----------------------------------------------------------------------------------------------

    def _check_files(self, *, force: bool = False) -> None:
        """Raises `StoreUnavailable` if a write would be lost. `force`: check even shortly after the last check."""
        if self._damage:
            raise StoreUnavailable(self._damage, reason=DAMAGED)
        just_now = not self._suspect and time.monotonic() - self._checked_at < FILES_S
        if self._files is None or (just_now and not force):
            return
        try:
            self._files.check()
        except FilesAway as error:
            if not self._suspect:
                logger.critical("%s: nothing is written until the file is back, or the server is restarted", error)
                if error.only_log and self._checkpoints:
                    self._try_to_checkpoint()  # the database is in place, so the log can be saved
            self._suspect = True
            problem = f"the database's files are missing or replaced: {error}"
            raise StoreUnavailable(problem, reason=DAMAGED) from error
        except LogCut as error:
            if not (error.emptied and self._was_checkpointed()):
                self._damaged(str(error))
                raise StoreUnavailable(self._damage, reason=DAMAGED) from error
            self._files.log_was_emptied()
        self._checked_at = time.monotonic()

    def _was_checkpointed(self) -> bool:
        """Whether another process has checkpointed and emptied the log, so that the database has all of it."""
        if self._writing is None:
            return False
        try:
            self._set(self._writing, "busy_timeout", BUSY_TIMEOUT_MS)
            # RESTART fails if frames are missing.
            ((busy, _, _),) = driver_of(self._writing).execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
        except (DBAPIError, sqlite3.Error):
            return False
        return not busy

    def _note_damage(self, error: BaseException) -> None:
        if is_damage(error):
            self._damaged(str(error).partition("\n")[0])

    def _damaged(self, problem: str) -> None:
        """Stop all writes and checkpoints."""
        if not self._damage:
            self._damage = f"the database is damaged: {problem}"
            logger.critical("%s; nothing is written until the server is restarted", self._damage)

    def keep_reserve(self) -> None:
        self._space = Space(Path(self._url.database or ""))

    @property
    def full(self) -> bool:
        """Whether the disk is full and the reserve deleted, so that only vital writes succeed."""
        return self._space is not None and self._space.full

    # -- the checkpoint ------------------------------------------------------------------------------------------

    def _check_log(self) -> None:
        if self._log is None or not self._checkpoints:
            return
        log, frames = self._log.length()
        growth = frames - self._checkpointed[1] if log == self._checkpointed[0] else frames
        self.checkpoint_due = growth >= CHECKPOINT_FRAMES

    def _checkpoint_or_suspect(self) -> None:
        if self.suspect:
            return  # `_recover` includes one
        try:
            self._check_files(force=True)
        except StoreUnavailable:
            return
        self._try_to_checkpoint()

    def _try_to_checkpoint(self) -> None:
        conn = self._connection()
        try:
            self._checkpoint(conn)
        except (DBAPIError, sqlite3.Error, OSError) as error:
            self._note_damage(error)
            logger.error("the checkpoint failed: %s", error)
        finally:
            self._drop_if_invalidated(conn)

    def _checkpoint(self, conn: Connection) -> None:
        """Write the log to the database. Raises `sqlite3.Error`."""
        assert self._log is not None, "not started"
        self._set(conn, "busy_timeout", CHECKPOINT_PATIENCE_MS)
        try:
            # FULL, unlike PASSIVE, blocks writers meanwhile. Readers continue.
            ((busy, frames, written),) = driver_of(conn).execute("PRAGMA wal_checkpoint(FULL)").fetchall()
        except sqlite3.Error as error:
            if is_full(error):  # nothing is lost: the log has everything
                logger.warning("the checkpoint failed: %s", NO_SPACE)
                return
            conn.invalidate(error)
            raise
        log = self._log.length()[0]
        if frames >= 0:  # otherwise another process is checkpointing
            self._checkpointed = log, frames
            self._unsynced = (log, written) if busy else (b"", 0)

    def _settle(self) -> None:
        """Checkpoint before the end, after a repair if necessary. On failure the log stays for the next start."""
        assert self._log is not None, "not started"
        if self._checkpoints:
            self._checkpoint_or_suspect()
        if not self.suspect:
            return
        try:
            if self._damage:
                raise StoreUnavailable(self._damage, reason=DAMAGED)
            if self._writing is None:  # opening a missing file would create it
                self._check_files()
            conn = self._connection()
            try:
                self._repair(conn)
            finally:
                self._drop_if_invalidated(conn)
        except (DBAPIError, sqlite3.Error, OSError, StoreUnavailable) as error:
            logger.error("the checkpoint failed, so the log stays for the next start: %s", error)
            self._log.keep()

    def _set(self, conn: Connection, pragma: str, value: int) -> None:
        """Change a setting of the writer's connection, if it has another value."""
        if self._settings.get(pragma) != value:
            self._settings.pop(pragma, None)
            on_driver(conn, f"PRAGMA {pragma}={value}")
            self._settings[pragma] = value

    async def _in_writer_thread(self, function: Callable[..., T], *args: Any) -> T:
        assert self._thread is not None, "not started"
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    def _open_writer(self) -> None:
        (_, _, path) = on_driver(self._connection(), "PRAGMA database_list")[0]
        self._log = Log(Path(path))
        self._files = Files(Path(path))

    def _open_readers(self) -> None:
        """Open all reading connections while the files exist: opening one later might create new files."""
        assert self._readers is not None, "not started"
        with ExitStack() as stack:
            for _ in range(READERS):
                stack.enter_context(self._readers.connect()).execute(text("SELECT 1 FROM sqlite_master")).all()

    def _close_writer(self, writer: Engine) -> None:
        if self._writing is not None:
            self._writing.close()
            self._writing = None
        writer.dispose()
        if self._log is not None:
            self._log.close()
            self._log = None
