"""The echo channel itself: contents come back, and both directions are stored."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.delivery.support import rest, store_held
from tests.support.client import Client, Refused, connected
from tests.support.node import RunningNode, running_node


def said(page: dict[str, Any]) -> list[tuple[str, str]]:
    return [(entry["direction"], entry["content"]) for entry in page["entries"]]


async def whole(client: Client, limit: int = 200) -> list[tuple[str, str]]:
    """The whole echo log, page by page from its end."""
    pages: list[list[tuple[str, str]]] = []
    before = None
    while True:
        page = await client.ask("echo_history", {"before": before, "limit": limit})
        pages.insert(0, said(page))
        before = page["next"]
        if before is None:
            return [entry for one in pages for entry in one]


async def test_what_is_said_comes_back_and_both_are_kept(server: RunningNode) -> None:
    token = await server.register("omar")
    async with connected(server.url, token) as omar:
        assert await omar.ask("echo", content="¡Hola!") == {"content": "¡Hola!"}
        assert await whole(omar) == [("sent", "¡Hola!"), ("received", "¡Hola!")]
    async with rest(server.url, token) as http:
        answer = await http.post("/api/echo", json={"content": "over REST"})
        assert (answer.status_code, answer.json()) == (200, {"content": "over REST"})
        page = (await http.get("/api/echo", params={"limit": 3})).json()
        assert said(page) == [("received", "¡Hola!"), ("sent", "over REST"), ("received", "over REST")]
        older = (await http.get("/api/echo", params={"before": page["next"]})).json()
        assert (said(older), older["next"]) == ([("sent", "¡Hola!")], None)


async def test_the_log_is_answered_for_only_after_it_is_durable(database_url: str, tmp_path: Path) -> None:
    async with running_node(database_url, tmp_path) as node:
        async with connected(node.url, await node.register("omar")) as omar:
            if node.node.database.is_sqlite:
                async with store_held(database_url):
                    answer = omar.send("echo", {"content": "x"})
                    await asyncio.wait([answer], timeout=0.2)
                    assert not answer.done()
                assert (await answer)["ok"]
            else:
                await omar.ask("echo", content="x")
        await node.stop()
        await node.start()
        async with connected(node.url, await node.login("omar")) as omar:
            assert await whole(omar) == [("sent", "x"), ("received", "x")]


async def test_pages_of_the_log_are_in_order_without_a_gap_or_repeat(server: RunningNode) -> None:
    async with connected(server.url, await server.register("omar")) as omar:
        asked = [omar.send("echo", {"content": str(n)}) for n in range(25)]
        answers = await asyncio.gather(*asked)
        assert [answer["data"]["content"] for answer in answers] == [str(n) for n in range(25)]
        expected = [(direction, str(n)) for n in range(25) for direction in ("sent", "received")]
        for limit in (1, 7, 50, 200):
            assert await whole(omar, limit) == expected


async def test_the_log_is_its_users_own(server: RunningNode) -> None:
    async with (
        connected(server.url, await server.register("omar")) as omar,
        connected(server.url, await server.register("diego")) as diego,
    ):
        await omar.ask("echo", content="a")
        await omar.ask("echo", content="b")
        place = (await omar.ask("echo_history", limit=1))["next"]
        assert await whole(diego) == []
        for before in (place, "none"):
            with pytest.raises(Refused) as refused:
                await diego.ask("echo_history", before=before)
            assert refused.value.code == "not_found"


async def test_a_content_too_large_is_refused_and_not_kept(server: RunningNode) -> None:
    async with connected(server.url, await server.register("omar")) as omar:
        with pytest.raises(Refused) as refused:
            await omar.ask("echo", content="x" * 16_385)
        assert refused.value.code == "too_large"
        largest = "ñ" * 16_384
        assert await omar.ask("echo", content=largest) == {"content": largest}
        assert await whole(omar) == [("sent", largest), ("received", largest)]
