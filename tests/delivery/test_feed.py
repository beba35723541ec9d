"""Several nodes on one PostgreSQL without a broker between them: what one commits, the others deliver."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.delivery.brokers import HarmfulFeed, HarmfulLink, SilentBroker, Wire
from tests.delivery.support import make_topic, rest, seqs
from tests.support.client import DEADLINE_S, Refused, connected
from tests.support.node import RunningNode, running_node
from tidings.cluster import feed
from tidings.log import journal
from tidings.log.notices import Appended, Transient
from tidings_db.queries import users

pytestmark = pytest.mark.long  # several nodes on PostgreSQL


@pytest.fixture
async def nodes(postgresql_url: str, tmp_path: Path) -> AsyncIterator[tuple[RunningNode, RunningNode]]:
    """Two nodes that know of each other only by the database. Their periodic checks do not run within a test."""
    options = {"head_check_s": 3600.0, "session_check_s": 3600.0}
    async with (
        running_node(postgresql_url, tmp_path, options=dict(options)) as first,
        running_node(postgresql_url, tmp_path, options=dict(options)) as second,
    ):
        yield first, second


async def test_what_two_nodes_append_reaches_the_clients_of_both_in_one_order(
    nodes: tuple[RunningNode, RunningNode],
) -> None:
    first, second = nodes
    tokens = [await first.register(name) for name in ("omar", "diego")]
    room_id = await make_topic(first.url, tokens[0], "noticias", tokens[1])
    async with connected(first.url, tokens[0]) as omar, connected(second.url, tokens[1]) as diego:
        sent = [
            client.send("message", {"room_id": room_id, "content": f"{client is omar} {n}"})
            for n in range(50)
            for client in (omar, diego)
        ]
        assert all(answer["ok"] for answer in await asyncio.gather(*sent))
        for client in (omar, diego):
            await client.until(lambda client=client: len(client.of("message")) == 100)
            assert seqs(client, room_id) == list(range(1, 101))
        assert omar.contents() == diego.contents()
        for own in ("True", "False"):
            assert [content for content in omar.contents() if own in content] == [f"{own} {n}" for n in range(50)]


@pytest.mark.parametrize("is_private", [False, True], ids=["public", "private"])
async def test_a_member_who_joins_or_is_removed_on_one_node_is_in_the_room_or_not_on_the_other(
    nodes: tuple[RunningNode, RunningNode], *, is_private: bool
) -> None:
    first, second = nodes
    tokens = [await first.register(name) for name in ("omar", "diego")]
    async with (
        connected(first.url, tokens[0]) as omar,
        connected(second.url, tokens[1]) as diego,
        connected(first.url, tokens[1], device="elsewhere") as elsewhere,
    ):
        room = await omar.ask("create", topic_name="noticias", is_private=is_private)
        room_id = room["room_id"]
        for round_ in range(3):
            if is_private:
                await omar.ask("invite", room_id=room_id, username="diego")
            else:
                await elsewhere.ask("subscribe", topic_name="noticias")
            assert (await diego.event("room_added"))["room"]["room_id"] == room_id
            await omar.ask("message", room_id=room_id, content=f"in {round_}")
            await diego.until(lambda round_=round_: diego.contents()[-1:] == [f"in {round_}"])
            await omar.ask("kick", room_id=room_id, username="diego")
            await omar.ask("message", room_id=room_id, content=f"out {round_}")
            assert (await diego.event("room_removed"))["room_id"] == room_id
        with pytest.raises(Refused):
            await diego.ask("history", room_id=room_id)
        assert diego.contents() == [f"in {n}" for n in range(3)]


@pytest.mark.parametrize("is_private", [False, True], ids=["public", "private"])
async def test_a_removed_member_is_told_the_reason_on_another_node(
    nodes: tuple[RunningNode, RunningNode], *, is_private: bool
) -> None:
    first, second = nodes
    tokens = [await first.register(name) for name in ("omar", "diego", "admin")]
    await first.node.database.write(lambda conn: users.set_admin(conn, 3, True))
    async with (
        connected(first.url, tokens[0]) as omar,
        connected(second.url, tokens[1]) as diego,
        connected(first.url, tokens[1], device="elsewhere") as elsewhere,
    ):
        room_id = (await omar.ask("create", topic_name="noticias", is_private=is_private))["room_id"]
        for reason in ("left", "kicked", "banned", "deleted"):
            if is_private:
                await omar.ask("invite", room_id=room_id, username="diego")
            else:
                await elsewhere.ask("subscribe", topic_name="noticias")
            await diego.event("room_added")
            await omar.ask("message", room_id=room_id, content=reason)
            match reason:
                case "left":
                    await elsewhere.ask("unsubscribe", room_id=room_id)
                case "kicked":
                    await omar.ask("kick", room_id=room_id, username="diego")
                case "banned":
                    await omar.ask("ban", room_id=room_id, username="diego")
                    await omar.ask("unban", room_id=room_id, username="diego")
                case "deleted":
                    async with rest(first.url, tokens[2]) as http:
                        assert (await http.delete(f"/api/admin/topics/{room_id}")).is_success
            assert (await diego.event("room_removed"))["reason"] == reason
        told = [name for name, _ in diego.events if name in ("room_added", "message", "room_removed")]
        if is_private:  # the log has removals at their place
            assert told == ["room_added", "message", "room_removed"] * 3 + ["room_added", "message", "room_removed"]
        assert not [event for event in diego.of("member") if event["username"] == "diego" and event["seq"] is None]


async def test_a_removed_member_of_a_private_room_first_gets_the_entries_before_the_removal(
    nodes: tuple[RunningNode, RunningNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the other node learns of the removal while it still reads those entries."""
    first, second = nodes
    tokens = [await first.register(name) for name in ("omar", "diego")]
    read, may_read, looks = second.node.database.read, asyncio.Event(), 0

    async def hold_repairs(query: Any) -> Any:
        nonlocal looks
        task = asyncio.current_task()
        name = "" if task is None else task.get_name()
        if name == "repair of a room":
            await may_read.wait()
        looks += name == "reconciling memberships"
        return await read(query)

    async with connected(first.url, tokens[0]) as omar, connected(second.url, tokens[1]) as diego:
        room_id = (await omar.ask("create", topic_name="noticias", is_private=True))["room_id"]
        await omar.ask("invite", room_id=room_id, username="diego")
        await diego.event("room_added")
        monkeypatch.setattr(second.node.database, "read", hold_repairs)
        await omar.ask("message", room_id=room_id, content="before")
        await omar.ask("kick", room_id=room_id, username="diego")
        async with asyncio.timeout(DEADLINE_S):
            while looks < 2 and not diego.of("room_removed"):
                await omar.ask("get_rooms")
        may_read.set()
        assert (await diego.event("room_removed"))["reason"] == "kicked"
        assert diego.contents() == ["before"]


@pytest.mark.parametrize("can_read", [True, False], ids=["feed", "no feed"])
async def test_a_removed_member_gets_nothing_later_although_the_node_has_not_heard_of_the_removal(
    postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, can_read: bool
) -> None:
    if can_read:  # the node waits for the read of the feed, however long it takes
        monkeypatch.setattr(feed, "CAUGHT_UP_S", None)
        monkeypatch.setattr(feed, "BEHIND_S", math.inf)
    async with (
        running_node(postgresql_url, tmp_path) as first,
        running_node(postgresql_url, tmp_path, options={"poll_s": 3600.0, "broker": SilentBroker()}) as deaf,
    ):
        tokens = [await first.register(name) for name in ("omar", "diego", "eva")]
        room_id = await make_topic(first.url, tokens[0], "noticias", tokens[1], tokens[2])
        async with (
            connected(first.url, tokens[0]) as omar,
            connected(deaf.url, tokens[1]) as diego,
            connected(deaf.url, tokens[2]) as eva,
        ):
            await eva.ask("message", room_id=room_id, content="before")
            await diego.event("message")
            if not can_read:
                deaf.node.cluster.feed.loop.cancel()
            await omar.ask("kick", room_id=room_id, username="diego")
            await eva.ask("message", room_id=room_id, content="after")
            await eva.until(lambda: eva.contents() == ["before", "after"])
            removed = await diego.event("room_removed")
            assert removed == {"room_id": room_id, "reason": "kicked" if can_read else "gone"}
            assert diego.contents() == ["before"]
            assert deaf.node.hub.repairs.membership_reads == (0 if can_read else 1)


async def test_members_who_come_and_go_on_one_node_cost_the_other_no_read_of_memberships(
    nodes: tuple[RunningNode, RunningNode],
) -> None:
    first, second = nodes
    tokens = [await first.register(name) for name in ("omar", "diego", *(f"passer{n}" for n in range(5)))]
    room_id = await make_topic(first.url, tokens[0], "noticias", tokens[1])

    async def come_and_go(token: str) -> None:
        async with connected(first.url, token) as passer:
            for _ in range(5):
                await passer.ask("subscribe", topic_name="noticias")
                await passer.ask("unsubscribe", room_id=room_id)

    async with (
        connected(second.url, tokens[1]) as diego,
        connected(first.url, tokens[0]) as omar,
    ):
        passing = [asyncio.ensure_future(come_and_go(token)) for token in tokens[2:]]
        for n in range(30):
            await (omar, diego)[n % 2].ask("message", room_id=room_id, content=f"{n}")
        await asyncio.gather(*passing)
        await diego.until(lambda: len(diego.of("message")) == 30 and len(diego.of("member")) == 50)
        assert seqs(diego, room_id) == list(range(1, 31))
        reads = [node.node.hub.repairs.membership_reads for node in nodes]
        assert reads == [0, 0]


async def test_a_device_learns_of_a_new_membership_although_its_node_writes_the_cursor_of_the_earlier_one(
    postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a node does that was frozen meanwhile. No entry is between the two memberships."""
    monkeypatch.setattr(journal, "CURSOR_INTERVAL_S", 3600.0)
    async with (
        running_node(postgresql_url, tmp_path) as first,
        running_node(postgresql_url, tmp_path, options={"poll_s": 3600.0, "broker": SilentBroker()}) as deaf,
    ):
        tokens = [await first.register(name) for name in ("omar", "diego")]
        room_id = await make_topic(first.url, tokens[0], "noticias", tokens[1])
        async with (
            connected(first.url, tokens[0]) as omar,
            connected(first.url, tokens[1], device="elsewhere") as elsewhere,
            connected(deaf.url, tokens[1], device="phone") as phone,
        ):
            await omar.ask("message", room_id=room_id, content="1")
            await deaf.node.journal.flush_cursors()
            deaf.node.cluster.feed.wake()
            await phone.event("message")
            await deaf.node.cluster.reconciler.settled()  # a later look would take the end for one without a reason
            await phone.ask("delivered", cursors={room_id: 1})
            await elsewhere.ask("unsubscribe", room_id=room_id)
            await elsewhere.ask("subscribe", topic_name="noticias")
            await deaf.node.journal.flush_cursors()
            async with connected(first.url, tokens[1], device="phone") as again:
                assert [added["room"]["room_id"] for added in again.of("room_added")] == [room_id]
            deaf.node.cluster.feed.wake()
            assert (await phone.event("room_removed"))["reason"] == "left"
            assert (await phone.event("room_added"))["room"]["room_id"] == room_id
            await omar.ask("message", room_id=room_id, content="2")
            deaf.node.cluster.feed.wake()
            await phone.until(lambda: phone.contents() == ["1", "2"])


async def test_a_session_that_ends_on_one_node_ends_its_connections_on_the_other(
    nodes: tuple[RunningNode, RunningNode],
) -> None:
    first, second = nodes
    token = await first.register("omar")
    async with connected(second.url, token) as there:
        async with connected(first.url, token) as here:
            await here.send("logout", {})
        assert (await there.event("closing"))["reason"] == "token_revoked"


async def test_a_message_that_was_acknowledged_elsewhere_comes_before_ready(
    postgresql_url: str, tmp_path: Path
) -> None:
    async with (
        running_node(postgresql_url, tmp_path) as first,
        running_node(postgresql_url, tmp_path, options={"poll_s": 3600.0, "broker": SilentBroker()}) as deaf,
    ):
        tokens = [await first.register(name) for name in ("omar", "diego")]
        room_id = await make_topic(first.url, tokens[0], "noticias", tokens[1])
        async with connected(first.url, tokens[0]) as omar, connected(deaf.url, tokens[1], device="early"):
            await omar.ask("message", room_id=room_id, content="1")
            async with connected(deaf.url, tokens[1], device="late") as late:
                assert [name for name, _ in late.events if name in ("message", "ready")] == ["message", "ready"]


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long)])
async def test_a_broker_and_a_feed_that_harm_every_notice_change_nothing_that_lasts(
    postgresql_url: str, tmp_path: Path, seed: int
) -> None:
    """Messages, memberships and sessions of another node, with all of it late, lost, repeated and out of order."""
    wire = Wire()
    links = [HarmfulLink(wire, 2 * seed + n) for n in range(2)]
    options = {"head_check_s": 3600.0, "session_check_s": 3600.0}
    async with (
        running_node(postgresql_url, tmp_path / "1", options={"broker": links[0], **options}) as first,
        running_node(postgresql_url, tmp_path / "2", options={"broker": links[1], **options}) as second,
    ):
        feeds = [HarmfulFeed(node.node.cluster.feed._receiver, seed) for node in (first, second)]
        for node, harmful in zip((first, second), feeds, strict=True):
            node.node.cluster.feed._receiver = harmful
        tokens = {name: await first.register(name) for name in ("omar", "diego", "eva")}
        rooms = [await make_topic(first.url, tokens["omar"], name, tokens["diego"]) for name in ("a", "b")]
        async with (
            connected(first.url, tokens["omar"]) as omar,
            connected(second.url, tokens["diego"]) as diego,
            connected(second.url, tokens["eva"]) as eva,
        ):
            for n in range(40):
                for room_id in rooms:
                    await omar.ask("message", room_id=room_id, content=str(n))
                await omar.ask("typing", room_id=rooms[0], typing=n % 2 == 0)
                await omar.ask("read", room_id=rooms[0], seq=n + 1)
            for room_id in rooms:
                await diego.until(lambda room_id=room_id: seqs(diego, room_id) == list(range(1, 41)))
            private = (await omar.ask("create", topic_name="private", is_private=True))["room_id"]
            for n in range(10):
                feeds[1].interrupted = n % 2 == 0
                await omar.ask("invite", room_id=private, username="eva")
                await omar.ask("message", room_id=private, content=f"in {n}")
                await eva.until(lambda n=n: f"in {n}" in eva.contents())
                feeds[1].interrupted = n % 3 == 0
                await omar.ask("kick", room_id=private, username="eva")
                await omar.ask("message", room_id=private, content=f"out {n}")
                await eva.until(lambda n=n: len(eva.of("room_removed")) > n)
            feeds[1].interrupted = False
            await omar.ask("kick", room_id=rooms[1], username="diego")
            for n in range(10):
                for room_id in rooms:
                    await omar.ask("message", room_id=room_id, content=f"later {n}")
            await diego.until(lambda: len(seqs(diego, rooms[0])) == 50)
            await diego.until(lambda: bool(diego.of("room_removed")))
            assert len(seqs(diego, rooms[1])) == 40
            assert eva.contents() == [f"in {n}" for n in range(10)]
            async with connected(second.url, await first.login("eva"), device="other") as other:
                async with connected(first.url, other.auth["token"], device="here") as here:
                    await here.ask("logout")
                assert (await other.event("closing"))["reason"] == "token_revoked"
        kinds = {kind for link in links for kind, fault in link.harm if fault != "none"}
        assert {Appended, Transient} <= kinds
        assert {name for feed in feeds for name, fault in feed.harm if fault == "lose"} >= {"heads", "memberships"}
