"""Webhooks get every entry, in order, at least once, with the same id, whatever fails."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from tests.search.support import fill
from tests.support.client import Client, connected
from tests.support.node import RunningNode, running_node
from tests.webhooks.conftest import FAST, Admin, GetAdmin
from tests.webhooks.receiver import Receiver, Request, verify
from tidings_db.engine import Database
from tidings_db.queries import retention, rooms, webhooks

PRIVATE: dict[str, Any] = {"options": FAST, "webhook_private": "on"}


def assert_in_order(requests: Sequence[Request], last_seqs: dict[str, int], first: int = 1) -> None:
    """Each room's entries arrived in order; a repeat is one of the entry before or of an earlier one, with its id."""
    ids: dict[tuple[str, int], str] = {}
    heads: defaultdict[str, int] = defaultdict(lambda: first - 1)
    for request in requests:
        room_id, seq = request.place
        assert ids.setdefault(request.place, request.id) == request.id
        assert seq <= heads[room_id] + 1, "an entry was skipped"
        heads[room_id] = max(heads[room_id], seq)
    assert heads == last_seqs
    assert len(set(ids.values())) == len(ids)


async def test_an_entry_arrives_signed_as_the_event_that_clients_get_without_the_client_id(
    server: RunningNode, admin: Admin, receiver: Receiver
) -> None:
    async with connected(server.url, await server.register("omar")) as omar:
        room = await omar.ask("create", topic_name="noticias")
        await omar.ask("message", topic_name="noticias", content="before")
        webhook = await admin.create(receiver.url, "message", "message_edited")
        sent = await omar.ask("message", topic_name="noticias", content="Buenos días", client_id="once")
        await omar.ask("react", message_id=sent["id"], emoji="👍")
        await omar.ask("edit", message_id=sent["id"], content="Buenas tardes")
        edited = await omar.event("message_edited")
        await receiver.until(lambda: len(receiver.accepted) == 2)
    first, second = receiver.accepted
    for request in (first, second):
        verify(request, webhook["secret"], time.time())
        assert request.headers["content-type"] == "application/json"
        assert request.path == "/hook"
    assert first.body["type"] == "message"
    assert first.body["timestamp"] == sent["created_at"]
    assert first.data.keys() == sent.keys() - {"client_id"}
    assert first.place == (room["room_id"], 2)
    del edited["message"]["client_id"]
    assert second.body["type"] == "message_edited"
    assert second.data["seq"] == 4
    assert second.data["message"]["id"] == sent["id"]
    assert second.data.keys() == edited.keys()
    assert second.data["message"].keys() == edited["message"].keys()


async def test_a_webhook_of_a_room_or_of_some_events_gets_nothing_else(
    server: RunningNode, admin: Admin, receiver: Receiver
) -> None:
    async with connected(server.url, await server.register("omar")) as omar:
        rooms = [(await omar.ask("create", topic_name=name))["room_id"] for name in ("uno", "dos")]
        await admin.create(receiver.url, "*", room_id=rooms[1])
        for room_id in rooms:
            sent = await omar.ask("message", room_id=room_id, content="hola")
            await omar.ask("react", message_id=sent["id"], emoji="👍")
        await receiver.until(lambda: len(receiver.accepted) == 2)
        assert [request.body["type"] for request in receiver.accepted] == ["message", "reaction"]
        assert_in_order(receiver.received, {rooms[1]: 2})
        later = (await omar.ask("create", topic_name="tres"))["room_id"]
        await admin.create(receiver.url + "/all", "reaction")
        created_later = (await omar.ask("create", topic_name="cuatro"))["room_id"]
        for room_id in (later, created_later):
            sent = await omar.ask("message", room_id=room_id, content="hola")
            await omar.ask("react", message_id=sent["id"], emoji="👍")
        await receiver.until(lambda: len(receiver.accepted) == 4)
        assert {request.place for request in receiver.accepted[2:]} == {(later, 2), (created_later, 2)}


async def test_an_event_of_an_application_arrives_under_its_own_name(
    server: RunningNode, admin: Admin, receiver: Receiver
) -> None:
    async with connected(server.url, await server.register("omar")) as omar:
        await omar.ask("create", topic_name="orders")
        await admin.create(receiver.url, "order.paid")
        await omar.ask("publish", topic_name="orders", event="order.sent", data=1)
        await omar.ask("publish", topic_name="orders", event="order.paid", data={"id": 17}, client_id="once")
        event = await omar.event("order.paid")
        await receiver.until(lambda: len(receiver.accepted) == 1)
    (request,) = receiver.accepted
    assert request.body["type"] == "order.paid"
    assert request.data == {name: value for name, value in event.items() if name != "client_id"}


async def test_a_receiver_that_fails_hangs_and_dies_under_load_gets_everything_in_order(
    database_url: str, tmp_path: Path, admin_of: GetAdmin, receiver: Receiver
) -> None:
    options = {"webhooks": {**FAST["webhooks"], "answer_s": 0.2}}
    hang = asyncio.Event()

    async def misbehaves(request: Request) -> int | bytes:
        match len(receiver.received) % 17:
            case 3:
                return 500
            case 7:
                raise ConnectionResetError
            case 11:
                await hang.wait()
            case 13:
                return b"HTTP/1.1 no\r\n\r\n"
            case 15:
                return 302
        return 204

    async with running_node(database_url, tmp_path, options=options, webhook_private="on") as node:
        admin = await admin_of(node)
        await admin.create(receiver.url)
        receiver.behaviour = misbehaves
        async with connected(node.url, await node.register("omar")) as omar:
            rooms = [(await omar.ask("create", topic_name=f"sala {number}"))["room_id"] for number in range(4)]
            sending = asyncio.create_task(_send(omar, rooms, 50))
            for deaths in range(1, 6):
                count = 30 * deaths
                await receiver.until(lambda count=count: len(receiver.accepted) >= count)  # type: ignore[misc]
                await receiver.kill()
                failed = node.node.webhooks.outcomes["unreachable"]
                async with asyncio.timeout(30):
                    while node.node.webhooks.outcomes["unreachable"] < failed + 2:
                        await node.node.database.read(lambda conn: None)
                await receiver.start()
            await sending
            await receiver.until(lambda: len({request.place for request in receiver.accepted}) == 200)
        assert_in_order(receiver.received, dict.fromkeys(rooms, 50))
        assert_in_order(receiver.accepted, dict.fromkeys(rooms, 50))
        assert node.node.webhooks.outcomes["timeout"] > 0
        assert node.node.webhooks.outcomes["refused"] > 0


async def _send(client: Client, rooms: list[str], count: int) -> None:
    for number in range(count):
        await asyncio.gather(*(client.ask("message", room_id=room, content=str(number)) for room in rooms))


async def test_a_room_that_is_refused_does_not_hold_up_the_others(
    server: RunningNode, admin: Admin, receiver: Receiver
) -> None:
    async with connected(server.url, await server.register("omar")) as omar:
        bad, good = [(await omar.ask("create", topic_name=name))["room_id"] for name in ("malo", "bueno")]

        async def refuses(request: Request) -> int:
            return 500 if request.place == (bad, 1) else 200

        receiver.behaviour = refuses
        webhook = await admin.create(receiver.url)
        await omar.ask("message", room_id=bad, content="refused")
        await receiver.until(lambda: receiver.received)
        for number in range(40):
            await omar.ask("message", room_id=good, content=str(number))
            await receiver.until(lambda count=number + 1: len(receiver.accepted) == count)  # type: ignore[misc]
        assert_in_order(receiver.accepted, {good: 40})
        assert len(receiver.received) - 40 < 15, "its pauses grow all the same"
        # Skipped by the operator.
        await omar.ask("message", room_id=bad, content="accepted")
        await admin.ask("POST", f"/{webhook['webhook_id']}/replay", room_id=bad, after=1)
        await receiver.until(lambda: receiver.accepted[-1].place == (bad, 2))


async def test_a_restart_between_the_commit_and_the_delivery_misses_nothing(
    database_url: str, tmp_path: Path, admin_of: GetAdmin, receiver: Receiver
) -> None:
    async with running_node(database_url, tmp_path, **PRIVATE) as node:
        await (await admin_of(node)).create(receiver.url)
        await receiver.kill()
        async with connected(node.url, await node.register("omar")) as omar:
            room_id = (await omar.ask("create", topic_name="noticias"))["room_id"]
            for number in range(30):
                await omar.ask("message", room_id=room_id, content=str(number))
    await receiver.start()
    async with running_node(database_url, tmp_path, **PRIVATE):
        await receiver.until(lambda: len({request.place for request in receiver.accepted}) == 30)
    assert_in_order(receiver.received, {room_id: 30})


async def test_a_replay_sends_again_what_was_sent_after_a_seq_or_since_a_time(
    server: RunningNode, admin: Admin, receiver: Receiver
) -> None:
    webhook = await admin.create(receiver.url)
    path = f"/{webhook['webhook_id']}/replay"
    async with connected(server.url, await server.register("omar")) as omar:
        rooms = [(await omar.ask("create", topic_name=name))["room_id"] for name in ("uno", "dos")]
        for room_id in rooms:
            sent = [await omar.ask("message", room_id=room_id, content=str(number)) for number in range(5)]
    await receiver.until(lambda: len(receiver.accepted) == 10)
    ids = {request.place: request.id for request in receiver.accepted}
    await admin.ask("POST", path, room_id=rooms[0], after=3)
    await receiver.until(lambda: len(receiver.accepted) == 12)
    assert [request.place for request in receiver.accepted[10:]] == [(rooms[0], 4), (rooms[0], 5)]
    await admin.ask("POST", path, since=sent[0]["created_at"])
    await receiver.until(lambda: len(receiver.accepted) >= 17)
    assert [request.place for request in receiver.accepted[12:] if request.place[0] == rooms[1]] == [
        (rooms[1], seq) for seq in range(1, 6)
    ]
    assert all(ids[request.place] == request.id for request in receiver.accepted)


class Clock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


DAY_S = 24 * 3600


async def test_a_webhook_that_fails_for_three_days_is_disabled_and_continues_where_it_was(
    database_url: str, tmp_path: Path, admin_of: GetAdmin, receiver: Receiver
) -> None:
    clock = Clock()
    options = {"webhooks": {"clock": clock}}

    async def fails(_request: Request) -> int:
        return 503

    async with running_node(database_url, tmp_path, options=options, webhook_private="on") as node:
        deliverer = node.node.webhooks
        admin = await admin_of(node)
        webhook_id = (await admin.create(receiver.url))["webhook_id"]
        receiver.behaviour = fails
        async with connected(node.url, await node.register("omar")) as omar:
            room_id = (await omar.ask("create", topic_name="noticias"))["room_id"]
            for number in range(3):
                await omar.ask("message", room_id=room_id, content=str(number))

            async def failed(count: int) -> dict[str, Any]:
                """The webhook after that many failures are recorded."""
                async with asyncio.timeout(30):
                    while deliverer.outcomes["refused"] < count or deliverer._tasks:
                        await node.node.database.read(lambda conn: None)
                return await admin.listed(webhook_id)

            state = await failed(1)
            assert state["failing_since"] is not None
            for count in range(2, 5):
                clock.now += DAY_S - 3600
                assert state["disabled_at"] is None
                deliverer.check_soon()
                state = await failed(count)
            assert state["disabled_at"] is None, "not yet three days"
            clock.now += 4 * 3600
            deliverer.check_soon()
            state = await failed(5)
            assert state["disabled_reason"] == "answered 503"
            assert "tidings_webhooks_disabled 1.0" in await deliverer_metrics(node)
            receiver.behaviour = accepts_all
            await omar.ask("message", room_id=room_id, content="meanwhile")
            assert receiver.accepted == []
            await admin.ask("POST", f"/{webhook_id}/enable")
            await receiver.until(lambda: len(receiver.accepted) == 4)
    assert_in_order(receiver.accepted, {room_id: 4})
    assert len({request.id for request in receiver.received[:6]}) == 1, "the first entry, until it was accepted"


async def accepts_all(_request: Request) -> int:
    return 202


async def deliverer_metrics(node: RunningNode) -> str:
    return (await node.node.metrics.exposition()).decode()


async def test_a_message_that_is_deleted_while_the_receiver_is_slow_is_sent_without_its_content(
    database_url: str, tmp_path: Path, admin_of: GetAdmin, receiver: Receiver
) -> None:
    clock, answer = Clock(), asyncio.Event()

    async def is_slow(_request: Request) -> int:
        await answer.wait()
        return 200

    receiver.behaviour = is_slow
    options = {"webhooks": {"clock": clock}}
    async with running_node(database_url, tmp_path, options=options, webhook_private="on") as node:
        admin = await admin_of(node)
        async with connected(node.url, await node.register("omar")) as omar:
            await omar.ask("create", topic_name="noticias")
            first, second = [
                await omar.ask("message", topic_name="noticias", content=text) for text in ("uno", "dos")
            ]
            webhook_id = (await admin.create(receiver.url))["webhook_id"]
            await admin.ask("POST", f"/{webhook_id}/replay", room_id=first["room_id"], after=0)
            await receiver.until(lambda: receiver.received)
            await omar.ask("delete", message_id=second["id"])
            clock.now += 2
            answer.set()
            await receiver.until(lambda: len(receiver.accepted) == 2)
    assert [request.data["content"] for request in receiver.accepted] == ["uno", ""]


async def test_gone_disables_immediately(server: RunningNode, admin: Admin, receiver: Receiver) -> None:
    async def gone(_request: Request) -> int:
        return 410

    receiver.behaviour = gone
    webhook_id = (await admin.create(receiver.url))["webhook_id"]
    async with connected(server.url, await server.register("omar")) as omar:
        await omar.ask("create", topic_name="noticias")
        await omar.ask("message", topic_name="noticias", content="hola")
    async with asyncio.timeout(30):
        while (await admin.listed(webhook_id))["disabled_at"] is None:
            pass  # each request is a round trip
    assert (await admin.listed(webhook_id))["disabled_reason"] == "answered 410"
    assert len(receiver.received) == 1


async def test_a_deleted_webhook_leaves_nothing(server: RunningNode, admin: Admin, receiver: Receiver) -> None:
    webhook_id = (await admin.create(receiver.url))["webhook_id"]
    async with connected(server.url, await server.register("omar")) as omar:
        await omar.ask("create", topic_name="noticias")
        await omar.ask("message", topic_name="noticias", content="hola")
        await receiver.until(lambda: receiver.accepted)
        await admin.ask("DELETE", f"/{webhook_id}")
        await omar.ask("message", topic_name="noticias", content="unseen")
    count = "SELECT count(*) FROM consumer_cursor WHERE consumer LIKE 'webhook%%'"
    assert await server.node.database.read(lambda conn: conn.exec_driver_sql(count).scalar_one()) == 0
    assert (await admin.ask("GET"))["webhooks"] == []
    assert len(receiver.received) == 1


async def test_a_room_that_is_removed_takes_its_webhook_with_it(database_url: str) -> None:
    def remove(conn: Connection) -> list[webhooks.WebhookRow]:
        fill(conn, {1: ["hola"], 2: ["hola"]})
        for webhook_id, room_key in (("a", 1), ("b", 2), ("c", None)):
            webhooks.add(conn, webhook_id, "https://example.org/", "whsec_", ["*"], room_key, 0)
        conn.exec_driver_sql("DELETE FROM member")
        conn.exec_driver_sql("DELETE FROM entry WHERE room_id = 1")
        conn.exec_driver_sql("UPDATE room SET first_seq = 2 WHERE id = 1")
        assert not retention.drop(conn, rooms.lock(conn, [1])[1], 0, 100)
        return webhooks.listed(conn)

    database = Database(database_url)
    await database.start()
    try:
        assert {row.id for row in await database.write(remove)} == {"b", "c"}
    finally:
        await database.stop()


async def test_without_a_webhook_an_entry_costs_no_query(server: RunningNode) -> None:
    deliverer = server.node.webhooks
    async with connected(server.url, await server.register("omar")) as omar:
        await omar.ask("create", topic_name="noticias")
        deliverer._wake.clear()
        await omar.ask("message", topic_name="noticias", content="hola")
        await omar.event("message")
    assert deliverer._webhooks == {}
    assert deliverer._tasks == set()


@pytest.mark.long
async def test_two_nodes_deliver_each_room_in_order(
    postgresql_url: str, tmp_path: Path, admin_of: GetAdmin, receiver: Receiver
) -> None:
    never_checks: dict[str, Any] = {"options": {"webhooks": {"check_s": 3600.0}}, "webhook_private": "on"}
    async with (
        running_node(postgresql_url, tmp_path / "a", **never_checks) as first,
        running_node(postgresql_url, tmp_path / "b", **never_checks) as second,
    ):
        await (await admin_of(first)).create(receiver.url)
        for deliverer in (first.node.webhooks, second.node.webhooks):
            deliverer.check_soon()
            async with asyncio.timeout(30):
                while not deliverer._webhooks:
                    await first.node.database.read(lambda conn: None)
        token = await first.register("omar")
        async with connected(first.url, token) as one, connected(second.url, token, device="two") as two:
            rooms = [(await one.ask("create", topic_name=f"sala {number}"))["room_id"] for number in range(3)]
            for sent, clients in ((15, [one]), (30, [two]), (90, [one, two]), (150, [two, one])):
                await asyncio.gather(*(_send(client, rooms, 5 if sent <= 30 else 10) for client in clients))
                await receiver.until(lambda sent=sent: len(receiver.accepted) >= sent)  # type: ignore[misc]
        delivered = [node.node.webhooks.outcomes["delivered"] for node in (first, second)]
    assert min(delivered) > 0, "both nodes deliver"
    assert_in_order(receiver.received, dict.fromkeys(rooms, 50))
    assert len(receiver.received) == 150, "nothing is repeated while nothing fails"


@pytest.mark.long
async def test_a_node_continues_for_one_that_died_and_one_that_paused_moves_nothing(
    postgresql_url: str, tmp_path: Path, admin_of: GetAdmin, receiver: Receiver
) -> None:
    """The claim of a node without a lease is void; its late answer must not move the cursor."""
    held, release = asyncio.Event(), asyncio.Event()

    async def holds_the_first(request: Request) -> int:
        if not held.is_set():
            held.set()
            await release.wait()
        return 200

    receiver.behaviour = holds_the_first
    paused = {"webhooks": {**FAST["webhooks"], "answer_s": 60.0}}
    async with (
        running_node(postgresql_url, tmp_path / "a", options=paused, webhook_private="on") as first,
        running_node(postgresql_url, tmp_path / "b", **PRIVATE) as second,
    ):
        await (await admin_of(first)).create(receiver.url)
        async with connected(first.url, await first.register("omar")) as omar:
            room_id = (await omar.ask("create", topic_name="noticias"))["room_id"]
            for number in range(5):
                await omar.ask("message", room_id=room_id, content=str(number))
            await asyncio.wait_for(held.wait(), 30)
            holder = first if _is_delivering(first) else second
            await _end_lease(holder.node.database, holder.node.id)
            await receiver.until(lambda: len(receiver.accepted) == 5)
            release.set()
            await receiver.until(lambda: len(receiver.accepted) == 6)
            await omar.ask("message", room_id=room_id, content="5")
            await receiver.until(lambda: len({request.place for request in receiver.accepted}) == 6)
    assert_in_order(receiver.accepted, {room_id: 6})
    assert [request.place[1] for request in receiver.accepted] == [1, 2, 3, 4, 5, 1, 6]


def _is_delivering(node: RunningNode) -> bool:
    return bool(node.node.webhooks._tasks)


async def _end_lease(database: Database, node_id: str) -> None:
    """Let the claims of a node refer to one that is not in the registry, as if its lease had ended."""
    statement = f"UPDATE consumer_cursor SET claimed_by = 'dead' WHERE claimed_by = '{node_id}'"
    await database.write(lambda conn: conn.exec_driver_sql(statement))
