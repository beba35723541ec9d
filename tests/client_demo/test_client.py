"""A client reconnects unless told not to; lost connections neither lose nor repeat messages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.client_demo.conftest import DEADLINE, PASSWORD, People
from tests.support.client import connected
from tests.support.node import RunningNode, running_node
from tidings.contract.errors import CloseReason
from tidings.contract.events import Ready
from tidings.contract.models import Message
from tidings_chat.account import Account, instant
from tidings_chat.client import Client
from tidings_chat.connection import Event
from tidings_chat.errors import ClientError, SignedOut
from tidings_chat.store import Store


class Device:
    """A running client and the events that it has shown."""

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
            lambda reason: None,
            lambda unsent, error: pytest.fail(f"not sent: {error}"),
            is_wanted=lambda room_id: room is None or room_id == room,
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

    async def reconnect_after(self, reason: CloseReason) -> None:
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
    laptop = Device(server, store, password, room, url)

    async def yes() -> bool:
        return True

    async def no_password() -> str | None:
        return None

    await laptop.account.sign_in(yes, no_password)
    running = asyncio.create_task(laptop.client.run())
    try:
        await laptop.until(lambda: laptop.ready() == 1)
        yield laptop
        assert not running.done(), running.exception()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await laptop.account.close()


def token_until(server: RunningNode, sid: str, seconds: int) -> str:
    now = time.time_ns() // 1_000_000
    return server.node.auth._tokens.make("diego", sid, now - 10_000, now + seconds * 1000)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store(tmp_path / "diego.sqlite3", "laptop") as store:
        yield store


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        (CloseReason.TOKEN_REVOKED, SignedOut),
        (CloseReason.REPLACED, ClientError),
        (CloseReason.PROTOCOL_ERROR, ClientError),
    ],
)
async def test_a_client_does_not_reconnect_after_a_final_close(
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
        await diego.reconnect_after(CloseReason.TOKEN_EXPIRED)
        assert await diego.account.token() != expired


async def test_a_refused_client_stops_with_the_reason(server: RunningNode, store: Store) -> None:
    diego = Device(server, store, None, None)
    await store.put(token="not a token")
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(SignedOut, match="sign in again"):
            await diego.client.run()
    await diego.account.close()


async def test_a_username_takes_the_registered_spelling_even_offline(server: RunningNode, store: Store) -> None:
    await server.register("Diego")
    async with device(server, store) as diego:
        assert diego.account.username == "Diego"
    offline = await Account.open("http://127.0.0.1:1", store, "diego")
    assert offline.username == "Diego"
    await offline.close()


async def test_a_connection_outlives_its_token(server: RunningNode, people: People, store: Store) -> None:
    await people.ask("diego", "GET", "/api/me")
    auth = server.node.auth
    principal = await auth.authenticate(await server.login("diego"))
    await store.put(token=token_until(server, principal.sid, seconds=40))
    async with device(server, store, password=None) as diego:
        (ready,) = [event.data for event in diego.shown if isinstance(event.data, Ready)]
        assert instant(ready.token_expires_at) < time.time() + 60
        (connection,) = [c for c in server.node.hub.connections if c.device == "laptop"]
        # The connection itself gets the new token; otherwise the server would close it at the expiry of the old one.
        async with asyncio.timeout(DEADLINE):
            while connection.principal.expires_at / 1000 < time.time() + 60:
                await diego.client.ask("get_rooms", {})
        assert await diego.account.expires_in() > 60
        assert diego.ready() == 1


async def test_messages_are_received_once_in_order_across_lost_connections(
    server: RunningNode, people: People, store: Store
) -> None:
    expected = [f"m{n}" for n in range(120)]
    await people.topic("noticias", "omar", "diego")
    async with device(server, store) as diego:
        for n, content in enumerate(expected):
            await people.send("omar", "noticias", content)
            if n % 15 == 7:
                diego.close(CloseReason.SHUTDOWN)
        await diego.until(lambda: diego.contents()[-1:] == expected[-1:] and diego.ready() > 1)
        assert diego.contents() == expected


async def test_messages_take_effect_once_in_order_across_lost_connections(
    server: RunningNode, people: People, store: Store
) -> None:
    expected = [f"m{n}" for n in range(60)]
    await people.topic("noticias", "omar", "diego")
    async with device(server, store) as diego:
        for content in expected:
            await diego.client.outbox.send({"topic_name": "noticias"}, content)
        for n in (5, 20, 40):
            await diego.until(lambda n=n: len(diego.contents()) >= n)  # type: ignore[misc]
            await diego.reconnect_after(CloseReason.SHUTDOWN)
        await diego.until(lambda: diego.contents()[-1:] == expected[-1:])
        assert diego.contents() == expected
    assert await people.contents("omar", "noticias") == expected


async def test_entries_that_arrived_but_were_not_shown_are_requested_by_the_next_run(
    sqlite_url: str, tmp_path: Path, store: Store
) -> None:
    """A PONG has moved the server's cursor, but the client can still request the entries again."""
    async with running_node(sqlite_url, tmp_path, options={"engine": {"ping_interval": 0.1}}) as server:
        omar_token = await server.register("omar")
        async with connected(server.url, omar_token) as omar:
            rooms = [await omar.ask("create", topic_name=topic) for topic in ("noticias", "deportes")]
            noticias, deportes = (room["room_id"] for room in rooms)
            await server.register("diego")
            async with connected(server.url, await server.login("diego"), device="laptop") as first:
                for topic in ("noticias", "deportes"):
                    await first.ask("subscribe", topic_name=topic)
            async with device(server, store, room=noticias) as diego:
                for topic in ("deportes", "noticias"):
                    await omar.ask("message", topic_name=topic, content=f"in {topic}")
                await diego.until(lambda: diego.contents() == ["in noticias"])
                await omar.event("receipt", lambda r: r["room_id"] == deportes and r["delivered_seq"] >= 1)
            async with device(server, store, room=deportes) as diego:
                await diego.until(lambda: diego.contents() == ["in deportes"])


async def test_a_reset_room_starts_with_an_empty_log(server: RunningNode, people: People, store: Store) -> None:
    """As after a restored backup: the log ends before the client's cursor."""
    await people.topic("noticias", "omar", "diego")
    await people.send("omar", "noticias", "old")
    (room,) = (await people.ask("diego", "GET", "/api/rooms"))["rooms"]
    async with store.take(room["room_id"], 41):
        pass
    async with device(server, store) as diego:
        (ready,) = [event.data for event in diego.shown if isinstance(event.data, Ready)]
        assert ready.reset == [room["room_id"]]
        await people.send("omar", "noticias", "new")
        await diego.until(lambda: diego.contents() == ["new"])
        assert await store.cursor(room["room_id"]) == 2
