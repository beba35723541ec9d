"""A returning device gets everything it missed in order, and exactly once if it sends its cursors."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from tests.delivery.brokers import DeafPublisher
from tests.delivery.gate import Gate
from tests.delivery.support import fill, make_topic, reader, rest, seqs
from tests.support.client import DEADLINE_S, Client, Refused, connected
from tests.support.node import RunningNode, running_node

SHORT_HEARTBEAT = {"ping_interval": 0.2, "ping_timeout": 10}
HEARTBEAT = {"engine": SHORT_HEARTBEAT, "websocket": SHORT_HEARTBEAT}


@pytest.mark.parametrize("brings_cursors", [True, False])
async def test_a_replay_joins_the_live_stream_without_a_gap_or_a_repeat(
    server: RunningNode, *, brings_cursors: bool
) -> None:
    tokens = [await server.register(f"user{n}") for n in range(4)]
    room_id = await make_topic(server.url, tokens[0], "noticias", *tokens[1:])
    reader_token = await server.register("reader")
    async with connected(server.url, reader_token, device="phone") as client:
        await client.ask("subscribe", topic_name="noticias")
    senders = [await Client(server.url, token).connect() for token in tokens]
    sending = True

    async def keep_sending(client: Client) -> int:
        sent = 0
        while sending:
            asked = [client.send("message", {"room_id": room_id, "content": "x" * 200}) for _ in range(8)]
            assert all(answer["ok"] for answer in await asyncio.gather(*asked))
            sent += 8
        return sent

    tasks = [asyncio.create_task(keep_sending(client)) for client in senders]
    received: list[int] = []
    for visit in range(4):
        auth = {"cursors": {room_id: received[-1] if received else 0}} if brings_cursors else {}
        phone = await Client(server.url, reader_token, device="phone", **auth).connect()
        replayed_count = len(seqs(phone, room_id))
        await phone.until(lambda phone=phone, count=replayed_count: len(seqs(phone, room_id)) > count + 40)
        if visit == 3:
            sending = False
            total = sum([await task for task in tasks])
            await phone.until(lambda phone=phone, total=total: seqs(phone, room_id)[-1] == total)
        await phone.close()
        visit_seqs = seqs(phone, room_id)
        assert visit_seqs == list(range(visit_seqs[0], visit_seqs[-1] + 1))
        if brings_cursors:
            received += visit_seqs
        else:
            assert not received or visit_seqs[0] <= received[-1] + 1
            received += [seq for seq in visit_seqs if not received or seq > received[-1]]
    assert received == list(range(1, total + 1))
    for client in senders:
        await client.close()


async def test_a_device_that_sends_no_cursors_starts_at_the_stored_ones(server: RunningNode) -> None:
    token, other = await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, other, "noticias", token)
    async with connected(server.url, other) as diego, connected(server.url, token, device="phone") as phone:
        for n in range(1, 6):
            await diego.ask("message", room_id=room_id, content=str(n))
        await phone.until(lambda: len(phone.of("message")) == 5)
        assert await phone.ask("delivered", cursors={room_id: 3}) == {}
        assert await phone.ask("delivered", cursors={room_id: 2}) == {}  # forwards only
        # The receipt follows the commit of the cursor.
        await diego.event("receipt", lambda r: r["delivered_seq"] == 3)
    async with reader(server.url, token, device="phone") as phone:  # a reader answers no PING
        assert (phone.seqs(room_id), phone.events[-1][1]["replayed"]) == ([4, 5], 2)
    await server.stop()
    await server.start()
    async with reader(server.url, token, device="phone") as phone:
        assert phone.seqs(room_id) == [4, 5]


async def test_delivered_refuses_a_cursor_beyond_the_log_and_ignores_foreign_rooms(server: RunningNode) -> None:
    token, other = await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, token, "noticias")
    private = await make_topic(server.url, other, "secreta", is_private=True)
    public = await make_topic(server.url, other, "otras")
    async with connected(server.url, token, device="phone") as phone:
        await phone.ask("message", room_id=room_id, content="1")
        with pytest.raises(Refused) as refused:
            await phone.ask("delivered", cursors={room_id: 2})
        assert (refused.value.code, list(refused.value.details["fields"])) == ("invalid", [f"cursors.{room_id}"])
        ignored = {private: 7, public: 7, "unknown": 7}
        assert await phone.ask("delivered", cursors=ignored | {room_id: 1}) == {}
        await phone.event("receipt", lambda r: r["delivered_seq"] == 1)  # the cursor is stored
    async with connected(server.url, token, device="phone") as phone:
        assert phone.of("ready")[0]["replayed"] == 0


async def test_an_acknowledged_message_may_be_confirmed_before_its_event_arrives(
    database_url: str, tmp_path: Path
) -> None:
    publisher = DeafPublisher()
    async with running_node(database_url, tmp_path, options={"publisher": publisher, "head_check_s": 3600}) as server:
        token = await server.register("omar")
        room_id = await make_topic(server.url, token, "noticias")
        async with connected(server.url, token, device="phone") as phone:
            await server.node.hub.repairs.settled()  # a room that is new to this node is checked once
            publisher.deaf = True
            await phone.ask("message", room_id=room_id, content="1")
            assert await phone.ask("delivered", cursors={room_id: 1}) == {}
            with pytest.raises(Refused) as refused:
                await phone.ask("delivered", cursors={room_id: 2})
            assert list(refused.value.details["fields"]) == [f"cursors.{room_id}"]
            publisher.deaf = False
            await phone.event("receipt", lambda r: r["delivered_seq"] == 1)  # the cursor is stored


async def test_a_cursor_beyond_the_end_of_the_log_is_reset(server: RunningNode) -> None:
    token, other = await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, other, "noticias", token)
    second = await make_topic(server.url, other, "otras", token)
    async with connected(server.url, token, device="phone", cursors={room_id: 0, second: 0}):
        pass
    await fill(server.node.database, "diego", {room_id: ["1", "2"]})
    await fill(server.node.database, "diego", {second: ["a"]})
    async with connected(server.url, token, device="phone", cursors={room_id: 9, second: 0}) as phone:
        (ready,) = phone.of("ready")
        assert (ready["reset"], ready["replayed"], phone.contents()) == ([room_id], 1, ["a"])
        async with connected(server.url, other) as diego:
            await diego.ask("message", room_id=room_id, content="3")
        await phone.until(lambda: phone.contents(room_id) == ["3"])
    # The stored cursor was corrected: the next connect resets nothing.
    async with connected(server.url, token, device="phone") as phone:
        assert phone.of("ready")[0]["reset"] == []
        assert phone.contents(room_id) == ["3"]


async def test_a_pong_confirms_exactly_what_was_written_before_its_ping(database_url: str, tmp_path: Path) -> None:
    async with running_node(database_url, tmp_path, options=HEARTBEAT) as server:
        token, other = await server.register("omar"), await server.register("diego")
        room_id = await make_topic(server.url, other, "noticias", token)
        async with connected(server.url, other) as diego, reader(server.url, token, device="phone") as phone:
            await diego.ask("message", room_id=room_id, content="1")
            await phone.until_event("message")
            if "2" in phone.frames:
                await phone.pong()  # a PING preceded the message; the next follows the PONG
            await phone.until_ping()
            await diego.ask("message", room_id=room_id, content="2")  # written after the PING
            await phone.pong()
            await phone.until_ping()  # the server has received the PONG
        for _ in range(2):  # a connection that answers no PING confirms nothing
            async with reader(server.url, token, device="phone") as phone:
                assert [payload["content"] for name, payload in phone.events if name == "message"] == ["2"]


async def test_a_stock_client_that_never_sends_delivered_gets_no_received_message_again(
    database_url: str, tmp_path: Path
) -> None:
    async with running_node(database_url, tmp_path, options=HEARTBEAT) as server:
        token, other = await server.register("omar"), await server.register("diego")
        room_id = await make_topic(server.url, other, "noticias", token)
        async with connected(server.url, other) as diego:
            async with connected(server.url, token) as omar:
                for n in range(1, 4):
                    await diego.ask("message", room_id=room_id, content=str(n))
                # The heartbeat moved the cursor, which sends a receipt to the others.
                await diego.event("receipt", lambda r: r["username"] == "omar" and r["delivered_seq"] == 3)
                assert omar.contents() == ["1", "2", "3"]
            await server.stop()
            await server.start()
        async with connected(server.url, token) as omar:
            assert omar.of("ready")[0]["replayed"] == 0


async def test_messages_that_no_pong_confirmed_are_replayed(server: RunningNode) -> None:
    token, other = await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, other, "noticias", token)
    async with connected(server.url, other) as diego:
        for visit in range(1, 4):
            async with reader(server.url, token) as omar:  # a reader answers no PING
                await diego.ask("message", room_id=room_id, content=str(visit))
                while len(omar.seqs(room_id)) < visit:
                    await omar.next()
                assert omar.seqs(room_id) == list(range(1, visit + 1))


@pytest.mark.bad_network("polling")
async def test_each_device_gets_every_message_and_a_new_one_starts_at_the_furthest_cursor(
    server: RunningNode,
) -> None:
    token, other = await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, other, "noticias", token)
    async with connected(server.url, other) as diego:
        async with connected(server.url, token, device="phone") as phone, connected(server.url, token, device="pc"):
            await diego.ask("message", room_id=room_id, content="1")
            await diego.ask("message", room_id=room_id, content="2")
            await phone.until(lambda: len(phone.of("message")) == 2)
            await phone.ask("delivered", cursors={room_id: 2})
            # The receipt follows the commit of the cursor.
            await diego.event("receipt", lambda r: r["delivered_seq"] == 2)
        await diego.ask("message", room_id=room_id, content="3")
        for device, missed in (("new", ["3"]), ("phone", ["3"]), ("pc", ["1", "2", "3"])):
            async with connected(server.url, token, device=device) as client:
                assert client.contents() == missed


@pytest.mark.bad_network("upgrade", "plain")
async def test_a_device_gets_the_rooms_added_and_removed_while_it_was_offline(server: RunningNode) -> None:
    token, other = await server.register("omar"), await server.register("diego")
    left = await make_topic(server.url, other, "left", token)
    async with connected(server.url, token, device="phone"):
        pass
    foreign = await make_topic(server.url, other, "secreta", is_private=True)
    joined = await make_topic(server.url, other, "joined", token)
    empty = await make_topic(server.url, other, "empty", token)
    await fill(server.node.database, "diego", {joined: ["1", "2"]})
    async with connected(server.url, token, device="pc") as pc:
        await pc.ask("unsubscribe", room_id=left)
    unknown = {foreign: 3, "unknown": 3}
    async with connected(server.url, token, device="phone", cursors=unknown) as phone:
        added = [event["room"] for event in phone.of("room_added")]
        assert {room["room_id"] for room in added} == {joined, empty}
        assert {room["room_id"]: room["role"] for room in added} == {joined: "member", empty: "member"}
        removed = phone.of("room_removed")
        assert {event["room_id"] for event in removed} == {left, foreign, "unknown"}
        assert {event["reason"] for event in removed} == {"gone"}
        names = [name for name, payload in phone.events if payload.get("room_id") == joined or name == "room_added"]
        assert names.index("room_added") < names.index("message")
        assert phone.contents(joined) == ["1", "2"]
        await phone.ask("delivered", cursors={joined: 2, empty: 0})
        await phone.event(
            "receipt", lambda r: (r["room_id"], r["delivered_seq"]) == (joined, 2)
        )  # the cursor is stored
    async with connected(server.url, token, device="phone") as phone:
        assert [name for name, _ in phone.events if name != "receipt"] == ["ready"]


async def test_a_message_sent_while_a_device_connects_needs_no_periodic_check(
    database_url: str, tmp_path: Path
) -> None:
    """The room's head moves after the device reads it and before it joins the live stream."""
    async with running_node(database_url, tmp_path, options={"head_check_s": 3600}) as server:
        token, other = await server.register("omar"), await server.register("diego")
        room_id = await make_topic(server.url, other, "noticias", token)
        async with connected(server.url, token):
            pass
        for n in range(1, 13):
            async with contextlib.AsyncExitStack() as stack:
                sender = asyncio.create_task(send_by_rest(server, other, room_id, str(n)))
                client = await stack.enter_async_context(connected(server.url, token, cursors={room_id: n - 1}))
                await sender
                await client.until(lambda client=client, n=n: seqs(client, room_id) == [n])


async def send_by_rest(server: RunningNode, token: str, room_id: str, content: str) -> None:
    async with rest(server.url, token) as http:
        answer = await http.post("/api/messages", json={"room_id": room_id, "content": content})
        assert answer.status_code == 201


async def test_entries_confirmed_while_a_device_reconnects_are_not_replayed(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cursor is written after the reconnecting connection read it, and before it uses it."""
    async with running_node(sqlite_url, tmp_path) as server:
        token, other = await server.register("omar"), await server.register("diego")
        room_id = await make_topic(server.url, other, "noticias", token)
        gate = Gate(server.node.database, monkeypatch, "read")
        async with connected(server.url, other) as diego, connected(server.url, token, device="phone") as phone:
            await phone.ask("delivered", cursors={room_id: 0})
            for nth in (1, 2):  # the first read is of the token's session, the second of the cursors
                await diego.ask("message", room_id=room_id, content=str(nth))
                await phone.event("message", lambda m, nth=nth: m["seq"] == nth)  # type: ignore[misc]
                gate.hold(nth)
                reconnecting = asyncio.ensure_future(replayed(server.url, token))
                await asyncio.wait_for(gate.held.wait(), DEADLINE_S)
                await phone.ask("delivered", cursors={room_id: nth})
                await diego.event("receipt", lambda r, nth=nth: r["delivered_seq"] == nth)  # type: ignore[misc]
                gate.release()
                assert (nth, await reconnecting) == (nth, 0)


async def replayed(url: str, token: str) -> int:
    """The number of entries that a second connection of the device gets again."""
    async with reader(url, token, device="phone") as connection:
        return int(connection.events[-1][1]["replayed"])
