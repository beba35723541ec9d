"""A change of somebody's rights on one node counts for their next act on another one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.client import Client, Refused, connected
from tests.support.node import running_node


class People(NamedTuple):
    omar: Client
    """The owner, on one node."""
    diego: Client
    """A member, on another node."""


@pytest.fixture
async def people(postgresql_url: str, tmp_path: Path) -> AsyncIterator[People]:
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(running_node(postgresql_url, tmp_path / str(n))) for n in range(2)]
        names = ("omar", "diego")
        omar, diego = [
            await stack.enter_async_context(connected(node.url, await node.register(name)))
            for node, name in zip(nodes, names, strict=True)
        ]
        await omar.ask("create", topic_name="noticias")
        await diego.ask("subscribe", topic_name="noticias")
        yield People(omar, diego)


async def outcome(client: Client, action: str, **fields: Any) -> str:
    try:
        await client.ask(action, **fields)
    except Refused as refused:
        return refused.code
    return "ok"


async def test_a_mute_holds_for_the_next_message(people: People) -> None:
    for _ in range(3):
        for duration, expected in ((3600, "forbidden"), (0, "ok")):
            await people.omar.ask("mute", topic_name="noticias", username="diego", duration=duration)
            assert await outcome(people.diego, "message", topic_name="noticias", content="hola") == expected


async def test_a_ban_holds_for_the_next_message_and_the_next_join(people: People) -> None:
    for _ in range(3):
        assert await outcome(people.diego, "message", topic_name="noticias", content="hola") == "ok"
        await people.omar.ask("ban", topic_name="noticias", username="diego")
        assert await outcome(people.diego, "message", topic_name="noticias", content="hola") == "forbidden"
        assert await outcome(people.diego, "subscribe", topic_name="noticias") == "forbidden"
        await people.omar.ask("unban", topic_name="noticias", username="diego")
        assert await outcome(people.diego, "subscribe", topic_name="noticias") == "ok"


async def test_a_role_holds_for_the_next_act(people: People) -> None:
    message_id = (await people.omar.ask("message", topic_name="noticias", content="hola"))["id"]
    for role, expected in (("moderator", "ok"), ("member", "forbidden"), ("moderator", "ok")):
        await people.omar.ask("set_role", topic_name="noticias", username="diego", role=role)
        assert await outcome(people.diego, "delete", message_id=message_id) == expected


async def test_a_block_holds_for_the_next_message(people: People) -> None:
    assert await outcome(people.diego, "message", username="omar", content="hola") == "ok"
    for _ in range(3):
        for action, expected in (("block", "forbidden"), ("unblock", "ok")):
            await people.omar.ask(action, username="diego")
            assert await outcome(people.diego, "message", username="omar", content="hola") == expected
