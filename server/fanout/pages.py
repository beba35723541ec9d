"""Pages of missed entries, encoded. Entries that many users missed are read and encoded once.

A page is one snapshot, which begins after the page was asked for. It holds entries of a room only if the
user is a member of it in that snapshot, and each entry as that user gets it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy.engine import Connection as Transaction

from db.engine import Database
from db.queries import log, shared
from db.queries.log import MissedRow, Span, entry_of
from db.queries.rows import EntryRow
from db.read_batcher import ReadBatcher
from server.contract.models import timestamp
from server.fanout.connection import Batch, EventCodec
from server.log.views import RoomName, event, message, said_by

PAGE = 1000
"""Entries of one page, at most."""
FIRST_PAGE = 256
"""Entries of a connection's first page. Pages of up to so many are shared, later ones are larger."""
PAGE_BYTES = 512 * 1024
"""Bytes of one page: it ends with the entry that reaches them."""
WRITE_BYTES = 128 * 1024
"""Bytes that are written between two waits for the transport."""


class Chunk(NamedTuple):
    """Consecutive entries of a room, encoded."""

    room_key: int
    first: int
    last: int
    """seq of the last one"""
    size: int
    """bytes"""
    messages: list[bytes]
    batch: Batch
    """The same messages, framed once for all connections that get this chunk."""


def chunk(codec: EventCodec, room_key: int, first: int, last: int, size: int, messages: list[bytes]) -> Chunk:
    """Of the encoded entries from the seq `first` to `last`."""
    return Chunk(room_key, first, last, size, messages, Batch.encoded(codec, messages))


class Page(NamedTuple):
    covered: list[Span]
    """The spans that were asked for, as far as they were read"""
    chunks: list[Chunk]

    @property
    def entries(self) -> int:
        return sum(len(chunk.messages) for chunk in self.chunks)


class PageRequest(NamedTuple):
    """The entries that a user wants of some rooms; `names` has at least those rooms."""

    user_key: int
    spans: Sequence[Span]
    names: Mapping[int, RoomName]
    codec: EventCodec

    @property
    def entries(self) -> int:
        return sum(span.upto - span.after for span in self.spans)


class Pages:
    def __init__(self, database: Database) -> None:
        self._db = database
        self._together = ReadBatcher(database, read_pages)

    async def read(self, wanted: PageRequest) -> Page:
        """A page, or as much of it as fits. Raises as `Database.read`."""
        if wanted.entries <= FIRST_PAGE:
            page = await self._together.read(wanted)
            if page is not None:
                return page
        return await self._db.read(lambda conn: read_page(conn, *wanted))


def read_page(
    conn: Transaction,
    user_key: int,
    wanted: Sequence[Span],
    names: Mapping[int, RoomName],
    codec: EventCodec,
    max_bytes: int = PAGE_BYTES,
) -> Page:
    """Read and encode a page of the entries that a user missed. On SQLite both run in the reading thread.

    It ends with the entry that makes it `max_bytes` long or longer.
    """
    with log.missed(conn, user_key, wanted) as rows:
        found, more = chunks(codec, names, rows, user_key, chunk_bytes=WRITE_BYTES, max_bytes=max_bytes)
    return Page(log.read_up_to(wanted, found[-1].room_key, found[-1].last) if more else list(wanted), found)


def read_pages(conn: Transaction, asked: Sequence[PageRequest]) -> list[Page | None]:
    """The pages that several users want; None for one that has to be read by itself.

    That is a page with entries that its user sees differently, or one beyond the bounds of a shared page.
    """
    pages: list[Page | None] = [None] * len(asked)
    alike: dict[EventCodec, list[int]] = {}
    for at, wanted in enumerate(asked):
        alike.setdefault(wanted.codec, []).append(at)
    if len(alike) < len(asked):
        pairs = {(span.room_key, wanted.user_key) for wanted in asked for span in wanted.spans}
        members = shared.memberships(conn, pairs)
    for places in alike.values():
        some = [asked[at] for at in places]
        if len(some) == 1:
            found: list[Page | None] = [read_page(conn, *some[0])]
        else:
            found = _read_alike(conn, some, members)
        for at, page in zip(places, found, strict=True):
            pages[at] = page
    return pages


def _read_alike(conn: Transaction, asked: Sequence[PageRequest], members: set[tuple[int, int]]) -> list[Page | None]:
    """Pages in the same codec; `members`: which (room, user) are."""
    spans = _joined(span for one in asked for span in one.spans if (span.room_key, one.user_key) in members)
    names: dict[int, RoomName] = {}
    for one in asked:
        names.update(one.names)
    run = _Run(asked[0].codec)
    with shared.missed_by_all(conn, spans) as rows:
        run.read(rows, names)
    return [run.page(one, members) for one in asked]


def _joined(spans: Iterable[Span]) -> list[Span]:
    """The same entries, each once, in order: those that fit a page."""
    joined: list[Span] = []
    for span in sorted(spans):
        last = joined[-1] if joined else None
        if last is not None and last.room_key == span.room_key and span.after <= last.upto:
            joined[-1] = last._replace(upto=max(last.upto, span.upto))
        elif span.after < span.upto:
            joined.append(span)
    room_left = PAGE
    for at, span in enumerate(joined):
        room_left -= span.upto - span.after
        if room_left < 0:
            return joined[:at]
    return joined


class _Run:
    """Entries by room and seq, encoded for everybody alike."""

    def __init__(self, codec: EventCodec) -> None:
        self._codec = codec
        self._messages: list[bytes] = []
        self._places: dict[tuple[int, int], int] = {}
        """(room, seq) -> index of its message"""
        self._otherwise: dict[tuple[int, int], list[int]] = {}
        """(room, user) -> seqs of the entries that are shown otherwise to that user"""
        self._cut: dict[Span, list[Chunk]] = {}

    def read(self, rows: Iterable[Sequence[Any]], names: Mapping[int, RoomName]) -> None:
        """`rows` as of `shared.missed_by_all`."""
        found, _ = chunks(
            self._codec, names, self._noting(rows), shared.NOBODY, chunk_bytes=WRITE_BYTES, max_bytes=PAGE_BYTES
        )
        for one in found:
            self._messages += one.messages

    def _noting(self, rows: Iterable[Sequence[Any]]) -> Iterator[Sequence[Any]]:
        for *row, user_key in rows:
            room_key, seq = row[0], row[1]
            self._places[room_key, seq] = len(self._places)
            if user_key is not None:
                self._otherwise.setdefault((room_key, user_key), []).append(seq)
            yield row

    def page(self, wanted: PageRequest, members: set[tuple[int, int]]) -> Page | None:
        found: list[Chunk] = []
        for span in wanted.spans:
            key = span.room_key, wanted.user_key
            if span.after == span.upto or key not in members:
                continue
            if any(span.after < seq <= span.upto for seq in self._otherwise.get(key, ())):
                return None
            cut = self._cut.get(span)
            if cut is None:
                cut = self._cut[span] = self._cut_out(span)
            if not cut:
                return None
            found += cut
        return Page(list(wanted.spans), found)

    def _cut_out(self, span: Span) -> list[Chunk]:
        """The entries of a span, in chunks; empty if some are missing here."""
        room_key, after, upto = span
        first, last = self._places.get((room_key, after + 1)), self._places.get((room_key, upto))
        if first is None or last is None or last - first != upto - after - 1 or last >= len(self._messages):
            return []
        cut: list[Chunk] = []
        messages: list[bytes] = []
        size = 0
        for at in range(first, last + 1):
            messages.append(self._messages[at])
            size += len(self._messages[at])
            if size >= WRITE_BYTES or at == last:
                seq = after + 1 + at - first
                cut.append(chunk(self._codec, room_key, seq - len(messages) + 1, seq, size, messages))
                messages, size = [], 0
        return cut


# -- encoding --------------------------------------------------------------------------------------------------------

_SAMPLE_ROOM = RoomName(0, "<room_id>", "<topic_name>", False)
_SAMPLE = EntryRow(0, 271828182, "message", "<id>", 0, "<sender>", None, "<content>", None, None, 0, 0, None, False)
_VARYING = ("id", "room_id", "topic_name", "seq", "sender", "content", "created_at")
"""What differs between plain messages, in the order in which it goes over the wire."""
_HOUR_MS = 3_600_000
_SECONDS = [b"%02d:%02d." % divmod(second, 60) for second in range(3600)]
"""Of an hour, as they stand in a `timestamp`."""
_MILLIS = [b"%03d" % ms for ms in range(1000)]


def _between(codec: EventCodec) -> Sequence[bytes]:
    """What a codec writes of every plain message before, between and after what varies."""
    sample = message(_SAMPLE_ROOM, _SAMPLE, to_sender=False)
    pieces, rest = [], codec.encode("message", sample)
    for name in _VARYING:
        piece, found, rest = rest.partition(codec.value(sample[name]))
        if not found:
            raise AssertionError(f"{name} is not where it was expected in a message")
        pieces.append(piece)
    return (*pieces, rest)


def _mould(
    codec: EventCodec, between: Sequence[bytes], room: RoomName, sender: str
) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """A plain message of a room and a sender, without its id, seq, content and time."""
    first, to_room, to_topic, to_seq, to_sender, to_content, to_time, last = between
    value = codec.value
    of_room = b"".join((to_room, value(room.room_id), to_topic, value(room.topic_name), to_seq))
    return first, of_room, b"".join((to_sender, value(sender), to_content)), to_time, last


def chunks(
    codec: EventCodec,
    names: Mapping[int, RoomName],
    rows: Iterable[Sequence[Any]],
    user_key: int,
    *,
    chunk_bytes: int,
    max_bytes: int,
) -> tuple[list[Chunk], bool]:
    """The events of entries, as one user gets them, encoded and cut into chunks of about so many bytes.

    `rows` are the fields of `MissedRow`s, by room and seq; `names` are their rooms'. They are read until there are
    `max_bytes`; returns whether that was before their end.

    Plain messages are put together from pieces of what `message` gives; everything else is encoded as everywhere.
    One loop, without a call for each plain one that is not C's.
    """
    made: list[Chunk] = []
    total = size = first = last = 0
    room_key = -1
    messages: list[bytes] = []
    moulds: dict[str, tuple[bytes, bytes, bytes, bytes, bytes]] = {}
    hour, date, zone = -1, b"", b""
    value, seconds, millis = codec.value, _SECONDS, _MILLIS
    between = _between(codec) if codec.plain else None
    limit = min(chunk_bytes, max_bytes)
    for row in rows:
        key, seq, message_id, sender, content, created_at, rest = row
        if key != room_key or size >= limit:
            if messages:
                made.append(chunk(codec, room_key, first, last, size, messages))
                total += size
                if total >= max_bytes:
                    return made, True
                limit = min(chunk_bytes, max_bytes - total)
            if key != room_key:
                room_key, moulds = key, {}
            messages, size, first = [], 0, seq
        if rest is None and between is not None:
            mould = moulds.get(sender)
            if mould is None:
                mould = moulds[sender] = _mould(codec, between, names[key], sender)
            told_hour, ms = divmod(created_at, _HOUR_MS)
            if told_hour != hour:
                hour = told_hour
                date, _, zone = value(timestamp(hour * _HOUR_MS)).rpartition(_SECONDS[0] + _MILLIS[0])
            s, ms = divmod(ms, 1000)
            a, b, c, d, e = mould
            encoded = b"".join(
                (a, value(message_id), b, value(seq), c, value(content), d, date, seconds[s], millis[ms], zone, e)
            )
        else:
            entry = entry_of(MissedRow._make(row))
            encoded = codec.encode(*event(names[key], entry, to_sender=said_by(entry).sender_key == user_key))
        messages.append(encoded)
        size += len(encoded)
        last = seq
    if messages:
        made.append(chunk(codec, room_key, first, last, size, messages))
    return made, False
