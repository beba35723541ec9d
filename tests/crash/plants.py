"""Defects to plant into a sound history: each stands for what a broken server would have let its clients see.

A plant picks its place at random, so that it can be planted into any history, made up or recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

from tests.crash.checker import Ack, Connection, Entry, History, Law, Reception

Plant = Callable[[History, Random], History]
PLANTS: dict[str, tuple[Law, Plant]] = {}


def _breaks(law: Law) -> Callable[[Plant], Plant]:
    def register(plant: Plant) -> Plant:
        PLANTS[plant.__name__] = (law, plant)
        return plant

    return register


def _acknowledged(history: History, rng: Random) -> tuple[Ack, Entry]:
    ack = rng.choice(history.acks)
    return ack, next(entry for entry in history.log if entry.client_id == ack.client_id)


def _pair(history: History, rng: Random) -> tuple[Entry, Entry]:
    """Two messages of one sender in one room, the earlier one first."""
    firsts: dict[tuple[str, str], Entry] = {}
    pairs = []
    for entry in history.log:
        if entry.client_id is not None:
            if (first := firsts.get((entry.room, entry.sender))) is not None:
                pairs.append((first, entry))
            firsts[entry.room, entry.sender] = entry
    return rng.choice(pairs)


def _rename(history: History, names: dict[tuple[str, int], tuple[str, int]]) -> History:
    """The same history, had these entries got other positions: log and acknowledgements agree."""

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


def _without(history: History, gone: Entry) -> History:
    """Nothing is left of an entry but its acknowledgement; those after it have moved up."""

    def keep(item: Entry | Reception) -> bool:
        return (item.room, item.seq) != (gone.room, gone.seq)

    def up(seq: int, room: str) -> int:
        return seq - (room == gone.room and seq > gone.seq)

    return replace(
        history,
        heads={**history.heads, gone.room: history.heads[gone.room] - 1},
        log=[entry._replace(seq=up(entry.seq, entry.room)) for entry in history.log if keep(entry)],
        acks=[ack._replace(seq=up(ack.seq, ack.room)) for ack in history.acks],
        connections=[
            replace(
                connection,
                brought=None
                if connection.brought is None
                else {
                    room: seq - (room == gone.room and seq >= gone.seq) for room, seq in connection.brought.items()
                },
                received=[one._replace(seq=up(one.seq, one.room)) for one in connection.received if keep(one)],
            )
            for connection in history.connections
        ],
    )


def _connection(
    history: History, rng: Random, suits: Callable[[Connection], bool], change: Callable[[Connection], Connection]
) -> History:
    """Change one connection that suits."""
    at = rng.choice([n for n, connection in enumerate(history.connections) if suits(connection)])
    connections = list(history.connections)
    connections[at] = change(connections[at])
    return replace(history, connections=connections)


def _inner(connection: Connection) -> list[int]:
    """Places of receptions that have one of the same room before and after them."""
    rooms = [one.room for one in connection.received]
    return [n for n, room in enumerate(rooms) if room in rooms[:n] and room in rooms[n + 1 :]]


# -- a message is lost -----------------------------------------------------------------------------------------------


@_breaks(Law.LOST)
def acknowledged_and_lost_without_a_trace(history: History, rng: Random) -> History:
    return _without(history, _acknowledged(history, rng)[1])


@_breaks(Law.NUMBERED)
def acknowledged_and_lost_from_the_log(history: History, rng: Random) -> History:
    _, entry = _acknowledged(history, rng)
    return replace(history, log=[other for other in history.log if other is not entry])


# -- acknowledged before it was durable ------------------------------------------------------------------------------


@_breaks(Law.LOST)
def acknowledged_early_and_its_place_taken(history: History, rng: Random) -> History:
    """A kill came between the acknowledgement and the commit; the next message got the same seq."""
    taker, _ = _acknowledged(history, rng)
    return replace(history, acks=[*history.acks, taker._replace(client_id="lost", message_id="phantom")])


@_breaks(Law.MOVED)
def acknowledged_early_then_stored_elsewhere(history: History, rng: Random) -> History:
    """The message was sent again after the kill, and took effect at another place."""
    ack, _ = _acknowledged(history, rng)
    return replace(history, acks=[*history.acks, ack._replace(seq=ack.seq - 1, message_id="phantom")])


@_breaks(Law.UNLIKE)
def published_early(history: History, rng: Random) -> History:
    """A reader saw a message that the kill undid; another one has its seq."""

    def change(connection: Connection) -> Connection:
        received = list(connection.received)
        at = rng.randrange(len(received))
        received[at] = received[at]._replace(message_id="phantom")
        return replace(connection, received=received)

    return _connection(history, rng, lambda connection: bool(connection.received), change)


# -- a repeat --------------------------------------------------------------------------------------------------------


@_breaks(Law.TWICE)
def retried_and_stored_twice(history: History, rng: Random) -> History:
    _, entry = _acknowledged(history, rng)
    head = history.heads[entry.room] + 1
    again = entry._replace(seq=head, message_id="again")
    log = [*history.log]
    log.insert(max(n for n, other in enumerate(log) if other.room == entry.room) + 1, again)
    return replace(history, log=log, heads={**history.heads, entry.room: head})


def _received_twice(exactly: bool) -> Plant:
    def plant(history: History, rng: Random) -> History:
        def change(connection: Connection) -> Connection:
            received = list(connection.received)
            at = rng.randrange(len(received))
            received.insert(at, received[at])
            return replace(connection, received=received)

        return _connection(
            history,
            rng,
            lambda connection: bool(connection.received) and (connection.brought is not None) is exactly,
            change,
        )

    return plant


PLANTS["received_twice_with_cursors"] = (Law.REPEAT, _received_twice(True))
PLANTS["received_twice_on_one_connection"] = (Law.REPEAT, _received_twice(False))


@_breaks(Law.REPEAT)
def replayed_from_before_the_cursor(history: History, rng: Random) -> History:
    log = {(entry.room, entry.seq): entry for entry in history.log}

    def change(connection: Connection) -> Connection:
        assert connection.brought
        room = rng.choice([room for room, seq in connection.brought.items() if seq])
        entry = log[room, connection.brought[room]]
        repeat = Reception(entry.room, entry.seq, entry.message_id)
        return replace(connection, received=[repeat, *connection.received])

    return _connection(
        history, rng, lambda connection: any(seq for seq in (connection.brought or {}).values()), change
    )


# -- a swap ----------------------------------------------------------------------------------------------------------


@_breaks(Law.ORDERED)
def stored_in_another_order(history: History, rng: Random) -> History:
    first, second = _pair(history, rng)
    here, there = (first.room, first.seq), (second.room, second.seq)
    return _rename(history, {here: there, there: here})


@_breaks(Law.ANSWERED)
def acknowledged_in_another_order(history: History, rng: Random) -> History:
    first, second = _pair(history, rng)
    acks = list(history.acks)
    at = [next(n for n, ack in enumerate(acks) if ack.client_id == entry.client_id) for entry in (first, second)]
    acks[at[0]], acks[at[1]] = acks[at[1]], acks[at[0]]
    # Where repeats were answered, too, it is the first answer that counts.
    return replace(history, acks=[ack for n, ack in enumerate(acks) if n in at or ack.client_id != second.client_id])


@_breaks(Law.REPEAT)
def received_in_another_order(history: History, rng: Random) -> History:
    def change(connection: Connection) -> Connection:
        received = list(connection.received)
        second = rng.choice(_inner(connection))
        first = max(n for n in range(second) if received[n].room == received[second].room)
        received[first], received[second] = received[second], received[first]
        return replace(connection, received=received)

    return _connection(history, rng, lambda connection: bool(_inner(connection)), change)


# -- a gap -----------------------------------------------------------------------------------------------------------


@_breaks(Law.NUMBERED)
def a_seq_that_was_never_given(history: History, rng: Random) -> History:
    _, entry = _acknowledged(history, rng)
    head = history.heads[entry.room]
    moved = {(entry.room, seq): (entry.room, seq + 1) for seq in range(entry.seq, head + 1)}
    gapped = _rename(history, moved)
    return replace(gapped, heads={**history.heads, entry.room: head + 1})


def _left_out(exactly: bool) -> Plant:
    def plant(history: History, rng: Random) -> History:
        def change(connection: Connection) -> Connection:
            gone = rng.choice(_inner(connection))
            return replace(connection, received=[one for n, one in enumerate(connection.received) if n != gone])

        return _connection(
            history,
            rng,
            lambda connection: bool(_inner(connection)) and (connection.brought is not None) is exactly,
            change,
        )

    return plant


PLANTS["left_out_in_a_stream_with_cursors"] = (Law.GAP, _left_out(True))
PLANTS["left_out_in_a_stream_without_cursors"] = (Law.GAP, _left_out(False))


def _skipped_on_return(exactly: bool) -> Plant:
    """What was missed between two connections does not come: the stream goes on too late."""

    def plant(history: History, rng: Random) -> History:
        seen: dict[tuple[str, str, str], int] = {}
        returns = []
        for n, connection in enumerate(history.connections):
            for room in {one.room for one in connection.received}:
                at = (connection.user, connection.device, room)
                seqs = [one.seq for one in connection.received if one.room == room]
                new = [seq for seq in seqs if seq > seen.get(at, 0)]
                if at in seen and len(new) > 1 and (connection.brought is not None) is exactly:
                    returns.append((n, room, new[0]))
                seen[at] = max([*seqs, seen.get(at, 0)])
        n, room, first = rng.choice(returns)
        connections = list(history.connections)
        kept: Sequence[Reception] = [one for one in connections[n].received if one.room != room or one.seq > first]
        connections[n] = replace(connections[n], received=kept)
        return replace(history, connections=connections)

    return plant


PLANTS["skipped_on_return_with_cursors"] = (Law.GAP, _skipped_on_return(True))
PLANTS["skipped_on_return_without_cursors"] = (Law.GAP, _skipped_on_return(False))


@_breaks(Law.GAP)
def the_end_never_came(history: History, rng: Random) -> History:
    """The last connection of a device says that it is up to date, and is not."""
    last = {(connection.user, connection.device): n for n, connection in enumerate(history.connections)}
    device, room = rng.choice(
        [
            (at, room)
            for at in last
            for room in {one.room for c in history.connections if (c.user, c.device) == at for one in c.received}
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
            received=[one for one in connection.received if (one.room, one.seq) != (room, head)],
        )

    return replace(history, connections=[cut(connection) for connection in history.connections])


# -- what should not be there ----------------------------------------------------------------------------------------


@_breaks(Law.FOREIGN)
def received_by_a_stranger(history: History, rng: Random) -> History:
    entry = rng.choice(history.log)

    def change(connection: Connection) -> Connection:
        seen = Reception(entry.room, entry.seq, entry.message_id)
        return replace(connection, received=[*connection.received, seen])

    return _connection(history, rng, lambda connection: connection.user not in history.members[entry.room], change)


@_breaks(Law.FOREIGN)
def stored_in_another_room(history: History, rng: Random) -> History:
    first = _acknowledged(history, rng)[1]
    second = rng.choice([entry for entry in history.log if entry.client_id and entry.room != first.room])
    here, there = (first.room, first.seq), (second.room, second.seq)
    return _rename(history, {here: there, there: here})


@_breaks(Law.INVENTED)
def stored_and_never_sent(history: History, rng: Random) -> History:
    _, entry = _acknowledged(history, rng)
    return replace(history, sends=[send for send in history.sends if send.client_id != entry.client_id])


@_breaks(Law.INVENTED)
def stored_under_another_name(history: History, rng: Random) -> History:
    _, entry = _acknowledged(history, rng)
    return replace(
        history, log=[other._replace(sender="mallory") if other is entry else other for other in history.log]
    )


@_breaks(Law.KNOWN)
def a_cursor_disowned(history: History, rng: Random) -> History:
    room = rng.choice(list(history.members))
    return _connection(history, rng, lambda _: True, lambda connection: replace(connection, reset=[room]))
