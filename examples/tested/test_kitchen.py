"""Run `pytest` in this folder, with Tidings and its extra `testing`, and pytest-asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from kitchen import TOPIC, cook

from tidings.testing import Tidings
from tidings_client import Client


@pytest.fixture
def tidings_options() -> dict[str, Any]:
    return {"app": "kitchen:app"}


@pytest.fixture
async def ana(tidings: Tidings) -> AsyncIterator[Client]:
    """The client of a cook who is at work."""
    async with tidings.client("ana", device="stove") as client:
        await client.join(TOPIC)
        cooking = asyncio.create_task(cook(client))
        yield client
        assert not cooking.done(), cooking
        cooking.cancel()


@pytest.fixture
async def omar(tidings: Tidings) -> AsyncIterator[Client]:
    """The client of a waiter."""
    async with tidings.client("omar") as client:
        await client.join(TOPIC)
        yield client


def place(tidings: Tidings, number: int) -> Any:
    return asyncio.to_thread(httpx.post, f"{tidings.url}/orders/{number}")


async def ready(waiter: Client, last: int) -> list[int]:
    """The numbers that the waiter is told, up to the last one."""
    numbers: list[int] = []
    async with asyncio.timeout(20):
        async for event in waiter.room(topic_name=TOPIC).events("order.ready"):
            numbers.append(event.data["number"])
            if numbers[-1] == last:
                break
    return numbers


async def test_what_is_ordered_while_the_cook_is_cut_off_is_cooked(
    tidings: Tidings, ana: Client, omar: Client
) -> None:
    await tidings.cut(ana, stay=True)
    for number in (1, 2, 3):
        await place(tidings, number)
    await tidings.restore(ana)
    assert await ready(omar, 3) == [1, 2, 3]


async def test_nothing_is_cooked_twice_after_a_lost_answer(tidings: Tidings, ana: Client, omar: Client) -> None:
    await tidings.lose_answer(ana, "publish")
    for number in (1, 2):
        await place(tidings, number)
    assert await ready(omar, 2) == [1, 2]


async def test_an_order_is_refused_while_the_store_is_away(tidings: Tidings, ana: Client, omar: Client) -> None:
    await tidings.stop_store()
    assert (await place(tidings, 1)).status_code == 503
    await tidings.resume_store()
    assert (await place(tidings, 1)).status_code == 200
    assert await ready(omar, 1) == [1]


async def test_the_kitchen_goes_on_after_a_restart(tidings: Tidings, ana: Client, omar: Client) -> None:
    await place(tidings, 1)
    await tidings.restart()
    await place(tidings, 2)
    assert await ready(omar, 2) == [1, 2]


async def test_the_kitchen_goes_on_when_the_tokens_have_expired(tidings: Tidings, ana: Client, omar: Client) -> None:
    await tidings.advance(48 * 3600)
    await place(tidings, 1)
    assert await ready(omar, 1) == [1]
