"""What must hold of everything that was seen of a server, whatever happened to it meanwhile.

Pure functions: a `History` in, the violations out. The laws are the guarantees as a client sees them; none of them
knows of crashes, because a crash must not show.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Law(StrEnum):
    """What a violation breaks."""

    LOST = "an acknowledged message is in the log"
    MOVED = "a message is where its acknowledgement says"
    TWICE = "a client_id takes effect once"
    INVENTED = "the log holds what was sent, and nothing else"
    NUMBERED = "the seqs of a room are 1..N"
    ORDERED = "what one sender sent to a room is in the log in that order"
    ANSWERED = "acknowledgements come in the order of the log"
    GAP = "a stream has no gap"
    REPEAT = "a stream has no repeat"
    UNLIKE = "a stream holds what the log holds"
    FOREIGN = "nothing of a room reaches who is not in it"
    KNOWN = "a cursor that was earned is known"


class Send(NamedTuple):
    """A message was sent for the first time. Its `client_id` is its content, too."""

    sender: str
    room: str
    client_id: str


class Ack(NamedTuple):
    """An acknowledgement arrived; every retry may bring one."""

    sender: str
    client_id: str
    room: str
    seq: int
    message_id: str


class Reception(NamedTuple):
    """An entry arrived on a connection."""

    room: str
    seq: int
    message_id: str | None
    """None: an entry that is no message."""


class Entry(NamedTuple):
    """A position of a room's log as it is at the end."""

    room: str
    seq: int
    message_id: str | None
    sender: str
    client_id: str | None
    joined: str | None = None
    """Who became a member by this entry: their stream begins after it."""


@dataclass(frozen=True)
class Connection:
    """One connection of a device, with all the entries that came over it, in order."""

    user: str
    device: str
    brought: Mapping[str, int] | None
    """The cursors that the client gave: then it gets every entry exactly once. None: at least once."""
    received: Sequence[Reception]
    reset: Sequence[str] = ()
    """Rooms whose cursor the server said it does not know."""
    at_end: bool = False
    """It was caught up when nothing was sent any more: with it the device has everything."""


@dataclass(frozen=True)
class History:
    members: Mapping[str, frozenset[str]]
    """room -> who was in it, from before its first message on."""
    heads: Mapping[str, int]
    """room -> its `last_seq` at the end."""
    sends: Sequence[Send]
    acks: Sequence[Ack]
    connections: Sequence[Connection]
    log: Sequence[Entry]
    """As it was read at the end: each room in the order in which it was given."""


class Violation(NamedTuple):
    law: Law
    what: str


def check(history: History) -> list[Violation]:
    """Every violation of a law; none if all is well."""
    return [
        *_log(history),
        *_acknowledgements(history),
        *_streams(history),
    ]


def _log(history: History) -> Iterator[Violation]:
    seqs: dict[str, list[int]] = defaultdict(list)
    for entry in history.log:
        seqs[entry.room].append(entry.seq)
    for room in history.members:
        if seqs[room] != list(range(1, history.heads.get(room, 0) + 1)):
            yield Violation(Law.NUMBERED, f"room {room}, head {history.heads.get(room)}: {_summary(seqs[room])}")
    sends = {send.client_id: send for send in history.sends}
    places: dict[str, Entry] = {}
    for entry in history.log:
        if entry.client_id is None:
            continue
        send = sends.get(entry.client_id)
        if send is None or send.sender != entry.sender:
            yield Violation(Law.INVENTED, f"{entry} was never sent by {entry.sender}")
            continue
        if send.room != entry.room:
            yield Violation(Law.FOREIGN, f"{send} ended up as {entry}")
        first = places.setdefault(entry.client_id, entry)
        if first is not entry:
            yield Violation(Law.TWICE, f"{first} and {entry}")
    last: dict[tuple[str, str], int] = {}
    for send in history.sends:
        if (place := places.get(send.client_id)) is not None:
            at = (send.sender, place.room)
            if place.seq < last.get(at, 0):
                yield Violation(Law.ORDERED, f"{place} is before what {send.sender} had sent earlier")
            last[at] = place.seq


def _acknowledgements(history: History) -> Iterator[Violation]:
    places = {entry.client_id: entry for entry in reversed(history.log) if entry.client_id is not None}
    answered: set[str] = set()
    last: dict[tuple[str, str], int] = {}
    for ack in history.acks:
        place = places.get(ack.client_id)
        if place is None:
            yield Violation(Law.LOST, f"{ack}")
        elif (place.room, place.seq, place.message_id, place.sender) != (
            ack.room,
            ack.seq,
            ack.message_id,
            ack.sender,
        ):
            yield Violation(Law.MOVED, f"{ack}, but {place}")
        if ack.client_id not in answered:  # a repeated one is answered with the first result, whenever it is asked
            answered.add(ack.client_id)
            at = (ack.sender, ack.room)
            if ack.seq < last.get(at, 0):
                yield Violation(Law.ANSWERED, f"{ack} after seq {last[at]}")
            last[at] = ack.seq


def _streams(history: History) -> Iterator[Violation]:
    log = {(entry.room, entry.seq): entry for entry in history.log}
    begins = {(entry.room, entry.joined): entry.seq for entry in history.log if entry.joined is not None}
    rooms_of: dict[str, list[str]] = defaultdict(list)
    for room, members in history.members.items():
        for user in members:
            rooms_of[user].append(room)
    reached: dict[tuple[str, str, str], int] = {}
    """(user, device, room) -> seq up to which the device has the room."""
    for connection in history.connections:
        user, brought = connection.user, connection.brought
        who = f"{user}/{connection.device}"
        for room in connection.reset:
            yield Violation(Law.KNOWN, f"{who} was told to forget room {room}")
        streams: dict[str, list[Reception]] = defaultdict(list)
        for reception in connection.received:
            streams[reception.room].append(reception)
        for room, stream in streams.items():
            if user not in history.members.get(room, ()):
                yield Violation(Law.FOREIGN, f"{who} got {stream[0]}")
                continue
            at = (user, connection.device, room)
            before = reached.get(at, begins.get((room, user), 0))
            if brought is not None:
                before = brought.get(room, before)
            elif stream[0].seq <= before:
                before = stream[0].seq - 1  # without cursors it may begin further back
            for reception in stream:
                if reception.seq > before + 1:
                    yield Violation(Law.GAP, f"{who} got {reception} after seq {before}")
                elif reception.seq <= before:
                    yield Violation(Law.REPEAT, f"{who} got {reception} after seq {before}")
                before = reception.seq
                entry = log.get((room, reception.seq))
                if entry is None or entry.message_id != reception.message_id:
                    yield Violation(Law.UNLIKE, f"{who} got {reception}, the log has {entry}")
            reached[at] = max(before, reached.get(at, 0))
        for room in rooms_of[user] if connection.at_end else ():
            end = reached.get((user, connection.device, room), begins.get((room, user), 0))
            if brought is not None and room not in streams:
                end = brought.get(room, end)
            if end != history.heads.get(room, 0):
                yield Violation(Law.GAP, f"{who} ends at {end} of {history.heads.get(room)} in room {room}")


def _summary(seqs: Sequence[int]) -> str:
    wrong = next((n for n, seq in enumerate(seqs) if seq != n + 1), len(seqs))
    return f"{len(seqs)} entries, right up to {wrong}, then {list(seqs[wrong : wrong + 5])}"
