"""A node that is cut off from its database lets its clients go to one that is not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.delivery.support import make_topic
from tests.support.client import DEADLINE_S, connected
from tests.support.commits import commits
from tests.support.node import NO_TLS, RunningNode, running_node
from tidings.cluster import draining, feed


async def is_ready(node: RunningNode) -> bool:
    async with httpx.AsyncClient(base_url=node.url, verify=NO_TLS, timeout=DEADLINE_S) as http:
        return (await http.get("/health/ready")).is_success


@pytest.mark.parametrize("apart", [False, True], ids=["one machine", "two machines"])
async def test_the_clients_of_a_node_that_is_cut_off_move_once_another_is_ready(
    postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, apart: bool
) -> None:
    monkeypatch.setattr(draining, "CUT_OFF_S", feed.BEHIND_S + 0.5)
    monkeypatch.setattr(draining, "CUT_OFF_CHECK_S", 0.1)
    async with (
        commits(postgresql_url) as (other_link, other_url),
        commits(postgresql_url) as (link, cut_off_url),
        running_node(other_url, tmp_path / "a", publish_url=apart) as other,
        running_node(cut_off_url, tmp_path / ("b" if apart else "a"), publish_url=apart) as node,
    ):
        token = await other.register("omar")
        room_id = await make_topic(other.url, token, "noticias")
        async with connected(node.url, token) as client:
            while not node.node.cluster.registry.others:
                await node.node.cluster.registry._round()
            other_link.freeze()
            link.freeze()
            while await is_ready(other) or node.node.cluster.feed.age < draining.CUT_OFF_S + 1:
                pass
            assert client.of("closing") == [], "the database may be away for both"
            other_link.thaw()
            assert await client.event("closing") == {"reason": "shutdown", "reconnect": True}
        async with connected(other.url, token) as client:
            await client.ask("message", room_id=room_id, content="moved")
            await client.event("message")
        link.thaw()
        async with asyncio.timeout(DEADLINE_S):
            while not await is_ready(node):
                pass
        async with connected(node.url, token) as client:
            await client.until(lambda: client.contents() == ["moved"])
