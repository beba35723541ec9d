"""The database: one way to read, one way to write, on SQLite or PostgreSQL.

Query functions are plain synchronous functions of a SQLAlchemy connection; `read` and `write` run them, whole, in one
transaction: on SQLite in threads (`db/sqlite.py`), on PostgreSQL over asyncpg.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from sqlalchemy import Connection, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from db.failures import (
    BUSY_TIMEOUT_MS,
    COMMAND_TIMEOUT_S,
    CONNECT_TIMEOUT_S,
    StoreUnavailable,
    Translating,
    note_error,
    run_whole,
)
from db.sqlite import NotAtOnce, Sqlite

__all__ = ["Database", "Durability", "StoreUnavailable"]

T = TypeVar("T")
Durability = Literal["full", "normal"]

_READING, _WRITING = Translating(reading=True), Translating()


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
        synced = durability == "full"
        self._store: Sqlite | _Postgresql
        if self.is_sqlite:
            self._store = Sqlite(self.url, synced=synced, checkpoints=checkpoints, clock=clock)
        else:
            self._store = _Postgresql(self.url, synced=synced)
        self._writes: set[asyncio.Future[Any]] = set()

    async def start(self) -> None:
        """Open the database. Raises `StoreUnavailable` if it does not answer or refuses a setting."""
        with _WRITING:
            try:
                await self._store.start()
            except BaseException:
                await self.stop()
                raise

    async def stop(self) -> None:
        """Finish what is being written or read, then close every connection."""
        while self._writes:
            await asyncio.wait(set(self._writes))
        await self._store.stop()

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run a query function in one read-only transaction (one snapshot)."""
        with _READING:
            return await self._store.read(query)

    async def write(self, change: Callable[[Connection], T], *, brief: bool = False, lazy: bool = False) -> T:
        """Run a function in one write transaction and commit it, durably as configured.

        Cancelling the caller does not interrupt the transaction. Raises what the function raises (the
        transaction is rolled back), or `StoreUnavailable`. After the store failed, nothing is written until a
        probe succeeds.

        A function that means to go on after an error of the database (a repeated key) runs the statement in
        a savepoint, `conn.begin_nested()`. If it catches one outside a savepoint, all is rolled back and this
        raises `RuntimeError` (PostgreSQL has rolled back by then, yet answers COMMIT as if it had committed).

        `brief`: the function takes well under a millisecond, and nothing else is about to be written. On SQLite it
        may run, and commit, in the event loop's thread, while the disk is quick and no other write is under way.

        `lazy`: do not wait for the disk, for what can be made again. A crash of the machine may lose it, but not
        without all that was written after it.
        """
        store = self._store
        if brief and isinstance(store, Sqlite) and store.quick and not self._writes:
            with _WRITING:
                try:
                    return store.transact(change, at_once=True)
                except NotAtOnce:
                    pass  # so it waits in the thread
        running = asyncio.ensure_future(store.write(change, lazy))
        self._writes.add(running)
        running.add_done_callback(self._writes.discard)
        with _WRITING:
            return await asyncio.shield(running)

    async def probe(self) -> None:
        """Show that the database can be written to. Raises `StoreUnavailable`."""
        await self.write(self._store.probe)


class _Postgresql:
    """A PostgreSQL database. All of it raises the errors of SQLAlchemy and of the driver as they are."""

    def __init__(self, url: URL, *, synced: bool) -> None:
        self._url = url.set(drivername="postgresql+asyncpg")
        self._commit = "on" if synced else "off"
        self._async: AsyncEngine | None = None

    async def start(self) -> None:
        # Compiling a statement takes PostgreSQL hundreds of times as long as running one of ours.
        settings = {"synchronous_commit": self._commit, "lock_timeout": str(BUSY_TIMEOUT_MS), "jit": "off"}
        self._async = create_async_engine(
            self._url,
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
        event.listen(self._async.sync_engine, "handle_error", note_error)
        got = await self.read(lambda conn: conn.execute(text("SHOW synchronous_commit")).scalar_one())
        if got != self._commit:  # a pooler between us and the server may drop settings
            raise StoreUnavailable(f"PostgreSQL did not take synchronous_commit={self._commit}, it has {got}")

    async def stop(self) -> None:
        pool, self._async = self._async, None
        if pool is not None:
            await pool.dispose()

    async def read(self, query: Callable[[Connection], T]) -> T:
        """In one snapshot."""
        assert self._async is not None, "not started"
        async with self._async.connect() as conn:
            await conn.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            return await conn.run_sync(query)

    async def write(self, change: Callable[[Connection], T], lazy: bool) -> T:
        assert self._async is not None, "not started"
        async with self._async.begin() as conn:
            if lazy:
                await conn.exec_driver_sql("SET LOCAL synchronous_commit TO off")
            return await conn.run_sync(run_whole, change)

    @staticmethod
    def probe(conn: Connection) -> None:
        # The first fails where nothing may be written (a standby), the second is written to the log.
        conn.execute(text("SELECT FROM room LIMIT 0 FOR UPDATE"))
        conn.execute(text("SELECT pg_logical_emit_message(true, 'tidings', 'probe')"))


def _refuse_closed(_dbapi: Any, record: Any, _proxy: Any) -> None:
    # Costs nothing, where SQLAlchemy's pre-ping costs three round trips in front of every transaction.
    if record.driver_connection.is_closed():
        raise DisconnectionError
