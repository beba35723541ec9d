"""The files of an open SQLite database are removed, replaced, truncated or damaged."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection

import tidings_db.sqlite
from tests.db.conftest import opened
from tests.db.rows import add_room, count_rooms
from tidings_db.connections import READERS
from tidings_db.engine import Database, StoreUnavailable, Write


@pytest.fixture
def path(sqlite_url: str) -> Path:
    return Path(sqlite_url.removeprefix("sqlite:///"))


@pytest.fixture
async def database(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    """An open database with three rooms that checks its files before each transaction."""
    monkeypatch.setattr(tidings_db.sqlite, "FILES_S", 0.0)
    async with opened(sqlite_url) as database:
        await add(database, 1, 2, 3)
        yield database


async def add(database: Database, *keys: int) -> None:
    for key in keys:
        await database.write(lambda conn, key=key: add_room(conn, key))  # type: ignore[misc]


def rooms_in(path: Path) -> int:
    """The number of rooms that another connection counts; the file must be intact."""
    with closing(sqlite3.connect(path)) as reader:
        assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        (count,) = reader.execute("SELECT count(*) FROM room").fetchone()
        return int(count)


def overwrite(path: Path) -> None:
    """Overwrite all pages except the first."""
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))


def together(query: Callable[[Connection], int]) -> Callable[[Connection], int]:
    """A read that waits until all readers are reading."""
    return lambda conn: (BARRIER.wait(30), query(conn))[1]


BARRIER = threading.Barrier(READERS)


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
@pytest.mark.parametrize("replaced", [False, True], ids=["gone", "replaced"])
async def test_nothing_is_committed_while_files_are_missing_or_replaced(
    database: Database, path: Path, suffix: str, replaced: bool, caplog: pytest.LogCaptureFixture
) -> None:
    file, aside = f"{path}{suffix}", f"{path}-aside"
    os.rename(file, aside)
    if replaced:
        shutil.copy(aside, file)
    for how in (Write.BRIEF, Write.NORMAL, Write.BRIEF):
        with pytest.raises(StoreUnavailable, match="missing or replaced"):
            await database.write(lambda conn: add_room(conn, 4), how)
        assert not database.wrote_within(1e9)
    with pytest.raises(StoreUnavailable):
        await database.probe()
    assert await asyncio.gather(*(database.read(together(count_rooms)) for _ in range(READERS))) == [3] * READERS
    assert os.access(file, os.F_OK) == replaced, "no new file may replace it"
    assert caplog.text.count("until the file is back") == 1, "logged only once"
    os.rename(aside, file)
    await add(database, 5)
    assert await database.read(count_rooms) == 4
    await database.stop()
    assert rooms_in(path) == 4


async def test_the_content_of_a_deleted_log_is_saved_into_the_database(
    database: Database, path: Path, tmp_path: Path
) -> None:
    os.unlink(f"{path}-wal")
    with pytest.raises(StoreUnavailable):
        await add(database, 4)
    assert rooms_in(Path(shutil.copy(path, tmp_path / "alone"))) == 3
    await database.stop()
    assert rooms_in(path) == 3


@pytest.mark.parametrize("size", [0, 1, 40])
async def test_a_truncated_log_is_neither_written_nor_checkpointed(
    database: Database, path: Path, tmp_path: Path, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    os.truncate(f"{path}-wal", size)
    for key in (4, 5):
        with pytest.raises(StoreUnavailable, match="cut"):
            await add(database, key)
    assert os.stat(f"{path}-wal").st_size == size
    assert "damaged" in caplog.text
    await database.stop()
    assert rooms_in(Path(shutil.copy(path, tmp_path / "alone"))) == 0, "missing pages are not written as zeros"


async def test_a_log_that_was_truncated_and_appended_to_is_not_checkpointed(
    database: Database, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tidings_db.sqlite, "FILES_S", 1e9)
    os.truncate(f"{path}-wal", 0)
    await add(database, 4)  # the files were checked just before the cut
    await database._store.checkpoint()  # type: ignore[union-attr]
    with pytest.raises(StoreUnavailable, match="cut"):
        await add(database, 5)
    await database.stop()
    assert rooms_in(Path(shutil.copy(path, tmp_path / "alone"))) == 0


async def test_a_log_that_another_process_checkpointed_and_emptied_is_used_further(
    database: Database, path: Path
) -> None:
    with closing(sqlite3.connect(path)) as second:
        assert second.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
        assert os.stat(f"{path}-wal").st_size == 0
        await add(database, 4, 5)
    await database.stop()
    assert rooms_in(path) == 5


async def test_damage_found_by_any_connection_stops_all_writes(
    database: Database, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await database._store.checkpoint()  # type: ignore[union-attr]
    overwrite(path)
    await add(database, 4)  # the writer has its pages in its cache
    with pytest.raises(StoreUnavailable, match="malformed"):
        await database.read(lambda conn: conn.exec_driver_sql("SELECT * FROM entry, user, device").all())
    assert not database.wrote_within(1e9)
    with pytest.raises(StoreUnavailable, match="damaged"):
        await add(database, 5)
    assert "nothing is written until" in caplog.text
