"""Entries that many members missed are read and encoded once, and each member gets only the allowed ones."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from sqlalchemy.engine import Connection as Transaction

from db.queries import log, progress, rooms
from db.queries.log import Span
from db.queries.progress import ReceiptRow
from db.queries.rows import RoomRow
from db.read_batcher import MAX_BATCH
from server.fanout import pages
from server.fanout.connection import Batch, EventCodec
from server.fanout.pages import FIRST_PAGE, PAGE, Page, PageRequest, Pages, read_page, read_pages
from server.log.views import RoomName
from server.transport.socketio_codecs import MsgpackCodec, TextCodec
from tests.delivery.support import fill, make_topic, rest
from tests.delivery.test_missed import entries_of
from tests.support.node import RunningNode

ONLY_SOCKETIO = True  # no door is gone through here
NAMES = ("omar", "diego", "satoshi")


class Team:
    """Some users, and rooms with what they have missed."""

    def __init__(
        self, server: RunningNode, keys: dict[str, int], found: Sequence[RoomRow], codec: EventCodec
    ) -> None:
        self.database = server.node.database
        self.keys = keys
        self.rooms = found
        self.codec = codec
        self._names = {room.key: RoomName(room.key, room.room_id, None, False) for room in found}

    @classmethod
    async def made(cls, server: RunningNode, codec: EventCodec, count: int = 2) -> Team:
        """All are in all of so many rooms."""
        first, *others = [await server.register(name) for name in NAMES]
        ids = [await make_topic(server.url, first, f"room{n}", *others) for n in range(count)]
        keys = {name: (await server.node.auth.user(name)).key for name in NAMES}
        found = [await server.node.database.read(partial(rooms.find, room_id=room_id)) for room_id in ids]
        return cls(server, keys, [room for room in found if room is not None], codec)

    def wanted(self, name: str, *spans: tuple[int, int, int]) -> PageRequest:
        """`spans`: which room, after, up to."""
        found = [Span(self.rooms[which].key, after, upto) for which, after, upto in spans]
        return PageRequest(
            self.keys[name], found, {one.room_key: self._names[one.room_key] for one in found}, self.codec
        )

    async def together(self, asked: Sequence[PageRequest]) -> list[Page | None]:
        return await self.database.read(lambda conn: read_pages(conn, asked))

    async def alone(self, wanted: PageRequest) -> Page:
        return await self.database.read(lambda conn: read_page(conn, *wanted))


def told(page: Page | None) -> dict[tuple[int, int], bytes]:
    """(room, seq) -> message."""
    assert page is not None
    found: dict[tuple[int, int], bytes] = {}
    for chunk in page.chunks:
        seqs = range(chunk.first, chunk.last + 1)
        assert len(seqs) == len(chunk.messages)
        assert sum(map(len, chunk.messages)) == chunk.size
        found.update(((chunk.room_key, seq), one) for seq, one in zip(seqs, chunk.messages, strict=True))
    return found


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many entries were read and encoded each time."""
    counts: list[int] = []
    original = pages.chunks

    def counting(*args: Any, **options: Any) -> Any:
        made = original(*args, **options)
        counts.append(sum(len(chunk.messages) for chunk in made[0]))
        return made

    monkeypatch.setattr(pages, "chunks", counting)
    return counts


@pytest.mark.parametrize("codec", [TextCodec(), MsgpackCodec()], ids=["json", "msgpack"])
async def test_each_gets_what_they_would_have_got_alone(
    server: RunningNode, codec: EventCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PAGE_BYTES", 100_000_000)
    team = await Team.made(server, codec)
    said = {room.key: entries_of(room.key, team.keys, room.last_seq) for room in team.rooms}

    def write(conn: Transaction) -> None:
        for entries in said.values():
            log.add(conn, entries)

    await team.database.write(write)
    upto = len(said[team.rooms[0].key])
    spans = [
        [(0, 0, upto), (1, 0, upto)],
        [(0, 10, upto)],
        [(1, 0, 20), (0, 5, 20)],
        [(0, 20, 20), (1, upto - 1, upto)],
        [(1, 0, 3 * 8)],  # nothing in it is anybody's own
    ]
    asked = [team.wanted(name, *some) for some in spans for name in NAMES]
    found = await team.together(asked)
    for wanted, page in zip(asked, found, strict=True):
        alone = await team.alone(wanted)
        if page is not None:
            assert page.covered == alone.covered
            assert told(page) == told(alone)
        else:
            own = {one.seq for one in said[wanted.spans[0].room_key] if one.sender_key == wanted.user_key}
            assert own, "only what is shown otherwise to its user is read once more"
    assert all(page is not None for page in found[-len(NAMES) :])


async def test_non_members_get_no_events_of_the_room(server: RunningNode) -> None:
    team = await Team.made(server, TextCodec())
    for room in team.rooms:
        await fill(team.database, "omar", {room.room_id: ["hola"] * 10})
    async with rest(server.url, await server.login("satoshi")) as http:
        assert (await http.delete("/api/subscriptions", params={"room_id": team.rooms[0].room_id})).is_success
    asked = [team.wanted(name, (0, 0, 10), (1, 4, 10)) for name in NAMES]
    *stayed, left = await team.together(asked)
    for page in stayed:
        assert [key for key, _ in told(page)] == [team.rooms[0].key] * 10 + [team.rooms[1].key] * 6
    assert left is not None
    assert left.covered == asked[-1].spans
    assert list(told(left)) == [(team.rooms[1].key, seq) for seq in range(5, 11)]


async def test_devices_that_return_together_share_reads_encodings_and_frames(
    server: RunningNode, encoded: list[int]
) -> None:
    team = await Team.made(server, TextCodec())
    await fill(team.database, "omar", {team.rooms[0].room_id: ["hola"] * 200})
    shared = Pages(team.database)
    asked = [team.wanted(NAMES[n % 3], (0, 10 * (n % 4), 200)) for n in range(MAX_BATCH)]
    found = await asyncio.gather(*map(shared.read, asked))
    assert encoded == [200]
    assert len({id(chunk.batch) for page in found for chunk in page.chunks}) == 4
    for n, page in enumerate(found):
        assert list(told(page)) == [(team.rooms[0].key, seq) for seq in range(10 * (n % 4) + 1, 201)]
        for chunk in page.chunks:
            assert chunk.batch.frames(team.codec) == Batch.encoded(team.codec, chunk.messages).frames(team.codec)


async def test_what_is_read_together_is_bounded(server: RunningNode, encoded: list[int]) -> None:
    team = await Team.made(server, TextCodec(), count=8)
    for room in team.rooms:
        await fill(team.database, "omar", {room.room_id: ["hola"] * FIRST_PAGE})
    asked = [team.wanted(name, (which, 0, FIRST_PAGE)) for which in range(8) for name in NAMES]
    found = await team.together(asked)
    assert encoded[0] <= PAGE
    assert sum(page is not None for page in found) == PAGE // FIRST_PAGE * len(NAMES)
    whole = await asyncio.gather(*map(Pages(team.database).read, asked))
    assert [len(told(page)) for page in whole] == [FIRST_PAGE] * len(asked)


async def test_what_is_too_long_to_be_read_together_comes_in_pieces(
    server: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PAGE_BYTES", 10_000)
    team = await Team.made(server, TextCodec())
    await fill(team.database, "omar", {team.rooms[0].room_id: ["x" * 1000] * 40})
    positions = dict.fromkeys(NAMES, 0)
    shared = Pages(team.database)
    while set(positions.values()) != {40}:
        asked = [team.wanted(name, (0, at, 40)) for name, at in positions.items()]
        for name, page in zip(positions, await asyncio.gather(*map(shared.read, asked)), strict=True):
            seqs = [seq for _, seq in told(page)]
            (covered,) = page.covered
            assert seqs == list(range(positions[name] + 1, covered.upto + 1))
            assert seqs
            positions[name] = seqs[-1]


async def test_devices_that_return_together_get_their_own_receipts(server: RunningNode) -> None:
    team = await Team.made(server, TextCodec())
    await fill(team.database, "omar", {room.room_id: ["hola"] * 5 for room in team.rooms})
    for name, which, seq in (("omar", 0, 3), ("omar", 1, 5), ("diego", 1, 4)):
        async with rest(server.url, await server.login(name)) as http:
            marked = await http.post("/api/read", json={"room_id": team.rooms[which].room_id, "seq": seq})
            assert marked.is_success, marked.text
    asked = [(team.keys[name], since) for name in NAMES for since in (0, 1 << 60)]
    found = await team.database.read(lambda conn: progress.receipts_since(conn, asked))

    def seen(rows: Sequence[ReceiptRow]) -> list[tuple[str, str, int]]:
        return sorted((row.room_id, row.username, row.read_seq) for row in rows if row.read_seq)

    first, second = (room.room_id for room in team.rooms)
    assert [seen(rows) for rows in found] == [
        sorted([(first, "omar", 3), (second, "omar", 5)]),
        [],
        [(second, "diego", 4)],
        [],
        [],
        [],
    ]
