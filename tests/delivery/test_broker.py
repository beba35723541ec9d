"""The guarantees of every broker, and the encoding of notices between nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.delivery.brokers import ChoosyBroker, HarmfulBroker, LinkedBroker, RepeatingBroker, Wire
from tests.delivery.support import make_topic, seqs
from tests.support.client import DEADLINE_S, connected
from tests.support.node import RunningNode, running_node
from tests.support.redis import redis_server
from tidings.contract.errors import CloseReason
from tidings.contract.events import MemberChange
from tidings.fanout.broker import Broker, MemoryBroker
from tidings.fanout.connection import Batch
from tidings.fanout.live_room import LiveRoom
from tidings.fanout.node_messages import Identity, Nodes
from tidings.fanout.redis_broker import RedisBroker
from tidings.log.notices import (
    Appended,
    Channel,
    Joined,
    Left,
    MembershipChanged,
    Notice,
    Personal,
    PresenceChanged,
    RoomChannel,
    Transient,
    UserChannel,
    UserPresence,
    Withdrawn,
    decode,
    encode,
)
from tidings.log.views import event, message_of, room_name
from tidings.transport.socketio_codecs import MsgpackCodec, TextCodec
from tidings_db.queries.feed import MembershipChange
from tidings_db.queries.rooms import Snapshot
from tidings_db.queries.rows import EntryRow, RoomRow

ONLY_SOCKETIO = True

ROOM = RoomRow(7, "room7", "topic", True, "notícias", None, None, 1, 3, 2, 3, 2, 0, 0, 4)
NAME = room_name(ROOM)
MESSAGE = EntryRow(
    7, 1, "message", "m1", 5, "omar", "c1", "hola 👋", None, '["diego"]', 1, 1_700_000_000_000, None, False
)
EDIT = EntryRow(7, 2, "edit", None, 5, "omar", None, None, None, "{}", 1, 2, None, False, 1, None, MESSAGE)
NOTICES: dict[str, tuple[Channel, Notice]] = {
    "appended": (RoomChannel(7), Appended(7, [MESSAGE, EDIT], 2, 1, name=NAME)),
    "transient": (RoomChannel(7), Transient(7, "typing", {"typing": True}, "c", frozenset({5, 6}))),
    "joined": (UserChannel(5), Joined(5, Snapshot(ROOM, "member", 1, 0, 0, EDIT, None, False))),
    "joined an empty room": (UserChannel(5), Joined(5, Snapshot(ROOM, "owner", 0, 0, 0, None, "diego", True))),
    "left": (UserChannel(5), Left(5, 7, "room7", MemberChange.KICKED, 1)),
    "membership changed": (RoomChannel(7), MembershipChanged(MembershipChange(7, 5, "omar", "left", None, 2, 1, 4))),
    "personal": (UserChannel(5), Personal(5, "receipt", {"read_seq": 2, "who": None})),
    "presence": (RoomChannel(7), PresenceChanged(7, [UserPresence(5, {"online": True}, frozenset({9}))])),
    "withdrawn": (UserChannel(5), Withdrawn(5, None, CloseReason.TOKEN_REVOKED)),
}


@pytest.mark.parametrize("kind", NOTICES)
def test_a_decoded_notice_equals_the_encoded_one(kind: str) -> None:
    assert decode(encode(*NOTICES[kind])) == NOTICES[kind]


def test_every_kind_of_notice_is_among_those_encoded_here() -> None:
    assert {type(notice) for _, notice in NOTICES.values()} == set(Notice.__args__)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        b"\x02[]",
        b"\x01[]",
        b"\x01null",
        b'\x01["room",7,"Gone",{}]',
        b'\x01["room",7,"Left",{}]',
        encode(*NOTICES["joined"])[:-1],
        encode(*NOTICES["withdrawn"]).replace(b"token_revoked", b"no_such_reason"),
    ],
)
def test_decode_refuses_bytes_that_are_not_a_notice(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a notice"):
        decode(data)


# -- every implementation --------------------------------------------------------------------------------------------

MakeBroker = Callable[[], Broker]


def in_memory() -> MakeBroker:
    return MemoryBroker


def over_a_wire() -> MakeBroker:
    wire = Wire()
    return lambda: LinkedBroker(wire)


class _Users:
    """The part of `OnlineUsers` that a broker on Redis uses: it is on PostgreSQL, and tested there."""

    def put(self, user_key: int, online: bool) -> None: ...


def over_redis(url: str) -> MakeBroker:
    nodes = [f"node{n}" for n in range(3)]
    names = iter(nodes)
    identity = Identity("instance", [b"a key of this test"])
    known = Nodes(lambda: nodes, lambda: 0, lambda: None)
    return lambda: RedisBroker([url], next(names), lambda: identity, known, _Users())


NODES = {"memory": 1, "wire": 3, "redis": 3}
"""Each implementation of `Broker`, and how many nodes it joins."""


class Listener:
    """A node's broker, and the notices that it has received."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.received: list[Notice] = []
        self._arrived = asyncio.Event()

    def receive(self, notice: Notice) -> None:
        self.received.append(notice)
        self._arrived.set()

    async def until(self, count: int) -> list[Notice]:
        async with asyncio.timeout(DEADLINE_S):
            while len(self.received) < count:
                self._arrived.clear()
                await self._arrived.wait()
        return self.received


@pytest.fixture(params=NODES)
async def nodes(request: pytest.FixtureRequest) -> AsyncIterator[list[Listener]]:
    async with AsyncExitStack() as stack:
        if request.param == "redis":
            make_broker = over_redis((await stack.enter_async_context(redis_server())).url)
        else:
            make_broker = in_memory() if request.param == "memory" else over_a_wire()
        listeners = [Listener(make_broker()) for _ in range(NODES[request.param])]
        for listener in listeners:
            await listener.broker.start(listener.receive)
        async with asyncio.timeout(DEADLINE_S):
            while any(listener.broker.trouble for listener in listeners):
                await asyncio.to_thread(str)
        yield listeners
        for listener in listeners:
            await listener.broker.stop()


@pytest.mark.parametrize("kind", ["appended", "transient"])
async def test_a_notice_reaches_every_subscribed_node_and_its_publisher(nodes: list[Listener], kind: str) -> None:
    channel, notice = NOTICES[kind]
    for node in nodes:
        await node.broker.subscribe(channel)
    nodes[0].broker.share([(channel, notice)])
    nodes[0].broker.publish_shared(channel, notice)
    for node in nodes:
        assert [_events(received) for received in await node.until(1)] == [_events(notice)]


def _events(notice: Notice) -> object:
    """What a notice brings to the connections; a node gets entries as rows, or as another one has encoded them."""
    if not isinstance(notice, Appended):
        return notice
    forms = []
    for entry in notice.entries:
        for to_sender in (False, True):
            batch = Batch([event(NAME, entry, to_sender=to_sender)])
            forms.append((message_of(entry).sender_key, batch.messages(TextCodec()), batch.messages(MsgpackCodec())))
    return notice.room_key, notice.entries[0].seq, notice.members, notice.removals, forms


async def test_a_subscription_takes_effect_on_its_own_node_with_the_call(nodes: list[Listener]) -> None:
    channel, notice = NOTICES["left"]
    subscribed: Awaitable[None] = nodes[0].broker.subscribe(channel)
    nodes[0].broker.publish(channel, notice)
    assert nodes[0].received == [notice]
    await subscribed


async def test_an_awaited_subscription_takes_effect_on_every_node(nodes: list[Listener]) -> None:
    channel, notice = NOTICES["personal"]
    await nodes[0].broker.subscribe(channel)
    nodes[-1].broker.publish(channel, notice)
    assert await nodes[0].until(1) == [notice]


async def test_a_channel_subscribed_to_twice_delivers_a_notice_once(nodes: list[Listener]) -> None:
    channel, notice = NOTICES["transient"]
    await nodes[0].broker.subscribe(channel)
    await nodes[0].broker.subscribe(channel)
    nodes[-1].broker.publish(channel, notice)
    assert await nodes[0].until(1) == [notice]
    nodes[0].broker.unsubscribe(channel)
    nodes[0].broker.unsubscribe(channel)
    nodes[0].broker.publish(channel, notice)
    assert nodes[0].received == [notice]


async def test_a_node_receives_only_notices_of_subscribed_channels(nodes: list[Listener]) -> None:
    await nodes[0].broker.subscribe(RoomChannel(5))
    _, notice = NOTICES["personal"]
    nodes[-1].broker.publish(UserChannel(5), notice)  # the same key, but of a user
    nodes[-1].broker.publish(RoomChannel(5), notice)
    assert await nodes[0].until(1) == [notice]


@pytest.mark.parametrize("nodes", ["memory", "wire"], indirect=True)
async def test_a_user_is_online_while_connected_to_any_node(nodes: list[Listener]) -> None:
    first, last = nodes[0].broker, nodes[-1].broker
    first.online(1, True)
    last.online(2, True)
    for node in nodes:
        assert await node.broker.online_users() == {1, 2}
        assert await node.broker.online_users([2, 3]) == {2}
        assert await node.broker.online_users([]) == set()
    first.online(1, False)
    first.online(1, False)
    assert await last.online_users([1, 2]) == {2}


async def test_a_stopped_broker_receives_no_notice(nodes: list[Listener]) -> None:
    channel, notice = NOTICES["withdrawn"]
    stopped = nodes.pop(0)
    await stopped.broker.subscribe(channel)
    for node in nodes:
        await node.broker.subscribe(channel)
    await stopped.broker.stop()
    stopped.broker.publish(channel, notice)
    for node in nodes:
        node.broker.publish(channel, notice)
        await node.until(1)
    assert stopped.received == []


# -- repeated notices ------------------------------------------------------------------------------------------------


def recorded_repairs(server: RunningNode, monkeypatch: pytest.MonkeyPatch) -> list[LiveRoom]:
    """The rooms that are repaired from now on."""
    repairs, repaired = server.node.hub.repairs, []
    repair = repairs.repair

    def record(live_room: LiveRoom) -> None:
        repaired.append(live_room)
        repair(live_room)

    monkeypatch.setattr(repairs, "repair", record)
    return repaired


async def test_a_notice_that_is_repeated_at_once_changes_nothing(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = RepeatingBroker()
    async with running_node(sqlite_url, tmp_path, options={"broker": broker, "head_check_s": 3600}) as server:
        tokens = [await server.register(name) for name in ("omar", "diego")]
        room_id = await make_topic(server.url, tokens[0], "noticias", is_private=True)
        async with connected(server.url, tokens[0]) as omar, connected(server.url, tokens[1]) as diego:
            repaired = recorded_repairs(server, monkeypatch)
            await omar.ask("invite", room_id=room_id, username="diego")
            for content in ("0", "1"):
                await omar.ask("message", room_id=room_id, content=content)
            await omar.ask("kick", room_id=room_id, username="diego")
            await omar.ask("message", room_id=room_id, content="2")
            await diego.event("room_removed")
            await omar.until(lambda: len(omar.contents()) >= 3)
            for client in (omar, diego):
                await client.ask("get_rooms")
            assert [name for name, _ in diego.events if name not in ("ready", "presence")] == [
                "room_added",
                "message",
                "message",
                "room_removed",
            ]
            assert omar.contents() == ["0", "1", "2"]
            assert seqs(omar, room_id) == [1, 2, 3, 4, 5]
        assert repaired == []
        assert {Appended, Joined, Left} <= broker.repeated


async def test_a_notice_that_repeats_earlier_entries_delivers_the_new_ones_without_reading_them(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = ChoosyBroker()
    async with running_node(sqlite_url, tmp_path, options={"broker": broker, "head_check_s": 3600}) as server:
        token = await server.register("omar")
        room_id = await make_topic(server.url, token, "noticias")
        async with connected(server.url, token) as omar:
            await server.node.hub.repairs.settled()  # a room that is new to this node is checked once
            repaired = recorded_repairs(server, monkeypatch)
            broker.holds = lambda notice: isinstance(notice, Appended)
            for content in ("0", "1", "2"):
                await omar.ask("message", room_id=room_id, content=content)
            first, second, third = [notice for _, notice in broker.held if isinstance(notice, Appended)]
            receive = server.node.delivery.receive
            for notice in (first, second, first, second, first):
                receive(notice)
            receive(Appended(first.room_key, [*first.entries, *second.entries, *third.entries], third.members, 0))
            receive(third)
            await omar.ask("get_rooms")
            assert omar.contents() == ["0", "1", "2"]
            assert repaired == []


# -- a broker that keeps no guarantee --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2])
async def test_members_get_every_entry_once_in_order_if_notices_are_lost_or_reordered(
    sqlite_url: str, tmp_path: Path, seed: int
) -> None:
    """A withdrawn session ends, too: if its notice is lost, the session check finds it."""
    broker = HarmfulBroker(seed)
    options = {"broker": broker, "head_check_s": 0.05, "session_check_s": 0.05, "presence_s": 0.01}
    async with running_node(sqlite_url, tmp_path, options=options) as server:
        omar, diego, satoshi = [await server.register(name) for name in ("omar", "diego", "satoshi")]
        room_id = await make_topic(server.url, omar, "noticias", diego, satoshi)
        async with connected(server.url, omar) as sender, connected(server.url, diego) as reader:
            for n in range(60):
                await sender.ask("message", room_id=room_id, content=str(n))
                await sender.ask("typing", room_id=room_id, typing=n % 2 == 0)
                if n % 10 == 0:
                    await sender.ask("read", room_id=room_id, seq=n + 1)
                    async with connected(server.url, satoshi):
                        pass
            contents = [str(n) for n in range(60)]
            await reader.until(lambda: reader.contents() == contents)
            await sender.until(lambda: sender.contents() == contents)
            async with connected(server.url, await server.login("diego"), device="other") as other:
                await other.ask("logout")
                assert (await other.event("closing"))["reason"] == "token_revoked"
        faults = {fault for _, fault in broker.harm}
        assert {"lose", "repeat", "delay", "reorder"} <= faults
        assert {Appended, Transient, PresenceChanged} <= {kind for kind, fault in broker.harm if fault == "lose"}


def test_a_harmful_broker_harms_every_kind_of_notice() -> None:
    broker = HarmfulBroker(1)
    for _ in range(200):
        for channel, notice in NOTICES.values():
            broker.publish(channel, notice)
    kinds = {type(notice) for _, notice in NOTICES.values()}
    for fault in ("lose", "repeat", "delay", "reorder"):
        assert {kind for kind, suffered in broker.harm if suffered == fault} == kinds
