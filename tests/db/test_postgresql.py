from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import asyncpg
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.engine import URL, make_url

from tests.db.conftest import opened
from tests.db.rows import add_room, count_rooms
from tidings.testing import postgresql
from tidings_db.engine import Database, Durability, Locks, StoreUnavailable, Write
from tidings_db.postgresql import HOLDING
from tidings_db.queries import users


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
    await postgres.write(lambda conn: add_room(conn, 1), Write.LAZY)
    assert not postgres.wrote_within(3600)
    await postgres.write(lambda conn: add_room(conn, 2))
    assert postgres.wrote_within(3600)


async def test_a_write_of_a_node_that_was_frozen_in_its_transaction_runs_again(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(HOLDING, "idle_in_transaction_session_timeout", "100ms")
    runs = []

    def change(conn: Connection) -> None:
        runs.append(conn.execute(text("SELECT pg_backend_pid()")).scalar_one())
        add_room(conn, 1)
        if len(runs) == 1:  # the event loop stands still until PostgreSQL has ended the session
            frozen = threading.Thread(target=until_gone, args=(postgresql_url, runs[0]))
            frozen.start()
            frozen.join()
        add_room(conn, 2)

    async with opened(postgresql_url) as postgres:
        await postgres.write(change)
        assert await postgres.read(count_rooms) == 2
    assert len(runs) == 2


def until_gone(url: str, pid: int) -> None:
    """Wait until a session of the server has ended."""

    async def wait() -> None:
        conn = await asyncpg.connect(url.replace("+asyncpg", ""))
        while await conn.fetchval("SELECT 1 FROM pg_stat_activity WHERE pid = $1", pid):
            pass
        await conn.close()

    asyncio.run(wait())


async def test_a_read_whose_connection_is_lost_runs_again(postgres: Database) -> None:
    runs = []

    def query(conn: Connection) -> int:
        runs.append(conn)
        if len(runs) == 1:
            conn.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        return count_rooms(conn)

    assert await postgres.read(query) == 0


async def test_a_write_whose_connection_is_lost_during_commit_does_not_run_again(postgres: Database) -> None:
    """It may have taken effect."""
    await postgres.write(
        lambda conn: [
            conn.execute(text(statement))
            for statement in (
                "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$",
                "CREATE CONSTRAINT TRIGGER lose AFTER INSERT ON room DEFERRABLE INITIALLY DEFERRED"
                " FOR EACH ROW EXECUTE FUNCTION lose()",
            )
        ]
    )
    runs = []

    def change(conn: Connection) -> None:
        runs.append(conn)
        add_room(conn, 1)

    with pytest.raises(StoreUnavailable):
        await postgres.write(change)
    assert len(runs) == 1


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
    async with pooler(postgresql_url, forget=("synchronous_commit",)) as pooled:
        with pytest.raises(StoreUnavailable, match="synchronous_commit"):
            await Database(pooled).start()


async def test_limits_that_a_pooler_drops_are_warned_of(
    postgresql_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        pooler(postgresql_url, forget=("idle_in_transaction_session_timeout",)) as url,
        opened(url) as database,
    ):
        await database.probe()
    assert "did not accept idle_in_transaction_session_timeout=3s, it has 0" in caplog.text


async def test_a_pooler_that_refuses_limits_is_served_without_them(
    postgresql_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with pooler(postgresql_url, refuse="tcp_user_timeout") as url, opened(url) as database:
        await database.probe()
    assert "did not accept idle_in_transaction_session_timeout=3s, it has 0" in caplog.text


async def test_all_limits_hold(postgres: Database, caplog: pytest.LogCaptureFixture) -> None:
    assert not caplog.records
    names = [*HOLDING, "client_connection_check_interval"]
    shown = text("SELECT " + ", ".join(f"current_setting('{name}')" for name in names))
    assert await postgres.write(lambda conn: tuple(conn.execute(shown).one())) == ("3s", "30s", "1s")
    assert await postgres.write(lambda conn: tuple(conn.execute(shown).one()), locks=Locks([1])) == (
        "3s",
        "10s",
        "1s",
    )


@asynccontextmanager
async def pooler(postgresql_url: str, *, forget: Sequence[str] = (), refuse: str = "") -> AsyncIterator[str]:
    """A connection pooler, which forgets settings of the startup message, or refuses connections with one."""
    url = make_url(postgresql_url)
    forward = partial(forward_connection, url, forget=forget, refuse=refuse)
    async with await asyncio.start_server(forward, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield url.set(host=host, port=port, query={}).render_as_string(hide_password=False)


async def forward_connection(
    url: URL,
    client_in: asyncio.StreamReader,
    client_out: asyncio.StreamWriter,
    *,
    forget: Sequence[str],
    refuse: str,
) -> None:
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
    settings = startup[4:].rstrip(b"\x00").split(b"\x00")
    pairs = [pair for pair in zip(settings[::2], settings[1::2], strict=True) if pair[0].decode() not in forget]
    if refuse.encode() in dict(pairs):  # like PgBouncer
        error = b"SFATAL\x00C08P01\x00Munsupported startup parameter\x00\x00"
        client_out.write(b"E" + (len(error) + 4).to_bytes(4, "big") + error)
        client_out.close()
        server_out.close()
        return
    startup = startup[:4] + b"".join(b"%b\x00%b\x00" % pair for pair in pairs) + b"\x00"
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


async def test_last_seen_does_not_go_back_when_another_node_writes_it_late(postgres: Database) -> None:
    user = await postgres.write(lambda conn: users.add(conn, "omar", None, 0)) or 0
    device = (await postgres.write(lambda conn: users.add_device(conn, user, "phone", 0))).key
    for when in (200, 100):
        await postgres.write(lambda conn, when=when: users.touch_all(conn, {(user, device): when}))
    row = await postgres.read(lambda conn: users.by_key(conn, "omar"))
    seen = await postgres.read(lambda conn: users.device(conn, user, "phone"))
    assert row is not None
    assert seen is not None
    assert (row.last_seen, seen.seen_at) == (200, 200)
