"""Nodes to be killed."""

from __future__ import annotations

import asyncio
import os
import signal
from enum import Flag, auto

from tests.support.process import ServerProcess

DEADLINE_S = 30.0


class Target(Flag):
    """What a kill ends."""

    NODE = auto()
    REDIS = auto()


class Victim(ServerProcess):
    def strike(self, number: signal.Signals = signal.SIGKILL) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    async def ended(self) -> int:
        """Wait for the process to end after `strike`; returns its exit status."""
        process, self._process = self._process, None
        assert process is not None
        async with asyncio.timeout(DEADLINE_S):
            return await process.wait()


class Life:
    """The life of a node from one start to the next kill."""

    def __init__(self) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Node:
    def __init__(self, server: Victim) -> None:
        self.server = server
        self.life = Life()
        self.up = False
        """Whether clients may connect."""
