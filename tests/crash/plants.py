"""Defects to plant into a sound history: each is what the clients of a broken server would have seen.

A plant picks its place at random, so it fits any history, constructed or recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

from tests.crash.checker import Ack, Connection, Entry, History, Law, Reception

Plant = Callable[..., History]
"""Takes a history and a source of randomness, and returns the history with the defect."""


class Plants(dict[str, tuple[Law, Plant]]):
    """Plants by name, each with the law that it breaks."""

    def breaks(self, law: Law, **variants: Any) -> Callable[[Plant], Plant]:
        """Register a plant, or one for each variant: the end of its name -> the plant's third argument."""

        def register(plant: Plant) -> Plant:
            name = plant.__name__
            if not variants:
                self[name] = (law, plant)
            for suffix, variant in variants.items():
                self[f"{name}_{suffix}"] = (law, partial(_with_variant, plant, variant))
            return plant

        return register


def _with_variant(plant: Plant, variant: Any, history: History, rng: Random) -> History:
    return plant(history, rng, variant)


def acknowledged(history: History, rng: Random, kind: str = "message") -> tuple[Ack, Entry]:
    entries = {entry.client_id: entry for entry in history.log if entry.kind == kind}
    ack = rng.choice([ack for ack in history.acks if ack.client_id in entries])
    return ack, entries[ack.client_id]


def pair(history: History, rng: Random) -> tuple[Entry, Entry]:
    """Two messages of one sender in one room, the earlier one first."""
    firsts: dict[tuple[str, str], Entry] = {}
    pairs = []
    for entry in history.log:
        if entry.client_id is not None:
            if (first := firsts.get((entry.room, entry.sender))) is not None:
                pairs.append((first, entry))
            firsts[entry.room, entry.sender] = entry
    return rng.choice(pairs)


def rename(history: History, names: dict[tuple[str, int], tuple[str, int]]) -> History:
    """The same history with these entries at other positions, in the log and in the acknowledgements."""

    def of(room: str, seq: int) -> tuple[str, int]:
        return names.get((room, seq), (room, seq))

    return replace(
        history,
        log=sorted(
            (
                entry._replace(room=room, seq=seq)
                for entry in history.log
                for room, seq in [of(entry.room, entry.seq)]
            ),
            key=lambda entry: (entry.room, entry.seq),
        ),
        acks=[ack._replace(room=room, seq=seq) for ack in history.acks for room, seq in [of(ack.room, ack.seq)]],
    )


def without(history: History, lost: Entry) -> History:
    """Only the acknowledgement of an entry is left; later entries move up."""

    def keep(item: Entry | Reception) -> bool:
        return (item.room, item.seq) != (lost.room, lost.seq)

    def up(seq: int, room: str) -> int:
        return seq - (room == lost.room and seq > lost.seq)

    return replace(
        history,
        heads={**history.heads, lost.room: history.heads[lost.room] - 1},
        log=[entry._replace(seq=up(entry.seq, entry.room)) for entry in history.log if keep(entry)],
        acks=[ack._replace(seq=up(ack.seq, ack.room)) for ack in history.acks],
        connections=[
            replace(
                connection,
                brought=None
                if connection.brought is None
                else {
                    room: seq - (room == lost.room and seq >= lost.seq) for room, seq in connection.brought.items()
                },
                received=[item._replace(seq=up(item.seq, item.room)) for item in connection.received if keep(item)],
            )
            for connection in history.connections
        ],
    )


def received(
    history: History,
    rng: Random,
    suits: Callable[[Connection], object],
    edit: Callable[[list[Reception], Connection], object],
    **fields: Any,
) -> History:
    """A random one of the suitable connections has received something else, and has other `fields`."""
    at = rng.choice([n for n, connection in enumerate(history.connections) if suits(connection)])
    connections = list(history.connections)
    receptions = list(connections[at].received)
    edit(receptions, connections[at])
    connections[at] = replace(connections[at], received=receptions, **fields)
    return replace(history, connections=connections)


def received_also(
    history: History,
    rng: Random,
    suits: Callable[[Connection], object],
    entry: Entry,
    content: str | None = None,
    **fields: Any,
) -> History:
    """As `received`: also this entry, at the end."""
    foreign = Reception(entry.room, entry.seq, entry.message_id, content=content)
    return received(history, rng, suits, lambda receptions, _: receptions.append(foreign), **fields)


def inner(connection: Connection) -> list[int]:
    """Positions of receptions that stand between their neighbours in the log."""
    last: dict[str, int] = {}
    positions = []
    for n, item in enumerate(connection.received):
        after = next((other.seq for other in connection.received[n + 1 :] if other.room == item.room), None)
        if last.get(item.room) == item.seq - 1 and after == item.seq + 1:
            positions.append(n)
        last[item.room] = item.seq
    return positions


def former_members(history: History) -> set[tuple[str, str]]:
    """(room, user) of each removed member, who may miss entries for that reason."""
    changes = [(entry.room, *(entry.about or "").split(":")) for entry in history.log if entry.kind == "member"]
    return {(room, user) for room, change, user in changes if change in ("kicked", "left")}
