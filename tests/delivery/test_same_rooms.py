"""Several nodes create the same rooms at once, on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import select

from tests.support.client import Refused, connected
from tests.support.node import running_node
from tidings.auth.principal import NO_SESSION, Principal
from tidings.contract.errors import ActionError
from tidings.log.rooms import CreateTopic, OpenDirect
from tidings.log.transaction import Operation
from tidings_db.models import rooms
from tidings_db.queries import users

NODES = 4
ROOMS = 20


async def test_nodes_that_create_the_same_rooms_in_opposite_orders_create_each_once(
    postgresql_url: str, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        nodes = [
            (await stack.enter_async_context(running_node(postgresql_url, tmp_path / str(n)))).node
            for n in range(NODES)
        ]
        first = nodes[0]
        keys = [
            await first.database.write(lambda conn, n=n: users.add(conn, f"user{n}", None, 0))
            for n in range(ROOMS + 1)
        ]
        omar = Principal(keys[0] or 0, "user0", NO_SESSION, "", 0)
        changes: list[Operation[Any]] = [
            change
            for n, key in enumerate(keys[1:])
            for change in (OpenDirect(omar, None, key or 0), CreateTopic(omar, None, f"topic{n}", f"topic{n}", False))
        ]
        running = [
            node.journal.write(change)
            for n, node in enumerate(nodes)
            for change in (changes if n % 2 else reversed(changes))
        ]
        outcomes = await asyncio.gather(*running, return_exceptions=True)
        codes = Counter(
            outcome.code if isinstance(outcome, ActionError) else type(outcome).__name__ for outcome in outcomes
        )
        assert codes == {"int": NODES * ROOMS, "Snapshot": ROOMS, "conflict": (NODES - 1) * ROOMS}
        kinds = await first.database.read(
            lambda conn: Counter(conn.scalars(select(rooms.c.kind).where(rooms.c.name_key.is_distinct_from("entry"))))
        )
        assert kinds == {"direct": ROOMS, "topic": ROOMS}


async def test_a_conversation_begun_while_the_block_commits_on_another_node_has_the_block(
    postgresql_url: str, tmp_path: Path
) -> None:
    """The commit of the block waits until the other node has tried to begin the conversation."""
    async with (
        running_node(postgresql_url, tmp_path / "first") as first,
        running_node(postgresql_url, tmp_path / "second") as second,
    ):
        omar, diego = await first.register("omar"), await first.register("diego")
        other = await asyncpg.connect(postgresql_url.replace("+asyncpg", ""))
        try:
            await other.execute(
                "CREATE FUNCTION pause() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END $$;"
                "CREATE CONSTRAINT TRIGGER pause AFTER INSERT ON block DEFERRABLE INITIALLY DEFERRED"
                " FOR EACH ROW EXECUTE FUNCTION pause(); SELECT pg_advisory_lock(1)"
            )
            async with connected(first.url, omar) as blocker, connected(second.url, diego) as blocked:
                blocking = asyncio.ensure_future(blocker.ask("block", username="diego"))
                while not await other.fetchval("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"):
                    assert not blocking.done()
                early = asyncio.ensure_future(blocked.call("message", {"username": "omar", "content": "early"}))
                while not early.done() and not second.node.journal.held:
                    await other.fetchval("SELECT 1")
                await other.execute("SELECT pg_advisory_unlock(1)")
                await blocking
                await early
                with pytest.raises(Refused) as refused:
                    await blocked.ask("message", username="omar", content="late")
                assert refused.value.code == "forbidden"
        finally:
            await other.close()
