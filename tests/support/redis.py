"""A Redis server of the tests' own, on a Unix socket, that can be killed, suspended and restarted."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from tidings.testing.memory import folder_in_memory


class RedisServer:
    """Keeps nothing on disk."""

    def __init__(self, home: Path, program: str) -> None:
        self._home = home
        self._program = program
        self._process: asyncio.subprocess.Process | None = None
        self.path = str(home / "redis.sock")
        self.url = f"unix://{self.path}"

    async def start(self) -> None:
        """Start, or start again on the same socket; returns when it answers."""
        options = ("--port", "0", "--unixsocket", self.path, "--save", "", "--appendonly", "no")
        self._process = await asyncio.create_subprocess_exec(
            self._program, *options, cwd=self._home, stdout=asyncio.subprocess.DEVNULL, start_new_session=True
        )
        async with asyncio.timeout(30):
            while True:
                try:
                    await self.ask("PING")
                    return
                except (OSError, RedisError):
                    if self._process.returncode is not None:
                        raise AssertionError("redis-server does not start") from None
                    await asyncio.to_thread(str)

    async def ask(self, *command: str | bytes | int) -> Any:
        """Run a command on a connection of its own."""
        client = Redis.from_url(self.url, protocol=2)
        try:
            return await client.execute_command(*command)
        finally:
            await client.aclose()

    async def channels(self) -> dict[bytes, int]:
        """The channels with subscribers -> the number of their subscribers."""
        channels = await self.ask("PUBSUB", "CHANNELS")
        counts = await self.ask("PUBSUB", "NUMSUB", *channels)
        return dict(counts) if isinstance(counts, dict) else dict(zip(counts[::2], counts[1::2], strict=True))

    async def until_joined(self, nodes: int, within_s: float = 60) -> None:
        """Wait until so many nodes are subscribed to all channels."""
        async with asyncio.timeout(within_s):
            while True:
                counts = (await self.channels()).values()
                if counts and min(counts) >= nodes:
                    return
                await asyncio.sleep(0.05)

    def strike(self) -> None:
        """Send SIGKILL."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()

    async def kill(self) -> None:
        """End it by SIGKILL."""
        if self._process is not None:
            self.strike()
            await self._process.wait()

    def suspend(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


def redis_program() -> str | None:
    """The path of a Redis or Valkey server on this machine; None if there is none."""
    return shutil.which("redis-server") or shutil.which("valkey-server")


@asynccontextmanager
async def redis_server() -> AsyncIterator[RedisServer]:
    """A running server. Skips the test if there is none on this machine, except in CI."""
    program = redis_program()
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("CI must test Redis: there is no redis-server", pytrace=False)
        pytest.skip("there is no redis-server on this machine")
    async with running_redis(program) as server:
        yield server


@asynccontextmanager
async def running_redis(program: str) -> AsyncIterator[RedisServer]:
    """A running server of a program."""
    home = Path(tempfile.mkdtemp(prefix="tidings-redis-", dir=folder_in_memory()))
    server = RedisServer(home, program)
    try:
        await server.start()
        yield server
    finally:
        await server.kill()
        shutil.rmtree(home, ignore_errors=True)
