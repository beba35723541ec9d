"""The lock that makes a node the only one on a SQLite file."""

from __future__ import annotations

import asyncio
import fcntl
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

from tidings.settings import SettingsError

LOCK_PATIENCE_S = 10.0


@asynccontextmanager
async def only_server(database: Path, patience_s: float) -> AsyncIterator[None]:
    """Hold the lock that makes this the only server on a SQLite file. Raises `SettingsError` after `patience_s`.

    Two servers would not deliver each other's messages, and both would checkpoint. A restarted server waits for the
    previous one to end. The operating system releases the lock when the process ends. Other commands of
    the command line do not take the lock: they may run beside a server.
    """
    with _open_lock(database) as file:
        deadline = time.monotonic() + patience_s
        announced = False
        while not _lock(file.fileno()):
            if time.monotonic() >= deadline:
                raise SettingsError(f"another server is running on {database}: stop it first")
            if not announced:
                announced = True
                waiting = f"waiting up to {patience_s:g} s for it to stop"
                print(f"tidings: another server is running on {database}; {waiting}", file=sys.stderr, flush=True)
            await asyncio.sleep(0.05)
        yield


def _open_lock(database: Path) -> BinaryIO:
    """The lock file next to the database, the same one for every path that leads to it."""
    path = database.resolve()
    return path.with_name(f"{path.name}.lock").open("ab")


def _lock(descriptor: int) -> bool:
    """Take an exclusive lock on a file; False if another process has it. Closing the file releases it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
