"""A search reveals nothing about foreign private rooms, not even by its cost.

The cost is counted in steps of SQLite's virtual machine and rows of PostgreSQL's plan; the cost within FTS5 is
measured as processor time of the thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, event, insert, text, update

from tests.search.support import fill, write_step
from tidings_db.engine import Database
from tidings_db.models import entries, members, users
from tidings_db.queries import consumers, search
from tidings_db.queries.words import parse

SPY = 2
OTHERS = 5_000
"""The number of foreign messages with the word."""


def world(conn: Connection, rooms_of_the_spy: int) -> None:
    """User 1 wrote `secret` many times in a private room; the spy has a few messages in rooms of their own."""
    theirs = {room_key: ["nothing to see", "here"] for room_key in range(1, rooms_of_the_spy + 1)}
    private = {10_001: [f"secret number {n}" for n in range(OTHERS)]}
    fill(conn, theirs | private)
    conn.execute(
        insert(users).values(id=SPY, username="eve", username_key="eve", created_at=0, disabled=False, admin=False)
    )
    conn.execute(update(members).where(members.c.room_id != 10_001).values(user_id=SPY))
    conn.execute(update(entries).where(entries.c.room_id != 10_001).values(sender_id=SPY))


def index(conn: Connection) -> None:
    """Index all logs, without the pauses of the indexer."""
    keys = consumers.behind(conn, search.CONSUMER, 0, 1000)
    while (step := search.read_step(conn, keys, 2_000, 10_000_000)).moves:
        write_step(conn, step)


def find(conn: Connection, query: str, room_key: int | None = None) -> list[str]:
    found = search.find(conn, SPY, parse(query), room_key=room_key, limit=20)
    return [row.entry.content or "" for row in found.hits]


@contextmanager
def steps_counted(conn: Connection) -> Iterator[list[int]]:
    counted = [0]
    driver: Any = conn.connection.driver_connection

    def step() -> None:
        counted[0] += 1

    driver.set_progress_handler(step, 1)
    try:
        yield counted
    finally:
        driver.set_progress_handler(None, 0)


def plans_of(conn: Connection, query: str) -> list[dict[str, Any]]:
    """The executed plan of each statement of a search (PostgreSQL)."""
    executed: list[tuple[str, Any]] = []

    def record(_conn: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        executed.append((statement, parameters))

    event.listen(conn, "before_cursor_execute", record)
    try:
        find(conn, query)
    finally:
        event.remove(conn, "before_cursor_execute", record)
    explain = "EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) "
    return [
        conn.exec_driver_sql(explain + statement, parameters).scalar_one()[0]["Plan"]
        for statement, parameters in executed
    ]


def visited(plan: dict[str, Any]) -> int:
    """The rows that the nodes of a plan visited."""
    removed = sum(rows for name, rows in plan.items() if name.startswith("Rows Removed"))
    here = int((plan["Actual Rows"] + removed) * plan["Actual Loops"])
    return here + sum(map(visited, plan.get("Plans", ())))


@pytest.mark.parametrize("rooms", [3, 300])
async def test_a_word_in_foreign_rooms_costs_as_much_work_as_a_word_nowhere(database: Database, rooms: int) -> None:
    await database.write(lambda conn: world(conn, rooms))
    await database.write(index)
    if not database.is_sqlite:
        await database.write(
            lambda conn: conn.execute(text("SELECT gin_clean_pending_list('ix_search_words_words')"))
        )
        await database.write(lambda conn: conn.execute(text("ANALYZE")))

    def work(conn: Connection) -> dict[str, int]:
        costs: dict[str, int] = {}
        for query in ("secret", "nowhere", "secre*", "nowher*", '"secret number"', '"nowhere near"'):
            assert find(conn, query) == []
            if conn.dialect.name == "sqlite":
                with steps_counted(conn) as counted:
                    find(conn, query)
                costs[query] = counted[0]
            else:
                costs[query] = sum(map(visited, plans_of(conn, query)))
        assert "here" in find(conn, "here")
        return costs

    costs = await database.read(work)
    # FTS5 finds the page of a word in a table of its own: the steps vary with the place in the alphabet.
    for foreign, absent in (("secret", "nowhere"), ("secre*", "nowher*"), ('"secret number"', '"nowhere near"')):
        assert costs[absent] > 0
        assert abs(costs[foreign] - costs[absent]) <= 10 + costs[absent] // 100, costs


@pytest.mark.parametrize("rooms", [3, 60, 300])
async def test_fts5_spends_no_more_time_on_a_word_in_foreign_rooms(sqlite_url: str, rooms: int) -> None:
    database = Database(sqlite_url)
    await database.start()
    await database.write(lambda conn: world(conn, rooms))
    await database.write(index)

    def spent(conn: Connection) -> dict[str, float]:
        """The least processor time (s) of each query; they alternate, so that interference affects both alike."""
        times_by_query: dict[str, list[float]] = {"secret": [], "nowhere": []}
        for _ in range(60):
            for query, times in times_by_query.items():
                began = time.thread_time()
                find(conn, query)
                times.append(time.thread_time() - began)
        return {query: min(times) for query, times in times_by_query.items()}

    times_by_query = await database.read(spent)
    await database.stop()
    assert times_by_query["secret"] < 1.5 * times_by_query["nowhere"] + 20e-6, times_by_query


async def test_too_many_words_for_all_rooms_are_refused_and_allowed_in_one_room(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await database.write(lambda conn: world(conn, 10))
    await database.write(index)
    monkeypatch.setattr(search, "MAX_TERMS", 20)

    def ask(conn: Connection) -> None:
        assert find(conn, "nothing see") == ["nothing to see"] * 10
        with pytest.raises(search.TooManyTerms) as refused:
            find(conn, "nothing to see")
        assert refused.value.words == 2
        assert find(conn, "nothing to see", room_key=1) == ["nothing to see"]

    await database.read(ask)


async def test_the_newest_of_many_rooms_come_first_on_every_page(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "TERMS_IN_QUERY", 4)
    monkeypatch.setattr(search, "NEWEST", 10)
    contents = {room_key: [f"word {room_key} {n}" for n in range(1 + room_key % 7)] for room_key in range(1, 40)}
    await database.write(lambda conn: fill(conn, contents))
    await database.write(index)

    def pages(conn: Connection, limit: int) -> list[str]:
        results: list[str] = []
        before = None
        while True:
            page = search.find(conn, 1, parse("word"), before=before, limit=limit)
            results += [row.entry.content or "" for row in page.hits]
            if page.next is None:
                return results
            before = search.document(conn, page.next)

    newest_first = [content for room in contents.values() for content in room][::-1]
    for limit in (1, 7, 100, 500):
        assert await database.read(lambda conn, limit=limit: pages(conn, limit)) == newest_first  # type: ignore[misc]
