"""The guarantees of every broker, and the encoding of notices between nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.delivery.brokers import ChoosyPublisher, LinkedBroker, RepeatingPublisher, Wire
from tests.delivery.entries import MESSAGE
from tests.delivery.support import make_topic, seqs
from tests.support.client import DEADLINE_S, connected
from tests.support.node import RunningNode, running_node
from tests.support.redis import redis_server
from tidings.cluster.broker import Broker
from tidings.cluster.node_messages import ClusterState, Identity
from tidings.cluster.redis_broker import RedisBroker
from tidings.contract.errors import CloseReason
from tidings.contract.events import MemberChange
from tidings.fanout.connection import Batch
from tidings.fanout.live_room import LiveRoom
from tidings.log.notices import (
    Appended,
    ApplicationMessage,
    Carried,
    Joined,
    Left,
    MembershipChanged,
    Notice,
    Personal,
    Piece,
    Transient,
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
EDIT = EntryRow(7, 2, "edit", None, 5, "omar", None, None, None, "{}", 1, 2, None, False, 1, target=MESSAGE)
NOTICES: dict[str, Notice] = {
    "appended": Appended(7, [MESSAGE, EDIT], 2, 1, name=NAME),
    "transient": Transient(7, "typing", {"typing": True}, "c", frozenset({5, 6})),
    "piece": Piece(7, "room7", "message", 3, 5, "más"),
    "joined": Joined(5, Snapshot(ROOM, "member", 1, 0, 0, EDIT, None, False)),
    "left": Left(5, 7, "room7", MemberChange.KICKED, 1),
    "membership changed": MembershipChanged(MembershipChange(7, 5, "omar", "left", None, 2, 1, 4)),
    "personal": Personal(5, "receipt", {"read_seq": 2, "who": None}),
    "application": ApplicationMessage("node", "text"),
    "withdrawn": Withdrawn(5, None, CloseReason.TOKEN_REVOKED),
}
CARRIED = "transient", "piece", "personal", "application"


@pytest.mark.parametrize("kind", CARRIED)
def test_a_decoded_notice_equals_the_encoded_one(kind: str) -> None:
    assert decode(encode(NOTICES[kind])) == NOTICES[kind]


def test_every_kind_of_notice_is_among_these() -> None:
    assert {type(notice) for notice in NOTICES.values()} == set(Notice.__args__)
    assert {type(NOTICES[kind]) for kind in CARRIED} == set(Carried.__args__)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        b"\x02[]",
        b"\x01[]",
        b"\x01null",
        b'\x01["Gone",{}]',
        b'\x01["Personal",{}]',
        b'\x01["Personal",null]',
        b'\x01["Left",{"user_key":5}]',
        encode(NOTICES["personal"])[:-1],
    ],
)
def test_decode_refuses_bytes_that_are_not_a_notice(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a notice"):
        decode(data)


# -- through Redis, and as the tests join nodes ----------------------------------------------------------------------

MakeBroker = Callable[[], Broker]


def over_a_wire() -> MakeBroker:
    wire = Wire()
    return lambda: LinkedBroker(wire)


def over_redis(url: str) -> MakeBroker:
    nodes = [f"node{n}" for n in range(3)]
    names = iter(nodes)
    identity = Identity("instance", [b"a key of this test"])
    known = ClusterState(lambda: nodes, lambda: 0, lambda: None)
    return lambda: RedisBroker([url], next(names), lambda: identity, known, lambda: {7})


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


@pytest.fixture(params=["wire", "redis"])
async def nodes(request: pytest.FixtureRequest) -> AsyncIterator[list[Listener]]:
    async with AsyncExitStack() as stack:
        if request.param == "redis":
            make_broker = over_redis((await stack.enter_async_context(redis_server())).url)
        else:
            make_broker = over_a_wire()
        listeners = [Listener(make_broker()) for _ in range(3)]
        for listener in listeners:
            await listener.broker.start(listener.receive)
        async with asyncio.timeout(DEADLINE_S):
            while any(listener.broker.trouble for listener in listeners):
                await asyncio.to_thread(str)
        yield listeners
        for listener in listeners:
            await listener.broker.stop()


@pytest.mark.parametrize("kind", ["appended", *CARRIED])
async def test_a_notice_reaches_every_other_node_once_and_not_its_publisher(nodes: list[Listener], kind: str) -> None:
    first, *others = nodes
    first.broker.share([NOTICES[kind]])
    first.broker.share([NOTICES["personal"]])
    for node in others:
        received = await node.until(2)
        assert {repr(_events(notice)) for notice in received} == {
            repr(_events(notice)) for notice in (NOTICES[kind], NOTICES["personal"])
        }
        assert len(received) == 2
    assert first.received == []


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


async def test_a_stopped_broker_receives_no_notice(nodes: list[Listener]) -> None:
    stopped, first, second = nodes
    await stopped.broker.stop()
    first.broker.share([NOTICES["personal"]])
    await second.until(1)
    assert stopped.received == []
    await stopped.broker.start(stopped.receive)  # the fixture stops it


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
    publisher = RepeatingPublisher()
    async with running_node(sqlite_url, tmp_path, options={"publisher": publisher, "head_check_s": 3600}) as server:
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
        assert {Appended, Joined, Left} <= publisher.repeated


async def test_a_notice_that_repeats_earlier_entries_delivers_the_new_ones_without_reading_them(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = ChoosyPublisher()
    async with running_node(sqlite_url, tmp_path, options={"publisher": publisher, "head_check_s": 3600}) as server:
        token = await server.register("omar")
        room_id = await make_topic(server.url, token, "noticias")
        async with connected(server.url, token) as omar:
            await server.node.hub.repairs.settled()  # a room that is new to this node is checked once
            repaired = recorded_repairs(server, monkeypatch)
            publisher.holds = lambda notice: isinstance(notice, Appended)
            for content in ("0", "1", "2"):
                await omar.ask("message", room_id=room_id, content=content)
            first, second, third = [notice for notice in publisher.held if isinstance(notice, Appended)]
            receive = server.node.delivery.receive
            for notice in (first, second, first, second, first):
                receive(notice)
            receive(Appended(first.room_key, [*first.entries, *second.entries, *third.entries], third.members, 0))
            receive(third)
            await omar.ask("get_rooms")
            assert omar.contents() == ["0", "1", "2"]
            assert repaired == []


# -- a broker that keeps no guarantee --------------------------------------------------------------------------------
