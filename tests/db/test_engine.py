"""The guarantees of `Database` on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

import asyncpg
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.util import await_only

from tests.db.rows import add_entries, add_room, add_user, count_entries, count_rooms
from tidings_db.engine import Database, StoreUnavailable
from tidings_db.failures import Translating


async def test_a_write_survives_a_restart(database: Database) -> None:
    await database.write(lambda conn: add_room(conn, 1))
    await database.stop()
    await database.start()
    assert await database.read(count_rooms) == 1


async def test_write_returns_the_result_of_the_function(database: Database) -> None:
    assert await database.write(count_rooms) == 0


async def test_foreign_keys_are_enforced(database: Database) -> None:
    await database.write(lambda conn: add_room(conn, 1))
    with pytest.raises(IntegrityError):
        await database.write(lambda conn: add_entries(conn, 1, "by nobody"))
    assert await database.read(count_entries) == 0


async def test_a_failed_function_is_rolled_back_completely(database: Database) -> None:
    def change(conn: Connection) -> None:
        add_room(conn, 1)
        add_room(conn, 2)
        raise LookupError("raised by the function")

    with pytest.raises(LookupError, match="raised by the function"):
        await database.write(change)
    assert await database.read(count_rooms) == 0
    await database.write(lambda conn: add_room(conn, 3))
    assert await database.read(count_rooms) == 1


async def test_a_repeated_key_is_an_integrity_error_and_the_next_write_works(database: Database) -> None:
    await database.write(lambda conn: add_room(conn, 1))

    def change(conn: Connection) -> None:
        add_room(conn, 2)
        add_room(conn, 1)

    with pytest.raises(IntegrityError):
        await database.write(change)
    assert await database.read(count_rooms) == 1
    await database.write(lambda conn: add_room(conn, 2))
    assert await database.read(count_rooms) == 2


async def test_a_function_can_continue_after_an_error_in_a_savepoint(database: Database) -> None:
    def change(conn: Connection) -> str:
        add_room(conn, 1)
        try:
            with conn.begin_nested():
                add_room(conn, 1)
        except IntegrityError:
            return "repeated"
        return "new"

    assert await database.write(change) == "repeated"
    assert await database.read(count_rooms) == 1


async def test_a_function_that_hides_an_error_does_not_commit(database: Database) -> None:
    def change(conn: Connection) -> None:
        add_room(conn, 1)
        with suppress(IntegrityError):
            add_room(conn, 1)
        # PostgreSQL has aborted the transaction by now, and would answer COMMIT without an error.

    with pytest.raises(RuntimeError, match="savepoint"):
        await database.write(change)
    assert await database.read(count_rooms) == 0
    await database.write(lambda conn: add_room(conn, 1))
    assert await database.read(count_rooms) == 1


async def test_an_invalid_statement_is_not_reported_as_unavailable(database: Database) -> None:
    for attempt in (database.write, database.read):
        with pytest.raises(DBAPIError, match="nonsense"):
            await attempt(lambda conn: conn.execute(text("SELECT * FROM nonsense")))
    await database.write(lambda conn: add_room(conn, 1))


async def test_cancelling_the_caller_does_not_interrupt_the_commit(database: Database) -> None:
    loop = asyncio.get_running_loop()
    begun, cancelled = asyncio.Event(), threading.Event()

    def change(conn: Connection) -> None:
        add_room(conn, 1)
        loop.call_soon_threadsafe(begun.set)
        if database.is_sqlite:  # in its own thread; on PostgreSQL the next statement yields to the loop
            assert cancelled.wait(10)
        add_room(conn, 2)

    caller = asyncio.create_task(database.write(change))
    await begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    cancelled.set()
    await database.stop()  # waits for the running transaction
    await database.start()
    assert await database.read(count_rooms) == 2


async def test_a_read_sees_one_snapshot(database: Database) -> None:
    loop = asyncio.get_running_loop()

    def query(conn: Connection) -> tuple[int, int]:
        before = count_rooms(conn)
        write = database.write(lambda writer: add_room(writer, 1))
        if database.is_sqlite:  # in its own thread
            asyncio.run_coroutine_threadsafe(write, loop).result()
        else:
            await_only(write)
        return before, count_rooms(conn)

    assert await database.read(query) == (0, 0)
    assert await database.read(count_rooms) == 1


async def test_a_read_cannot_write(database: Database) -> None:
    with pytest.raises(DBAPIError, match=r"read-?only"):
        await database.read(lambda conn: add_room(conn, 1))
    await database.write(lambda conn: add_room(conn, 2))  # the next user of that connection
    assert await database.read(count_rooms) == 1


async def test_cancelled_reads_do_not_use_up_the_connections(database: Database) -> None:
    slow = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) SELECT max(i) FROM n"
    loop = asyncio.get_running_loop()
    for _ in range(25):
        begun = asyncio.Event()

        def query(conn: Connection, begun: asyncio.Event = begun) -> None:
            loop.call_soon_threadsafe(begun.set)
            conn.execute(text(slow))

        caller = asyncio.create_task(database.read(query))
        await begun.wait()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
    assert await asyncio.gather(*(database.read(count_rooms) for _ in range(8))) == [0] * 8


async def test_concurrent_writes_all_take_effect(database: Database) -> None:
    await asyncio.gather(*(database.write(lambda conn, n=n: add_room(conn, n)) for n in range(1, 41)))
    assert await database.read(count_rooms) == 40


async def test_a_probe_leaves_no_trace(database: Database) -> None:
    await database.write(add_user)
    await database.probe()
    await database.probe()
    await database.write(lambda conn: add_room(conn, 1))
    assert await database.read(count_rooms) == 1


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////nowhere/at/all",
        "sqlite:///{not_a_database}",
        "postgresql+asyncpg://nobody@127.0.0.1:1/none",
    ],
)
async def test_a_failed_start_is_unavailable_and_leaves_no_thread(url: str) -> None:
    threads = set(threading.enumerate())
    database = Database(url.format(not_a_database=__file__))
    with pytest.raises(StoreUnavailable):
        await database.start()
    assert set(threading.enumerate()) <= threads


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://localhost/x"])
def test_an_unsupported_url_is_refused_immediately(url: str) -> None:
    with pytest.raises(ValueError, match="SQLite"):
        Database(url)


def test_an_ended_session_of_postgresql_is_reported_as_such() -> None:
    """The driver's own text is about the states of the protocol."""
    with pytest.raises(StoreUnavailable, match=r"^PostgreSQL has ended the connection$"), Translating():
        raise asyncpg.InternalClientError("cannot switch to state 15; another operation (2) is in progress")
