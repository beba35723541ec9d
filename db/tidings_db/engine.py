"""The database: one way to read, one way to write, on SQLite or PostgreSQL.

Query functions are plain synchronous functions of a SQLAlchemy connection. `read` and `write` run each in one
transaction: on SQLite in threads (`db/tidings_db/sqlite.py`), on PostgreSQL over asyncpg.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from sqlalchemy import Connection
from sqlalchemy.engine import URL, make_url

from tidings_db.connections import Locks, Statement, WouldWait, Write
from tidings_db.failures import Locked, StoreUnavailable, Translating
from tidings_db.space import Reserve
from tidings_db.sqlite import Sqlite

if TYPE_CHECKING:
    from asyncpg import Record

    from tidings_db.postgresql import Dedicated, Postgresql

__all__ = ["Database", "Dedicated", "Durability", "Locked", "Locks", "StoreUnavailable", "Write"]

T = TypeVar("T")
Durability = Literal["full", "normal"]

_READING, _WRITING = Translating(reading=True), Translating()


class Database:
    """A database. Call `start` before and `stop` after use; the constructor does no I/O."""

    def __init__(
        self,
        url: str,
        durability: Durability = "full",
        *,
        checkpoints: bool = True,
        clock: Callable[[], float] = time.monotonic,
        node: str = "",
        connections: int | None = None,
    ) -> None:
        """Raises `ValueError` for a URL of neither a SQLite file nor PostgreSQL.

        Args:
            checkpoints: False for a second process on the same SQLite file (the command line).
            clock: returns seconds, to time transactions.
            node: the id of the node, on PostgreSQL; empty for a command.
            connections: how many transactions may run at a time, on PostgreSQL; None: the default.
        """
        self.url: URL = make_url(url)
        self.node = node
        self.durability = durability
        backend = self.url.get_backend_name()
        self.is_sqlite = backend == "sqlite"
        if backend not in ("sqlite", "postgresql"):
            raise ValueError(f"the database must be SQLite or PostgreSQL, not {backend}")
        if self.is_sqlite and self.url.database in (None, "", ":memory:"):
            raise ValueError("a SQLite database must be a file, because several connections share it")
        synced = durability == "full"
        self._store: Sqlite | Postgresql
        if self.is_sqlite:
            self._store = Sqlite(self.url, synced=synced, checkpoints=checkpoints, clock=clock)
        else:
            from tidings_db.postgresql import Postgresql  # a server on SQLite starts without asyncpg

            self._store = Postgresql(self.url, synced=synced, node=node, connections=connections)
        self._writes: set[asyncio.Future[Any]] = set()
        self._clock = clock
        self._wrote_at = -math.inf
        """Time of the last commit that waited for the disk; -inf if a transaction has failed since."""
        self.failures = 0
        """Transactions that the store has failed; none of those that another one has locked out."""

    async def start(self) -> None:
        """Open the database. Raises `StoreUnavailable` if it does not answer or refuses a setting."""
        with _WRITING:
            try:
                await self._store.start()
            except BaseException:
                await self.stop()
                raise

    async def stop(self) -> None:
        """Finish running transactions, then close every connection."""
        while self._writes:
            await asyncio.wait(set(self._writes))
        await self._store.stop()

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run a query function in one read-only transaction (one snapshot)."""
        try:
            with _READING:
                return await self._store.read(query)
        except StoreUnavailable:
            self.failures += 1
            raise

    async def write(
        self, change: Callable[[Connection], T], how: Write = Write.NORMAL, locks: Locks | None = None
    ) -> T:
        """Run a function in one write transaction and commit it, with the configured durability.

        Cancelling the caller does not interrupt the transaction. Raises what the function raises (the transaction is
        rolled back), or `StoreUnavailable`; its subclass `Locked` means that another transaction holds a row. After a
        failure of the store, nothing is written until a probe succeeds.

        A function that continues after an error of the database (a repeated key) must run the statement in a
        savepoint, `conn.begin_nested()`. If it catches an error outside a savepoint, the transaction is rolled back
        and this raises `RuntimeError` (PostgreSQL has rolled back by then, but answers COMMIT as if it had
        committed).
        """
        try:
            with _WRITING:
                result = await self._write(change, how, locks)
        except StoreUnavailable as error:
            self._note(error)
            raise
        if how is not Write.LAZY or self.is_sqlite:  # a lazy commit of PostgreSQL does not show that the disk works
            self._wrote_at = self._clock()
        return result

    async def _write(self, change: Callable[[Connection], T], how: Write, locks: Locks | None) -> T:
        store = self._store
        try:
            if how is Write.BRIEF:
                if isinstance(store, Sqlite) and store.quick and not self._writes:
                    try:
                        return store.transact(change, how)
                    except WouldWait:
                        pass
                how = Write.NORMAL  # the thread waits instead
            running = asyncio.ensure_future(store.write(change, how, locks))
            self._keep_until_done(running)
            return await asyncio.shield(running)
        finally:
            if isinstance(store, Sqlite) and store.checkpoint_due:
                self._keep_until_done(store.checkpoint())  # runs after this write has returned to its caller

    async def dedicated(self) -> Dedicated:
        """Open a connection of its own to PostgreSQL; the caller closes it. Raises `StoreUnavailable`."""
        assert not isinstance(self._store, Sqlite)
        with _WRITING:
            return await self._store.dedicated()

    async def run(self, statement: Statement) -> tuple[Record, bool]:
        """Run a statement that returns one row, on PostgreSQL, as a transaction of its own.

        As with `write`, it is durable afterwards. If the caller is cancelled, it may have taken effect. If the
        connection is lost, it runs again, once. Returns its row, and whether it has run again: the first run may have
        taken effect. Raises `StoreUnavailable`; `Locked` if it has no effect because of another transaction.

        It runs in the caller's task, so that a batch is sent before the previous one is acknowledged.
        """
        store = self._store
        assert not isinstance(store, Sqlite)
        try:
            with _WRITING:
                result = await store.run(statement)
        except StoreUnavailable as error:
            self._note(error)
            raise
        self._wrote_at = self._clock()
        return result

    def _note(self, error: StoreUnavailable) -> None:
        self._wrote_at = -math.inf
        self.failures += not isinstance(error, Locked)

    def wrote_within(self, seconds: float) -> bool:
        """Whether a transaction was committed within the last `seconds`, and none has failed since."""
        if isinstance(self._store, Sqlite) and (self._store.suspect or self._store.full):
            return False
        return self._clock() - self._wrote_at < seconds

    def _keep_until_done(self, write: asyncio.Future[Any]) -> None:
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)

    @property
    def full(self) -> bool:
        """Whether the disk is full, so that only `Write.VITAL` succeeds. Always False on PostgreSQL."""
        return isinstance(self._store, Sqlite) and self._store.full

    def make_room(self) -> None:
        """Delete the reserve if the disk is full. Call it before the database is opened."""
        if self.is_sqlite:
            Reserve(Path(self.url.database or "")).delete_if_full()

    async def keep_reserve(self) -> None:
        """Reserve disk space for vital writes of a SQLite database. A server calls it after `start`."""
        if isinstance(self._store, Sqlite):
            await asyncio.to_thread(self._store.keep_reserve)

    async def probe(self) -> None:
        """Check that the database can be written to. Raises `StoreUnavailable`."""
        await self.write(self._store.probe)
