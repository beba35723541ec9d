"""A sender may die at any moment, and misses nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.push.browsers import Browsers
from tests.push.conftest import FAST
from tests.support.client import connected
from tests.support.node import NO_TLS, running_node
from tests.support.process import ServerProcess
from tests.webhooks.receiver import Request

KILLS = 20
MESSAGES_PER_LIFE = 6


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_every_message_is_notified_of_though_the_server_is_killed_twenty_times(
    database_url: str, tmp_path: Path, browsers: Browsers
) -> None:
    """Each message is in a room of its own, so that no notification covers another one's message."""
    server = ServerProcess(
        tmp_path,
        arguments=["--app", "tests.push.application:app"],
        TIDINGS_DATABASE_URL=database_url,
        TIDINGS_PUSH="private",
        TIDINGS_SECRET_KEY="a key for tests only, of 32 bytes and more",
    )

    async def misbehaves(_request: Request) -> int:
        return 503 if len(browsers.service.received) % 5 == 0 else 201

    browsers.service.behaviour = misbehaves
    await server.start()
    try:
        token, others = await server.register("omar"), await server.register("diego")
        async with connected(server.url, token) as omar:
            await browsers.subscribe(omar, "phone")
        sent: dict[str, str] = {}
        headers = {"Authorization": f"Bearer {others}"}
        for life in range(KILLS):
            async with httpx.AsyncClient(base_url=server.url, verify=NO_TLS, headers=headers, timeout=30) as http:
                for number in range(MESSAGES_PER_LIFE):
                    group = {"usernames": ["omar"], "title": f"{life} {number}"}
                    made = await http.post("/api/conversations", json=group)
                    assert made.is_success, made.text
                    room_id = made.json()["room_id"]
                    answer = await http.post("/api/messages", json={"room_id": room_id, "content": "hola"})
                    assert answer.is_success, answer.text
                    sent[room_id] = answer.json()["id"]
            await asyncio.sleep(0.05 * (life % 10))  # at another moment of the sender's work each time
            await server.kill()
            await server.start()
        notified: set[str] = set()
        async with asyncio.timeout(60):
            while notified != sent.keys():
                count = len(browsers.service.accepted)
                notified = {data["room_id"] for data in await browsers.data()}
                if notified != sent.keys():
                    await browsers.service.until(lambda count=count: len(browsers.service.accepted) > count)  # type: ignore[misc]
    finally:
        await server.kill()


async def test_two_nodes_share_the_work_and_one_goes_on_without_the_other(
    postgresql_url: str, tmp_path: Path, browsers: Browsers
) -> None:
    async with (
        running_node(postgresql_url, tmp_path / "one", options=FAST, push="private") as one,
        running_node(postgresql_url, tmp_path / "two", options=FAST, push="private") as two,
        connected(one.url, await one.register("omar")) as omar,
        connected(two.url, await two.register("diego")) as diego,
    ):
        await browsers.subscribe(omar, "phone")
        assert (await diego.ask("get_push"))["public_key"] == (await omar.ask("get_push"))["public_key"]

        async def notified(number: int) -> set[str]:
            """The rooms of which omar is notified, after a message from each node in a room of its own."""
            groups = [await diego.ask("create_conversation", usernames=["omar"], title=f"{number}") for _ in range(2)]
            ids = {group["room_id"] for group in groups}
            for group in groups:
                await diego.ask("message", room_id=group["room_id"], content="hola")
            await browsers.service.until(lambda: len(browsers.service.accepted) >= 2)
            rooms = {data["room_id"] for data in await browsers.data()}
            browsers.service.accepted.clear()
            return rooms - ids | ids - rooms

        assert [await notified(number) for number in range(5)] == [set()] * 5
        await one.node.push.stop()
        assert [await notified(number) for number in range(3)] == [set()] * 3
