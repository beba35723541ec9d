"""The laws that everything received from a server must obey, however often the server was killed.

Pure functions from a `History` to its violations. The laws are the guarantees to a client; none mentions crashes,
because a crash must not be visible.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Law(StrEnum):
    """The law that a violation breaks."""

    LOST = "an acknowledged message is in the log"
    MOVED = "a message is where its acknowledgement says"
    TWICE = "a client_id takes effect once"
    INVENTED = "the log holds only messages that were sent"
    NUMBERED = "the seqs of a room are 1..N"
    ORDERED = "the messages of one sender to a room are in the log in that order"
    ANSWERED = "acknowledgements come in the order of the log"
    GAP = "a stream has no gap"
    REPEAT = "a stream has no repeat"
    DIFFERENT = "a stream has the entries of the log"
    FOREIGN = "only members receive entries of a room"
    KNOWN = "the server knows every cursor that it confirmed"
    UNDONE = "an acknowledged change has taken effect"
    HALF = "a change takes effect completely and once, or not at all"
    RESTORED = "deleted content is never sent again"
    CONVERGED = "in the end a device holds the current messages"


class Send(NamedTuple):
    """A message or an event was sent for the first time. Its `client_id` is its content, too."""

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


class Change(NamedTuple):
    """A requested change that was not refused."""

    user: str
    kind: str
    """edit, delete or reaction for a message; or member."""
    about: str
    """The id of the message, or the room."""
    value: str = ""
    """The new content, which is unique; the emoji; or the membership change, as in `Entry.about`."""
    acked: int | None = None
    """The time of the acknowledgement, if there was one."""


class Reception(NamedTuple):
    """An entry arrived on a connection."""

    room: str
    seq: int
    message_id: str | None
    """Only for a message or an event."""
    kind: str = "message"
    about: str | None = None
    """The id of the changed message; or the membership change, as `change:username`."""
    content: str | None = None
    """The message's content in this event; the data of an application's event."""
    reactions: tuple[tuple[str, str], ...] = ()
    """(emoji, username)"""


class Entry(NamedTuple):
    """A position of a room's log at the end."""

    room: str
    seq: int
    message_id: str | None
    sender: str
    client_id: str | None
    kind: str = "message"
    about: str | None = None
    """As `Reception.about`."""
    content: str | None = None
    """The content of a message, empty if it was deleted; the data of an application's event."""
    reactions: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Connection:
    """One connection of a device, with all entries received on it, in order."""

    user: str
    device: str
    brought: Mapping[str, int] | None
    """The client's cursors: it gets every entry exactly once. None: at least once."""
    received: Sequence[Reception]
    reset: Sequence[str] = ()
    """Rooms whose cursor the server did not know."""
    at_end: bool = False
    """It became ready after the last message was sent, so the device has everything."""
    opened: int = 0
    """The time of its start, on the clock of `Change.acked`."""


@dataclass(frozen=True)
class History:
    members: Mapping[str, frozenset[str]]
    """room -> all its members ever. The log has later changes; the others were members from the beginning."""
    heads: Mapping[str, int]
    """room -> its `last_seq` at the end."""
    sends: Sequence[Send]
    acks: Sequence[Ack]
    connections: Sequence[Connection]
    log: Sequence[Entry]
    """As read at the end; the entries of each room in the order of the answer."""
    changes: Sequence[Change] = ()
    """In the order of each user's requests."""


class Violation(NamedTuple):
    law: Law
    description: str


def check(history: History) -> list[Violation]:
    """Every violation of a law."""
    return [
        *_log(history),
        *_acknowledgements(history),
        *_streams(history),
        *_changes(history),
        *_contents(history),
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
                yield Violation(Law.ORDERED, f"{place} precedes an earlier message of {send.sender}")
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
        if ack.client_id not in answered:  # a repeated send is answered with the first result
            answered.add(ack.client_id)
            at = (ack.sender, ack.room)
            if ack.seq < last.get(at, 0):
                yield Violation(Law.ANSWERED, f"{ack} after seq {last[at]}")
            last[at] = ack.seq


def _streams(history: History) -> Iterator[Violation]:
    log = {(entry.room, entry.seq): entry for entry in history.log}
    spans = _memberships(history)
    rooms_of: dict[str, list[str]] = defaultdict(list)
    for room, members in history.members.items():
        for user in members:
            rooms_of[user].append(room)
    reached: dict[tuple[str, str, str], int] = {}
    """(user, device, room) -> seq up to which the device has the room."""
    for connection in history.connections:
        user, brought = connection.user, connection.brought
        name = f"{user}/{connection.device}"
        for room in connection.reset:
            yield Violation(Law.KNOWN, f"{name} got a reset of room {room}")
        streams: dict[str, list[Reception]] = defaultdict(list)
        for reception in connection.received:
            streams[reception.room].append(reception)
        for room, stream in streams.items():
            if user not in history.members.get(room, ()):
                yield Violation(Law.FOREIGN, f"{name} got {stream[0]}")
                continue
            at = (user, connection.device, room)
            before = reached.get(at, spans[room, user][0][0])
            if brought is not None:
                before = brought.get(room, before)
            elif stream[0].seq <= before:
                before = stream[0].seq - 1  # without cursors the replay may begin earlier
            for reception in stream:
                begin = _member_since(spans[room, user], reception.seq)
                if begin is None and not (brought and room in brought):
                    yield Violation(Law.FOREIGN, f"{name} got {reception} while out of the room")
                elif begin is not None and before < begin and not (brought and room in brought):
                    before = begin
                if reception.seq > before + 1:
                    yield Violation(Law.GAP, f"{name} got {reception} after seq {before}")
                elif reception.seq <= before:
                    yield Violation(Law.REPEAT, f"{name} got {reception} after seq {before}")
                before = reception.seq
                entry = log.get((room, reception.seq))
                if entry is None or _identity(entry) != _identity(reception):
                    yield Violation(Law.DIFFERENT, f"{name} got {reception}, the log has {entry}")
            reached[at] = max(before, reached.get(at, 0))
        for room in rooms_of[user] if connection.at_end else ():
            begin, until = spans[room, user][-1]
            if until != math.inf:
                continue
            end = max(begin, reached.get((user, connection.device, room), begin))
            if brought is not None and room not in streams:
                end = brought.get(room, end)
            if end != history.heads.get(room, 0):
                yield Violation(Law.GAP, f"{name} ends at {end} of {history.heads.get(room)} in room {room}")


def _identity(item: Entry | Reception) -> tuple[str, str | None, str | None]:
    return item.kind, item.message_id, item.about


def _memberships(history: History) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """(room, user) -> the spans of seqs in which they were a member."""
    memberships: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for entry in history.log:
        if entry.kind != "member" or entry.about is None:
            continue
        change, _, username = entry.about.partition(":")
        spans = memberships.setdefault((entry.room, username), [])
        if change == "joined":
            spans.append((entry.seq, math.inf))
        elif change != "role":
            begin = spans.pop()[0] if spans else 0
            spans.append((begin, entry.seq))
    for room, members in history.members.items():
        for user in members:
            memberships.setdefault((room, user), [(0, math.inf)])
    return memberships


def _member_since(spans: Sequence[tuple[int, float]], seq: int) -> int | None:
    return next((begin for begin, until in spans if begin < seq < until), None)


def _changes(history: History) -> Iterator[Violation]:
    """Compare the requested changes with the log and with the final messages."""
    logged = Counter((entry.kind, entry.about) for entry in history.log if entry.kind != "member")
    moves = Counter((entry.room, entry.about) for entry in history.log if entry.kind == "member")
    requested: dict[tuple[str, str], list[Change]] = defaultdict(list)
    passages: dict[tuple[str, str], list[Change]] = defaultdict(list)
    for change in history.changes:
        if change.kind == "member":
            passages[change.about, change.value].append(change)
        else:
            requested[change.kind, change.about].append(change)
    for at, changes in passages.items():
        least = sum(change.acked is not None for change in changes)
        if moves[at] < least:
            yield Violation(Law.UNDONE, f"{at}: {least} were acknowledged, the log has {moves[at]}")
        elif moves[at] > len(changes):
            yield Violation(Law.HALF, f"{at}: {len(changes)} were requested, the log has {moves[at]}")
    messages = {entry.message_id for entry in history.log if entry.kind == "message"}
    for (_, about), changes in requested.items():
        if about not in messages:
            yield Violation(Law.UNDONE, f"{changes[0]}: there is no such message")
    for entry in history.log:
        if entry.kind == "message" and entry.message_id is not None:
            edits, deletions, reactions = (
                requested[kind, entry.message_id] for kind in ("edit", "delete", "reaction")
            )
            counts = [logged[kind, entry.message_id] for kind in ("edit", "delete", "reaction")]
            yield from _message(entry, edits, deletions, reactions, counts)


def _message(
    entry: Entry,
    edits: Sequence[Change],
    deletions: Sequence[Change],
    reactions: Sequence[Change],
    counts: Sequence[int],
) -> Iterator[Violation]:
    """Check a message against its requested changes and the `counts` of its edits, deletions and reactions."""
    acknowledged = [n for n, change in enumerate(edits) if change.acked is not None]
    allowed = {change.value for change in edits[acknowledged[-1] if acknowledged else 0 :]} | (
        set() if acknowledged else {entry.client_id}
    )
    is_deleted = entry.content == ""
    if not is_deleted:
        if any(change.acked is not None for change in deletions):
            yield Violation(Law.UNDONE, f"{entry} was deleted")
        if entry.content not in allowed:
            yield Violation(Law.UNDONE, f"{entry} should have one of the contents {sorted(map(str, allowed))[:5]}")
        if (entry.content != entry.client_id) is not bool(counts[0]):
            yield Violation(Law.HALF, f"{entry} was edited {counts[0]} times according to the log")
    if not len(acknowledged) <= counts[0] <= len(edits):
        yield Violation(Law.HALF, f"{entry}: {counts[0]} edits, expected {len(acknowledged)} to {len(edits)}")
    if counts[1] != is_deleted or (is_deleted and not deletions):
        yield Violation(Law.HALF, f"{entry} was deleted {counts[1]} times according to the log")
    present = Counter(entry.reactions)
    changes = {(change.value, change.user) for change in reactions}
    if present and (max(present.values()) > 1 or not present.keys() <= changes):
        yield Violation(Law.HALF, f"{entry} has reactions that were not requested, or repeated")
    for change in reactions:
        if change.acked is not None and not is_deleted and (change.value, change.user) not in present:
            yield Violation(Law.UNDONE, f"{change} is not in {entry}")
    if counts[2] != len(present) if not is_deleted else counts[2] > len(changes):
        yield Violation(Law.HALF, f"{entry} has {counts[2]} reactions according to the log")


def _contents(history: History) -> Iterator[Violation]:
    """Check the contents of messages and events that the devices received, on each event and at the end."""
    current = {entry.message_id: entry for entry in history.log if entry.message_id is not None}
    deleted_at = {entry.about: entry.seq for entry in history.log if entry.kind == "delete"}
    known_since = {
        change.about: change.acked
        for change in history.changes
        if change.kind == "delete" and change.acked is not None
    }
    temporary = {(e.room, e.about.partition(":")[2]) for e in history.log if e.kind == "member" and e.about}
    held: dict[tuple[str, str], dict[str, Reception]] = defaultdict(dict)
    for connection in history.connections:
        device = (connection.user, connection.device)
        for reception in connection.received:
            about = reception.message_id or reception.about
            if about is None or reception.kind == "member":
                continue
            held[device][about] = reception
            since = known_since.get(about, math.inf)
            if reception.content and (connection.opened > since or reception.seq > deleted_at.get(about, math.inf)):
                yield Violation(Law.RESTORED, f"{device} got {reception}")
        if connection.at_end:
            for about, reception in held[device].items():
                entry = current.get(about)
                if entry is None or (reception.room, connection.user) in temporary:
                    continue  # a member who left misses later changes
                if (entry.content, entry.reactions) != (reception.content, reception.reactions):
                    yield Violation(Law.CONVERGED, f"{device} holds {reception}, the log has {entry}")


def _summary(seqs: Sequence[int]) -> str:
    wrong = next((n for n, seq in enumerate(seqs) if seq != n + 1), len(seqs))
    return f"{len(seqs)} entries, right up to {wrong}, then {list(seqs[wrong : wrong + 5])}"
