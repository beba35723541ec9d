"""Pages of missed entries, encoded. Entries that many users missed are read and encoded once.

A page is read in one snapshot, which begins after the request. It contains entries of a room only if the user is a
member in that snapshot, each as that user gets it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy.engine import Connection as Transaction

from tidings.contract.models import timestamp
from tidings.fanout.connection import Batch, EventCodec
from tidings.log.views import RoomName, event, message, message_of
from tidings_db.engine import Database
from tidings_db.queries import log, shared
from tidings_db.queries.log import MissedRow, Span, entry_of
from tidings_db.queries.rows import EntryRow
from tidings_db.read_batcher import ReadBatcher

PAGE = 1000
"""The most entries of one page."""
FIRST_PAGE = 256
"""The most entries of a connection's first page, and of a shared page; later ones are larger."""
PAGE_BYTES = 512 * 1024
"""A page ends with the entry that reaches this many bytes."""
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


def make_chunk(codec: EventCodec, room_key: int, first: int, last: int, size: int, messages: list[bytes]) -> Chunk:
    """A chunk of the encoded entries from the seq `first` to `last`."""
    return Chunk(room_key, first, last, size, messages, Batch.encoded(codec, messages))


class Page(NamedTuple):
    covered: list[Span]
    """The requested spans, as far as they were read."""
    chunks: list[Chunk]

    @property
    def entries(self) -> int:
        return sum(len(chunk.messages) for chunk in self.chunks)


class PageRequest(NamedTuple):
    """A request for the entries of some rooms for a user; `names` has at least those rooms."""

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
        self._batcher = ReadBatcher(database, read_pages)

    async def read(self, request: PageRequest) -> Page:
        """Read a page, or the first part of the request that fits. Raises as `Database.read`."""
        if request.entries <= FIRST_PAGE:
            page = await self._batcher.read(request)
            if page is not None:
                return page
        return await self._db.read(lambda conn: read_page(conn, *request))


def read_page(
    conn: Transaction,
    user_key: int,
    spans: Sequence[Span],
    names: Mapping[int, RoomName],
    codec: EventCodec,
    max_bytes: int = PAGE_BYTES,
) -> Page:
    """Read and encode a page of the entries that a user missed. On SQLite both run in the reading thread.

    It ends with the entry that makes it `max_bytes` long or longer.
    """
    with log.missed(conn, user_key, spans) as rows:
        chunks, more = encode_chunks(codec, names, rows, user_key, chunk_bytes=WRITE_BYTES, max_bytes=max_bytes)
    covered = log.read_up_to(spans, chunks[-1].room_key, chunks[-1].last) if more else list(spans)
    return Page(covered, chunks)


def read_pages(conn: Transaction, requests: Sequence[PageRequest]) -> list[Page | None]:
    """Read pages for several users together; None for a page that has to be read by itself.

    That is a page with entries that its user gets in a different form, or beyond the bounds of a shared page.
    """
    pages: list[Page | None] = [None] * len(requests)
    by_codec: dict[EventCodec, list[int]] = {}
    for index, request in enumerate(requests):
        by_codec.setdefault(request.codec, []).append(index)
    if len(by_codec) < len(requests):
        pairs = {(span.room_key, request.user_key) for request in requests for span in request.spans}
        members = shared.memberships(conn, pairs)
    for indexes in by_codec.values():
        group = [requests[index] for index in indexes]
        if len(group) == 1:
            group_pages: list[Page | None] = [read_page(conn, *group[0])]
        else:
            group_pages = _read_shared(conn, group, members)
        for index, page in zip(indexes, group_pages, strict=True):
            pages[index] = page
    return pages


def _read_shared(
    conn: Transaction, requests: Sequence[PageRequest], members: set[tuple[int, int]]
) -> list[Page | None]:
    """Read pages with the same codec; `members`: the (room, user) pairs that are memberships."""
    wanted = ((request.user_key, span) for request in requests for span in request.spans)
    spans = _merge_spans(span for user_key, span in wanted if (span.room_key, user_key) in members)
    names: dict[int, RoomName] = {}
    for request in requests:
        names.update(request.names)
    entries = _SharedEntries(requests[0].codec)
    with shared.missed_by_all(conn, spans) as rows:
        entries.read(rows, names)
    return [entries.page(request, members) for request in requests]


def _merge_spans(spans: Iterable[Span]) -> list[Span]:
    """Merge spans so that each entry is in one, in order; only as many as fit a page."""
    merged: list[Span] = []
    for span in sorted(spans):
        last = merged[-1] if merged else None
        if last is not None and last.room_key == span.room_key and span.after <= last.upto:
            merged[-1] = last._replace(upto=max(last.upto, span.upto))
        elif span.after < span.upto:
            merged.append(span)
    remaining = PAGE
    for index, span in enumerate(merged):
        remaining -= span.upto - span.after
        if remaining < 0:
            return merged[:index]
    return merged


class _SharedEntries:
    """Entries of several rooms, encoded in the form that most users get."""

    def __init__(self, codec: EventCodec) -> None:
        self._codec = codec
        self._messages: list[bytes] = []
        self._indexes: dict[tuple[int, int], int] = {}
        """(room, seq) -> index in `_messages`"""
        self._personal: dict[tuple[int, int], list[int]] = {}
        """(room, user) -> seqs of the entries that the user gets in a different form"""
        self._chunks: dict[Span, list[Chunk]] = {}

    def read(self, rows: Iterable[Sequence[Any]], names: Mapping[int, RoomName]) -> None:
        """`rows` as of `shared.missed_by_all`."""
        chunks, _ = encode_chunks(
            self._codec, names, self._index(rows), shared.NOBODY, chunk_bytes=WRITE_BYTES, max_bytes=PAGE_BYTES
        )
        for chunk in chunks:
            self._messages += chunk.messages

    def _index(self, rows: Iterable[Sequence[Any]]) -> Iterator[Sequence[Any]]:
        """Pass the rows on without their last field, and record where their messages will be."""
        for *row, user_key in rows:
            room_key, seq = row[0], row[1]
            self._indexes[room_key, seq] = len(self._indexes)
            if user_key is not None:
                self._personal.setdefault((room_key, user_key), []).append(seq)
            yield row

    def page(self, request: PageRequest, members: set[tuple[int, int]]) -> Page | None:
        """The page of one request; None if it has to be read by itself."""
        page_chunks: list[Chunk] = []
        for span in request.spans:
            key = span.room_key, request.user_key
            if span.after == span.upto or key not in members:
                continue
            if any(span.after < seq <= span.upto for seq in self._personal.get(key, ())):
                return None
            chunks = self._chunks.get(span)
            if chunks is None:
                chunks = self._chunks[span] = self._chunks_of(span)
            if not chunks:
                return None
            page_chunks += chunks
        return Page(list(request.spans), page_chunks)

    def _chunks_of(self, span: Span) -> list[Chunk]:
        """The entries of a span, in chunks; empty if some were not read."""
        room_key, after, upto = span
        first, last = self._indexes.get((room_key, after + 1)), self._indexes.get((room_key, upto))
        if first is None or last is None or last - first != upto - after - 1 or last >= len(self._messages):
            return []
        chunks: list[Chunk] = []
        messages: list[bytes] = []
        size = 0
        for index in range(first, last + 1):
            messages.append(self._messages[index])
            size += len(self._messages[index])
            if size >= WRITE_BYTES or index == last:
                seq = after + 1 + index - first
                chunks.append(make_chunk(self._codec, room_key, seq - len(messages) + 1, seq, size, messages))
                messages, size = [], 0
        return chunks


# -- encoding --------------------------------------------------------------------------------------------------------

_SAMPLE_ROOM = RoomName(0, "<room_id>", "<topic_name>", False)
_SAMPLE = EntryRow(0, 271828182, "message", "<id>", 0, "<sender>", None, "<content>", None, None, 0, 0, None, False)
_VARYING = ("id", "room_id", "topic_name", "seq", "sender", "content", "created_at")
"""The fields that differ between plain messages, in the order of the wire."""
_HOUR_MS = 3_600_000
_SECONDS = [b"%02d:%02d." % divmod(second, 60) for second in range(3600)]
"""The minutes and seconds of an hour, as in a `timestamp`."""
_MILLIS = [b"%03d" % ms for ms in range(1000)]


def _constant_parts(codec: EventCodec) -> Sequence[bytes]:
    """The constant parts of a plain message in a codec: before, between and after the fields of `_VARYING`."""
    sample = message(_SAMPLE_ROOM, _SAMPLE, to_sender=False)
    parts, rest = [], codec.encode("message", sample)
    for name in _VARYING:
        part, separator, rest = rest.partition(codec.value(sample[name]))
        if not separator:
            raise AssertionError(f"{name} is not where it was expected in a message")
        parts.append(part)
    return (*parts, rest)


def _template(
    codec: EventCodec, constant: Sequence[bytes], room: RoomName, sender: str
) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """The parts of a plain message of a room and a sender between its id, seq, content and time."""
    first, to_room, to_topic, to_seq, to_sender, to_content, to_time, last = constant
    value = codec.value
    of_room = b"".join((to_room, value(room.room_id), to_topic, value(room.topic_name), to_seq))
    return first, of_room, b"".join((to_sender, value(sender), to_content)), to_time, last


def encode_chunks(
    codec: EventCodec,
    names: Mapping[int, RoomName],
    rows: Iterable[Sequence[Any]],
    user_key: int,
    *,
    chunk_bytes: int,
    max_bytes: int,
) -> tuple[list[Chunk], bool]:
    """Encode the events of entries, as one user gets them, into chunks of about `chunk_bytes`.

    `rows` are the fields of `MissedRow`s, sorted by room and seq; `names` has their rooms. Reading ends at
    `max_bytes`; the second result is whether rows were left.

    A plain message is joined from the constant parts of an encoded `message`; other entries are encoded as
    everywhere. For speed, the loop calls no Python function per plain message.
    """
    chunks: list[Chunk] = []
    total = size = first = last = 0
    room_key = -1
    messages: list[bytes] = []
    templates: dict[str, tuple[bytes, bytes, bytes, bytes, bytes]] = {}
    hour, date, zone = -1, b"", b""
    value, seconds, millis = codec.value, _SECONDS, _MILLIS
    constant = _constant_parts(codec) if codec.plain else None
    limit = min(chunk_bytes, max_bytes)
    for row in rows:
        key, seq, message_id, sender, content, created_at, rest = row
        if key != room_key or size >= limit:
            if messages:
                chunks.append(make_chunk(codec, room_key, first, last, size, messages))
                total += size
                if total >= max_bytes:
                    return chunks, True
                limit = min(chunk_bytes, max_bytes - total)
            if key != room_key:
                room_key, templates = key, {}
            messages, size, first = [], 0, seq
        if rest is None and constant is not None:
            template = templates.get(sender)
            if template is None:
                template = templates[sender] = _template(codec, constant, names[key], sender)
            row_hour, ms = divmod(created_at, _HOUR_MS)
            if row_hour != hour:
                hour = row_hour
                date, _, zone = value(timestamp(hour * _HOUR_MS)).rpartition(_SECONDS[0] + _MILLIS[0])
            s, ms = divmod(ms, 1000)
            a, b, c, d, e = template
            encoded = b"".join(
                (a, value(message_id), b, value(seq), c, value(content), d, date, seconds[s], millis[ms], zone, e)
            )
        else:
            entry = entry_of(MissedRow._make(row))
            encoded = codec.encode(*event(names[key], entry, to_sender=message_of(entry).sender_key == user_key))
        messages.append(encoded)
        size += len(encoded)
        last = seq
    if messages:
        chunks.append(make_chunk(codec, room_key, first, last, size, messages))
    return chunks, False
