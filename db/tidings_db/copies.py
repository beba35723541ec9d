"""Copies of a whole database as a SQLite file, whichever database it comes from or goes to.

Between databases, rows are copied by table. The search index differs between them, and is built anew by the server.
All functions block, and raise `StoreUnavailable` as those of `tidings_db.schema`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import BigInteger, Connection, Select, cast, create_engine, func, insert, inspect, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from tidings_db.failures import Translating
from tidings_db.models import consumer_cursors, feed, login_attempts, metadata, node_leases, online, search_documents
from tidings_db.queries import search
from tidings_db.schema import create_tables, migrate, run_on_postgresql

T = TypeVar("T")

_OF_RUNNING_NODES = {feed, login_attempts, node_leases, online}
_NOT_COPIED = _OF_RUNNING_NODES | {search_documents}
_ROWS = 1000
"""Rows that are read and written at a time."""


class NotEmpty(Exception):
    """A copy would overwrite a database, or servers are running on it."""


def save(url: str, path: Path) -> None:
    """Write the database, as it is at one moment, to a new SQLite file. Servers may be running on it."""
    if make_url(url).get_backend_name() == "sqlite":
        with Translating(), closing(sqlite3.connect(str(make_url(url).database), isolation_level=None)) as conn:
            conn.execute("PRAGMA wal_autocheckpoint=0")  # only the server of the file checkpoints
            conn.execute("VACUUM INTO ?", (str(path),))
    else:
        migrate(_url_of(path))
        _on_file(path, lambda target: run_on_postgresql(url, lambda source: _copy(source, target), snapshot=True))
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("PRAGMA journal_mode=delete")  # one file


def check(path: Path) -> dict[str, int]:
    """Check a file that `save` wrote, and migrate it to this version; returns the number of rows of each table.

    Raises `sqlite3.DatabaseError` if it is damaged, or `SchemaUnknown`.
    """
    with closing(sqlite3.connect(path)) as conn:
        for pragma, good in (("integrity_check", [("ok",)]), ("foreign_key_check", [])):
            found = conn.execute(f"PRAGMA {pragma}").fetchmany(5)
            if found != good:
                raise sqlite3.DatabaseError(f"{pragma}: {found}")
    migrate(_url_of(path))
    return _on_file(path, _count)


def change(path: Path, work: Callable[[Connection], Any]) -> None:
    """Change a file that `check` has accepted and nobody else has open, in one transaction.

    It stays in WAL mode, which a database must be in before `Database` opens it; closing it removes the log.
    """
    _on_file(path, work)


def load(path: Path, url: str, work: Callable[[Connection], Any], *, replace: bool = False) -> dict[str, int]:
    """Copy a SQLite file into a PostgreSQL database, and call `work`, in one transaction.

    Returns the number of rows of each table. Raises `NotEmpty` if there are tables already, unless they are to be
    replaced; in any case while servers run on them.
    """

    def fill(target: Connection, source: Connection) -> dict[str, int]:
        if _check_replaceable(target, replace=replace):
            metadata.drop_all(target)
            target.execute(text("DROP TABLE IF EXISTS alembic_version"))
        create_tables(target)
        _copy(source, target)
        for table in metadata.sorted_tables:
            column = table.autoincrement_column
            if column is not None:
                sequence = func.pg_get_serial_sequence(f'"{table.name}"', column.name)
                used = select(func.coalesce(func.max(column), 0) + 1).scalar_subquery()
                target.execute(select(func.setval(sequence, used, False)).where(sequence.is_not(None)))
        work(target)
        return _count(target)

    return _on_file(path, lambda source: run_on_postgresql(url, lambda target: fill(target, source)))


def check_replaceable(url: str, *, replace: bool) -> None:
    """Raises `NotEmpty` as `load` does."""
    run_on_postgresql(url, lambda conn: _check_replaceable(conn, replace=replace))


def _check_replaceable(conn: Connection, *, replace: bool) -> bool:
    """Whether there are tables, which may be replaced."""
    if not inspect(conn).get_table_names():
        return False
    if not replace:
        raise NotEmpty("the database has tables already: --force replaces them")
    if inspect(conn).has_table(node_leases.name):
        now = cast(func.extract("epoch", func.clock_timestamp()) * 1000, BigInteger)
        live = select(node_leases.c.name).where(node_leases.c.lease_until > now, node_leases.c.leaving.is_(False))
        if names := list(conn.scalars(live)):
            raise NotEmpty(f"servers are running on the database: {', '.join(names)}. Stop them first")
    return True


def _copy(source: Connection, target: Connection) -> None:
    for table in metadata.sorted_tables:
        if table in _NOT_COPIED:
            continue
        rows: Select[Any] = select(table)
        if table is consumer_cursors:
            rows = rows.where(consumer_cursors.c.consumer != search.CONSUMER)
        for part in source.execution_options(yield_per=_ROWS).execute(rows).mappings().partitions():
            target.execute(insert(table), [dict(row) for row in part])


def _count(conn: Connection) -> dict[str, int]:
    tables = [table for table in metadata.sorted_tables if table not in _NOT_COPIED]
    return {table.name: conn.execute(select(func.count()).select_from(table)).scalar_one() for table in tables}


def _url_of(path: Path) -> str:
    return f"sqlite:///{path.absolute()}"


def _on_file(path: Path, work: Callable[[Connection], T]) -> T:
    engine = create_engine(_url_of(path).replace("sqlite:", "sqlite+pysqlite:"), poolclass=NullPool)
    with Translating(), engine.begin() as conn:
        return work(conn)
