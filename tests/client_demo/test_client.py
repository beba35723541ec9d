"""A client reconnects unless told not to; lost connections neither lose nor repeat messages."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from client_demo.account import Account, instant
from client_demo.client import Client
from client_demo.connection import Event
from client_demo.errors import ClientError, SignedOut
from client_demo.store import Store
from server.contract.errors import CloseReason
from server.contract.events import Ready
from server.contract.models import Message
from tests.client_demo.conftest import DEADLINE, PASSWORD, People
from tests.support.client import connected
from tests.support.node import RunningNode, running_node


class Device:
    """A running client and what it was shown."""

    def __init__(
        self, server: RunningNode, store: Store, password: str | None, room: str | None, url: str | None = None
    ) -> None:
        self.server = server
        self.shown: list[Event] = []
        self.account = Account(url or server.url, store, "diego", password)
        self.client = Client(
            self.account,
            store,
            "laptop",
            self._show,
            lambda why: None,
            lambda unsent, error: pytest.fail(f"not sent: {error}"),
            wants=lambda room_id: room is None or room_id == room,
        )
        self._changed = asyncio.Event()

    async def _show(self, event: Event) -> None:
        self.shown.append(event)
        self._changed.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not holds():
                self._changed.clear()
                await self._changed.wait()

    def ready(self) -> int:
        return sum(isinstance(event.data, Ready) for event in self.shown)

    def contents(self) -> list[str]:
        return [event.data.content for event in self.shown if isinstance(event.data, Message)]

    async def come_back(self, reason: CloseReason) -> None:
        """Let the server close the connection, and wait for the next."""
        before = self.ready()
        self.close(reason)
        await self.until(lambda: self.ready() > before)

    def close(self, reason: CloseReason) -> None:
        for connection in self.server.node.hub.connections:
            if connection.device == "laptop":
                connection.link.close(reason)


@asynccontextmanager
async def device(
    server: RunningNode,
    store: Store,
    *,
    password: str | None = PASSWORD,
    room: str | None = None,
    url: str | None = None,
) -> AsyncIterator[Device]:
    made = Device(server, store, password, room, url)

    async def yes() -> bool:
        return True

    async def no_password() -> str | None:
        return None

    await made.account.sign_in(yes, no_password)
    running = asyncio.create_task(made.client.run())
    try:
        await made.until(lambda: made.ready() == 1)
        yield made
        assert not running.done(), running.exception()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await made.account.close()


class Network:
    """A way to the server on which answers can get lost: what goes there arrives, what comes back does not."""

    def __init__(self, server: RunningNode) -> None:
        self._port = int(server.url.rpartition(":")[2])
        self._pipes: set[asyncio.StreamWriter] = set()
        self.loses_answers = False

    async def __aenter__(self) -> Network:
        self._listener = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        for writer in self._pipes:
            writer.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._pipes |= {writer, there_writer}
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(self._pipe(reader, there_writer), self._pipe(there_reader, writer, answers=True))

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool = False) -> None:
        while data := await reader.read(65536):
            if not (answers and self.loses_answers):
                writer.write(data)
        writer.close()


def token_until(server: RunningNode, sid: str, seconds: int) -> str:
    now = time.time_ns() // 1_000_000
    return server.node.auth._tokens.make("diego", sid, now - 10_000, now + seconds * 1000)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store(tmp_path / "diego.sqlite3", "laptop") as store:
        yield store


@pytest.mark.parametrize("reason", [CloseReason.SHUTDOWN, CloseReason.SLOW_CONSUMER])
async def test_a_client_comes_back_and_has_missed_nothing(
    server: RunningNode, people: People, store: Store, reason: CloseReason
) -> None:
    await people.topic("noticias", "omar", "diego")
    async with device(server, store) as diego:
        await people.say("omar", "noticias", "one")
        await diego.until(lambda: diego.contents() == ["one"])
        await diego.come_back(reason)
        await people.say("omar", "noticias", "two")
        await diego.until(lambda: "two" in diego.contents())
        assert diego.contents() == ["one", "two"]


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        (CloseReason.TOKEN_REVOKED, SignedOut),
        (CloseReason.REPLACED, ClientError),
        (CloseReason.PROTOCOL_ERROR, ClientError),
    ],
)
async def test_a_client_that_is_told_not_to_come_back_does_not(
    server: RunningNode, people: People, store: Store, reason: CloseReason, error: type[ClientError]
) -> None:
    await people.ask("diego", "GET", "/api/me")
    diego = Device(server, store, PASSWORD, None)
    await store.put(token=await server.login("diego"))
    running = asyncio.create_task(diego.client.run())
    await diego.until(lambda: diego.ready() == 1)
    diego.close(reason)
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(error):
            await running
    await diego.account.close()
    assert diego.ready() == 1


async def test_a_client_with_an_expired_token_signs_in_with_the_password(
    server: RunningNode, people: People, store: Store
) -> None:
    async with device(server, store) as diego:
        principal = await server.node.auth.authenticate(await diego.account.token())
        expired = token_until(server, principal.sid, seconds=-5)
        await store.put(token=expired)
        await diego.come_back(CloseReason.TOKEN_EXPIRED)
        assert await diego.account.token() != expired


async def test_a_client_that_is_not_let_in_says_why_and_stops(server: RunningNode, store: Store) -> None:
    diego = Device(server, store, None, None)
    await store.put(token="not a token")
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(SignedOut, match="sign in again"):
            await diego.client.run()
    await diego.account.close()


async def test_a_name_typed_in_another_case_is_the_registered_one_and_stays_so_offline(
    server: RunningNode, store: Store
) -> None:
    await server.register("Diego")
    async with device(server, store) as diego:
        assert diego.account.username == "Diego"
    again = await Account.open("http://127.0.0.1:1", store, "diego")
    assert again.username == "Diego"
    await again.close()


async def test_a_connection_outlives_its_token(server: RunningNode, people: People, store: Store) -> None:
    await people.ask("diego", "GET", "/api/me")
    auth = server.node.auth
    principal = await auth.authenticate(await server.login("diego"))
    await store.put(token=token_until(server, principal.sid, seconds=20))
    async with device(server, store, password=None) as diego:
        (ready,) = [event.data for event in diego.shown if isinstance(event.data, Ready)]
        assert instant(ready.token_expires_at) < time.time() + 60
        (connection,) = [c for c in server.node.hub.connections if c.device == "laptop"]
        # The connection itself gets the new token: the server would close it at the end of the old one.
        async with asyncio.timeout(DEADLINE):
            while connection.principal.expires_at / 1000 < time.time() + 60:
                await diego.client.ask("get_rooms", {})
        assert await diego.account.expires_in() > 60
        assert diego.ready() == 1


async def test_messages_come_once_and_in_order_however_often_the_connection_is_cut(
    server: RunningNode, people: People, store: Store
) -> None:
    wanted = [f"m{n}" for n in range(120)]
    await people.topic("noticias", "omar", "diego")
    async with device(server, store) as diego:

        async def talk() -> None:
            for n, content in enumerate(wanted):
                await people.say("omar", "noticias", content)
                if n % 15 == 7:
                    diego.close(CloseReason.SHUTDOWN)

        await talk()
        await diego.until(lambda: diego.contents()[-1:] == wanted[-1:] and diego.ready() > 1)
        assert diego.contents() == wanted


async def test_messages_take_effect_once_in_order_across_lost_connections(
    server: RunningNode, people: People, store: Store
) -> None:
    wanted = [f"m{n}" for n in range(60)]
    await people.topic("noticias", "omar", "diego")
    async with device(server, store) as diego:
        for content in wanted:
            await diego.client.outbox.send({"topic_name": "noticias"}, content)
        for n in (5, 20, 40):
            await diego.until(lambda n=n: len(diego.contents()) >= n)  # type: ignore[misc]
            await diego.come_back(CloseReason.SHUTDOWN)
        await diego.until(lambda: diego.contents()[-1:] == wanted[-1:])
        assert diego.contents() == wanted
    assert await people.said("omar", "noticias") == wanted


async def test_a_message_whose_answer_was_lost_is_one_message(
    server: RunningNode, people: People, store: Store
) -> None:
    await people.topic("noticias", "omar", "diego")
    async with Network(server) as network, device(server, store, url=network.url) as diego:
        network.loses_answers = True
        await diego.client.outbox.send({"topic_name": "noticias"}, "one")
        await diego.client.outbox.send({"topic_name": "noticias"}, "two")
        async with asyncio.timeout(DEADLINE):
            while not await people.said("omar", "noticias"):
                pass
        network.loses_answers = False
        network.cut()
        await diego.until(lambda: len(diego.contents()) == 2)
        assert diego.contents() == ["one", "two"]
        assert await people.said("omar", "noticias") == ["one", "two"]


async def test_what_reached_the_machine_but_was_not_taken_is_got_by_the_next_run(
    sqlite_url: str, tmp_path: Path, store: Store
) -> None:
    """A PONG proves to the server that the entries have arrived. They are still ours to ask for again."""
    async with running_node(sqlite_url, tmp_path, options={"engine": {"ping_interval": 0.1}}) as server:
        omar_token = await server.register("omar")
        async with connected(server.url, omar_token) as omar:
            rooms = [await omar.ask("create", topic_name=topic) for topic in ("noticias", "deportes")]
            noticias, deportes = (room["room_id"] for room in rooms)
            await server.register("diego")
            async with connected(server.url, await server.login("diego"), device="laptop") as diego_once:
                for topic in ("noticias", "deportes"):
                    await diego_once.ask("subscribe", topic_name=topic)
            async with device(server, store, room=noticias) as diego:
                for topic in ("deportes", "noticias"):
                    await omar.ask("message", topic_name=topic, content=f"in {topic}")
                await diego.until(lambda: diego.contents() == ["in noticias"])
                await omar.event("receipt", lambda r: r["room_id"] == deportes and r["delivered_seq"] >= 1)
            async with device(server, store, room=deportes) as diego:
                await diego.until(lambda: diego.contents() == ["in deportes"])


async def test_a_log_that_does_not_know_the_cursor_begins_anew(
    server: RunningNode, people: People, store: Store
) -> None:
    """As after a restored backup: the room ends before the place that we are at."""
    await people.topic("noticias", "omar", "diego")
    await people.say("omar", "noticias", "old")
    (room,) = (await people.ask("diego", "GET", "/api/rooms"))["rooms"]
    async with store.take(room["room_id"], 41):
        pass
    async with device(server, store) as diego:
        (ready,) = [event.data for event in diego.shown if isinstance(event.data, Ready)]
        assert ready.reset == [room["room_id"]]
        await people.say("omar", "noticias", "new")
        await diego.until(lambda: diego.contents() == ["new"])
        assert await store.cursor(room["room_id"]) == 2
