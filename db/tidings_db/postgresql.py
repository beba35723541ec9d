"""PostgreSQL over asyncpg: connections that are kept open, and transactions on them.

SQLAlchemy opens the connections and runs most statements. It does not begin or end transactions, and does not run
the statements on the hot path of messages (`connections.py`): there it would cost several times as much as asyncpg.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncpg
from asyncpg.transaction import Transaction as AsyncpgTransaction
from sqlalchemy import Connection, event, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from tidings_db.connections import HAS_CURSORS, Locks, Statement, Write
from tidings_db.failures import (
    BUSY_TIMEOUT_MS,
    COMMAND_TIMEOUT_S,
    CONNECT_TIMEOUT_S,
    Locked,
    StoreUnavailable,
    Translating,
    is_rolled_back,
    is_setting_refused,
    note_error,
    run_whole,
)
from tidings_db.queries.feed import NODE

T = TypeVar("T")
logger = logging.getLogger("tidings.db")

MAX_CONNECTIONS = 20
MAX_IDLE = 10
"""Idle connections that are kept open."""
ROOM_LOCK_MS = 200
"""The longest wait for a locked row in a transaction that locks rooms: changes to other rooms wait, too."""
ROOMS_LOCKED_MS = 10_000
"""The longest statement in a transaction that locks rooms; from PostgreSQL 17 on also the longest transaction."""
WAIT_S = 30.0
"""The longest wait for a connection when all are in use."""
RERUN_PAUSES_S: tuple[float | None, ...] = (0.01, 0.05, 0.2, None)
"""The longest pause before a transaction runs again; None: the error of the last run is raised."""

HOLDING = {"idle_in_transaction_session_timeout": "3s", "statement_timeout": f"{COMMAND_TIMEOUT_S}s"}
"""Settings that end the locks of a node that was stopped or cut off in a transaction."""
_VANISHED = {
    "tcp_keepalives_idle": "3",  # s
    "tcp_keepalives_interval": "1",  # s
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "5000",  # ms
    "client_connection_check_interval": "1000",  # ms
}
"""Settings by which PostgreSQL notices a host that no longer answers. Nothing depends on them where PostgreSQL, its
platform or a Unix socket does not support them."""


@dataclass(eq=False, slots=True)
class _Session:
    """An open connection: SQLAlchemy's object, and asyncpg's."""

    conn: AsyncConnection
    driver: asyncpg.Connection[Any]
    lost: bool = False
    """The connection was lost before COMMIT was sent, so the transaction had no effect."""


class Dedicated:
    """A connection outside the pool, for statements that must not wait for others; each is its own transaction.

    Calls must not overlap. After an error, close it and open another one.
    """

    def __init__(self, session: _Session) -> None:
        self._session = session

    async def fetch(self, sql: str, *values: Any) -> Sequence[Any]:
        """Run one statement (parameters are $1, $2, ...); returns its rows. Raises `StoreUnavailable`."""
        with _TRANSLATING:
            rows: Sequence[Any] = await self._session.driver.fetch(sql, *values)
            return rows

    async def listen(self, channel: str, received: Callable[[str], None]) -> None:
        """Call `received` with the payload of each NOTIFY on a channel."""
        with _TRANSLATING:
            await self._session.driver.add_listener(channel, lambda *event: received(str(event[3])))

    @property
    def closed(self) -> bool:
        return bool(self._session.driver.is_closed())

    async def close(self) -> None:
        await Postgresql._close(self._session)


_TRANSLATING = Translating()
_PLANNED_ONCE = "SET plan_cache_mode TO force_generic_plan; SET enable_seqscan TO off"
"""For statements that are planned once and look rows up by their keys. A plan made while a table is small would
otherwise scan it, also when it has grown, until PostgreSQL analyses the table."""


class _Transaction:
    """A transaction with the interface of asyncpg's, whose first statements are sent in one round trip."""

    __slots__ = ("_begin", "_driver")

    def __init__(self, driver: asyncpg.Connection[Any], begin: str) -> None:
        self._driver = driver
        self._begin = begin

    async def start(self) -> None:
        await self._driver.execute(self._begin)

    async def commit(self) -> None:
        await self._driver.execute("COMMIT")

    async def rollback(self) -> None:
        await self._driver.execute("ROLLBACK")


class Postgresql:
    """A PostgreSQL database. Errors of SQLAlchemy and of asyncpg are not translated here."""

    def __init__(self, url: URL, *, synced: bool, node: str = "", connections: int | None = None) -> None:
        """
        Args:
            node: the id of the node, which the feed names with its changes; empty for a command.
            connections: how many transactions may run at a time; None: `MAX_CONNECTIONS`.
        """
        self._url = url.set(drivername="postgresql+asyncpg")
        self._commit = "on" if synced else "off"
        self._node = node
        self._engine: AsyncEngine | None = None
        self._idle: list[_Session] = []
        self._slots = asyncio.Semaphore(connections or MAX_CONNECTIONS)
        self._lock_limits = ""
        """The statements that limit a transaction that locks rooms."""
        self._single: _Session | None = None
        """The connection of `run`."""
        self._running = asyncio.Lock()

    async def start(self) -> None:
        # JIT compilation would take hundreds of times as long as running one of these statements.
        settings = {"synchronous_commit": self._commit, "lock_timeout": str(BUSY_TIMEOUT_MS), "jit": "off"}
        self._engine = self._create_engine(settings | HOLDING | _VANISHED)
        try:
            await self._check_settings()
        except Exception as error:
            if not is_setting_refused(error):
                raise
            await self._engine.dispose()
            self._engine = self._create_engine(settings)
            await self._check_settings()

    def _create_engine(self, settings: dict[str, str]) -> AsyncEngine:
        engine = create_async_engine(
            self._url,
            hide_parameters=True,
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",  # BEGIN and COMMIT are sent here
            connect_args={
                "server_settings": settings,
                "timeout": CONNECT_TIMEOUT_S,
                "command_timeout": COMMAND_TIMEOUT_S,
            },
        )
        event.listen(engine.sync_engine, "handle_error", note_error)
        return engine

    async def _check_settings(self) -> None:
        """Read the settings back: a connection pooler may drop them.

        Raises `StoreUnavailable` without the durability. The limits only matter when a node freezes, and an operator
        can set them for the role: without them there is a warning.
        """
        names = ("server_version_num", "synchronous_commit", *HOLDING)
        shown = text("SELECT " + ", ".join(f"current_setting('{name}')" for name in names))
        version, commit, *limits = await self.read(lambda conn: tuple(conn.execute(shown).one()))
        if commit != self._commit:
            raise StoreUnavailable(f"PostgreSQL did not accept synchronous_commit={self._commit}, it has {commit}")
        for (name, wanted), actual in zip(HOLDING.items(), limits, strict=True):
            if actual != wanted:
                logger.warning(
                    "PostgreSQL did not accept %s=%s, it has %s: a server that freezes may keep its locks",
                    *(name, wanted, actual),
                )
        self._lock_limits = f"SET LOCAL lock_timeout TO {ROOM_LOCK_MS}"
        for name in ("statement_timeout", "transaction_timeout")[: 2 if int(version) >= 170_000 else 1]:
            self._lock_limits += f"; SET LOCAL {name} TO {ROOMS_LOCKED_MS}"

    async def stop(self) -> None:
        engine, self._engine = self._engine, None
        if self._single is not None:
            await self._single.conn.close()
            self._single = None
        while self._idle:
            await self._idle.pop().conn.close()
        if engine is not None:
            await engine.dispose()

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run a query in one snapshot. It runs again if the connection is lost, once."""
        for again in (False, True):
            session = await self._acquire()
            # asyncpg's own transaction: cursors need it.
            transaction = session.driver.transaction(isolation="repeatable_read", readonly=True)
            try:
                return await self._run(session, transaction, query, reading=True)
            except Exception:
                if again or not session.lost:
                    raise
        raise AssertionError("the last run returns or raises")

    async def write(self, change: Callable[[Connection], T], how: Write, locks: Locks | None) -> T:
        """Run a change in one transaction, which begins by locking the rooms of `locks` in the order of their keys.

        With `locks`, a wait for any lock takes `ROOM_LOCK_MS` at most. Raises `Locked` with the rooms that are
        locked. A transaction that PostgreSQL rolls back for others, because of a deadlock or a conflict, runs again,
        and once if the connection is lost before COMMIT was sent: `change` must bear that.
        """
        begin = "BEGIN"
        if how is Write.LAZY:
            begin += "; SET LOCAL synchronous_commit TO off"
        if locks is not None:
            begin += f"; {self._lock_limits}"
            if locks.rooms:
                begin += f"; {_lock_rooms(locks.rooms, '' if locks.wait else ' NOWAIT')}"
        was_lost = False
        for pause_s in RERUN_PAUSES_S:
            session = await self._acquire()
            try:
                return await self._run(session, _Transaction(session.driver, begin), change, reading=False)
            except asyncpg.LockNotAvailableError as error:
                raise Locked(str(error), await self._locked_rooms(locks.rooms) if locks else ()) from error
            except Exception as error:
                if pause_s is None or not (is_rolled_back(error) or (session.lost and not was_lost)):
                    raise
                was_lost = was_lost or session.lost
                await asyncio.sleep(pause_s * random.random())
        raise AssertionError("the last run returns or raises")

    async def run(self, statement: Statement) -> tuple[asyncpg.Record, bool]:
        """Run a statement that returns one row, as a transaction of its own.

        It runs again if the connection is lost, once. Returns its row, and whether it has run again: the first run
        may have taken effect. Raises `Locked` if it has no effect because of another transaction: a lock, a deadlock,
        a conflict.

        All statements use one connection, one after the other. Each is prepared and planned once there.
        """
        async with self._running:
            for again in (False, True):
                session = await self._open_single()
                try:
                    (row,) = await session.driver.fetch(statement.sql, *statement.values)
                    return row, again
                except BaseException as error:
                    if isinstance(error, asyncpg.LockNotAvailableError) or is_rolled_back(error):
                        raise (StoreUnavailable if again else Locked)(str(error)) from error
                    lost = isinstance(error, Exception) and session.driver.is_closed()
                    self._single = None
                    await asyncio.shield(asyncio.ensure_future(self._close(session)))
                    if again or not lost:
                        raise
        raise AssertionError("the last run returns or raises")

    async def _open_single(self) -> _Session:
        session = self._single
        if session is not None and not session.driver.is_closed():
            return session
        self._single = None
        if session is not None:
            await self._close(session)
        session = await self._open()
        try:
            limits = self._lock_limits.replace("SET LOCAL", "SET")
            await session.driver.execute(f"{limits}; {_PLANNED_ONCE}")
        except BaseException:
            await self._close(session)
            raise
        self._single = session
        return session

    async def _locked_rooms(self, keys: Sequence[int]) -> set[int]:
        """The subset of the rooms that another transaction has locked."""
        if not keys:
            return set()
        session = await self._acquire()
        transaction = _Transaction(session.driver, f"BEGIN; SET LOCAL lock_timeout TO {ROOM_LOCK_MS}")
        try:
            await transaction.start()
            free = await session.driver.fetch(_lock_rooms(keys, " SKIP LOCKED"))
        except asyncpg.LockNotAvailableError:  # the whole table is locked
            return set(keys)
        finally:
            await self._roll_back(session, transaction)
        return set(keys) - {key for (key,) in free}

    @staticmethod
    def probe(conn: Connection) -> None:
        # The first statement fails on a read-only server (a standby), the second writes to the log.
        conn.execute(text("SELECT FROM room LIMIT 0 FOR UPDATE"))
        conn.execute(text("SELECT pg_logical_emit_message(true, 'tidings', 'probe')"))

    async def _run(
        self,
        session: _Session,
        transaction: _Transaction | AsyncpgTransaction,
        function: Callable[[Connection], T],
        *,
        reading: bool,
    ) -> T:
        committing = False
        try:
            await transaction.start()
            result = await session.conn.run_sync(_run_sync, function, reading)
            committing = not reading
            await (transaction.rollback() if reading else transaction.commit())
        except BaseException:
            session.lost = not committing and session.driver.is_closed()
            # Also if the caller is cancelled: a connection is released without a transaction, or closed.
            await asyncio.shield(asyncio.ensure_future(self._roll_back(session, transaction)))
            raise
        await self._release(session)
        return result

    async def _acquire(self) -> _Session:
        if self._slots.locked():
            async with asyncio.timeout(WAIT_S):
                await self._slots.acquire()
        else:
            await self._slots.acquire()
        try:
            while self._idle:
                session = self._idle.pop()
                if not session.driver.is_closed():
                    return session
                await self._close(session)
            return await self._open()
        except BaseException:
            self._slots.release()
            raise

    async def _open(self) -> _Session:
        assert self._engine is not None, "not started"
        conn = await self._engine.connect()
        try:
            driver = (await conn.get_raw_connection()).driver_connection
            assert isinstance(driver, asyncpg.Connection)
        except BaseException:
            await conn.close()
            raise
        conn.sync_connection.info[NODE] = self._node  # type: ignore[union-attr]
        return _Session(conn, driver)

    async def dedicated(self) -> Dedicated:
        """Open a connection outside the pool. The caller closes it."""
        return Dedicated(await self._open())

    async def _release(self, session: _Session) -> None:
        self._slots.release()
        if self._engine is None or len(self._idle) >= MAX_IDLE:
            await self._close(session)
        else:
            self._idle.append(session)

    async def _roll_back(self, session: _Session, transaction: _Transaction | AsyncpgTransaction) -> None:
        usable = not session.conn.invalidated and not session.driver.is_closed()
        if usable:
            try:
                await transaction.rollback()
                await session.conn.rollback()
            except Exception:
                usable = False
        if usable:
            await self._release(session)
        else:
            self._slots.release()
            await self._close(session)

    @staticmethod
    async def _close(session: _Session) -> None:
        session.driver.terminate()
        try:
            await session.conn.invalidate()
            await session.conn.close()
        except Exception:
            pass  # closed anyway


def _lock_rooms(keys: Sequence[int], if_locked: str) -> str:
    """The statement that locks rooms. `if_locked`: " NOWAIT", " SKIP LOCKED", or empty to wait."""
    # FOR NO KEY UPDATE: rows that refer to a room may be inserted meanwhile, without a deadlock.
    listed = ",".join(str(int(key)) for key in sorted(set(keys)))
    return f"SELECT id FROM room WHERE id IN ({listed}) ORDER BY id FOR NO KEY UPDATE{if_locked}"


def _run_sync(conn: Connection, function: Callable[[Connection], T], reading: bool) -> T:
    """Run a function in the transaction that has begun on the connection."""
    conn.info[HAS_CURSORS] = reading
    result = run_whole(conn, function)
    if conn.in_transaction():
        conn.commit()  # SQLAlchemy's notion of a transaction; nothing is sent
    return result
