"""A newcomer to the public channel gets the messages since the start of the first node, from every node."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

from tests.dialects.channels_client import link, opened
from tests.nodes.conftest import SOON, Registry, registry_of
from tests.support.node import running_node
from tidings.auth.tokens import now_ms
from tidings_db.queries import epochs


async def _messages(url: str, token: str, number: int) -> list[str]:
    """The first messages that a newcomer gets."""
    async with opened(await link(url, token, "pub_ws")) as client:
        return [(await client.message())[1] for _ in range(number)]


async def test_a_rolling_restart_keeps_the_messages_since_the_first_start(
    postgresql_url: str, tmp_path: Path
) -> None:
    async with AsyncExitStack() as first, AsyncExitStack() as second:
        a = await first.enter_async_context(running_node(postgresql_url, tmp_path, options=SOON))
        token = await a.register("ana")
        async with opened(await link(a.url, token, "pub_ws")) as ana:
            await ana.say("from the first")
            await ana.message()
        b = await second.enter_async_context(running_node(postgresql_url, tmp_path, options=SOON))
        assert await _messages(b.url, token, 1) == ["from the first"]
        await first.aclose()
        c = await first.enter_async_context(running_node(postgresql_url, tmp_path, options=SOON))
        await second.aclose()
        d = await second.enter_async_context(running_node(postgresql_url, tmp_path, options=SOON))
        async with opened(await link(d.url, token, "pub_ws")) as ana:
            await ana.message()
            await ana.say("from the fourth")
            await ana.message()
        for node in (c, d):
            newcomer = await node.login("ana")
            assert await _messages(node.url, newcomer, 2) == ["from the first", "from the fourth"]


async def test_a_start_after_all_nodes_have_stopped_begins_anew(postgresql_url: str, tmp_path: Path) -> None:
    async with running_node(postgresql_url, tmp_path) as node:
        token = await node.register("ana")
        async with opened(await link(node.url, token, "pub_ws")) as ana:
            await ana.say("before")
            await ana.message()
    async with (
        running_node(postgresql_url, tmp_path) as one,
        running_node(postgresql_url, tmp_path) as two,
    ):
        async with opened(await link(one.url, token, "pub_ws")) as ana:
            await ana.say("after")
            assert (await ana.message())[1] == "after"
        assert await _messages(two.url, token, 1) == ["after"]


async def test_the_start_is_by_the_clock_of_the_messages(registry: Registry) -> None:
    """PostgreSQL's: a node whose clock is ahead would hide the first messages."""
    await registry.database.write(lambda conn: epochs.ensure_instance(conn, "x"))
    node = registry_of(registry.database, "one")
    ahead = node.public_since = now_ms() + 3_600_000
    await node.enter(["x"])
    assert 0 < ahead - node.public_since <= 3_600_000
    await node.stop()
