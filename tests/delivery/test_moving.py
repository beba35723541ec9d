"""A device that moves to another node, and sends no cursors: what it has confirmed does not come again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import Connection as Transaction
from websockets.asyncio.client import ClientConnection, connect

from tests.conformance.wire import eventually
from tests.delivery.brokers import LinkedBroker, Wire
from tests.delivery.support import Nodes, make_topic, rest, seqs, stored_cursors
from tests.support.client import DEADLINE_S, Refused, connected, plainly_connected
from tests.support.node import RunningNode, running_node
from tidings.fanout import confirming
from tidings.log import journal
from tidings_db.queries import retention, rooms

pytestmark = pytest.mark.long


@pytest.fixture
async def nodes(postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Nodes]:
    """Two nodes that write cursors only with other changes, or because something hurries them."""
    monkeypatch.setattr(journal, "CURSOR_INTERVAL_S", 3600.0)
    wire = Wire()
    async with AsyncExitStack() as stack:
        first, second = [
            await stack.enter_async_context(
                running_node(postgresql_url, tmp_path / name, options={"broker": LinkedBroker(wire)})
            )
            for name in ("first", "second")
        ]
        yield first, second


def has_moved(node: RunningNode, room_id: str, seq: int) -> bool:
    """Whether a device has confirmed a room up to a seq, and its cursor is not in the database yet."""
    room_key = node.node.hub.key(room_id)
    return any(
        node.node.cursors.known(connection.device_key, room_key or 0) == seq
        for connection in node.node.hub.connections
    )


async def until_stored(node: RunningNode, room_id: str, seq: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while await stored_cursors(node, room_id) != [seq]:
            pass


async def send(node: RunningNode, token: str, room_id: str, *contents: str) -> None:
    async with rest(node.url, token) as http:
        for content in contents:
            answer = await http.post("/api/messages", json={"room_id": room_id, "content": content})
            assert answer.status_code == 201, answer.text


@pytest.fixture
async def tokens(nodes: Nodes) -> tuple[str, str]:
    return await nodes[0].register("omar"), await nodes[0].register("diego")


async def test_a_device_that_reconnects_to_another_node_gets_nothing_again_that_it_has_confirmed(
    nodes: Nodes, tokens: tuple[str, str]
) -> None:
    first, second = nodes
    omar, diego = tokens
    room_id = await make_topic(first.url, omar, "noticias", diego)
    async with connected(first.url, diego):
        pass  # the device is known
    await send(first, omar, room_id, "1", "2", "3")
    async with connected(first.url, diego) as here:
        assert here.contents() == ["1", "2", "3"]
        await eventually(lambda: has_moved(first, room_id, 3))  # by the PONG that is asked for before `ready`
    await until_stored(first, room_id, 3)
    await send(first, omar, room_id, "4")
    async with connected(second.url, diego) as there:
        assert there.contents() == ["4"]


async def topics_client(node: RunningNode, token: str) -> ClientConnection:
    return await connect(f"{node.url.replace('http', 'ws', 1)}/{token}", ping_interval=None, proxy=None)


async def received(socket: ClientConnection) -> dict[str, Any]:
    frame: dict[str, Any] = json.loads(await asyncio.wait_for(socket.recv(), DEADLINE_S))
    return frame


async def test_after_disconnect_no_message_comes_again_from_another_node(
    nodes: Nodes, tokens: tuple[str, str]
) -> None:
    first, _ = nodes
    omar, diego = tokens
    room_id = await make_topic(first.url, omar, "noticias", diego)
    for visit in range(10):
        node = nodes[visit % 2]
        async with await topics_client(node, diego) as here:
            await send(first, omar, room_id, f"{visit}")
            assert (await received(here))["content"] == f"{visit}"
            await here.send('{"action": "disconnect"}')
            assert await received(here) == {"action": "disconnect", "status": "ok"}
            assert await stored_cursors(first, room_id) == [visit + 1]


@pytest.mark.parametrize("door", [connected, plainly_connected], ids=["socketio", "plain"])
async def test_a_client_of_a_node_that_stops_gets_nothing_again_from_the_next(
    nodes: Nodes, tokens: tuple[str, str], door: Callable[..., Any]
) -> None:
    first, second = nodes
    omar, diego = tokens
    room_id = await make_topic(first.url, omar, "noticias", diego)
    async with connected(second.url, omar) as sender:

        async def keep_sending() -> int:
            sent = 0
            while not stopped.is_set():
                await sender.ask("message", room_id=room_id, content=f"{sent}")
                sent += 1
            return sent

        stopped = asyncio.Event()
        sending = asyncio.create_task(keep_sending())
        async with door(first.url, diego) as here:
            await here.until(lambda: len(seqs(here, room_id)) >= 5)
            stopping = asyncio.create_task(first.stop())
            assert (await here.event("closing"))["reason"] == "shutdown"
            assert seqs(here, room_id)[-1] in await stored_cursors(second, room_id)
            await stopping
        async with door(second.url, diego) as there:
            stopped.set()
            sent = await sending
            await there.until(lambda: sent in seqs(there, room_id))
            assert seqs(here, room_id) + seqs(there, room_id) == list(range(1, sent + 1))


async def test_a_node_that_stops_waits_only_for_clients_that_have_something_to_confirm(
    nodes: Nodes, tokens: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = nodes
    monkeypatch.setattr(confirming, "CONFIRM_S", 3600.0)
    async with connected(first.url, tokens[1]) as here:
        await first.stop()  # the wait for it would be cut short, and logged as a part that did not end
        await asyncio.wait_for(here.closed.wait(), DEADLINE_S)
    assert first.node.unfinished == []


async def test_a_cursor_of_an_earlier_membership_is_not_written_by_another_node(
    postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "CURSOR_INTERVAL_S", 3600.0)
    async with (
        running_node(postgresql_url, tmp_path / "first") as first,
        running_node(postgresql_url, tmp_path / "second") as second,
    ):
        omar, diego = await first.register("omar"), await first.register("diego")
        room_id = await make_topic(first.url, omar, "noticias", diego)
        await send(first, omar, room_id, "1", "2")
        async with connected(second.url, diego) as there:
            await there.ask("delivered", cursors={room_id: 2})
            assert has_moved(second, room_id, 2)
            async with rest(first.url, diego) as http:
                left = await http.delete("/api/subscriptions", params={"room_id": room_id})
                assert left.is_success, left.text
                await send(first, omar, room_id, "3")
                assert (await http.post("/api/subscriptions", json={"topic_name": "noticias"})).is_success
            await send(second, omar, room_id, "4")  # the same transaction writes the cursor
        assert await stored_cursors(first, room_id) == []
        async with connected(first.url, diego) as here:
            assert [event["room"]["room_id"] for event in here.of("room_added")] == [room_id]
            assert here.contents() == ["4"]


async def test_a_cursor_of_a_room_that_another_node_has_removed_fails_nothing(
    postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journal, "CURSOR_INTERVAL_S", 3600.0)
    async with (
        running_node(postgresql_url, tmp_path / "first") as first,
        running_node(postgresql_url, tmp_path / "second") as second,
    ):
        omar, diego = await first.register("omar"), await first.register("diego")
        room_id = await make_topic(first.url, omar, "noticias", diego)
        other = await make_topic(first.url, omar, "more")
        await send(first, omar, room_id, "1")
        async with connected(second.url, diego) as there:
            await there.ask("delivered", cursors={room_id: 1})
            assert has_moved(second, room_id, 1)

            def remove(conn: Transaction) -> None:
                room = rooms.find(conn, room_id=room_id)
                assert room is not None
                rooms.delete_topic(conn, room.key)
                retention.trim(conn, room, None, 100)
                room = rooms.find(conn, room_id=room_id)
                assert room is not None
                assert retention.drop(conn, room, 2**50, 100)  # its cursors
                assert not retention.drop(conn, room, 2**50, 100)
                assert rooms.find(conn, room_id=room_id) is None

            await first.node.database.write(remove)
            await send(second, omar, other, "1")
        assert not second.node.cursors
        assert [record for record in caplog.records if record.name == "tidings.journal"] == []


async def test_a_device_confirms_what_it_has_learned_of_on_another_node(
    nodes: Nodes, tokens: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = nodes
    omar, diego = tokens
    room_id = await make_topic(first.url, omar, "noticias", diego)
    async with connected(second.url, diego) as there:
        room_key = second.node.hub.key(room_id)
        assert room_key is not None
        monkeypatch.setattr(second.node.cluster.broker, "deliver", lambda notice: None)
        monkeypatch.setattr(second.node.cluster.feed._receiver, "changed", lambda changes: None)
        await send(first, omar, room_id, "1", "2")
        assert second.node.hub.head(room_key) == 0
        with pytest.raises(Refused, match="invalid"):
            await there.ask("delivered", cursors={room_id: 3})
        await there.ask("delivered", cursors={room_id: 2})
        assert has_moved(second, room_id, 2)
