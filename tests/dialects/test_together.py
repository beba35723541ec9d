"""Clients of every protocol in one public topic: each gets every message once, in the same order."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect

from tests.dialects.channels_client import link
from tests.e2e.javascript import SCRIPTS
from tests.e2e.javascript import node as node_js
from tests.support.client import LiveClient, connected, plainly_connected
from tests.support.node import RunningNode

TOPIC = "public"
EACH = 143
PATIENCE_S = 30.0


class Talker(ABC):
    """A member of the topic. `received` has sender and content of each message, in order."""

    received: list[tuple[str, str]]

    @abstractmethod
    async def say(self, content: str) -> None: ...

    @abstractmethod
    async def receive(self, number: int) -> None:
        """Wait until `number` messages have arrived."""

    @abstractmethod
    async def check(self) -> None:
        """Wait for a round trip: everything sent before it has arrived."""


class Canonical(Talker):
    def __init__(self, client: LiveClient) -> None:
        self._client = client

    @property
    def received(self) -> list[tuple[str, str]]:  # type: ignore[override]
        return [(message["sender"], message["content"]) for message in self._client.of("message")]

    async def say(self, content: str) -> None:
        await self._client.ask("message", topic_name=TOPIC, content=content)

    async def receive(self, number: int) -> None:
        await self._client.until(lambda: len(self._client.of("message")) >= number, PATIENCE_S)

    async def check(self) -> None:
        await self._client.ask("history", topic_name=TOPIC, limit=1)


class Reading(Talker):
    """It reads all the time, and sets `_changed` at each message."""

    def __init__(self) -> None:
        self.received = []
        self._answers: asyncio.Queue[Any] = asyncio.Queue()
        self._changed = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    @abstractmethod
    async def _read(self) -> None: ...

    async def answer(self) -> Any:
        return await asyncio.wait_for(self._answers.get(), PATIENCE_S)

    async def receive(self, number: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.received) < number:
                self._changed.clear()
                await self._changed.wait()


class Dialect(Reading):
    """A WebSocket of a dialect. A subclass defines how to send a message, and which frames are messages."""

    def __init__(self, socket: ClientConnection, token: str) -> None:
        self._socket = socket
        self._token = token
        super().__init__()

    async def _read(self) -> None:
        async for text in self._socket:
            frame = json.loads(text)
            message = self.message(frame)
            if message is None:
                self._answers.put_nowait(frame)
            else:
                self.received.append(message)
                self._changed.set()

    @abstractmethod
    def message(self, frame: dict[str, Any]) -> tuple[str, str] | None:
        """Sender and content of a message, None for other frames."""

    async def send(self, **frame: Any) -> None:
        await self._socket.send(json.dumps(frame))


class ByTopics(Dialect):
    def message(self, frame: dict[str, Any]) -> tuple[str, str] | None:
        return (frame["sender"], frame["content"]) if "sender" in frame else None

    async def say(self, content: str) -> None:
        await self.send(action="message", topic_name=TOPIC, content=content)
        assert (await self.answer())["status"] == "ok"

    async def check(self) -> None:
        await self.send(action="subscribe", topic_name=TOPIC)
        assert (await self.answer())["code"] == "conflict"


class ByRooms(Dialect):
    def message(self, frame: dict[str, Any]) -> tuple[str, str] | None:
        return (frame["data"]["username"], frame["data"]["message"]) if frame["type"] == "message" else None

    async def answer(self) -> Any:
        while (frame := await super().answer())["type"] in ("user_joined", "user_left"):
            pass
        assert frame["statusCode"] == "ok", frame
        return frame

    async def command(self, action: str, **args: Any) -> None:
        await self.send(token=self._token, action=action, args=args)
        assert (await self.answer())["type"] == action

    async def say(self, content: str) -> None:
        await self.command("send_message", roomName=TOPIC, message=content)

    async def check(self) -> None:
        await self.command("get_rooms")


class ByChannel(Dialect):
    def message(self, frame: dict[str, Any]) -> tuple[str, str] | None:
        return (frame["username"], frame["message"]) if "message" in frame else None

    async def say(self, content: str) -> None:
        await self._socket.send(content)

    async def check(self) -> None:
        await self._socket.send("")
        assert (await self.answer())["error"]["code"] == "invalid"


class ByMessenger(Dialect):
    """Sends over HTTP, as documented, and receives over the WebSocket."""

    def __init__(self, socket: ClientConnection, token: str, http: httpx.AsyncClient) -> None:
        super().__init__(socket, token)
        self._http = http
        self.conversation = ""

    def message(self, frame: dict[str, Any]) -> tuple[str, str] | None:
        data = frame.get("Data")
        return (data["Sender"], data["Message"]) if frame["Message"] == "New Message" and data else None

    async def send_token(self) -> None:
        await self._socket.send(self._token)

    async def say(self, content: str) -> None:
        headers = {"Authorization": f"Bearer {self._token}"}
        body = {"ConversationId": self.conversation, "Message": content}
        assert (await self._http.post("/message", json=body, headers=headers)).status_code == 201

    async def check(self) -> None:
        await self.send(Message="Nothing of the kind")
        assert (await self.answer())["Data"] is None


class ByStockClient(Reading):
    """The official socket.io-client, under Node.js."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        super().__init__()

    @classmethod
    @asynccontextmanager
    async def started(cls, url: str, token: str) -> AsyncIterator[ByStockClient]:
        process = await asyncio.create_subprocess_exec(
            node_js(),
            str(SCRIPTS / "chorus.mjs"),
            json.dumps({"url": url, "token": token}),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            client = cls(process)
            assert await client.answer() == "ready"
            yield client
        finally:
            assert process.stdin is not None
            process.stdin.close()
            await asyncio.wait_for(process.wait(), PATIENCE_S)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            output = json.loads(line)
            if "heard" in output:
                self.received.append(tuple(output["heard"]))
                self._changed.set()
            else:
                self._answers.put_nowait(output["answer"])

    async def ask(self, action: str, **payload: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"action": action, "payload": payload}).encode() + b"\n")
        assert (await self.answer())["ok"]

    async def say(self, content: str) -> None:
        await self.ask("message", topic_name=TOPIC, content=content)

    async def check(self) -> None:
        await self.ask("history", topic_name=TOPIC, limit=1)


@asynccontextmanager
async def everybody(node: RunningNode) -> AsyncIterator[dict[str, Talker]]:
    """A user for each kind of client, all members of the topic."""
    ws = node.url.replace("http", "ws", 1)
    async with AsyncExitStack() as stack:

        async def opened(address: str) -> ClientConnection:
            return await stack.enter_async_context(connect(address, ping_interval=None, max_size=None, proxy=None))

        names = ("sio", "js", "plain", "topics", "messenger", "rooms", "channel", "late")
        tokens = {name: await node.register(name) for name in names}
        address = await link(node.url, tokens["channel"], "pub_ws")  # creates the topic
        socketio = await stack.enter_async_context(connected(node.url, tokens["sio"]))
        plain = await stack.enter_async_context(plainly_connected(node.url, tokens["plain"]))
        for client in (socketio, plain):
            await client.ask("subscribe", topic_name=TOPIC)
        stock = await stack.enter_async_context(ByStockClient.started(node.url, tokens["js"]))
        await stock.ask("subscribe", topic_name=TOPIC)
        topics = ByTopics(await opened(f"{ws}/{tokens['topics']}"), tokens["topics"])
        await topics.send(action="subscribe", topic_name=TOPIC)
        assert (await topics.answer())["status"] == "ok"
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=node.url, timeout=PATIENCE_S))
        messenger = ByMessenger(await opened(f"{ws}/websocket"), tokens["messenger"], http)
        assert await messenger.answer() == {"Message": "Websocket Open"}
        await messenger.send_token()
        assert await messenger.answer() == {"Message": "Websocket Authenticated"}
        joined = await http.post(
            "/api/subscriptions",
            json={"topic_name": TOPIC},
            headers={"Authorization": f"Bearer {tokens['messenger']}"},
        )
        messenger.conversation = joined.json()["room_id"]
        rooms = ByRooms(await opened(ws), tokens["rooms"])
        await rooms.send(username="rooms")
        await rooms.command("connect_to_room", roomName=TOPIC)
        channel = ByChannel(await opened(address), tokens["channel"])
        await channel.check()
        yield {
            "sio": Canonical(socketio),
            "js": stock,
            "plain": Canonical(plain),
            "topics": topics,
            "messenger": messenger,
            "rooms": rooms,
            "channel": channel,
        }


async def test_clients_of_every_protocol_get_every_message_once_in_one_order(gateway: RunningNode) -> None:
    async with everybody(gateway) as talkers:

        async def talk(name: str, talker: Talker) -> None:
            for number in range(EACH):
                await talker.say(f"{number}")

        await asyncio.gather(*(talk(name, talker) for name, talker in talkers.items()))
        total = EACH * len(talkers)
        assert total >= 1000
        for talker in talkers.values():
            await talker.receive(total)
            await talker.check()
        expected = talkers["sio"].received
        for name, talker in talkers.items():
            assert talker.received == expected, name
            assert [content for sender, content in expected if sender == name] == [*map(str, range(EACH))]
        # A later visitor of the public channel gets the same messages.
        async with connect(
            await link(gateway.url, await gateway.login("late"), "pub_ws"), max_size=None, proxy=None
        ) as socket:
            late = ByChannel(socket, "")
            await late.receive(total)
            await late.check()
            assert late.received == expected
