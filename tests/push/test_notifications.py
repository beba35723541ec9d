"""Who is notified of which message, and what a notification says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.push.browsers import Browsers
from tests.push.conftest import FAST, Clock
from tests.support.client import Client, Refused, connected
from tests.support.node import RunningNode, running_node
from tests.webhooks.receiver import Request
from tidings_db.queries import push


@pytest.fixture
async def omar(server: RunningNode) -> AsyncIterator[Client]:
    async with connected(server.url, await server.register("omar")) as client:
        yield client


@pytest.fixture
async def diego(server: RunningNode) -> AsyncIterator[Client]:
    async with connected(server.url, await server.register("diego")) as client:
        yield client


async def settled(server: RunningNode) -> None:
    """Wait until nothing is left to send, or to look at."""
    async with asyncio.timeout(30):
        while await server.node.database.read(
            lambda conn: push.behind(conn, 0, 1) or push.next_due(conn) is not None
        ):
            server.node.push.check_soon()
            await server.node.database.read(lambda conn: None)


async def followed(server: RunningNode) -> None:
    """Wait until all messages are looked at. The clock is before the time of sending."""
    async with asyncio.timeout(30):
        while await server.node.database.read(lambda conn: push.behind(conn, 0, 1)):
            await server.node.database.read(lambda conn: None)


async def test_a_message_arrives_encrypted_and_signed_as_the_standards_say(
    server: RunningNode, browsers: Browsers, omar: Client, diego: Client
) -> None:
    """Decrypted and verified by Node.js with http_ece."""
    public_key = (await omar.ask("get_push"))["public_key"]
    subscription = await browsers.subscribe(omar, "phone")
    await diego.ask("set_profile", display_name="Diego P.")
    sent = await diego.ask("message", username="omar", content="Buenos días  " + "ñ" * 300)
    await browsers.service.until(lambda: browsers.service.accepted)
    [request] = browsers.service.accepted
    assert request.headers["content-encoding"] == "aes128gcm"
    assert request.headers["urgency"] == "high"
    assert int(request.headers["ttl"]) == 24 * 3600
    assert len(request.headers["topic"]) == 32
    opened = await browsers.opened(request)
    assert opened["bytes"] < 4096
    assert opened["key"] == public_key
    assert opened["header"]["alg"] == "ES256"
    claims = opened["claims"]
    assert claims["aud"] == browsers.service.url.removesuffix("/hook")
    assert time.time() < claims["exp"] <= time.time() + 24 * 3600
    assert claims["sub"].startswith("mailto:")
    assert opened["data"] == {
        "room_id": sent["room_id"],
        "title": None,
        "seq": sent["seq"],
        "thread": None,
        "sender": "diego",
        "display_name": "Diego P.",
        "text": "Buenos días " + "ñ" * 187 + "…",
        "unread": 1,
    }
    listed = (await omar.ask("get_push"))["subscriptions"]
    assert listed == [subscription]
    assert subscription["current"]


async def test_a_subscription_without_content_says_neither_who_nor_what(
    server: RunningNode, browsers: Browsers, omar: Client, diego: Client
) -> None:
    await browsers.subscribe(omar, "phone", with_content=False)
    sent = await diego.ask("message", username="omar", content="secreto")
    await browsers.service.until(lambda: browsers.service.accepted)
    [data] = await browsers.data()
    assert (data["room_id"], data["seq"], data["unread"]) == (sent["room_id"], sent["seq"], 1)
    assert {data[name] for name in ("title", "sender", "display_name", "text")} == {None}


async def test_only_what_the_user_wants_to_hear_of_is_sent(
    server: RunningNode, browsers: Browsers, omar: Client, diego: Client
) -> None:
    """The same rules as on the page: `isWanted` in web/src/views/notifications.ts."""
    await browsers.subscribe(omar, "phone")
    rooms = {}
    for name, preferences in {
        "mentions": {},
        "all": {"notify": "all"},
        "nothing": {"notify": "nothing"},
        "quiet": {"notify": "all", "quiet_for": 3600},
        "threads": {},
    }.items():
        room = await diego.ask("create", topic_name=name)
        rooms[room["room_id"]] = name
        await omar.ask("subscribe", topic_name=name)
        if preferences:
            await omar.ask("set_preferences", room_id=room["room_id"], **preferences)
        await diego.ask("message", topic_name=name, content=f"plain in {name}")
    for name in ("nothing", "quiet"):
        await diego.ask("message", topic_name=name, content="@omar, are you there?")
    began = await omar.ask("message", topic_name="threads", content="a thread")
    await diego.ask("message", topic_name="threads", content="another", thread=began["id"])
    other = await diego.ask("message", topic_name="threads", content="of somebody else")
    await diego.ask("message", topic_name="threads", content="without omar", thread=other["id"])
    await settled(server)
    assert sorted((rooms[data["room_id"]], data["text"]) for data in await browsers.data()) == [
        ("all", "plain in all"),
        ("threads", "another"),
    ]
    browsers.service.accepted.clear()
    await diego.ask("message", topic_name="mentions", content="@omar, look")
    await omar.ask("message", topic_name="all", content="my own")
    await settled(server)
    assert [data["text"] for data in await browsers.data()] == ["@omar, look"]
    browsers.service.accepted.clear()
    await omar.ask("set_profile", do_not_disturb=3600)
    await diego.ask("message", topic_name="mentions", content="@omar, look again")
    await settled(server)
    await omar.ask("set_profile", do_not_disturb=None)
    await omar.ask("block", username="diego")
    await diego.ask("message", topic_name="all", content="from one whom omar has blocked")
    await settled(server)
    assert browsers.service.accepted == []


async def test_messages_of_a_room_are_one_notification_and_rooms_do_not_replace_each_other(
    database_url: str, tmp_path: Path, browsers: Browsers
) -> None:
    clock = Clock()
    options = {"push": {**FAST["push"], "wait_s": 600, "clock": clock}}
    async with (
        running_node(database_url, tmp_path, options=options, push="private") as server,
        AsyncExitStack() as stack,
    ):
        names = ("omar", "diego", "elena")
        clients = [connected(server.url, await server.register(name)) for name in names]
        omar, diego, elena = [await stack.enter_async_context(client) for client in clients]
        await browsers.subscribe(omar, "phone")
        for number in range(5):
            await diego.ask("message", username="omar", content=f"{number}")
        newest = await diego.ask("message", username="omar", content="taken back")
        await diego.ask("delete", message_id=newest["id"])
        await elena.ask("message", username="omar", content="hola")
        await followed(server)
        assert browsers.service.received == []
        clock.advance(601)
        server.node.push.check_soon()
        await browsers.service.until(lambda: len(browsers.service.accepted) == 2)
        await settled(server)
        data = sorted([(one["text"], one["unread"]) for one in await browsers.data()])
        assert data == [("4", 7), ("hola", 7)], "the newest message of each that is still there"
        assert len({request.headers["topic"] for request in browsers.service.accepted}) == 2


async def test_what_was_read_elsewhere_in_time_is_not_sent(
    database_url: str, tmp_path: Path, browsers: Browsers
) -> None:
    clock = Clock()
    options = {"push": {**FAST["push"], "wait_s": 600, "clock": clock}}
    async with (
        running_node(database_url, tmp_path, options=options, push="private") as server,
        connected(server.url, await server.register("omar")) as omar,
        connected(server.url, await server.register("diego")) as diego,
    ):
        await browsers.subscribe(omar, "phone")
        await omar.ask("create", topic_name="left")
        await diego.ask("subscribe", topic_name="left")
        await diego.ask("message", topic_name="left", content="@omar")
        await omar.ask("unsubscribe", topic_name="left")
        await omar.ask("create", topic_name="unread")
        await diego.ask("subscribe", topic_name="unread")
        sent = await diego.ask("message", username="omar", content="read on the desktop")
        await omar.ask("read", room_id=sent["room_id"], seq=sent["seq"])
        await diego.ask("message", topic_name="unread", content="@omar")
        await followed(server)
        clock.advance(601)
        await settled(server)
        assert [data["title"] for data in await browsers.data()] == ["unread"]
        assert server.node.push.outcomes["delivered"] == 1


@pytest.mark.parametrize("status", [404, 410])
async def test_an_ended_subscription_is_removed(
    server: RunningNode, browsers: Browsers, omar: Client, diego: Client, status: int
) -> None:
    async def ended(_request: Request) -> int:
        return status

    browsers.service.behaviour = ended
    await browsers.subscribe(omar, "phone")
    await diego.ask("message", username="omar", content="hola")
    async with asyncio.timeout(30):
        while (await omar.ask("get_push"))["subscriptions"]:
            await browsers.service.until(lambda: browsers.service.received)
    await settled(server)
    assert len(browsers.service.received) == 1


async def test_a_service_that_is_down_or_busy_is_tried_again_until_it_answers(
    server: RunningNode, browsers: Browsers, omar: Client, diego: Client
) -> None:
    answers = iter([500, 429, 503])

    async def recovers(_request: Request) -> int:
        return next(answers, 201)

    browsers.service.behaviour = recovers
    await browsers.subscribe(omar, "phone")
    await browsers.service.kill()
    await diego.ask("message", username="omar", content="hola")
    async with asyncio.timeout(30):
        while not server.node.push.outcomes["unreachable"]:
            await server.node.database.read(lambda conn: None)
    await browsers.service.start()
    await browsers.service.until(lambda: browsers.service.accepted)
    await settled(server)
    assert [data["text"] for data in await browsers.data()] == ["hola"]
    assert len(browsers.service.received) == 4


async def test_a_service_is_not_asked_again_before_the_time_that_it_names(
    database_url: str, tmp_path: Path, browsers: Browsers
) -> None:
    clock = Clock()
    options = {"push": {**FAST["push"], "clock": clock}}

    async def busy(_request: Request) -> int | bytes:
        if len(browsers.service.received) > 1:
            return 201
        return b"HTTP/1.1 429 Busy\r\nretry-after: 600\r\ncontent-length: 0\r\n\r\n"

    browsers.service.behaviour = busy
    async with (
        running_node(database_url, tmp_path, options=options, push="private") as server,
        connected(server.url, await server.register("omar")) as omar,
        connected(server.url, await server.register("diego")) as diego,
    ):
        await browsers.subscribe(omar, "phone")
        await diego.ask("message", username="omar", content="hola")
        await browsers.service.until(lambda: browsers.service.received)

        async def due() -> float:
            return await server.node.database.read(push.next_due) or 0.0

        async with asyncio.timeout(30):
            while await due() < (clock() + 590) * 1000:
                await server.node.database.read(lambda conn: None)
        clock.advance(601)
        server.node.push.check_soon()
        await browsers.service.until(lambda: browsers.service.accepted)


async def test_a_subscription_ends_with_its_session(
    server: RunningNode, browsers: Browsers, omar: Client, diego: Client
) -> None:
    async with connected(server.url, await server.login("omar"), device="phone") as phone:
        await browsers.subscribe(phone, "phone")
        await browsers.subscribe(omar, "desktop")
        listed = (await omar.ask("get_push"))["subscriptions"]
        assert [one["current"] for one in listed] == [False, True]
        await phone.ask("logout")
    await diego.ask("message", username="omar", content="hola")
    await settled(server)
    assert [request.path for request in browsers.service.accepted] == ["/desktop"]
    assert len((await omar.ask("get_push"))["subscriptions"]) == 1


async def test_a_subscription_can_be_changed_and_removed_and_there_are_at_most_twenty(
    server: RunningNode, browsers: Browsers, omar: Client, diego: Client
) -> None:
    for number in range(20):
        await browsers.subscribe(omar, f"browser-{number}")
    with pytest.raises(Refused) as refused:
        await browsers.subscribe(omar, "one-more")
    assert (refused.value.code, refused.value.details) == ("too_large", {"limit": 20})
    changed = await browsers.subscribe(omar, "browser-7", with_content=False)
    listed = (await omar.ask("get_push"))["subscriptions"]
    assert len(listed) == 20
    with pytest.raises(Refused) as refused:
        await diego.ask("unsubscribe_push", subscription_id=changed["subscription_id"])
    assert refused.value.code == "not_found"
    for subscription in listed:
        if subscription != changed:
            await omar.ask("unsubscribe_push", subscription_id=subscription["subscription_id"])
    await diego.ask("message", username="omar", content="hola")
    await settled(server)
    assert [request.path for request in browsers.service.accepted] == ["/browser-7"]


@pytest.mark.parametrize(
    ("endpoint", "field"),
    [
        ("http://push.example.org/1", "endpoint"),
        ("https://10.1.2.3/1", "endpoint"),
        ("https://[::1]/1", "endpoint"),
        ("https://omar@push.example.org/1", "endpoint"),
        ("https://push.example.org/1", "keys"),
    ],
)
async def test_an_impossible_subscription_is_refused(
    sqlite_url: str, tmp_path: Path, browsers: Browsers, endpoint: str, field: str
) -> None:
    async with (
        running_node(sqlite_url, tmp_path) as server,
        connected(server.url, await server.register("omar")) as omar,
    ):
        keys = await browsers.keys("phone") if field == "endpoint" else {"p256dh": "AAAA", "auth": "AAAA"}
        with pytest.raises(Refused) as refused:
            await omar.ask("subscribe_push", endpoint=endpoint, keys=keys)
        assert (refused.value.code, list(refused.value.details["fields"])) == ("invalid", [field])


async def test_nothing_is_sent_to_a_name_of_a_private_address(
    database_url: str, tmp_path: Path, browsers: Browsers
) -> None:
    async with (
        running_node(database_url, tmp_path, options=FAST) as server,
        connected(server.url, await server.register("omar")) as omar,
        connected(server.url, await server.register("diego")) as diego,
    ):
        endpoint = browsers.service.url.replace("http://127.0.0.1", "https://localhost")
        await omar.ask("subscribe_push", endpoint=endpoint, keys=await browsers.keys("phone"))
        await diego.ask("message", username="omar", content="hola")
        async with asyncio.timeout(30):
            while (await omar.ask("get_push"))["subscriptions"]:
                pass
        assert server.node.push.outcomes["forbidden"] == 1
        assert browsers.service.connections == 0


async def test_another_provider_is_one_function(database_url: str, tmp_path: Path) -> None:
    from tidings.push.provider import Address, Notification
    from tidings.transport.outgoing import DeliveryOutcome, DeliveryResult

    sent: asyncio.Queue[tuple[Address, Notification]] = asyncio.Queue()

    async def pigeon(address: Address, notification: Notification) -> DeliveryResult:
        sent.put_nowait((address, notification))
        return DeliveryResult(DeliveryOutcome.DELIVERED, "flown")

    options: dict[str, Any] = {"push": {**FAST["push"], "providers": {"pigeon": pigeon}}}
    async with (
        running_node(database_url, tmp_path, options=options) as server,
        connected(server.url, await server.register("omar")) as omar,
        connected(server.url, await server.register("diego")) as diego,
    ):
        await omar.ask("subscribe_push", provider="pigeon", endpoint="loft 7", keys={"ring": "42"})
        await diego.ask("message", username="omar", content="hola")
        address, notification = await asyncio.wait_for(sent.get(), 30)
    assert address == ("loft 7", {"ring": "42"})
    assert notification.data["text"] == "hola"


async def test_push_can_be_off(sqlite_url: str, tmp_path: Path) -> None:
    async with (
        running_node(sqlite_url, tmp_path, push="off") as server,
        connected(server.url, await server.register("omar")) as omar,
    ):
        assert await omar.ask("get_push") == {"public_key": None, "subscriptions": []}
        with pytest.raises(Refused) as refused:
            await omar.ask("subscribe_push", endpoint="https://push.example.org/1", keys={})
        assert refused.value.code == "forbidden"
