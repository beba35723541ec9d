"""Failures of the database: timeouts, errors that mean that it is unavailable, and errors that end a transaction."""

from __future__ import annotations

import errno
import sqlite3
import sys
from collections.abc import Callable, Collection
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, InternalError, PendingRollbackError
from sqlalchemy.exc import TimeoutError as PoolTimeout

T = TypeVar("T")

BUSY_TIMEOUT_MS = 10_000  # for a lock of another process (SQLite) or transaction (PostgreSQL)
CONNECT_TIMEOUT_S = 10
COMMAND_TIMEOUT_S = 30  # for an answer of PostgreSQL, so that a silent host does not block callers

# Errors that mean that the store is unavailable, not that a statement is wrong: primary result codes of SQLite
# (sqlite.org/rescode.html), SQLSTATEs and classes of them (PostgreSQL's manual, appendix A).
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
    "25P03",  # idle in a transaction for too long
    "25P04",  # a transaction that took too long
    "28",  # authorization failed
    "3D",  # no such database
    "40",  # rolled back: deadlock, serialization
    "53",  # out of disk, memory or connections
    "55",  # wrong state: accepts no connections, lock not available
    "57",  # shutting down, starting up, cancelled
    "58",  # I/O error
    "XX001",  # corrupted
    "XX002",
)
_DISK_FULL = "53100"
_LOCKED = "55P03"
_RERUN = ("40001", "40P01")
_SETTING_REFUSED = ("42704", "22023", "08P01")  # by an earlier version, another platform, and PgBouncer
# In a read, these mean that the query function tries to write.
_WROTE = (sqlite3.SQLITE_READONLY, "25006")

NO_SPACE = "no space is left on the disk"
DAMAGED = "the database's files are gone or damaged"

_FAILED = "tidings.failed"
"""Key in a connection's `info`: an error has ended the transaction."""


class StoreUnavailable(Exception):
    """The database cannot be reached, or cannot write, at the moment.

    The transaction did not take effect, unless the connection was lost during COMMIT; then it may have.
    """

    def __init__(self, message: str, *, reason: str = "") -> None:
        """
        Args:
            message: for the log.
            reason: a short text for users; empty: none.
        """
        super().__init__(message)
        self.reason = reason


class Locked(StoreUnavailable):
    """Another transaction holds a row that this one had to lock. Nothing was written."""

    def __init__(self, message: str, rooms: Collection[int] = ()) -> None:
        """`rooms`: keys of the locked rooms; empty if they are unknown, or if another row is locked."""
        super().__init__(message)
        self.rooms = frozenset(rooms)


class Translating:
    """Translates errors of an unavailable store within a `with` block to `StoreUnavailable`.

    It is a class because `contextlib.contextmanager` is several times slower, and every transaction uses one.
    """

    __slots__ = ("_reading",)

    def __init__(self, *, reading: bool = False) -> None:
        self._reading = reading

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if error is None or not _is_away(error) or (self._reading and _code(error) in _WROTE):
            return
        if isinstance(error, StoreUnavailable):
            return
        message = _text(error)
        if _code(error) == _LOCKED:
            raise Locked(message) from error
        if is_full(error):
            raise StoreUnavailable(f"{NO_SPACE}: {message}", reason=NO_SPACE) from error
        raise StoreUnavailable(message) from error


def _text(error: BaseException) -> str:
    """The first line of an error, for the log."""
    asyncpg = sys.modules.get("asyncpg")
    if asyncpg is not None and isinstance(error, asyncpg.InternalClientError):
        return "PostgreSQL has ended the connection"  # its text is about the states of the protocol
    return str(error).partition("\n")[0] or type(error).__name__


def _is_away(error: BaseException | None) -> bool:
    if isinstance(error, OSError | PoolTimeout | PendingRollbackError):
        return True  # PendingRollbackError: the function caught the store's error and continued
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    code = _code(error)
    if isinstance(code, int):
        return code & 0xFF in _SQLITE_AWAY
    if isinstance(code, str):
        return code.startswith(_POSTGRESQL_AWAY)
    # asyncpg gives no code if it detects by itself that the connection is closed.
    asyncpg = sys.modules.get("asyncpg")  # not imported on SQLite
    if asyncpg is not None and isinstance(error, (asyncpg.InterfaceError, asyncpg.InternalClientError)):
        return not isinstance(error, ValueError)  # a parameter of the wrong type
    return isinstance(error, InternalError)  # asyncpg, after the server's last message


def is_full(error: BaseException | None) -> bool:
    """Whether the error means that the disk is full."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    code = _code(error)
    return code == _DISK_FULL or (isinstance(code, int) and code & 0xFF == sqlite3.SQLITE_FULL)


def is_damage(error: BaseException) -> bool:
    """Whether SQLite reports a damaged database; damage of the search index alone does not count."""
    code = _code(error)
    return (
        isinstance(code, int)
        and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
        and code != sqlite3.SQLITE_CORRUPT_VTAB
    )


def _code(error: BaseException | None) -> int | str | None:
    """SQLite's extended result code, PostgreSQL's SQLSTATE, or None."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    code: int | str | None = getattr(cause, "sqlite_errorcode", None) or getattr(cause, "sqlstate", None)
    return code


def is_rolled_back(error: BaseException) -> bool:
    """Whether PostgreSQL has rolled the transaction back for another one: a deadlock or a serialization failure."""
    return _code(error) in _RERUN


def is_setting_refused(error: BaseException) -> bool:
    """Whether a PostgreSQL server or a pooler has refused a connection because of a setting that it does not know."""
    return _code(error) in _SETTING_REFUSED


def note_error(context: ExceptionContext) -> None:
    """Handler of SQLAlchemy's event `handle_error`; calls `note`."""
    conn = context.connection
    if conn is not None and note(conn, context.original_exception):
        context.is_disconnect = True


def note(conn: Connection, error: BaseException) -> bool:
    """Mark the transaction as failed, so that it cannot continue even if the function catches the error.

    Returns whether the connection must be closed: SQLite may have rolled back by itself (a full disk), and then each
    later statement would commit on its own.
    """
    if conn.invalidated:
        return False
    if not conn.in_nested_transaction():
        conn.info[_FAILED] = True
    return conn.dialect.name == "sqlite" and _is_away(error)


def run_whole(conn: Connection, change: Callable[[Connection], T]) -> T:
    """Run a function in a transaction. Raises `RuntimeError` if it caught an error that ended the transaction."""
    conn.info.pop(_FAILED, None)
    result = change(conn)
    if conn.info.pop(_FAILED, False):
        raise RuntimeError("an error of the database was caught outside a savepoint; the transaction is rolled back")
    return result
