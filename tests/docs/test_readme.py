"""The snippets of README.md run as printed, except for the server's address."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from importlib.metadata import metadata
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


async def run(*command: str, cwd: Path, state: Path, server: str = "") -> str:
    """Run to the end; returns what it printed. Fails if it fails, or prints to stderr."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}",
        "XDG_STATE_HOME": str(state),
    }
    if server:
        environment["TIDINGS_SERVER"] = server
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(100):
            out, problems = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert (process.returncode, problems.decode()) == (0, ""), out.decode() + problems.decode()
    return out.decode()


async def test_the_javascript_snippet_reaches_a_python_client(node: RunningNode, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(ROOT / "tests/js/node_modules")
    (tmp_path / "chat.mjs").write_text(snippet("js", "socket.io-client", node.url), "utf-8")
    async with connected(node.url, await node.register("omar")) as omar:
        await omar.ask("create", topic_name="noticias")
        printed = await run("node", "chat.mjs", cwd=tmp_path, state=tmp_path)
        message = await omar.event("message")
        assert (message["sender"], message["content"]) == ("memoor", "Hola")
        assert f"on disk with seq {message['seq']}" in printed
        assert "2 members" in printed
        await run("node", "chat.mjs", cwd=tmp_path, state=tmp_path)  # signs in to the account that is there now
        assert (await omar.event("message"))["seq"] == message["seq"] + 1


async def test_the_python_snippet_reaches_another_client(node: RunningNode, tmp_path: Path) -> None:
    (tmp_path / "chat.py").write_text(snippet("python", "import socketio", node.url), "utf-8")
    async with connected(node.url, await node.register("omar")) as omar:
        await omar.ask("create", topic_name="noticias")
        printed = await run(sys.executable, "chat.py", cwd=tmp_path, state=tmp_path)
        message = await omar.event("message")
        assert (message["sender"], message["content"]) == ("diego", "Hola")
        assert "up to date; 0 arrived" in printed
        assert f"on disk with seq {message['seq']}" in printed
        await run(sys.executable, "chat.py", cwd=tmp_path, state=tmp_path)
        assert (await omar.event("message"))["seq"] == message["seq"] + 1


async def test_the_terminal_snippet_delivers_to_who_was_away(node: RunningNode, tmp_path: Path) -> None:
    script = snippet("sh", "tidings-chat", node.url).replace("source .venv/bin/activate\n", "")
    printed = await run("bash", "-euc", script, cwd=ROOT, state=tmp_path, server=node.url)
    *_, last = printed.splitlines()
    assert "omar" in last
    assert "Buenos días" in last


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
async def test_the_curl_snippet_sends_once_however_often_it_is_run(node: RunningNode, tmp_path: Path) -> None:
    script = snippet("sh", "curl", node.url)
    assert "--json" not in script  # since curl 7.82; Ubuntu 22.04 has 7.81
    sending = script[script.rindex("\ncurl ") :]
    async with connected(node.url, await node.register("omar")) as omar:
        await omar.ask("create", topic_name="noticias")
        quiet = (script + sending).replace("curl ", "curl -sS ")
        printed = await run("bash", "-euc", quiet, cwd=ROOT, state=tmp_path)
        history = await omar.ask("history", topic_name="noticias")
        assert [(m["sender"], m["content"]) for m in history["messages"]] == [("satoshi", "Hola")]
    registered, joined, first, again = map(json.loads, printed.splitlines())  # each answer on a line of its own
    assert registered["token"]
    assert joined["topic_name"] == "noticias"
    assert first["seq"] == again["seq"]


def test_every_block_is_run_by_a_test_but_the_one_that_starts_the_server() -> None:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S)
    marks = {"make run", "tidings-chat", "curl", "socket.io-client", "import socketio"}
    assert [sum(mark in block for mark in marks) for _, block in blocks] == [1] * len(marks)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M)
    assert {"run", "test", "test-all"} <= set(targets)


def test_extras_are_installed_by_the_names_that_the_packages_give_them() -> None:
    """Before version 23.3, pip takes `asyncio_client` for another extra than `asyncio-client`."""
    documents = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    installed = {
        (package, extra)
        for document in documents
        for line in re.findall(r"pip install [^`\n]*", document.read_text("utf-8"))
        for package, extra in re.findall(r"([\w.-]+)\[([\w.-]+)\]", line)
    }
    assert ("python-socketio", "asyncio-client") in installed
    for package, extra in installed:
        assert extra in (metadata(package).get_all("Provides-Extra") or [])
