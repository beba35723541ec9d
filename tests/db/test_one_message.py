"""The statement of a message on its own writes what that of a batch writes, under the same conditions."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text

from tests.db.rows import add_room, count_entries
from tests.db.test_journal import ENTRY, EXPECTED, NEEDED, ROOM, WRITES, room, run_while_the_head_changes, table_scans
from tidings.testing import postgresql
from tidings_db.connections import Statement
from tidings_db.engine import Database
from tidings_db.queries import journal, one_message
from tidings_db.queries.journal import Loaded, Needed, Writes
from tidings_db.queries.members import MemberStanding
from tidings_db.queries.progress import MarkerRow

__all__ = ["room"]

LATER = 4_000_000_000_000
SECOND = Needed([1], [(1, 1)], [(1, 1, "c2")], [(1, "m1")], [1])
"""What a message needs that has a `client_id`, replies to the first one, and is sent by a session."""
SECOND_EXPECTED = EXPECTED._replace(now=LATER, rooms={1: WRITES.heads[0]}, known_messages={(1, "m1")})
SECOND_ENTRY = ENTRY._replace(
    seq=2, message_id="m2", client_id="c2", reply_to="m1", messages=2, created_at=LATER, content="¿qué tal?"
)
SECOND_WRITES = Writes(
    [SECOND_ENTRY], [ROOM._replace(last_seq=2, messages=2, last_message_seq=2)], {(1, 1): MarkerRow(2, 2)}
)

WRITTEN = (
    "SELECT * FROM entry ORDER BY seq",
    "SELECT * FROM room ORDER BY id",
    "SELECT * FROM read_marker",
    "SELECT node, body FROM feed ORDER BY id",
)


def statement(
    needed: Needed = SECOND, expected: Loaded = SECOND_EXPECTED, writes: Writes = SECOND_WRITES
) -> Statement:
    short = one_message.if_unchanged(needed, expected, writes, "node")
    assert short is not None
    return short


async def _add_session(database: Database) -> None:
    sql = "INSERT INTO session (id, sid, user_id, created_at, expires_at) VALUES (1, 's', 1, 0, 9)"
    await database.write(lambda conn: conn.execute(text(sql)))


async def _rows(database: Database) -> list[Any]:
    return await database.read(lambda conn: [conn.execute(text(sql)).all() for sql in WRITTEN])


async def test_it_writes_what_the_statement_of_a_batch_writes(room: Database) -> None:
    await _add_session(room)
    batch = journal.if_unchanged(NEEDED, EXPECTED, WRITES, "node")
    (written, *_), _ = await room.run(batch)
    assert written
    batch = journal.if_unchanged(SECOND, SECOND_EXPECTED, SECOND_WRITES, "node")
    await room.run(batch)
    expected = await _rows(room)
    undo = (
        "TRUNCATE entry, feed, read_marker",
        ("UPDATE room SET last_seq = 0, messages = 0, last_message_seq = 0, members = 0, removals = 0, changes = 0"),
    )
    for sql in undo:
        await room.write(lambda conn, sql=sql: conn.execute(text(sql)))  # type: ignore[misc]
    for short in (statement(NEEDED, EXPECTED, WRITES), statement()):
        (written, now), _ = await room.run(short)
        assert written
        assert now > 1_700_000_000_000
    assert await _rows(room) == expected
    assert [len(rows) for rows in expected] == [2, 1, 1, 2]


CHANGES = {
    "the head": "UPDATE room SET last_seq = 3",
    "the title": "UPDATE room SET title = 'otra'",
    "the members": "UPDATE room SET changes = 1",
    "the topic": "UPDATE room SET is_private = false",
    "the room is gone": "DELETE FROM room",
    "left": "DELETE FROM member",
    "role": "UPDATE member SET role = 'owner'",
    "muted": "UPDATE member SET muted_until = 32503680000000",
    "blocked": "UPDATE member SET blocked = true",
    "logged out": "UPDATE session SET revoked_at = 1",
    "no session": "DELETE FROM session",
    "disabled": 'UPDATE "user" SET disabled = true',
    "sent before": "UPDATE entry SET client_id = 'c2'",
    "a message of another room": "UPDATE entry SET room_id = 2",
    "no such message": "UPDATE entry SET message_id = 'm0'",
    "a later time": f"UPDATE entry SET created_at = {LATER + 1}",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_it_writes_nothing_after_a_change_that_counts(room: Database, change: str) -> None:
    await _add_session(room)
    await room.write(lambda conn: add_room(conn, 2))
    await room.run(statement(NEEDED, EXPECTED, WRITES))
    if "DELETE FROM room" in change:
        await room.write(lambda conn: conn.execute(text("DELETE FROM entry")))
        await room.write(lambda conn: conn.execute(text("DELETE FROM read_marker")))
        await room.write(lambda conn: conn.execute(text("DELETE FROM member")))
    await room.write(lambda conn: conn.execute(text(change)))
    before = await _rows(room)
    (written, _), _ = await room.run(statement())
    assert not written
    assert await _rows(room) == before


async def test_a_head_that_changes_just_before_the_lock_is_noticed(room: Database, postgresql_url: str) -> None:
    """As for a batch: the statement sees the room as it was before, but it locks the current one."""
    lock = "FROM room WHERE id = $1::bigint FOR"
    late = "FROM room WHERE id = $1::bigint AND {wait} FOR"
    short = statement(NEEDED, EXPECTED, WRITES)
    written, _ = await run_while_the_head_changes(room, postgresql_url, short, lock, late)
    assert not written
    assert await room.read(count_entries) == 0


async def test_a_locked_room_is_not_waited_for(room: Database, postgresql_url: str) -> None:
    other = await asyncpg.connect(postgresql_url.replace("+asyncpg", ""))
    try:
        async with other.transaction():
            await other.execute("SELECT 1 FROM room FOR NO KEY UPDATE")
            row, _ = await room.run(statement(NEEDED, EXPECTED, WRITES))
            assert tuple(row) == (False, None)
    finally:
        await other.close()
    assert await room.read(count_entries) == 0


def test_any_other_batch_takes_the_statement_of_a_batch() -> None:
    two = Writes([ENTRY, SECOND_ENTRY], SECOND_WRITES.heads, SECOND_WRITES.markers)
    for needed, expected, writes in (
        (NEEDED, EXPECTED, two),
        (NEEDED._replace(pairs=[(1, 1), (1, 2)]), EXPECTED, WRITES),
        (NEEDED._replace(sessions=[1, 2]), EXPECTED, WRITES),
        (NEEDED._replace(sessions=[1]), EXPECTED._replace(withdrawn={1}), WRITES),
        (NEEDED, EXPECTED._replace(standings={(1, 1): MemberStanding(None, True)}), WRITES),
        (SECOND, SECOND_EXPECTED._replace(known_messages=set()), SECOND_WRITES),
        (SECOND, SECOND_EXPECTED._replace(sent={(1, 1, "c2"): SECOND_ENTRY}), SECOND_WRITES),
        (NEEDED, EXPECTED, WRITES._replace(entries=[], heads=[], markers={})),
    ):
        assert one_message.if_unchanged(needed, expected, writes, "node") is None


async def test_its_plan_looks_every_row_up_by_its_key(room: Database, postgresql_url: str) -> None:
    """It is planned once, perhaps while the tables are small."""
    await _add_session(room)
    await asyncio.to_thread(postgresql.execute, postgresql_url, "VACUUM ANALYZE")
    for sql, values in (statement(NEEDED._replace(sessions=[1]), EXPECTED, WRITES), statement()):
        (explained,), _ = await room.run(Statement(f"EXPLAIN (FORMAT JSON) {sql}", values))
        scans = list(table_scans(explained[0]["Plan"]))
        assert {scan["Relation Name"] for scan in scans} >= {"entry", "member", "session", "user", "room"}
        assert [scan for scan in scans if "Index Cond" not in scan] == []
