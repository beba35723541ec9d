"""The chat-rooms protocol: the examples and promises of its document."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.conformance.wire import eventually
from tests.delivery.support import expiry_timers
from tests.dialects.rooms_client import chatting, opened
from tests.support.client import Client, connected
from tests.support.node import RunningNode, running_node
from tests.support.timers import Timers
from tidings.transport.socketio_server import CONNECT_TIMEOUT_S

# -- what is documented ----------------------------------------------------------------------------------------------


async def test_every_documented_example_works_as_documented(gateway: RunningNode, host: Client) -> None:
    """Every example of the document."""
    token = await gateway.register("testUser")
    async with opened(gateway) as chatter:
        await chatter.say({"username": "testUser"})
        await chatter.say({"token": token, "action": "get_rooms", "args": {}})
        assert await chatter.receive() == {
            "statusCode": "ok",
            "type": "get_rooms",
            "data": {"rooms": {"room one": 0, "room1": 0, "room two": 0}},
        }
        await chatter.say(
            {"token": token, "action": "connect_to_room", "args": {"username": "testUser", "roomName": "room one"}}
        )
        assert await chatter.receive() == {
            "statusCode": "ok",
            "type": "connect_to_room",
            "data": {"roomName": "room one", "usernames": ["testUser"]},
        }


async def test_all_rooms_are_listed_with_the_number_of_connected_users(gateway: RunningNode, host: Client) -> None:
    for number in range(600):  # each is a commit
        await host.ask("create", topic_name=f"more {number}")
    await host.ask("create", topic_name="secret", is_private=True)
    async with chatting(gateway, "ana") as ana, chatting(gateway, "ben") as ben, chatting(gateway, "eva") as eva:
        for chatter in (ana, ben, eva):
            await chatter.connect_to("room two")
        counts = await ana.counts()
        assert counts["room1"] == 0
        assert counts["room two"] == 3
        assert len(counts) == 603
        assert "secret" not in counts


async def test_connecting_to_a_room_returns_its_users_and_informs_them(gateway: RunningNode, host: Client) -> None:
    async with chatting(gateway, "ana") as ana, chatting(gateway, "ben") as ben:
        assert await ana.connect_to("room one") == ["ana"]
        assert await ben.connect_to("room one") == ["ana", "ben"]
        assert await ana.push("user_joined") == {"roomName": "room one", "username": "ben"}


async def test_connecting_to_a_room_leaves_the_previous_one(gateway: RunningNode, host: Client) -> None:
    async with chatting(gateway, "ana") as ana, chatting(gateway, "ben") as ben:
        await ana.connect_to("room one")
        await ben.connect_to("room one")
        await ana.connect_to("room two")
        assert await ben.push("user_left") == {"roomName": "room one", "username": "ana"}
        assert await ben.counts() == {"room one": 1, "room1": 0, "room two": 1}
        assert await ben.connect_to("room one") == ["ben"]
        await ben.ok("send_message", roomName="room one", message="still here?")
        await ben.push("message")
        await ana.ok("send_message", roomName="room two", message="no")
        assert (await ana.push("message"))["message"] == "no"


async def test_an_owner_keeps_their_room_when_connecting_to_another(gateway: RunningNode, host: Client) -> None:
    token = await gateway.register("ana")
    async with connected(gateway.url, token) as socketio:
        await socketio.ask("create", topic_name="mine")
    async with chatting(gateway, "ana", token) as ana, chatting(gateway, "ben") as ben:
        await ana.connect_to("mine")
        await ben.connect_to("mine")
        assert (await ben.counts())["mine"] == 2
        await ana.connect_to("room one")
        assert (await ben.counts())["mine"] == 1  # ana is connected to another room
        await ben.ok("send_message", message="for the owner")
        await ana.connect_to("mine")
        assert (await ana.push("message"))["message"] == "for the owner"
    async with connected(gateway.url, token) as socketio:
        roles = {room["topic_name"]: room["role"] for room in (await socketio.ask("get_rooms"))["rooms"]}
        assert (roles["mine"], roles["room one"]) == ("owner", None)


async def test_a_message_is_pushed_to_all_users_in_the_room(gateway: RunningNode, host: Client) -> None:
    async with chatting(gateway, "ana") as ana, chatting(gateway, "ben") as ben, chatting(gateway, "eva") as eva:
        await ana.connect_to("room one")
        await ben.connect_to("room one")
        await eva.connect_to("room two")
        sent = await ana.ok("send_message", roomName="room one", message="hi, ben")
        for chatter in (ana, ben):
            message = await chatter.push("message")
            assert (message["roomName"], message["username"], message["message"]) == ("room one", "ana", "hi, ben")
            assert message["messageId"] == sent["messageId"]
        await eva.counts()
        assert [frame for frame in eva.pushed if frame["type"] == "message"] == []


async def test_the_first_message_must_be_the_username(gateway: RunningNode, host: Client) -> None:
    token = await gateway.register("ana")
    async with opened(gateway, token) as ana:
        for wrong in ("ana", "[]", "{}", '{"username": 7}', '{"username": ""}', b"\x00", '{"name": "ana"}'):
            await ana.say(wrong)
            answer = await ana.receive()
            assert (answer["statusCode"], answer["data"]["code"]) == ("error", "invalid"), wrong
        await ana.say({"token": token, "action": "get_rooms", "args": {}})
        assert (await ana.receive())["type"] == "username"
        await ana.say({"username": "ana"})
        assert await ana.counts()


async def test_the_token_is_checked_on_every_command(gateway: RunningNode, host: Client) -> None:
    own = await gateway.register("ana")
    of_ben = await gateway.register("ben")
    async with opened(gateway, own) as ana:
        await ana.say({"username": "ana"})
        for token, code in (("wrong", "unauthenticated"), ("", "unauthenticated"), (of_ben, "forbidden")):
            ana.token = token
            assert await ana.code("get_rooms") == code
        ana.token = own
        assert await ana.counts()
        for token, code in (("wrong", "unauthenticated"), (None, "unauthenticated"), (of_ben, "forbidden")):
            ana.token = token  # type: ignore[assignment]
            assert await ana.code("connect_to_room", roomName="room one") == code
        ana.token = own
        assert (await ana.counts())["room one"] == 0
        ana.token = await gateway.login("ana")
        assert await ana.counts()


async def test_the_username_of_a_command_must_be_that_of_the_token(gateway: RunningNode, host: Client) -> None:
    await gateway.register("ben")
    async with chatting(gateway, "Ana") as ana:
        assert await ana.code("connect_to_room", username="ben", roomName="room one") == "forbidden"
        assert await ana.code("connect_to_room", username="nobody", roomName="room one") == "forbidden"
        assert await ana.code("connect_to_room", username=7, roomName="room one") == "invalid"
        assert (await ana.ok("connect_to_room", username="ANA", roomName="room one"))["usernames"] == ["Ana"]


async def test_a_withdrawn_token_closes_the_connection(gateway: RunningNode, host: Client) -> None:
    token = await gateway.register("ana")
    async with chatting(gateway, "ana", token) as ana:
        await ana.counts()
        async with connected(gateway.url, token) as socketio:
            await socketio.ask("logout")
        assert (await ana.push("closing"))["code"] == "token_revoked"
        with pytest.raises(ConnectionClosed):
            await ana.receive()
        assert ana.socket.close_code == 4401
    async with chatting(gateway, "ana", token) as ana:
        assert await ana.code("get_rooms") == "token_revoked"


async def test_an_expired_token_is_refused_and_closes_its_connection(
    gateway: RunningNode, host: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await gateway.register("ana")
    user = await gateway.node.auth.user("ana")
    expired, _ = await gateway.node.auth.sign_in(user, -1000)
    short, _ = await gateway.node.auth.sign_in(user, 3_600_000)
    async with chatting(gateway, "ana", token) as ana:
        await ana.counts()
        ana.token = expired
        assert await ana.code("get_rooms") == "token_expired"
        timers = expiry_timers(monkeypatch, gateway)
        ana.token = short
        await ana.counts()
        timers.advance(3600)
        assert (await ana.push("closing"))["code"] == "token_expired"


async def test_a_client_without_a_token_is_closed_after_the_timeout(sqlite_url: str, tmp_path: Path) -> None:
    timers = Timers()
    async with (
        running_node(sqlite_url, tmp_path, options={"timers": timers}) as gateway,
        chatting(gateway, "ana") as ana,
    ):
        await eventually(lambda: any(dialect.server.sessions for dialect in gateway.node.dialects.gateways))
        timers.advance(CONNECT_TIMEOUT_S)
        assert (await ana.receive())["data"]["code"] == "unauthenticated"
        with pytest.raises(ConnectionClosed):
            await ana.receive()


# -- order, absence, several connections -----------------------------------------------------------------------------


async def test_concurrent_commands_are_answered_in_order(gateway: RunningNode, host: Client) -> None:
    async with chatting(gateway, "ana") as ana:
        commands: list[tuple[str, dict[str, Any]]] = [
            ("get_rooms", {}),
            ("connect_to_room", {"roomName": "room one"}),
            *(("send_message", {"message": f"{number}"}) for number in range(50)),
            ("nonsense", {}),
            ("send_message", {"message": ""}),
            ("connect_to_room", {"roomName": "room two"}),
            ("send_message", {"message": "there"}),
            ("get_rooms", {}),
        ]
        for action, args in commands:
            await ana.say({"token": ana.token, "action": action, "args": args})
        answers = [await ana.answer() for _ in commands]
        expected = [action if action != "nonsense" else "error" for action, _ in commands]
        assert [answer["type"] for answer in answers] == expected
        assert [a["data"]["code"] for a in answers if a["statusCode"] == "error"] == ["unknown_action", "invalid"]
        assert answers[-1]["data"]["rooms"] == {"room one": 0, "room1": 0, "room two": 1}
        messages = [frame["data"]["message"] for frame in ana.pushed if frame["type"] == "message"]
        while len(messages) < 51:
            messages.append((await ana.receive())["data"]["message"])
        assert messages == [*map(str, range(50)), "there"]


async def test_a_client_gets_the_messages_missed_by_a_lost_connection_once(
    gateway: RunningNode, host: Client
) -> None:
    token = await gateway.register("ana")
    await host.ask("subscribe", topic_name="room one")
    async with chatting(gateway, "ben") as ben:
        await ben.connect_to("room one")
        async with chatting(gateway, "ana", token) as ana:
            await ana.connect_to("room one")
            await ana.ok("send_message", message="back in a minute")
            assert (await ana.push("message"))["message"] == "back in a minute"
            await ben.push("user_joined")
            await host.event(
                "receipt", lambda receipt: receipt["username"] == "ana" and receipt["delivered_seq"] == 1
            )
        assert await ben.push("user_left") == {"roomName": "room one", "username": "ana"}
        assert (await ben.counts())["room one"] == 2
        for number in range(30):
            await ben.ok("send_message", message=f"{number}")
        async with chatting(gateway, "ana", token) as ana:
            assert (await ana.counts())["room one"] == 3
            assert [(await ana.push("message"))["message"] for _ in range(30)] == [*map(str, range(30))]
            assert await ben.push("user_joined") == {"roomName": "room one", "username": "ana"}
            await ana.connect_to("room two")
            assert (await ben.counts())["room one"] == 2
            assert [frame for frame in ana.pushed if frame["type"] == "message"] == []


async def test_a_returning_user_is_counted_in_the_first_answer(
    gateway: RunningNode, host: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await gateway.register("ana")
    async with chatting(gateway, "ana", token) as ana:
        await ana.connect_to("room one")
        assert (await ana.counts())["room one"] == 1
        key = (await gateway.node.auth.user("ana")).key
    reading, released = asyncio.Event(), asyncio.Event()
    arrivals = gateway.node.catch_up._arrivals
    read = arrivals.read

    async def held(requests: Any) -> Any:
        reading.set()
        await released.wait()
        return await read(requests)

    monkeypatch.setattr(arrivals, "read", held)
    async with chatting(gateway, "ana", token) as ana:
        counts = asyncio.create_task(ana.counts())
        await reading.wait()
        gateway.node.hub.notify(key, "presence", {"username": "host", "online": True, "last_seen": None})
        for _ in range(5):
            await host.ask("get_rooms")  # more steps than a first command takes
        assert not counts.done()
        released.set()
        assert (await counts)["room one"] == 1


async def test_a_user_is_in_one_room_on_all_connections(gateway: RunningNode, host: Client) -> None:
    token = await gateway.register("ana")
    async with (
        chatting(gateway, "ana", token) as laptop,
        chatting(gateway, "ana", token) as phone,
        chatting(gateway, "ben") as ben,
    ):
        await laptop.connect_to("room one")
        await phone.connect_to("room one")
        assert (await ben.counts())["room one"] == 1
        await phone.connect_to("room two")
        assert await laptop.push("user_left") == {"roomName": "room one", "username": "ana"}
        assert await ben.counts() == {"room one": 0, "room1": 0, "room two": 1}
        assert await laptop.code("send_message", message="where am I?") == "forbidden"
        await laptop.connect_to("room two")
        await phone.ok("send_message", message="here")
        assert (await laptop.push("message"))["message"] == "here"
