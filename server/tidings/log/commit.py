"""The journal's transaction: read the rows that the operations need, apply them in order, write what they append."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy.engine import Connection

from tidings.auth.principal import NO_SESSION
from tidings.contract.errors import ActionError, ErrorCode
from tidings.contract.permissions import Permission
from tidings.log import receipts
from tidings.log.cursors import Moved, save
from tidings.log.messages import AppendMessage, EditMessage
from tidings.log.notices import Notice
from tidings.log.quotas import Quotas
from tidings.log.recent import Recent
from tidings.log.transaction import NEW_ROOMS, Operation, Work
from tidings_db.engine import Database, Locked, StoreUnavailable
from tidings_db.queries import journal as queries
from tidings_db.queries import one_message
from tidings_db.queries.claims import claim

Outcome = tuple[bool, Any]
"""(succeeded, result or exception) of one operation."""
Committed = tuple[list[Outcome], list[Notice]]
"""The outcomes of the operations, and what to publish."""

ATTEMPTS = 2
"""How often a batch is applied to what it probably reads."""


def commit(
    conn: Connection,
    operations: Sequence[Operation[Any]],
    moved: Moved,
    quotas: Quotas | None = None,
    recent: Recent | None = None,
) -> Committed:
    """The journal's transaction: apply the operations in order. `recent` notes what they leave."""
    work = Work(conn, _now(), quotas or Quotas())
    needed = _needed(operations)
    if needed.rooms or (operations and conn.dialect.name != "sqlite"):  # only PostgreSQL has sessions to judge
        work.load(queries.load(conn, needed, work.now))
        if recent is not None:
            recent.note_clock(work.now)
        _search_mentions(work, operations)
    claims = {name for operation in operations if operation.room_key is None for name in operation.claims}
    if claims and not claim(conn, claims):
        raise Locked("another node creates the same room", [NEW_ROOMS])
    if moved:
        save(conn, moved)  # before a new membership ends the cursors of an earlier one
    outcomes = _apply(work, operations)
    work.save()
    notices = work.finish()
    if moved.receipts:
        notices += receipts.notices(conn, _receipts_of(moved))
    if recent is not None:
        recent.note(work)
    return outcomes, notices


async def commit_if_unchanged(
    database: Database, operations: Sequence[Operation[Any]], recent: Recent
) -> Committed | None:
    """The same in one round trip to PostgreSQL, for operations without queries of their own.

    They are applied to what they probably read, and written if they do read that, in one statement. Returns None,
    with nothing written, if a room is locked or gone, or changes too often.
    """
    needed = _needed(operations)
    loaded = recent.guess(needed)
    if loaded is None:
        row, _ = await database.run(queries.loading(needed))
        loaded = queries.loaded(row)
        recent.note_clock(loaded.now)
    for _ in range(ATTEMPTS):
        if len(loaded.rooms) < len(needed.rooms):
            return None
        work = Work(None, loaded.now)
        work.load(loaded)
        outcomes = _apply(work, operations)
        try:
            (written, *found), again = await _write(database, needed, loaded, work.take_writes(), recent)
        except Locked:
            return None
        if again and not written:
            raise StoreUnavailable("the connection was lost, and the messages may have been written")
        recent.note_clock(found[0])
        if written:
            recent.note(work)
            return outcomes, work.finish()
        loaded = queries.loaded(found)
        recent.note_mistaken(needed.rooms)
    return None


async def _write(
    database: Database, needed: queries.Needed, loaded: queries.Loaded, writes: queries.Writes, recent: Recent
) -> tuple[Sequence[Any], bool]:
    """Run `queries.if_unchanged`: its row, and whether it has run again.

    A message on its own is written by a shorter statement, unless it would probably find something else.
    """
    if not recent.was_mistaken(needed.rooms):
        short = one_message.if_unchanged(needed, loaded, writes, database.node)
        if short is not None:
            row, again = await database.run(short)
            if row[0] or again:
                return row, again
    return await database.run(queries.if_unchanged(needed, loaded, writes, database.node))


def _now() -> int:
    return time.time_ns() // 1_000_000


def _apply(work: Work, operations: Sequence[Operation[Any]]) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for operation in operations:
        try:
            if operation.actor.session_key in work.withdrawn:
                raise ActionError(ErrorCode.TOKEN_REVOKED, "the session was withdrawn")
            outcomes.append((True, operation.apply(work)))
        except ActionError as error:
            outcomes.append((False, error))
    return outcomes


def _receipts_of(moved: Moved) -> list[tuple[int, int]]:
    """(room, user) of the receipts."""
    return sorted({(room_key, user_key) for (_, room_key), user_key in moved.receipts.items()})


def _needed(operations: Sequence[Operation[Any]]) -> queries.Needed:
    in_rooms = [(operation, key) for operation in operations for key in operation.room_keys]
    sends = [(operation, key) for operation, key in in_rooms if isinstance(operation, AppendMessage)]
    return queries.Needed(
        sorted({key for _, key in in_rooms}),
        list({(key, user) for operation, key in in_rooms for user in operation.users()}),
        list({(key, send.actor.user_key, send.client_id) for send, key in sends if send.client_id is not None}),
        list({(key, send.reply_to) for send, key in sends if send.reply_to is not None}),
        sorted({operation.actor.session_key for operation in operations} - {NO_SESSION}),
    )


def _search_mentions(work: Work, operations: Sequence[Operation[Any]]) -> None:
    writes = [write for write in operations if isinstance(write, AppendMessage | EditMessage)]
    mentioning = [write for write in writes if "@" in write.content and _may_write(work, write)]
    if mentioning:  # users who may not write there cannot cause a search
        work.search_mentions((write.room_key or 0, write.content) for write in mentioning)


def _may_write(work: Work, write: AppendMessage | EditMessage) -> bool:
    room = work.rooms.get(write.room_key or 0)
    if room is None:
        return False
    try:
        need = Permission.SEND if isinstance(write, AppendMessage) else Permission.EDIT
        work.check(room, write.actor.user_key, need)
    except ActionError:
        return False
    return True
