"""The checker of the crash test is only worth what it catches."""

from __future__ import annotations

from random import Random

import pytest

from tests.crash.checker import Ack, Connection, Entry, History, Law, Reception, Send, check
from tests.crash.load import Recorded
from tests.crash.plants import PLANTS

SEEDS = range(5)

A, B = "room-a", "room-b"
LOG = [
    Entry(A, 1, "a1", "omar", "o1"),
    Entry(A, 2, "a2", "diego", "d1"),
    Entry(A, 3, "a3", "omar", "o2"),
    Entry(A, 4, "a4", "omar", "o4"),
    Entry(A, 5, "a5", "diego", "d2"),
    Entry(A, 6, "a6", "diego", "d3"),
    Entry(B, 1, None, "omar", None, joined="satoshi"),
    Entry(B, 2, "b2", "omar", "o3"),
    Entry(B, 3, "b3", "satoshi", "s1"),
    Entry(B, 4, "b4", "satoshi", "s2"),
    Entry(B, 5, "b5", "omar", "o5"),
]


def received(room: str, *seqs: int) -> list[Reception]:
    return [
        Reception(room, seq, entry.message_id)
        for seq in seqs
        for entry in LOG
        if (entry.room, entry.seq) == (room, seq)
    ]


def sound() -> History:
    """Two rooms; a device that brings its cursors, one that does not, and a stranger: nothing is wrong."""
    in_order = sorted((entry for entry in LOG if entry.client_id), key=lambda entry: str(entry.client_id)[1:])
    acks = [Ack(e.sender, str(e.client_id), e.room, e.seq, str(e.message_id)) for e in in_order]
    return History(
        members={A: frozenset({"omar", "diego", "memoor"}), B: frozenset({"omar", "satoshi"})},
        heads={A: 6, B: 5},
        sends=[Send(e.sender, e.room, str(e.client_id)) for e in in_order],
        acks=[*acks, acks[0]],  # sent twice, and answered twice
        connections=[
            Connection("memoor", "laptop", {}, received(A, 1, 2, 3)),
            Connection("omar", "phone", None, received(A, 1, 2) + received(B, 1, 2, 3)),
            Connection("satoshi", "phone", {B: 1}, received(B, 2, 3, 4)),
            Connection("nobody", "phone", None, []),
            Connection("memoor", "laptop", {A: 3}, received(A, 4, 5, 6)),
            Connection("omar", "phone", None, received(B, 3, 4) + received(A, 1, 2, 3, 4)),
            Connection("memoor", "laptop", {A: 6}, [], at_end=True),
            Connection("omar", "phone", None, received(A, 5, 6) + received(B, 5), at_end=True),
            Connection("satoshi", "phone", {B: 4}, received(B, 5), at_end=True),
            Connection("nobody", "phone", None, [], at_end=True),
        ],
        log=LOG,
    )


def test_a_sound_history_passes() -> None:
    assert check(sound()) == []


def test_there_is_a_defect_for_every_law() -> None:
    assert {law for law, _ in PLANTS.values()} == set(Law)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", PLANTS)
def test_a_defect_planted_into_a_made_up_history_is_caught(name: str, seed: int) -> None:
    _caught(name, sound(), seed)


@pytest.mark.timeout(400)  # the first to ask for the recording waits for it
@pytest.mark.parametrize("name", PLANTS)
def test_a_defect_planted_into_a_recorded_history_is_caught(name: str, crashes: Recorded) -> None:
    for seed in SEEDS:
        _caught(name, crashes.history, seed)


def _caught(name: str, history: History, seed: int) -> None:
    law, plant = PLANTS[name]
    before = set(check(history))
    laws: set[Law] = {violation.law for violation in set(check(plant(history, Random(seed)))) - before}
    assert law in laws
