"""From an entry of a log to what is written on connections.

An event is encoded once per codec and shared by every connection that speaks it; the events of one journal batch
travel as one `Batch`, so that a transport can write them at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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

    def encode(self, event: str, payload: Any) -> bytes:
        """The event as one message of this codec."""

    def packet(self, message: bytes) -> Any:
        """Such a message as a gateway queues it."""

    def frame(self, message: bytes) -> bytes:
        """Such a message as a WebSocket frame."""


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
        return [codec.packet(message) for message in messages], sum(map(len, messages))

    def frames(self, codec: Codec) -> bytes:
        """The messages as WebSocket frames in one buffer, for every connection the same."""
        made = self._frames.get(codec)
        if made is None:
            made = self._frames[codec] = b"".join(map(codec.frame, self.messages(codec)))
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
