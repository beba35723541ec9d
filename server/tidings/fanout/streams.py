"""The live text of messages that stream, and how it reaches the connections of this node.

What holds, for every live connection: if it cuts its text to the offset of each piece that it gets, and adds the
piece, it has the text so far. At first, and again after an entry that changes the message, its next piece begins at
0. While it does not read it gets none, and then a longer one.

Text is in memory only; the log has it when its author's node stores it. Pieces of another node may be lost or late:
then the text before them is read from the database.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from tidings.fanout.cluster import Cluster
from tidings.fanout.connection import Batch, Connection
from tidings.log.notices import Piece
from tidings.log.views import EncodedEntry
from tidings.supervision import spawn
from tidings_db.engine import Database, StoreUnavailable
from tidings_db.queries import log, streams
from tidings_db.queries.rows import STREAMING, EntryRow
from tidings_db.read_batcher import ReadBatcher

if TYPE_CHECKING:
    from tidings.fanout.live_room import LiveRoom

JOIN_S = 0.04
"""Pieces of this interval are joined."""
BEHIND_BYTES = 16 * 1024
"""A connection with more than this to read gets no pieces until it has read."""
REREAD_S = 1.0
"""The interval at which missing text is read: an author's node stores as often."""
ENDED_S = 60.0
"""For how long a late piece of an ended stream may come."""


class Stream:
    """The live text of one message."""

    __slots__ = (
        "ahead",
        "authored",
        "content",
        "message_id",
        "positions",
        "room_id",
        "room_key",
        "seq",
        "shared",
        "stored",
    )

    def __init__(self, room_key: int, room_id: str, message_id: str, seq: int, content: str) -> None:
        self.room_key = room_key
        self.room_id = room_id
        self.message_id = message_id
        self.seq = seq
        self.content = content
        self.shared = len(content)
        """How much of it the other nodes were sent."""
        self.stored = len(content)
        """How much of it is durable, as far as this node knows."""
        self.authored = False
        """Whether its author appends to it on this node."""
        self.positions: dict[str, int] = {}
        """Connection id -> the length of the text that it has."""
        self.ahead: tuple[int, str] | None = None
        """An offset beyond the end, and the text from there on: what is between is missing."""

    def put(self, offset: int, text: str) -> None:
        """Cut the text to `offset`, and add `text`."""
        if offset < len(self.content):
            self.shared = min(self.shared, offset)
            self.positions = {key: min(position, offset) for key, position in self.positions.items()}
        self.content = self.content[:offset] + text

    def replace(self, content: str) -> None:
        """The log has another text than this one."""
        self.content, self.ahead, self.shared, self.stored = content, None, 0, len(content)
        self.positions.clear()


class Streams:
    """The live text of the messages that stream in this node's live rooms, or by authors who append here."""

    def __init__(self, database: Database, cluster: Cluster, live_rooms: Mapping[int, LiveRoom]) -> None:
        self._db = database
        self._cluster = cluster
        self._rooms = live_rooms
        self._by_id: dict[str, Stream] = {}
        self._by_room: dict[int, dict[int, Stream]] = {}
        """room -> seq -> stream"""
        self._unsent: dict[Stream, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._ended: dict[str, float] = {}
        """Message id -> when its stream ended here, in the order of time."""
        self._reading: set[asyncio.Task[None]] = set()
        self._open = ReadBatcher(database, _open)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for task in self._reading:
            task.cancel()

    def get(self, message_id: str) -> Stream | None:
        return self._by_id.get(message_id)

    def newest(self, entry: EntryRow) -> str:
        """The text of a message that streams: as it is stored, or longer."""
        stored = entry.content or ""
        stream = self._by_id.get(entry.message_id or "")
        return stream.content if stream is not None and stream.content.startswith(stored) else stored

    def open(self, room_key: int, room_id: str, message_id: str, seq: int, content: str) -> Stream:
        """The stream of a message; a new one begins with `content`."""
        stream = self._by_id.get(message_id)
        if stream is None:
            stream = self._by_id[message_id] = Stream(room_key, room_id, message_id, seq, content)
            self._by_room.setdefault(room_key, {})[seq] = stream
            live_room = self._rooms.get(room_key)
            if live_room is not None:
                live_room.streams = self
        return stream

    def close(self, stream: Stream) -> None:
        """Drop a stream that has ended, and ignore its late pieces."""
        if self._by_id.get(stream.message_id) is not stream:
            return
        self._forget(stream)
        now = time.monotonic()
        self._ended[stream.message_id] = now
        while now - self._ended[oldest := next(iter(self._ended))] > ENDED_S:
            del self._ended[oldest]

    def _forget(self, stream: Stream) -> None:
        del self._by_id[stream.message_id]
        of_room = self._by_room[stream.room_key]
        del of_room[stream.seq]
        if not of_room:
            del self._by_room[stream.room_key]
            live_room = self._rooms.get(stream.room_key)
            if live_room is not None:
                live_room.streams = None
        self._unsent.pop(stream, None)

    def room_opened(self, live_room: LiveRoom) -> None:
        """A room has its first connection here."""
        if live_room.name.key in self._by_room:
            live_room.streams = self

    def room_closed(self, room_key: int) -> None:
        """A room has no connections here any more: keep only the streams whose authors append here."""
        for stream in list(self._by_room.get(room_key, {}).values()):
            if not stream.authored:
                self._forget(stream)

    def changed(self, stream: Stream) -> None:
        """Send the text to whoever does not have it, soon."""
        self._unsent[stream] = None
        self._schedule(JOIN_S)

    def _schedule(self, after_s: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(after_s, self._send)

    # -- from the log --------------------------------------------------------------------------------------------

    def entries_written(self, live_room: LiveRoom, entries: Sequence[EntryRow | EncodedEntry]) -> None:
        """Entries were written to the room's connections: follow those that change a message that streams."""
        of_room = self._by_room.get(live_room.name.key, {})
        for entry in entries:
            if entry.kind not in ("finish", "delete", "edit", "reaction"):
                continue
            seq, content = _message_of(entry)
            stream = of_room.get(seq)
            if stream is None:
                continue
            if entry.kind in ("finish", "delete"):
                self.close(stream)
                continue
            if entry.kind == "edit":
                stream.replace(content)
                stream.shared = len(content)  # the other nodes get the entry, too
            stream.positions.clear()  # the entry may have had less text than they have
            self.changed(stream)

    # -- to connections ------------------------------------------------------------------------------------------

    def _send(self) -> None:
        self._timer = None
        if self._cluster.is_behind():
            self._schedule(JOIN_S)
            return
        waiting, self._unsent = self._unsent, {}
        if self._cluster.is_shared:
            self._share(waiting)
        written: dict[Connection, list[Batch]] = {}
        for stream in waiting:
            live_room = self._rooms.get(stream.room_key)
            if live_room is None:
                continue
            if live_room.head < stream.seq:  # the message itself was not sent yet
                self._unsent[stream] = None
                continue
            self._send_text(stream, live_room.live, written)
        for connection, batches in written.items():
            connection.link.write(batches[0] if len(batches) == 1 else Batch.joined(batches))
        if self._unsent:
            self._schedule(JOIN_S)

    def _share(self, waiting: Mapping[Stream, None]) -> None:
        """Send text that was appended here to the other nodes."""
        pieces = []
        for stream in waiting:
            if stream.shared < len(stream.content):
                text = stream.content[stream.shared :]
                pieces.append(
                    Piece(stream.room_key, stream.room_id, stream.message_id, stream.seq, stream.shared, text)
                )
                stream.shared = len(stream.content)
        self._cluster.share(pieces)

    def _send_text(self, stream: Stream, live: set[Connection], written: dict[Connection, list[Batch]]) -> None:
        positions, end = stream.positions, len(stream.content)
        if len(positions) > 2 * len(live) + 16:  # most of them are of connections that have gone
            here = {connection.id for connection in live}
            positions = stream.positions = {key: value for key, value in positions.items() if key in here}
        batches: dict[int, Batch] = {}
        for connection in live:
            position = positions.get(connection.id, 0)
            if position == end or connection.has_ended():
                continue
            if connection.link.buffered > BEHIND_BYTES:
                self._unsent[stream] = None
                continue
            batch = batches.get(position)
            if batch is None:
                batch = batches[position] = _batch(stream, position)
            written.setdefault(connection, []).append(batch)
            positions[connection.id] = end

    async def show(self, connection: Connection) -> None:
        """Send a connection that has caught up all of the text of each stream in its rooms."""
        known = await self._open.read(None)
        await self._read([stream for stream in known if stream.room_key in connection.rooms])
        for room_key, seq, _ in known:
            stream = self._by_room.get(room_key, {}).get(seq)
            live_room = self._rooms.get(room_key)
            if stream is None or live_room is None or connection not in live_room.live or connection.has_ended():
                continue
            stream.positions[connection.id] = len(stream.content)
            connection.link.write(_batch(stream, 0))

    # -- from other nodes ----------------------------------------------------------------------------------------

    def expect(self, known: Sequence[streams.OpenStream]) -> None:
        """Read the text of these streams if more of it is stored than is known here: pieces were lost."""
        if self._lacks(known):
            self._start(self._read(known))

    def _lacks(self, known: Sequence[streams.OpenStream]) -> list[tuple[int, int]]:
        """(room, seq) of those in live rooms whose stored text is longer than the one here."""
        lacking = []
        for room_key, seq, length in known:
            if room_key in self._rooms:
                stream = self._by_room.get(room_key, {}).get(seq)
                if stream is None or len(stream.content) < length:
                    lacking.append((room_key, seq))
        return lacking

    async def _read(self, known: Sequence[streams.OpenStream]) -> None:
        lacking = self._lacks(known)
        rows = await self._db.read(lambda conn: log.at(conn, lacking)) if lacking else {}
        for row in rows.values():
            live_room = self._rooms.get(row.room_key)
            if live_room is None or row.state not in STREAMING or row.message_id in self._ended:
                continue
            assert row.message_id is not None
            stored = row.content or ""
            stream = self.open(row.room_key, live_room.name.room_id, row.message_id, row.seq, stored)
            if len(stored) > len(stream.content):
                stream.replace(stored)
                stream.shared = len(stored)
            self.changed(stream)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = spawn(work, "the missing text of streams")
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)

    def received(self, piece: Piece) -> None:
        """Text that was appended on another node."""
        if piece.room_key not in self._rooms or piece.message_id in self._ended:
            return
        stream = self.open(piece.room_key, piece.room_id, piece.message_id, piece.seq, "")
        if piece.offset <= len(stream.content):
            stream.put(piece.offset, piece.text)
            stream.shared = len(stream.content)
            self._unsent[stream] = None
            self._schedule(0)
            return
        if stream.ahead is None:
            self._start(self._read_missing(stream))
        offset, text = stream.ahead or (piece.offset, "")
        joins = offset <= piece.offset <= offset + len(text)
        stream.ahead = (offset, text[: piece.offset - offset] + piece.text) if joins else (piece.offset, piece.text)

    async def _read_missing(self, stream: Stream) -> None:
        place = stream.room_key, stream.seq
        while stream.ahead is not None and self._by_id.get(stream.message_id) is stream:
            try:
                entry = (await self._db.read(partial(log.at, places=[place]))).get(place)
            except StoreUnavailable:
                await asyncio.sleep(REREAD_S)
                continue
            if entry is None or entry.state not in STREAMING:
                self.close(stream)
            elif not self._join(stream, entry.content or ""):
                await asyncio.sleep(REREAD_S)

    def _join(self, stream: Stream, stored: str) -> bool:
        """Put the stored text before the text that is ahead; False: some is still missing."""
        if stream.ahead is None:
            return True
        offset, text = stream.ahead
        if len(stored) < offset:
            return False
        stream.ahead = None
        if offset + len(text) > len(stream.content):
            stream.put(0, stored[:offset] + text)
            stream.shared = len(stream.content)
            self.changed(stream)
        return True


def _open(conn: Any, requests: Sequence[None]) -> list[list[streams.OpenStream]]:
    return [streams.streaming(conn)] * len(requests)


def _batch(stream: Stream, position: int) -> Batch:
    payload = {
        "room_id": stream.room_id,
        "message_id": stream.message_id,
        "offset": position,
        "text": stream.content[position:],
    }
    return Batch([("message_append", payload)])


def _message_of(entry: EntryRow | EncodedEntry) -> tuple[int, str]:
    """The seq and the content of the message that an entry changes."""
    if isinstance(entry, EncodedEntry):
        changed = orjson.loads(entry.payload.text)["message"]
        return changed["seq"], changed["content"]
    content = None if entry.target is None else entry.target.content
    return entry.target_seq or 0, content or ""
