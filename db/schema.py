"""Bringing a database to this version's tables, by the migrations in `db/migrations`.

All functions are synchronous and start an event loop for PostgreSQL: call them from the command line, or
through `asyncio.to_thread`. They raise `StoreUnavailable` if the database cannot be reached or written.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import ResolutionError
from alembic.util import CommandError
from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from db.failures import BUSY_TIMEOUT_MS, CONNECT_TIMEOUT_S, Translating

T = TypeVar("T")

_SCRIPTS = Path(__file__).with_name("migrations")
_ADVISORY_LOCK = int.from_bytes(b"tidings", "big")
# Alembic keeps the migration under way in its modules' globals: one at a time, whatever database it is for.
_alembic = threading.Lock()


class SchemaUnknown(Exception):
    """The database was migrated by a newer version of the program, or by another program."""


def migrate(url: str) -> list[str]:
    """Bring the database to the newest revision, in one transaction. Returns what was applied, oldest first.

    A SQLite file is created if need be, in WAL mode. Several processes may do this at once: one migrates, the
    others wait for it, and apply nothing. Raises `SchemaUnknown` rather than touch tables it does not know.
    """

    def change(conn: Connection) -> list[str]:
        if conn.dialect.name == "postgresql":
            conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        todo = _pending(conn)
        if todo:
            command.upgrade(_config(conn), "head")
        return todo

    with _alembic:
        return _run(make_url(url), change, write=True)


def pending(url: str) -> list[str]:
    """The revisions that `migrate` would apply, oldest first. Changes nothing, and creates no file."""
    where = make_url(url)
    if where.get_backend_name() == "sqlite" and not Path(where.database or "").exists():
        return [step.revision for step in reversed(list(_scripts().walk_revisions()))]
    return _run(where, _pending, write=False)


def draft(url: str, message: str) -> Path:
    """Write the next migration, from what the models have beyond the last one; `url` is scratch space."""

    def change(conn: Connection) -> Path:
        number = len(list(_scripts().walk_revisions())) + 1
        script: Any = command.revision(_config(conn), message, autogenerate=True, rev_id=f"{number:04}")
        return Path(script.path)

    migrate(url)
    with _alembic:
        return _run(make_url(url), change, write=True)


def _pending(conn: Connection) -> list[str]:
    have = MigrationContext.configure(conn).get_current_heads()
    try:
        steps = list(_scripts().iterate_revisions("heads", have or "base"))
    except (ResolutionError, CommandError) as error:
        raise SchemaUnknown(f"this version does not know the database's revision, {', '.join(have)}") from error
    return [step.revision for step in reversed(steps)]


def _scripts() -> ScriptDirectory:
    return ScriptDirectory(str(_SCRIPTS))


def _config(conn: Connection) -> Config:
    config = Config(attributes={"connection": conn})
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    return config


def _run(url: URL, function: Callable[[Connection], T], *, write: bool) -> T:
    with Translating():
        if url.get_backend_name() == "sqlite":
            return _on_sqlite(url, function, write=write)
        return asyncio.run(_on_postgresql(url, function))


async def _on_postgresql(url: URL, function: Callable[[Connection], T]) -> T:
    engine = create_async_engine(
        url.set(drivername="postgresql+asyncpg"),
        poolclass=NullPool,
        connect_args={"timeout": CONNECT_TIMEOUT_S},
    )
    try:
        async with engine.begin() as conn:
            return await conn.run_sync(function)
    finally:
        await engine.dispose()


def _on_sqlite(url: URL, function: Callable[[Connection], T], *, write: bool) -> T:
    def prepare(dbapi: Any, _record: Any) -> None:
        dbapi.isolation_level = None
        dbapi.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        dbapi.execute("PRAGMA wal_autocheckpoint=0")  # a server on the same file checkpoints, and nobody else
        if write:
            _enter_wal(dbapi)
        else:
            dbapi.execute("PRAGMA query_only=on")

    engine = create_engine(url.set(drivername="sqlite+pysqlite"), poolclass=NullPool)
    event.listen(engine, "connect", prepare)
    # The lock comes before the look at the version, so who waited for it sees what the one before did.
    event.listen(engine, "begin", _begin_immediate if write else _begin)
    with engine.begin() as conn:
        return function(conn)


def _begin(conn: Connection) -> None:
    conn.exec_driver_sql("BEGIN")


def _begin_immediate(conn: Connection) -> None:
    conn.exec_driver_sql("BEGIN IMMEDIATE")


def _enter_wal(dbapi: sqlite3.Connection) -> None:
    """Set WAL mode. SQLite does not wait for another connection that writes, so this does."""
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            dbapi.execute("PRAGMA journal_mode=wal").fetchone()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
