"""How the database fails: how long it is waited for, what says that it is away, and what ends a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, InternalError, PendingRollbackError
from sqlalchemy.exc import TimeoutError as PoolTimeout

T = TypeVar("T")

BUSY_TIMEOUT_MS = 10_000  # for a lock of another process (SQLite) or transaction (PostgreSQL)
CONNECT_TIMEOUT_S = 10
COMMAND_TIMEOUT_S = 30  # for an answer of PostgreSQL: a host that went silent does not hold its callers

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

# In a connection's `info`.
_FAILED = "tidings.failed"


class StoreUnavailable(Exception):
    """The database cannot be reached, or cannot write, now.

    Nothing of the transaction is known to have happened; if the connection was lost at COMMIT, it may have.
    """


class Translating:
    """A block in which an error that says that the store is away becomes `StoreUnavailable`; others stay as they are.

    A class, because `contextlib.contextmanager` costs several times as much, and every transaction is in one.
    """

    __slots__ = ("_reading",)

    def __init__(self, *, reading: bool = False) -> None:
        self._reading = reading

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if error is None or not _is_away(error) or (self._reading and _code(error) in _WROTE):
            return
        raise StoreUnavailable(str(error).partition("\n")[0] or type(error).__name__) from error


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


def note_error(context: ExceptionContext) -> None:
    """For SQLAlchemy's event `handle_error`: see `note`."""
    conn = context.connection
    if conn is not None and note(conn, context.original_exception):
        context.is_disconnect = True


def note(conn: Connection, error: BaseException) -> bool:
    """A transaction that the database has given up must not go on, even if the function catches the error.

    Returns whether the connection must not be used any more: SQLite may have rolled back by itself (a full disk), and
    each later statement would commit on its own.
    """
    if conn.invalidated:
        return False
    if not conn.in_nested_transaction():
        conn.info[_FAILED] = True
    return conn.dialect.name == "sqlite" and _is_away(error)


def run_whole(conn: Connection, change: Callable[[Connection], T]) -> T:
    """Run a function in a transaction. Raises `RuntimeError` if it hides an error that has ended the transaction."""
    conn.info.pop(_FAILED, None)
    result = change(conn)
    if conn.info.pop(_FAILED, False):
        raise RuntimeError("an error of the database was caught outside a savepoint; all is rolled back")
    return result
