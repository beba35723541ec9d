"""The messages between nodes that cross an untrusted service: numbered, authenticated, and read without copying.

A message is for one of `CHANNELS` channels: rooms are spread over the first `SHARDS`, the last one is `CONTROL`.

    header   version (1 byte), instance (16), epoch (8), node (12), channel (1), number (8), MAC (16); little-endian
    body     on a shard: parts of rooms; on `CONTROL`: items

The MAC covers header and body. Its key is derived from the key that signs tokens. So whoever can write into the
service cannot make a message, and cannot change one, move it to another channel or to another database. A node's
numbers on a channel grow by one with each message, so a repeated one is recognized, and a missing one is noticed.

A part of a room is skipped by its length if no connection of the node is in the room:

    room (8), seq of the first entry (8), removals (8), members (4), entries (4), length of the entries (4)
    each entry: length of its kind (1), of its client_id plus one (2; 0: it has none), of its payload (4),
                the message's sender (8); kind, client_id, payload
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable, Collection, Container, Iterator, Sequence
from typing import Final, NamedTuple

import orjson

from tidings.log.notices import Appended
from tidings.log.views import EncodedEntry, JsonPayload, RoomName, event, message_of
from tidings_db.queries.rows import EntryRow

VERSION: Final = 1
SHARDS: Final = 8
CONTROL: Final = SHARDS
CHANNELS: Final = SHARDS + 1
LONGEST: Final = 384 * 1024
"""Bytes of the longest message: one of an application fits, in base64.

A longer part is divided; an entry that is longer by itself is not sent.
"""
MAC_BYTES: Final = 16
HEADER: Final = struct.Struct("<B16sQ12sBQ")
BODY: Final = HEADER.size + MAC_BYTES
"""Where the body begins."""
_PART: Final = struct.Struct("<QQQIII")
_ENTRY: Final = struct.Struct("<BHIQ")
_NODE: Final = slice(25, 37)
"""The node in the header."""

HEARTBEAT: Final = b"H"
"""An item: the number of the node's last message on each channel, this one included."""
FEED_CHANGED: Final = b"L"
"""An item: the node has committed something that is in the feed only."""
NOTICE: Final = b"N"
"""An item: a notice, as `tidings.log.notices.encode` makes it."""
_ITEM: Final = struct.Struct("<cI")
_NUMBERS: Final = struct.Struct(f"<{CHANNELS}Q")


class Refused(Exception):
    """A message that must be ignored; the argument says why, in one word."""


class Header(NamedTuple):
    node: str
    channel: int
    number: int


class Identity(NamedTuple):
    """Database id and signing keys; available once the database is open."""

    instance: str
    """The id of the database."""
    keys: Sequence[bytes]
    """The keys that sign tokens, the current one first."""


class ClusterState(NamedTuple):
    """State of the other nodes that messages are checked against."""

    others: Callable[[], Collection[str]]
    """Returns the ids of those that hold a lease."""
    epoch: Callable[[], int]
    """Returns the epoch of the log."""
    wake: Callable[[], None]
    """Reads the feed now."""


class Sealer:
    """Makes the messages of one node, and checks those of the others."""

    def __init__(self, instance: str, node: str, keys: Sequence[bytes]) -> None:
        """
        Args:
            instance: the id of the database.
            node: the id of this node.
            keys: those that sign tokens. Messages are sealed with the first, and accepted with any.
        """
        self._instance = _fixed(instance, 16)
        self._node = _fixed(node, 12)
        self._keys = [hmac.digest(key, b"tidings: messages between nodes", "sha256") for key in keys]
        self._numbers = [0] * CHANNELS

    @property
    def numbers(self) -> Sequence[int]:
        """The number of the last message on each channel."""
        return self._numbers

    def seal(self, channel: int, epoch: int, body: bytes) -> bytes:
        """The next message on a channel."""
        self._numbers[channel] += 1
        header = HEADER.pack(VERSION, self._instance, epoch, self._node, channel, self._numbers[channel])
        return header + _mac(self._keys[0], header, body) + body

    def is_own(self, message: bytes) -> bool:
        """Whether a message names this node as its sender; anyone may have made it."""
        return message[_NODE] == self._node

    def open(self, channel: int, epoch: int, message: bytes) -> Header:
        """Check everything but the number of a message that has come on a channel. Raises `Refused`."""
        if message[:1] != b"\x01":
            raise Refused("version")
        if len(message) < BODY:
            raise Refused("mac")
        _, instance, its_epoch, node, its_channel, number = HEADER.unpack_from(message)
        header, mac, body = message[: HEADER.size], message[HEADER.size : BODY], memoryview(message)[BODY:]
        if not any(hmac.compare_digest(mac, _mac(key, header, body)) for key in self._keys):
            raise Refused("mac")
        if instance != self._instance or its_channel != channel:
            raise Refused("instance")
        if its_epoch != epoch:
            raise Refused("epoch")
        return Header(node.rstrip(b"\0").decode(), channel, number)


class Received:
    """The messages that the other nodes have sent here: admits each once, and notices missing ones."""

    def __init__(self, nodes: ClusterState) -> None:
        self.gaps = 0
        """How often some were missing."""
        self._nodes = nodes
        self._last: dict[str, list[int]] = {}
        """Node -> the number of the last message on each channel."""

    def __len__(self) -> int:
        """The number of nodes that have sent any."""
        return len(self._last)

    def admit(self, header: Header) -> None:
        """Admit a message that `Sealer.open` has checked. Raises `Refused` unless it is new, and of a live node."""
        live = self._nodes.others()
        if header.node not in live:
            # Perhaps one that has just started: what it has committed is in the feed.
            self._nodes.wake()
            raise Refused("node")
        numbers = self._last.get(header.node)
        if numbers is None:
            for node in [node for node in self._last if node not in live]:
                del self._last[node]
            numbers = self._last[header.node] = [0] * CHANNELS
            numbers[header.channel] = header.number
            self._nodes.wake()
            return
        last = numbers[header.channel]
        if header.number <= last:
            raise Refused("replay")
        if header.number > last + 1 and last:
            self._missed()
        numbers[header.channel] = header.number

    def expect(self, node: str, numbers: Sequence[int]) -> None:
        """A node that has sent messages says the number of its last one on each channel."""
        newest = [max(pair) for pair in zip(self._last[node], numbers, strict=True)]
        if newest != self._last[node]:
            self._last[node] = newest
            self._missed()

    def _missed(self) -> None:
        self.gaps += 1
        self._nodes.wake()


def _fixed(value: str, size: int) -> bytes:
    """A string as so many bytes. A longer one is shortened to a digest of it."""
    data = value.encode()
    return data.ljust(size, b"\0") if len(data) <= size else hashlib.blake2b(data, digest_size=size).digest()


def _mac(key: bytes, header: bytes, body: bytes | memoryview) -> bytes:
    digest = hashlib.blake2b(header, key=key, digest_size=MAC_BYTES)
    digest.update(body)
    return digest.digest()


# -- parts of rooms --------------------------------------------------------------------------------------------------


def shard_of(room_key: int) -> int:
    return room_key % SHARDS


def encode_parts(notice: Appended, name: RoomName) -> tuple[list[bytes], bool]:
    """The entries of a notice as parts that each fit a message; whether all are in them."""
    parts: list[bytes] = []
    encoded: list[bytes] = []
    first, size, complete = notice.entries[0].seq, 0, True
    room_for = LONGEST - BODY - _PART.size
    for entry in notice.entries:
        data = _encode_entry(notice, name, entry)
        if encoded and (size + len(data) > room_for):
            parts.append(_part(notice, first, encoded))
            encoded, first, size = [], entry.seq, 0
        if len(data) > room_for:
            complete, first = False, entry.seq + 1
            continue
        encoded.append(data)
        size += len(data)
    if encoded:
        parts.append(_part(notice, first, encoded))
    return parts, complete


def _part(notice: Appended, first: int, encoded: Sequence[bytes]) -> bytes:
    entries = b"".join(encoded)
    head = _PART.pack(notice.room_key, first, notice.removals, notice.members, len(encoded), len(entries))
    return head + entries


def _encode_entry(notice: Appended, name: RoomName, entry: EntryRow | EncodedEntry) -> bytes:
    payload = orjson.dumps(event(name, entry, view=notice.views.get(entry.seq))[1])
    message = message_of(entry)
    kind = entry.kind.encode()
    client_id = b"" if message.client_id is None else message.client_id.encode()
    has_id = 0 if message.client_id is None else len(client_id) + 1
    return b"".join((_ENTRY.pack(len(kind), has_id, len(payload), message.sender_key), kind, client_id, payload))


def parts_of(message: bytes, rooms: Container[int]) -> Iterator[Appended]:
    """The parts of a message on a shard that are of some rooms; the others are skipped. Raises `struct.error`."""
    unpack, offset, end = _PART.unpack_from, BODY, len(message)
    while offset < end:
        key, first, removals, members, count, length = unpack(message, offset)
        offset += _PART.size
        if key in rooms:
            yield Appended(key, _entries(message, offset, first, count), members, removals)
        offset += length


def _entries(message: bytes, offset: int, seq: int, count: int) -> list[EncodedEntry]:
    entries = []
    for number in range(seq, seq + count):
        kind_length, has_id, length, sender_key = _ENTRY.unpack_from(message, offset)
        offset += _ENTRY.size
        kind = message[offset : offset + kind_length].decode()
        offset += kind_length
        client_id = None
        if has_id:
            client_id = message[offset : offset + has_id - 1].decode()
            offset += has_id - 1
        entries.append(
            EncodedEntry(number, kind, JsonPayload(message[offset : offset + length]), sender_key, client_id)
        )
        offset += length
    return entries


# -- items of the control channel ------------------------------------------------------------------------------------


def control_item(kind: bytes, data: bytes = b"") -> bytes:
    return _ITEM.pack(kind, len(data)) + data


def heartbeat(numbers: Sequence[int]) -> bytes:
    """The item `HEARTBEAT`."""
    return control_item(HEARTBEAT, _NUMBERS.pack(*numbers))


def numbers_of(data: bytes) -> Sequence[int]:
    """The numbers of the item `HEARTBEAT`. Raises `struct.error`."""
    return _NUMBERS.unpack(data)


def items_of(message: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The items of a message on the control channel: kind and data. Raises `struct.error`."""
    offset = BODY
    while offset < len(message):
        kind, length = _ITEM.unpack_from(message, offset)
        offset += _ITEM.size
        yield kind, message[offset : offset + length]
        offset += length
