"""Chat rooms: who may do what, and bad input."""

from __future__ import annotations

from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.dialects.rooms_client import chatting, opened
from tests.support.client import Client, connected
from tests.support.node import RunningNode, running_node

# -- who may -------------------------------------------------------------------------------------------------------


async def test_a_failed_command_changes_nothing(gateway: RunningNode, host: Client) -> None:
    async with chatting(gateway, "ana") as ana:
        await ana.connect_to("room one")
        assert await ana.code("connect_to_room", roomName="no such room") == "not_found"
        assert (await ana.counts())["room one"] == 1
        await ana.ok("send_message", roomName="room one", message="still here")


async def test_a_removed_user_is_informed_and_gets_nothing_more(gateway: RunningNode, host: Client) -> None:
    await host.ask("create", topic_name="strict")
    async with chatting(gateway, "ana") as ana, chatting(gateway, "ben") as ben:
        await ana.connect_to("strict")
        await ben.connect_to("strict")
        await host.ask("ban", topic_name="strict", username="ana")
        assert await ana.push("user_left") == {"roomName": "strict", "username": "ana"}
        assert await ben.push("user_left") == {"roomName": "strict", "username": "ana"}
        await host.ask("message", topic_name="strict", content="she is gone")
        await ben.push("message")
        assert await ana.code("send_message", message="hello?") == "forbidden"
        assert await ana.code("connect_to_room", roomName="strict") == "forbidden"
        assert [frame for frame in ana.pushed if frame["type"] == "message"] == []
        await host.ask("mute", topic_name="strict", username="ben", duration=60)
        assert await ben.code("send_message", message="hello?") == "forbidden"


async def test_a_page_of_another_origin_is_refused(gateway: RunningNode) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with opened(gateway, origin="https://elsewhere.example"):  # type: ignore[arg-type]
            pass
    assert refused.value.response.status_code == 403


# -- others, and bad input -----------------------------------------------------------------------------------------


async def test_socketio_and_chat_rooms_exchange_messages(gateway: RunningNode, host: Client) -> None:
    await host.ask("subscribe", topic_name="room one")
    async with chatting(gateway, "ana") as ana:
        assert await ana.connect_to("room one") == ["ana", "host"]
        await ana.ok("send_message", message="from the room", clientId="once")
        repeated = await ana.ok("send_message", message="from the room", clientId="once")
        message = await host.event("message")
        assert (message["sender"], message["content"], message["id"]) == (
            "ana",
            "from the room",
            repeated["messageId"],
        )
        await host.ask("message", topic_name="room one", content="from Socket.IO")
        pushed = [await ana.push("message") for _ in range(2)]
        assert [(message["username"], message["message"]) for message in pushed] == [
            ("ana", "from the room"),
            ("host", "from Socket.IO"),
        ]


NOISE: list[object] = [
    "",
    "{",
    "[]",
    "null",
    "7",
    '"text"',
    b"\xff\x00",
    "[" * 100_000,
    {},
    {"action": "get_rooms"},
    {"token": 7, "action": "get_rooms"},
    {"token": ["x"], "action": {}},
    '{"token": "\\ud800", "action": "get_rooms", "args": {}}',
]
NOISE_SIGNED: list[object] = [
    {"action": None},
    {"action": 7},
    {"action": "\ud800"},
    {"action": "connect"},
    {"action": "disconnect", "args": {}},
    {"action": "x" * 10_000},
    {"action": "get_rooms", "args": []},
    {"action": "get_rooms", "args": None},
    {"action": "connect_to_room"},
    {"action": "connect_to_room", "args": {"roomName": None}},
    {"action": "connect_to_room", "args": {"roomName": "\ud800"}},
    {"action": "connect_to_room", "args": {"roomName": "x" * 100_000}},
    {"action": "connect_to_room", "args": {"roomName": ""}},
    {"action": "connect_to_room", "args": {"roomName": "room one", "username": "\ud800"}},
    {"action": "connect_to_room", "args": {"roomName": {"room_id": "x"}}},
    {"action": "send_message", "args": {}},
    {"action": "send_message", "args": {"message": 7}},
    {"action": "send_message", "args": {"message": "\ud800"}},
    {"action": "send_message", "args": {"message": "\0"}},
    {"action": "send_message", "args": {"message": "x" * 20_000}},
    {"action": "send_message", "args": {"message": "hi", "roomName": ["room one"]}},
    {"action": "send_message", "args": {"message": "hi", "clientId": 7}},
]


async def test_malformed_frames_are_answered_with_an_error_and_the_connection_stays(
    gateway: RunningNode, host: Client
) -> None:
    async with chatting(gateway, "ana") as ana:
        for noise in NOISE:
            await ana.say(noise)
            assert (await ana.answer())["statusCode"] == "error", noise
        await ana.connect_to("room one")
        for noise in NOISE + [{"token": ana.token, **frame} for frame in NOISE_SIGNED if isinstance(frame, dict)]:
            await ana.say(noise)
            assert (await ana.answer())["statusCode"] == "error", noise
        assert (await ana.counts())["room one"] == 1


async def test_an_invalid_username_is_refused_with_the_first_command(gateway: RunningNode, host: Client) -> None:
    token = await gateway.register("ana")
    for name in ("\ud800", "x" * 1000, " ", "ben"):
        async with opened(gateway, token) as ana:
            await ana.say({"username": name})
            assert await ana.code("get_rooms") == "forbidden"


async def test_the_waiting_commands_of_a_client_are_bounded(gateway: RunningNode, host: Client) -> None:
    async with chatting(gateway, "ana") as ana:
        await ana.connect_to("room one")
        for _ in range(4000):
            await ana.say({"token": ana.token, "action": "get_rooms", "args": {}})
        answers = [await ana.answer() for _ in range(4000)]
        assert {answer["data"].get("code") for answer in answers} == {None, "rate_limited"}
        assert answers[0]["statusCode"] == "ok"
        assert await ana.counts()


async def test_a_slow_consumer_of_a_room_is_closed_and_does_not_delay_the_writer(
    sqlite_url: str, tmp_path: Path
) -> None:
    async with running_node(sqlite_url, tmp_path, options={"websocket": {"linger": 0.5}}) as gateway:
        host = await gateway.register("host")
        async with connected(gateway.url, host) as writer, chatting(gateway, "omar") as omar:
            await writer.ask("create", topic_name="room one")
            await omar.connect_to("room one")
            omar.socket.transport.pause_reading()
            ended = gateway.gone()
            for _ in range(3000):
                await writer.ask("message", topic_name="room one", content="x" * 16_000)
                if ended.is_set():
                    break
            assert ended.is_set()
            omar.socket.transport.resume_reading()
            with pytest.raises(ConnectionClosed):
                await omar.push("nothing")
