"""The start of `tidings serve`: clients wait for it after each restart, so it leaves out what can wait.

What costs time is counted (imports, walks of the garbage collector), not the time: that depends on the machine.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import httpx

from server.__main__ import UNUSED
from tests.cli.conftest import DEADLINE_S, Command, Start

IMPORTED = re.compile(r"^import time: +\d+ \| +\d+ \| +(\S+)$", re.MULTILINE)
MIGRATING = {"alembic", "mako"}
UNWANTED = {"asyncpg", "pydantic.v1"}
LOCK = Path(__file__).parents[2] / "requirements-runtime.lock"


async def _imported(serve: Start) -> set[str]:
    """The modules that a server has imported when it is ready and has answered a first request."""
    server = await serve(PYTHONPROFILEIMPORTTIME="1")
    async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE_S) as http:
        for path in ("/health/live", "/health/ready"):
            answer = await http.get(path)
            assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert await server.end(signal.SIGTERM) == 0
    found = set(IMPORTED.findall(server.err))
    # The attempt to import a package is listed, too, if it fails; a part of it is not.
    assert not [name for name in found if name.startswith(tuple(f"{package}." for package in UNUSED))]
    assert {"server.app", "server.serving", "fastapi", "sqlalchemy"} <= found
    return found


async def test_a_start_imports_nothing_that_it_does_not_use(serve: Start) -> None:
    first = await _imported(serve)
    assert first & MIGRATING  # so it shows
    assert first & UNWANTED == set()
    assert await _imported(serve) & (UNWANTED | MIGRATING) == set()


def test_what_a_server_leaves_out_is_no_dependency_of_it() -> None:
    names = set(re.findall(r"^([a-z0-9_.-]+)==", LOCK.read_text(encoding="utf-8"), re.MULTILINE))
    assert "python-engineio" in names
    assert not names & {*UNUSED, "websocket-client"}


async def test_the_collector_does_not_look_through_what_is_imported(tmp_path: Path) -> None:
    code = (
        "import gc, sys\n"
        "gc.callbacks.append(lambda phase, info: phase == 'start' and print(info, file=sys.stderr, flush=True))\n"
        "from server.__main__ import main\n"
        "sys.exit(main())"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")}
    server = Command(
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            code,
            "serve",
            "--port",
            "0",
            env=environment | {"TIDINGS_DATA_DIR": str(tmp_path / "data"), "TIDINGS_LOG_LEVEL": "warning"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    )
    await server.listening()
    await server.end(signal.SIGKILL)  # at its end it collects, once
    walks = re.findall(r"'generation': (\d)", server.err)
    assert len(walks) < 10, walks
    assert "2" not in walks
