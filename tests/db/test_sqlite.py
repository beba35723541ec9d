from __future__ import annotations

import asyncio
import resource
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError, OperationalError

from tests.db.rows import add_entries, add_room, add_user, count_entries, count_rooms
from tidings_db.connections import READERS, on_driver
from tidings_db.engine import Database, StoreUnavailable, Write
from tidings_db.sqlite import QUICK_S, RECENT

WRITER = {
    "journal_mode": "wal",
    "synchronous": 2,
    "foreign_keys": 1,
    "busy_timeout": 10_000,
    "secure_delete": 1,
    "wal_autocheckpoint": 0,
    "query_only": 0,
}
READER = {"journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 10_000, "wal_autocheckpoint": 0, "query_only": 1}


def pragmas(names: dict[str, Any]) -> Callable[[Connection], dict[str, Any]]:
    return lambda conn: {name: conn.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in names}


async def test_the_writer_syncs_each_commit_and_enforces_foreign_keys(sqlite: Database) -> None:
    assert await sqlite.write(pragmas(WRITER)) == WRITER


async def test_no_reader_can_write_or_checkpoint(sqlite: Database) -> None:
    pids: set[int] = set()
    together = threading.Barrier(READERS)

    def query(conn: Connection) -> dict[str, Any]:
        pids.add(id(conn.connection.dbapi_connection))
        together.wait(30)
        return pragmas(READER)(conn)

    assert await asyncio.gather(*(sqlite.read(query) for _ in range(READERS))) == [READER] * READERS
    assert len(pids) == READERS


async def test_normal_durability_does_not_sync_each_commit(sqlite_url: str) -> None:
    database = Database(sqlite_url, "normal")
    await database.start()
    assert await database.write(pragmas(WRITER)) == WRITER | {"synchronous": 1}
    await database.stop()


async def test_every_commit_waits_for_the_disk_even_a_lazy_one(
    sqlite: Database,
) -> None:
    level = {"synchronous": 0}
    for how in Write:
        assert await sqlite.write(pragmas(level), how) == {"synchronous": 2}


def _size(file: Path) -> int:
    return file.stat().st_size


async def test_the_log_is_checkpointed_as_it_grows_and_then_reused(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidings_db.sqlite.CHECKPOINT_FRAMES", 20)
    log = Path(f"{sqlite.url.database}-wal")
    for n in range(300):
        await sqlite.write(lambda conn, n=n: add_room(conn, n + 1), Write.NORMAL if n % 2 else Write.BRIEF)  # type: ignore[misc]
    assert _size(log) < 150 * 4096, "300 commits write several pages each"
    # A reader of an older snapshot delays the checkpoint, but not the writers.
    with closing(sqlite3.connect(sqlite.url.database or "", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM room").fetchone()
        for n in range(300, 400):
            await sqlite.write(lambda conn, n=n: add_room(conn, n + 1))  # type: ignore[misc]
        assert _size(log) > 200 * 4096
    before = _size(log)
    for n in range(400, 500):
        await sqlite.write(lambda conn, n=n: add_room(conn, n + 1))  # type: ignore[misc]
    assert _size(log) == before, "the log is overwritten from its beginning"
    assert await sqlite.read(count_rooms) == 500


async def test_a_database_without_checkpoints_never_checkpoints_by_itself(sqlite_url: str) -> None:
    database = Database(sqlite_url, checkpoints=False)
    await database.start()
    assert await database.write(pragmas(WRITER)) == WRITER
    await database.stop()


async def test_a_file_that_cannot_have_wal_mode_is_refused(sqlite_url: str) -> None:
    # This locking has no shared memory, so SQLite stays in another mode without an error.
    path = sqlite_url.removeprefix("sqlite:///") + ".other"
    with pytest.raises(StoreUnavailable, match="journal_mode"):
        await Database(f"sqlite:///file:{path}?vfs=unix-dotfile&uri=true").start()


async def test_a_transaction_that_reads_first_can_still_write(sqlite: Database) -> None:
    code = (
        "import sqlite3, sys\n"
        "conn = sqlite3.connect(sys.argv[1], timeout=0)\n"
        "conn.execute('PRAGMA user_version = 7')\n"
    )
    command = [sys.executable, "-c", code, sqlite.url.database or ""]

    def change(conn: Connection) -> int:
        before = count_rooms(conn)
        # After a plain BEGIN, this process would commit, and the next line would fail with SQLITE_BUSY_SNAPSHOT.
        second = subprocess.run(command, capture_output=True, check=False)
        add_room(conn, before + 1)
        return second.returncode

    assert await sqlite.write(change) != 0
    assert await sqlite.read(count_rooms) == 1
    assert (await asyncio.to_thread(subprocess.run, command, check=False)).returncode == 0


async def test_a_log_is_read_by_its_primary_key(sqlite: Database) -> None:
    plan = "EXPLAIN QUERY PLAN SELECT * FROM entry WHERE room_id = 1 AND seq > 5 AND seq <= 9 ORDER BY seq LIMIT 4"
    steps = await sqlite.read(lambda conn: [row.detail for row in conn.execute(text(plan))])
    assert steps == ["SEARCH entry USING PRIMARY KEY (room_id=? AND seq>? AND seq<?)"]


class Disk:
    """A clock, and transactions of a given duration on it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def change(self, seconds: float) -> Callable[[Connection], int]:
        """A transaction of that duration; it returns the id of its thread."""

        def change(conn: Connection) -> int:
            add_room(conn, 1000 + count_rooms(conn))
            self.now += seconds
            return threading.get_ident()

        return change


@pytest.fixture
async def timed(sqlite_url: str) -> AsyncIterator[tuple[Database, Disk]]:
    """A database that has measured a quick disk."""
    disk = Disk()
    database = Database(sqlite_url, clock=disk)
    await database.start()
    for _ in range(RECENT):
        await database.write(disk.change(0.0))
    yield database, disk
    await database.stop()


async def test_a_brief_write_on_a_quick_disk_needs_no_other_thread(timed: tuple[Database, Disk]) -> None:
    database, disk = timed
    loop_thread = threading.get_ident()
    assert await database.write(disk.change(QUICK_S), Write.BRIEF) == loop_thread
    assert await database.write(disk.change(0.0)) != loop_thread
    assert await database.read(count_rooms) == RECENT + 2


async def test_after_a_slow_commit_brief_writes_run_in_the_thread(timed: tuple[Database, Disk]) -> None:
    database, disk = timed
    loop_thread = threading.get_ident()
    assert await database.write(disk.change(0.05), Write.BRIEF) == loop_thread
    for seconds in [0.05] * RECENT + [0.0] * RECENT:  # the disk stays slow for a while
        assert await database.write(disk.change(seconds), Write.BRIEF) != loop_thread
    for _ in range(4 * RECENT):
        await database.write(disk.change(0.0))
    assert await database.write(disk.change(0.0), Write.BRIEF) == loop_thread


async def test_a_brief_write_on_an_unmeasured_disk_runs_in_the_thread(sqlite_url: str) -> None:
    disk = Disk()
    database = Database(sqlite_url, clock=disk)
    await database.start()
    assert await database.write(disk.change(0.0), Write.BRIEF) != threading.get_ident()
    await database.stop()


async def test_a_brief_write_waits_for_another_process_in_the_thread(timed: tuple[Database, Disk]) -> None:
    database, disk = timed
    writer = sqlite3.connect(database.url.database or "", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    waiting = asyncio.create_task(database.write(disk.change(0.0), Write.BRIEF))
    assert await database.read(count_rooms) == RECENT  # the event loop is free
    assert not waiting.done()
    writer.execute("COMMIT")
    writer.close()
    assert await waiting != threading.get_ident()
    assert await database.write(pragmas(WRITER)) == WRITER


async def test_a_brief_write_waits_for_the_running_write(timed: tuple[Database, Disk]) -> None:
    database, disk = timed
    brief_requested = threading.Event()

    def change(conn: Connection) -> None:
        assert brief_requested.wait(30)
        add_room(conn, 100)

    first = asyncio.create_task(database.write(change))
    second = asyncio.create_task(database.write(lambda conn: (count_rooms(conn), disk.change(0.0)), Write.BRIEF))
    asyncio.get_running_loop().call_soon(brief_requested.set)
    assert (await second)[0] == RECENT + 1
    await first


async def test_a_failed_brief_write_is_rolled_back(timed: tuple[Database, Disk]) -> None:
    database, disk = timed
    await database.write(lambda conn: (add_user(conn), add_room(conn, 1)))
    with pytest.raises(IntegrityError):
        await database.write(lambda conn: (add_room(conn, 2), add_room(conn, 1)), Write.BRIEF)
    with pytest.raises(StoreUnavailable, match="full"):
        await database.write(fill, Write.BRIEF)
    assert (
        await database.write(disk.change(0.0), Write.BRIEF) != threading.get_ident()
    )  # in the thread, after a probe
    assert await database.read(count_rooms) == RECENT + 2
    assert await database.read(count_entries) == 0
    assert await database.write(pragmas(WRITER)) == WRITER


@pytest.mark.parametrize("how", [Write.NORMAL, Write.BRIEF])
async def test_a_function_that_hides_an_error_of_the_driver_is_rolled_back(
    timed: tuple[Database, Disk], how: Write
) -> None:
    database, _ = timed

    def change(conn: Connection) -> None:
        add_room(conn, 100)
        with suppress(sqlite3.IntegrityError):
            on_driver(conn, "INSERT INTO room SELECT * FROM room WHERE id = ?", [1000])

    with pytest.raises(RuntimeError, match="savepoint"):
        await database.write(change, how)
    assert await database.read(count_rooms) == RECENT


async def test_a_function_that_hides_the_drivers_full_disk_error_is_rolled_back(sqlite: Database) -> None:
    def change(conn: Connection) -> None:
        add_room(conn, 1)
        pages = conn.exec_driver_sql("PRAGMA page_count").scalar_one()
        conn.exec_driver_sql(f"PRAGMA max_page_count={pages}")
        with suppress(sqlite3.OperationalError):
            on_driver(conn, "CREATE TABLE big AS SELECT zeroblob(100000)")
        add_room(conn, 2)

    with pytest.raises(StoreUnavailable):
        await sqlite.write(change)
    assert await sqlite.read(count_rooms) == 0
    await sqlite.write(lambda conn: add_room(conn, 1))


def fill(conn: Connection) -> None:
    """Write until the disk is full: the connection may add two pages."""
    pages = conn.exec_driver_sql("PRAGMA page_count").scalar_one()
    conn.exec_driver_sql(f"PRAGMA max_page_count={pages + 2}")
    add_room(conn, 2)
    add_entries(conn, 50, "x" * 1000)


async def test_a_write_on_a_full_disk_is_unavailable_and_rolled_back(sqlite: Database) -> None:
    await sqlite.write(lambda conn: (add_user(conn), add_room(conn, 1)))
    with pytest.raises(StoreUnavailable, match="full"):
        await sqlite.write(fill)
    assert await sqlite.read(count_rooms) == 1
    assert await sqlite.read(count_entries) == 0

    await sqlite.write(lambda conn: add_entries(conn, 50, "x" * 1000))
    assert await sqlite.read(count_entries) == 50
    assert await sqlite.write(pragmas(WRITER)) == WRITER


@pytest.mark.parametrize("savepoint", [False, True])
async def test_a_function_that_hides_a_full_disk_error_is_rolled_back(sqlite: Database, savepoint: bool) -> None:
    await sqlite.write(lambda conn: (add_user(conn), add_room(conn, 1)))

    def change(conn: Connection) -> None:
        try:
            if savepoint:
                with conn.begin_nested():
                    fill(conn)
            else:
                fill(conn)
        except OperationalError:
            add_room(conn, 3)  # SQLite has rolled back, and would commit this write alone

    with pytest.raises(StoreUnavailable):
        await sqlite.write(change)
    assert await sqlite.read(count_rooms) == 1


async def test_nothing_is_written_after_a_failure_until_a_probe_succeeds(sqlite_url: str) -> None:
    # In its own process, which for a while must not write to any file.
    command = [sys.executable, "-W", "error", "-m", "tests.db.test_sqlite", sqlite_url]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output, _ = await process.communicate()
    assert (process.returncode, output.decode()) == (0, "")


async def fail_and_recover(url: str) -> None:
    database = Database(url)
    await database.start()
    await database.write(lambda conn: (add_user(conn), add_room(conn, 1)))
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    executed = []

    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    with pytest.raises(StoreUnavailable):
        await database.write(lambda conn: (add_room(conn, 2), add_entries(conn, 50, "x" * 1000)))
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await database.write(lambda conn: executed.append("must be refused before"))
        with pytest.raises(StoreUnavailable):
            await database.probe()
    assert executed == []
    assert await database.read(count_rooms) == 1

    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    await database.probe()
    await database.write(lambda conn: add_entries(conn, 50, "x" * 1000))
    await database.stop()

    with sqlite3.connect(database.url.database or "") as conn:
        assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert conn.execute("SELECT (SELECT count(*) FROM room), count(*) FROM entry").fetchall() == [(1, 50)]
    conn.close()


if __name__ == "__main__":
    asyncio.run(fail_and_recover(sys.argv[1]))
