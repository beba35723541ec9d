"""Runs the scripts of `tests/js`: Node.js with the official socket.io-client."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[1] / "js"
DEADLINE_S = 100


def node(package: str = "socket.io-client") -> str:
    """Node.js, from the PATH or the dev dependencies; skips the test if it or a package is missing (CI: fails)."""
    beside = Path(sys.executable).with_name("node")
    found = shutil.which("node") or (str(beside) if beside.exists() else None)
    if found is not None and (SCRIPTS / "node_modules" / package).is_dir():
        return _itself(found)
    missing = "Node.js" if found is None else f"{package}; `npm ci --prefix tests/js` or `make test` gets it"
    if os.environ.get("CI"):
        pytest.fail(f"CI must test the JavaScript client: no {missing}", pytrace=False)
    pytest.skip(f"no {missing}")


@functools.cache
def _itself(node: str) -> str:
    """The program behind a command: that of the dev dependencies starts another process, which outlives it."""
    asked = [node, "--print", "process.execPath"]
    return subprocess.run(asked, check=True, capture_output=True, text=True, timeout=DEADLINE_S).stdout.strip()


async def run(
    script: str, given: Mapping[str, Any], can: Mapping[str, Callable[[], Awaitable[Any]]] | None = None
) -> dict[str, Any]:
    """Run a script to its end; it fails the test by its exit status. Returns what it said last.

    `can`: what it may ask to have done.
    """
    process = await asyncio.create_subprocess_exec(
        node(),
        str(SCRIPTS / script),
        json.dumps(given),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    complaints = asyncio.create_task(process.stderr.read())
    said: dict[str, Any] = {}
    try:
        async with asyncio.timeout(DEADLINE_S):
            async for line in process.stdout:
                said = json.loads(line)
                if can and "please" in said:
                    await can[said["please"]]()
                    process.stdin.write(b"done\n")
            status = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        process.stdin.close()
        stderr = (await complaints).decode()
    assert status == 0, stderr
    assert said.get("finished") == Path(script).stem, "the script did not come to its end"
    return said
