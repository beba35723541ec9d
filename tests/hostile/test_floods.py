"""Very many requests in one write, or in one body: other clients are served in between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from tests.hostile.doors import Plain, Polling, SocketIO, door_of
from tests.hostile.meter import BUDGET_S, MeteredNode, longest_step
from tests.support.client import DEADLINE_S, connected

pytestmark = pytest.mark.long

REQUESTS = {
    "unknown": ("nothing", {}),
    "invalid": ("message", {}),
    "append": ("message", {"topic_name": "noticias", "content": "hola"}),
    "read": ("get_members", {"topic_name": "noticias"}),
    "typing": ("typing", {"topic_name": "noticias"}),
}


def _plain(number: int, action: str, payload: object) -> str:
    return json.dumps({"id": number, "action": action, "data": payload})


def _socketio(number: int, action: str, payload: object) -> str:
    return f"42{number}{json.dumps([action, payload])}"


async def _burst(door: Plain | SocketIO, frame: Callable[..., str], many: int, action: str, payload: object) -> None:
    """Send `many` requests in one write, and wait until all are answered or the connection is closed."""
    socket = door.socket or await door.enter()
    door.socket = None
    frames = [Frame(Opcode.TEXT, frame(number, action, payload).encode()) for number in range(1, many + 1)]
    socket.transport.write(b"".join(each.serialize(mask=True) for each in frames))
    last = f'{{"id":{many},' if frame is _plain else f"43{many}["
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not str(await socket.recv()).startswith(last):
                pass
    except ConnectionClosed:
        return
    await socket.close()


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize("many", [10, 1_000, pytest.param(8_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("gateway", ["websocket", "socketio"])
async def test_many_requests_in_one_write_do_not_hold_the_loop(
    node: MeteredNode, gateway: str, many: int, kind: str
) -> None:
    token = await node.register("omar")
    async with connected(node.url, token) as omar:
        await omar.ask("create", topic_name="noticias")
    frame = _plain if gateway == "websocket" else _socketio
    async with door_of(gateway, node.url, token) as door:
        assert isinstance(door, Plain | SocketIO)
        assert await longest_step(node, partial(_burst, door, frame, many, *REQUESTS[kind])) < BUDGET_S


@pytest.mark.parametrize("many", [1_000, 8_000, pytest.param(100_000, marks=pytest.mark.long)])
async def test_many_packets_in_one_polling_body_do_not_hold_the_loop(node: MeteredNode, many: int) -> None:
    async with door_of("polling", node.url, await node.register("omar")) as door:
        assert isinstance(door, Polling)

        async def attempt() -> None:
            begun, door.asked = door.asked, door.asked + many
            await door.post("\x1e".join(f'42{begun + number}["x"]' for number in range(1, many + 1)))

        assert await longest_step(node, attempt) < BUDGET_S


async def test_the_frames_of_one_write_take_effect_in_order_and_none_is_lost(node: MeteredNode) -> None:
    """Also frames that wait for a later turn of the loop."""
    contents = [f"{number} " + "x" * 500 for number in range(1_000)]
    async with connected(node.url, await node.register("omar")) as omar:
        await omar.ask("create", topic_name="noticias")
        async with door_of("websocket", node.url, await node.login("omar")) as door:
            assert isinstance(door, Plain)
            socket = await door.enter()
            frames = [
                Frame(Opcode.TEXT, _plain(at, "message", {"topic_name": "noticias", "content": content}).encode())
                for at, content in enumerate(contents)
            ]
            socket.transport.write(b"".join(each.serialize(mask=True) for each in frames))
            await omar.until(lambda: len(omar.contents()) == len(contents))
            assert omar.contents() == contents
            await socket.close()
