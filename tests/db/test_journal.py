from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from tests.db.conftest import opened
from tests.db.rows import add_room, add_user, count_entries
from tests.support.commits import commits
from tidings.testing import postgresql
from tidings_db.connections import Statement
from tidings_db.engine import Database
from tidings_db.models import members
from tidings_db.queries import journal
from tidings_db.queries.journal import Loaded, Needed, Writes
from tidings_db.queries.members import MemberStanding
from tidings_db.queries.progress import MarkerRow
from tidings_db.queries.rows import EntryRow, RoomRow

NEEDED = Needed([1], [(1, 1)], [], [], [])
ROOM = RoomRow(1, "r1", "group", True, None, None, None, 1, 0, 0, 0, 0, 0, 0, 0)
EXPECTED = Loaded(1, {1: ROOM}, {(1, 1): MemberStanding("member", False)}, {}, set(), set())
ENTRY = EntryRow(1, 1, "message", "m1", 1, "ana", None, "hola", None, None, 1, 0, None, False)
WRITES = Writes([ENTRY], [ROOM._replace(last_seq=1, messages=1, last_message_seq=1)], {(1, 1): MarkerRow(1, 1)})


@pytest.fixture
async def room(postgres: Database) -> Database:
    """Room 1, with user 1 as its member."""
    await postgres.write(add_user)
    await postgres.write(lambda conn: add_room(conn, 1))
    await postgres.write(
        lambda conn: conn.execute(
            members.insert().values(room_id=1, user_id=1, role="member", joined_at=0, joined_seq=0, blocked=False)
        )
    )
    return postgres


async def test_what_is_expected_is_what_load_returns(room: Database) -> None:
    found = await room.read(lambda conn: journal.load(conn, NEEDED, 0))
    assert found._replace(now=1) == EXPECTED


async def test_a_batch_is_written_only_if_nothing_has_changed(room: Database) -> None:
    statement = journal.if_unchanged(NEEDED, EXPECTED, WRITES, "node")
    row, _ = await room.run(statement)
    assert dict(row) == {"written": True, "now": row["now"], "rooms": None, "standings": None, "withdrawn": None}
    row, _ = await room.run(statement)
    assert not row["written"]
    assert journal.loaded(row)._replace(now=1) == EXPECTED._replace(rooms={1: WRITES.heads[0]})


async def run_while_the_head_changes(room: Database, url: str, statement: Statement, lock: str, late: str) -> Any:
    """The row of a statement during which the room's head changes: after its snapshot, before its lock.

    `lock`: the part of the statement that locks the room; `late`: the same with `{wait}` as a condition.
    """
    assert statement.sql.count(lock) == 1
    wait = "CASE WHEN set_config('lock_timeout', '0', true) = '0' THEN pg_advisory_xact_lock_shared(1)::text = '' END"
    other = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        await other.execute("SELECT pg_advisory_lock(1)")
        waiting = statement._replace(sql=statement.sql.replace(lock, late.format(wait=f"(SELECT {wait})")))
        running = asyncio.ensure_future(room.run(waiting))
        while not await other.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"):
            assert not running.done()
        await other.execute("UPDATE room SET last_seq = 5")
        await other.execute("SELECT pg_advisory_unlock(1)")
        row, _ = await running
        return row
    finally:
        await other.close()


async def test_a_head_that_changes_just_before_the_lock_is_noticed(room: Database, postgresql_url: str) -> None:
    """The statement has begun, so it sees the head as it was before; but it locks the current one."""
    statement = journal.if_unchanged(NEEDED, EXPECTED, WRITES, "node")
    lock = "FROM room WHERE id = ANY($1::bigint[])"
    row = await run_while_the_head_changes(room, postgresql_url, statement, lock, f"{lock} AND {{wait}}")
    assert not row["written"]
    assert journal.loaded(row).rooms[1].last_seq == 5
    assert await room.read(count_entries) == 0


async def test_a_locked_room_is_not_waited_for(room: Database, postgresql_url: str) -> None:
    other = await asyncpg.connect(postgresql_url.replace("+asyncpg", ""))
    try:
        async with other.transaction():
            await other.execute("SELECT 1 FROM room FOR NO KEY UPDATE")
            row, _ = await room.run(journal.if_unchanged(NEEDED, EXPECTED, WRITES, "node"))
            assert not row["written"]
            assert journal.loaded(row).rooms == {}
    finally:
        await other.close()


async def test_a_statement_whose_answer_was_lost_runs_again_and_writes_once(room: Database) -> None:
    async with commits(str(room.url)) as (link, url), opened(url) as behind_link:
        await behind_link.run(journal.loading(NEEDED))
        link.lose_answer()
        (written, *_), again = await behind_link.run(journal.if_unchanged(NEEDED, EXPECTED, WRITES, "node"))
        assert (written, again) == (False, True)
    assert await room.read(count_entries) == 1


async def test_a_statement_on_a_lost_connection_runs_again(room: Database, postgresql_url: str) -> None:
    await room.run(journal.loading(NEEDED))
    await asyncio.to_thread(
        postgresql.execute,
        postgresql_url,
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    (written, *_), _ = await room.run(journal.if_unchanged(NEEDED, EXPECTED, WRITES, "node"))
    assert written


def table_scans(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "Relation Name" in plan and "Scan" in plan["Node Type"]:
        yield plan
    for part in plan.get("Plans", ()):
        yield from table_scans(part)


async def test_a_statement_planned_while_the_tables_are_small_scans_none_of_them(
    room: Database, postgresql_url: str
) -> None:
    """Its plan is kept, and the log grows. The rooms themselves grow slowly, and are locked by their keys."""
    await asyncio.to_thread(postgresql.execute, postgresql_url, "VACUUM ANALYZE")
    needed = NEEDED._replace(sends=[(1, 1, "c")], replies=[(1, "m")], sessions=[1])
    expected = EXPECTED._replace(known_messages={(1, "m")})
    for sql, values in (
        journal.if_unchanged(NEEDED, EXPECTED, WRITES, "node"),
        journal.if_unchanged(needed, expected, WRITES, "node"),
    ):
        (explained,), _ = await room.run(Statement(f"EXPLAIN (FORMAT JSON) {sql}", values))
        scans = list(table_scans(explained[0]["Plan"]))
        assert {scan["Relation Name"] for scan in scans} >= {"entry", "member", "ban", "session", "user", "room"}
        assert [scan for scan in scans if scan["Relation Name"] != "room" and "Index Cond" not in scan] == []
