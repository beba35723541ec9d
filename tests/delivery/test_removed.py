"""Who was removed gets nothing more, also in the middle of a replay."""

from __future__ import annotations

import asyncio

import pytest

from server.contract.errors import ActionError
from server.delivery.broker import Change, Left, PresenceChanged
from server.delivery.membership import Leave
from server.delivery.operations import Send
from tests.delivery.support import Reader, fill, make_topic, principal, reader, rest, seqs
from tests.support.client import connected
from tests.support.node import RunningNode

MISSED = 3000
CONTENT = "x" * 6000


async def slow_reader_in_mid_replay(one: Reader, room_id: str) -> None:
    """Read the beginning of the replay, and then nothing."""
    while not one.seqs(room_id):
        await one.next()


@pytest.mark.parametrize("is_private", [False, True], ids=["public", "private"])
async def test_a_member_that_leaves_in_the_middle_of_a_replay_gets_nothing_after_it(
    server: RunningNode, *, is_private: bool
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
        await slow_reader_in_mid_replay(slow, room_id)
        async with rest(server.url, token) as http:  # another device of the same user
            left = await http.delete("/api/subscriptions", params={"room_id": room_id})
            assert left.status_code == 200, left.text
        after = await diego.ask("message", room_id=room_id, content="after")
        await diego.event("message", lambda m: m["id"] == after["id"])
        await slow.until_event("room_removed")
        at = len(slow.events)
        assert (await slow.ask("history", room_id=room_id))["ok"] is False
        await slow.ask("get_rooms")
        got = slow.seqs(room_id)
        assert got == list(range(1, len(got) + 1))
        assert len(got) < MISSED
        assert [name for name, _ in slow.events[at:] if name != "ready"] == []


async def test_a_session_that_is_withdrawn_in_the_middle_of_a_replay_gets_nothing_after_it(
    server: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    for doors in (server.node.socketio.eio, server.node.websocket.server):
        monkeypatch.setattr(doors, "linger", 60.0)  # however late the slow one goes on to read, it is told
    token, other = await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, other, "noticias", token)
    await fill(server.node.database, "diego", {room_id: [CONTENT] * MISSED})
    async with (
        reader(server.url, token, ready=False, device="slow", cursors={room_id: 0}) as slow,
        connected(server.url, await server.login("omar"), device="other", cursors={room_id: MISSED}) as stays,
        connected(server.url, other) as diego,
    ):
        await slow_reader_in_mid_replay(slow, room_id)
        async with rest(server.url, token) as http:
            assert (await http.post("/api/logout")).status_code == 204
        after = await diego.ask("message", room_id=room_id, content="after")
        await slow.until_closed()
        got = slow.seqs(room_id)
        assert got == list(range(1, len(got) + 1))
        assert len(got) < MISSED
        assert slow.events[-1] == ("closing", {"reason": "token_revoked", "reconnect": False})
        await stays.event("message", lambda m: m["id"] == after["id"])  # another session of the user goes on


async def test_who_has_unsubscribed_gets_no_more_messages_on_any_device(server: RunningNode) -> None:
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
            await client.ask("get_rooms")  # whatever was sent to it before, is here now
            assert client.contents() == ["before"]
            assert client.events[-1][0] == "room_removed"
    async with connected(server.url, token, device="phone", cursors={}) as phone:
        assert phone.of("message") == []


async def test_a_presence_told_in_the_step_of_the_removal_comes_before_it(server: RunningNode) -> None:
    token, other = await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, other, "noticias", token)
    async with connected(server.url, token) as omar, connected(server.url, other):
        him, her, hub = principal(server, "omar"), principal(server, "diego"), server.node.hub
        key = hub.key(room_id)
        assert key is not None
        went = {"username": "diego", "online": False, "last_seen": "2026-01-01T00:00:00.000Z"}
        hub.receive(PresenceChanged(key, [Change(her.user_key, went, frozenset())]))
        hub.receive(Left(him.user_key, key, room_id, "left"))
        await omar.ask("get_rooms")
        assert went in omar.of("presence")
        assert omar.events[-1][0] == "room_removed"


@pytest.mark.parametrize("is_private", [False, True], ids=["public", "private"])
async def test_leaving_takes_effect_at_its_place_among_messages(server: RunningNode, *, is_private: bool) -> None:
    """Whatever else is in the batch: who leaves gets exactly the entries before the leave."""
    token, other = await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, other, "noticias", is_private=is_private)
    async with connected(server.url, token) as omar, connected(server.url, other) as diego:
        for turn in range(10):
            if is_private:
                await diego.ask("invite", room_id=room_id, username="omar")
            else:
                await omar.ask("subscribe", topic_name="noticias")
            added = (await omar.event("room_added"))["room"]["last_seq"]
            at = len(omar.events)
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
            got = [p["seq"] for n, p in omar.events[at:] if n in ("message", "member")]
            assert got == list(range(added + 1, added + 1 + len(got)))
            assert answers[0]["data"]["seq"] in got
            assert [name for name, _ in omar.events if name != "presence"][-1] == "room_removed"
    whole = seqs(diego, room_id)
    assert whole == list(range(1, len(whole) + 1))


@pytest.mark.parametrize("is_private", [False, True], ids=["public", "private"])
async def test_who_leaves_gets_what_stands_before_it_in_the_same_batch(
    server: RunningNode, *, is_private: bool
) -> None:
    token, other = await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, other, "noticias", is_private=is_private)
    async with connected(server.url, token) as omar, connected(server.url, other) as diego:
        if is_private:
            await diego.ask("invite", room_id=room_id, username="omar")
        else:
            await omar.ask("subscribe", topic_name="noticias")
        await omar.event("room_added")
        him, her = principal(server, "omar"), principal(server, "diego")
        key, journal = server.node.hub.key(room_id), server.node.journal
        # Handed over in one step of the event loop, so they are in one batch.
        futures = [
            journal.hand_over(Send(her, key, "1")),
            journal.hand_over(Send(him, key, "2")),
            journal.hand_over(Leave(him, key)),
            journal.hand_over(Send(her, key, "3")),
            journal.hand_over(Send(him, key, "too late")),
        ]
        *_, late = await asyncio.gather(*futures, return_exceptions=True)
        assert isinstance(late, ActionError)
        await omar.event("room_removed")
        await omar.ask("get_rooms")
        assert omar.contents() == ["1", "2"]
        assert omar.events[-1][0] == "room_removed"
        await diego.until(lambda: diego.contents() == ["1", "2", "3"])
