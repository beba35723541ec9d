"""A visit shorter than a heartbeat still confirms what was received, so it is not sent again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from tests.delivery.support import Reader, fill, make_topic, reader, seqs
from tests.e2e.javascript import run
from tests.support.client import DEADLINE_S, connected
from tests.support.node import RunningNode, running_node
from tests.support.timers import Timers

MISSED = 500
INTERVAL_S, TIMEOUT_S = 25, 20
HEARTBEAT = {"ping_interval": INTERVAL_S, "ping_timeout": TIMEOUT_S}


async def omar_misses(server: RunningNode, count: int, content: str = "x") -> tuple[str, str]:
    """Register omar, who misses `count` messages; returns his token and the room_id."""
    token, other = await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, other, "noticias", token)
    await fill(server.node.database, "diego", {room_id: [content] * count})
    return token, room_id


@pytest.mark.bad_network("polling", "upgrade", "websocket", "plain")
async def test_a_client_that_leaves_right_after_ready_gets_no_entry_again(server: RunningNode) -> None:
    token, room_id = await omar_misses(server, MISSED)
    for visit in range(3):
        async with connected(server.url, token, device="phone") as phone:
            assert seqs(phone, room_id) == ([] if visit else list(range(1, MISSED + 1)))
    async with connected(server.url, token, device="new") as other:
        assert seqs(other, room_id) == [], "a new device starts where the furthest one is"


async def test_a_new_device_gets_every_entry_once_if_no_other_device_confirmed_any(
    server: RunningNode,
) -> None:
    token, room_id = await omar_misses(server, 20)
    for device in ("cut", "cut too"):
        async with reader(server.url, token, device=device) as silent:  # a reader answers no PING
            assert silent.seqs(room_id) == list(range(1, 21))
    for visit in range(3):
        async with connected(server.url, token, device=f"new {visit}") as new:
            assert seqs(new, room_id) == ([] if visit else list(range(1, 21)))


@pytest.mark.parametrize("transports", [None, ["websocket"], ["polling"]], ids=["default", "websocket", "polling"])
async def test_a_stock_javascript_client_that_leaves_right_after_ready_gets_no_entry_again(
    sqlite_url: str, tmp_path: Path, transports: list[str] | None
) -> None:
    """The last visit stays for some heartbeats: the early PING does not disturb them."""
    timers = Timers()
    async with running_node(sqlite_url, tmp_path, options={"timers": timers, "engine": HEARTBEAT}) as server:
        token, _ = await omar_misses(server, MISSED)
        arguments = {"url": server.url, "token": token, "device": "browser", "transports": transports}

        async def next_ping() -> None:
            timers.advance(INTERVAL_S)

        result = await run("visits.mjs", arguments | {"visits": 4, "stay": 3}, {"the next PING": next_ping})
        assert result["replayed"] == [MISSED, 0, 0, 0]
        assert result["pings"] == 3


async def test_the_early_ping_precedes_ready_and_replaces_the_regular_one(database_url: str, tmp_path: Path) -> None:
    """A client that does not answer the early PING is closed no sooner than by the regular one."""
    timers = Timers()
    options = {"timers": timers, "engine": HEARTBEAT, "websocket": HEARTBEAT}
    async with running_node(database_url, tmp_path, options=options) as server:
        token, room_id = await omar_misses(server, 3)
        async with reader(server.url, token, device="phone") as phone:
            assert "2" in phone.frames[:-1]
            assert phone.seqs(room_id) == [1, 2, 3]
            timers.advance(INTERVAL_S + TIMEOUT_S - 1)
            assert server.node.hub.connections
            timers.advance(1)
            assert not server.node.hub.connections
            with pytest.raises(ConnectionClosed):
                await read_forever(phone.next)
            assert phone.frames.count("2") == 1
        async with reader(server.url, token, device="phone") as phone:
            assert phone.seqs(room_id) == [1, 2, 3]  # the first connection confirmed nothing
            await phone.pong()
            await phone.ask("get_rooms")  # the PONG has been read
            timers.advance(INTERVAL_S)  # the regular PINGs go on
            await phone.until_ping()
            await phone.pong()
        async with reader(server.url, token, device="phone") as phone:
            assert phone.seqs(room_id) == []


async def read_forever(read: object) -> None:
    while True:
        await read()  # type: ignore[operator]


async def test_a_ping_pending_at_the_end_of_a_replay_is_followed_by_another(
    database_url: str, tmp_path: Path
) -> None:
    """Its PONG confirms nothing that was written after it."""
    async with running_node(database_url, tmp_path, options={"timers": Timers()}) as server:
        token, room_id = await omar_misses(server, 2000, "x" * 6000)
        async with reader(server.url, token, ready=False, device="phone") as phone:
            await phone.until_event("message")
            async with asyncio.timeout(DEADLINE_S):
                while not any(each._under_ping for each in server.node.hub.connections):  # noqa: ASYNC110
                    await asyncio.sleep(0)
            await phone.until_ping()
            assert len(phone.seqs(room_id)) < 2000
            await phone.until_event("ready")
            assert len(phone.seqs(room_id)) == 2000
            assert phone.frames.count("2") == 1
            await phone.pong()
            await phone.ask("get_rooms")  # `ask` answers the PING that precedes its answer
            assert phone.frames.count("2") == 2
            await phone.ask("get_rooms")  # the server receives the PONG before this request
        async with reader(server.url, token, device="phone") as phone:
            assert phone.seqs(room_id) == []


async def test_a_ping_before_the_authentication_confirms_nothing(sqlite_url: str, tmp_path: Path) -> None:
    timers, patient = Timers(), {**HEARTBEAT, "connect_timeout": 2 * INTERVAL_S}
    async with running_node(sqlite_url, tmp_path, options={"timers": timers, "engine": patient}) as server:
        token, room_id = await omar_misses(server, 3)

        async def pinged(phone: Reader) -> None:
            timers.advance(INTERVAL_S)
            await phone.until_ping()

        for _ in range(2):
            async with reader(server.url, token, device="phone", connected=pinged) as phone:
                assert phone.frames.count("2") == 2
                assert phone.seqs(room_id) == [1, 2, 3]
                await phone.pong()  # answers the first PING
                await phone.ask("get_rooms")
