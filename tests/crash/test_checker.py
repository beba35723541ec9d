"""The checker of the crash test detects every violation that it should."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import pytest

from tests.crash.change_plants import CHANGE_PLANTS
from tests.crash.checker import Ack, Change, Connection, Entry, History, Law, Reception, Send, check
from tests.crash.load import Recorded
from tests.crash.message_plants import MESSAGE_PLANTS

pytestmark = pytest.mark.long

SEEDS = range(5)
PLANTS = MESSAGE_PLANTS | CHANGE_PLANTS

A, B, C = "room-a", "room-b", "room-c"


def message(room: str, seq: int, message_id: str, sender: str, client_id: str, content: str | None = None) -> Entry:
    return Entry(room, seq, message_id, sender, client_id, content=client_id if content is None else content)


def change(room: str, seq: int, kind: str, about: str) -> Entry:
    return Entry(room, seq, None, "", None, kind, about)


LOG = [
    message(A, 1, "a1", "omar", "o1"),
    message(A, 2, "a2", "diego", "d1"),
    message(A, 3, "a3", "omar", "o2")._replace(kind="event"),
    message(A, 4, "a4", "omar", "o4"),
    message(A, 5, "a5", "diego", "d2"),
    message(A, 6, "a6", "diego", "d3"),
    change(B, 1, "member", "joined:satoshi"),
    message(B, 2, "b2", "omar", "o3"),
    message(B, 3, "b3", "satoshi", "s1")._replace(kind="event"),
    message(B, 4, "b4", "satoshi", "s2"),
    message(B, 5, "b5", "omar", "o5"),
    change(C, 1, "member", "joined:zoe"),
    message(C, 2, "c1", "omar", "o6", "o6 ~1")._replace(reactions=(("👍", "zoe"),)),
    change(C, 3, "edit", "c1"),
    change(C, 4, "reaction", "c1"),
    message(C, 5, "c2", "omar", "o7", ""),
    change(C, 6, "delete", "c2"),
    change(C, 7, "member", "kicked:zoe"),
    message(C, 8, "c3", "omar", "o8"),
    change(C, 9, "member", "joined:zoe"),
    message(C, 10, "c4", "omar", "o9"),
]
CHANGES = [
    Change("omar", "member", C, "joined:zoe", acked=0),
    Change("omar", "edit", "c1", "o6 ~1", acked=1),
    Change("zoe", "reaction", "c1", "👍", acked=2),
    Change("omar", "delete", "c2", acked=3),
    Change("omar", "member", C, "kicked:zoe", acked=4),
    Change("omar", "member", C, "joined:zoe"),  # took effect, but the answer was lost
    Change("omar", "edit", "a1", "o1 ~2"),  # did not take effect
]


def received(room: str, *seqs: int) -> list[Reception]:
    """Entries as a replay sends them: a change has the current message."""
    log = {(entry.room, entry.seq): entry for entry in LOG}
    messages = {entry.message_id: entry for entry in LOG if entry.message_id}
    receptions = []
    for entry in (log[room, seq] for seq in seqs):
        current = messages.get(entry.message_id or entry.about)
        reception = Reception(room, entry.seq, entry.message_id, entry.kind, entry.about)
        if current is not None:
            reception = reception._replace(content=current.content, reactions=current.reactions)
        receptions.append(reception)
    return receptions


def sound() -> History:
    """A history without violations: devices with and without cursors, a guest and a stranger in some rooms."""
    in_order = sorted((entry for entry in LOG if entry.client_id), key=lambda entry: str(entry.client_id)[1:])
    acks = [Ack(e.sender, str(e.client_id), e.room, e.seq, str(e.message_id)) for e in in_order]
    return History(
        members={
            A: frozenset({"omar", "diego", "memoor"}),
            B: frozenset({"omar", "satoshi"}),
            C: frozenset({"omar", "zoe"}),
        },
        heads={A: 6, B: 5, C: 10},
        sends=[Send(e.sender, e.room, str(e.client_id)) for e in in_order],
        acks=[*acks, acks[0]],  # sent twice, and answered twice
        connections=[
            Connection("memoor", "laptop", {}, received(A, 1, 2, 3)),
            Connection("omar", "phone", None, received(A, 1, 2) + received(B, 1, 2, 3) + received(C, 1, 2, 3)),
            Connection("satoshi", "phone", {B: 1}, received(B, 2, 3, 4)),
            Connection("zoe", "phone", None, received(C, 2, 3, 4, 5)),
            Connection("nobody", "phone", None, []),
            Connection("memoor", "laptop", {A: 3}, received(A, 4, 5, 6)),
            Connection(
                "omar", "phone", None, received(B, 3, 4) + received(A, 1, 2, 3, 4) + received(C, 3, 4, 5, 6, 7)
            ),
            Connection("memoor", "laptop", {A: 6}, [], at_end=True),
            Connection(
                "omar", "phone", None, received(A, 5, 6) + received(B, 5) + received(C, 8, 9, 10), at_end=True
            ),
            Connection("satoshi", "phone", {B: 4}, received(B, 5), at_end=True),
            Connection("zoe", "phone", None, received(C, 10), at_end=True),
            Connection("nobody", "phone", None, [], at_end=True),
        ],
        log=LOG,
        changes=CHANGES,
    )


def test_a_sound_history_has_no_violation() -> None:
    assert check(sound()) == []


def test_every_law_has_a_defect_that_breaks_it() -> None:
    assert {law for law, _ in PLANTS.values()} == set(Law)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", PLANTS)
def test_a_defect_in_a_constructed_history_is_detected(name: str, seed: int) -> None:
    _check_detected(name, sound(), [seed])


@pytest.mark.timeout(400)  # the first test waits for the recording
@pytest.mark.parametrize("name", PLANTS)
def test_a_defect_in_a_recorded_history_is_detected(name: str, crashes: Recorded) -> None:
    _check_detected(name, crashes.history, SEEDS)


def _check_detected(name: str, history: History, seeds: Iterable[int]) -> None:
    law, plant = PLANTS[name]
    before = set(check(history))
    for seed in seeds:
        laws: set[Law] = {violation.law for violation in set(check(plant(history, Random(seed)))) - before}
        assert law in laws, seed
