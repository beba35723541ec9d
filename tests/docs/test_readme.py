"""What README.md shows is what happens: its snippets run as they stand, but for the server's address."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from docs.generate import ROOT
from tests.support.client import connected
from tests.support.node import RunningNode, running_node

ADDRESS = "http://127.0.0.1:8000"
README = (ROOT / "README.md").read_text("utf-8")


@pytest.fixture
async def node(sqlite_url: str, tmp_path: Path) -> AsyncIterator[RunningNode]:
    async with running_node(sqlite_url, tmp_path) as running:
        yield running


def snippet(language: str, containing: str, url: str) -> str:
    """The one code block of that language with that text in it, for a server elsewhere."""
    (found,) = [
        block for block in re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S) if containing in block
    ]
    assert language == "sh" or ADDRESS in found
    return str(found.replace(ADDRESS, url))


async def run(*command: str, cwd: Path, state: Path) -> str:
    """Run to the end; returns what it printed. Fails if it fails, or prints to stderr."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}",
        "XDG_STATE_HOME": str(state),
    }
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(30):
            out, problems = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert (process.returncode, problems.decode()) == (0, ""), out.decode() + problems.decode()
    return out.decode()


async def test_the_javascript_snippet_reaches_a_python_client(node: RunningNode, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(ROOT / "tests/js/node_modules")
    (tmp_path / "snippet.mjs").write_text(snippet("js", "socket.io-client", node.url), "utf-8")
    async with connected(node.url, await node.register("omar")) as omar:
        await omar.ask("create", topic_name="noticias")
        printed = await run("node", "snippet.mjs", cwd=tmp_path, state=tmp_path)
        message = await omar.event("message")
        assert (message["sender"], message["content"]) == ("memoor", "Hola")
        assert f"on disk with seq {message['seq']}" in printed
        assert "2 members" in printed
        await run("node", "snippet.mjs", cwd=tmp_path, state=tmp_path)  # signs in to the account that is there now
        assert (await omar.event("message"))["seq"] == message["seq"] + 1


async def test_the_python_snippet_reaches_another_client(node: RunningNode, tmp_path: Path) -> None:
    (tmp_path / "snippet.py").write_text(snippet("python", "import socketio", node.url), "utf-8")
    async with connected(node.url, await node.register("omar")) as omar:
        await omar.ask("create", topic_name="noticias")
        printed = await run(sys.executable, "snippet.py", cwd=tmp_path, state=tmp_path)
        message = await omar.event("message")
        assert (message["sender"], message["content"]) == ("diego", "Hola")
        assert "up to date; 0 came in" in printed
        assert f"on disk with seq {message['seq']}" in printed
        await run(sys.executable, "snippet.py", cwd=tmp_path, state=tmp_path)
        assert (await omar.event("message"))["seq"] == message["seq"] + 1


async def test_the_terminal_snippet_delivers_to_who_was_away(node: RunningNode, tmp_path: Path) -> None:
    script = snippet("sh", "python -m client_demo", node.url)
    script = script.replace("source .venv/bin/activate\n", "")
    script = script.replace("python -m client_demo", f"python -m client_demo --server {node.url}")
    printed = await run("bash", "-euc", script, cwd=ROOT, state=tmp_path)
    *_, last = printed.splitlines()
    assert "omar" in last
    assert "Buenos días" in last


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
async def test_the_curl_snippet_sends_once_however_often_it_is_run(node: RunningNode, tmp_path: Path) -> None:
    script = snippet("sh", "curl", node.url)
    sending = script[script.rindex("curl ") :]
    async with connected(node.url, await node.register("omar")) as omar:
        await omar.ask("create", topic_name="noticias")
        await run(
            "bash",
            "-euc",
            script.replace("curl ", "curl -sS ") + sending.replace("curl ", "curl -sS "),
            cwd=ROOT,
            state=tmp_path,
        )
        history = await omar.ask("history", topic_name="noticias")
        assert [(m["sender"], m["content"]) for m in history["messages"]] == [("satoshi", "Hola")]
