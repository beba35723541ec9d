"""`tidings_publish` in the transactions of an application: what its callers and the members of its rooms rely on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.delivery.support import make_topic
from tests.support.client import Client, connected
from tests.support.node import RunningNode, running_node
from tests.support.process import ServerProcess
from tests.support.redis import redis_server
from tidings.contract import events
from tidings.contract.actions import MAX_EVENT_DATA
from tidings.contract.events import EVENTS
from tidings_db.outbox_functions import SIGNATURE

pytestmark = pytest.mark.long  # PostgreSQL only

PUBLISH = "SELECT tidings_publish($1, $2, $3, $4)"
ROUNDS = 20
DIE = """
CREATE SEQUENCE lives;
CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('lives') % 3 <> 0 THEN
        PERFORM pg_terminate_backend(pg_backend_pid());
    END IF;
    RETURN NULL;
END $$;
"""
"""The backend of a node dies in its first two transactions of each round, one of which runs again by itself."""
DEATHS = {
    "the row is deleted": "CREATE TRIGGER die AFTER DELETE ON outbox FOR EACH ROW WHEN (OLD.data::int % 3 = 0)",
    "the entry is written": "CREATE TRIGGER die AFTER INSERT ON entry FOR EACH ROW WHEN (NEW.data::int % 3 = 0)",
    "it commits": "CREATE CONSTRAINT TRIGGER die AFTER DELETE ON outbox DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
    " WHEN (OLD.data::int % 3 = 0)",
}


class Application:
    """An application with connections to the database, and the user omar, who is in the topic `orders`."""

    def __init__(self, sql: Sequence[asyncpg.Connection[Any]], omar: Client) -> None:
        self.sql, self.another, self.observer = sql
        self.omar = omar

    async def publish(self, data: object, client_id: str | None = None, event: str = "order") -> None:
        await self.sql.execute(PUBLISH, "orders", event, str(data), client_id)

    async def heard(self, count: int) -> list[Any]:
        """The data of the first events, and of any that came up to another one published after them."""
        await self.omar.until(lambda: len(self.omar.of("order")) >= count)
        await self.publish(0, event="last")
        await self.omar.event("last")
        assert await self.sql.fetchval("SELECT count(*) FROM outbox") == 0
        seqs = [payload["seq"] for name, payload in self.omar.events if name in ("order", "last")]
        assert seqs == sorted(set(seqs))
        return [payload["data"] for payload in self.omar.of("order")]


@pytest.fixture
async def nodes(postgresql_url: str, tmp_path: Path) -> AsyncIterator[list[RunningNode]]:
    async with running_node(postgresql_url, tmp_path) as one, running_node(postgresql_url, tmp_path) as other:
        yield [one, other]


@pytest.fixture
async def app(postgresql_url: str, nodes: list[RunningNode]) -> AsyncIterator[Application]:
    async with application(postgresql_url, nodes[0], nodes[1]) as app:
        yield app


@contextlib.asynccontextmanager
async def application(database_url: str, node: RunningNode, of_omar: RunningNode) -> AsyncIterator[Application]:
    token = await node.register("omar")
    await make_topic(node.url, token, "orders")
    async with AsyncExitStack() as stack:
        connections = []
        for _ in range(3):
            connection = await asyncpg.connect(database_url.replace("+asyncpg", ""))
            stack.push_async_callback(connection.close)
            connections.append(connection)
        yield Application(connections, await stack.enter_async_context(connected(of_omar.url, token)))


async def test_an_event_is_delivered_after_the_commit_and_not_before(app: Application) -> None:
    async with app.sql.transaction():
        await app.sql.execute("SELECT tidings_publish('orders', 'order', '{\"b\": 1, \"a\": [2.50]}', 'order-17')")
        await app.another.execute(PUBLISH, "Orders", "other", "1", None)
        await app.omar.event("other")  # a later event of another transaction does not wait for this one
        assert app.omar.of("order") == []
    event = await app.omar.event("order")
    (other,) = app.omar.of("other")
    assert (event["data"], event["sender"], event["topic_name"]) == ({"b": 1, "a": [2.5]}, "server", "orders")
    assert event["seq"] == other["seq"] + 1
    assert await app.omar.ask("get_events", topic_name="orders", event="order") == {
        "events": [event],
        "has_more": False,
    }


async def test_an_event_of_a_transaction_that_is_rolled_back_is_never_delivered(app: Application) -> None:
    async with app.sql.transaction():
        await app.publish(1)
        savepoint = app.sql.transaction()
        await savepoint.start()
        await app.publish(2)
        await savepoint.rollback()
    rolled_back = app.sql.transaction()
    await rolled_back.start()
    await app.publish(3)
    await rolled_back.rollback()
    assert await app.heard(1) == [1]


async def test_events_are_in_the_order_of_the_commits(app: Application) -> None:
    """Whichever transaction began first, or was first to publish."""
    expected = []
    async with app.sql.transaction():
        await app.sql.execute("SELECT pg_current_xact_id()")
        await app.sql.execute(PUBLISH, "orders", "order", "1", None)
        async with app.another.transaction():
            await app.another.execute(PUBLISH, "orders", "order", "2", None)
            await app.sql.execute(PUBLISH, "orders", "order", "3", None)
            await app.another.execute(PUBLISH, "orders", "order", "4", None)
    assert await app.heard(4) == [2, 4, 1, 3]
    for number in range(5, 5 + 3 * ROUNDS, 3):
        mine, theirs = app.sql.transaction(), app.another.transaction()
        await mine.start()
        await theirs.start()
        await app.another.execute(PUBLISH, "orders", "order", str(number), None)
        await app.sql.execute(PUBLISH, "orders", "order", str(number + 1), None)
        await app.another.execute(PUBLISH, "orders", "order", str(number + 2), None)
        for transaction in (mine, theirs) if number % 2 else (theirs, mine):
            await transaction.commit()
        expected += [number + 1, number, number + 2] if number % 2 else [number, number + 2, number + 1]
    assert (await app.heard(4 + len(expected)))[4:] == expected


async def test_a_commit_waits_for_another_one_that_has_begun(app: Application, nodes: list[RunningNode]) -> None:
    await app.sql.execute(
        "CREATE TABLE own (id int); CREATE FUNCTION pause() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END';"
        "CREATE CONSTRAINT TRIGGER pause AFTER INSERT ON own DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
        " EXECUTE FUNCTION pause()"
    )
    await nodes[0].stop()
    await nodes[1].node.outbox.stop()

    async def commit(sql: asyncpg.Connection[Any], number: int) -> None:
        async with sql.transaction():
            await sql.execute(PUBLISH, "orders", "order", str(number), None)
            await sql.execute("INSERT INTO own SELECT 1 WHERE $1 = 1", number)

    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    await app.observer.execute("SELECT pg_advisory_lock(1)")
    first = asyncio.create_task(commit(app.sql, 1))
    while await app.observer.fetchval(waiting) < 1:
        pass
    second = asyncio.create_task(commit(app.another, 2))
    while await app.observer.fetchval(waiting) < 2 and not second.done():
        pass
    await app.observer.execute("SELECT pg_advisory_unlock(1)")
    await asyncio.gather(first, second)
    await nodes[0].start()
    assert await app.heard(2) == [1, 2]


async def test_an_event_with_a_client_id_is_delivered_once(app: Application) -> None:
    for number in range(3):
        async with app.sql.transaction():
            await app.publish(number, "once")
            await app.publish(number + 10, "once")
            await app.publish(number + 20)
    assert await app.heard(4) == [0, 20, 21, 22]
    await app.publish(1, "once")
    assert await app.heard(4) == [0, 20, 21, 22]


NESTED = "[" * 101 + "]" * 101
WRONG = {
    "no room": (("nowhere", "order", "1", None), "42704"),
    "no room given": ((None, "order", "1", None), "42704"),
    "an event that is no name": (("orders", "1 order", "1", None), "22023"),
    "an event that is no name in its second line": (("orders", "order\nx", "1", None), "22023"),
    "no event": (("orders", None, "1", None), "22023"),
    "a long event": (("orders", "x" * 65, "1", None), "22023"),
    "no JSON": (("orders", "order", "{", None), "22P02"),
    "half a character": (("orders", "order", r'"\ud800"', None), "22P02"),
    "no data": (("orders", "order", None, None), "22023"),
    "nested": (("orders", "order", NESTED, None), "22023"),
    "nested with a value": (("orders", "order", NESTED.replace("[]", "[1]"), None), "22023"),
    "a number": (("orders", "order", '{"a": [-1e400]}', None), "22023"),
    "long data": (("orders", "order", '"' + "é" * (MAX_EVENT_DATA // 2) + '"', None), "54000"),
    "an empty client_id": (("orders", "order", "1", ""), "22023"),
    "a long client_id": (("orders", "order", "1", "x" * 65), "22023"),
}


async def test_wrong_values_fail_in_sql_with_a_stable_code(app: Application) -> None:
    for wrong, (values, code) in WRONG.items():
        with pytest.raises(asyncpg.PostgresError) as refused:
            await app.sql.execute(PUBLISH, *values)
        assert refused.value.sqlstate == code, wrong
        assert code == "22P02" or refused.value.hint, wrong  # type: ignore[attr-defined]
    for name in [*EVENTS, *events._RESERVED]:
        with pytest.raises(asyncpg.ReservedNameError):
            await app.publish(1, event=name)
    allowed = [f'"{"x" * (MAX_EVENT_DATA - 2)}"', "null", " [1.7e308] ", NESTED[1:-1], '{"a": "[["}']
    for data in allowed:
        await app.publish(data)
    await app.sql.execute(PUBLISH, "orders", "x" * 64, "1", "x" * 64)
    assert len(await app.heard(len(allowed))) == len(allowed)


async def test_rooms_are_found_by_topic_name_and_by_room_id(app: Application) -> None:
    topics = ["Straße", "İstanbul", "ΟΔΟΣ", "ﬁle"]
    for topic in topics:
        room_id = (await app.omar.ask("create", topic_name=topic))["room_id"]
        for room in (topic, room_id):
            await app.sql.execute(PUBLISH, room, "found", "1", None)
        # A name in the form of an id does not take the place of the id.
        await app.omar.ask("create", topic_name=room_id)
        await app.sql.execute(PUBLISH, room_id, "found", "1", None)
    await app.omar.until(lambda: len(app.omar.of("found")) == 3 * len(topics))
    assert [payload["topic_name"] for payload in app.omar.of("found")].count("ﬁle") == 3
    assert {payload["topic_name"] for payload in app.omar.of("found")} == set(topics)


async def test_nobody_may_publish_without_a_grant(app: Application) -> None:
    role = f"tidings_test_{await app.sql.fetchval('SELECT pg_backend_pid()')}"
    await app.another.execute(f"CREATE ROLE {role}")
    try:
        await app.sql.execute(f"SET SESSION AUTHORIZATION {role}")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await app.publish(1)
        await app.another.execute(f"GRANT EXECUTE ON FUNCTION {SIGNATURE} TO {role}")
        await app.publish(2)
        # Tables of the caller do not take the place of those of the server.
        await app.sql.execute("CREATE TEMP TABLE outbox (id bigint); CREATE TEMP TABLE room (id bigint)")
        await app.publish(3)
        for table in ("outbox", "room", "entry"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await app.sql.execute(f"SELECT FROM public.{table}")
        await app.sql.execute("RESET SESSION AUTHORIZATION; DROP TABLE pg_temp.outbox, pg_temp.room")
        assert await app.heard(2) == [2, 3]
    finally:
        await app.another.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize("when", DEATHS)
async def test_an_event_is_delivered_once_and_in_order_if_its_node_dies_when(app: Application, when: str) -> None:
    await app.sql.execute(f"{DIE} {DEATHS[when]} EXECUTE FUNCTION die()")
    for number in range(ROUNDS):
        async with app.sql.transaction():
            for part in range(3):
                await app.publish(number * 3 + part)
        await app.omar.until(lambda number=number: len(app.omar.of("order")) >= 3 * number + 3)
    assert await app.heard(3 * ROUNDS) == list(range(3 * ROUNDS))
    assert await app.sql.fetchval("SELECT last_value FROM lives") >= 3 * ROUNDS


async def test_nodes_that_deliver_concurrently_keep_the_order(app: Application, nodes: list[RunningNode]) -> None:
    for number in range(10 * ROUNDS):
        await app.publish(number)
        for node in nodes:
            node.node.outbox.wake()
    assert await app.heard(10 * ROUNDS) == list(range(10 * ROUNDS))


async def test_events_arrive_once_and_in_order_while_the_connections_of_all_nodes_are_cut(app: Application) -> None:
    cut = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> ALL($1)"
    )
    ours = [await sql.fetchval("SELECT pg_backend_pid()") for sql in (app.sql, app.another, app.observer)]
    for number in range(ROUNDS):
        await app.publish(number)
        for _ in range(number % 5):  # let the nodes get some steps further
            await app.another.fetchval("SELECT count(*) FROM outbox")
        await app.sql.execute(cut, ours)
    assert await app.heard(ROUNDS) == list(range(ROUNDS))


async def test_another_node_delivers_when_the_first_one_has_stopped(
    app: Application, nodes: list[RunningNode]
) -> None:
    await app.publish(1)
    assert await app.heard(1) == [1]
    await nodes[0].stop()
    await app.publish(2)
    assert await app.heard(2) == [1, 2]
    await nodes[0].start()


async def test_events_of_a_room_that_was_deleted_do_not_block_others(app: Application) -> None:
    await app.omar.ask("create", topic_name="closed")
    async with app.sql.transaction():
        await app.sql.execute(PUBLISH, "closed", "order", "1", None)
        await app.publish(2)
        # Between the call and the commit, by a statement that the server runs as well.
        await app.another.execute("UPDATE room SET is_private = true, members = 0 WHERE topic_name = 'closed'")
    await app.sql.execute("INSERT INTO outbox (room_id, event, data) VALUES (99999, 'order', '3')")
    await app.publish(4)
    assert await app.heard(2) == [2, 4]


async def test_a_locked_room_does_not_block_others(app: Application) -> None:
    await app.omar.ask("create", topic_name="locked")
    async with app.another.transaction():
        await app.another.execute("SELECT FROM room WHERE topic_name = 'locked' FOR UPDATE")
        for number in range(5):
            await app.sql.execute(PUBLISH, "locked", "late", str(number), None)
            await app.publish(number)
        await app.omar.until(lambda: len(app.omar.of("order")) == 5)
        assert app.omar.of("late") == []
    await app.omar.until(lambda: len(app.omar.of("late")) == 5)


async def test_a_node_with_redis_is_woken_too(postgresql_url: str, tmp_path: Path) -> None:
    async with redis_server() as redis, running_node(postgresql_url, tmp_path, redis_url=redis.url) as node:
        woken = asyncio.Event()
        wake = node.node.outbox.wake
        node.node.cluster.feed._listeners["tidings_outbox"] = lambda: (wake(), woken.set())
        async with application(postgresql_url, node, node) as app:
            await app.publish(1)
            assert await app.heard(1) == [1]


async def test_a_server_that_is_killed_after_each_commit_misses_and_doubles_nothing(
    postgresql_url: str, tmp_path: Path
) -> None:
    server = ServerProcess(tmp_path, TIDINGS_DATABASE_URL=postgresql_url)
    await server.start()
    token = await server.register("omar")
    await make_topic(server.url, token, "orders")
    sql = await asyncpg.connect(postgresql_url.replace("+asyncpg", ""))
    try:
        for number in range(ROUNDS):
            async with sql.transaction():
                for part in range(5):
                    await sql.execute(PUBLISH, "orders", "order", str(5 * number + part), None)
            for _ in range(number % 7):  # so that the delivery is interrupted at various points
                await sql.fetchval("SELECT count(*) FROM outbox")
            await server.kill()
            await server.start()
        async with connected(server.url, token) as omar:
            await omar.until(lambda: len(omar.of("order")) >= 5 * ROUNDS)
            await sql.execute(PUBLISH, "orders", "last", "0", None)
            await omar.event("last")
            assert [payload["data"] for payload in omar.of("order")] == list(range(5 * ROUNDS))
        assert await sql.fetchval("SELECT count(*) FROM outbox") == 0
    finally:
        await sql.close()
        await server.kill()
