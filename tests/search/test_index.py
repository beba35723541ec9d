"""The index follows the logs exactly, despite interruptions, and forgets deleted contents."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import threading
from importlib import import_module
from typing import Any

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, func, select, text

from tests.search.support import (
    assert_index_is_of_the_logs,
    caught_up,
    change,
    fill,
    index_all,
    indexed,
    write_step,
)
from tests.support.client import DEADLINE_S
from tests.support.depth import examples
from tidings.log.indexer import Indexer
from tidings_db.engine import Database
from tidings_db.models import rooms, search_documents
from tidings_db.queries import consumers, search
from tidings_db.queries.words import parse, words

LOGS = {room_key: [f"alpha w{room_key} n{n}" for n in range(1, 31)] for room_key in (1, 2, 3)}


def contents(conn: Connection, query: str, **fields: Any) -> list[str]:
    options: dict[str, Any] = {"room_key": None, "before": None, "limit": 1000, **fields}
    return [row.entry.content or "" for row in search.find(conn, 1, parse(query), **options).hits]


def steps(conn: Connection, limit: int = 200) -> int:
    """Index all logs within one transaction; returns the number of steps."""
    for count in range(1000):
        step = search.read_step(conn, [1, 2, 3], limit, 10_000)
        if not step.moves:
            return count
        write_step(conn, step)
    raise AssertionError("no end")


async def test_the_index_equals_the_logs_after_any_changes_in_steps_of_any_size(database: Database) -> None:
    await database.write(lambda conn: fill(conn, LOGS))
    chance = random.Random(7)

    def disturb(conn: Connection) -> None:
        for _ in range(10):
            room_key, seq = chance.randint(1, 3), chance.randint(1, 30)
            change(conn, room_key, seq, chance.choice([None, f"beta {chance.random()}", "…", "alpha"]))
        for _ in range(chance.randint(0, 4)):
            step = search.read_step(conn, [1, 2, 3], chance.randint(1, 9), chance.choice([1, 100, 10_000]))
            write_step(conn, step)

    for _ in range(8):
        await database.write(disturb)
    await index_all(database)
    await database.write(assert_index_is_of_the_logs)
    assert await database.read(lambda conn: consumers.behind(conn, search.CONSUMER, 0, 9)) == []


async def test_newer_messages_are_found_first_across_rooms(database: Database) -> None:
    logs = {room_key: LOGS[room_key][:5] for room_key in (2, 1, 3)}
    await database.write(lambda conn: (fill(conn, logs), steps(conn)))
    sent = [content for room_contents in logs.values() for content in room_contents]
    assert await database.read(lambda conn: contents(conn, "alpha")) == sent[::-1]


_KILLED = """
import asyncio, os, signal, sys
from tidings_db.engine import Database
from tidings_db.queries import search
from tidings.log import indexer

indexer._STEP_ENTRIES, indexer._LONGEST_STEP = 7, 1
write, written = search.write_step, 0

def write_and_die(conn, step):
    global written
    moved = write(conn, step)
    written += bool(moved)  # empty until PostgreSQL has noticed that the previous process died
    if written == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return moved

async def main():
    database = Database(sys.argv[1])
    await database.start()
    search.write_step = write_and_die
    running = indexer.Indexer(database)
    await running.start()
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_an_indexer_continues_exactly_where_a_killed_one_committed(database: Database) -> None:
    await database.write(lambda conn: fill(conn, LOGS))
    known = select(func.count()).select_from(search_documents)
    url = database.url.render_as_string(hide_password=False)
    for deaths in (1, 2):
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", _KILLED, url)
        assert await asyncio.wait_for(process.wait(), DEADLINE_S * 2) == -signal.SIGKILL
        assert await database.read(lambda conn: conn.execute(known).scalar_one()) == 21 * deaths
    await index_all(database)
    assert await database.read(lambda conn: conn.execute(known).scalar_one()) == 90
    await database.write(assert_index_is_of_the_logs)


async def test_two_indexers_index_the_same_logs_once(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidings.log.indexer._STEP_ENTRIES", 5)
    other = Database(database_url) if not database.is_sqlite else database
    if other is not database:
        await other.start()
    await database.write(lambda conn: fill(conn, LOGS))
    indexers = [Indexer(database), Indexer(other)]
    for indexer in indexers:
        await indexer.start()
    await asyncio.gather(*map(caught_up, indexers))
    for indexer in indexers:
        await indexer.stop()
    if other is not database:
        await other.stop()
    await database.write(assert_index_is_of_the_logs)


async def test_a_step_whose_cursor_has_moved_changes_nothing_in_that_room(database: Database) -> None:
    await database.write(lambda conn: fill(conn, LOGS))
    stale = await database.read(lambda conn: search.read_step(conn, [1, 2], 40, 10_000))
    assert stale.moves == {1: (0, 30), 2: (0, 10)}
    ahead = await database.read(lambda conn: search.read_step(conn, [1], 7, 10_000))
    assert await database.write(lambda conn: write_step(conn, ahead)) == {1}
    assert await database.write(lambda conn: write_step(conn, stale)) == {2}
    await index_all(database)
    await database.write(assert_index_is_of_the_logs)


async def test_a_room_that_cannot_be_indexed_does_not_delay_the_others(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await database.write(lambda conn: fill(conn, LOGS))
    write = search.write_step

    def broken(conn: Connection, step: search.Step) -> set[int]:
        if 2 in step.moves:
            raise ValueError("room 2 is broken")
        return write(conn, step)

    monkeypatch.setattr(search, "write_step", broken)
    indexer = Indexer(database)
    await indexer.start()
    async with asyncio.timeout(DEADLINE_S):
        done = indexer._done
        while await database.read(lambda conn: consumers.behind(conn, search.CONSUMER, 0, 9)) != [2]:
            await done.wait()
            done = indexer._done
    monkeypatch.undo()
    await caught_up(indexer)
    await indexer.stop()
    await database.write(assert_index_is_of_the_logs)


async def test_messages_deleted_by_retention_are_neither_found_nor_indexed_again(database: Database) -> None:
    def take(conn: Connection, room_key: int, upto: int) -> None:
        conn.exec_driver_sql(f"DELETE FROM entry WHERE room_id = {room_key} AND seq <= {upto}")
        conn.execute(rooms.update().where(rooms.c.id == room_key).values(first_seq=upto + 1))
        search.remove(conn, room_key, upto)

    await database.write(lambda conn: fill(conn, LOGS))
    await database.write(lambda conn: take(conn, 1, 20))  # before it was indexed
    behind = await database.read(lambda conn: search.read_step(conn, [2], 10, 10_000))
    await database.write(lambda conn: take(conn, 2, 20))  # during a step
    assert await database.write(lambda conn: write_step(conn, behind)) == set()
    await index_all(database)
    await database.write(lambda conn: (change(conn, 1, 25, None), take(conn, 1, 26)))  # afterwards
    await index_all(database)
    await database.write(assert_index_is_of_the_logs)
    remaining = await database.read(lambda conn: contents(conn, "alpha"))
    assert sorted(remaining) == sorted([*LOGS[1][26:], *LOGS[2][20:], *LOGS[3]])
    await database.write(lambda conn: (search.remove(conn, 3, 2**53), consumers.forget(conn, 3)))
    assert await database.read(lambda conn: contents(conn, "w3")) == []


async def test_the_migration_marks_the_messages_of_an_older_index(database: Database) -> None:
    contents = ["plain", "see https://example.org", "run `it`", "both http://example.org and `it`", "edited", "gone"]

    def migrated(conn: Connection) -> None:
        fill(conn, {1: contents, 2: contents})
        change(conn, 1, 5, "now with https://example.org")
        change(conn, 2, 6, None)
        steps(conn)
        if conn.dialect.name == "sqlite":
            for key, stored in conn.exec_driver_sql("SELECT rowid, words FROM search_words").all():
                older = " ".join(word for word in stored.split() if "··" not in word)
                conn.exec_driver_sql("UPDATE search_words SET words = ? WHERE rowid = ?", (older, key))
        else:
            for word in conn.scalars(text("SELECT word FROM ts_stat('SELECT words FROM search_words')")).all():
                if "··" in word:
                    conn.execute(text("UPDATE search_words SET words = ts_delete(words, :word)"), {"word": word})
        assert all("··" not in word for stored in indexed(conn).values() for word in stored)
        with Operations.context(MigrationContext.configure(conn)):
            import_module("tidings_db.migrations.versions.r0008_search_marks").upgrade()
        assert_index_is_of_the_logs(conn)

    await database.write(migrated)


@settings(deadline=None, max_examples=examples(80), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=400))
async def test_any_content_can_be_indexed_and_is_found_by_its_words(database: Database, content: str) -> None:
    class _Undo(Exception):
        pass

    def write(conn: Connection) -> None:
        fill(conn, {1: [content]})
        steps(conn)
        assert_index_is_of_the_logs(conn)
        for word in parse(content)[:5]:
            found = search.find(conn, 1, (word,), limit=2)
            assert len(found.hits) == 1, word
        raise _Undo

    with pytest.raises(_Undo):
        await database.write(write)


@pytest.mark.parametrize("piece", ["の", "ﷺ", "x", "x ", "ß1 ", "\U0001f989", "a\u0301", "'", "\\ "])
async def test_the_longest_messages_can_be_indexed(database: Database, piece: str) -> None:
    content = (piece * 16_384)[:16_384]
    await database.write(lambda conn: fill(conn, {1: [content]}))
    await index_all(database)
    await database.write(assert_index_is_of_the_logs)


def _raw(conn: Connection) -> bytes:
    blocks = conn.exec_driver_sql("SELECT block FROM search_words_data").scalars()
    texts = conn.exec_driver_sql("SELECT c0 FROM search_words_content").scalars()
    return b"".join(blocks) + "".join(texts).encode()


async def test_words_of_deleted_and_edited_messages_are_purged_from_the_file_of_sqlite(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    await database.start()
    # FTS5 stores only the part of a word that differs from the word before it.
    secrets = [b"yzzyplugh", b"uuxfrotz", b"rueeaten"]
    logs = {1: [f"alpha {n}" for n in range(300)] + ["xyzzyplugh", "quuxfrotz", "grueeaten"]}
    await database.write(lambda conn: fill(conn, logs))
    await index_all(database)
    raw = await database.read(_raw)
    assert [secret in raw for secret in secrets] == [True] * 3

    def forget(conn: Connection) -> None:
        change(conn, 1, 301, None)
        change(conn, 1, 302, "harmless")
        search.remove(conn, 1, 1)
        steps(conn)

    await database.write(forget)
    raw = await database.read(_raw)
    assert [secret in raw for secret in secrets] == [True] * 3  # FTS5 keeps deleted words until a merge
    await index_all(database)
    raw = await database.read(_raw)
    assert [secret in raw for secret in secrets] == [False, False, True]
    assert await database.read(search.to_purge) == 0
    assert await database.read(lambda conn: contents(conn, "alpha", limit=2)) == ["alpha 299", "alpha 298"]
    await database.stop()


async def test_a_purge_completes_while_messages_are_indexed(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    await database.start()
    chance = random.Random(3)
    contents_ = [" ".join(f"w{chance.randint(0, 5000)}" for _ in range(12)) for _ in range(3000)]
    await database.write(lambda conn: fill(conn, {1: ["xyzzyplugh", *contents_[:2500]], 2: contents_[2500:]}))
    await database.write(steps)

    def between(conn: Connection, first: bool) -> bool:
        write_step(conn, search.read_step(conn, [2], 5, 10_000))
        return search.merge(conn, 1, whole=first)

    def lag(conn: Connection) -> None:  # marks room 2 as not indexed
        search.remove(conn, 2, 500)
        conn.exec_driver_sql("UPDATE consumer_cursor SET seq = 0 WHERE room_id = 2")
        change(conn, 1, 1, None)
        write_step(conn, search.read_step(conn, [1], 5, 10_000))

    await database.write(lag)
    count = 1
    more = await database.write(lambda conn: between(conn, True))
    while more and count < 2000:
        more = await database.write(lambda conn: between(conn, False))
        count += 1
    assert 10 < count < 2000
    assert b"yzzyplugh" not in await database.read(_raw)
    await index_all(database)
    await database.write(assert_index_is_of_the_logs)
    await database.stop()


async def test_the_words_of_messages_are_folded_outside_the_event_loop(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message of 16,384 ligatures takes 32 ms."""
    await database.write(lambda conn: fill(conn, LOGS))
    threads: set[str] = set()

    def recording(content: str) -> list[str]:
        threads.add(threading.current_thread().name)
        return words(content)

    monkeypatch.setattr(search, "words", recording)
    await index_all(database)
    assert threads
    assert threading.current_thread().name not in threads


async def test_an_indexer_that_is_far_behind_takes_larger_steps(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step costs a transaction: small steps would not keep up with busy senders."""
    await database.write(lambda conn: fill(conn, {1: [f"w{n}" for n in range(3000)]}))
    read_step, sizes = search.read_step, []

    def recording(conn: Connection, keys: Any, entries: int, size: int) -> search.Step:
        sizes.append(entries)
        return read_step(conn, keys, entries, size)

    monkeypatch.setattr(search, "read_step", recording)
    indexer = Indexer(database)
    await indexer.start()
    await indexer.caught_up()
    await indexer.stop()
    assert sizes[:4] == [100, 200, 400, 800]
    assert len(sizes) <= 8
    await database.write(assert_index_is_of_the_logs)


async def test_a_room_counts_as_behind_until_all_of_it_is_indexed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await database.write(lambda conn: fill(conn, {1: [f"w{n}" for n in range(3000)]}))
    now = 0
    indexer, read_step = Indexer(database, lambda: now / 1024), search.read_step
    looks: list[tuple[float, int]] = []

    def looked(conn: Connection, *args: Any) -> search.Step:
        nonlocal now
        looks.append((indexer.lag, indexer.rooms_behind))
        now += 1
        return read_step(conn, *args)

    monkeypatch.setattr(search, "read_step", looked)
    indexer.appended([1])
    await indexer.start()
    await indexer.caught_up()
    assert (indexer.rooms_behind, indexer.lag) == (0, 0)
    await indexer.stop()
    assert looks[:6] == [(steps / 1024, 1) for steps in range(6)]
