"""An append with a `client_id` takes effect once, however often and over whichever connection it is retried."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.delivery.support import make_topic, rest, stored
from tests.support.client import Client, Refused, connected
from tests.support.node import RunningNode

EVERY_WAY_MATTERS = True


@pytest.mark.bad_network("upgrade", "plain")
async def test_a_retry_gets_the_first_result_on_any_connection_and_after_a_restart(
    server: RunningNode, database_url: str
) -> None:
    token, other = await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, token, "noticias", other)
    async with connected(server.url, token, device="phone") as omar, connected(server.url, other) as diego:
        first = await omar.ask("message", room_id=room_id, content="hola", client_id="a")
        assert await omar.ask("message", room_id=room_id, content="hola", client_id="a") == first
        # Also with another content, and with another reference to the room.
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


@pytest.mark.bad_network("polling")
async def test_concurrent_retries_on_two_devices_take_effect_once(server: RunningNode, database_url: str) -> None:
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


async def test_equal_client_ids_of_other_senders_or_rooms_do_not_collide(server: RunningNode) -> None:
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


async def test_a_client_id_is_shown_to_its_sender_only(server: RunningNode) -> None:
    token, other = await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, token, "noticias", other)

    async def shown_client_ids(client: Client) -> list[Any]:
        """The client_id of the message, from each place that shows it."""
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
        assert await shown_client_ids(phone) == await shown_client_ids(laptop) == ["a"] * 4
        assert await shown_client_ids(diego) == [None] * 4
    # A replay shows the same as the live event.
    for reader_token, expected in ((token, "a"), (other, None)):
        async with connected(server.url, reader_token, device="phone", cursors={room_id: 0}) as returned:
            assert (await returned.event("message"))["client_id"] == expected


@pytest.mark.parametrize("is_private", [False, True], ids=["public", "private"])
@pytest.mark.parametrize("removal", ["unsubscribe", "kick", "ban"])
async def test_a_retry_is_refused_for_a_former_member_and_gets_the_first_result_after_rejoining(
    server: RunningNode, removal: str, *, is_private: bool
) -> None:
    token, other = await server.register("omar"), await server.register("diego")
    async with connected(server.url, token) as omar, connected(server.url, other) as diego:

        async def join() -> None:
            if is_private:
                await diego.ask("invite", room_id=room["room_id"], username="omar")
            else:
                await omar.ask("subscribe", topic_name="noticias")

        room = await diego.ask("create", topic_name="noticias", is_private=is_private)
        await join()
        retry = {"room_id": room["room_id"], "content": "bye", "client_id": "a"}
        first = await omar.ask("message", retry)
        if removal == "unsubscribe":
            await omar.ask("unsubscribe", room_id=room["room_id"])
        else:
            await diego.ask(removal, room_id=room["room_id"], username="omar")
        await diego.ask("react", message_id=first["id"], emoji="👍")

        refused = "not_found" if is_private else "forbidden"
        by_name = {"topic_name": "noticias", "content": "bye", "client_id": "a"}
        for payload in (retry, by_name):
            with pytest.raises(Refused) as error:
                await omar.ask("message", payload)
            assert error.value.code == refused
            assert "👍" not in str(error.value.error)
        async with rest(server.url, token) as http:
            for path, body in (
                ("/api/messages", {"room_id": room["room_id"], "content": "bye"}),
                ("/message", {"ConversationId": room["room_id"], "Message": "bye"}),
            ):
                answer = await http.post(path, json=body, headers={"Idempotency-Key": "a"})
                assert answer.status_code == (404 if is_private else 403), answer.text
                assert "👍" not in answer.text

        if removal == "ban":
            await diego.ask("unban", room_id=room["room_id"], username="omar")
        await join()
        assert await omar.ask("message", retry) == first | {"reactions": {"👍": ["diego"]}}
        history = await omar.ask("history", room_id=room["room_id"])
        assert [message["content"] for message in history["messages"]] == ["bye"]


async def test_a_muted_member_still_gets_the_first_result_of_a_retry(
    server: RunningNode,
) -> None:
    token, other = await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, other, "noticias", token)
    async with connected(server.url, token) as omar, connected(server.url, other) as diego:
        to_room = {"room_id": room_id, "content": "bye", "client_id": "a"}
        to_diego = {"username": "diego", "content": "psst", "client_id": "a"}
        first, direct = await omar.ask("message", to_room), await omar.ask("message", to_diego)
        await diego.ask("mute", room_id=room_id, username="omar", duration=600)
        await diego.ask("block", username="omar")
        assert await omar.ask("message", to_room) == first
        assert await omar.ask("message", to_diego) == direct
        for payload in (to_room, to_diego):
            with pytest.raises(Refused) as error:
                await omar.ask("message", payload | {"client_id": "b"})
            assert error.value.code == "forbidden"
