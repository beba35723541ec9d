"""A real server process on a free port, and the four users of the stories."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.process import ServerProcess

NAMES = ("omar", "diego", "satoshi", "memoor")
SECRET = "a key for these tests only, of 32 bytes and more"


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    """`tidings serve` on its own data directory; `start` restarts it on the same address."""
    server = ServerProcess(tmp_path / "data", TIDINGS_SECRET_KEY=SECRET)
    await server.start()
    try:
        yield server
    finally:
        await server.kill()


@pytest.fixture
async def tokens(process: ServerProcess) -> dict[str, str]:
    """The tokens of omar, diego, satoshi and memoor, by name."""
    registered = await asyncio.gather(*(process.register(name) for name in NAMES))
    return dict(zip(NAMES, registered, strict=True))
