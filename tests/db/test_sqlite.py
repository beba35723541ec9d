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

from db.connections import READERS, on_driver
from db.engine import Database, StoreUnavailable
from db.sqlite import QUICK_S, RECENT
from tests.db.rows import add_entries, add_room, add_user, count_entries, count_rooms

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


async def test_the_writer_syncs_each_commit_checks_references_and_checkpoints(sqlite: Database) -> None:
    assert await sqlite.write(pragmas(WRITER)) == WRITER


async def test_no_reader_can_write_or_checkpoint(sqlite: Database) -> None:
    pids: set[int] = set()
    together = threading.Barrier(READERS)

    def query(conn: Connection) -> dict[str, Any]:
        pids.add(id(conn.connection.dbapi_connection))
        together.wait(10)
        return pragmas(READER)(conn)

    assert await asyncio.gather(*(sqlite.read(query) for _ in range(READERS))) == [READER] * READERS
    assert len(pids) == READERS


async def test_normal_durability_does_not_sync_each_commit(sqlite_url: str) -> None:
    database = Database(sqlite_url, "normal")
    await database.start()
    assert await database.write(pragmas(WRITER)) == WRITER | {"synchronous": 1}
    await database.stop()


async def test_every_commit_waits_for_the_disk_for_behind_one_that_does_not_nothing_is_durable(
    sqlite: Database,
) -> None:
    level = {"synchronous": 0}
    for how in ({"lazy": True}, {}, {"brief": True}):
        assert await sqlite.write(pragmas(level), **how) == {"synchronous": 2}


def _size(file: Path) -> int:
    return file.stat().st_size


async def test_the_log_is_brought_home_as_it_grows_and_does_not_grow_for_ever(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.sqlite.CHECKPOINT_FRAMES", 20)
    log = Path(f"{sqlite.url.database}-wal")
    for n in range(300):
        await sqlite.write(lambda conn, n=n: add_room(conn, n + 1), brief=n % 2 == 0)  # type: ignore[misc]
    assert _size(log) < 150 * 4096, "300 commits, and each writes several pages"
    # Somebody who reads what there was holds up the checkpoint, but not those who write.
    with closing(sqlite3.connect(sqlite.url.database or "", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM room").fetchone()
        for n in range(300, 400):
            await sqlite.write(lambda conn, n=n: add_room(conn, n + 1))  # type: ignore[misc]
        assert _size(log) > 200 * 4096
    before = _size(log)
    for n in range(400, 500):
        await sqlite.write(lambda conn, n=n: add_room(conn, n + 1))  # type: ignore[misc]
    assert _size(log) == before, "it is written from its beginning again"
    assert await sqlite.read(count_rooms) == 500


async def test_a_second_process_never_checkpoints(sqlite_url: str) -> None:
    database = Database(sqlite_url, checkpoints=False)
    await database.start()
    assert await database.write(pragmas(WRITER)) == WRITER
    await database.stop()


async def test_a_file_that_cannot_have_wal_mode_is_refused(sqlite_url: str) -> None:
    # This way of locking has no shared memory: SQLite stays in another mode, without an error.
    path = sqlite_url.removeprefix("sqlite:///") + ".other"
    with pytest.raises(StoreUnavailable, match="journal_mode"):
        await Database(f"sqlite:///file:{path}?vfs=unix-dotfile&uri=true").start()


async def test_a_transaction_that_reads_first_can_write_although_others_want_to(sqlite: Database) -> None:
    code = (
        "import sqlite3, sys\n"
        "conn = sqlite3.connect(sys.argv[1], timeout=0)\n"
        "conn.execute('PRAGMA user_version = 7')\n"
    )
    command = [sys.executable, "-c", code, sqlite.url.database or ""]

    def change(conn: Connection) -> int:
        before = count_rooms(conn)
        # With a plain BEGIN the other process would commit here, and the next line fail with SQLITE_BUSY_SNAPSHOT.
        other = subprocess.run(command, capture_output=True, check=False)
        add_room(conn, before + 1)
        return other.returncode

    assert await sqlite.write(change) != 0
    assert await sqlite.read(count_rooms) == 1
    assert (await asyncio.to_thread(subprocess.run, command, check=False)).returncode == 0


async def test_a_log_is_read_by_its_primary_key(sqlite: Database) -> None:
    plan = "EXPLAIN QUERY PLAN SELECT * FROM entry WHERE room_id = 1 AND seq > 5 AND seq <= 9 ORDER BY seq LIMIT 4"
    steps = await sqlite.read(lambda conn: [row.detail for row in conn.execute(text(plan))])
    assert steps == ["SEARCH entry USING PRIMARY KEY (room_id=? AND seq>? AND seq<?)"]


class Disk:
    """A clock, and transactions that take so long by it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def change(self, took: float) -> Callable[[Connection], int]:
        """Returns the thread that it ran in."""

        def change(conn: Connection) -> int:
            add_room(conn, 1000 + count_rooms(conn))
            self.now += took
            return threading.get_ident()

        return change


@pytest.fixture
async def timed(sqlite_url: str) -> AsyncIterator[tuple[Database, Disk]]:
    """A database that has found its disk to be quick."""
    disk = Disk()
    database = Database(sqlite_url, clock=disk)
    await database.start()
    for _ in range(RECENT):
        await database.write(disk.change(0.0))
    yield database, disk
    await database.stop()


async def test_a_brief_write_on_a_quick_disk_needs_no_other_thread(timed: tuple[Database, Disk]) -> None:
    database, disk = timed
    loops = threading.get_ident()
    assert await database.write(disk.change(QUICK_S), brief=True) == loops
    assert await database.write(disk.change(0.0)) != loops
    assert await database.read(count_rooms) == RECENT + 2


async def test_one_slow_commit_keeps_the_next_ones_out_of_the_event_loop(timed: tuple[Database, Disk]) -> None:
    database, disk = timed
    loops = threading.get_ident()
    assert await database.write(disk.change(0.05), brief=True) == loops
    for took in [0.05] * RECENT + [0.0] * RECENT:  # a disk that stays slow holds nobody up again
        assert await database.write(disk.change(took), brief=True) != loops
    for _ in range(4 * RECENT):
        await database.write(disk.change(0.0))
    assert await database.write(disk.change(0.0), brief=True) == loops


async def test_a_disk_that_was_never_seen_is_not_tried_in_the_event_loop(sqlite_url: str) -> None:
    disk = Disk()
    database = Database(sqlite_url, clock=disk)
    await database.start()
    assert await database.write(disk.change(0.0), brief=True) != threading.get_ident()
    await database.stop()


async def test_a_brief_write_waits_for_another_process_in_the_thread(timed: tuple[Database, Disk]) -> None:
    database, disk = timed
    other = sqlite3.connect(database.url.database or "", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waiting = asyncio.create_task(database.write(disk.change(0.0), brief=True))
    assert await database.read(count_rooms) == RECENT  # the event loop has time for this
    assert not waiting.done()
    other.execute("COMMIT")
    other.close()
    assert await waiting != threading.get_ident()
    assert await database.write(pragmas(WRITER)) == WRITER


async def test_a_brief_write_waits_for_the_one_under_way(timed: tuple[Database, Disk]) -> None:
    database, disk = timed
    brief_asked = threading.Event()

    def change(conn: Connection) -> None:
        assert brief_asked.wait(10)
        add_room(conn, 100)

    first = asyncio.create_task(database.write(change))
    second = asyncio.create_task(database.write(lambda conn: (count_rooms(conn), disk.change(0.0)), brief=True))
    asyncio.get_running_loop().call_soon(brief_asked.set)
    assert (await second)[0] == RECENT + 1
    await first


async def test_a_brief_write_fails_as_any_other_and_leaves_nothing_half_written(timed: tuple[Database, Disk]) -> None:
    database, disk = timed
    await database.write(lambda conn: (add_user(conn), add_room(conn, 1)))
    with pytest.raises(IntegrityError):
        await database.write(lambda conn: (add_room(conn, 2), add_room(conn, 1)), brief=True)
    with pytest.raises(StoreUnavailable, match="full"):
        await database.write(fill, brief=True)
    assert await database.write(disk.change(0.0), brief=True) != threading.get_ident()  # after a probe
    assert await database.read(count_rooms) == RECENT + 2
    assert await database.read(count_entries) == 0
    assert await database.write(pragmas(WRITER)) == WRITER


@pytest.mark.parametrize("brief", [False, True])
async def test_a_function_that_hides_an_error_of_the_driver_is_rolled_back(
    timed: tuple[Database, Disk], brief: bool
) -> None:
    database, _ = timed

    def change(conn: Connection) -> None:
        add_room(conn, 100)
        with suppress(sqlite3.IntegrityError):
            on_driver(conn, "INSERT INTO room SELECT * FROM room WHERE id = ?", [1000])

    with pytest.raises(RuntimeError, match="savepoint"):
        await database.write(change, brief=brief)
    assert await database.read(count_rooms) == RECENT


async def test_a_function_that_hides_a_full_disk_from_the_driver_cannot_write_half(sqlite: Database) -> None:
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
    """Write until the disk is full: the connection may have two pages more than there are now."""
    pages = conn.exec_driver_sql("PRAGMA page_count").scalar_one()
    conn.exec_driver_sql(f"PRAGMA max_page_count={pages + 2}")
    add_room(conn, 2)
    add_entries(conn, 50, "x" * 1000)


async def test_a_full_disk_is_unavailable_and_leaves_nothing_half_written(sqlite: Database) -> None:
    await sqlite.write(lambda conn: (add_user(conn), add_room(conn, 1)))
    with pytest.raises(StoreUnavailable, match="full"):
        await sqlite.write(fill)
    assert await sqlite.read(count_rooms) == 1
    assert await sqlite.read(count_entries) == 0

    await sqlite.write(lambda conn: add_entries(conn, 50, "x" * 1000))
    assert await sqlite.read(count_entries) == 50
    assert await sqlite.write(pragmas(WRITER)) == WRITER


@pytest.mark.parametrize("savepoint", [False, True])
async def test_a_function_that_hides_a_full_disk_cannot_write_half(sqlite: Database, savepoint: bool) -> None:
    await sqlite.write(lambda conn: (add_user(conn), add_room(conn, 1)))

    def change(conn: Connection) -> None:
        try:
            if savepoint:
                with conn.begin_nested():
                    fill(conn)
            else:
                fill(conn)
        except OperationalError:
            add_room(conn, 3)  # SQLite has rolled back by itself, and would commit this by itself

    with pytest.raises(StoreUnavailable):
        await sqlite.write(change)
    assert await sqlite.read(count_rooms) == 1


async def test_nothing_is_written_after_a_failure_until_a_probe_succeeds(sqlite_url: str) -> None:
    # In a process of its own, which may write to no file for a while.
    command = [sys.executable, "-W", "error", "-m", "tests.db.test_sqlite", sqlite_url]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output, _ = await process.communicate()
    assert (process.returncode, output.decode()) == (0, "")


async def fail_and_recover(url: str) -> None:
    database = Database(url)
    await database.start()
    await database.write(lambda conn: (add_user(conn), add_room(conn, 1)))
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ran = []

    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    with pytest.raises(StoreUnavailable):
        await database.write(lambda conn: (add_room(conn, 2), add_entries(conn, 50, "x" * 1000)))
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await database.write(lambda conn: ran.append("refused before it ran"))
        with pytest.raises(StoreUnavailable):
            await database.probe()
    assert ran == []
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
