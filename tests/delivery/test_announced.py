"""Presence of thousands: each change is encoded once, and written to a few connections in each turn of the loop."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from tests.delivery.support import RecordingLink
from tests.support.client import DEADLINE_S
from tidings.auth.principal import Principal
from tidings.fanout.announcer import CONNECTIONS_PER_TURN, Announcer, UserChange
from tidings.fanout.connection import Batch, Connection
from tidings.fanout.live_room import LiveRoom
from tidings.transport.socketio_codecs import TextCodec
from tidings_db.queries.rows import RoomRow

ROOMS = 3


class CountingCodec(TextCodec):
    """Counts what it encodes and frames."""

    def __init__(self) -> None:
        super().__init__()
        self.encoded = self.framed = 0

    def encode(self, event: str, payload: Any) -> bytes:
        self.encoded += 1
        return super().encode(event, payload)

    def frames(self, messages: Any) -> bytes:
        self.framed += 1
        return super().frames(messages)


class CountingLink(RecordingLink):
    def __init__(self, codec: TextCodec, writes: list[Connection]) -> None:
        super().__init__()
        self.codec = codec
        self.connection: Connection
        self.writes = writes
        self.frames: list[bytes] = []

    def write(self, batch: Batch) -> None:
        super().write(batch)
        self.frames.append(batch.frames(self.codec))
        self.writes.append(self.connection)


class Crowd:
    """Members of rooms 1 to 3: user n is in rooms 1 + n % 3 and 1 + (n + 1) % 3, with one connection."""

    def __init__(self, users: int) -> None:
        self.codec = CountingCodec()
        self.writes: list[Connection] = []
        self.rooms = {
            key: LiveRoom(RoomRow(key, f"r{key}", "group", True, None, None, None, 1, 0, 0, 0, users, 0, 0, 0))
            for key in range(1, ROOMS + 1)
        }
        self.announcer = Announcer(self.rooms)
        self.members: dict[int, tuple[Connection, CountingLink]] = {}
        for n in range(users):
            link = CountingLink(self.codec, self.writes)
            link.connection = Connection(link, Principal(n, f"user{n}", n, f"sid{n}", 1 << 50), "phone")
            self.members[n] = link.connection, link
            for key in rooms_of(n):
                self.rooms[key].attach(link.connection, 0, 0)

    def change(self, users: Sequence[int], online: bool, hidden_from: frozenset[int] = frozenset()) -> None:
        for key in self.rooms:
            changes = [presence_of(n, online=online, hidden_from=hidden_from) for n in users if key in rooms_of(n)]
            self.announcer.collect(key, changes)

    def changes_of(self, n: int) -> list[tuple[str, bool]]:
        return [(payload["username"], payload["online"]) for _, payload in self.members[n][1].written]

    async def settled(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            await self.announcer.written()


def presence_of(n: int, *, online: bool, hidden_from: frozenset[int] = frozenset()) -> UserChange:
    username = f"user{n}"
    payload = {"username": username, "online": online, "last_seen": None}
    return UserChange(n, username, [("presence", payload)], hidden_from)


def rooms_of(n: int) -> set[int]:
    return {1 + n % ROOMS, 1 + (n + 1) % ROOMS}


async def test_each_arrival_is_encoded_once_and_written_once_to_each_member() -> None:
    crowd = Crowd(300)
    arrivals = range(100, 200)
    # `PresenceTracker` passes one change object for all rooms of a user.
    changes = {n: presence_of(n, online=True) for n in arrivals}
    for key in crowd.rooms:
        crowd.announcer.collect(key, [change for n, change in changes.items() if key in rooms_of(n)])
    await crowd.settled()
    assert Counter(crowd.writes) == Counter([connection for connection, _ in crowd.members.values()])
    for n in range(300):
        assert sorted(crowd.changes_of(n)) == sorted((f"user{m}", True) for m in arrivals if m != n)
    assert (crowd.codec.encoded, crowd.codec.framed) == (len(arrivals), len(arrivals))
    for _, link in crowd.members.values():
        (frames,) = link.frames
        assert frames == CountingCodec().frames(map(encoded, link.written))


def encoded(event: tuple[str, Any]) -> bytes:
    return TextCodec().encode(*event)


async def test_one_turn_of_the_loop_writes_presence_to_a_bounded_number_of_connections() -> None:
    crowd = Crowd(5 * CONNECTIONS_PER_TURN + 1)
    crowd.change(range(50), online=True)
    turns = [0]
    while not crowd.writes or len(crowd.writes) > turns[-1]:
        turns.append(len(crowd.writes))
        await asyncio.sleep(0)
    await crowd.settled()
    assert len(crowd.writes) == len(crowd.members)
    assert max(after - before for before, after in pairwise(turns)) <= CONNECTIONS_PER_TURN


async def test_each_member_gets_presence_changes_in_the_order_of_the_changes() -> None:
    crowd = Crowd(5 * CONNECTIONS_PER_TURN)
    crowd.change([1], online=True)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert 0 < len(crowd.writes) < len(crowd.members), "some connections are written to, others wait"
    crowd.change([1], online=False)
    await asyncio.sleep(0)
    crowd.change([1], online=True)
    await asyncio.sleep(0)
    assert len(crowd.announcer._rounds) == 3, "two rounds wait behind the first"
    await crowd.settled()
    for n in range(len(crowd.members)):
        assert crowd.changes_of(n) == ([] if n == 1 else [("user1", True), ("user1", False), ("user1", True)])


async def test_a_member_who_leaves_during_a_round_gets_no_presence_afterwards() -> None:
    crowd = Crowd(5 * CONNECTIONS_PER_TURN)
    connection, link = crowd.members[0]
    crowd.change([1], online=True)
    for key in list(connection.rooms):
        crowd.announcer.write_now(connection)
        crowd.rooms[key].detach(connection)
        connection.forget(key)
    assert ("user1", True) in crowd.changes_of(0)
    at = len(link.written)
    crowd.change([2], online=True)
    await crowd.settled()
    assert len(link.written) == at


@pytest.mark.parametrize("written", [False, True], ids=["not written yet", "written already"])
async def test_a_member_who_leaves_one_of_two_shared_rooms_gets_a_change_once(*, written: bool) -> None:
    crowd = Crowd(5 * CONNECTIONS_PER_TURN)
    crowd.change([0], online=True)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    member = next(n for n in range(3, len(crowd.members), ROOMS) if bool(crowd.changes_of(n)) is written)
    connection, _ = crowd.members[member]
    (left, _) = connection.rooms
    crowd.announcer.write_now(connection)
    crowd.rooms[left].detach(connection)
    connection.forget(left)
    await crowd.settled()
    assert crowd.changes_of(member) == [("user0", True)]


async def test_a_hidden_presence_is_hidden_from_the_named_users_only() -> None:
    crowd = Crowd(30)
    crowd.change([1], online=True, hidden_from=frozenset({4, 7}))
    crowd.change([2], online=True)
    await crowd.settled()
    for n in range(30):
        assert ("user1", True) in crowd.changes_of(n) or n in (1, 4, 7)
        assert ("user1", True) not in crowd.changes_of(n) or n not in (1, 4, 7)
        assert ("user2", True) in crowd.changes_of(n) or n == 2


async def test_a_user_who_is_about_to_be_told_offline_gets_no_earlier_change_afterwards() -> None:
    """After a block: user 1 has come online in changes that wait, and user 2 must not see it any more."""
    crowd = Crowd(5 * CONNECTIONS_PER_TURN)
    for _ in range(2):
        crowd.change([1], online=True)
        await asyncio.sleep(0)
    crowd.change([1], online=True)
    assert crowd.changes_of(2) == []
    crowd.announcer.hide(2, "user1")
    await crowd.settled()
    assert crowd.changes_of(2) == []
    assert crowd.changes_of(4) == [("user1", True)] * 3
