"""The journal's transaction: read the rows that the operations need, apply them in order, write what they append."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy.engine import Connection

from db.queries import journal as queries
from server.contract.errors import ActionError
from server.contract.permissions import Permission
from server.log import receipts
from server.log.cursors import Moved, save
from server.log.messages import AppendMessage, EditMessage
from server.log.notices import Channel, Notice
from server.log.quotas import Quotas
from server.log.transaction import Operation, RoomLog, Work

Outcome = tuple[bool, Any]
"""(succeeded, result or exception) of one operation."""


def commit(
    conn: Connection, operations: Sequence[Operation[Any]], moved: Moved, quotas: Quotas | None = None
) -> tuple[list[Outcome], list[tuple[Channel, Notice]]]:
    """The journal's transaction: apply the operations in order; returns their outcomes and what to publish."""
    work = Work(conn, time.time_ns() // 1_000_000, quotas or Quotas())
    _load(work, operations)
    if moved:
        save(conn, moved)  # before a new membership ends the cursors of an earlier one
    outcomes: list[Outcome] = []
    for operation in operations:
        try:
            outcomes.append((True, operation.apply(work)))
        except ActionError as error:
            outcomes.append((False, error))
    notices = work.finish()
    if moved.receipts:
        notices += receipts.notices(conn, _receipts_of(moved))
    return outcomes, notices


def _receipts_of(moved: Moved) -> list[tuple[int, int]]:
    """(room, user) of the receipts."""
    return sorted({(room_key, user_key) for (_, room_key), user_key in moved.receipts.items()})


def _load(work: Work, operations: Sequence[Operation[Any]]) -> None:
    """Lock the rooms in key order, then read in bulk the rows that the operations need."""
    keys = {key for operation in operations if (key := operation.room_key) is not None}
    if not keys:
        return
    pairs = {
        (key, user)
        for operation in operations
        if (key := operation.room_key) is not None
        for user in operation.users()
    }
    sends = [send for send in operations if isinstance(send, AppendMessage) and send.room_key is not None]
    claims = {
        (send.room_key or 0, send.actor.user_key, send.client_id) for send in sends if send.client_id is not None
    }
    replies = {(send.room_key or 0, send.reply_to) for send in sends if send.reply_to is not None}
    loaded = queries.load(work.conn, list(keys), list(pairs), list(claims), list(replies), work.now)
    work.rooms = {key: RoomLog(row) for key, row in loaded.rooms.items()}
    work.standings, work.sent, work.known_messages = loaded.standings, loaded.sent, loaded.known_messages
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
