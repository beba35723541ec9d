from __future__ import annotations

import asyncio
from functools import partial

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.engine import URL, make_url

from db.engine import Database, Durability, StoreUnavailable
from db.queries import users
from tests.db import postgresql
from tests.db.rows import add_room, count_rooms


@pytest.mark.parametrize(("durability", "commit"), [("full", "on"), ("normal", "off")])
async def test_a_commit_waits_for_the_disk_unless_configured_otherwise(
    postgresql_url: str, durability: Durability, commit: str
) -> None:
    database = Database(postgresql_url, durability)
    await database.start()
    show = text("SHOW synchronous_commit")
    assert await database.write(lambda conn: conn.execute(show).scalar_one()) == commit
    await database.stop()


async def test_a_connection_lost_during_a_write_is_unavailable_and_the_next_write_works(
    postgres: Database, postgresql_url: str
) -> None:
    def change(conn: Connection) -> None:
        add_room(conn, 1)
        conn.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(StoreUnavailable):
        await postgres.write(change)
    await postgres.write(lambda conn: add_room(conn, 2))
    assert await postgres.read(count_rooms) == 1


async def test_a_commit_that_does_not_wait_for_the_disk_does_not_show_that_it_works(postgres: Database) -> None:
    await postgres.write(lambda conn: add_room(conn, 1), lazy=True)
    assert not postgres.wrote_within(3600)
    await postgres.write(lambda conn: add_room(conn, 2))
    assert postgres.wrote_within(3600)


async def test_connections_lost_between_transactions_are_replaced_silently(
    postgres: Database, postgresql_url: str
) -> None:
    await asyncio.gather(*(postgres.write(lambda conn, n=n: add_room(conn, n)) for n in range(1, 6)))
    await asyncio.to_thread(
        postgresql.execute,
        postgresql_url,
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    await asyncio.gather(*(postgres.write(lambda conn, n=n: add_room(conn, n)) for n in range(6, 11)))
    assert await postgres.read(count_rooms) == 10


@pytest.mark.parametrize(
    "sqlstate",
    ["53100", "40P01", "57P01", "58030", "25006"],
    ids=["disk full", "deadlock", "shutting down", "I/O error", "standby"],
)
async def test_a_write_to_a_failing_server_is_unavailable_and_rolled_back(postgres: Database, sqlstate: str) -> None:
    def change(conn: Connection) -> None:
        add_room(conn, 1)
        conn.execute(text(f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{sqlstate}'; END $$"))

    with pytest.raises(StoreUnavailable):
        await postgres.write(change)
    assert await postgres.read(count_rooms) == 0


async def test_a_probe_of_a_read_only_database_fails(postgres: Database, postgresql_url: str) -> None:
    await postgres.probe()
    await postgres.stop()
    name = postgres.url.database
    await asyncio.to_thread(
        postgresql.execute, postgresql_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on"
    )
    await postgres.start()
    with pytest.raises(StoreUnavailable):
        await postgres.probe()


async def test_a_pooler_that_drops_the_durability_setting_is_detected(postgresql_url: str) -> None:
    url = make_url(postgresql_url)
    await asyncio.to_thread(
        postgresql.execute, postgresql_url, f"ALTER DATABASE {url.database} SET synchronous_commit = off"
    )
    async with await asyncio.start_server(partial(forget_durability, url), "127.0.0.1", 0) as pooler:
        host, port = pooler.sockets[0].getsockname()
        database = Database(url.set(host=host, port=port, query={}).render_as_string(hide_password=False))
        with pytest.raises(StoreUnavailable, match="synchronous_commit"):
            await database.start()


async def forget_durability(url: URL, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
    """Forward a connection to the server without the settings of its startup message."""
    folder, port = url.query.get("host"), url.port or url.query.get("port", 5432)
    if folder:
        server_in, server_out = await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.{port}")
    else:
        server_in, server_out = await asyncio.open_connection(url.host, port)

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            sink.write(data)
        sink.close()

    async def message() -> bytes:
        length = await client_in.readexactly(4)
        return await client_in.readexactly(int.from_bytes(length, "big") - 4)

    startup = await message()
    while startup[:2] != b"\x00\x03":  # PostgreSQL's manual, 55.7: a client may request TLS first
        client_out.write(b"N")
        startup = await message()
    startup = startup.replace(b"synchronous_commit\x00on\x00", b"")
    server_out.write((len(startup) + 4).to_bytes(4, "big") + startup)
    await asyncio.gather(copy(client_in, server_out), copy(server_in, client_out))


async def test_a_transaction_that_loses_a_deadlock_runs_again(postgresql_url: str) -> None:
    """Two nodes change two users in opposite orders; PostgreSQL rolls one of them back."""
    nodes = [Database(postgresql_url), Database(postgresql_url)]
    for node in nodes:
        await node.start()
    keys = [await nodes[0].write(partial(_add_user, name)) for name in ("omar", "diego")]
    begun: set[int] = set()
    runs = 0

    def touch(conn: Connection, me: int, order: list[int]) -> None:
        nonlocal runs
        runs += 1
        users.touch(conn, order[0], me)
        begun.add(me)
        while len(begun) < 2:
            conn.execute(text("SELECT 1"))  # the other one runs meanwhile
        users.touch(conn, order[1], me)

    await asyncio.gather(
        nodes[0].write(lambda conn: touch(conn, 1, keys)), nodes[1].write(lambda conn: touch(conn, 2, keys[::-1]))
    )
    assert runs == 3
    for node in nodes:
        await node.stop()


def _add_user(name: str, conn: Connection) -> int:
    key = users.add(conn, name, None, 0)
    assert key is not None
    return key
