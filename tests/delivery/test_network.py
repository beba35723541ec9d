"""The guarantees hold on a bad network: a replay completes, and nothing is lost or repeated."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conformance.wire import eventually
from tests.delivery.support import BAD, TRANSPORTS, clients_over, fill, make_topic, rest, seqs, stored
from tests.e2e.javascript import run
from tests.support.client import DEADLINE_S, Client, LiveClient, PlainClient
from tests.support.network import Conditions, network
from tests.support.node import RunningNode, running_node

LATENCY = Conditions(delay=0.015)


@pytest.mark.parametrize(
    ("transports", "missed"),
    [(None, 3000), (["polling"], 700), (["websocket"], 3000)],
    ids=["default", "polling", "websocket"],
)
async def test_a_stock_javascript_client_gets_a_long_replay_over_every_transport(
    sqlite_url: str, tmp_path: Path, transports: list[str] | None, missed: int
) -> None:
    """By default it begins with polling, and upgrades to a WebSocket during the replay."""
    async with running_node(sqlite_url, tmp_path) as server, network(server.url, LATENCY, LATENCY) as slow:
        omar, diego = await server.register("omar"), await server.register("diego")
        room_id = await make_topic(server.url, omar, "noticias", diego)
        await fill(server.node.database, "omar", {room_id: ["x" * 100] * missed})
        device = {"url": slow.url, "token": diego, "device": "browser", "transports": transports}
        result = await run(
            "replay.mjs", device | {"room_id": room_id, "after": 0, "upto": missed, "quiet_ms": 15_000}
        )
        assert result["outcome"] == "whole", result
        assert (result["connects"], result["gaps"], result["repeats"]) == (1, 0, 0), result
        assert result["transport"] == ("polling" if transports == ["polling"] else "websocket")


@pytest.mark.parametrize("door", [*TRANSPORTS, "plain"])
async def test_a_device_whose_links_are_cut_again_and_again_gets_every_entry_once(
    sqlite_url: str, tmp_path: Path, door: str
) -> None:
    make = PlainClient if door == "plain" else clients_over(TRANSPORTS[door])["Client"]
    async with running_node(sqlite_url, tmp_path) as server, network(server.url, BAD, BAD, seed=1) as bad:
        omar, diego = await server.register("omar"), await server.register("diego")
        room_id = await make_topic(server.url, omar, "noticias", diego)
        await fill(server.node.database, "omar", {room_id: ["x" * 300] * 600})
        received: list[int] = []
        async with rest(server.url, omar) as http:
            for visit in range(5):
                client: LiveClient = make(bad.url, diego, device="phone", cursors={room_id: len(received)})
                await client.connect(ready=False)
                if visit == 4:
                    await client.event("ready")
                last = (await http.post("/api/messages", json={"room_id": room_id, "content": "live"})).json()["seq"]
                goal = last if visit == 4 else min(len(received) + 25 * (visit + 1), last)
                await client.until(lambda client=client, goal=goal: seqs(client, room_id)[-1:] >= [goal])
                assert bad.cut() > 0
                with contextlib.suppress(Exception):  # closing over a cut link may fail in any way
                    await client.close()
                received += seqs(client, room_id)
                assert received == list(range(1, len(received) + 1))
        assert received == list(range(1, 606))


@pytest.mark.parametrize("door", [*TRANSPORTS, "plain"])
async def test_events_among_messages_take_effect_and_arrive_once_over_links_that_are_cut(
    sqlite_url: str, tmp_path: Path, door: str
) -> None:
    """The sender repeats everything without an answer, under its `client_id`."""
    make = PlainClient if door == "plain" else clients_over(TRANSPORTS[door])["Client"]
    unanswered: dict[str, tuple[str, dict[str, Any]]] = {}
    for number in range(60):
        n = f"c{number}"
        unanswered[n] = ("publish", {"event": "tick", "data": [n]}) if number % 3 else ("message", {"content": n})
    names = {n: fields.get("event", action) for n, (action, fields) in unanswered.items()}
    answered: dict[str, int] = {}
    received: list[tuple[str, str, int]] = []
    async with running_node(sqlite_url, tmp_path) as server, network(server.url, BAD, BAD, seed=1) as bad:
        omar, diego = await server.register("omar"), await server.register("diego")
        room_id = await make_topic(server.url, omar, "noticias", diego)
        for goal in (5, 20, 40, 60):
            sender: LiveClient = make(bad.url, omar, device="desk")
            reader: LiveClient = make(bad.url, diego, device="phone", cursors={room_id: len(received)})
            await sender.connect()
            await reader.connect(ready=False)
            answers = {
                n: sender.send(action, {"room_id": room_id, "client_id": n, **fields})
                for n, (action, fields) in unanswered.items()
            }
            more = goal - len(received)
            await reader.until(lambda reader=reader, more=more: len(seqs(reader, room_id)) >= more)
            if goal == 60:
                await asyncio.wait_for(asyncio.gather(*answers.values()), DEADLINE_S)
            assert bad.cut() > 0
            for client in (sender, reader):
                with contextlib.suppress(Exception):  # closing over a cut link may fail in any way
                    await client.close()
            for n in [n for n, answer in answers.items() if answer.done()]:
                answered[n] = answers[n].result()["data"]["seq"]
                del unanswered[n]
            for name, payload in reader.events:
                if name in ("message", "tick"):
                    n = payload["content"] if name == "message" else payload["data"][0]
                    received.append((name, n, payload["seq"]))
    assert [seq for _, _, seq in received] == list(range(1, 61))
    assert {n: name for name, n, _ in received} == names
    assert {n: seq for _, n, seq in received} == answered


@pytest.mark.long
async def test_a_slow_poller_stays_connected_behind_a_long_queue(sqlite_url: str, tmp_path: Path) -> None:
    """A poll returns few packets, so a PING behind a long queue is read after its timeout."""
    heartbeat = {"ping_interval": 0.3, "ping_timeout": 1.5, "max_buffered": 256 * 1024}
    missed, fetched = 1400, 1200
    async with (
        running_node(sqlite_url, tmp_path, options={"engine": heartbeat}) as server,
        network(server.url, Conditions(delay=0.03), Conditions(delay=0.03)) as slow,
    ):
        omar, diego = await server.register("omar"), await server.register("diego")
        room_id = await make_topic(server.url, omar, "noticias", diego)
        await fill(server.node.database, "omar", {room_id: ["x"] * missed})
        first: Client = clients_over(["polling"])["Client"](slow.url, diego, device="phone")
        await first.connect(ready=False)
        await first.until(lambda: len(seqs(first, room_id)) >= fetched or first.closed.is_set())
        assert slow.cut() > 0
        with contextlib.suppress(Exception):
            await first.close()
        received = len(seqs(first, room_id))
        assert received >= fetched, "its connection ended"
        # A heartbeat confirms the entries that were fetched before it, not those still queued.
        second: Client = clients_over(["polling"])["Client"](slow.url, diego, device="phone")
        await second.connect()
        again = seqs(second, room_id)
        assert again == list(range(again[0], missed + 1))
        assert again[0] <= received + 1
        assert again[0] > 1, "no heartbeat confirmed anything"
        await second.close()


@pytest.mark.parametrize("make", [Client, PlainClient], ids=["socketio", "plain"])
async def test_a_long_replay_over_a_slow_link_completes_in_one_connection(
    sqlite_url: str, tmp_path: Path, make: type[LiveClient]
) -> None:
    """A PING waits behind earlier writes: a late PONG does not mean that the client has left."""
    heartbeat = {"ping_interval": 0.7, "ping_timeout": 0.7}
    missed = 150
    async with (
        running_node(sqlite_url, tmp_path, options={"engine": heartbeat, "websocket": heartbeat}) as server,
        network(server.url, down=Conditions(rate=300_000, buffer=65_536)) as slow,
    ):
        omar, diego = await server.register("omar"), await server.register("diego")
        room_id = await make_topic(server.url, omar, "noticias", diego)
        await fill(server.node.database, "omar", {room_id: ["x" * 6000] * missed})
        first = make(slow.url, diego, device="phone")
        await first.connect(ready=False)
        await first.until(lambda: len(seqs(first, room_id)) == missed or first.closed.is_set())
        assert seqs(first, room_id) == list(range(1, missed + 1))
        slow.cut()
        with contextlib.suppress(Exception):
            await first.close()
        slow.conditions["down"] = Conditions()
        # Heartbeats confirmed entries during the replay, though the client never sent `delivered`.
        second = make(slow.url, diego, device="phone")
        await second.connect()
        assert len(seqs(second, room_id)) < missed
        await second.close()


async def test_a_poll_that_the_client_repeats_after_its_answer_was_lost_gets_it_again(
    sqlite_url: str, tmp_path: Path
) -> None:
    """aiohttp repeats a GET on a connection that was lost before the answer, as browsers do."""
    async with running_node(sqlite_url, tmp_path) as server, network(server.url) as between:
        omar, diego = await server.register("omar"), await server.register("diego")
        room_id = await make_topic(server.url, omar, "noticias", diego)
        client = clients_over(["polling"])["Client"](between.url, diego)
        await client.connect()
        async with rest(server.url, omar) as http:
            for number in range(1, 6):
                message = {"room_id": room_id, "content": str(number)}
                await http.post("/api/messages", json=message)
                await client.until(lambda number=number: len(seqs(client, room_id)) == 2 * number - 1)
                (session,) = server.node.socketio.eio.sockets.values()
                await eventually(lambda session=session: session.polling)
                between.freeze()
                await http.post("/api/messages", json=message)
                await eventually(lambda session=session: not session.polling)
                assert between.cut() > 0
                between.thaw()
                await client.until(lambda number=number: len(seqs(client, room_id)) == 2 * number)
        assert seqs(client, room_id) == list(range(1, 11))
        assert not client.closed.is_set()
        await client.close()


async def test_a_repeated_post_takes_effect_once_and_another_one_with_its_stamp_too(server: RunningNode) -> None:
    token = await server.register("omar")
    room_id = await make_topic(server.url, token, "noticias")
    async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE_S) as http:
        path = "/socket.io/?EIO=4&transport=polling"
        opened = (await http.get(path)).text
        path += "&sid=" + json.loads(opened[1:])["sid"]

        async def polled(needle: str) -> None:
            while needle not in (await http.get(path)).text:
                pass

        await http.post(path + "&t=a", content="40" + json.dumps({"token": token}))
        await polled('"ready"')
        message = "421" + json.dumps(["message", {"room_id": room_id, "content": "once"}])
        for stamp in ("b", "b", "c"):
            answer = await http.post(f"{path}&t={stamp}", content=message)
            assert (answer.status_code, answer.text) == (200, "ok")
        other = message.replace("once", "other")
        assert (await http.post(f"{path}&t=c", content=other)).text == "ok"
        await polled('"seq":3')
    assert await stored(server.node.settings.database, room_id) == ["once", "once", "other"]
