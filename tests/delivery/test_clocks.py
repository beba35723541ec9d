"""Nodes whose clocks disagree: what is written has PostgreSQL's time."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import update

from tests.delivery.support import make_topic
from tests.support.client import Refused, connected
from tests.support.node import SECRET_KEY, RunningNode, running_node
from tests.support.process import ServerProcess
from tidings_db.models import entries

FOLDER = Path(__file__).parent
AHEAD_S = 300


@pytest.fixture
async def nodes(postgresql_url: str, tmp_path: Path) -> AsyncIterator[tuple[RunningNode, ServerProcess]]:
    """A node whose clock is right, and one whose clock is fast."""
    fast = ServerProcess(
        tmp_path / "fast",
        PYTHONPATH=f"{FOLDER / 'fast_clock'}:{FOLDER.parents[1]}",
        CLOCK_AHEAD_S=str(AHEAD_S),
        TIDINGS_DATABASE_URL=postgresql_url,
        TIDINGS_SECRET_KEY=SECRET_KEY,
    )
    try:
        await fast.start()
        async with running_node(postgresql_url, tmp_path / "right") as right:
            yield right, fast
    finally:
        await fast.kill()


async def test_times_do_not_go_back_in_a_room_of_two_nodes_whose_clocks_disagree(
    nodes: tuple[RunningNode, ServerProcess],
) -> None:
    right, fast = nodes
    omar = await right.register("omar")
    room_id = await make_topic(right.url, omar, "noticias")
    async with connected(right.url, omar, device="a") as here, connected(fast.url, omar, device="b") as there:
        sent = [
            await client.ask("message", room_id=room_id, content=str(n)) for n in range(5) for client in (there, here)
        ]
    times = [datetime.fromisoformat(at["created_at"]) for at in sent]
    assert times == sorted(times)
    assert abs(times[-1].timestamp() - time.time()) < AHEAD_S / 2


async def test_times_do_not_go_back_in_a_room_when_the_clock_of_postgresql_does(
    postgresql_url: str, tmp_path: Path
) -> None:
    async with running_node(postgresql_url, tmp_path) as server:
        omar = await server.register("omar")
        room_id = await make_topic(server.url, omar, "noticias")
        async with connected(server.url, omar) as client:
            await client.ask("message", room_id=room_id, content="before")
            later = time.time_ns() // 1_000_000 + 60_000
            await server.node.database.write(lambda conn: conn.execute(update(entries).values(created_at=later)))
            sent = [await client.ask("message", room_id=room_id, content=content) for content in ("1", "@2", "3")]
    times = [datetime.fromisoformat(message["created_at"]).timestamp() * 1000 for message in sent]
    assert times[0] >= later - 1
    assert times == sorted(times)


async def test_a_ban_does_not_end_early_on_a_node_whose_clock_is_fast(
    nodes: tuple[RunningNode, ServerProcess],
) -> None:
    right, fast = nodes
    omar, diego = await right.register("omar"), await right.register("diego")
    room_id = await make_topic(right.url, omar, "noticias", diego)
    async with connected(right.url, omar) as owner, connected(fast.url, diego) as banned:
        await owner.ask("ban", room_id=room_id, username="diego", duration=AHEAD_S // 2)
        with pytest.raises(Refused) as refused:
            await banned.ask("subscribe", topic_name="noticias")
        assert refused.value.code == "forbidden"
