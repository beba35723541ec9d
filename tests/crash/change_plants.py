"""Defects of changes: edits, deletions, reactions and memberships."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from tests.crash.checker import Change, Connection, Entry, History, Law, Reception
from tests.crash.plants import Plants, acknowledged, former_members, received, received_also

CHANGE_PLANTS = Plants()
KINDS = {kind: kind for kind in ("edit", "delete", "reaction", "event")}


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


@CHANGE_PLANTS.breaks(Law.UNDONE)
def an_edit_acknowledged_early(history: History, rng: Random) -> History:
    """A kill between acknowledgement and commit: content and entry are missing."""
    change, entry = _done(history, rng, "edit")
    lost = [item for item in history.log if (item.kind, item.about) != ("edit", change.about)]
    return _instead(replace(history, log=lost), entry, content=entry.client_id)


@CHANGE_PLANTS.breaks(Law.HALF)
def an_edit_without_its_content(history: History, rng: Random) -> History:
    """The entry was written, but the old content stayed."""
    _, entry = _done(history, rng, "edit")
    return _instead(history, entry, content=entry.client_id)


@CHANGE_PLANTS.breaks(Law.HALF)
def an_edit_without_its_entry(history: History, rng: Random) -> History:
    """The content was replaced without an entry, so offline devices miss it."""
    change, _ = _done(history, rng, "edit")
    return replace(history, log=[item for item in history.log if (item.kind, item.about) != ("edit", change.about)])


@CHANGE_PLANTS.breaks(Law.UNDONE)
def an_older_edit_won(history: History, rng: Random) -> History:
    change, entry = _done(history, rng, "edit")
    newer = [*history.changes, change._replace(value="newest", acked=10**9)]
    return replace(_instead(history, entry, content=change.value), changes=newer)


@CHANGE_PLANTS.breaks(Law.UNDONE)
def a_deletion_undone(history: History, rng: Random) -> History:
    _, entry = _done(history, rng, "delete")
    return _instead(history, entry, content=entry.client_id)


@CHANGE_PLANTS.breaks(Law.HALF)
def a_deletion_that_nobody_requested(history: History, rng: Random) -> History:
    _, entry = acknowledged(history, rng)
    requested = [change for change in history.changes if (change.kind, change.about) != ("delete", entry.message_id)]
    return replace(_instead(history, entry, content=""), changes=requested)


@CHANGE_PLANTS.breaks(Law.RESTORED)
def a_deleted_content_replayed(history: History, rng: Random) -> History:
    """A device that connects after the deletion gets the old content."""
    change, entry = _done(history, rng, "delete")
    is_theirs = lambda connection: connection.user == change.user  # noqa: E731
    return received_also(history, rng, is_theirs, entry, entry.client_id, opened=10**9)


@CHANGE_PLANTS.breaks(Law.HALF)
def a_reaction_twice(history: History, rng: Random) -> History:
    change, entry = _done(history, rng, "reaction")
    return _instead(history, entry, reactions=(*entry.reactions, (change.value, change.user)))


@CHANGE_PLANTS.breaks(Law.UNDONE)
def a_reaction_lost(history: History, rng: Random) -> History:
    change, entry = _done(history, rng, "reaction")
    left = tuple(item for item in entry.reactions if item != (change.value, change.user))
    return _instead(history, entry, reactions=left)


@CHANGE_PLANTS.breaks(Law.CONVERGED)
def an_edit_replayed_as_it_was_before(history: History, rng: Random) -> History:
    """An offline device gets the entry with the content before the edit."""
    former = former_members(history)
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


@CHANGE_PLANTS.breaks(Law.DIFFERENT, **KINDS)
def received_as_a_message(history: History, rng: Random, kind: str) -> History:
    def edit(receptions: list[Reception], _: Connection) -> None:
        at = rng.choice([n for n, item in enumerate(receptions) if item.kind == kind])
        receptions[at] = receptions[at]._replace(kind="message")

    return received(history, rng, lambda connection: any(item.kind == kind for item in connection.received), edit)


@CHANGE_PLANTS.breaks(Law.GAP, **KINDS)
def never_received(history: History, _: Random, kind: str) -> History:
    connections = [
        replace(connection, received=[item for item in connection.received if item.kind != kind])
        for connection in history.connections
    ]
    return replace(history, connections=connections)


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


@CHANGE_PLANTS.breaks(Law.FOREIGN)
def served_after_the_removal(history: History, rng: Random) -> History:
    _, user, entry = _kicked(history, rng)
    return received_also(history, rng, lambda item: item.user == user and item.brought is None, entry)


@CHANGE_PLANTS.breaks(Law.UNDONE)
def a_removal_acknowledged_and_lost(history: History, rng: Random) -> History:
    removal, _, _ = _kicked(history, rng)
    requested = Change("owner", "member", removal.room, removal.about or "", acked=1)
    return replace(history, changes=[*history.changes, *[requested] * len(history.log)])


@CHANGE_PLANTS.breaks(Law.HALF)
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
