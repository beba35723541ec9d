"""A returning device gets everything it missed in order, and exactly once if it sends its cursors."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from tests.delivery.brokers import DeafBroker
from tests.delivery.gate import Gate
from tests.delivery.support import fill, make_topic, reader, rest, seqs
from tests.support.client import DEADLINE_S, Client, Refused, connected
from tests.support.node import RunningNode, running_node

OFTEN = {"ping_interval": 0.2, "ping_timeout": 10}
HEARTBEAT = {"engine": OFTEN, "websocket": OFTEN}


@pytest.mark.parametrize("brings_cursors", [True, False])
async def test_a_replay_joins_the_live_stream_without_a_gap_or_a_repeat(
    server: RunningNode, *, brings_cursors: bool
) -> None:
    tokens = [await server.register(f"user{n}") for n in range(4)]
    room_id = await make_topic(server.url, tokens[0], "noticias", *tokens[1:])
    mine = await server.register("reader")
    async with connected(server.url, mine, device="phone") as client:
        await client.ask("subscribe", topic_name="noticias")
    senders = [await Client(server.url, token).connect() for token in tokens]
    going_on = True

    async def keep_sending(client: Client) -> int:
        sent = 0
        while going_on:
            asked = [client.send("message", {"room_id": room_id, "content": "x" * 200}) for _ in range(8)]
            assert all(answer["ok"] for answer in await asyncio.gather(*asked))
            sent += 8
        return sent

    sending = [asyncio.create_task(keep_sending(client)) for client in senders]
    got: list[int] = []
    for visit in range(4):
        auth = {"cursors": {room_id: got[-1] if got else 0}} if brings_cursors else {}
        phone = await Client(server.url, mine, device="phone", **auth).connect()
        here = len(seqs(phone, room_id))
        await phone.until(lambda phone=phone, here=here: len(seqs(phone, room_id)) > here + 40)
        if visit == 3:
            going_on = False
            total = sum([await one for one in sending])
            await phone.until(lambda phone=phone, total=total: seqs(phone, room_id)[-1] == total)
        await phone.close()
        here_seqs = seqs(phone, room_id)
        assert here_seqs == list(range(here_seqs[0], here_seqs[-1] + 1))
        if brings_cursors:
            got += here_seqs
        else:
            assert not got or here_seqs[0] <= got[-1] + 1
            got += [seq for seq in here_seqs if not got or seq > got[-1]]
    assert got == list(range(1, total + 1))
    for client in senders:
        await client.close()


async def test_a_device_without_cursors_of_its_own_starts_where_it_said_it_was(server: RunningNode) -> None:
    token, other = await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, other, "noticias", token)
    async with connected(server.url, other) as diego, connected(server.url, token, device="phone") as phone:
        for n in range(1, 6):
            await diego.ask("message", room_id=room_id, content=str(n))
        await phone.until(lambda: len(phone.of("message")) == 5)
        assert await phone.ask("delivered", cursors={room_id: 3}) == {}
        assert await phone.ask("delivered", cursors={room_id: 2}) == {}  # forwards only
        # Once diego is told, it is in the database.
        await diego.event("receipt", lambda r: r["delivered_seq"] == 3)
    async with reader(server.url, token, device="phone") as phone:  # it answers no PING
        assert (phone.seqs(room_id), phone.events[-1][1]["replayed"]) == ([4, 5], 2)
    await server.stop()
    await server.start()
    async with reader(server.url, token, device="phone") as phone:
        assert phone.seqs(room_id) == [4, 5]


async def test_a_cursor_beyond_the_log_is_refused_and_a_foreign_room_passed_over(server: RunningNode) -> None:
    token, other = await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, token, "noticias")
    private = await make_topic(server.url, other, "secreta", is_private=True)
    public = await make_topic(server.url, other, "otras")
    async with connected(server.url, token, device="phone") as phone:
        await phone.ask("message", room_id=room_id, content="1")
        with pytest.raises(Refused) as refused:
            await phone.ask("delivered", cursors={room_id: 2})
        assert (refused.value.code, list(refused.value.details["fields"])) == ("invalid", [f"cursors.{room_id}"])
        passed_over = {private: 7, public: 7, "nonsense": 7}
        assert await phone.ask("delivered", cursors=passed_over | {room_id: 1}) == {}
        await phone.event("receipt", lambda r: r["delivered_seq"] == 1)  # it is stored
    async with connected(server.url, token, device="phone") as phone:
        assert phone.of("ready")[0]["replayed"] == 0


async def test_what_was_acknowledged_may_be_confirmed_before_its_notice_has_come(
    database_url: str, tmp_path: Path
) -> None:
    broker = DeafBroker()
    async with running_node(database_url, tmp_path, options={"broker": broker, "head_check_s": 3600}) as server:
        token = await server.register("omar")
        room_id = await make_topic(server.url, token, "noticias")
        async with connected(server.url, token, device="phone") as phone:
            await server.node.hub.repairs.settled()  # a room that is new here is looked at once
            broker.deaf = True
            await phone.ask("message", room_id=room_id, content="1")
            assert await phone.ask("delivered", cursors={room_id: 1}) == {}
            with pytest.raises(Refused) as refused:
                await phone.ask("delivered", cursors={room_id: 2})
            assert list(refused.value.details["fields"]) == [f"cursors.{room_id}"]
            broker.deaf = False
            await phone.event("receipt", lambda r: r["delivered_seq"] == 1)  # it is stored


async def test_a_cursor_that_the_log_does_not_know_is_reset(server: RunningNode) -> None:
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
    # The server's own idea of that cursor is mended: what was reset is not asked about again.
    async with connected(server.url, token, device="phone") as phone:
        assert phone.of("ready")[0]["reset"] == []
        assert phone.contents(room_id) == ["3"]


async def test_a_pong_confirms_what_was_written_before_its_ping_and_nothing_else(
    database_url: str, tmp_path: Path
) -> None:
    async with running_node(database_url, tmp_path, options=HEARTBEAT) as server:
        token, other = await server.register("omar"), await server.register("diego")
        room_id = await make_topic(server.url, other, "noticias", token)
        async with connected(server.url, other) as diego, reader(server.url, token, device="phone") as phone:
            await diego.ask("message", room_id=room_id, content="1")
            await phone.until_event("message")
            if "2" in phone.frames:
                await phone.pong()  # one came before the message: the next comes when it is answered
            await phone.until_ping()
            await diego.ask("message", room_id=room_id, content="2")  # written after the PING
            await phone.pong()
            await phone.until_ping()  # the PONG has been taken
        for _ in range(2):  # nor does a connection that answers no PING confirm anything
            async with reader(server.url, token, device="phone") as phone:
                assert [payload["content"] for name, payload in phone.events if name == "message"] == ["2"]


async def test_a_stock_client_that_never_says_delivered_gets_no_replay_of_what_it_had(
    database_url: str, tmp_path: Path
) -> None:
    async with running_node(database_url, tmp_path, options=HEARTBEAT) as server:
        token, other = await server.register("omar"), await server.register("diego")
        room_id = await make_topic(server.url, other, "noticias", token)
        async with connected(server.url, other) as diego:
            async with connected(server.url, token) as omar:
                for n in range(1, 4):
                    await diego.ask("message", room_id=room_id, content=str(n))
                # The heartbeat has moved the cursor: the others are told.
                await diego.event("receipt", lambda r: r["username"] == "omar" and r["delivered_seq"] == 3)
                assert omar.contents() == ["1", "2", "3"]
            await server.stop()
            await server.start()
        async with connected(server.url, token) as omar:
            assert omar.of("ready")[0]["replayed"] == 0


async def test_without_a_pong_everything_comes_again(server: RunningNode) -> None:
    token, other = await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, other, "noticias", token)
    async with connected(server.url, other) as diego:
        for visit in range(1, 4):
            async with reader(server.url, token) as omar:  # it answers no PING
                await diego.ask("message", room_id=room_id, content=str(visit))
                while len(omar.seqs(room_id)) < visit:
                    await omar.next()
                assert omar.seqs(room_id) == list(range(1, visit + 1))


@pytest.mark.bad_network("polling")
async def test_each_device_gets_everything_and_a_new_one_starts_where_the_furthest_is(server: RunningNode) -> None:
    token, other = await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, other, "noticias", token)
    async with connected(server.url, other) as diego:
        async with connected(server.url, token, device="phone") as phone, connected(server.url, token, device="pc"):
            await diego.ask("message", room_id=room_id, content="1")
            await diego.ask("message", room_id=room_id, content="2")
            await phone.until(lambda: len(phone.of("message")) == 2)
            await phone.ask("delivered", cursors={room_id: 2})
            # Once diego is told, it is in the database.
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
    unknown = {foreign: 3, "nonsense": 3}
    async with connected(server.url, token, device="phone", cursors=unknown) as phone:
        added = [event["room"] for event in phone.of("room_added")]
        assert {room["room_id"] for room in added} == {joined, empty}
        assert {room["room_id"]: room["role"] for room in added} == {joined: "member", empty: "member"}
        removed = phone.of("room_removed")
        assert {event["room_id"] for event in removed} == {left, foreign, "nonsense"}
        assert {event["reason"] for event in removed} == {"gone"}
        names = [name for name, payload in phone.events if payload.get("room_id") == joined or name == "room_added"]
        assert names.index("room_added") < names.index("message")
        assert phone.contents(joined) == ["1", "2"]
        await phone.ask("delivered", cursors={joined: 2, empty: 0})
        await phone.event("receipt", lambda r: (r["room_id"], r["delivered_seq"]) == (joined, 2))  # it is stored
    async with connected(server.url, token, device="phone") as phone:
        assert [name for name, _ in phone.events if name != "receipt"] == ["ready"]


async def test_a_message_sent_while_a_reader_arrives_is_not_late(server: RunningNode) -> None:
    """The room's head moves between being read and joining the live stream; the next check is far away."""
    token, other = await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, other, "noticias", token)
    async with connected(server.url, token):
        pass
    for n in range(1, 13):
        async with contextlib.AsyncExitStack() as stack:
            sender = asyncio.create_task(send_by_rest(server, other, room_id, str(n)))
            client = await stack.enter_async_context(connected(server.url, token, cursors={room_id: n - 1}))
            await sender
            await client.until(lambda client=client, n=n: seqs(client, room_id) == [n], deadline=5)


async def send_by_rest(server: RunningNode, token: str, room_id: str, content: str) -> None:
    async with rest(server.url, token) as http:
        answer = await http.post("/api/messages", json={"room_id": room_id, "content": content})
        assert answer.status_code == 201


async def test_what_a_device_confirms_while_it_comes_back_is_not_replayed(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cursor is written after its position was read, and before that is looked at."""
    async with running_node(sqlite_url, tmp_path) as server:
        token, other = await server.register("omar"), await server.register("diego")
        room_id = await make_topic(server.url, other, "noticias", token)
        gate = Gate(server.node.database, monkeypatch, "read")
        async with connected(server.url, other) as diego, connected(server.url, token, device="phone") as phone:
            await phone.ask("delivered", cursors={room_id: 0})
            for nth in (1, 2):  # the token's session; then the positions
                await diego.ask("message", room_id=room_id, content=str(nth))
                await phone.event("message", lambda m, nth=nth: m["seq"] == nth)  # type: ignore[misc]
                gate.hold(nth)
                coming = asyncio.ensure_future(replayed(server.url, token))
                await asyncio.wait_for(gate.held.wait(), DEADLINE_S)
                await phone.ask("delivered", cursors={room_id: nth})
                await diego.event("receipt", lambda r, nth=nth: r["delivered_seq"] == nth)  # type: ignore[misc]
                gate.release()
                assert (nth, await coming) == (nth, 0)


async def replayed(url: str, token: str) -> int:
    """How much a second connection of the device gets again."""
    async with reader(url, token, device="phone") as again:
        return int(again.events[-1][1]["replayed"])
