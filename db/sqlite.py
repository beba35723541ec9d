"""SQLite: one connection that writes, a few that read, and the threads that they are used in.

The writer is the only one that writes and checkpoints (which is what keeps clear of the WAL-reset bug of SQLite
3.7.0–3.51.2), in a thread of its own. A brief transaction that would have the thread for itself runs in the event
loop's instead, while the disk is quick. The readers cannot write or checkpoint; a read sees one snapshot.

A transaction costs one hop to a thread; a driver that hops for each call (aiosqlite) costs four for each statement,
and more processor time for the hops than for the query.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, RootTransaction, create_engine, event, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool, StaticPool

from db.failures import BUSY_TIMEOUT_MS, StoreUnavailable, note, note_error, run_whole

T = TypeVar("T")

READERS = 4
QUICK_S = 0.002
"""While transactions take longer than this on average, none runs in the event loop's thread."""
RECENT = 16
"""How many transactions the average looks back, about: one of 50 ms keeps the loop free of the next dozen or two."""

_FULL, _NORMAL = 2, 1  # of the pragma `synchronous`

# In a connection's `info`.
_AT_ONCE = "tidings.at_once"


class NotAtOnce(Exception):
    """The transaction cannot begin now: another process is writing, or something is wrong."""


class Sqlite:
    """A SQLite file. All of it raises the errors of SQLAlchemy and of the driver as they are."""

    def __init__(self, url: URL, *, synced: bool, checkpoints: bool, clock: Callable[[], float]) -> None:
        """`synced`: a commit waits for the disk. `clock`: seconds, by which transactions are timed."""
        self._url = url.set(drivername="sqlite+pysqlite")
        self._synchronous = _FULL if synced else _NORMAL
        self._checkpoints = checkpoints
        self._clock = clock
        self._suspect = False
        self._recently = 2 * QUICK_S  # so the first ones run in the thread
        self._writer: Engine | None = None
        self._writing: Connection | None = None
        self._settings: dict[str, int] = {}
        """What `_writing` was set to by `_set`."""
        self._thread: ThreadPoolExecutor | None = None
        self._readers: Engine | None = None
        self._reader_threads: ThreadPoolExecutor | None = None

    async def start(self) -> None:
        self._thread = ThreadPoolExecutor(1, "tidings-db-writer")
        self._writer = create_engine(
            self._url,
            hide_parameters=True,
            poolclass=StaticPool,
            connect_args={"check_same_thread": False},
            pool_reset_on_return=None,
        )
        event.listen(self._writer, "connect", self._prepare_writer)
        event.listen(self._writer, "begin", _begin_immediate)
        event.listen(self._writer, "handle_error", note_error)
        self._reader_threads = ThreadPoolExecutor(READERS, "tidings-db-reader")
        self._readers = create_engine(
            self._url,
            hide_parameters=True,
            poolclass=QueuePool,
            pool_size=READERS,
            max_overflow=0,
            # One read after another finds the pages that the one before it has cached.
            pool_use_lifo=True,
            connect_args={"check_same_thread": False},
        )
        event.listen(self._readers, "connect", self._prepare_reader)
        event.listen(self._readers, "begin", _begin)
        await self._in_writer_thread(self._open_writer)
        await self.read(lambda conn: conn.execute(text("SELECT 1")).scalar_one())

    async def stop(self) -> None:
        """Finish what is being read, then close every connection. What is being written has ended."""
        readers, self._readers = self._readers, None
        writer, self._writer = self._writer, None
        try:
            if self._reader_threads is not None and readers is not None:
                self._reader_threads.shutdown()
                readers.dispose()
        finally:
            if self._thread is not None:
                # The last connection to close checkpoints, so the writer's is the last.
                if writer is not None:
                    await self._in_writer_thread(self._close_writer, writer)
                self._thread.shutdown()
                self._thread = None

    def read(self, query: Callable[[Connection], T]) -> asyncio.Future[T]:
        assert self._reader_threads is not None, "not started"
        return asyncio.get_running_loop().run_in_executor(self._reader_threads, self._read, query)

    def _read(self, query: Callable[[Connection], T]) -> T:
        assert self._readers is not None, "not started"
        with self._readers.connect() as conn:
            return query(conn)

    def write(self, change: Callable[[Connection], T], lazy: bool) -> asyncio.Future[T]:
        """Run a transaction in the writer's thread, when those before it have ended."""
        assert self._thread is not None, "not started"
        return asyncio.get_running_loop().run_in_executor(self._thread, self.transact, change, False, lazy)

    @property
    def quick(self) -> bool:
        """Whether a transaction that need not wait may run in the event loop's thread: two switches of threads less.

        It may if the recent ones took no more than `QUICK_S` on average. So one slow commit may hold the loop up, but
        not the next: they are in the thread until it is made up for by quick ones.
        """
        return not self._suspect and self._recently <= QUICK_S

    @staticmethod
    def probe(conn: Connection) -> None:
        """Show that the file can be written to."""
        (version,) = conn.exec_driver_sql("PRAGMA user_version").one()
        conn.exec_driver_sql(f"PRAGMA user_version={int(version) ^ 1}")

    def transact(self, change: Callable[[Connection], T], at_once: bool = False, lazy: bool = False) -> T:
        """One transaction, timed. `at_once`: it raises `NotAtOnce` instead of waiting for another process's lock."""
        if lazy:  # it says nothing of the disk
            return self._transact_now(change, at_once, _NORMAL)
        began = self._clock()
        try:
            return self._transact_now(change, at_once, self._synchronous)
        finally:
            self._recently += (self._clock() - began - self._recently) / RECENT

    def _transact_now(self, change: Callable[[Connection], T], at_once: bool, synchronous: int) -> T:
        """After a failure of the store: on a new connection, and only after a probe."""
        assert self._writer is not None, "not started"
        conn = self._writing
        if conn is None:
            conn = self._writing = self._writer.connect()
        try:
            if self._suspect:
                _commit(conn, self.probe)
                self._suspect = False
            # Whatever it was: nothing is less durable than it should be for what was written before it.
            self._set(conn, "synchronous", synchronous)
            self._set(conn, "busy_timeout", 0 if at_once else BUSY_TIMEOUT_MS)
            if at_once:
                conn.info[_AT_ONCE] = True
            return _commit(conn, change)
        finally:
            if conn.invalidated:
                self._suspect, self._writing = True, None
                self._settings.clear()
                conn.close()

    def _set(self, conn: Connection, pragma: str, value: int) -> None:
        """A setting of the writer's connection, which nobody else changes: asked for only if it is another one."""
        if self._settings.get(pragma) != value:
            self._settings.pop(pragma, None)
            on_driver(conn, f"PRAGMA {pragma}={value}")
            self._settings[pragma] = value

    async def _in_writer_thread(self, function: Callable[..., T], *args: Any) -> T:
        assert self._thread is not None, "not started"
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    def _open_writer(self) -> None:
        assert self._writer is not None
        self._writing = self._writer.connect()

    def _close_writer(self, writer: Engine) -> None:
        if self._writing is not None:
            self._writing.close()
            self._writing = None
        writer.dispose()

    def _prepare_writer(self, dbapi: Any, _record: Any) -> None:
        _prepare(
            dbapi,
            {
                "busy_timeout": BUSY_TIMEOUT_MS,
                "journal_mode": "wal",
                "synchronous": self._synchronous,
                "foreign_keys": 1,
                "secure_delete": 1,  # what is deleted is gone from the file, too
                "wal_autocheckpoint": 1000 if self._checkpoints else 0,
                "cache_size": -65536,
            },
        )

    def _prepare_reader(self, dbapi: Any, _record: Any) -> None:
        _prepare(
            dbapi,
            {
                "busy_timeout": BUSY_TIMEOUT_MS,
                "foreign_keys": 1,
                "wal_autocheckpoint": 0,
                "query_only": 1,
                # Pages that are not here are in the cache of the operating system: more would hardly be quicker.
                "cache_size": -4096,
            },
        )


def _prepare(dbapi: Any, pragmas: Mapping[str, int | str]) -> None:
    """Set up a new SQLite connection, and read back: `journal_mode=wal` can fail without an error."""
    try:
        dbapi.isolation_level = None  # BEGIN is ours, not pysqlite's
        cursor = dbapi.cursor()
        for pragma, value in pragmas.items():
            cursor.execute(f"PRAGMA {pragma}={value}")
            cursor.execute(f"PRAGMA {pragma}")
            (got,) = cursor.fetchone()
            if got != value:
                raise StoreUnavailable(f"SQLite did not take {pragma}={value}, it has {got}")
        cursor.close()
    except BaseException:
        dbapi.close()
        raise


def _begin(conn: Connection) -> None:
    conn.exec_driver_sql("BEGIN")


def _begin_immediate(conn: Connection) -> None:
    # A deferred transaction that reads before it writes fails at once with SQLITE_BUSY_SNAPSHOT.
    if not conn.info.pop(_AT_ONCE, False):
        on_driver(conn, "BEGIN IMMEDIATE")
        return
    try:
        _driver(conn).execute("BEGIN IMMEDIATE")
    except sqlite3.Error as error:
        raise NotAtOnce from error


def _driver(conn: Connection) -> sqlite3.Connection:
    driver = conn.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver


def on_driver(conn: Connection, sql: str, parameters: Sequence[Any] = (), *, many: bool = False) -> list[Any]:
    """Run a statement on SQLite's driver as it is, and return its rows (booleans as 0 and 1).

    For the path of every message: SQLAlchemy's part costs several times as much as SQLite's there. `many`: once for
    each of the parameters. Raises `sqlite3.Error`; it counts for the transaction as an error of SQLAlchemy's does.
    """
    driver = _driver(conn)
    try:
        return (driver.executemany if many else driver.execute)(sql, parameters).fetchall()
    except sqlite3.Error as error:
        if note(conn, error):
            conn.invalidate(error)
        raise


def _commit(conn: Connection, change: Callable[[Connection], T]) -> T:
    transaction = conn.begin()
    try:
        result = run_whole(conn, change)
        transaction.commit()
        return result
    except BaseException:
        _roll_back(conn, transaction)
        raise


def _roll_back(conn: Connection, transaction: RootTransaction) -> None:
    try:
        transaction.rollback()
        if not conn.invalidated:
            conn.connection.rollback()  # after a COMMIT that failed, the line above sends nothing
    except (DBAPIError, sqlite3.Error):
        conn.invalidate()
