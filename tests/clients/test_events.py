"""Entries of every kind, and events of applications with the types that the program gave them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from typing_extensions import TypedDict

import tidings_client
from tests.support.node import RunningNode
from tidings.contract.errors import CloseReason
from tidings_client import Client, Closed, InvalidEvent

DEADLINE_S = 60.0


class OrderPaid(BaseModel):
    id: int


class OrderSent(TypedDict):
    ids: list[int]


TYPES: dict[str, Any] = {"order.paid": OrderPaid, "order.sent": OrderSent}


async def test_events_have_the_types_that_the_program_gave_them(server: RunningNode, omar: str) -> None:
    async with tidings_client.connect(server.url, omar, events=TYPES) as client, asyncio.timeout(DEADLINE_S):
        room = await client.join("pedidos")
        await room.publish("order.paid", OrderPaid(id=17))
        await room.publish("order.sent", {"ids": [17]})
        await room.publish("order.lost", "of no type")
        found: list[Any] = []
        async for event in room.events(until=lambda: len(found) == 3):
            found.append(event.data)
        assert found == [OrderPaid(id=17), {"ids": [17]}, "of no type"]


async def consume(client: Client, found: list[Any], count: int = -1) -> None:
    """Append the data of the next `order.paid` until there are `count`."""
    async for event in client.room(topic_name="pedidos").events("order.paid", until=lambda: len(found) == count):
        found.append(event.data)


async def test_an_event_of_the_wrong_type_is_an_error_and_not_lost(
    server: RunningNode, omar: str, tmp_path: Path
) -> None:
    def connect(events: dict[str, Any]) -> tidings_client.Connecting:
        return tidings_client.connect(server.url, omar, store=tmp_path / "state.db", events=events)

    async with connect({}) as client:
        room = await client.join("pedidos")
        for data in ({"id": 1}, {"id": "one"}, {"id": 2}):
            await room.publish("order.paid", data)
    found: list[Any] = []
    async with asyncio.timeout(DEADLINE_S):
        for _ in range(2):
            async with connect(TYPES) as client:
                with pytest.raises(InvalidEvent, match=r"^order\.paid \(entry 2\): id: ") as caught:
                    await consume(client, found)
                error = caught.value
                assert (error.code, list(error.details)) == ("invalid_event", ["id"])
                assert error.event is not None
                assert error.event.data == {"id": "one"}
        async with connect(TYPES) as client:
            with pytest.raises(InvalidEvent) as caught:
                await consume(client, found)
            await caught.value.skip()
            await consume(client, found, 2)
    assert found == [OrderPaid(id=1), OrderPaid(id=2)]


async def test_an_event_of_the_wrong_type_is_not_published(server: RunningNode, omar: str) -> None:
    async with tidings_client.connect(server.url, omar, events=TYPES) as client:
        room = await client.join("pedidos")
        with pytest.raises(InvalidEvent, match=r"^order\.paid: id: Field required$"):
            await room.publish("order.paid", {"number": 1})
        assert client.unsent == []
        assert (await client.actions.get_events(topic_name="pedidos")).events == []


async def test_entries_of_every_kind_come_once_in_order(server: RunningNode, omar: str, tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []

    async def see(client: Client, count: int) -> None:
        async for entry in client.room(topic_name="noticias").entries(until=lambda: len(seen) == count):
            seen.append((entry.name, entry.seq))

    async with asyncio.timeout(DEADLINE_S):
        async with tidings_client.connect(server.url, omar, store=tmp_path / "state.db") as client:
            room = await client.join("noticias")
            first = await room.send("uno")
            await room.react(first.id, "👍")
            await room.publish("order.paid", 17)
            await see(client, 2)
            await room.edit(first.id, "uno!")
        async with tidings_client.connect(server.url, omar, store=tmp_path / "state.db") as client:
            await see(client, 4)
    assert seen == [("message", 1), ("reaction", 2), ("order.paid", 3), ("message_edited", 4)]


async def test_an_event_may_have_a_name_of_the_library(server: RunningNode, omar: str) -> None:
    names = ["connected", "reset", "status", "outbox", "refused"]
    async with tidings_client.connect(server.url, omar) as client, asyncio.timeout(DEADLINE_S):
        room, found = await client.join("pedidos"), list[str]()
        consuming = room.events(until=lambda: len(found) == len(names))
        for name in names:
            await room.publish(name, None)
            found.append((await anext(consuming)).event)
        assert found == names
        assert [event async for event in consuming] == []


@pytest.mark.parametrize("reason", [CloseReason.TOKEN_REVOKED, CloseReason.REPLACED, CloseReason.PROTOCOL_ERROR])
async def test_a_final_close_ends_the_client_with_its_reason(
    server: RunningNode, omar: str, reason: CloseReason
) -> None:
    async with tidings_client.connect(server.url, lambda: omar, device="laptop") as client:
        room = await client.join("noticias")
        (connection,) = [each for each in server.node.hub.connections if each.device == "laptop"]
        connection.link.close(reason)
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(Closed) as caught:
                await anext(room.messages())
        assert caught.value.reason == reason
