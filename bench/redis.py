"""A Redis server of the benchmark's own: nothing on disk, on a Unix socket, on the load generator's core."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.cpu import cores, on_core
from bench.process import START_S, STOP_S, ServerFailed, uninterrupted

RETRY_S = 0.02


class NoRedis(ServerFailed):
    """Redis is not installed, or does not start."""


@dataclass
class Redis:
    path: str
    """Of its socket."""
    pid: int

    @property
    def url(self) -> str:
        return f"unix://{self.path}"


def program() -> str:
    """Redis or Valkey. Raises `NoRedis`."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        raise NoRedis("Redis is not installed: there is no redis-server")
    return found


@contextmanager
def redis_server() -> Iterator[Redis]:
    """A new Redis; it ends afterwards."""
    # The path of a Unix socket has a limit of some 100 bytes.
    home = Path(tempfile.mkdtemp(prefix="tidings-redis-"))
    path = str(home / "socket")
    command = [program(), "--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no"]
    process: subprocess.Popen[bytes] | None = None
    try:
        with uninterrupted(), on_core(cores()[1]):
            process = subprocess.Popen(
                command, cwd=home, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
            )
        deadline = time.monotonic() + START_S
        while not _listens(path):
            if process.poll() is not None or time.monotonic() > deadline:
                raise NoRedis("redis-server does not start")
            time.sleep(RETRY_S)
        yield Redis(path, process.pid)
    finally:
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(home, ignore_errors=True)


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(path)
        except OSError:
            return False
    return True
