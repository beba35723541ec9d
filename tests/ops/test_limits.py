"""Limits per user and per connection on each kind of action: refusals, their duration, and unaffected actions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from socketio.exceptions import ConnectionError

import tidings.actions
from tests.support.client import Client, Refused, connected
from tests.support.node import running_node
from tidings.actions.dispatch import Registry
from tidings.auth.limits import Limit, Limits, Window
from tidings.contract.errors import ActionError, ErrorCode

UNLIMITED = {"logout", "register", "login", "get_registration", "reset_password", "preview_topic"}
"""`logout` must always be possible; the others have limits of their own."""


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


def test_the_rate_holds_in_the_long_run_for_a_client_that_retries_as_soon_as_allowed() -> None:
    clock = Clock()
    window = Window(10, 60, clock)
    times: list[float] = []
    for _ in range(200):
        if wait := window.wait("omar"):
            assert wait <= 120
            clock.now += wait + 1e-6
            assert window.wait("omar") == 0, "the announced wait is long enough"
        window.count("omar")
        times.append(clock.now)
    assert max(sum(1 for other in times if at <= other < at + 60) for at in times) < 20
    assert times[-1] - times[0] == pytest.approx(200 / 10 * 60, rel=0.1)


def test_a_burst_across_two_windows_counts_as_one() -> None:
    clock = Clock()
    clock.now = 60 * 20 - 0.1
    window = Window(10, 60, clock)
    assert [_take(window) for _ in range(11)] == [True] * 10 + [False]
    clock.now += 0.2
    assert not _take(window)


def test_each_key_has_its_own_counter_and_unused_keys_take_no_memory() -> None:
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


def test_a_refused_action_counts_neither_for_the_user_nor_for_the_connection() -> None:
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
    assert not take("c"), "the limit of the user"
    clock.now += 121
    assert take("c")


def test_a_weight_counts_as_many_actions_and_a_weight_over_the_limit_is_allowed_once() -> None:
    clock = Clock()
    window = Window(10, 60, clock)
    for weight, expected in ((4, 0.0), (4, 0.0), (2, 0.0)):
        assert window.wait("omar", weight) == expected
        window.count("omar", weight)
    assert window.wait("omar", 1)
    heavy = Window(10, 60, clock)
    assert heavy.wait("omar", 1000) == 0.0
    heavy.count("omar", 1000)
    wait = heavy.wait("omar")
    assert 0 < wait < 60 * 200
    clock.now += wait + 1e-6
    assert heavy.wait("omar") == 0.0


# -- over the wire ---------------------------------------------------------------------------------------------------


def test_every_action_but_the_unlimited_ones_has_a_kind_of_limit() -> None:
    assert {action.name for action in Registry(tidings.actions) if action.limit is None} == UNLIMITED


async def _refused(ask: Callable[[], Awaitable[Any]]) -> int:
    with pytest.raises(Refused) as refused:
        await ask()
    assert refused.value.code == "rate_limited"
    assert refused.value.error["retryable"] is True
    retry_after = refused.value.details["retry_after"]
    assert isinstance(retry_after, int)
    return retry_after


async def test_sends_beyond_the_rate_are_refused_without_an_effect(sqlite_url: str, tmp_path: Path) -> None:
    limited = {"rate_limits": "on", "rates": "sends=3/hour"}
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
            await _refused(lambda: send(phone, "lost"))  # the limit of the user
            async with httpx.AsyncClient(base_url=node.url, headers={"Authorization": f"Bearer {omar}"}) as http:
                answer = await http.post("/api/messages", json={"topic_name": "noticias", "content": "lost"})
                assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
                assert int(answer.headers["Retry-After"]) == answer.json()["details"]["retry_after"] >= 1
            # Other kinds of actions and other users have limits of their own.
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
    limited = {"rate_limits": "on", "rates": f"{kind}=2/hour"}
    async with (
        running_node(sqlite_url, tmp_path, **limited) as node,
        connected(node.url, await node.register("omar")) as omar,
    ):
        if kind is not Limit.JOINS:
            await omar.ask("create", topic_name="noticias")
        for expected in (False, True):  # a connection has half of the user's limit
            answer = await omar.sio.call(action, payload, timeout=30)
            assert (not answer["ok"] and answer["error"]["code"] == "rate_limited") is expected


async def test_logins_and_registrations_have_settings(sqlite_url: str, tmp_path: Path) -> None:
    limited = {"rate_limits": "on", "rates": "logins=2/hour,registrations=1/hour"}
    async with running_node(sqlite_url, tmp_path, **limited) as node:
        await node.register("omar")
        async with httpx.AsyncClient(base_url=node.url) as http:

            async def ask(action: str, username: str) -> int:
                account = {"username": username, "password": "wrong password"}
                return (await http.post(f"/api/{action}", json=account)).status_code

            assert await ask("register", "diego") == 429
            assert [await ask("login", "omar") for _ in range(3)] == [401, 401, 429]
            assert [await ask("login", f"nobody{n}") for n in range(7)] == [401] * 6 + [429]


async def test_without_rate_limits_no_action_is_refused(sqlite_url: str, tmp_path: Path) -> None:
    limited = {"rate_limits": "off", "rates": "reads=1/hour"}
    async with (
        running_node(sqlite_url, tmp_path, **limited) as node,
        connected(node.url, await node.register("omar")) as omar,
    ):
        for _ in range(5):
            await omar.ask("get_rooms")


async def test_typing_has_a_rate(sqlite_url: str, tmp_path: Path) -> None:
    limited = {"rate_limits": "on", "rates": "typing=20/hour"}
    async with (
        running_node(sqlite_url, tmp_path, **limited) as node,
        connected(node.url, await node.register("omar")) as omar,
    ):
        await omar.ask("create", topic_name="noticias")
        for on in (True, False) * 5:
            await omar.ask("typing", topic_name="noticias", typing=on)
        await _refused(lambda: omar.ask("typing", topic_name="noticias"))


async def test_a_large_message_counts_by_its_size_and_so_does_a_reaction_that_carries_it(
    sqlite_url: str, tmp_path: Path
) -> None:
    limited = {"rate_limits": "on", "rates": "sends=80/hour"}
    async with running_node(sqlite_url, tmp_path, **limited) as node:
        tokens = [await node.register(name) for name in ("omar", "diego")]
        async with connected(node.url, tokens[0]) as omar, connected(node.url, tokens[1]) as diego:
            await omar.ask("create", topic_name="noticias")
            await diego.ask("subscribe", topic_name="noticias")
            large = await omar.ask("message", topic_name="noticias", content="x" * 16_384)  # five of his 40
            for _ in range(35):
                await omar.ask("message", topic_name="noticias", content="x")
            await _refused(lambda: omar.ask("message", topic_name="noticias", content="x"))
            await diego.ask("react", message_id=large["id"], emoji="👍")
            await _refused(lambda: diego.ask("react", message_id=large["id"], emoji="🎉"))


async def test_a_reaction_counts_eight_times_the_size_of_its_event(sqlite_url: str, tmp_path: Path) -> None:
    limited = {"rate_limits": "on", "rates": "sends=20/hour"}
    async with (
        running_node(sqlite_url, tmp_path, **limited) as node,
        connected(node.url, await node.register("omar")) as omar,
        connected(node.url, await node.register("diego")) as diego,
    ):
        await omar.ask("create", topic_name="noticias")
        await diego.ask("subscribe", topic_name="noticias")
        sent = await omar.ask("message", topic_name="noticias", content="x" * 2_048)
        for remove in (False, True):  # five each, of ten
            await diego.ask("react", message_id=sent["id"], emoji="👍", remove=remove)
        await _refused(lambda: diego.ask("react", message_id=sent["id"], emoji="👍"))


@pytest.mark.parametrize("action", ["edit", "echo"])
async def test_a_large_edit_and_a_large_echo_count_by_their_size(
    sqlite_url: str, tmp_path: Path, action: str
) -> None:
    limited = {"rate_limits": "on", "rates": "sends=24/hour" if action == "echo" else "sends=18/hour"}
    async with (
        running_node(sqlite_url, tmp_path, **limited) as node,
        connected(node.url, await node.register("omar")) as omar,
    ):
        await omar.ask("create", topic_name="noticias")
        sent = await omar.ask("message", topic_name="noticias", content="x")
        target = {"message_id": sent["id"]} if action == "edit" else {}
        await omar.ask(
            action, content="x" * 16_384, **target
        )  # an edit counts as 5 of 10; an echo, there and back, as 9
        with pytest.raises(Refused, match="rate_limited"):
            await omar.ask(action, content="y" * 16_384, **target)
        await omar.ask("message", topic_name="noticias", content="x")


async def test_the_volume_of_a_user_is_counted_in_stored_bytes(sqlite_url: str, tmp_path: Path) -> None:
    limited = {"rate_limits": "on", "rates": "volume=20000/day"}  # a connection has half of the user's limit
    async with running_node(sqlite_url, tmp_path, **limited) as node:
        token = await node.register("omar")

        async def send(client: Client, content: str) -> dict[str, Any]:
            return await client.ask("message", topic_name="noticias", content=content)

        async with connected(node.url, token) as laptop, connected(node.url, token, device="phone") as phone:
            await laptop.ask("create", topic_name="noticias")
            sent = await send(laptop, "é" * 2_000)  # 4,256
            await laptop.ask("edit", message_id=sent["id"], content="x" * 5_000)  # 5,256
            retry_after = await _refused(lambda: send(laptop, "x" * 500))
            assert 1 <= retry_after <= 2 * 86_400
            await phone.ask("echo", content="x" * 4_000)  # 8,512
            await _refused(lambda: send(phone, "x" * 2_000))
            await send(phone, "x" * 500)
            kept = (await laptop.ask("history", topic_name="noticias"))["messages"]
            assert [message["content"] for message in kept] == ["x" * 5_000, "x" * 500]


async def test_creating_rooms_has_a_rate_of_its_own_that_joining_does_not_use(
    sqlite_url: str, tmp_path: Path
) -> None:
    limited = {"rate_limits": "on", "rates": "rooms=8/hour"}
    async with running_node(sqlite_url, tmp_path, **limited) as node:
        omar, *_ = [await node.register(name) for name in ("omar", "diego", "satoshi", "ana", "eva")]
        async with connected(node.url, omar) as client:
            await client.ask("create", topic_name="one", is_private=True)
            await client.ask("create_conversation", usernames=["diego"])
            await client.ask("create_conversation", usernames=["diego"])  # the same one
            await client.ask("message", username="diego", content="hola")
            await client.ask("message", username="satoshi", content="hola")
            await client.ask("create_invitation_link", topic_name="one")
            for ask in (
                lambda: client.ask("create", topic_name="two"),
                lambda: client.ask("create_conversation", usernames=["ana"]),
                lambda: client.ask("create_conversation", usernames=["diego", "ana"]),
                lambda: client.ask("message", username="ana", content="hola"),
                lambda: client.ask("create_invitation_link", topic_name="one"),
            ):
                await _refused(ask)
            await client.ask("invite", topic_name="one", username="diego")
            assert [room["kind"] for room in (await client.ask("get_rooms"))["rooms"]] == [
                "topic",
                "direct",
                "direct",
            ]


async def test_a_stranger_can_bring_a_user_into_a_bounded_number_of_rooms_per_hour(
    sqlite_url: str, tmp_path: Path
) -> None:
    limited = {"rate_limits": "on", "rates": "invites=3/hour"}
    async with running_node(sqlite_url, tmp_path, **limited) as node:
        omar, diego, _ = [await node.register(name) for name in ("omar", "diego", "satoshi")]
        async with connected(node.url, omar) as stranger, connected(node.url, diego) as other:
            for number in range(6):
                await stranger.ask("create", topic_name=f"topic {number}", is_private=True)
            await stranger.ask("create_conversation", usernames=["satoshi", "diego"])
            for number in range(2):
                await stranger.ask("invite", topic_name=f"topic {number}", username="diego")
            await _refused(lambda: stranger.ask("invite", topic_name="topic 5", username="diego"))
            await _refused(lambda: stranger.ask("create_conversation", usernames=["satoshi", "diego"]))
            await stranger.ask("invite", topic_name="topic 5", username="satoshi")
            assert len((await other.ask("get_rooms", member=True))["rooms"]) == 3


@pytest.mark.parametrize("kind", ["connects", "devices"])
async def test_connections_and_new_devices_have_a_rate(sqlite_url: str, tmp_path: Path, kind: str) -> None:
    limited = {"rate_limits": "on", "rates": f"{kind}=3/hour"}
    async with running_node(sqlite_url, tmp_path, **limited) as node:
        token = await node.register("omar")
        for number in range(3):
            async with connected(node.url, token, device=f"device {number}"):
                pass
        refused = Client(node.url, token, device="device 3")
        with pytest.raises(ConnectionError):
            await refused.connect()
        error = refused.refusal["data"]
        assert (error["code"], error["retryable"]) == ("rate_limited", True)
        assert error["details"]["retry_after"] >= 1
        if kind == "devices":
            async with connected(node.url, token, device="device 0"):
                pass
        async with connected(node.url, await node.register("diego")):
            pass
