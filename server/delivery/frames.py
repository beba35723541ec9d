"""From an entry of a log to what is written on connections.

An event is encoded once per codec and shared by every connection that speaks it; the events of one journal batch
travel as one `Batch`, so that a transport can write them at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import orjson

from db.queries.log import MissedRow, entry_of
from db.queries.rows import EntryRow, RoomRow
from server.contract.models import timestamp


class RoomName(NamedTuple):
    """What of a room goes on the wire with each of its entries; never changes."""

    key: int
    room_id: str
    topic_name: str | None
    is_private: bool


def room_name(room: RoomRow) -> RoomName:
    return RoomName(room.key, room.room_id, room.topic_name, room.is_private)


class Codec(Protocol):
    """How a kind of connection writes an event. One instance per kind: it is the key of the shared encodings."""

    plain: bool
    """Whether an event's payload goes over the wire as it is; otherwise `encode` may also give nothing."""

    def encode(self, event: str, payload: Any) -> bytes:
        """The event as one message of this codec."""

    def value(self, value: Any) -> bytes:
        """A value as it stands in a payload: the encoding of a whole is made of those of its parts."""

    def packet(self, message: bytes) -> Any:
        """Such a message as a gateway queues it."""

    def frame(self, message: bytes) -> bytes:
        """Such a message as a WebSocket frame."""

    def frames(self, messages: Iterable[bytes]) -> bytes:
        """Such messages as WebSocket frames in one buffer."""


class Batch:
    """Events in order, for one or many connections; each is encoded once per codec."""

    __slots__ = ("_common", "_frames", "_messages", "_own", "events", "transient")

    def __init__(
        self,
        events: Sequence[tuple[str, Any]],
        *,
        transient: bool = False,
        common: Batch | None = None,
        own: Mapping[int, tuple[str, Any]] | None = None,
    ) -> None:
        """`common` and `own`: as that batch, but for the events at some places."""
        self.events = events
        self.transient = transient
        self._common = common
        self._own = own or {}
        self._messages: dict[Codec, list[bytes]] = {}
        self._frames: dict[Codec, bytes] = {}

    @classmethod
    def encoded(cls, codec: Codec, messages: list[bytes]) -> Batch:
        """Events that are encoded already, for connections that speak this codec."""
        batch = cls(())
        batch._messages[codec] = messages
        return batch

    def but(self, own: Mapping[int, tuple[str, Any]]) -> Batch:
        """This batch with other events at some places; what is the same is not encoded again."""
        return Batch(self.events, common=self, own=own)

    def messages(self, codec: Codec) -> list[bytes]:
        """The events as messages of a codec."""
        made = self._messages.get(codec)
        if made is None:
            if self._common is None:
                made = [codec.encode(event, payload) for event, payload in self.events]
            else:
                made = list(self._common.messages(codec))
                for at, (event, payload) in self._own.items():
                    made[at] = codec.encode(event, payload)
            self._messages[codec] = made
        return made

    def packets(self, codec: Codec) -> tuple[list[Any], int]:
        """The messages as a gateway queues them, and their size together in bytes."""
        messages = self.messages(codec)
        return [codec.packet(message) for message in messages if message], sum(map(len, messages))

    def frames(self, codec: Codec) -> bytes:
        """The messages as WebSocket frames in one buffer, for every connection the same."""
        made = self._frames.get(codec)
        if made is None:
            made = self._frames[codec] = codec.frames(self.messages(codec))
        return made


def message(room: RoomName, entry: EntryRow, *, to_sender: bool) -> dict[str, Any]:
    """A `Message`, as `server.contract.models.Message` describes it."""
    return {
        "id": entry.message_id,
        "room_id": room.room_id,
        "topic_name": room.topic_name,
        "seq": entry.seq,
        "sender": entry.sender,
        "content": "" if entry.deleted else entry.content,
        "created_at": timestamp(entry.created_at),
        "edited_at": None if entry.edited_at is None else timestamp(entry.edited_at),
        "deleted": bool(entry.deleted),
        "client_id": entry.client_id if to_sender else None,
        "reply_to": entry.reply_to,
        "reactions": orjson.loads(entry.reactions) if entry.reactions else {},
        "mentions": orjson.loads(entry.body) if entry.body else [],
    }


def _gone(room: RoomName, entry: EntryRow) -> dict[str, Any]:
    """What can be said of a message that retention has taken before the change of it that `entry` is."""
    body = orjson.loads(entry.body or "{}")
    return {
        "id": body["id"],
        "room_id": room.room_id,
        "topic_name": room.topic_name,
        "seq": entry.target_seq,
        "sender": body["sender"],
        "content": "",
        "created_at": timestamp(body["created_at"]),
        "edited_at": None,
        "deleted": True,
        "client_id": None,
        "reply_to": None,
        "reactions": {},
        "mentions": [],
    }


def said_by(entry: EntryRow) -> EntryRow:
    """The message that an entry is, or that it changes; an entry without one is its own."""
    return entry if entry.target is None else entry.target


_CHANGES = {"edit": "message_edited", "delete": "message_deleted", "reaction": "reaction"}


def event(room: RoomName, entry: EntryRow, *, to_sender: bool = False) -> tuple[str, dict[str, Any]]:
    """The event that tells of an entry. `to_sender`: to who sent the message that it is about."""
    if entry.kind == "message":
        return "message", message(room, entry, to_sender=to_sender)
    change = _CHANGES.get(entry.kind)
    if change is not None:
        now = _gone(room, entry) if entry.target is None else message(room, entry.target, to_sender=to_sender)
        return change, {"room_id": room.room_id, "seq": entry.seq, "message": now}
    if entry.kind == "title":
        changed = {"room_id": room.room_id, "seq": entry.seq, "username": entry.sender}
        return "room_changed", {**changed, **orjson.loads(entry.body or "{}")}
    return "member", {"room_id": room.room_id, "seq": entry.seq, **orjson.loads(entry.body or "{}")}


def events(room: RoomName, entries: Iterable[EntryRow], user_key: int) -> list[tuple[str, Any]]:
    """The events of some entries as one user gets them."""
    return [event(room, entry, to_sender=said_by(entry).sender_key == user_key) for entry in entries]


# -- many entries for one connection ---------------------------------------------------------------------------------

_SAMPLE_ROOM = RoomName(0, "<room_id>", "<topic_name>", False)
_SAMPLE = EntryRow(0, 271828182, "message", "<id>", 0, "<sender>", None, "<content>", None, None, 0, 0, None, False)
_VARYING = ("id", "room_id", "topic_name", "seq", "sender", "content", "created_at")
"""What differs between plain messages, in the order in which it goes over the wire."""
_HOUR_MS = 3_600_000
_SECONDS = [b"%02d:%02d." % divmod(second, 60) for second in range(3600)]
"""Of an hour, as they stand in a `timestamp`."""
_MILLIS = [b"%03d" % ms for ms in range(1000)]


def _between(codec: Codec) -> Sequence[bytes]:
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
    codec: Codec, between: Sequence[bytes], room: RoomName, sender: str
) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """A plain message of a room and a sender, without its id, seq, content and time."""
    first, to_room, to_topic, to_seq, to_sender, to_content, to_time, last = between
    value = codec.value
    of_room = b"".join((to_room, value(room.room_id), to_topic, value(room.topic_name), to_seq))
    return first, of_room, b"".join((to_sender, value(sender), to_content)), to_time, last


class Chunk(NamedTuple):
    """Consecutive entries of a room, encoded."""

    room_key: int
    first: int
    last: int
    """seq of the last one"""
    size: int
    """bytes"""
    messages: list[bytes]


def chunks(
    codec: Codec,
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
                made.append(Chunk(room_key, first, last, size, messages))
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
        made.append(Chunk(room_key, first, last, size, messages))
    return made, False
