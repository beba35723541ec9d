"""Defects of messages and events: lost, repeated, swapped, missing or foreign."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from tests.crash.checker import Connection, History, Law, Reception
from tests.crash.plants import (
    Plants,
    acknowledged,
    former_members,
    inner,
    pair,
    received,
    received_also,
    rename,
    without,
)

MESSAGE_PLANTS = Plants()
KINDS = {"of_a_message": "message", "of_an_event": "event"}
BY_CURSORS = {"with_cursors": True, "without_cursors": False}


def has_cursors(connection: Connection) -> bool:
    return connection.brought is not None


# -- a message is lost -----------------------------------------------------------------------------------------------


@MESSAGE_PLANTS.breaks(Law.LOST, **KINDS)
def acknowledged_and_lost_without_a_trace(history: History, rng: Random, kind: str) -> History:
    return without(history, acknowledged(history, rng, kind)[1])


@MESSAGE_PLANTS.breaks(Law.NUMBERED)
def acknowledged_and_lost_from_the_log(history: History, rng: Random) -> History:
    _, entry = acknowledged(history, rng)
    return replace(history, log=[other for other in history.log if other is not entry])


# -- acknowledged before it was durable ------------------------------------------------------------------------------


@MESSAGE_PLANTS.breaks(Law.LOST, **KINDS)
def acknowledged_early_and_its_place_taken(history: History, rng: Random, kind: str) -> History:
    """A kill between acknowledgement and commit; the next message or event got the same seq."""
    taker, _ = acknowledged(history, rng, kind)
    return replace(history, acks=[*history.acks, taker._replace(client_id="lost", message_id="phantom")])


@MESSAGE_PLANTS.breaks(Law.MOVED)
def acknowledged_early_then_stored_elsewhere(history: History, rng: Random) -> History:
    """The message was repeated after the kill and stored at another position."""
    ack, _ = acknowledged(history, rng)
    return replace(history, acks=[*history.acks, ack._replace(seq=ack.seq - 1, message_id="phantom")])


@MESSAGE_PLANTS.breaks(Law.CONVERGED)
def an_event_received_with_other_data(history: History, rng: Random) -> History:
    _, entry = acknowledged(history, rng, "event")

    def edit(item: Reception) -> Reception:
        return item._replace(content="other") if item.message_id == entry.message_id else item

    return replace(
        history,
        connections=[replace(one, received=[edit(item) for item in one.received]) for one in history.connections],
    )


@MESSAGE_PLANTS.breaks(Law.DIFFERENT)
def published_early(history: History, rng: Random) -> History:
    """A reader got a message that the kill undid; another message has its seq."""

    def edit(receptions: list[Reception], _: Connection) -> None:
        at = rng.randrange(len(receptions))
        receptions[at] = receptions[at]._replace(message_id="phantom")

    return received(history, rng, lambda connection: connection.received, edit)


# -- a repeat --------------------------------------------------------------------------------------------------------


@MESSAGE_PLANTS.breaks(Law.TWICE, **KINDS)
def retried_and_stored_twice(history: History, rng: Random, kind: str) -> History:
    _, entry = acknowledged(history, rng, kind)
    head = history.heads[entry.room] + 1
    duplicate = entry._replace(seq=head, message_id="duplicate")
    log = [*history.log]
    log.insert(max(n for n, other in enumerate(log) if other.room == entry.room) + 1, duplicate)
    return replace(history, log=log, heads={**history.heads, entry.room: head})


@MESSAGE_PLANTS.breaks(Law.REPEAT, **BY_CURSORS)
def received_twice(history: History, rng: Random, exactly: bool) -> History:
    def edit(receptions: list[Reception], _: Connection) -> None:
        at = rng.randrange(len(receptions))
        receptions.insert(at, receptions[at])

    return received(history, rng, lambda item: item.received and has_cursors(item) is exactly, edit)


@MESSAGE_PLANTS.breaks(Law.REPEAT)
def an_event_received_twice(history: History, rng: Random) -> History:
    def edit(receptions: list[Reception], _: Connection) -> None:
        at = rng.choice([n for n, item in enumerate(receptions) if item.kind == "event"])
        receptions.insert(at, receptions[at])

    return received(history, rng, lambda item: any(one.kind == "event" for one in item.received), edit)


@MESSAGE_PLANTS.breaks(Law.REPEAT)
def replayed_from_before_the_cursor(history: History, rng: Random) -> History:
    log = {(entry.room, entry.seq): entry for entry in history.log}

    def edit(receptions: list[Reception], connection: Connection) -> None:
        room, seq = rng.choice([cursor for cursor in (connection.brought or {}).items() if cursor[1]])
        receptions.insert(0, Reception(room, seq, log[room, seq].message_id))

    return received(history, rng, lambda connection: any((connection.brought or {}).values()), edit)


# -- a swap ----------------------------------------------------------------------------------------------------------


@MESSAGE_PLANTS.breaks(Law.ORDERED)
def stored_in_another_order(history: History, rng: Random) -> History:
    first, second = pair(history, rng)
    here, there = (first.room, first.seq), (second.room, second.seq)
    return rename(history, {here: there, there: here})


@MESSAGE_PLANTS.breaks(Law.ANSWERED)
def acknowledged_in_another_order(history: History, rng: Random) -> History:
    first, second = pair(history, rng)
    acks = list(history.acks)
    at = [next(n for n, ack in enumerate(acks) if ack.client_id == entry.client_id) for entry in (first, second)]
    acks[at[0]], acks[at[1]] = acks[at[1]], acks[at[0]]
    # If repeats were answered, too, the first answer counts.
    return replace(history, acks=[ack for n, ack in enumerate(acks) if n in at or ack.client_id != second.client_id])


@MESSAGE_PLANTS.breaks(Law.REPEAT)
def received_in_another_order(history: History, rng: Random) -> History:
    def edit(receptions: list[Reception], connection: Connection) -> None:
        second = rng.choice(inner(connection))
        first = max(n for n in range(second) if receptions[n].room == receptions[second].room)
        receptions[first], receptions[second] = receptions[second], receptions[first]

    return received(history, rng, inner, edit)


# -- a gap -----------------------------------------------------------------------------------------------------------


@MESSAGE_PLANTS.breaks(Law.NUMBERED)
def a_seq_that_was_never_given(history: History, rng: Random) -> History:
    _, entry = acknowledged(history, rng)
    head = history.heads[entry.room]
    moved = {(entry.room, seq): (entry.room, seq + 1) for seq in range(entry.seq, head + 1)}
    gapped = rename(history, moved)
    return replace(gapped, heads={**history.heads, entry.room: head + 1})


@MESSAGE_PLANTS.breaks(Law.GAP, **BY_CURSORS)
def left_out_in_a_stream(history: History, rng: Random, exactly: bool) -> History:
    return received(
        history,
        rng,
        lambda item: inner(item) and has_cursors(item) is exactly,
        lambda receptions, connection: receptions.pop(rng.choice(inner(connection))),
    )


@MESSAGE_PLANTS.breaks(Law.GAP, **BY_CURSORS)
def skipped_on_return(history: History, rng: Random, exactly: bool) -> History:
    """The replay omits the first missed entry."""
    reached: dict[tuple[str, str, str], int] = {}
    returns, former = [], former_members(history)
    for connection in history.connections:
        for room in {item.room for item in connection.received if (item.room, connection.user) not in former}:
            at = (connection.user, connection.device, room)
            seqs = [item.seq for item in connection.received if item.room == room]
            new = [seq for seq in seqs if seq > reached.get(at, 0)]
            if at in reached and len(new) > 1 and has_cursors(connection) is exactly:
                returns.append((connection, room, new[0]))
            reached[at] = max([*seqs, reached.get(at, 0)])
    returned, room, first = rng.choice(returns)

    def edit(receptions: list[Reception], _: Connection) -> None:
        receptions[:] = [item for item in receptions if item.room != room or item.seq > first]

    return received(history, rng, lambda connection: connection is returned, edit)


@MESSAGE_PLANTS.breaks(Law.GAP)
def the_end_never_came(history: History, rng: Random) -> History:
    """The last connection of a device lacks the last entry."""
    last = {(connection.user, connection.device): n for n, connection in enumerate(history.connections)}
    former = former_members(history)
    device, room = rng.choice(
        [
            (at, room)
            for at in last
            for room in {item.room for c in history.connections if (c.user, c.device) == at for item in c.received}
            if (room, at[0]) not in former
        ]
    )
    head = history.heads[room]

    def cut(connection: Connection) -> Connection:
        if (connection.user, connection.device) != device:
            return connection
        return replace(
            connection,
            brought=None
            if connection.brought is None
            else {key: min(seq, head - 1) if key == room else seq for key, seq in connection.brought.items()},
            received=[item for item in connection.received if (item.room, item.seq) != (room, head)],
        )

    return replace(history, connections=[cut(connection) for connection in history.connections])


# -- a foreign entry ------------------------------------------------------------------------------------------------


@MESSAGE_PLANTS.breaks(Law.FOREIGN)
def received_by_a_stranger(history: History, rng: Random) -> History:
    entry = rng.choice(history.log)
    return received_also(history, rng, lambda item: item.user not in history.members[entry.room], entry)


@MESSAGE_PLANTS.breaks(Law.FOREIGN)
def stored_in_another_room(history: History, rng: Random) -> History:
    first = acknowledged(history, rng)[1]
    second = rng.choice([entry for entry in history.log if entry.client_id and entry.room != first.room])
    here, there = (first.room, first.seq), (second.room, second.seq)
    return rename(history, {here: there, there: here})


@MESSAGE_PLANTS.breaks(Law.INVENTED)
def stored_and_never_sent(history: History, rng: Random) -> History:
    _, entry = acknowledged(history, rng)
    return replace(history, sends=[send for send in history.sends if send.client_id != entry.client_id])


@MESSAGE_PLANTS.breaks(Law.INVENTED)
def stored_under_another_name(history: History, rng: Random) -> History:
    _, entry = acknowledged(history, rng)
    return replace(
        history, log=[other._replace(sender="mallory") if other is entry else other for other in history.log]
    )


@MESSAGE_PLANTS.breaks(Law.KNOWN)
def a_cursor_disowned(history: History, rng: Random) -> History:
    return received(history, rng, lambda _: True, lambda *_: None, reset=[rng.choice(list(history.members))])
