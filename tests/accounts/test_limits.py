"""Limits on logins and registrations, per account and per address; existing sessions are never affected."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.support.client import connected
from tests.support.node import NO_TLS, PASSWORD, RunningNode, running_node


@pytest.fixture
async def node(sqlite_url: str, tmp_path: Path) -> AsyncIterator[RunningNode]:
    async with running_node(sqlite_url, tmp_path, rate_limits="on") as node:
        yield node


@pytest.fixture
async def http(node: RunningNode) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=node.url, verify=NO_TLS, timeout=30) as client:
        yield client


async def _login(http: httpx.AsyncClient, username: str, password: str = PASSWORD) -> httpx.Response:
    return await http.post("/api/login", json={"username": username, "password": password})


def _is_limited(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
    assert answer.json()["retryable"] is True
    assert 1 <= answer.json()["details"]["retry_after"] <= 120
    assert answer.headers["Retry-After"] == str(answer.json()["details"]["retry_after"])


async def test_login_attempts_on_one_account_are_limited_and_its_sessions_stay(
    node: RunningNode, http: httpx.AsyncClient
) -> None:
    token = await node.register("omar")
    await node.register("diego")
    headers = {"Authorization": f"Bearer {token}"}
    async with connected(node.url, token) as omar:
        for attempt in range(10):  # however the name is cased
            answer = await _login(http, "omar" if attempt % 2 else "OMAR", "wrong password")
            assert answer.status_code == 401
        _is_limited(await _login(http, "omar", "wrong password"))
        _is_limited(await _login(http, "omar"))

        assert (await omar.ask("create", topic_name="noticias"))["topic_name"] == "noticias"
        assert (await http.get("/api/me", headers=headers)).status_code == 200
        refreshed = await http.post("/api/refresh", headers=headers)
        assert refreshed.status_code == 200
        assert not omar.closed.is_set()
    async with connected(node.url, refreshed.json()["token"]) as omar:
        assert (await omar.ask("get_profile", username="omar"))["online"] is True
    assert (await _login(http, "diego")).status_code == 200


async def test_login_attempts_of_one_address_are_limited_across_accounts(
    node: RunningNode, http: httpx.AsyncClient
) -> None:
    token = await node.register("omar")
    for attempt in range(30):
        assert (await _login(http, f"nobody{attempt}")).status_code == 401
    _is_limited(await _login(http, "another"))
    assert (await _login(http, "omar")).status_code == 200, "an account known at this address is not limited"
    assert (await http.get("/api/me", headers={"Authorization": f"Bearer {token}"})).status_code == 200


async def test_registrations_from_one_address_are_limited(http: httpx.AsyncClient) -> None:
    async def register(username: str) -> httpx.Response:
        return await http.post("/api/register", json={"username": username, "password": PASSWORD})

    registered = [await register(f"user{number}") for number in range(20)]
    assert {answer.status_code for answer in registered} == {201}
    _is_limited(await register("another"))
    assert (await _login(http, "user0")).status_code == 200  # a limit of its own
    assert (await _login(http, "another")).status_code == 401


async def test_attempts_to_take_existing_names_are_limited(sqlite_url: str, tmp_path: Path) -> None:
    """By `register` and by `create`: repeated attempts would reveal the names of private topics."""
    limited = {"rate_limits": "on", "rates": "conflicts=3/hour"}
    async with (
        running_node(sqlite_url, tmp_path, **limited) as node,
        httpx.AsyncClient(base_url=node.url, verify=NO_TLS, timeout=30) as http,
    ):
        omar, diego = [{"Authorization": f"Bearer {await node.register(name)}"} for name in ("omar", "diego")]

        async def create(caller: dict[str, str], topic: str, *, private: bool = False) -> httpx.Response:
            fields = {"topic_name": topic, "is_private": private}
            return await http.post("/api/topics", json=fields, headers=caller)

        assert (await create(omar, "secret", private=True)).status_code == 201
        assert (await create(omar, "news")).status_code == 201
        for _ in range(5):  # conflicts with names that the caller can see are not counted
            assert (await create(diego, "news")).status_code == 409
            assert (await create(diego, "omar")).status_code == 409
            assert (await create(omar, "secret")).status_code == 409
        for _ in range(3):
            assert (await create(diego, "secret")).status_code == 409
        for topic in ("secret", "news", "mine"):
            refused = await create(diego, topic)
            assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        assert (await create(omar, "more")).status_code == 201

        for name, status in (("secret", 409), ("eva", 201), ("omar", 409), ("secret", 409), ("secret", 429)):
            account = {"username": name, "password": PASSWORD}
            assert (await http.post("/api/register", json=account)).status_code == status, name
        refused = await http.post("/api/register", json={"username": "ana", "password": PASSWORD})
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        assert 1 <= refused.json()["details"]["retry_after"] <= 7200


async def test_without_rate_limits_no_action_is_refused(lite: RunningNode) -> None:
    await lite.register("omar")
    async with httpx.AsyncClient(base_url=lite.url, timeout=30) as http:
        assert {(await _login(http, "omar")).status_code for _ in range(35)} == {200}
