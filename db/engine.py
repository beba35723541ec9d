"""The database: one way to read, one way to write, on SQLite or PostgreSQL.

Query functions are plain synchronous functions of a SQLAlchemy connection; `read` and `write` run them,
whole, in one transaction:

* PostgreSQL: over asyncpg. Reads see one snapshot (REPEATABLE READ, READ ONLY).
* SQLite, writes: one connection, the only one that writes and checkpoints (which is what keeps clear of the WAL-reset
  bug of SQLite 3.7.0–3.51.2), in a thread of its own. A brief transaction that would have the thread for itself runs
  in the event loop's instead, while the disk is quick.
* SQLite, reads: in a few threads, on connections that cannot write or checkpoint. They see one snapshot, too.

A transaction on SQLite costs one hop to a thread; a driver that hops for each call (aiosqlite) costs four for each
statement, and more processor time for the hops than for the query.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar

from sqlalchemy import Connection, Engine, RootTransaction, create_engine, event, text
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import DBAPIError, DisconnectionError, InternalError, PendingRollbackError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import QueuePool, StaticPool

T = TypeVar("T")
Durability = Literal["full", "normal"]

BUSY_TIMEOUT_MS = 10_000  # for a lock of another process (SQLite) or transaction (PostgreSQL)
CONNECT_TIMEOUT_S = 10
COMMAND_TIMEOUT_S = 30  # for an answer of PostgreSQL: a host that went silent does not hold its callers
READERS = 4
QUICK_S = 0.002
"""While transactions take longer than this on average, none runs in the event loop's thread."""
RECENT = 16
"""How many transactions the average looks back, about: one of 50 ms keeps the loop free of the next dozen or two."""

# What says that the store is in no state to serve, as opposed to a statement being wrong: primary result
# codes of SQLite (sqlite.org/rescode.html), SQLSTATEs and classes of them (PostgreSQL's manual, appendix A).
_SQLITE_AWAY = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOTADB,
    }
)
_POSTGRESQL_AWAY = (
    "08",  # connection
    "25006",  # read-only: a standby
    "28",  # not let in
    "3D",  # no such database
    "40",  # rolled back: deadlock, serialization
    "53",  # out of disk, memory or connections
    "55P03",  # lock not to be had
    "57",  # shutting down, starting up, cancelled
    "58",  # I/O error
    "XX001",  # corrupted
    "XX002",
)
# In a read, these say that the query function tries to write.
_WROTE = (sqlite3.SQLITE_READONLY, "25006")

_SYNCHRONOUS: Mapping[Durability, int] = {"full": 2, "normal": 1}

# In a connection's `info`.
_FAILED = "tidings.failed"
_AT_ONCE = "tidings.at_once"


class StoreUnavailable(Exception):
    """The database cannot be reached, or cannot write, now.

    Nothing of the transaction is known to have happened; if the connection was lost at COMMIT, it may have.
    """


class _NotAtOnce(Exception):
    """The transaction cannot begin now: another process is writing, or something is wrong."""


class Database:
    """Call `start` before and `stop` after use; the constructor does no I/O."""

    def __init__(
        self,
        url: str,
        durability: Durability = "full",
        *,
        checkpoints: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`checkpoints=False` for a second process on the same SQLite file (the command line's).

        `clock`: seconds, by which transactions are timed.

        Raises `ValueError` for a URL of neither a SQLite file nor PostgreSQL.
        """
        self.url: URL = make_url(url)
        self.durability = durability
        backend = self.url.get_backend_name()
        self.is_sqlite = backend == "sqlite"
        if backend not in ("sqlite", "postgresql"):
            raise ValueError(f"the database is SQLite or PostgreSQL, not {backend}")
        if self.is_sqlite and self.url.database in (None, "", ":memory:"):
            raise ValueError("a SQLite database is a file here: several connections share it")
        self._checkpoints = checkpoints
        self._suspect = False
        self._clock = clock
        self._recently = 2 * QUICK_S  # so the first ones run in the thread
        self._async: AsyncEngine | None = None
        self._writer: Engine | None = None
        self._writing: Connection | None = None
        self._settings: dict[str, int] = {}
        """What `_writing` was set to by `_set`."""
        self._thread: ThreadPoolExecutor | None = None
        self._readers: Engine | None = None
        self._reader_threads: ThreadPoolExecutor | None = None
        self._writes: set[asyncio.Future[Any]] = set()

    async def start(self) -> None:
        """Open the database. Raises `StoreUnavailable` if it does not answer or refuses a setting."""
        try:
            if self.is_sqlite:
                await self._start_sqlite()
            else:
                await self._start_postgresql()
        except BaseException as error:
            await self.stop()
            if away := unavailable(error):
                raise away from error
            raise

    async def _start_sqlite(self) -> None:
        self._thread = ThreadPoolExecutor(1, "tidings-db-writer")
        self._writer = create_engine(
            self.url.set(drivername="sqlite+pysqlite"),
            hide_parameters=True,
            poolclass=StaticPool,
            connect_args={"check_same_thread": False},
            pool_reset_on_return=None,
        )
        event.listen(self._writer, "connect", self._prepare_writer)
        event.listen(self._writer, "begin", _begin_immediate)
        event.listen(self._writer, "handle_error", _note_error)
        self._reader_threads = ThreadPoolExecutor(READERS, "tidings-db-reader")
        self._readers = create_engine(
            self.url.set(drivername="sqlite+pysqlite"),
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

    async def _start_postgresql(self) -> None:
        commit = "on" if self.durability == "full" else "off"
        # Compiling a statement takes PostgreSQL hundreds of times as long as running one of ours.
        settings = {"synchronous_commit": commit, "lock_timeout": str(BUSY_TIMEOUT_MS), "jit": "off"}
        self._async = create_async_engine(
            self.url.set(drivername="postgresql+asyncpg"),
            hide_parameters=True,
            pool_size=10,
            max_overflow=10,
            pool_timeout=30,
            connect_args={
                "server_settings": settings,
                "timeout": CONNECT_TIMEOUT_S,
                "command_timeout": COMMAND_TIMEOUT_S,
            },
        )
        event.listen(self._async.sync_engine, "checkout", _refuse_closed)
        event.listen(self._async.sync_engine, "handle_error", _note_error)
        got = await self.read(lambda conn: conn.execute(text("SHOW synchronous_commit")).scalar_one())
        if got != commit:  # a pooler between us and the server may drop settings
            raise StoreUnavailable(f"PostgreSQL did not take synchronous_commit={commit}, it has {got}")

    async def stop(self) -> None:
        """Finish what is being written or read, then close every connection."""
        while self._writes:
            await asyncio.wait(set(self._writes))
        pool, self._async = self._async, None
        readers, self._readers = self._readers, None
        writer, self._writer = self._writer, None
        try:
            if pool is not None:
                await pool.dispose()
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

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run a query function in one read-only transaction (one snapshot)."""
        try:
            if self.is_sqlite:
                assert self._reader_threads is not None, "not started"
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._reader_threads, self._read_sqlite, query)
            assert self._async is not None, "not started"
            async with self._async.connect() as conn:
                await conn.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
                return await conn.run_sync(query)
        except Exception as error:
            if away := unavailable(error, reading=True):
                raise away from error
            raise

    def _read_sqlite(self, query: Callable[[Connection], T]) -> T:
        assert self._readers is not None, "not started"
        with self._readers.connect() as conn:
            return query(conn)

    async def write(self, change: Callable[[Connection], T], *, brief: bool = False, lazy: bool = False) -> T:
        """Run a function in one write transaction and commit it, durably as configured.

        Cancelling the caller does not interrupt the transaction. Raises what the function raises (the
        transaction is rolled back), or `StoreUnavailable`. After the store failed, nothing is written until a
        probe succeeds.

        A function that means to go on after an error of the database (a repeated key) runs the statement in
        a savepoint, `conn.begin_nested()`. If it catches one outside a savepoint, all is rolled back and this
        raises `RuntimeError` (PostgreSQL has rolled back by then, yet answers COMMIT as if it had committed).

        `brief`: the function takes well under a millisecond, and nothing else is about to be written. On SQLite it
        may run, and commit, in the event loop's thread while the disk is quick (see `_may_commit_here`).

        `lazy`: do not wait for the disk, for what can be made again. A crash of the machine may lose it, but not
        without all that was written after it.
        """
        if brief and self._may_commit_here():
            try:
                return self._transact(change, at_once=True)
            except _NotAtOnce:
                pass  # so it waits in the thread
            except Exception as error:
                if away := unavailable(error):
                    raise away from error
                raise
        running: asyncio.Future[T]
        if self.is_sqlite:
            assert self._thread is not None, "not started"
            running = asyncio.get_running_loop().run_in_executor(self._thread, self._transact, change, False, lazy)
        else:
            running = asyncio.ensure_future(self._write_postgresql(change, lazy))
        self._writes.add(running)
        running.add_done_callback(self._writes.discard)
        try:
            return await asyncio.shield(running)
        except Exception as error:
            if away := unavailable(error):
                raise away from error
            raise

    async def probe(self) -> None:
        """Show that the database can be written to. Raises `StoreUnavailable`."""
        await self.write(_probe)

    async def _write_postgresql(self, change: Callable[[Connection], T], lazy: bool) -> T:
        assert self._async is not None, "not started"
        async with self._async.begin() as conn:
            if lazy:
                await conn.exec_driver_sql("SET LOCAL synchronous_commit TO off")
            return await conn.run_sync(_run, change)

    def _may_commit_here(self) -> bool:
        """Whether the next transaction may run in the event loop's thread, and save two switches between threads.

        Only if no other is under way, and the recent ones took no more than `QUICK_S` on average. So one slow commit
        may hold the loop up, but not the next: they are in the thread until it is made up for by quick ones.
        """
        return self.is_sqlite and not self._writes and not self._suspect and self._recently <= QUICK_S

    def _transact(self, change: Callable[[Connection], T], at_once: bool = False, lazy: bool = False) -> T:
        """One transaction, timed. `at_once`: it raises `_NotAtOnce` instead of waiting for another process's lock."""
        if lazy:  # it says nothing of the disk
            return self._transact_now(change, at_once, _SYNCHRONOUS["normal"])
        began = self._clock()
        try:
            return self._transact_now(change, at_once, _SYNCHRONOUS[self.durability])
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
                _commit(conn, _probe)
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
                "synchronous": _SYNCHRONOUS[self.durability],
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
        raise _NotAtOnce from error


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
        if _note(conn, error):
            conn.invalidate(error)
        raise


def _refuse_closed(_dbapi: Any, record: Any, _proxy: Any) -> None:
    # Costs nothing, where SQLAlchemy's pre-ping costs three round trips in front of every transaction.
    if record.driver_connection.is_closed():
        raise DisconnectionError


def _note_error(context: ExceptionContext) -> None:
    conn = context.connection
    if conn is not None and _note(conn, context.original_exception):
        context.is_disconnect = True


def _note(conn: Connection, error: BaseException) -> bool:
    """A transaction that the database has given up must not go on, even if the function catches the error.

    Returns whether the connection must not be used any more: SQLite may have rolled back by itself (a full disk), and
    each later statement would commit on its own.
    """
    if conn.invalidated:
        return False
    if not conn.in_nested_transaction():
        conn.info[_FAILED] = True
    return conn.dialect.name == "sqlite" and _is_away(error)


def _commit(conn: Connection, change: Callable[[Connection], T]) -> T:
    transaction = conn.begin()
    try:
        result = _run(conn, change)
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


def _run(conn: Connection, change: Callable[[Connection], T]) -> T:
    conn.info.pop(_FAILED, None)
    result = change(conn)
    if conn.info.pop(_FAILED, False):
        raise RuntimeError("an error of the database was caught outside a savepoint; all is rolled back")
    return result


def _probe(conn: Connection) -> None:
    if conn.dialect.name == "sqlite":
        (version,) = conn.exec_driver_sql("PRAGMA user_version").one()
        conn.exec_driver_sql(f"PRAGMA user_version={int(version) ^ 1}")
    else:
        # The first fails where nothing may be written (a standby), the second is written to the log.
        conn.execute(text("SELECT FROM room LIMIT 0 FOR UPDATE"))
        conn.execute(text("SELECT pg_logical_emit_message(true, 'tidings', 'probe')"))


def unavailable(error: BaseException, *, reading: bool = False) -> StoreUnavailable | None:
    """What to raise instead of an error that says that the store is away; None for every other error."""
    if not _is_away(error) or (reading and _code(error) in _WROTE):
        return None
    return StoreUnavailable(str(error).partition("\n")[0] or type(error).__name__)


def _is_away(error: BaseException | None) -> bool:
    if isinstance(error, OSError | PoolTimeout | PendingRollbackError):
        return True  # PendingRollbackError: the function caught the store's error and went on
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    code = _code(error)
    if isinstance(code, int):
        return code & 0xFF in _SQLITE_AWAY
    if isinstance(code, str):
        return code.startswith(_POSTGRESQL_AWAY)
    return isinstance(error, InternalError)  # asyncpg has read the server's good-bye, but not yet the end


def _code(error: BaseException | None) -> int | str | None:
    """SQLite's extended result code, PostgreSQL's SQLSTATE, or None."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    code: int | str | None = getattr(cause, "sqlite_errorcode", None) or getattr(cause, "sqlstate", None)
    return code
