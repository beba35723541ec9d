"""An append that carries a `client_id` takes effect once, however often and from wherever it is retried."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.delivery.support import make_topic, rest, stored
from tests.support.client import Client, connected
from tests.support.node import RunningNode


async def test_a_retry_gets_the_first_result_on_any_connection_and_after_a_restart(
    server: RunningNode, database_url: str
) -> None:
    token, other = await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, token, "noticias", other)
    async with connected(server.url, token, device="phone") as omar, connected(server.url, other) as diego:
        first = await omar.ask("message", room_id=room_id, content="hola", client_id="a")
        assert await omar.ask("message", room_id=room_id, content="hola", client_id="a") == first
        # Whatever it says this time, and whatever it names the room by.
        assert await omar.ask("message", topic_name="NOTICIAS", content="otra", client_id="a") == first
        async with connected(server.url, await server.login("omar"), device="laptop") as laptop:
            assert await laptop.ask("message", room_id=room_id, content="hola", client_id="a") == first
        await diego.ask("message", room_id=room_id, content="between")
        await diego.until(lambda: len(diego.of("message")) == 2)
    await server.stop()
    await server.start()
    async with connected(server.url, token, device="phone") as omar:
        assert await omar.ask("message", room_id=room_id, content="hola", client_id="a") == first
        async with rest(server.url, token) as http:
            body = {"room_id": room_id, "content": "hola", "client_id": "a"}
            assert (await http.post("/api/messages", json=body)).json() == first
        assert await stored(database_url, room_id) == ["hola", "between"]
    assert diego.contents() == ["hola", "between"]


async def test_retries_at_once_on_two_devices_take_effect_once(server: RunningNode, database_url: str) -> None:
    token = await server.register("omar")
    room_id = await make_topic(server.url, token, "noticias")
    devices = [await Client(server.url, token, device=name).connect() for name in ("phone", "phone", "laptop")]
    asked = [
        device.send("message", {"room_id": room_id, "content": f"{n}", "client_id": f"c{n}"})
        for n in range(20)
        for device in devices
    ]
    results: dict[str, list[Any]] = {}
    for answer in await asyncio.gather(*asked):
        results.setdefault(answer["data"]["client_id"], []).append(answer["data"])
    assert {client_id: len(same) for client_id, same in results.items()} == {f"c{n}": 3 for n in range(20)}
    assert all(same == [same[0]] * 3 for same in results.values())
    assert sorted(same[0]["seq"] for same in results.values()) == list(range(1, 21))
    assert len(await stored(database_url, room_id)) == 20
    last = await devices[0].ask("message", room_id=room_id, content="last")
    for device in devices:
        await device.event("message", lambda m: m["id"] == last["id"])
        assert [m["seq"] for m in device.of("message")] == list(range(1, 22))
        await device.close()


async def test_a_client_id_is_of_one_sender_in_one_room(server: RunningNode) -> None:
    token, other = await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, token, "noticias", other)
    second = await make_topic(server.url, token, "otras", other)
    async with connected(server.url, token) as omar, connected(server.url, other) as diego:
        sent = [
            await omar.ask("message", room_id=room_id, content="omar's", client_id="a"),
            await diego.ask("message", room_id=room_id, content="diego's", client_id="a"),
            await omar.ask("message", room_id=second, content="elsewhere", client_id="a"),
            await omar.ask("message", room_id=second, content="another", client_id="b"),
        ]
        assert [(m["content"], m["seq"]) for m in sent] == [
            ("omar's", 1),
            ("diego's", 2),
            ("elsewhere", 1),
            ("another", 2),
        ]


async def test_a_client_id_goes_to_its_sender_only(server: RunningNode) -> None:
    token, other = await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, token, "noticias", other)

    async def seen(client: Client) -> list[Any]:
        """The client_id of the one message, wherever it is to be had."""
        history = await client.ask("history", room_id=room_id)
        (room,) = (await client.ask("get_rooms"))["rooms"]
        entered = await client.ask("connect_to_room", topic_name="noticias")
        return [
            (await client.event("message"))["client_id"],
            history["messages"][0]["client_id"],
            room["last_message"]["client_id"],
            entered["room"]["last_message"]["client_id"],
        ]

    async with (
        connected(server.url, token, device="phone") as phone,
        connected(server.url, token, device="laptop") as laptop,
        connected(server.url, other) as diego,
    ):
        answer = await phone.ask("message", room_id=room_id, content="hola", client_id="a")
        assert answer["client_id"] == "a"
        assert await seen(phone) == await seen(laptop) == ["a"] * 4
        assert await seen(diego) == [None] * 4
    # Replayed, it is as it was live.
    for name, expected in ((token, "a"), (other, None)):
        async with connected(server.url, name, device="phone", cursors={room_id: 0}) as back:
            assert (await back.event("message"))["client_id"] == expected


async def test_a_sender_that_has_left_gets_the_first_result_of_a_retry(server: RunningNode) -> None:
    token, other = await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, other, "noticias", token)
    async with connected(server.url, token) as omar:
        first = await omar.ask("message", room_id=room_id, content="bye", client_id="a")
        await omar.ask("unsubscribe", room_id=room_id)
        assert await omar.ask("message", room_id=room_id, content="bye", client_id="a") == first
