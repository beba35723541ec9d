"""SQLite connections: their settings, the begin and end of transactions, and statements on the driver itself.

Every use of SQLAlchemy beyond its documented interface is here; `tests/db/test_versions.py` lists them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum, auto
from functools import cache
from itertools import chain, repeat
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection, Engine, RootTransaction, create_engine, event
from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect
from sqlalchemy.engine import URL, Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool, StaticPool

from tidings_db.failures import BUSY_TIMEOUT_MS, StoreUnavailable, note, note_error, run_whole

T = TypeVar("T")

READERS = 4
_FULL, _NORMAL = 2, 1  # of the pragma `synchronous`

NO_WAIT = "tidings.no_wait"
"""Key in a connection's `info`: the next transaction must begin without waiting."""
HAS_CURSORS = "tidings.has_cursors"
"""Key in the `info` of a PostgreSQL connection: whether the transaction supports asyncpg's cursors."""

NOW_MS = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
"""SQL: the time by PostgreSQL's clock, in ms since the epoch."""

FIRST_ROWS, MORE_ROWS = 64, 256
"""Rows per fetch of a PostgreSQL cursor, the first and later: pages are bounded in bytes, so few may be enough."""


class Write(Enum):
    """The kinds of transactions that write."""

    NORMAL = auto()
    BRIEF = auto()
    """It takes well under a millisecond, and nothing else is about to be written. On SQLite it may run and commit in
    the event loop's thread, while the disk is fast and no other write is running."""
    LAZY = auto()
    """On PostgreSQL it does not wait for the disk: for data that can be recreated. A crash of the machine may lose
    it, but only together with all later writes. SQLite always waits (`tidings_db.sqlite`)."""
    VITAL = auto()
    """It also writes on a full disk, with the reserved space (`keep_reserve`): for sessions and devices."""


class Locks(NamedTuple):
    """The rooms that a transaction locks first, on PostgreSQL. On SQLite it locks everything."""

    rooms: Sequence[int]
    """Their keys."""
    wait: bool = True
    """Wait briefly for rooms that another transaction has locked; False: do not wait."""


class WouldWait(Exception):
    """The transaction cannot begin without waiting: another process is writing, or there was an error."""


def writing_engine(url: URL, *, synced: bool) -> Engine:
    """An engine with one connection. `synced`: a commit waits for the disk."""
    pragmas: dict[str, int | str] = {
        "busy_timeout": BUSY_TIMEOUT_MS,
        "journal_mode": "wal",
        "synchronous": _FULL if synced else _NORMAL,
        "foreign_keys": 1,
        "secure_delete": 1,  # overwrite deleted content in the file
        "wal_autocheckpoint": 0,
        "cache_size": -65536,
    }
    engine = create_engine(
        url,
        hide_parameters=True,
        poolclass=StaticPool,
        connect_args={"check_same_thread": False},
        pool_reset_on_return=None,
    )
    event.listen(engine, "connect", lambda dbapi, _record: _prepare(dbapi, pragmas))
    event.listen(engine, "begin", _begin_immediate)
    event.listen(engine, "handle_error", note_error)
    return engine


def reading_engine(url: URL) -> Engine:
    """An engine with `READERS` connections, which cannot write."""
    pragmas = {
        "busy_timeout": BUSY_TIMEOUT_MS,
        "foreign_keys": 1,
        "wal_autocheckpoint": 0,
        "query_only": 1,
        # Other pages are in the cache of the operating system, so a larger cache would hardly be faster.
        "cache_size": -4096,
    }
    engine = create_engine(
        url,
        hide_parameters=True,
        poolclass=QueuePool,
        pool_size=READERS,
        max_overflow=0,
        # Consecutive reads use the same connection and its cached pages.
        pool_use_lifo=True,
        connect_args={"check_same_thread": False},
    )
    event.listen(engine, "connect", lambda dbapi, _record: _prepare(dbapi, pragmas))
    event.listen(engine, "begin", _begin)
    return engine


def _prepare(dbapi: Any, pragmas: Mapping[str, int | str]) -> None:
    """Set up a new SQLite connection, and read the settings back: `journal_mode=wal` can fail without an error."""
    try:
        dbapi.isolation_level = None  # BEGIN is sent explicitly, not by pysqlite
        cursor = dbapi.cursor()
        for pragma, value in pragmas.items():
            cursor.execute(f"PRAGMA {pragma}={value}")
            cursor.execute(f"PRAGMA {pragma}")
            (actual,) = cursor.fetchone()
            if actual != value:
                raise StoreUnavailable(f"SQLite did not accept {pragma}={value}, it has {actual}")
        cursor.close()
    except BaseException:
        dbapi.close()
        raise


def _begin(conn: Connection) -> None:
    conn.exec_driver_sql("BEGIN")


def _begin_immediate(conn: Connection) -> None:
    # A deferred transaction that reads before it writes fails immediately with SQLITE_BUSY_SNAPSHOT.
    if not conn.info.pop(NO_WAIT, False):
        on_driver(conn, "BEGIN IMMEDIATE")
        return
    try:
        driver_of(conn).execute("BEGIN IMMEDIATE")
    except sqlite3.Error as error:
        raise WouldWait from error


def driver_of(conn: Connection) -> sqlite3.Connection:
    driver = conn.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver


def on_driver(conn: Connection, sql: str, parameters: Sequence[Any] = (), *, many: bool = False) -> list[Any]:
    """Run a statement directly on SQLite's driver, and return its rows (booleans as 0 and 1).

    For the hot path of messages, where SQLAlchemy would take several times as long as SQLite. Raises
    `sqlite3.Error`, which affects the transaction like an error of SQLAlchemy.

    Args:
        many: run it once for each of the parameters.
    """
    driver: Any = conn.connection.driver_connection
    try:
        rows: list[Any] = (driver.executemany if many else driver.execute)(sql, parameters).fetchall()
        return rows
    except sqlite3.Error as error:
        if note(conn, error):
            conn.invalidate(error)
        raise


Build = Callable[[str], Any]
"""Makes a statement for a dialect. The result is cached."""


def fetch(conn: Connection, build: Build, parameters: Mapping[str, Any]) -> Sequence[Any]:
    """The rows of a statement on the hot path of messages, with SQLite's booleans as 0 and 1."""
    if conn.dialect.name == "sqlite":
        sql, values_of, constants = _compiled(build, "sqlite")
        return on_driver(conn, sql, values_of({**constants, **parameters}))
    sql, values_of, constants = _compiled(build, "postgresql")
    return on_postgresql(conn, sql, *values_of({**constants, **parameters}))


@contextmanager
def stepwise(conn: Connection, build: Build, parameters: Mapping[str, Any]) -> Iterator[Iterable[Sequence[Any]]]:
    """A result whose rows are read lazily, with SQLite's booleans as 0 and 1."""
    sqlite = conn.dialect.name == "sqlite"
    sql, values_of, constants = _compiled(build, "sqlite" if sqlite else "postgresql")
    values = values_of({**constants, **parameters})
    if not sqlite:
        yield _in_steps(conn, sql, values) if conn.info[HAS_CURSORS] else on_postgresql(conn, sql, *values)
        return
    cursor = conn.connection.cursor()
    try:
        cursor.execute(sql, values)
        yield cursor  # type: ignore[misc]
    finally:
        cursor.close()


def change(conn: Connection, build: Build, rows: Sequence[Mapping[str, Any]]) -> None:
    """Run a statement on the hot path of messages once for each row. A row has all parameters."""
    if conn.dialect.name == "sqlite":
        sql, values_of, _ = _compiled(build, "sqlite")
        on_driver(conn, sql, list(map(values_of, rows)), many=True)
        return
    sql, values_of, _ = _compiled(build, "postgresql")
    values = list(map(values_of, rows))
    _await(conn, lambda driver: driver.executemany(sql, values))


class Statement(NamedTuple):
    """A statement of PostgreSQL, and its parameters $1, $2, ..."""

    sql: str
    values: Sequence[Any]


def on_postgresql(conn: Connection, sql: str, *values: Any) -> Sequence[Any]:
    """Run a statement directly on asyncpg (parameters are $1, $2, ...), and return its rows.

    Raises `asyncpg.PostgresError` and `asyncpg.InterfaceError`, which affect the transaction like an error of
    SQLAlchemy.
    """
    rows: Sequence[Any] = _await(conn, lambda driver: driver.fetch(sql, *values))
    return rows


def _in_steps(conn: Connection, sql: str, values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    cursor = _await(conn, lambda driver: driver.cursor(sql, *values))
    for step in chain((FIRST_ROWS,), repeat(MORE_ROWS)):
        rows = _await(conn, lambda _, step=step: cursor.fetch(step))  # type: ignore[misc]
        yield from rows
        if len(rows) < step:
            return


def _await(conn: Connection, call: Callable[[Any], Awaitable[Any]]) -> Any:
    """Await a call of asyncpg from within a synchronous function that `Database` runs."""
    adapted: Any = conn.connection.dbapi_connection
    try:
        return adapted.run_async(call)
    except Exception as error:
        note(conn, error)
        raise


@cache
def _dialect(name: str) -> Dialect:
    if name == "sqlite":
        return sqlite_dialect()
    from sqlalchemy.dialects.postgresql import asyncpg  # not imported by a server on SQLite

    return asyncpg.dialect()  # type: ignore[no-untyped-call]


@cache
def _compiled(
    build: Build, dialect: str
) -> tuple[str, Callable[[Mapping[str, Any]], Sequence[Any]], Mapping[str, Any]]:
    """A statement as its driver takes it, a function that orders its parameters, and the values of its constants."""
    compiled = build(dialect).compile(dialect=_dialect(dialect))
    names = compiled.positiontup or ()
    if len(names) > 1:
        return compiled.string, itemgetter(*names), compiled.params
    return compiled.string, lambda parameters: [parameters[name] for name in names], compiled.params


def commit(conn: Connection, change: Callable[[Connection], T]) -> T:
    transaction = conn.begin()
    try:
        result = run_whole(conn, change)
        transaction.commit()
        return result
    except BaseException:
        roll_back(conn, transaction)
        raise


def roll_back(conn: Connection, transaction: RootTransaction) -> None:
    try:
        transaction.rollback()
        if not conn.invalidated:
            conn.connection.rollback()  # after a failed COMMIT, the line above sends nothing
    except (DBAPIError, sqlite3.Error):
        conn.invalidate()
