"""Limits per user and per connection on each kind of action: what is refused, for how long, and what is not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

import server.actions
from server.contract.errors import ActionError, ErrorCode
from server.dispatch import Registry
from server.limits import Limit, Limits, Window
from tests.support.client import Client, Refused, connected
from tests.support.node import running_node

UNLIMITED = {"typing", "logout", "register", "login"}
"""The first is throttled by what it does, the second must always be possible, the others have limits of their own."""


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _take(window: Window, key: str = "omar") -> bool:
    if window.wait(key):
        return False
    window.count(key)
    return True


# -- the window ------------------------------------------------------------------------------------------------------


def test_the_rate_holds_in_the_long_run_when_all_come_as_soon_as_they_may() -> None:
    clock = Clock()
    window = Window(10, 60, clock)
    taken: list[float] = []
    for _ in range(200):
        if wait := window.wait("omar"):
            assert wait <= 120
            clock.now += wait + 1e-6
            assert window.wait("omar") == 0, "the wait that was told is enough"
        window.count("omar")
        taken.append(clock.now)
    assert max(sum(1 for other in taken if at <= other < at + 60) for at in taken) < 20
    assert taken[-1] - taken[0] == pytest.approx(200 / 10 * 60, rel=0.1)


def test_a_burst_at_the_turn_of_a_window_is_one_burst() -> None:
    clock = Clock()
    clock.now = 60 * 20 - 0.1
    window = Window(10, 60, clock)
    assert [_take(window) for _ in range(11)] == [True] * 10 + [False]
    clock.now += 0.2
    assert not _take(window)


def test_each_key_has_a_counter_of_its_own_and_who_is_gone_takes_no_memory() -> None:
    clock = Clock()
    window = Window(1, 60, clock)
    for user in range(1000):
        assert _take(window, str(user))
    assert not _take(window, "7")
    assert len(window) == 1000
    for _ in range(2):
        clock.now += 60
        _take(window, "one")
    assert len(window) <= 2
    clock.now += 3600
    window.wait("one")
    assert len(window) == 0


def test_a_refusal_counts_nothing_neither_on_the_user_nor_on_the_connection() -> None:
    clock = Clock()
    limits = Limits({Limit.SENDS: "4/minute"}, clock)

    def take(connection: str) -> bool:
        try:
            limits.take(Limit.SENDS, 1, connection)
        except ActionError as refused:
            return refused.code is not ErrorCode.RATE_LIMITED
        return True

    assert [take("a") for _ in range(5)] == [True, True, False, False, False]
    assert [take("b") for _ in range(5)] == [True, True, False, False, False]
    assert not take("c"), "the user's"
    clock.now += 121
    assert take("c")


# -- over the wire ---------------------------------------------------------------------------------------------------


def test_every_action_says_what_it_counts_as() -> None:
    assert {action.name for action in Registry(server.actions) if action.limit is None} == UNLIMITED


async def _refused(ask: Callable[[], Awaitable[Any]]) -> int:
    with pytest.raises(Refused) as refused:
        await ask()
    assert refused.value.code == "rate_limited"
    assert refused.value.error["retryable"] is True
    retry_after = refused.value.details["retry_after"]
    assert isinstance(retry_after, int)
    return retry_after


async def test_sends_beyond_the_rate_are_refused_and_nothing_is_done(sqlite_url: str, tmp_path: Path) -> None:
    limited = {"rate_limits": "on", "limit_sends": "3/hour"}
    async with running_node(sqlite_url, tmp_path, **limited) as node:
        omar, diego = await node.register("omar"), await node.register("diego")

        async def send(client: Client, content: str) -> None:
            await client.ask("message", topic_name="noticias", content=content)

        async with connected(node.url, omar) as laptop, connected(node.url, omar, device="phone") as phone:
            await laptop.ask("create", topic_name="noticias")
            await send(laptop, "1")
            await send(laptop, "2")
            assert 1 <= await _refused(lambda: send(laptop, "lost")) <= 7200  # half of three, rounded up
            await send(phone, "3")
            await _refused(lambda: send(phone, "lost"))  # of the user's three
            async with httpx.AsyncClient(base_url=node.url, headers={"Authorization": f"Bearer {omar}"}) as http:
                answer = await http.post("/api/messages", json={"topic_name": "noticias", "content": "lost"})
                assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
                assert int(answer.headers["Retry-After"]) == answer.json()["details"]["retry_after"] >= 1
            # The other kinds, and the others, have their own.
            history = await laptop.ask("history", topic_name="noticias")
            assert [message["content"] for message in history["messages"]] == ["1", "2", "3"]
            assert (await laptop.ask("create", topic_name="otra"))["last_seq"] == 0
            async with connected(node.url, diego) as other:
                await other.ask("subscribe", topic_name="noticias")
                await send(other, "4")
            assert not laptop.closed.is_set()


@pytest.mark.parametrize(
    ("kind", "action", "payload"),
    [
        (Limit.JOINS, "connect_to_room", {"topic_name": "noticias"}),
        (Limit.READS, "get_rooms", {}),
        (Limit.READS, "get_profile", {"username": "nobody"}),
        (Limit.SENDS, "message", {"nonsense": True}),
    ],
)
async def test_each_kind_has_its_own_rate_and_a_failure_counts_too(
    sqlite_url: str, tmp_path: Path, kind: Limit, action: str, payload: dict[str, Any]
) -> None:
    limited = {"rate_limits": "on", f"limit_{kind}": "2/hour"}
    async with (
        running_node(sqlite_url, tmp_path, **limited) as node,
        connected(node.url, await node.register("omar")) as omar,
    ):
        if kind is not Limit.JOINS:
            await omar.ask("create", topic_name="noticias")
        for expected in (False, True):  # a connection has half
            answer = await omar.sio.call(action, payload, timeout=10)
            assert (not answer["ok"] and answer["error"]["code"] == "rate_limited") is expected


async def test_logins_and_registrations_have_settings(sqlite_url: str, tmp_path: Path) -> None:
    limited = {"rate_limits": "on", "limit_logins": "2/hour", "limit_registrations": "1/hour"}
    async with running_node(sqlite_url, tmp_path, **limited) as node:
        await node.register("omar")
        async with httpx.AsyncClient(base_url=node.url) as http:

            async def ask(action: str, username: str) -> int:
                account = {"username": username, "password": "wrong password"}
                return (await http.post(f"/api/{action}", json=account)).status_code

            assert await ask("register", "diego") == 429
            assert [await ask("login", "omar") for _ in range(3)] == [401, 401, 429]
            assert [await ask("login", f"nobody{n}") for n in range(4)] == [401, 401, 401, 429]


async def test_switched_off_there_are_none(sqlite_url: str, tmp_path: Path) -> None:
    limited = {"rate_limits": "off", "limit_reads": "1/hour"}
    async with (
        running_node(sqlite_url, tmp_path, **limited) as node,
        connected(node.url, await node.register("omar")) as omar,
    ):
        for _ in range(5):
            await omar.ask("get_rooms")
