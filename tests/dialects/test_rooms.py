"""The chat-rooms protocol: the examples and promises of its document."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.conformance.wire import eventually
from tests.delivery.support import expiry_timers
from tests.support.client import DEADLINE_S, Client, connected
from tests.support.node import RunningNode, running_node
from tests.support.process import ServerProcess
from tests.support.timers import Timers
from tidings.contract.errors import ErrorCode
from tidings.transport.socketio_server import CONNECT_TIMEOUT_S

PUSHED = ("message", "user_joined", "user_left", "closing")


class Chatter:
    """A client of the documented protocol. It separates answers and pushes, and keeps the order of each."""

    def __init__(self, socket: ClientConnection, token: str) -> None:
        self.socket = socket
        self.token = token
        self.pushed: list[dict[str, Any]] = []

    async def say(self, frame: object) -> None:
        await self.socket.send(frame if isinstance(frame, str | bytes) else json.dumps(frame))

    async def receive(self) -> dict[str, Any]:
        """The next frame, after checking its documented shape."""
        text = await asyncio.wait_for(self.socket.recv(), DEADLINE_S)
        assert isinstance(text, str)
        frame: dict[str, Any] = json.loads(text)
        assert frame.keys() == {"statusCode", "type", "data"}, frame
        assert frame["statusCode"] in ("ok", "error")
        assert isinstance(frame["data"], dict)
        if frame["statusCode"] == "error":
            assert frame["data"]["code"]
            assert frame["data"]["code"] != ErrorCode.INTERNAL
            assert isinstance(frame["data"]["message"], str)
        return frame

    async def answer(self) -> dict[str, Any]:
        while (frame := await self.receive())["type"] in PUSHED:
            self.pushed.append(frame)
        return frame

    async def ask(self, action: str, **args: Any) -> dict[str, Any]:
        await self.say({"token": self.token, "action": action, "args": args})
        return await self.answer()

    async def ok(self, action: str, **args: Any) -> dict[str, Any]:
        """Run a command that succeeds; returns its data."""
        answer = await self.ask(action, **args)
        assert (answer["statusCode"], answer["type"]) == ("ok", action), answer
        data: dict[str, Any] = answer["data"]
        return data

    async def code(self, action: str, **args: Any) -> str:
        answer = await self.ask(action, **args)
        assert answer["statusCode"] == "error", answer
        return str(answer["data"]["code"])

    async def push(self, kind: str) -> dict[str, Any]:
        """The data of the next push of a kind."""
        while True:
            for at, frame in enumerate(self.pushed):
                if frame["type"] == kind:
                    del self.pushed[at]
                    data: dict[str, Any] = frame["data"]
                    return data
            self.pushed.append(await self.receive())

    async def connect_to(self, room: str) -> list[str]:
        """Connect to a room; returns the usernames in it."""
        data = await self.ok("connect_to_room", roomName=room)
        assert data.keys() == {"roomName", "usernames"}
        assert data["roomName"] == room
        return sorted(data["usernames"])

    async def counts(self) -> dict[str, int]:
        counts: dict[str, int] = (await self.ok("get_rooms"))["rooms"]
        return counts


@asynccontextmanager
async def opened(gateway: RunningNode | ServerProcess, token: str = "", **options: Any) -> AsyncIterator[Chatter]:
    """An unused WebSocket."""
    url = gateway.url.replace("http", "ws", 1)
    async with connect(url, compression=None, ping_interval=None, max_size=None, proxy=None, **options) as socket:
        yield Chatter(socket, token)


@asynccontextmanager
async def chatting(
    gateway: RunningNode | ServerProcess, username: str, token: str | None = None
) -> AsyncIterator[Chatter]:
    """A user who has sent their username; without a token, they are registered first."""
    async with opened(gateway, token or await gateway.register(username)) as chatter:
        await chatter.say({"username": username})
        yield chatter


@pytest.fixture
async def host(gateway: RunningNode) -> AsyncIterator[Client]:
    """The creator of the rooms, on Socket.IO, who has left them."""
    async with connected(gateway.url, await gateway.register("host")) as host:
        for name in ("room one", "room1", "room two"):
            await host.ask("create", topic_name=name)
            await host.ask("unsubscribe", topic_name=name)
        yield host


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


# -- who may -------------------------------------------------------------------------------------------------------


async def test_private_rooms_do_not_exist_for_non_members(gateway: RunningNode, host: Client) -> None:
    await host.ask("create", topic_name="secret", is_private=True)
    async with chatting(gateway, "ana") as ana:
        assert await ana.code("connect_to_room", roomName="secret") == "not_found"
        assert await ana.code("connect_to_room", roomName="no such room") == "not_found"
        assert await ana.code("connect_to_room", roomName="host") == "not_found"
        assert await ana.code("send_message", roomName="secret", message="hi") == "forbidden"
        await host.ask("invite", topic_name="secret", username="ana")
        assert await ana.connect_to("secret") == ["ana", "host"]
        assert (await ana.counts())["secret"] == 2


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
