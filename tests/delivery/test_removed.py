"""A removed member gets nothing more, even during a replay."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.delivery.brokers import ChoosyPublisher, FaultyPublisher
from tests.delivery.gate import Gate
from tests.delivery.support import Reader, fill, make_topic, principal, reader, rest, seqs
from tests.support.client import Client, connected
from tests.support.node import RunningNode, running_node
from tidings.fanout.announcer import UserChange
from tidings.log.memberships import KickMember
from tidings.log.messages import AppendMessage
from tidings.log.notices import Appended, Joined, Left, Personal, Transient

MISSED = 3000
CONTENT = "x" * 6000


async def read_first_entry(connection: Reader, room_id: str) -> None:
    """Read the beginning of the replay, and then nothing."""
    while not connection.seqs(room_id):
        await connection.next()


@pytest.mark.parametrize("is_private", [False, True], ids=["public", "private"])
@pytest.mark.parametrize("how", ["unsubscribe", "kick", "ban"])
async def test_a_member_that_is_removed_in_the_middle_of_a_replay_gets_nothing_after_it(
    server: RunningNode, *, is_private: bool, how: str
) -> None:
    token, other = await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, other, "noticias", is_private=is_private)
    async with rest(server.url, other if is_private else token) as http:
        if is_private:
            await http.post("/api/invitations", json={"room_id": room_id, "username": "omar"})
        else:
            await http.post("/api/subscriptions", json={"topic_name": "noticias"})
    await fill(server.node.database, "diego", {room_id: [CONTENT] * MISSED})
    async with (
        reader(server.url, token, ready=False, device="slow", cursors={room_id: 0}) as slow,
        connected(server.url, other) as diego,
    ):
        await read_first_entry(slow, room_id)
        if how == "unsubscribe":
            async with rest(server.url, token) as http:  # another device of the same user
                left = await http.delete("/api/subscriptions", params={"room_id": room_id})
                assert left.status_code == 200, left.text
        else:
            await diego.ask(how, room_id=room_id, username="omar")
        after = await diego.ask("message", room_id=room_id, content="after")
        await diego.event("message", lambda m: m["id"] == after["id"])
        await slow.until_event("room_removed")
        before = len(slow.events)
        assert (await slow.ask("history", room_id=room_id))["ok"] is False
        await slow.ask("get_rooms")
        received = slow.seqs(room_id)
        assert received == list(range(1, len(received) + 1))
        assert len(received) < MISSED
        assert [name for name, _ in slow.events[before:] if name != "ready"] == []


async def test_a_session_that_is_withdrawn_in_the_middle_of_a_replay_gets_nothing_after_it(
    server: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    for engine in (server.node.socketio.eio, server.node.websocket.server):
        monkeypatch.setattr(engine, "linger", 60.0)  # the slow reader gets `closing` however late it reads
    token, other = await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, other, "noticias", token)
    await fill(server.node.database, "diego", {room_id: [CONTENT] * MISSED})
    async with (
        reader(server.url, token, ready=False, device="slow", cursors={room_id: 0}) as slow,
        connected(server.url, await server.login("omar"), device="other", cursors={room_id: MISSED}) as stays,
        connected(server.url, other) as diego,
    ):
        await read_first_entry(slow, room_id)
        async with rest(server.url, token) as http:
            assert (await http.post("/api/logout")).status_code == 204
        after = await diego.ask("message", room_id=room_id, content="after")
        await slow.until_closed()
        received = slow.seqs(room_id)
        assert received == list(range(1, len(received) + 1))
        assert len(received) < MISSED
        assert slow.events[-1] == ("closing", {"reason": "token_revoked", "reconnect": False})
        await stays.event("message", lambda m: m["id"] == after["id"])  # another session of the user stays open


@pytest.mark.bad_network("polling", "websocket")
async def test_after_unsubscribe_no_device_gets_further_messages(server: RunningNode) -> None:
    token, other = await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, other, "noticias", token)
    async with (
        connected(server.url, token, device="phone") as phone,
        connected(server.url, token, device="pc") as pc,
        connected(server.url, other) as diego,
    ):
        await diego.ask("message", room_id=room_id, content="before")
        await phone.ask("unsubscribe", room_id=room_id)
        await diego.ask("message", room_id=room_id, content="after")
        await diego.ask("typing", room_id=room_id)
        for client in (phone, pc):
            assert await client.event("room_removed") == {"room_id": room_id, "reason": "left"}
            await client.ask("get_rooms")  # all events that were sent before its answer have arrived
            assert client.contents() == ["before"]
            assert client.events[-1][0] == "room_removed"
    async with connected(server.url, token, device="phone", cursors={}) as phone:
        assert phone.of("message") == []


async def test_presence_published_in_the_step_of_a_removal_precedes_it(server: RunningNode) -> None:
    token, other = await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, other, "noticias", token)
    async with connected(server.url, token) as omar, connected(server.url, other):
        him, her, hub = principal(server, "omar"), principal(server, "diego"), server.node.hub
        key = hub.key(room_id)
        assert key is not None
        offline = {"username": "diego", "online": False, "last_seen": "2026-01-01T00:00:00.000Z"}
        hub.announcer.collect(key, [UserChange(her.user_key, "diego", [("presence", offline)], frozenset())])
        server.node.delivery.receive(Left(him.user_key, key, room_id, "left", 1))
        await omar.ask("get_rooms")
        assert offline in omar.of("presence")
        assert omar.events[-1][0] == "room_removed"


@pytest.mark.bad_network("upgrade")
@pytest.mark.parametrize("is_private", [False, True], ids=["public", "private"])
async def test_a_leaving_member_gets_exactly_the_entries_before_the_leave(
    server: RunningNode, *, is_private: bool
) -> None:
    """The messages around the leave share batches with it in varying ways."""
    token, other = await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, other, "noticias", is_private=is_private)
    async with connected(server.url, token) as omar, connected(server.url, other) as diego:
        for turn in range(10):
            if is_private:
                await diego.ask("invite", room_id=room_id, username="omar")
            else:
                await omar.ask("subscribe", topic_name="noticias")
            added = (await omar.event("room_added"))["room"]["last_seq"]
            known = len(omar.events)
            before = [diego.send("message", {"room_id": room_id, "content": "b"}) for _ in range(turn)]
            mine = omar.send("message", {"room_id": room_id, "content": "mine"})
            leave = omar.send("unsubscribe", {"room_id": room_id})
            after = [diego.send("message", {"room_id": room_id, "content": "a"}) for _ in range(10)]
            refused = omar.send("message", {"room_id": room_id, "content": "too late"})
            answers = await asyncio.gather(mine, leave, refused, *before, *after)
            assert answers[1] == {"ok": True, "data": {}}
            assert answers[2]["ok"] is False
            await omar.event("room_removed")
            await omar.ask("get_rooms")
            received = [p["seq"] for n, p in omar.events[known:] if n in ("message", "member")]
            assert received == list(range(added + 1, added + 1 + len(received)))
            assert answers[0]["data"]["seq"] in received
            assert [name for name, _ in omar.events if name != "presence"][-1] == "room_removed"
    all_seqs = seqs(diego, room_id)
    assert all_seqs == list(range(1, len(all_seqs) + 1))


# -- lost and late notices -------------------------------------------------------------------------------------------


async def test_a_kicked_member_gets_no_later_entries_even_if_the_notice_is_lost(
    database_url: str, tmp_path: Path
) -> None:
    """The log of a private room contains the removal."""
    publisher = ChoosyPublisher()
    async with running_node(database_url, tmp_path, options={"publisher": publisher}) as server:
        token, other = await server.register("omar"), await server.register("diego")
        room_id = await make_topic(server.url, other, "noticias", is_private=True)
        async with connected(server.url, token) as omar, connected(server.url, other) as diego:
            await diego.ask("invite", room_id=room_id, username="omar")
            await omar.event("room_added")
            await omar.ask("typing", room_id=room_id)
            await diego.event("typing", lambda e: e["typing"])
            publisher.loses = lambda notice: isinstance(notice, Left)
            him, her = principal(server, "omar"), principal(server, "diego")
            key, journal = server.node.hub.key(room_id), server.node.journal
            assert key is not None
            before = journal.hand_over(AppendMessage(her, key, "before"))
            kick = journal.hand_over(KickMember(her, key, him.user_key, "omar"))
            after = journal.hand_over(AppendMessage(her, key, "after"))
            await asyncio.gather(before, kick, after)
            assert await omar.event("room_removed") == {"room_id": room_id, "reason": "kicked"}
            await diego.event("typing", lambda e: not e["typing"])
            await diego.ask("message", room_id=room_id, content="and after")
            await diego.until(lambda: diego.contents()[-1:] == ["and after"])
            await omar.ask("get_rooms")
            assert omar.contents() == ["before"]
            assert [name for name, _ in omar.events if name != "presence"][-1] == "room_removed"


async def test_a_reinvited_member_stays_in_the_room_when_the_removal_is_replayed(
    database_url: str, tmp_path: Path
) -> None:
    publisher = ChoosyPublisher()
    async with running_node(database_url, tmp_path, options={"publisher": publisher, "head_check_s": 3600}) as server:
        token, other = await server.register("omar"), await server.register("diego")
        room_id = await make_topic(server.url, other, "noticias", is_private=True)
        async with connected(server.url, token) as omar, connected(server.url, other) as diego:
            await diego.ask("invite", room_id=room_id, username="omar")
            await omar.event("room_added")
            publisher.holds = lambda notice: isinstance(notice, Appended)
            await diego.ask("kick", room_id=room_id, username="omar")
            await omar.event("room_removed")
            await diego.ask("invite", room_id=room_id, username="omar")
            await omar.event("room_added")
            publisher.go_on()
            await diego.ask("message", room_id=room_id, content="to both")
            await omar.event("message")
            assert len(omar.of("room_removed")) == 1


async def test_a_reinvited_member_whose_removal_was_lost_reconnects_and_gets_messages(
    database_url: str, tmp_path: Path
) -> None:
    """A connection that missed its removal would ignore the new membership, so it is closed and reconnects."""
    publisher = ChoosyPublisher()
    async with running_node(database_url, tmp_path, options={"publisher": publisher, "head_check_s": 3600}) as server:
        token, other = await server.register("omar"), await server.register("diego")
        room_id = await make_topic(server.url, other, "noticias", is_private=True)
        async with connected(server.url, other) as diego:
            await diego.ask("invite", room_id=room_id, username="omar")
            async with connected(server.url, token) as omar:
                publisher.loses = lambda notice: isinstance(notice, Left | Appended)
                await diego.ask("kick", room_id=room_id, username="omar")
                await diego.ask("invite", room_id=room_id, username="omar")
                closing = await omar.event("closing")
                assert closing == {"reason": "shutdown", "reconnect": True}
            publisher.loses = lambda _: False
            async with connected(server.url, token) as omar:
                await diego.ask("message", room_id=room_id, content="to both")
                await omar.event("message")


async def test_a_reinvited_member_gets_nothing_again_from_a_read_that_is_older_than_the_removal(
    postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry of the removal takes the member out; no notice of the removal or of the invitation arrives."""
    publisher = ChoosyPublisher()
    async with running_node(postgresql_url, tmp_path, options={"publisher": publisher}) as server:
        tokens = [await server.register(name) for name in ("omar", "eva")]
        async with connected(server.url, tokens[0]) as omar, connected(server.url, tokens[1]) as eva:
            room_id = (await omar.ask("create", topic_name="private", is_private=True))["room_id"]
            await omar.ask("invite", room_id=room_id, username="eva")
            await omar.ask("message", room_id=room_id, content="one")
            await eva.event("message")
            hub, reconciler = server.node.hub, server.node.cluster.reconciler
            (connection,) = [each for each in hub.connections if each.principal.username == "eva"]
            membership = hub.key(room_id) or 0, connection.principal.user_key
            gate = Gate(server.node.database, monkeypatch, "read")
            gate.hold(1)
            reconciler.reconcile([membership])
            await gate.held.wait()
            publisher.loses = lambda notice: isinstance(notice, Joined | Left)
            await omar.ask("kick", room_id=room_id, username="eva")
            await eva.event("room_removed")
            await omar.ask("invite", room_id=room_id, username="eva")
            gate.release()
            await reconciler.settled()
            await omar.ask("message", room_id=room_id, content="two")
            await eva.until(lambda: "two" in eva.contents())
            assert eva.contents() == ["one", "two"]
            assert len(eva.of("room_added")) == 2


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_removed_member_gets_no_message_of_their_absence_over_a_faulty_broker(
    database_url: str, tmp_path: Path, seed: int
) -> None:
    publisher = FaultyPublisher(seed, Left, Joined, Transient, Personal)
    async with running_node(database_url, tmp_path, options={"publisher": publisher, "head_check_s": 0.05}) as server:
        tokens = [await server.register(name) for name in ("omar", "diego", "satoshi")]
        room_id = await make_topic(server.url, tokens[0], "noticias", is_private=True)
        async with connected(server.url, tokens[0]) as omar:
            for name in ("diego", "satoshi"):
                await omar.ask("invite", room_id=room_id, username=name)
            satoshi = await Client(server.url, tokens[2]).connect()
            visits = [await Client(server.url, tokens[1]).connect()]
            absence: set[int] = set()
            """The seqs of messages sent while diego was removed."""

            async def send_messages() -> list[int]:
                sent = [client.send("message", {"room_id": room_id, "content": "x"}) for client in (omar, satoshi)]
                return [answer["data"]["seq"] for answer in await asyncio.gather(*sent)]

            for turn in range(25):
                await send_messages()
                await omar.ask("kick", room_id=room_id, username="diego")
                absence.update(await send_messages())
                if turn == 12:
                    publisher.lose_next = Joined
                await omar.ask("invite", room_id=room_id, username="diego")
                publisher.settle()
                seq = (await omar.ask("message", room_id=room_id, content="welcome"))["seq"]
                await visits[-1].until(lambda seq=seq: seq in seqs(visits[-1], room_id) or not is_in(server, "diego"))
                if seq not in seqs(visits[-1], room_id):
                    await visits[-1].close()  # the notice of the invitation was lost: a connect finds the membership
                    visits.append(await Client(server.url, tokens[1]).connect())
            total = (await omar.ask("message", room_id=room_id, content="last"))["seq"]
            for stays in (omar, satoshi):
                await stays.until(lambda stays=stays: seqs(stays, room_id)[-1:] == [total])
                assert seqs(stays, room_id) == list(range(seqs(stays, room_id)[0], total + 1))
            assert len(visits) > 1
            for client in visits:
                assert not absence.intersection(seqs(client, room_id))
            assert all(publisher.harm[kind] > 10 for kind in (Appended, Left, Joined)), publisher.harm
            for client in (visits[-1], satoshi):
                await client.close()


def is_in(server: RunningNode, username: str) -> bool:
    """Whether a connection of the user is in a room."""
    return any(each.rooms for each in server.node.hub.connections if each.principal.username == username)
