"""Creates the tables of this version, or migrates older ones to them, with the migrations in `migrations/`.

All functions are synchronous and start an event loop for PostgreSQL: call them from the command line, or
through `asyncio.to_thread`. They raise `StoreUnavailable` if the database cannot be reached or written.

Alembic is imported only if there are older tables: the import takes longer than creating all tables.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from tidings_db.failures import BUSY_TIMEOUT_MS, CONNECT_TIMEOUT_S, Translating
from tidings_db.wal import renew_abandoned_log

if TYPE_CHECKING:
    from alembic.config import Config

T = TypeVar("T")

_SCRIPTS = Path(__file__).with_name("migrations")
_ADVISORY_LOCK = int.from_bytes(b"tidings", "big")
# Alembic keeps the running migration in module globals, so only one may run at a time, for any database.
_alembic = threading.Lock()


class SchemaUnknown(Exception):
    """The database was made by a newer or an unreleased version of the program, or by another program."""


def migrate(url: str) -> list[str]:
    """Migrate the database to the newest revision, in one transaction. Returns the applied revisions, oldest first.

    An empty database gets the tables of the models, which all migrations together would create. Creates a missing
    SQLite file, in WAL mode. If several processes migrate concurrently, one does, and the others
    wait for it and apply nothing. Raises `SchemaUnknown` if the revision of its tables is unknown.
    """

    def change(conn: Connection) -> list[str]:
        if conn.dialect.name == "postgresql":
            conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        revisions = _pending(conn)
        if revisions:
            if inspect(conn).get_table_names():
                upgrade(conn)
            else:
                create_tables(conn)
        return revisions

    with _alembic:
        return _run(make_url(url), change, write=True)


def pending(url: str) -> list[str]:
    """The revisions that `migrate` would apply, oldest first. Changes nothing, and creates no file."""
    database = make_url(url)
    if database.get_backend_name() == "sqlite" and not Path(database.database or "").exists():
        return _revisions()
    return _run(database, _pending, write=False)


def draft(url: str, message: str) -> Path:
    """Write the next migration, from the difference between the models and the last one.

    Args:
        url: a scratch database.
    """
    from alembic import command

    def change(conn: Connection) -> Path:
        upgrade(conn)
        number = len(_revisions()) + 1
        script: Any = command.revision(_config(conn), message, autogenerate=True, rev_id=f"r{number:04}")
        return Path(script.path)

    with _alembic:
        return _run(make_url(url), change, write=True)


def create_tables(conn: Connection) -> None:
    """Make the tables of this version in an empty database."""
    from tidings_db.models import metadata

    metadata.create_all(conn, checkfirst=False)
    columns = "version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)"
    conn.execute(text(f"CREATE TABLE alembic_version ({columns})"))
    conn.execute(text("INSERT INTO alembic_version VALUES (:newest)"), {"newest": _revisions()[-1]})


def upgrade(conn: Connection) -> None:
    """Apply the missing migrations. One thread may do it at a time."""
    from alembic import command

    command.upgrade(_config(conn), "head")


def _pending(conn: Connection) -> list[str]:
    revisions = _revisions()
    if not inspect(conn).has_table("alembic_version"):
        return revisions
    current = list(conn.execute(text("SELECT version_num FROM alembic_version")).scalars())
    if not current:
        return revisions
    if len(current) > 1 or current[0] not in revisions:
        raise SchemaUnknown(_unknown(", ".join(current)))
    return revisions[revisions.index(current[0]) + 1 :]


def _unknown(revision: str) -> str:
    if revision.isdigit():  # 0001 to 0011, before the first release
        return f"an unreleased version made the database (revision {revision}): it cannot be migrated, use a new one"
    return f"a newer version or another program made the database: its revision {revision} is unknown"


def _revisions() -> list[str]:
    """All revisions, oldest first, by the names of the migrations' files, `r0001_core.py` and so on."""
    return sorted(path.name.partition("_")[0] for path in _SCRIPTS.glob("versions/r[0-9]*.py"))


def _config(conn: Connection) -> Config:
    from alembic.config import Config

    config = Config(attributes={"connection": conn})
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    return config


def _run(url: URL, function: Callable[[Connection], T], *, write: bool) -> T:
    with Translating():
        if url.get_backend_name() == "sqlite":
            return _on_sqlite(url, function, write=write)
        return asyncio.run(_on_postgresql(url, function))


def run_on_postgresql(url: str, function: Callable[[Connection], T], *, snapshot: bool = False) -> T:
    """Run a function in one transaction; `snapshot`: all of its statements see the database as at the first one."""
    with Translating():
        return asyncio.run(_on_postgresql(make_url(url), function, "REPEATABLE READ" if snapshot else None))


async def _on_postgresql(url: URL, function: Callable[[Connection], T], isolation: str | None = None) -> T:
    engine = create_async_engine(
        url.set(drivername="postgresql+asyncpg"),
        poolclass=NullPool,
        connect_args={"timeout": CONNECT_TIMEOUT_S},
        **({} if isolation is None else {"isolation_level": isolation}),
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
        dbapi.execute("PRAGMA wal_autocheckpoint=0")  # only the server of the file checkpoints
        renew_abandoned_log(dbapi)
        if write:
            _enter_wal(dbapi)
        else:
            dbapi.execute("PRAGMA query_only=on")

    engine = create_engine(url.set(drivername="sqlite+pysqlite"), poolclass=NullPool)
    event.listen(engine, "connect", prepare)
    # The lock is taken before the version is read, so a process that waited sees the completed migration.
    event.listen(engine, "begin", _begin_immediate if write else _begin)
    with engine.begin() as conn:
        return function(conn)


def _begin(conn: Connection) -> None:
    conn.exec_driver_sql("BEGIN")


def _begin_immediate(conn: Connection) -> None:
    conn.exec_driver_sql("BEGIN IMMEDIATE")


def _enter_wal(dbapi: sqlite3.Connection) -> None:
    """Set WAL mode. Waits for another writing connection, which SQLite does not do here."""
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            dbapi.execute("PRAGMA journal_mode=wal").fetchone()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
