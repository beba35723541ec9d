"""Waiting for a client."""

from __future__ import annotations

import asyncio

from tidings_client import Client

DEADLINE_S = 60.0


async def until(client: Client, event: str, condition: object) -> None:
    """Wait for an event of the client after which a condition holds."""
    happened = asyncio.Event()
    unsubscribe = client.on(event, lambda *_: happened.set())
    assert callable(condition)
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            happened.clear()
            await happened.wait()
    unsubscribe()
