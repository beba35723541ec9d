"""Presence of thousands: encoded once for each change, written once to each connection, and a few in each turn."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from server.fanout.announcer import EACH_TURN, Announcer
from server.fanout.connection import Batch, Connection
from server.fanout.live_room import LiveRoom
from server.log.notices import PresenceChanged, UserPresence
from server.log.views import RoomName
from server.principal import Principal
from server.transport.socketio_codecs import TextCodec
from tests.delivery.support import RecordingLink
from tests.support.client import DEADLINE_S

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
        self.rooms = {key: LiveRoom(RoomName(key, f"r{key}", None, False), 0, users) for key in range(1, ROOMS + 1)}
        self.announcer = Announcer(self.rooms)
        self.members: dict[int, tuple[Connection, CountingLink]] = {}
        for n in range(users):
            link = CountingLink(self.codec, self.writes)
            link.connection = Connection(link, Principal(n, f"user{n}", n, f"sid{n}", 1 << 50), "phone")
            self.members[n] = link.connection, link
            for key in rooms_of(n):
                self.rooms[key].attach(link.connection, 0)

    def change(self, users: Sequence[int], online: bool, hidden_from: frozenset[int] = frozenset()) -> None:
        for key in self.rooms:
            changes = [
                UserPresence(n, {"username": f"user{n}", "online": online, "last_seen": None}, hidden_from)
                for n in users
                if key in rooms_of(n)
            ]
            self.announcer.collect(PresenceChanged(key, changes))

    def told(self, n: int) -> list[tuple[str, bool]]:
        return [(payload["username"], payload["online"]) for _, payload in self.members[n][1].written]

    async def done(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            await self.announcer.written()


def rooms_of(n: int) -> set[int]:
    return {1 + n % ROOMS, 1 + (n + 1) % ROOMS}


async def test_each_member_gets_each_arrival_once_and_each_arrival_is_encoded_once() -> None:
    crowd = Crowd(300)
    came = range(100, 200)
    # As one change for all its rooms, which is how it comes from `PresenceTracker`.
    changes = {
        n: UserPresence(n, {"username": f"user{n}", "online": True, "last_seen": None}, frozenset()) for n in came
    }
    for key in crowd.rooms:
        crowd.announcer.collect(PresenceChanged(key, [one for n, one in changes.items() if key in rooms_of(n)]))
    await crowd.done()
    assert Counter(crowd.writes) == Counter([connection for connection, _ in crowd.members.values()])
    for n in range(300):
        assert sorted(crowd.told(n)) == sorted((f"user{m}", True) for m in came if m != n)
    assert (crowd.codec.encoded, crowd.codec.framed) == (len(came), len(came))
    for _, link in crowd.members.values():
        (frames,) = link.frames
        again = CountingCodec().frames(message for message in map(encoded, link.written))
        assert frames == again


def encoded(event: tuple[str, Any]) -> bytes:
    return TextCodec().encode(*event)


async def test_no_turn_of_the_loop_writes_to_more_than_a_few() -> None:
    crowd = Crowd(5 * EACH_TURN + 1)
    crowd.change(range(50), online=True)
    turns = [0]
    while not crowd.writes or len(crowd.writes) > turns[-1]:
        turns.append(len(crowd.writes))
        await asyncio.sleep(0)
    await crowd.done()
    assert len(crowd.writes) == len(crowd.members)
    assert max(after - before for before, after in pairwise(turns)) <= EACH_TURN


async def test_what_comes_later_is_told_later_to_each() -> None:
    crowd = Crowd(5 * EACH_TURN)
    crowd.change([1], online=True)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert 0 < len(crowd.writes) < len(crowd.members), "some are told, others wait"
    crowd.change([1], online=False)
    await asyncio.sleep(0)
    crowd.change([1], online=True)
    await asyncio.sleep(0)
    assert len(crowd.announcer._rounds) == 3, "two rounds wait for the first"
    await crowd.done()
    for n in range(len(crowd.members)):
        assert crowd.told(n) == ([] if n == 1 else [("user1", True), ("user1", False), ("user1", True)])


async def test_a_user_who_left_meanwhile_gets_room_removed_first_and_nothing_after_it() -> None:
    crowd = Crowd(5 * EACH_TURN)
    connection, link = crowd.members[0]
    crowd.change([1], online=True)
    for key in list(connection.rooms):
        crowd.announcer.write_now(connection)
        crowd.rooms[key].detach(connection)
        connection.forget(key)
    assert ("user1", True) in crowd.told(0)
    at = len(link.written)
    crowd.change([2], online=True)
    await crowd.done()
    assert len(link.written) == at


@pytest.mark.parametrize("told", [False, True], ids=["not told yet", "told already"])
async def test_who_leaves_one_room_meanwhile_is_told_once_of_who_is_in_the_other_too(*, told: bool) -> None:
    crowd = Crowd(5 * EACH_TURN)
    crowd.change([0], online=True)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    one = next(n for n in range(3, len(crowd.members), ROOMS) if bool(crowd.told(n)) is told)
    connection, _ = crowd.members[one]
    (left, _) = connection.rooms
    crowd.announcer.write_now(connection)
    crowd.rooms[left].detach(connection)
    connection.forget(left)
    await crowd.done()
    assert crowd.told(one) == [("user0", True)]


async def test_who_is_hidden_is_hidden_from_these_only() -> None:
    crowd = Crowd(30)
    crowd.change([1], online=True, hidden_from=frozenset({4, 7}))
    crowd.change([2], online=True)
    await crowd.done()
    for n in range(30):
        assert ("user1", True) in crowd.told(n) or n in (1, 4, 7)
        assert ("user1", True) not in crowd.told(n) or n not in (1, 4, 7)
        assert ("user2", True) in crowd.told(n) or n == 2
