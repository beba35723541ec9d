"""Password guesses and registrations are limited over all nodes together, on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import cycle, islice
from pathlib import Path

import httpx
import pytest

from tests.accounts.guesses import CROWD, ELSEWHERE, HOME, ask, guess
from tests.nodes.conftest import Registry
from tests.support.client import Refused, connected
from tests.support.node import NO_TLS, PASSWORD, RunningNode, running_node
from tidings.auth.tokens import now_ms
from tidings.testing import postgresql
from tidings_db.models import login_attempts

LIMITED = {
    "rate_limits": "on",
    "rates": "logins=8/hour,registrations=6/hour,conflicts=3/hour",
}


@pytest.fixture
async def urls(cluster: list[RunningNode]) -> list[str]:
    return [node.url for node in cluster]


@pytest.fixture
async def cluster(postgresql_url: str, tmp_path: Path) -> AsyncIterator[list[RunningNode]]:
    """Three nodes with the account omar, registered from HOME."""
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(running_node(postgresql_url, tmp_path / str(n), **LIMITED))
            for n in range(3)
        ]
        assert await ask(nodes[0].url, HOME, "register", "omar", PASSWORD) == 201
        yield nodes


async def test_guesses_spread_over_the_nodes_have_one_limit(urls: list[str]) -> None:
    answers = [await guess(url, HOME) for url in islice(cycle(urls), 24)]
    assert answers == [401] * 8 + [429] * 16
    answers = [await guess(url, source) for url, source in zip(cycle(urls), CROWD, strict=False)]
    assert answers == [401] * 4 + [429] * (len(CROWD) - 4), "first attempts have half of it"
    answers = [await guess(url, CROWD[0]) for url in islice(cycle(urls), 12)]
    assert answers == [401] * 4 + [429] * 8, "and further attempts the other half"


async def test_concurrent_guesses_on_all_nodes_do_not_exceed_the_limit(urls: list[str]) -> None:
    answers = await asyncio.gather(*(guess(url, HOME) for url in islice(cycle(urls), 60)))
    assert answers.count(401) == 8
    assert answers.count(429) == 52


async def test_concurrent_first_attempts_of_one_address_are_one(urls: list[str]) -> None:
    answers = await asyncio.gather(*(guess(url, CROWD[0]) for url in islice(cycle(urls), 30)))
    assert answers.count(401) == 1 + 4
    assert answers.count(429) == 25


async def test_a_session_guesses_its_password_over_every_gateway_within_one_limit(urls: list[str]) -> None:
    async with httpx.AsyncClient(
        base_url=urls[0], transport=httpx.AsyncHTTPTransport(local_address=HOME, verify=NO_TLS), timeout=30
    ) as http:
        token = (await http.post("/api/login", json={"username": "omar", "password": PASSWORD})).json()["token"]
    guess = {"password": "wrong password", "new_password": "another password"}
    codes = []
    async with (
        connected(urls[0], token, device="a") as first,
        connected(urls[1], token, device="b") as second,
        httpx.AsyncClient(base_url=urls[2], verify=NO_TLS, timeout=30) as rest,
    ):
        for _ in range(6):
            for client in (first, second):
                with pytest.raises(Refused) as refused:
                    await client.ask("change_password", **guess)
                codes.append(refused.value.code)
            answer = await rest.post("/api/me/password", json=guess, headers={"Authorization": f"Bearer {token}"})
            codes.append(answer.json()["code"])
        assert codes == ["forbidden"] * 8 + ["rate_limited"] * 10
        assert 0 < answer.json()["details"]["retry_after"] <= 2 * 3600


async def test_the_victim_of_guesses_goes_on_and_signs_in_at_home(urls: list[str]) -> None:
    async with httpx.AsyncClient(
        base_url=urls[0], transport=httpx.AsyncHTTPTransport(local_address=HOME, verify=NO_TLS), timeout=30
    ) as http:
        token = (await http.post("/api/login", json={"username": "omar", "password": PASSWORD})).json()["token"]
    async with connected(urls[1], token) as omar:
        await omar.ask("create", topic_name="noticias")
        for url, source in zip(cycle(urls), [*CROWD, *CROWD], strict=False):
            await guess(url, source)
        assert (await omar.ask("message", topic_name="noticias", content="still here"))["seq"] == 1
        assert await ask(urls[2], HOME, "login", "omar", PASSWORD) == 200
        assert omar.of("closing") == []


async def test_successful_logins_on_all_nodes_do_not_use_up_the_limit(urls: list[str]) -> None:
    for url, source in zip(cycle(urls), CROWD, strict=False):
        assert await ask(url, source, "login", "omar", PASSWORD) == 200


async def test_registrations_of_one_address_are_limited_on_all_nodes_together(urls: list[str]) -> None:
    answers = [
        await ask(url, ELSEWHERE, "register", f"user{n}", PASSWORD) for n, url in enumerate(islice(cycle(urls), 8))
    ]
    assert answers == [201] * 6 + [429] * 2
    answers = [await ask(url, CROWD[0], "register", "omar", PASSWORD) for url in islice(cycle(urls), 5)]
    assert answers == [409] * 3 + [429] * 2


async def test_the_database_contains_no_address_and_no_typed_name(urls: list[str], registry: Registry) -> None:
    await ask(urls[0], ELSEWHERE, "login", "my password by mistake", "x")
    rows = await registry.database.read(lambda conn: conn.execute(login_attempts.select()).all())
    assert len(rows) >= 3
    assert all(len(row.key) == 32 and set(row.key) <= set("0123456789abcdef") for row in rows)


async def test_windows_that_count_no_more_are_deleted(cluster: list[RunningNode], registry: Registry) -> None:
    for source in CROWD[:3]:
        await guess(cluster[0].url, source)

    async def number() -> int:
        return len(await registry.database.read(lambda conn: conn.execute(login_attempts.select()).all()))

    before = await number()
    assert before > 3
    await cluster[1].node.purge.run_once(now_ms() + 23 * 3_600_000)
    assert await number() == before
    await cluster[1].node.purge.run_once(now_ms() + 26 * 3_600_000)
    assert await number() == 0


async def test_without_the_database_a_login_is_unavailable(
    cluster: list[RunningNode], postgresql_url: str, postgresql_server: str
) -> None:
    name = cluster[0].node.database.url.database
    terminate = f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}'"
    refuse = f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"
    await asyncio.to_thread(postgresql.execute, postgresql_server, refuse, terminate)
    try:
        assert await ask(cluster[0].url, HOME, "login", "omar", PASSWORD) == 503
    finally:
        allow = f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"
        await asyncio.to_thread(postgresql.execute, postgresql_server, allow)
    assert await ask(cluster[0].url, HOME, "login", "omar", PASSWORD) == 200
