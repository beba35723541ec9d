"""Entries that many members missed are read and encoded once, and each member gets only the allowed ones."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from sqlalchemy.engine import Connection as Transaction

from tests.delivery.entries import entries_of
from tests.delivery.support import fill, make_topic, rest
from tests.support.node import RunningNode
from tidings.fanout import pages
from tidings.fanout.connection import Batch, EventCodec
from tidings.fanout.pages import FIRST_PAGE, PAGE, Page, PageRequest, Pages, read_page, read_pages
from tidings.log.views import RoomName
from tidings.transport.socketio_codecs import MsgpackCodec, TextCodec
from tidings_db.queries import log, progress, rooms
from tidings_db.queries.log import Span
from tidings_db.queries.progress import ReceiptRow
from tidings_db.queries.rows import RoomRow
from tidings_db.read_batcher import MAX_BATCH

ONLY_SOCKETIO = True  # the reads below use no gateway
NAMES = ("omar", "diego", "satoshi")


class Team:
    """Users, and rooms with entries that they missed."""

    def __init__(
        self, server: RunningNode, keys: dict[str, int], room_rows: Sequence[RoomRow], codec: EventCodec
    ) -> None:
        self.database = server.node.database
        self.keys = keys
        self.rooms = room_rows
        self.codec = codec
        self._names = {room.key: RoomName(room.key, room.room_id, None, False) for room in room_rows}

    @classmethod
    async def create(cls, server: RunningNode, codec: EventCodec, count: int = 2) -> Team:
        """Every user is a member of each of `count` rooms."""
        first, *others = [await server.register(name) for name in NAMES]
        ids = [await make_topic(server.url, first, f"room{n}", *others) for n in range(count)]
        keys = {name: (await server.node.auth.user(name)).key for name in NAMES}
        room_rows = [await server.node.database.read(partial(rooms.find, room_id=room_id)) for room_id in ids]
        return cls(server, keys, [room for room in room_rows if room is not None], codec)

    def request(self, name: str, *spans: tuple[int, int, int]) -> PageRequest:
        """`spans`: index of the room, after, up to."""
        wanted = [Span(self.rooms[index].key, after, upto) for index, after, upto in spans]
        return PageRequest(
            self.keys[name], wanted, {span.room_key: self._names[span.room_key] for span in wanted}, self.codec
        )

    async def read_together(self, requests: Sequence[PageRequest]) -> list[Page | None]:
        return await self.database.read(lambda conn: read_pages(conn, requests))

    async def read_alone(self, request: PageRequest) -> Page:
        return await self.database.read(lambda conn: read_page(conn, *request))


def messages_of(page: Page | None) -> dict[tuple[int, int], bytes]:
    """(room, seq) -> message."""
    assert page is not None
    messages: dict[tuple[int, int], bytes] = {}
    for chunk in page.chunks:
        seqs = range(chunk.first, chunk.last + 1)
        assert len(seqs) == len(chunk.messages)
        assert sum(map(len, chunk.messages)) == chunk.size
        messages.update(((chunk.room_key, seq), text) for seq, text in zip(seqs, chunk.messages, strict=True))
    return messages


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of entries that each read encoded."""
    counts: list[int] = []
    original = pages.encode_chunks

    def counting(*args: Any, **options: Any) -> Any:
        result = original(*args, **options)
        counts.append(sum(len(chunk.messages) for chunk in result[0]))
        return result

    monkeypatch.setattr(pages, "encode_chunks", counting)
    return counts


@pytest.mark.parametrize("codec", [TextCodec(), MsgpackCodec()], ids=["json", "msgpack"])
async def test_a_shared_read_gives_each_member_the_page_of_a_read_alone(
    server: RunningNode, codec: EventCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PAGE_BYTES", 100_000_000)
    team = await Team.create(server, codec)
    entries_by_room = {room.key: entries_of(room.key, team.keys, room.last_seq) for room in team.rooms}

    def write(conn: Transaction) -> None:
        for entries in entries_by_room.values():
            log.add(conn, entries)

    await team.database.write(write)
    upto = len(entries_by_room[team.rooms[0].key])
    spans = [
        [(0, 0, upto), (1, 0, upto)],
        [(0, 10, upto)],
        [(1, 0, 20), (0, 5, 20)],
        [(0, 20, 20), (1, upto - 1, upto)],
        [(1, 0, 3 * 8)],  # entries that look the same to everybody
    ]
    requests = [team.request(name, *some) for some in spans for name in NAMES]
    pages_read = await team.read_together(requests)
    for request, page in zip(requests, pages_read, strict=True):
        alone = await team.read_alone(request)
        if page is not None:
            assert page.covered == alone.covered
            assert messages_of(page) == messages_of(alone)
        else:
            own = {
                entry.seq
                for entry in entries_by_room[request.spans[0].room_key]
                if entry.sender_key == request.user_key
            }
            assert own, "only a user's own entries need a read of their own"
    assert all(page is not None for page in pages_read[-len(NAMES) :])


async def test_non_members_get_no_events_of_the_room(server: RunningNode) -> None:
    team = await Team.create(server, TextCodec())
    for room in team.rooms:
        await fill(team.database, "omar", {room.room_id: ["hola"] * 10})
    async with rest(server.url, await server.login("satoshi")) as http:
        assert (await http.delete("/api/subscriptions", params={"room_id": team.rooms[0].room_id})).is_success
    requests = [team.request(name, (0, 0, 10), (1, 4, 10)) for name in NAMES]
    *stayed, left = await team.read_together(requests)
    for page in stayed:
        assert [key for key, _ in messages_of(page)] == [team.rooms[0].key] * 10 + [team.rooms[1].key] * 6
    assert left is not None
    assert left.covered == requests[-1].spans
    assert list(messages_of(left)) == [(team.rooms[1].key, seq) for seq in range(5, 11)]


async def test_devices_that_return_together_share_reads_encodings_and_frames(
    server: RunningNode, encoded: list[int]
) -> None:
    team = await Team.create(server, TextCodec())
    await fill(team.database, "omar", {team.rooms[0].room_id: ["hola"] * 200})
    shared = Pages(team.database)
    requests = [team.request(NAMES[n % 3], (0, 10 * (n % 4), 200)) for n in range(MAX_BATCH)]
    pages_read = await asyncio.gather(*map(shared.read, requests))
    assert encoded == [200]
    assert len({id(chunk.batch) for page in pages_read for chunk in page.chunks}) == 4
    for n, page in enumerate(pages_read):
        assert list(messages_of(page)) == [(team.rooms[0].key, seq) for seq in range(10 * (n % 4) + 1, 201)]
        for chunk in page.chunks:
            assert chunk.batch.frames(team.codec) == Batch.encoded(team.codec, chunk.messages).frames(team.codec)


async def test_a_shared_read_is_bounded(server: RunningNode, encoded: list[int]) -> None:
    team = await Team.create(server, TextCodec(), count=8)
    for room in team.rooms:
        await fill(team.database, "omar", {room.room_id: ["hola"] * FIRST_PAGE})
    requests = [team.request(name, (index, 0, FIRST_PAGE)) for index in range(8) for name in NAMES]
    pages_read = await team.read_together(requests)
    assert encoded[0] <= PAGE
    assert sum(page is not None for page in pages_read) == PAGE // FIRST_PAGE * len(NAMES)
    complete = await asyncio.gather(*map(Pages(team.database).read, requests))
    assert [len(messages_of(page)) for page in complete] == [FIRST_PAGE] * len(requests)


async def test_a_long_shared_read_is_split_into_pages(server: RunningNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "PAGE_BYTES", 10_000)
    team = await Team.create(server, TextCodec())
    await fill(team.database, "omar", {team.rooms[0].room_id: ["x" * 1000] * 40})
    positions = dict.fromkeys(NAMES, 0)
    shared = Pages(team.database)
    while set(positions.values()) != {40}:
        requests = [team.request(name, (0, at, 40)) for name, at in positions.items()]
        for name, page in zip(positions, await asyncio.gather(*map(shared.read, requests)), strict=True):
            seqs = [seq for _, seq in messages_of(page)]
            (covered,) = page.covered
            assert seqs == list(range(positions[name] + 1, covered.upto + 1))
            assert seqs
            positions[name] = seqs[-1]


async def test_devices_that_return_together_get_their_own_receipts(server: RunningNode) -> None:
    team = await Team.create(server, TextCodec())
    await fill(team.database, "omar", {room.room_id: ["hola"] * 5 for room in team.rooms})
    for name, index, seq in (("omar", 0, 3), ("omar", 1, 5), ("diego", 1, 4)):
        async with rest(server.url, await server.login(name)) as http:
            marked = await http.post("/api/read", json={"room_id": team.rooms[index].room_id, "seq": seq})
            assert marked.is_success, marked.text
    requests = [(team.keys[name], since) for name in NAMES for since in (0, 1 << 60)]
    pages_read = await team.database.read(lambda conn: progress.receipts_since(conn, requests))

    def read_markers(rows: Sequence[ReceiptRow]) -> list[tuple[str, str, int]]:
        return sorted((row.room_id, row.username, row.read_seq) for row in rows if row.read_seq)

    first, second = (room.room_id for room in team.rooms)
    assert [read_markers(rows) for rows in pages_read] == [
        sorted([(first, "omar", 3), (second, "omar", 5)]),
        [],
        [(second, "diego", 4)],
        [],
        [],
        [],
    ]
