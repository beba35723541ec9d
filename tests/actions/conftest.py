"""Omar, diego and satoshi, connected."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from tests.support.client import Client, Refused, connected
from tests.support.node import RunningNode


@dataclass
class People:
    server: RunningNode
    tokens: dict[str, str]
    omar: Client
    diego: Client
    satoshi: Client


@pytest.fixture
async def people(server: RunningNode) -> AsyncIterator[People]:
    """Three users, each on one connection."""
    names = ("omar", "diego", "satoshi")
    tokens = {name: await server.register(name) for name in names}
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(server.url, tokens[name])) for name in names]
        yield People(server, tokens, *clients)


async def code(client: Client, action: str, **fields: object) -> str:
    """The code with which an action is refused."""
    with pytest.raises(Refused) as refused:
        await client.ask(action, **fields)
    return refused.value.code
