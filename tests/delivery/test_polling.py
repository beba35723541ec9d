"""The guarantees for a client that only polls."""

from __future__ import annotations

import gc
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.support.client import Client, connected
from tests.support.node import RunningNode

ONLY_SOCKETIO = True


async def test_a_stock_client_that_polls_gets_every_missed_message(server: RunningNode) -> None:
    """python-engineio closes the connection on a payload of more than 16 packets."""
    tokens = {name: await server.register(name) for name in ("omar", "diego")}
    async with connected(server.url, tokens["omar"]) as omar:
        async with connected(server.url, tokens["diego"]) as diego:
            room = await omar.ask("create", topic_name="noticias")
            await diego.ask("subscribe", topic_name="noticias")
        sent = [omar.send("message", {"room_id": room["room_id"], "content": str(n)}) for n in range(100)]
        for answer in sent:
            assert (await answer)["ok"]
        async with _polling(server.url, tokens["diego"], cursors={room["room_id"]: 0}) as poller:
            assert poller.contents() == [str(n) for n in range(100)]
            # Live events, a hundred in one burst.
            sent = [omar.send("message", {"room_id": room["room_id"], "content": str(n)}) for n in range(100, 200)]
            await poller.until(lambda: len(poller.of("message")) == 200 or poller.closed.is_set())
            assert poller.contents() == [str(n) for n in range(200)]


@asynccontextmanager
async def _polling(url: str, token: str, **auth: Any) -> AsyncIterator[Client]:
    client = Client(url, token, **auth)
    try:
        yield await client.connect(["polling"])
    finally:
        with warnings.catch_warnings():
            # The library closes its HTTP session without reading the answer to its last request.
            warnings.simplefilter("ignore", ResourceWarning)
            await client.close()
            del client
            gc.collect()
