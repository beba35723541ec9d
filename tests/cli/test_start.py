"""The start of `tidings serve` is short, because clients wait for it after each restart.

The tests count imports and garbage collections instead of measuring time, which depends on the machine.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import httpx

from tests.cli.conftest import DEADLINE_S, Command, Start
from tidings.__main__ import UNUSED

IMPORTED = re.compile(r"^import time: +\d+ \| +\d+ \| +(\S+)$", re.MULTILINE)
UNWANTED = {"alembic", "asyncpg", "mako", "pydantic.v1", "sqlalchemy.dialects.postgresql", "websockets.asyncio"}
GENERATORS = {f"tidings.gateways.{name}" for name in ("asyncapi", "openapi", "schemas", "typescript")}
DOCUMENTS = ("/openapi.json", "/asyncapi.json", "/contract.ts")
LOCK = Path(__file__).parents[2] / "requirements-runtime.lock"


async def _imported(serve: Start, *documents: str) -> set[str]:
    """The modules that a server has imported once it has answered its first requests, those of documents last."""
    server = await serve(PYTHONPROFILEIMPORTTIME="1")
    async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE_S) as http:
        for path in ("/health/live", "/health/ready"):
            answer = await http.get(path)
            assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
        for path in documents:
            assert (await http.get(path)).status_code == 200
    assert await server.end(signal.SIGTERM) == 0
    modules = set(IMPORTED.findall(server.err))
    # A failed import of a package is listed, too, but none of its modules.
    assert not [name for name in modules if name.startswith(tuple(f"{package}." for package in UNUSED))]
    assert {"tidings.app", "tidings.cli.serving", "fastapi", "sqlalchemy"} <= modules
    return modules


async def test_a_start_imports_no_unused_packages(serve: Start) -> None:
    for _ in ("a new database", "an existing one"):
        assert await _imported(serve) & (UNWANTED | GENERATORS) == set()


async def test_the_generators_of_documents_are_imported_at_their_first_requests(serve: Start) -> None:
    assert await _imported(serve, *DOCUMENTS) & (UNWANTED | GENERATORS) == GENERATORS


def test_unused_packages_are_not_dependencies() -> None:
    names = set(re.findall(r"^([a-z0-9_.-]+)==", LOCK.read_text(encoding="utf-8"), re.MULTILINE))
    assert "python-engineio" in names
    assert not names & {*UNUSED, "websocket-client"}


async def _traced(trace: str, tmp_path: Path) -> str:
    """The standard error of a server's start, with `trace` run first in its process."""
    code = f"import sys\n{trace}\nfrom tidings.__main__ import main\nsys.exit(main())"
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
    await server.end(signal.SIGKILL)  # a regular exit would collect garbage once more
    return server.err


async def test_a_start_never_runs_a_full_garbage_collection(tmp_path: Path) -> None:
    trace = (
        "import gc\n"
        "gc.callbacks.append(lambda phase, info: phase == 'start' and print(info, file=sys.stderr, flush=True))"
    )
    collections = re.findall(r"'generation': (\d)", await _traced(trace, tmp_path))
    assert len(collections) < 10, collections
    assert "2" not in collections


async def test_a_start_hashes_no_password(tmp_path: Path) -> None:
    """A hash takes a quarter of a second of processor time."""
    trace = (
        "import bcrypt\n"
        "bcrypt.kdf = bcrypt.hashpw = bcrypt.checkpw = lambda *_: print('hashed', file=sys.stderr, flush=True) or b''"
    )
    assert "hashed" not in await _traced(trace, tmp_path)
