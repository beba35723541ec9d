"""Nodes hold leases on PostgreSQL, by which they know each other."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
from sqlalchemy import Connection, select

from tests.delivery.support import make_topic
from tests.nodes.conftest import SOON, Registry, registry_of
from tests.support.client import connected
from tests.support.locks import locked
from tests.support.node import SECRET_KEY, running_node
from tidings import __version__
from tidings.auth.tokens import fingerprint
from tidings_db.connections import on_postgresql
from tidings_db.engine import Database
from tidings_db.models import node_leases
from tidings_db.postgresql import MAX_CONNECTIONS
from tidings_db.queries import epochs
from tidings_db.queries.nodes import KEPT_MS


async def _insert(url: str, node_id: str, lease_ms: int) -> None:
    """Add the row of a node that has `lease_ms` left, and does not renew."""
    conn = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        await conn.execute(
            "INSERT INTO node SELECT $1, $1, '0', now, now + $2, false"
            " FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now) clock",
            node_id,
            lease_ms,
        )
    finally:
        await conn.close()


async def test_nodes_know_each_other_from_start_to_stop(
    postgresql_url: str, tmp_path: Path, registry: Registry
) -> None:
    async with running_node(postgresql_url, tmp_path, options=SOON, node_name="first") as one:
        first = one.node.cluster.registry
        assert first.others == set()
        async with running_node(postgresql_url, tmp_path, options=SOON) as two:
            assert two.node.cluster.registry.others == {one.node.id}
            rows = await registry.until(lambda _: first.others == {two.node.id})
            assert rows.keys() == {one.node.id, two.node.id}
            assert rows[one.node.id].name == "first"
            assert rows[two.node.id].name == two.node.name != "first"
            assert all(row.live and not row.leaving and row.version == __version__ for row in rows.values())
        assert (await registry.rows()).keys() == {one.node.id}, "a node that stops removes its row"
        await registry.until(lambda _: not first.others)


async def test_a_lease_is_renewed_for_as_long_as_the_node_runs(
    postgresql_url: str, tmp_path: Path, registry: Registry
) -> None:
    async with running_node(postgresql_url, tmp_path, options=SOON) as one:
        begin = (await registry.rows())[one.node.id]
        later = await registry.until(lambda rows: rows[one.node.id].lease_until > begin.lease_until + 1500)
        assert later[one.node.id].live
        assert later[one.node.id].started_at == begin.started_at


async def test_a_node_that_renews_no_more_has_ended_when_its_lease_has(
    postgresql_url: str, tmp_path: Path, registry: Registry
) -> None:
    watching = registry_of(registry.database, "watching", lease_s=0.5)
    async with running_node(postgresql_url, tmp_path, options=SOON) as dying:
        await watching.enter([fingerprint(SECRET_KEY.encode())])
        assert watching.others == {dying.node.id}
        dying.node.cluster.registry.loop.cancel()
        lease_until = (await registry.rows())[dying.node.id].lease_until
        rows = await registry.until(lambda _: not watching.others)
        row = rows[dying.node.id]
        assert not row.live
        assert row.lease_until == lease_until, "its row stays for a while"
        dying.node.cluster.registry.loop.start()
        await registry.until(lambda _: watching.others == {dying.node.id})
    await watching.stop()


async def test_a_node_returns_after_its_lease_or_its_row_was_lost(
    postgresql_url: str, tmp_path: Path, registry: Registry
) -> None:
    async with running_node(postgresql_url, tmp_path, options=SOON) as one:
        conn = await asyncpg.connect(postgresql_url.replace("+asyncpg", ""))
        await conn.execute("DELETE FROM node")
        await conn.close()
        await registry.until(lambda rows: one.node.id in rows and rows[one.node.id].live)


async def test_rows_of_nodes_that_ended_long_ago_are_removed(
    postgresql_url: str, tmp_path: Path, registry: Registry
) -> None:
    await _insert(postgresql_url, "long ago", -KEPT_MS - 1000)
    await _insert(postgresql_url, "just now", -KEPT_MS + 60_000)
    async with running_node(postgresql_url, tmp_path, options=SOON) as one:
        assert (await registry.rows()).keys() == {"just now", one.node.id}
        assert one.node.cluster.registry.others == set()


async def test_a_node_that_stops_says_so_before_it_closes_its_connections(
    postgresql_url: str, tmp_path: Path, registry: Registry
) -> None:
    async with running_node(postgresql_url, tmp_path, options=SOON) as one:
        token = await one.register("omar")
        room_id = await make_topic(one.url, token, "noticias")
        async with connected(one.url, token) as omar:
            async with locked(postgresql_url, room_id):
                message = asyncio.ensure_future(omar.ask("message", room_id=room_id, content="hola"))
                await omar.ask("get_rooms")  # the message has arrived, too: its action is running
                stopping = asyncio.ensure_future(one.stop())
                rows = await registry.until(lambda rows: rows[one.node.id].leaving)
                assert rows[one.node.id].live, "the others still count on it"
                assert not omar.of("closing")
            assert (await message)["content"] == "hola"
            await omar.event("closing")
            await stopping
    assert await registry.rows() == {}


async def test_a_database_that_is_away_delays_stopping_only_briefly(postgresql_url: str) -> None:
    database = Database(postgresql_url)
    await database.start()
    node = registry_of(database, "one")
    await database.write(lambda conn: epochs.ensure_instance(conn, "x"))
    await node.enter(["x"])
    blocking = await asyncpg.connect(postgresql_url.replace("+asyncpg", ""))
    async with blocking.transaction():
        await blocking.execute("LOCK TABLE node")
        await asyncio.wait_for(node.leave(), 3)
    await blocking.close()
    await node.stop()
    await database.stop()


async def test_sqlite_has_one_node_without_a_lease(sqlite_url: str, tmp_path: Path) -> None:
    async with running_node(sqlite_url, tmp_path) as one:
        assert one.node.cluster.staying == frozenset()
        assert await one.node.database.read(_leases) == []


def _leases(conn: Connection) -> list[object]:
    return list(conn.execute(select(node_leases)))


def _read_slowly(conn: Connection) -> None:
    """Until nobody holds the lock 1."""
    for sql in (
        "SET LOCAL lock_timeout TO 0",
        "SET LOCAL statement_timeout TO 0",
        "SELECT pg_advisory_lock_shared(1)",
    ):
        on_postgresql(conn, sql)


async def test_a_lease_is_renewed_while_slow_reads_use_all_connections(
    postgresql_url: str, tmp_path: Path, registry: Registry
) -> None:
    async with running_node(postgresql_url, tmp_path, options=SOON) as one:
        other = await asyncpg.connect(postgresql_url.replace("+asyncpg", ""))
        try:
            await other.execute("SELECT pg_advisory_lock(1)")
            slow = [asyncio.ensure_future(one.node.database.read(_read_slowly)) for _ in range(100)]
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            while await other.fetchval(waiting) < MAX_CONNECTIONS:
                assert not any(task.done() for task in slow)
            begin = (await registry.rows())[one.node.id]
            assert begin.live
            later = await registry.until(lambda rows: rows[one.node.id].lease_until > begin.lease_until + 1000)
            assert later[one.node.id].live
            assert not any(task.done() for task in slow)
        finally:
            await other.close()
        await asyncio.gather(*slow, return_exceptions=True)
