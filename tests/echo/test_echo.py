"""The echo channel: contents are returned, and both directions are stored."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.delivery.support import rest, store_held
from tests.echo.history import contents, whole
from tests.support.client import Refused, connected
from tests.support.node import RunningNode, running_node


async def test_content_is_returned_and_both_directions_are_stored(server: RunningNode) -> None:
    token = await server.register("omar")
    async with connected(server.url, token) as omar:
        assert await omar.ask("echo", content="¡Hola!") == {"content": "¡Hola!"}
        assert await whole(omar) == [("sent", "¡Hola!"), ("received", "¡Hola!")]
    async with rest(server.url, token) as http:
        answer = await http.post("/api/echo", json={"content": "over REST"})
        assert (answer.status_code, answer.json()) == (200, {"content": "over REST"})
        page = (await http.get("/api/echo", params={"limit": 3})).json()
        assert contents(page) == [("received", "¡Hola!"), ("sent", "over REST"), ("received", "over REST")]
        older = (await http.get("/api/echo", params={"before": page["next"]})).json()
        assert (contents(older), older["next"]) == ([("sent", "¡Hola!")], None)


async def test_an_echo_is_answered_only_after_it_is_durable(database_url: str, tmp_path: Path) -> None:
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


async def test_pages_of_the_echo_log_are_in_order_without_a_gap_or_repeat(server: RunningNode) -> None:
    async with connected(server.url, await server.register("omar")) as omar:
        sent = [omar.send("echo", {"content": str(n)}) for n in range(25)]
        answers = await asyncio.gather(*sent)
        assert [answer["data"]["content"] for answer in answers] == [str(n) for n in range(25)]
        expected = [(direction, str(n)) for n in range(25) for direction in ("sent", "received")]
        for limit in (1, 7, 50, 200):
            assert await whole(omar, limit) == expected


async def test_an_echo_log_is_visible_only_to_its_user(server: RunningNode) -> None:
    async with (
        connected(server.url, await server.register("omar")) as omar,
        connected(server.url, await server.register("diego")) as diego,
    ):
        await omar.ask("echo", content="a")
        await omar.ask("echo", content="b")
        before_b = (await omar.ask("echo_history", limit=1))["next"]
        assert await whole(diego) == []
        for before in (before_b, "none"):
            with pytest.raises(Refused) as refused:
                await diego.ask("echo_history", before=before)
            assert refused.value.code == "not_found"


async def test_too_large_content_is_refused_and_not_stored(server: RunningNode) -> None:
    async with connected(server.url, await server.register("omar")) as omar:
        with pytest.raises(Refused) as refused:
            await omar.ask("echo", content="x" * 16_385)
        assert refused.value.code == "too_large"
        largest = "ñ" * 16_384
        assert await omar.ask("echo", content=largest) == {"content": largest}
        assert await whole(omar) == [("sent", largest), ("received", largest)]
