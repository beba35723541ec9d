"""The database: one way to read, one way to write, on SQLite or PostgreSQL.

Query functions are plain synchronous functions of a SQLAlchemy connection; `read` and `write` run them, whole, in
one transaction:

* PostgreSQL: over asyncpg. Reads see one snapshot (REPEATABLE READ, READ ONLY).
* SQLite, reads: over aiosqlite, on connections that cannot write or checkpoint.
* SQLite, writes: one connection in one thread, the only one that writes and checkpoints (which is what keeps clear
  of the WAL-reset bug of SQLite 3.7.0–3.51.2). A transaction costs one hop to that thread, not one a statement.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import StaticPool

T = TypeVar("T")
Durability = Literal["full", "normal"]

BUSY_TIMEOUT_MS = 10_000
READERS = 4


class StoreUnavailable(Exception):
    """The database cannot be reached, or cannot write, now. Nothing of the transaction is known to have happened."""


class Database:
    """Call `start` before and `stop` after use; the constructor does no I/O."""

    def __init__(self, url: str, durability: Durability = "full", *, checkpoints: bool = True) -> None:
        """`checkpoints=False` for a second process on the same SQLite file (the command line's)."""
        self.url: URL = make_url(url)
        self.durability = durability
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._checkpoints = checkpoints
        self._suspect = False
        self._async: AsyncEngine | None = None
        self._writer: Engine | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._writes: set[asyncio.Future[Any]] = set()

    async def start(self) -> None:
        """Open the database. Raises `StoreUnavailable` if it does not answer or refuses a setting."""
        if self.is_sqlite:
            path = self.url.set(drivername="sqlite+pysqlite")
            self._thread = ThreadPoolExecutor(1, "tidings-db-writer")
            self._writer = create_engine(
                path, poolclass=StaticPool, connect_args={"check_same_thread": False}, pool_reset_on_return=None
            )
            event.listen(self._writer, "connect", self._prepare_writer)
            event.listen(self._writer, "begin", _begin_immediate)
            self._async = create_async_engine(
                self.url.set(drivername="sqlite+aiosqlite"), pool_size=READERS, max_overflow=0, pool_timeout=30
            )
            event.listen(self._async.sync_engine, "connect", self._prepare_reader)
            event.listen(self._async.sync_engine, "begin", _begin)
            await self._in_writer_thread(self._check_sqlite)
        else:
            commit = "on" if self.durability == "full" else "off"
            self._async = create_async_engine(
                self.url.set(drivername="postgresql+asyncpg"),
                pool_size=10,
                max_overflow=10,
                pool_timeout=30,
                pool_pre_ping=True,
                connect_args={"server_settings": {"synchronous_commit": commit}, "timeout": 10},
            )
        await self.read(lambda conn: conn.execute(text("SELECT 1")).scalar_one())

    async def stop(self) -> None:
        """Finish what is being written, then close every connection."""
        while self._writes:
            await asyncio.wait(set(self._writes))
        if self._async is not None:
            await self._async.dispose()
        if self._writer is not None and self._thread is not None:
            await self._in_writer_thread(self._writer.dispose)
            self._thread.shutdown()

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run a query function in one read-only transaction (one snapshot)."""
        assert self._async is not None, "not started"
        try:
            async with self._async.connect() as conn:
                if not self.is_sqlite:
                    await conn.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
                return await conn.run_sync(query)
        except Exception as error:
            raise _translate(error) from error

    async def write(self, change: Callable[[Connection], T]) -> T:
        """Run a function in one write transaction and commit it, durably as configured.

        Cancelling the caller does not interrupt the transaction. Raises what the function raises (the transaction
        is rolled back), or `StoreUnavailable`. After a failed commit nothing is written until a probe succeeds.
        """
        running = asyncio.ensure_future(self._write(change))
        self._writes.add(running)
        running.add_done_callback(self._writes.discard)
        return await asyncio.shield(running)

    async def probe(self) -> None:
        """Show that the database can be written to. Raises `StoreUnavailable`."""
        await self.write(_probe)

    async def _write(self, change: Callable[[Connection], T]) -> T:
        try:
            if self.is_sqlite:
                return await self._in_writer_thread(self._transact, change)
            assert self._async is not None, "not started"
            async with self._async.begin() as conn:
                return await conn.run_sync(change)
        except Exception as error:
            raise _translate(error) from error

    def _transact(self, change: Callable[[Connection], T]) -> T:
        assert self._writer is not None
        if self._suspect:
            with self._writer.begin() as conn:
                _probe(conn)
            self._suspect = False
        try:
            with self._writer.connect() as conn:
                transaction = conn.begin()
                try:
                    result = change(conn)
                    transaction.commit()
                    return result
                except BaseException:
                    _rollback(conn)
                    raise
        except OperationalError:
            # Disk full, I/O error, or a lock that was not to be had: begin again on a new connection, with a probe.
            self._suspect = True
            self._writer.dispose()
            raise

    async def _in_writer_thread(self, function: Callable[..., T], *args: Any) -> T:
        assert self._thread is not None, "not started"
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    def _prepare_writer(self, dbapi: Any, _record: Any) -> None:
        dbapi.isolation_level = None  # BEGIN is ours, not pysqlite's
        for pragma in (
            f"busy_timeout={BUSY_TIMEOUT_MS}",
            "journal_mode=wal",
            f"synchronous={self.durability}",
            "foreign_keys=on",
            f"wal_autocheckpoint={1000 if self._checkpoints else 0}",
            "cache_size=-65536",
        ):
            dbapi.execute(f"PRAGMA {pragma}")

    def _prepare_reader(self, dbapi: Any, _record: Any) -> None:
        dbapi.isolation_level = None
        cursor = dbapi.cursor()
        for pragma in (
            f"busy_timeout={BUSY_TIMEOUT_MS}",
            "foreign_keys=on",
            "wal_autocheckpoint=0",
            "query_only=on",
            "cache_size=-16384",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    def _check_sqlite(self) -> None:
        """Read the pragmas back: `journal_mode=wal` can fail without an error."""
        assert self._writer is not None
        wanted = {
            "journal_mode": "wal",
            "synchronous": {"full": 2, "normal": 1}[self.durability],
            "foreign_keys": 1,
            "busy_timeout": BUSY_TIMEOUT_MS,
        }
        with self._writer.connect() as conn:
            dbapi = conn.connection.dbapi_connection
            assert dbapi is not None
            for pragma, value in wanted.items():
                (got,) = dbapi.execute(f"PRAGMA {pragma}").fetchone()  # type: ignore[attr-defined]
                if got != value:
                    raise StoreUnavailable(f"SQLite did not take {pragma}={value}, it has {got}")


def _begin(conn: Connection) -> None:
    conn.exec_driver_sql("BEGIN")


def _begin_immediate(conn: Connection) -> None:
    # A deferred transaction that reads before it writes fails at once with SQLITE_BUSY_SNAPSHOT.
    conn.exec_driver_sql("BEGIN IMMEDIATE")


def _rollback(conn: Connection) -> None:
    try:
        conn.rollback()
    except DBAPIError:
        pass  # a full disk has rolled back already


def _probe(conn: Connection) -> None:
    if conn.dialect.name == "sqlite":
        (version,) = conn.exec_driver_sql("PRAGMA user_version").one()
        conn.exec_driver_sql(f"PRAGMA user_version={int(version) ^ 1}")
    else:
        conn.execute(text("SELECT 1 FROM room LIMIT 1 FOR UPDATE"))


def _translate(error: Exception) -> Exception:
    """What the rest of the program has to know about: the store is away, or the error as it is."""
    if isinstance(error, IntegrityError):
        return error
    away = isinstance(error, OperationalError | InterfaceError | PoolTimeout | OSError) or (
        isinstance(error, DBAPIError) and error.connection_invalidated
    )
    return StoreUnavailable(str(error).partition("\n")[0]) if away else error
