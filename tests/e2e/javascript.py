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
    bundled = Path(sys.executable).with_name("node")
    path = shutil.which("node") or (str(bundled) if bundled.exists() else None)
    if path is not None and (SCRIPTS / "node_modules" / package).is_dir():
        return _executable(path)
    missing = "Node.js" if path is None else f"{package}; `npm ci --prefix tests/js` or `make test` gets it"
    if os.environ.get("CI"):
        pytest.fail(f"CI must test the JavaScript client: no {missing}", pytrace=False)
    pytest.skip(f"no {missing}")


@functools.cache
def _executable(node: str) -> str:
    """The executable behind a command: the wrapper of the dev dependencies would leave a child process behind."""
    command = [node, "--print", "process.execPath"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=DEADLINE_S).stdout.strip()


async def run(
    script: str, arguments: Mapping[str, Any], commands: Mapping[str, Callable[[], Awaitable[Any]]] | None = None
) -> dict[str, Any]:
    """Run a script to its end and return its last output. Its exit status fails the test.

    `commands`: the functions that the script may call, by printing `{"please": name}`.
    """
    process = await asyncio.create_subprocess_exec(
        node(),
        str(SCRIPTS / script),
        json.dumps(arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    errors = asyncio.create_task(process.stderr.read())
    output: dict[str, Any] = {}
    try:
        async with asyncio.timeout(DEADLINE_S):
            async for line in process.stdout:
                output = json.loads(line)
                if commands and "please" in output:
                    await commands[output["please"]]()
                    process.stdin.write(b"done\n")
            status = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        process.stdin.close()
        stderr = (await errors).decode()
    assert status == 0, stderr
    assert output.get("finished") == Path(script).stem, "the script did not finish"
    return output
