"""`TIDINGS_PARSER=msgpack`: the whole server, with the official client and its msgpack parser under Node.js."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.e2e.javascript import run
from tests.support.process import ServerProcess

pytestmark = pytest.mark.long


async def test_the_official_client_works_with_msgpack_over_every_transport(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "data", TIDINGS_PARSER="msgpack")

    async def restart() -> None:
        assert await server.terminate() == 0
        await server.start()

    await server.start()
    try:
        names = ("omar", "diego")
        tokens = dict(zip(names, await asyncio.gather(*map(server.register, names)), strict=True))
        await run("msgpack.mjs", {"url": server.url, "tokens": tokens}, {"restart": restart})
    finally:
        await server.kill()
