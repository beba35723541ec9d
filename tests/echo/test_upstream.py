"""The echo channel as a proxy: whether its upstream dies, is silent or sends too much, no client waits forever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection

from tests.delivery.support import rest
from tests.echo.history import contents, whole
from tests.echo.upstream import EchoServer, echo_server, echoes, is_silent
from tests.support.client import Client, Refused, connected
from tests.support.node import RunningNode, running_node


@pytest.fixture
async def upstream() -> AsyncIterator[EchoServer]:
    async with echo_server() as server:
        yield server


PATIENT, IMPATIENT = 100.0, 3.0
impatient = pytest.mark.parametrize("answer_s", [IMPATIENT])
"""For tests that wait until an answer is overdue."""


@pytest.fixture
def answer_s() -> float:
    return PATIENT


@pytest.fixture
async def proxy(upstream: EchoServer, sqlite_url: str, tmp_path: Path, answer_s: float) -> AsyncIterator[RunningNode]:
    """A node whose echo channel is a proxy to `upstream`."""
    options = {"echo": {"answer_s": answer_s, "idle_s": 0.2}}
    async with running_node(sqlite_url, tmp_path, options=options, echo_upstream=upstream.url) as node:
        yield node


@pytest.fixture
async def omar(proxy: RunningNode) -> AsyncIterator[Client]:
    async with connected(proxy.url, await proxy.register("omar")) as client:
        yield client


@pytest.fixture
def no_greeting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first content that is no echo soon counts as the answer."""
    monkeypatch.setattr("tidings.actions.echo_channel.GREETING", 0.001)


async def refusal(client: Client, content: str) -> Refused:
    with pytest.raises(Refused) as refused:
        await client.ask("echo", content=content)
    return refused.value


async def test_the_answer_of_the_upstream_is_returned_and_stored(
    upstream: EchoServer, omar: Client, no_greeting: None
) -> None:
    async def shouts(ws: ServerConnection, content: str) -> None:
        await ws.send(content.upper())

    upstream.behaviour = shouts
    assert await omar.ask("echo", content="hola") == {"content": "HOLA"}
    assert await omar.ask("echo", content="adiós") == {"content": "ADIÓS"}
    assert await whole(omar) == [("sent", "hola"), ("received", "HOLA"), ("sent", "adiós"), ("received", "ADIÓS")]
    assert upstream.accepted == 1


async def test_answers_are_in_the_order_of_the_requests(upstream: EchoServer, omar: Client) -> None:
    sent = [omar.send("echo", {"content": str(n)}) for n in range(100)]
    answers = await asyncio.gather(*sent)
    assert [answer["data"]["content"] for answer in answers] == [str(n) for n in range(100)]
    assert upstream.received == [str(n) for n in range(100)]
    log = await whole(omar)
    assert [content for direction, content in log if direction == "received"] == upstream.received


async def test_a_greeting_is_not_an_answer_and_is_stored(upstream: EchoServer, omar: Client) -> None:
    upstream.greeting = "Request served by 4338e324"
    assert await omar.ask("echo", content="hola") == {"content": "hola"}
    assert sorted(await whole(omar)) == [
        ("received", "Request served by 4338e324"),
        ("received", "hola"),
        ("sent", "hola"),
    ]


async def test_unsolicited_content_of_the_upstream_is_stored(upstream: EchoServer, omar: Client) -> None:
    await omar.ask("echo", content="hola")
    (ws,) = upstream.clients
    await ws.send("psst")
    await asyncio.wait_for(await ws.ping(), 30)  # the proxy has read it
    assert await omar.ask("echo", content="ya") == {"content": "ya"}
    assert await whole(omar) == [
        ("sent", "hola"),
        ("received", "hola"),
        ("received", "psst"),
        ("sent", "ya"),
        ("received", "ya"),
    ]


@impatient
async def test_a_silent_upstream_is_unavailable_and_its_late_answer_is_discarded(
    upstream: EchoServer, proxy: RunningNode, omar: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.behaviour = is_silent
    refused = await refusal(omar, "one")
    assert (refused.code, refused.error["retryable"]) == ("unavailable", True)
    upstream.behaviour = echoes
    monkeypatch.setattr(proxy.node.echo, "_answer_s", PATIENT)
    assert await omar.ask("echo", content="two") == {"content": "two"}
    assert await whole(omar) == [("sent", "one"), ("sent", "two"), ("received", "two")]
    assert upstream.accepted == 2  # a late answer to "one" could come by the first connection, so it is closed
    await upstream.until(lambda: len(upstream.clients) == 1)


async def test_a_dead_upstream_is_unavailable_until_it_is_back(upstream: EchoServer, omar: Client) -> None:
    assert await omar.ask("echo", content="one") == {"content": "one"}
    await upstream.stop()
    assert (await refusal(omar, "two")).code == "unavailable"
    await upstream.start()
    assert await omar.ask("echo", content="three") == {"content": "three"}
    assert ("sent", "two") in await whole(omar)


async def test_pending_requests_are_unavailable_when_the_upstream_dies(upstream: EchoServer, omar: Client) -> None:
    upstream.behaviour = is_silent
    sent = [omar.send("echo", {"content": str(n)}) for n in range(3)]
    await upstream.until(lambda: len(upstream.received) == 3)
    await upstream.clients[0].close()
    assert [answer["error"]["code"] for answer in await asyncio.gather(*sent)] == ["unavailable"] * 3


@pytest.mark.parametrize(
    "content", ["x" * 16_385, "x" * 100_000, b"\xff\xfe", "\0"], ids=["large", "huge", "binary", "NUL"]
)
async def test_an_invalid_answer_of_the_upstream_is_unavailable_and_not_stored(
    upstream: EchoServer, omar: Client, no_greeting: None, content: str | bytes
) -> None:
    async def bad(ws: ServerConnection, _: str) -> None:
        await ws.send(content)

    upstream.behaviour = bad
    assert (await refusal(omar, "one")).code == "unavailable"
    upstream.behaviour = echoes
    assert await omar.ask("echo", content="two") == {"content": "two"}
    assert await whole(omar) == [("sent", "one"), ("sent", "two"), ("received", "two")]


async def test_the_requests_that_wait_for_the_upstream_are_bounded(
    upstream: EchoServer, proxy: RunningNode, omar: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidings.actions.echo_channel.MAX_WAITING", 8)
    upstream.behaviour = is_silent
    sent = [omar.send("echo", {"content": str(n)}) for n in range(10)]
    async with connected(proxy.url, await proxy.login("omar")) as phone:
        while len(await whole(phone)) < 10:
            pass  # until all are stored; the last two are refused, and answered in order
    await upstream.until(lambda: len(upstream.received) == 8)
    await upstream.clients[0].close()
    codes = [answer["error"]["code"] for answer in await asyncio.gather(*sent)]
    assert codes == ["unavailable"] * 8 + ["rate_limited"] * 2


async def test_a_silent_upstream_of_one_client_does_not_delay_another(
    upstream: EchoServer, proxy: RunningNode, omar: Client
) -> None:
    async def not_omar(ws: ServerConnection, content: str) -> None:
        if content != "omar":
            await ws.send(content)

    upstream.behaviour = not_omar
    waiting = omar.send("echo", {"content": "omar"})
    await upstream.until(lambda: upstream.received == ["omar"])
    async with connected(proxy.url, await proxy.register("diego")) as diego:
        assert await diego.ask("echo", content="diego") == {"content": "diego"}
        assert not waiting.done()
    await upstream.until(lambda: len(upstream.clients) == 1)
    await upstream.clients[0].close()
    assert (await waiting)["error"]["code"] == "unavailable"


async def test_an_upstream_connection_ends_with_its_clients_connection(
    upstream: EchoServer, proxy: RunningNode, omar: Client
) -> None:
    async with connected(proxy.url, await proxy.login("omar")) as phone:
        await phone.ask("echo", content="x")
        await omar.ask("echo", content="y")
        assert len(upstream.clients) == 2  # each live connection has its own
    await upstream.until(lambda: len(upstream.clients) == 1)
    await omar.close()
    await upstream.until(lambda: not upstream.clients)


@impatient
async def test_requests_over_rest_share_one_upstream_connection_per_user_until_it_is_idle(
    upstream: EchoServer, proxy: RunningNode
) -> None:
    token = await proxy.register("diego")
    async with rest(proxy.url, token) as http:
        for n in range(3):
            answer = await http.post("/api/echo", json={"content": str(n)})
            assert answer.json() == {"content": str(n)}
        assert upstream.accepted == 1
        await upstream.until(lambda: not upstream.clients)
        assert (await http.post("/api/echo", json={"content": "3"})).json() == {"content": "3"}
        assert upstream.accepted == 2
        upstream.behaviour = is_silent
        answer = await http.post("/api/echo", json={"content": "4"})
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        page = (await http.get("/api/echo")).json()
    assert contents(page)[-1] == ("sent", "4")


async def test_a_stopping_node_answers_pending_requests_and_closes_the_upstream(
    upstream: EchoServer, proxy: RunningNode, omar: Client
) -> None:
    upstream.behaviour = is_silent
    waiting = omar.send("echo", {"content": "x"})
    await upstream.until(lambda: upstream.received == ["x"])
    async with asyncio.timeout(30):
        await proxy.stop()
        await upstream.until(lambda: not upstream.clients)
    assert (await waiting)["error"]["code"] == "unavailable"


async def test_the_number_of_upstream_connections_is_bounded(
    upstream: EchoServer, proxy: RunningNode, omar: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidings.actions.echo_channel.MAX_UPSTREAMS", 1)
    await omar.ask("echo", content="x")
    async with connected(proxy.url, await proxy.register("diego")) as diego:
        assert await diego.ask("echo", content="y") == {"content": "y"}  # omar's connection was idle
        await upstream.until(lambda: len(upstream.clients) == 1)
        upstream.behaviour = is_silent
        waiting = diego.send("echo", {"content": "z"})
        await upstream.until(lambda: "z" in upstream.received)
        assert (await refusal(omar, "w")).code == "unavailable"
        assert not waiting.done()
        await upstream.clients[0].close()
        await waiting
