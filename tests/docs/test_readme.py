"""The code of README.md, and of docs/client.md, run as printed on a fresh server, except for the server's address."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from functools import partial
from importlib.metadata import metadata
from pathlib import Path

import pytest

from docs.generate import ROOT
from tests.e2e import javascript
from tests.support.client import connected
from tests.support.node import RunningNode, running_node

ADDRESS = "http://127.0.0.1:8000"
README = (ROOT / "README.md").read_text("utf-8")
CLIENT = (ROOT / "docs/client.md").read_text("utf-8")
DEADLINE_S = 100.0


@pytest.fixture
async def node(sqlite_url: str, tmp_path: Path) -> AsyncIterator[RunningNode]:
    async with running_node(sqlite_url, tmp_path) as running:
        yield running


def snippet(language: str, containing: str, url: str, page: str = README) -> str:
    """The one code block of that language that contains the text, with the address of the test's server."""
    (code,) = [
        block for block in re.findall(rf"^```{language}\n(.*?)^```$", page, re.M | re.S) if containing in block
    ]
    assert language == "sh" or ADDRESS in code
    return str(code.replace(ADDRESS, url))


async def run(*command: str, cwd: Path, state: Path, server: str = "") -> str:
    """Run a command to its end; returns its output. Fails on an exit status or any output on stderr."""
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
        async with asyncio.timeout(DEADLINE_S):
            out, problems = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert (process.returncode, problems.decode()) == (0, ""), out.decode() + problems.decode()
    return out.decode()


async def printed(*command: str, cwd: Path, token: str, last: str) -> list[str]:
    """Run a program until it has printed a line, and kill it; returns its lines. Fails on any output on stderr."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env=os.environ | {"TOKEN": token},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    lines: list[str] = []
    try:
        async with asyncio.timeout(DEADLINE_S):
            while lines[-1:] != [last] and (line := await process.stdout.readline()):
                lines.append(line.decode().removesuffix("\n"))
    finally:
        if process.returncode is None:
            process.kill()
        _, problems = await process.communicate()
    assert problems.decode() == ""
    return lines


@pytest.mark.parametrize(("language", "program"), [("js", "chat.mjs"), ("python", "chat.py")])
async def test_the_snippet_with_a_library_goes_on_where_it_was(
    node: RunningNode, tmp_path: Path, language: str, program: str
) -> None:
    (tmp_path / "node_modules/@tidings").mkdir(parents=True)
    (tmp_path / "node_modules/@tidings/client").symlink_to(ROOT / "clients/javascript")
    (tmp_path / program).write_text(snippet(language, "room.messages", node.url), "utf-8")
    if language == "js" and not (ROOT / "clients/javascript/dist/node.js").exists():
        pytest.skip("the JavaScript library is not built: `make client`")
    # Not the wrapper of the dev dependencies: that one would be killed, and its child stay.
    run_program = partial(printed, javascript.node() if language == "js" else sys.executable, program, cwd=tmp_path)
    satoshi = await node.register("satoshi")
    async with connected(node.url, await node.register("omar")) as omar:
        await omar.ask("create", topic_name="noticias")
        first, missed, last = "1 satoshi: Hola", "2 omar: Buenas", "3 satoshi: Hola"
        assert await run_program(token=satoshi, last=first) == [first]
        await omar.ask("message", topic_name="noticias", content="Buenas")
        # If it was killed before it asked for the next message, the first one comes again.
        assert await run_program(token=satoshi, last=last) in ([missed, last], [first, missed, last])


async def test_the_javascript_snippet_without_a_library_reaches_a_python_client(
    node: RunningNode, tmp_path: Path
) -> None:
    (tmp_path / "node_modules").symlink_to(ROOT / "tests/js/node_modules")
    (tmp_path / "chat.mjs").write_text(snippet("js", "socket.io-client", node.url, CLIENT), "utf-8")
    printed = await run("node", "chat.mjs", cwd=tmp_path, state=tmp_path)
    assert {"1 members", "on disk with seq 1", "1 memoor: Hola"} <= set(printed.splitlines())
    async with connected(node.url, await node.register("omar")) as omar:
        await omar.ask("subscribe", topic_name="noticias")
        # The second run signs in to the account of the first, and finds its topic.
        assert "2 memoor: Hola" in await run("node", "chat.mjs", cwd=tmp_path, state=tmp_path)
        message = await omar.event("message")
        assert (message["seq"], message["sender"], message["content"]) == (2, "memoor", "Hola")


async def test_the_python_snippet_without_a_library_reaches_another_client(node: RunningNode, tmp_path: Path) -> None:
    (tmp_path / "chat.py").write_text(snippet("python", "import socketio", node.url, CLIENT), "utf-8")
    printed = await run(sys.executable, "chat.py", cwd=tmp_path, state=tmp_path)
    assert "up to date; 0 arrived" in printed
    assert {"on disk with seq 1", "1 diego: Hola"} <= set(printed.splitlines())
    async with connected(node.url, await node.register("omar")) as omar:
        await omar.ask("subscribe", topic_name="noticias")
        assert "2 diego: Hola" in await run(sys.executable, "chat.py", cwd=tmp_path, state=tmp_path)
        message = await omar.event("message")
        assert (message["seq"], message["sender"], message["content"]) == (2, "diego", "Hola")


async def test_the_terminal_snippet_delivers_to_an_offline_user(node: RunningNode, tmp_path: Path) -> None:
    script = snippet("sh", "tidings-chat", node.url).replace("source .venv/bin/activate\n", "")
    printed = await run("bash", "-euc", script, cwd=ROOT, state=tmp_path, server=node.url)
    *_, last = printed.splitlines()
    assert "omar" in last
    assert "Buenos días" in last


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
async def test_the_curl_snippet_sends_once_even_if_repeated(node: RunningNode, tmp_path: Path) -> None:
    script = snippet("sh", "$api/register", node.url)
    assert "--json" not in script  # since curl 7.82; Ubuntu 22.04 has 7.81
    send = script[script.rindex("\ncurl ") :]
    quiet = (script + send).replace("curl ", "curl -sS ")
    printed = await run("bash", "-euc", quiet, cwd=ROOT, state=tmp_path)
    registered, created, joined, first, repeated = map(json.loads, printed.splitlines())  # one answer per line
    assert registered["token"]
    assert created["topic_name"] == joined["room"]["topic_name"] == "noticias"
    assert first["seq"] == repeated["seq"] == 1
    async with connected(node.url, await node.register("omar")) as omar:
        await omar.ask("subscribe", topic_name="noticias")
        history = await omar.ask("history", topic_name="noticias")
        assert [(m["sender"], m["content"]) for m in history["messages"]] == [("satoshi", "Hola")]


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
async def test_the_backend_snippet_publishes_once_even_if_repeated(
    node: RunningNode, sqlite_url: str, tmp_path: Path
) -> None:
    script = snippet("sh", "tidings key", node.url)
    settings = f"export TIDINGS_DATA_DIR='{tmp_path}' TIDINGS_DATABASE_URL='{sqlite_url}'\n"
    quiet = settings + script.replace("curl ", "curl -sS ")
    async with connected(node.url, await node.register("omar")) as omar:
        await omar.ask("create", topic_name="noticias")
        for _ in range(2):  # with another key of the same name
            answer = json.loads(await run("bash", "-euc", quiet, cwd=ROOT, state=tmp_path))
            assert (answer["event"], answer["seq"]) == ("order.paid", 1)
        event = await omar.event("order.paid")
        assert (event["seq"], event["sender"], event["data"]) == (1, "order-desk", {"id": 17})


def test_every_snippet_except_the_start_of_the_server_is_run_by_a_test() -> None:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S)
    marks = {"make run", "tidings-chat", "$api/register", "tidings key", "@tidings/client", "import tidings_client"}
    assert [sum(mark in block for mark in marks) for _, block in blocks] == [1] * len(marks)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M)
    assert {"run", "test", "test-all"} <= set(targets)


def test_documented_extras_have_the_names_that_the_packages_declare() -> None:
    """Before version 23.3, pip does not treat `asyncio_client` and `asyncio-client` as the same extra."""
    documents = [ROOT / "README.md", ROOT / "client_demo/tidings_chat/__main__.py", *(ROOT / "docs").glob("*.md")]
    installed = {
        (package, extra)
        for document in documents
        for line in re.findall(r"pip\s+install\s[^`\n]*", document.read_text("utf-8"))
        for package, extra in re.findall(r"([\w./-]+)\[([\w.-]+)\]", line)
    }
    assert {("python-socketio", "asyncio-client"), (".", "client")} <= installed
    assert "tidings" not in {package for package, _ in installed}, "no package index has it"
    for package, extra in installed:
        declared = metadata("tidings" if package.startswith(".") else package)
        assert extra in (declared.get_all("Provides-Extra") or [])
