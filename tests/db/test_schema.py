from __future__ import annotations

import asyncio
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

import tidings_db.schema
from tidings_db.engine import StoreUnavailable
from tidings_db.models import in_models, metadata
from tidings_db.schema import SchemaUnknown, draft, migrate, pending

T = TypeVar("T")

WITHOUT_ROWID = {
    "ban",
    "block",
    "consumer_cursor",
    "cursor",
    "entry",
    "epoch_head",
    "link_preview",
    "login_attempt",
    "member",
    "mute",
    "online",
    "push_delivery",
    "read_marker",
    "thread_follower",
}
REVISIONS = [
    path.name.partition("_")[0]
    for path in sorted(Path(tidings_db.schema.__file__).parent.glob("migrations/versions/r*.py"))
]
OF_FTS5 = {"search_words_config", "search_words_idx"}


async def run(url: str, function: Callable[[Connection], T]) -> T:
    """Run a function in a transaction, on a connection without the settings of `Database`."""
    engine = create_async_engine(url.replace("sqlite:", "sqlite+aiosqlite:"), poolclass=NullPool)
    try:
        async with engine.begin() as conn:
            return await conn.run_sync(function)
    finally:
        await engine.dispose()


def catalogue(conn: Connection) -> Any:
    """The database's own description of its tables, without Alembic's."""
    if conn.dialect.name == "sqlite":
        rows = conn.execute(text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
        # The order of columns and constraints is ignored: a migration adds them at the end, and on the line before.
        line = re.compile(r",? ?\n\t?|, (?=[a-z_]+ [A-Z])")
        return {name: sorted(line.split(sql.strip())) for name, sql in rows if name != "alembic_version"}
    queries = (
        "SELECT table_name, column_name, data_type, character_maximum_length, is_nullable, column_default"
        " FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'",
        "SELECT conname, conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE connamespace = 'public'::regnamespace AND conname <> 'alembic_version_pkc'",
        "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'",
        "SELECT relname, relkind, relpersistence, reloptions FROM pg_class"
        " WHERE relnamespace = 'public'::regnamespace AND relname NOT LIKE 'alembic_version%'",
        "SELECT pg_get_functiondef(oid), proacl FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
        "SELECT tgrelid::regclass::text, tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal",
    )
    return [sorted(str(tuple(row)) for row in conn.execute(text(query))) for query in queries]


def upgrade(url: str) -> None:
    """Migrate with Alembic, also an empty database."""
    tidings_db.schema._run(make_url(url), tidings_db.schema.upgrade, write=True)


async def test_the_migrations_create_exactly_the_tables_of_a_new_database(empty_url: str) -> None:
    await asyncio.to_thread(migrate, empty_url)
    created = await run(empty_url, catalogue)
    await run(empty_url, metadata.drop_all)
    await run(empty_url, lambda conn: conn.execute(text("DROP TABLE alembic_version")))

    await asyncio.to_thread(upgrade, empty_url)
    assert await run(empty_url, catalogue) == created
    only = {"include_object": in_models}
    assert await run(empty_url, lambda c: compare_metadata(MigrationContext.configure(c, opts=only), metadata)) == []


async def test_alembic_has_nothing_to_apply_to_a_new_database(empty_url: str) -> None:
    await asyncio.to_thread(migrate, empty_url)
    before = await run(empty_url, catalogue)
    await asyncio.to_thread(upgrade, empty_url)
    assert await run(empty_url, catalogue) == before
    versions = await run(
        empty_url, lambda conn: conn.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
    )
    assert versions == REVISIONS[-1:]


async def test_sqlite_stores_the_entries_of_a_log_in_its_primary_key(sqlite_url: str) -> None:
    def tables(conn: Connection) -> set[str]:
        rows = conn.execute(text("SELECT name FROM pragma_table_list WHERE wr AND schema = 'main'"))
        return set(rows.scalars())

    assert await run(sqlite_url, tables) == WITHOUT_ROWID | OF_FTS5


async def test_the_index_of_client_ids_has_only_entries_with_one(database_url: str) -> None:
    def described(conn: Connection) -> Any:
        (index,) = [i for i in inspect(conn).get_indexes("entry") if i["name"] == "uq_entry_client_id"]
        where = index["dialect_options"][f"{conn.dialect.name}_where"]
        return index["unique"], index["column_names"], str(where).strip("()")

    expected = (True, ["room_id", "sender_id", "client_id"], "client_id IS NOT NULL")
    unique, *rest = await run(database_url, described)
    assert (bool(unique), *rest) == expected


async def test_only_one_of_several_concurrent_migrations_migrates(empty_url: str) -> None:
    code = (
        "import sys; from tidings_db.schema import migrate\n"
        "print('ready', flush=True); sys.stdin.readline(); print(migrate(sys.argv[1]))"
    )
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, empty_url, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    answers = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sorted(answer.decode().strip() for answer, _ in answers) == [str(REVISIONS), "[]", "[]"]
    assert await asyncio.to_thread(pending, empty_url) == []


async def test_a_migration_waits_for_a_writer_of_a_file_without_wal_mode(tmp_path: Path) -> None:
    path = tmp_path / "tidings.sqlite3"
    with sqlite3.connect(path, check_same_thread=False, isolation_level=None) as writer:
        writer.executescript("CREATE TABLE x (y); BEGIN IMMEDIATE;")
        asyncio.get_running_loop().call_later(0.2, writer.rollback)  # SQLite itself would refuse immediately
        assert await asyncio.to_thread(migrate, f"sqlite:///{path}") == REVISIONS
    writer.close()


async def test_databases_can_be_migrated_concurrently_in_one_process(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path / str(number)}" for number in range(8)]
    for url in urls:
        await run(url, lambda conn: conn.execute(text("CREATE TABLE another (id INTEGER)")))  # so that Alembic runs
    assert await asyncio.gather(*(asyncio.to_thread(migrate, url) for url in urls)) == [REVISIONS] * 8
    assert len({str(await run(url, catalogue)) for url in urls}) == 1


def test_pending_lists_the_revisions_that_migrate_applies(empty_url: str, tmp_path: Path) -> None:
    expected = pending(empty_url)
    assert expected == REVISIONS
    assert list(tmp_path.iterdir()) == []
    assert migrate(empty_url) == expected
    assert pending(empty_url) == []
    assert migrate(empty_url) == []


async def test_a_failed_migration_leaves_the_database_unchanged(empty_url: str) -> None:
    await run(empty_url, lambda conn: conn.execute(text("CREATE TABLE entry (strange INTEGER)")))
    before = await run(empty_url, catalogue)
    with pytest.raises(Exception, match="already exists"):
        await asyncio.to_thread(migrate, empty_url)
    assert await run(empty_url, catalogue) == before
    assert await asyncio.to_thread(pending, empty_url) == REVISIONS


@pytest.mark.parametrize(
    ("revision", "reason"),
    [
        ("r9999", "a newer version or another program made the database"),
        ("0011", "an unreleased version made the database"),
        ("0001", "an unreleased version made the database"),
    ],
)
async def test_a_database_of_an_unknown_revision_is_refused(database_url: str, revision: str, reason: str) -> None:
    change = text("UPDATE alembic_version SET version_num = :revision")
    await run(database_url, lambda conn: conn.execute(change, {"revision": revision}))
    for function in (migrate, pending):
        with pytest.raises(SchemaUnknown, match=f"^{reason}.*{revision}"):
            await asyncio.to_thread(function, database_url)


async def test_the_next_migration_is_drafted_from_the_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = tmp_path / "migrations"
    shutil.copytree(Path(tidings_db.schema.__file__).with_name("migrations"), scripts)
    monkeypatch.setattr(tidings_db.schema, "_SCRIPTS", scripts)
    path = await asyncio.to_thread(draft, f"sqlite:///{tmp_path / 'draft'}", "nothing yet")
    assert path == scripts / "versions" / f"r{len(REVISIONS) + 1:04}_nothing_yet.py"
    assert f'down_revision = "{REVISIONS[-1]}"' in path.read_text().replace("'", '"')
    assert pending(f"sqlite:///{tmp_path / 'none'}") == [*REVISIONS, path.name.partition("_")[0]]


async def test_a_migration_leaves_sqlite_in_wal_mode(sqlite_url: str) -> None:
    assert await run(sqlite_url, lambda conn: conn.execute(text("PRAGMA journal_mode")).scalar()) == "wal"


@pytest.mark.parametrize("url", ["sqlite:////nowhere/at/all", "postgresql+asyncpg://nobody@127.0.0.1:1/none"])
async def test_migrating_an_unreachable_database_is_unavailable(url: str) -> None:
    with pytest.raises(StoreUnavailable):
        await asyncio.to_thread(migrate, url)
