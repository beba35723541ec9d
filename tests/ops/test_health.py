"""`/health/ready` answers correctly, quickly, and at almost no cost."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import httpx
import pytest
from sqlalchemy.engine import make_url

import tidings_db.postgresql
import tidings_db.sqlite
from tests.delivery.support import principal, store_held
from tests.rest.problems import problem
from tests.support.client import DEADLINE_S, Refused, connected
from tests.support.commits import commits
from tests.support.node import RunningNode, running_node
from tidings.log import health, journal
from tidings.log.messages import AppendMessage
from tidings.testing import postgresql
from tidings_db.failures import BUSY_TIMEOUT_MS, COMMAND_TIMEOUT_S

SOON_S = 8.0
"""Far above `PATIENCE_S`, for a busy machine, and far below the timeouts of the store."""
assert SOON_S * 1000 < BUSY_TIMEOUT_MS < COMMAND_TIMEOUT_S * 1000


@asynccontextmanager
async def breakable(
    url: str, tmp_path: Path
) -> AsyncIterator[tuple[RunningNode, Callable[[], None], Callable[[], None]]]:
    """A node, a function that makes its store silent, and one that ends the silence."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(make_url(url).database or "", isolation_level=None)) as conn:
            async with running_node(url, tmp_path) as node:
                yield node, lambda: conn.execute("BEGIN IMMEDIATE") and None, conn.rollback
    else:
        async with commits(url) as (link, url_of_link), running_node(url_of_link, tmp_path) as node:
            yield node, link.freeze, link.thaw


async def until(http: httpx.AsyncClient, status: int) -> httpx.Response:
    async with asyncio.timeout(DEADLINE_S):
        while (answer := await http.get("/health/ready")).status_code != status:
            pass
        return answer


async def test_readiness_is_answered_soon_while_the_store_is_silent(database_url: str, tmp_path: Path) -> None:
    async with (
        breakable(database_url, tmp_path) as (node, silence, end),
        httpx.AsyncClient(base_url=node.url, timeout=SOON_S) as http,
    ):
        await until(http, 200)
        silence()
        problem(await until(http, 503), "unavailable", 503)
        for _ in range(3):
            problem(await http.get("/health/ready"), "unavailable", 503)
        assert "tidings_ready 0.0" in (await http.get("/metrics")).text
        assert (await http.get("/health/live")).status_code == 200
        end()
        await until(http, 200)


async def test_readiness_fails_while_a_change_waits_too_long(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "LONGEST_WAIT_S", 0.3)
    monkeypatch.setattr(health, "REUSE_S", 1e9)  # the cached probe does not hide the wait
    async with running_node(database_url, tmp_path) as node:
        token = await node.register("omar")
        async with connected(node.url, token) as omar, httpx.AsyncClient(base_url=node.url, timeout=SOON_S) as http:
            await omar.ask("create", topic_name="noticias")
            await until(http, 200)
            async with store_held(database_url):
                sent = omar.send("message", {"topic_name": "noticias", "content": "x"})
                answer = await until(http, 503)
                assert "wait" in answer.json()["detail"]
            assert (await sent)["ok"]
            await until(http, 200)


async def test_the_age_of_a_queued_change_counts_from_its_hand_over(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "LONGEST_WAIT_S", 0.3)
    monkeypatch.setattr(journal, "MAX_BATCH", 1)
    async with running_node(database_url, tmp_path) as node:
        token = await node.register("omar")
        async with connected(node.url, token) as omar, httpx.AsyncClient(base_url=node.url, timeout=SOON_S) as http:
            room_id = (await omar.ask("create", topic_name="noticias"))["room_id"]
            omar_here, room_key = principal(node, "omar"), node.node.hub.key(room_id)
            loop, writer = asyncio.get_running_loop(), node.node.journal
            observed: list[tuple[float, float]] = []
            async with store_held(database_url):
                sent = [writer.hand_over(AppendMessage(omar_here, room_key, text)) for text in ("first", "second")]
                handed_over = loop.time()
                sent[0].add_done_callback(lambda _: observed.append((loop.time() - handed_over, writer.age)))
                await until(http, 503)
            assert [entry["seq"] for entry in await asyncio.gather(*sent)] == [1, 2]
            ((waited, age),) = observed
            assert age >= waited > 0.3
            assert writer.age == 0


async def test_readiness_fails_for_a_time_after_changes_were_refused_until_one_is_written(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (tidings_db.postgresql, tidings_db.sqlite):
        monkeypatch.setattr(module, "BUSY_TIMEOUT_MS", 300)
    monkeypatch.setattr(journal, "HELD_S", 0.3)
    monkeypatch.setattr(health, "REUSE_S", 0.0)
    monkeypatch.setattr(health, "LONGEST_WAIT_S", 1e9)
    async with running_node(database_url, tmp_path) as node:
        token = await node.register("omar")
        async with connected(node.url, token) as omar, httpx.AsyncClient(base_url=node.url, timeout=SOON_S) as http:
            await omar.ask("create", topic_name="noticias")
            await until(http, 200)
            async with store_held(database_url):
                with pytest.raises(Refused, match="unavailable"):
                    await omar.ask("message", topic_name="noticias", content="x")
            await node.node.database.probe()  # the store itself is fine again
            problem(await http.get("/health/ready"), "unavailable", 503)
            with monkeypatch.context() as later:
                later.setattr(health, "LONGEST_WAIT_S", 0.1)
                await until(http, 200)
            problem(await http.get("/health/ready"), "unavailable", 503)
            await omar.ask("message", topic_name="noticias", content="x")
            assert (await http.get("/health/ready")).status_code == 200


async def test_frequent_readiness_checks_do_not_probe_the_store_more_often(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "REUSE_S", 1e9)
    async with breakable(database_url, tmp_path) as (node, silence, end):
        database, probes = node.node.database, 0
        probe = database.probe

        async def counted() -> None:
            nonlocal probes
            probes += 1
            await probe()

        monkeypatch.setattr(database, "probe", counted)
        async with httpx.AsyncClient(base_url=node.url, timeout=SOON_S) as http:

            async def ask(times: int, status: int) -> None:
                answers = await asyncio.gather(*(http.get("/health/ready") for _ in range(times)))
                assert {answer.status_code for answer in answers} == {status}

            await ask(5, 200)
            await ask(20, 200)
            assert probes <= 1
            await node.register("omar")  # a commit proves the same as a probe
            await ask(20, 200)
            assert probes <= 1
            monkeypatch.setattr(health, "REUSE_S", 0.0)
            silence()
            before = probes
            await ask(20, 503)
            await ask(20, 503)
            assert probes == before + 1  # checks do not queue up behind a store that hangs
            end()


async def _alter_database(server_url: str, name: str, option: str, value: str) -> None:
    await asyncio.to_thread(
        postgresql.execute,
        server_url,
        f"ALTER DATABASE {name} {option} {value}",
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",
    )


@pytest.mark.parametrize(
    ("option", "bad", "good"),
    [("SET default_transaction_read_only =", "on", "off"), ("WITH ALLOW_CONNECTIONS", "false", "true")],
    ids=["read only", "no connections"],
)
async def test_while_postgresql_refuses_every_gateway_answers_unavailable(
    postgresql_url: str, postgresql_server: str, tmp_path: Path, option: str, bad: str, good: str
) -> None:
    name = postgresql_url.partition("?")[0].rpartition("/")[2]
    async with (
        running_node(postgresql_url, tmp_path) as node,
        httpx.AsyncClient(base_url=node.url, timeout=SOON_S) as http,
    ):
        token = await node.register("omar")
        async with connected(node.url, token) as omar:
            await omar.ask("create", topic_name="noticias")
            await _alter_database(postgresql_server, name, option, bad)
            problem(await until(http, 503), "unavailable", 503)
            with pytest.raises(Refused, match="unavailable"):
                await omar.ask("message", topic_name="noticias", content="x")
            refused = await http.post(
                "/api/topics", json={"topic_name": "deportes"}, headers={"Authorization": f"Bearer {token}"}
            )
            problem(refused, "unavailable", 503)
            await _alter_database(postgresql_server, name, option, good)
            await until(http, 200)
            await omar.ask("message", topic_name="noticias", content="x")
