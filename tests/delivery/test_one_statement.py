"""On PostgreSQL a batch of messages is one statement, which compares what this node remembers with what is there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.delivery.support import make_topic
from tests.support.client import Refused, connected
from tests.support.node import RunningNode, running_node

ONLY_SOCKETIO = True


@pytest.fixture
async def node(postgresql_url: str, tmp_path: Path) -> AsyncIterator[RunningNode]:
    async with running_node(postgresql_url, tmp_path) as node:
        yield node


@pytest.fixture
async def other(postgresql_url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """Changes rows, as another node does."""
    conn = await asyncpg.connect(postgresql_url.replace("+asyncpg", ""))
    yield conn
    await conn.close()


async def test_a_message_takes_one_round_trip(node: RunningNode, monkeypatch: pytest.MonkeyPatch) -> None:
    token = await node.register("omar")
    room_id = await make_topic(node.url, token, "noticias")
    database = node.node.database
    run = database.run
    statements: list[Any] = []

    async def count(statement: Any) -> Any:
        statements.append(statement)
        return await run(statement)

    async with connected(node.url, token) as omar:
        first = await omar.ask("message", room_id=room_id, content="0", client_id="0")
        monkeypatch.setattr(database, "run", count)
        for n in range(1, 11):
            await omar.ask("message", room_id=room_id, content=str(n), client_id=str(n), reply_to=first["id"])
        assert len(statements) == 10
        assert not any("unnest" in statement.sql for statement in statements)  # it is not that of a batch


async def test_a_message_after_one_of_another_node_takes_two_round_trips(
    node: RunningNode, other: asyncpg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await node.register("omar")
    room_id = await make_topic(node.url, token, "noticias")
    database = node.node.database
    run, statements = database.run, 0

    async def count(statement: Any) -> Any:
        nonlocal statements
        statements += 1
        return await run(statement)

    async with connected(node.url, token) as omar:
        for n in range(4):
            await omar.ask("message", room_id=room_id, content=str(n))
            await other.execute("UPDATE room SET changes = changes + 1")
            if n == 1:  # from the first wrong guess on
                monkeypatch.setattr(database, "run", count)
        assert statements == 2 * 2


async def test_a_reply_to_a_message_that_does_not_exist_is_refused_and_not_written(
    node: RunningNode, other: asyncpg.Connection[Any]
) -> None:
    token = await node.register("omar")
    room_id = await make_topic(node.url, token, "noticias")
    async with connected(node.url, token) as omar:
        await omar.ask("message", room_id=room_id, content="0")
        with pytest.raises(Refused, match="reply_to"):
            await omar.ask("message", room_id=room_id, content="1", reply_to="0" * 32)
        assert (await omar.ask("message", room_id=room_id, content="2"))["seq"] == 2
