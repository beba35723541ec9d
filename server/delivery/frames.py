"""From an entry of a log to what is written on connections.

An event is encoded once per codec and shared by every connection that speaks it; the events of one journal batch
travel as one `Batch`, so that a transport can write them at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import orjson

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

    def encode(self, event: str, payload: Any) -> tuple[Any, int]:
        """The event as this codec's packet, and its size on the wire in bytes."""

    def frames(self, packets: Any) -> bytes:
        """Such packets as consecutive WebSocket frames, in one buffer."""


class Batch:
    """Events in order, for one or many connections; packets are made once per codec."""

    __slots__ = ("_frames", "_packets", "events", "transient")

    def __init__(self, events: list[tuple[str, Any]], *, transient: bool = False) -> None:
        self.events = events
        self.transient = transient
        self._packets: dict[Codec, tuple[list[Any], int]] = {}
        self._frames: dict[Codec, bytes] = {}

    def packets(self, codec: Codec) -> tuple[list[Any], int]:
        """The packets, and their size together in bytes."""
        made = self._packets.get(codec)
        if made is None:
            encoded = [codec.encode(event, payload) for event, payload in self.events]
            made = self._packets[codec] = (
                [packet for packet, _ in encoded],
                sum(size for _, size in encoded),
            )
        return made

    def frames(self, codec: Codec) -> bytes:
        """The packets as WebSocket frames in one buffer, for every connection the same."""
        made = self._frames.get(codec)
        if made is None:
            made = self._frames[codec] = codec.frames(self.packets(codec)[0])
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
        "deleted": entry.deleted,
        "client_id": entry.client_id if to_sender else None,
        "reply_to": entry.reply_to,
        "reactions": {},
        "mentions": [],
    }


def event(room: RoomName, entry: EntryRow, *, to_sender: bool = False) -> tuple[str, dict[str, Any]]:
    """The event that tells of an entry."""
    if entry.kind == "message":
        return "message", message(room, entry, to_sender=to_sender)
    return "member", {"room_id": room.room_id, "seq": entry.seq, **orjson.loads(entry.body or "{}")}


def events(room: RoomName, entries: Iterable[EntryRow], user_key: int) -> list[tuple[str, Any]]:
    """The events of some entries as one user gets them."""
    return [event(room, entry, to_sender=entry.sender_key == user_key) for entry in entries]
