"""The journal's writers: they read the rows that a batch needs, apply its operations, and write what those append.

On SQLite a batch is one transaction. On PostgreSQL a round trip costs as much as the rest of a message, so there are
two ways: one statement, for operations without queries of their own, and a transaction of four round trips, for any
others, for cursors, and if the statement could not write.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import Connection

from tidings.auth.principal import NO_SESSION
from tidings.contract.errors import ActionError, ErrorCode
from tidings.contract.permissions import Permission
from tidings.log import receipts
from tidings.log.cursors import Moved, save
from tidings.log.expected_rows import ExpectedRows
from tidings.log.latest_entries import LatestEntries
from tidings.log.messages import AppendMessage, EditMessage
from tidings.log.notices import Notice
from tidings.log.quotas import Quotas
from tidings.log.transaction import NEW_ROOMS, Operation, Work
from tidings_db.engine import Database, Locked, Locks, StoreUnavailable, Write
from tidings_db.queries import journal as queries
from tidings_db.queries import one_message
from tidings_db.queries.claims import claim

if TYPE_CHECKING:
    from asyncpg import Record

Outcome = tuple[bool, Any]
"""(succeeded, result or exception) of one operation."""
Committed = tuple[list[Outcome], list[Notice]]
"""The outcomes of the operations, and what to publish."""

ATTEMPTS = 2
"""How often a batch is applied to what it probably reads."""


def make_writer(database: Database, quotas: Quotas) -> Writer:
    return Writer(database, quotas) if database.is_sqlite else PostgresqlWriter(database, quotas)


class Writer:
    """Writes batches to SQLite."""

    def __init__(self, database: Database, quotas: Quotas) -> None:
        self._db = database
        self._quotas = quotas
        self.latest_entries = LatestEntries()
        """On PostgreSQL."""

    async def write(
        self, operations: Sequence[Operation[Any]], moved: Moved | None, how: Write, wait: bool
    ) -> Committed:
        """Apply operations and write them, with cursors, in one transaction.

        `wait`: briefly, for rooms that another transaction has locked. Raises `Locked` or another `StoreUnavailable`,
        or an error of a statement: then nothing was written, unless the connection was lost.
        """
        committed, _ = await self._db.write(partial(self._commit, operations, moved), how)
        return committed

    def _commit(
        self, operations: Sequence[Operation[Any]], moved: Moved | None, conn: Connection
    ) -> tuple[Committed, Work]:
        """The transaction."""
        work = Work(conn, _now(), self._quotas)
        if operations:
            self._load(work, _needed(operations))
            _search_mentions(work, operations)
        creates = {name for operation in operations if operation.room_key is None for name in operation.creates}
        if creates and not claim(conn, creates):
            raise Locked("another node creates the same room", [NEW_ROOMS])
        if moved is not None:
            save(conn, moved)  # before a new membership ends the cursors of an earlier one
        outcomes = _apply(work, operations)
        work.save()
        notices = work.finish()
        if moved is not None and moved.receipts:
            notices += receipts.notices(conn, _receipts_of(moved))
        return (outcomes, notices), work

    def _load(self, work: Work, needed: queries.Needed) -> None:
        """Read the rows that the operations need."""
        if needed.rooms:
            work.load(queries.load(work.conn, needed, work.now))


class PostgresqlWriter(Writer):
    """Writes batches to PostgreSQL, and keeps the rows that the next ones probably read."""

    def __init__(self, database: Database, quotas: Quotas) -> None:
        super().__init__(database, quotas)
        self._expected = ExpectedRows()

    async def write(
        self, operations: Sequence[Operation[Any]], moved: Moved | None, how: Write, wait: bool
    ) -> Committed:
        committed = None
        if moved is None and not any(operation.queries for operation in operations):
            committed = await self._write_if_unchanged(operations)
        if committed is None:
            locks = Locks([key for operation in operations for key in operation.room_keys], wait)
            applied, work = await self._db.write(partial(self._commit, operations, moved), how, locks=locks)
            self._expected.note(work)
            committed = applied
        self.latest_entries.add(committed[1])
        return committed

    def _load(self, work: Work, needed: queries.Needed) -> None:
        work.load(queries.load(work.conn, needed, work.now))
        self._expected.note_clock(work.now)

    async def _write_if_unchanged(self, operations: Sequence[Operation[Any]]) -> Committed | None:
        """Write in one round trip operations without queries of their own.

        They are applied to what they probably read, and written if they do read that, in one statement. Returns None,
        with nothing written, if a room is locked or gone, or changes too often.
        """
        needed = _needed(operations)
        loaded = self._expected.guess(needed)
        if loaded is None:
            row, _ = await self._db.run(queries.loading(needed))
            loaded = queries.loaded(row)
            self._expected.note_clock(loaded.now)
        for _ in range(ATTEMPTS):
            if len(loaded.rooms) < len(needed.rooms):
                return None
            work = Work(None, loaded.now)
            work.load(loaded)
            outcomes = _apply(work, operations)
            try:
                row, again = await self._run_if_unchanged(needed, loaded, work.take_writes())
            except Locked:
                return None
            if again and not row["written"]:
                raise StoreUnavailable("the connection was lost, and the messages may have been written")
            self._expected.note_clock(row["now"])
            if row["written"]:
                self._expected.note(work)
                return outcomes, work.finish()
            loaded = queries.loaded(row)
            self._expected.note_mistaken(needed.rooms)
        return None

    async def _run_if_unchanged(
        self, needed: queries.Needed, loaded: queries.Loaded, writes: queries.Writes
    ) -> tuple[Record, bool]:
        """Run `queries.if_unchanged`: its row, and whether it has run again.

        A message on its own is written by a shorter statement, unless it would probably find something else.
        """
        if not self._expected.was_mistaken(needed.rooms):
            short = one_message.if_unchanged(needed, loaded, writes, self._db.node)
            if short is not None:
                row, again = await self._db.run(short)
                if row["written"] or again:
                    return row, again
        return await self._db.run(queries.if_unchanged(needed, loaded, writes, self._db.node))


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
    pairs: set[queries.Pair] = set()
    sends: set[queries.SendKey] = set()
    replies: set[tuple[int, str]] = set()
    sessions: set[int] = set()
    room_keys: set[int] = set()
    for operation in operations:
        sessions.add(operation.actor.session_key)
        for key in operation.room_keys:
            room_keys.add(key)
            pairs.update(zip(repeat(key), operation.users()))
            if isinstance(operation, AppendMessage):
                if operation.client_id is not None:
                    sends.add((key, operation.actor.user_key, operation.client_id))
                if operation.reply_to is not None:
                    replies.add((key, operation.reply_to))
    return queries.Needed(sorted(room_keys), list(pairs), list(sends), list(replies), sorted(sessions - {NO_SESSION}))


def _search_mentions(work: Work, operations: Sequence[Operation[Any]]) -> None:
    mentioning = [
        write
        for write in operations
        if isinstance(write, AppendMessage | EditMessage) and "@" in write.content and _may_write(work, write)
    ]
    if mentioning:  # users who may not write there cannot cause a search
        work.search_mentions((write.room_key or 0, write.content) for write in mentioning)


def _may_write(work: Work, write: AppendMessage | EditMessage) -> bool:
    room = work.rooms.get(write.room_key or 0)
    if room is None:
        return False
    try:
        need = Permission.SEND if isinstance(write, AppendMessage) else Permission.EDIT
        work.check(room, write.actor, need)
    except ActionError:
        return False
    return True
