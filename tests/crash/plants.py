"""Defects to plant into a sound history: each is what the clients of a broken server would have seen.

A plant picks its place at random, so it fits any history, constructed or recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

from tests.crash.checker import Ack, Change, Connection, Entry, History, Law, Reception

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


def _without(history: History, lost: Entry) -> History:
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


def _connection(
    history: History, rng: Random, suits: Callable[[Connection], bool], change: Callable[[Connection], Connection]
) -> History:
    """Change a random one of the suitable connections."""
    at = rng.choice([n for n, connection in enumerate(history.connections) if suits(connection)])
    connections = list(history.connections)
    connections[at] = change(connections[at])
    return replace(history, connections=connections)


def _inner(connection: Connection) -> list[int]:
    """Positions of receptions that stand between their neighbours in the log."""
    last: dict[str, int] = {}
    positions = []
    for n, item in enumerate(connection.received):
        after = next((other.seq for other in connection.received[n + 1 :] if other.room == item.room), None)
        if last.get(item.room) == item.seq - 1 and after == item.seq + 1:
            positions.append(n)
        last[item.room] = item.seq
    return positions


def _former_members(history: History) -> set[tuple[str, str]]:
    """(room, user) of each removed member, who may miss entries for that reason."""
    changes = [(entry.room, *(entry.about or "").split(":")) for entry in history.log if entry.kind == "member"]
    return {(room, user) for room, change, user in changes if change in ("kicked", "left")}


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
    """A kill between acknowledgement and commit; the next message got the same seq."""
    taker, _ = _acknowledged(history, rng)
    return replace(history, acks=[*history.acks, taker._replace(client_id="lost", message_id="phantom")])


@_breaks(Law.MOVED)
def acknowledged_early_then_stored_elsewhere(history: History, rng: Random) -> History:
    """The message was repeated after the kill and stored at another position."""
    ack, _ = _acknowledged(history, rng)
    return replace(history, acks=[*history.acks, ack._replace(seq=ack.seq - 1, message_id="phantom")])


@_breaks(Law.DIFFERENT)
def published_early(history: History, rng: Random) -> History:
    """A reader got a message that the kill undid; another message has its seq."""

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
    duplicate = entry._replace(seq=head, message_id="duplicate")
    log = [*history.log]
    log.insert(max(n for n, other in enumerate(log) if other.room == entry.room) + 1, duplicate)
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
    # If repeats were answered, too, the first answer counts.
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
            lost = rng.choice(_inner(connection))
            return replace(connection, received=[item for n, item in enumerate(connection.received) if n != lost])

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
    """The replay omits the first missed entry."""

    def plant(history: History, rng: Random) -> History:
        reached: dict[tuple[str, str, str], int] = {}
        returns, former = [], _former_members(history)
        for n, connection in enumerate(history.connections):
            for room in {item.room for item in connection.received if (item.room, connection.user) not in former}:
                at = (connection.user, connection.device, room)
                seqs = [item.seq for item in connection.received if item.room == room]
                new = [seq for seq in seqs if seq > reached.get(at, 0)]
                if at in reached and len(new) > 1 and (connection.brought is not None) is exactly:
                    returns.append((n, room, new[0]))
                reached[at] = max([*seqs, reached.get(at, 0)])
        n, room, first = rng.choice(returns)
        connections = list(history.connections)
        kept: Sequence[Reception] = [
            item for item in connections[n].received if item.room != room or item.seq > first
        ]
        connections[n] = replace(connections[n], received=kept)
        return replace(history, connections=connections)

    return plant


PLANTS["skipped_on_return_with_cursors"] = (Law.GAP, _skipped_on_return(True))
PLANTS["skipped_on_return_without_cursors"] = (Law.GAP, _skipped_on_return(False))


@_breaks(Law.GAP)
def the_end_never_came(history: History, rng: Random) -> History:
    """The last connection of a device lacks the last entry."""
    last = {(connection.user, connection.device): n for n, connection in enumerate(history.connections)}
    former = _former_members(history)
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


@_breaks(Law.FOREIGN)
def received_by_a_stranger(history: History, rng: Random) -> History:
    entry = rng.choice(history.log)

    def change(connection: Connection) -> Connection:
        foreign = Reception(entry.room, entry.seq, entry.message_id)
        return replace(connection, received=[*connection.received, foreign])

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


# -- changes of messages ---------------------------------------------------------------------------------------------


def _done(history: History, rng: Random, kind: str) -> tuple[Change, Entry]:
    """An acknowledged change; unless it is a deletion, the message was not deleted."""
    messages = {entry.message_id: entry for entry in history.log if entry.kind == "message"}
    done = [
        change
        for change in history.changes
        if change.kind == kind and change.acked is not None and (kind == "delete" or messages[change.about].content)
    ]
    change = rng.choice(done)
    return change, messages[change.about]


def _instead(history: History, entry: Entry, **fields: object) -> History:
    """The message has other fields at the end."""
    return replace(
        history,
        log=[item._replace(**fields) if item is entry else item for item in history.log],  # type: ignore[arg-type]
    )


@_breaks(Law.UNDONE)
def an_edit_acknowledged_early(history: History, rng: Random) -> History:
    """A kill between acknowledgement and commit: content and entry are missing."""
    change, entry = _done(history, rng, "edit")
    lost = [item for item in history.log if (item.kind, item.about) != ("edit", change.about)]
    return _instead(replace(history, log=lost), entry, content=entry.client_id)


@_breaks(Law.HALF)
def an_edit_without_its_content(history: History, rng: Random) -> History:
    """The entry was written, but the old content stayed."""
    _, entry = _done(history, rng, "edit")
    return _instead(history, entry, content=entry.client_id)


@_breaks(Law.HALF)
def an_edit_without_its_entry(history: History, rng: Random) -> History:
    """The content was replaced without an entry, so offline devices miss it."""
    change, _ = _done(history, rng, "edit")
    return replace(history, log=[item for item in history.log if (item.kind, item.about) != ("edit", change.about)])


@_breaks(Law.UNDONE)
def an_older_edit_won(history: History, rng: Random) -> History:
    change, entry = _done(history, rng, "edit")
    newer = [*history.changes, change._replace(value="newest", acked=10**9)]
    return replace(_instead(history, entry, content=change.value), changes=newer)


@_breaks(Law.UNDONE)
def a_deletion_undone(history: History, rng: Random) -> History:
    _, entry = _done(history, rng, "delete")
    return _instead(history, entry, content=entry.client_id)


@_breaks(Law.HALF)
def a_deletion_that_nobody_requested(history: History, rng: Random) -> History:
    _, entry = _acknowledged(history, rng)
    requested = [change for change in history.changes if (change.kind, change.about) != ("delete", entry.message_id)]
    return replace(_instead(history, entry, content=""), changes=requested)


@_breaks(Law.RESTORED)
def a_deleted_content_replayed(history: History, rng: Random) -> History:
    """A device that connects after the deletion gets the old content."""
    change, entry = _done(history, rng, "delete")

    def reconnected(connection: Connection) -> Connection:
        foreign = Reception(entry.room, entry.seq, entry.message_id, content=entry.client_id)
        return replace(connection, opened=10**9, received=[*connection.received, foreign])

    return _connection(history, rng, lambda connection: connection.user == change.user, reconnected)


@_breaks(Law.HALF)
def a_reaction_twice(history: History, rng: Random) -> History:
    change, entry = _done(history, rng, "reaction")
    return _instead(history, entry, reactions=(*entry.reactions, (change.value, change.user)))


@_breaks(Law.UNDONE)
def a_reaction_lost(history: History, rng: Random) -> History:
    change, entry = _done(history, rng, "reaction")
    left = tuple(item for item in entry.reactions if item != (change.value, change.user))
    return _instead(history, entry, reactions=left)


@_breaks(Law.CONVERGED)
def an_edit_replayed_as_it_was_before(history: History, rng: Random) -> History:
    """An offline device gets the entry with the content before the edit."""
    former = _former_members(history)
    replayed = {
        item.about
        for connection in history.connections
        for item in connection.received
        if item.kind == "edit" and _returns(history, connection) and (item.room, connection.user) not in former
    }
    change, entry = rng.choice(
        [
            (change, entry)
            for change in history.changes
            for entry in history.log
            if change.kind == "edit"
            and entry.message_id == change.about
            and entry.content
            and change.about in replayed
        ]
    )
    connections = [
        replace(
            connection,
            received=[
                item._replace(content=entry.client_id)
                if change.about in (item.about, item.message_id) and item.content
                else item
                for item in connection.received
            ],
        )
        for connection in history.connections
    ]
    return replace(history, connections=connections)


def _returns(history: History, connection: Connection) -> bool:
    device = (connection.user, connection.device)
    return any((item.user, item.device) == device and item.at_end for item in history.connections)


def _received_as(kind: str, other: str) -> Plant:
    """An entry is received as another kind."""

    def plant(history: History, rng: Random) -> History:
        def change(connection: Connection) -> Connection:
            received = list(connection.received)
            at = rng.choice([n for n, item in enumerate(received) if item.kind == kind])
            received[at] = received[at]._replace(kind=other)
            return replace(connection, received=received)

        return _connection(
            history, rng, lambda connection: any(item.kind == kind for item in connection.received), change
        )

    return plant


def _left_out_kind(kind: str) -> Plant:
    """No connection gets entries of that kind."""

    def plant(history: History, _: Random) -> History:
        connections = [
            replace(connection, received=[item for item in connection.received if item.kind != kind])
            for connection in history.connections
        ]
        return replace(history, connections=connections)

    return plant


for _kind in ("edit", "delete", "reaction"):
    PLANTS[f"{_kind}_received_as_another"] = (Law.DIFFERENT, _received_as(_kind, "message"))
    PLANTS[f"{_kind}_never_received"] = (Law.GAP, _left_out_kind(_kind))


# -- membership changes ----------------------------------------------------------------------------------------------


def _kicked(history: History, rng: Random) -> tuple[Entry, str, Entry]:
    """A removal, the removed user, and an entry of the room before they rejoined."""
    removals = []
    for entry in history.log:
        change, _, user = (entry.about or "").partition(":")
        if entry.kind == "member" and change in ("kicked", "left"):
            for other in history.log:
                if other.room == entry.room and other.seq > entry.seq:
                    if other.about == f"joined:{user}":
                        break
                    if other.kind == "message":
                        removals.append((entry, user, other))
    return rng.choice(removals)


@_breaks(Law.FOREIGN)
def served_after_the_removal(history: History, rng: Random) -> History:
    _, user, entry = _kicked(history, rng)

    def change(connection: Connection) -> Connection:
        foreign = Reception(entry.room, entry.seq, entry.message_id)
        return replace(connection, received=[*connection.received, foreign])

    return _connection(history, rng, lambda item: item.user == user and item.brought is None, change)


@_breaks(Law.UNDONE)
def a_removal_acknowledged_and_lost(history: History, rng: Random) -> History:
    removal, _, _ = _kicked(history, rng)
    requested = Change("owner", "member", removal.room, removal.about or "", acked=1)
    return replace(history, changes=[*history.changes, *[requested] * len(history.log)])


@_breaks(Law.HALF)
def a_removal_that_nobody_requested(history: History, rng: Random) -> History:
    removal, _, _ = _kicked(history, rng)
    requested = [
        change._replace(acked=None)
        for change in history.changes
        if (change.kind, change.about, change.value) != ("member", removal.room, removal.about)
    ]
    unrequested = Change("owner", "member", removal.room, removal.about or "")
    twice = removal._replace(seq=history.heads[removal.room] + 1)
    return replace(history, changes=[*requested, unrequested], log=[*history.log, twice])
