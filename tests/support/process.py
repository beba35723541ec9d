"""A real server process that can be killed and restarted on the same data and address."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.node import PASSWORD, token_from
from tests.support.ports import port_of


class ServerProcess:
    def __init__(
        self,
        data_dir: Path,
        *,
        stderr: int | None = None,
        arguments: Sequence[str] = (),
        directory: Path | None = None,
        python: Path | str = sys.executable,
        **environment: str,
    ) -> None:
        """`stderr`: the descriptor for its log; None: inherited. `arguments`: further command-line arguments.

        `directory`: its working directory; None: inherited. `python`: the interpreter of its environment.
        """
        self.data_dir = data_dir
        self._arguments = arguments
        self._directory = directory
        self._python = python
        self._stderr = stderr
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")} | {
            "TIDINGS_DATA_DIR": str(data_dir),
            "TIDINGS_RATE_LIMITS": "off",
            "TIDINGS_PUBLIC_CHANNEL": "entry",
            "TIDINGS_LOG_LEVEL": "warning",
            "TIDINGS_DRAIN_WAIT": "0",
            **environment,
        }
        self._port = port_of(self)
        self.url = ""
        self.printed = ""
        self._process: asyncio.subprocess.Process | None = None

    def publish_url(self) -> None:
        """Let the other nodes reach this one over HTTP. Call it before the start (on Linux, where ports are kept)."""
        assert self._port, "no port is reserved on this system"
        self._environment["TIDINGS_NODE_URL"] = f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Serve, after a restart on the same port; returns when the server listens."""
        self._process = await asyncio.create_subprocess_exec(
            str(self._python),
            "-m",
            "tidings",
            "serve",
            "--host",
            "127.0.0.1",
            "--port",
            str(self._port),
            *self._arguments,
            cwd=self._directory,
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=self._stderr,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(60):
                while True:
                    line = (await self._process.stdout.readline()).decode()
                    if not line:
                        raise RuntimeError(f"the server did not start: exit status {await self._process.wait()}")
                    self.printed += line
                    if match := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                        self._port = int(match[1])
                        self.url = match[0]
                        return
        except TimeoutError:
            await self.kill()
            raise

    async def complaints(self) -> str:
        """The log of an ended process; needs `stderr=PIPE`."""
        assert self._process is not None, "not started"
        assert self._process.stderr is not None, "its log goes elsewhere"
        return (await self._process.stderr.read()).decode()

    async def kill(self) -> None:
        """Kill with SIGKILL, without a clean-up."""
        await self._signal(signal.SIGKILL)

    async def terminate(self) -> int:
        """Stop with SIGTERM; returns the exit status."""
        return await self._signal(signal.SIGTERM)

    async def _signal(self, number: int) -> int:
        process = self._process
        if process is None:
            return 0
        if process.returncode is None:
            process.send_signal(number)
        async with asyncio.timeout(30):
            if process.stdout is not None:
                self.printed += (await process.stdout.read()).decode()
            status = await process.wait()
        self._process = None
        return status

    async def register(self, username: str, password: str = PASSWORD) -> str:
        return await token_from(self.url, "register", username, password)
