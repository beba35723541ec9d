"""The code of docs/extending.md runs as printed: `tidings serve --app`, and both clients."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import socketio

from docs.generate import ROOT
from tests.e2e.javascript import SCRIPTS, node
from tests.extending.conftest import under_uvicorn
from tests.support.client import connected
from tests.support.process import ServerProcess
from tidings.api import ServerApi

PAGE = (ROOT / "docs/extending.md").read_text("utf-8")
DEADLINE_S = 60.0
SCRIPT = """
import { play } from "./play.mjs";
const { url, token, room } = JSON.parse(process.argv[2]);
const moved = [];
let win;
const won = new Promise((resolve) => (win = resolve));
const game = await play(url, token, room, (move) => moved.push(move), win);
for (const square of ["e4", "d4", "c4"]) await game.move(square);
console.log(JSON.stringify({ moved, winner: await won }));
game.leave();
"""


def block(language: str, containing: str) -> str:
    for match in re.finditer(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S):
        if containing in match[1]:
            return match[1]
    raise AssertionError(f"no block of {language} with {containing}")


@pytest.fixture
async def game(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    (tmp_path / "game.py").write_text(block("python", "class Game"))
    process = ServerProcess(tmp_path / "data", arguments=("--app", "game:app"), directory=tmp_path)
    await process.start()
    yield process
    assert await process.terminate() == 0


async def room_of(process: ServerProcess, token: str) -> str:
    headers = {"authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=process.url, headers=headers, timeout=30) as http:
        answer = await http.post("/api/topics", json={"topic_name": "ajedrez"})
        assert answer.is_success, answer.text
        room_id: str = answer.json()["room_id"]
        return room_id


async def test_the_game_runs_with_the_stock_python_client(game: ServerProcess) -> None:
    token = await game.register("omar")
    room = await room_of(game, token)
    program: dict[str, Any] = {}
    exec(block("python", "AsyncClient()"), program)
    moved: asyncio.Queue[Any] = asyncio.Queue()
    won: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    client = await program["play"](game.url, token, room, moved.put_nowait, won.set_result)
    for number, square in enumerate(("e4", "d4", "c4"), 1):
        assert await client.call("move", (room, square), namespace="/game") == number
        assert await asyncio.wait_for(moved.get(), DEADLINE_S) == {"player": "omar", "square": square}
    assert await asyncio.wait_for(won, DEADLINE_S) == {"room_id": room, "player": "omar"}
    await client.disconnect()


async def test_an_outsider_of_the_game_hears_and_moves_nothing(game: ServerProcess) -> None:
    room = await room_of(game, await game.register("omar"))
    outsider = socketio.AsyncClient()
    heard: list[Any] = []
    outsider.on("moved", heard.append, namespace="/game")
    outsider.on("won", heard.append)
    auth = {"token": await game.register("diego")}
    await outsider.connect(game.url, namespaces=["/", "/game"], auth=auth, wait_timeout=int(DEADLINE_S))
    assert await outsider.call("play", room, namespace="/game") == "not a member"
    for square in ("e4", "d4", "c4", "b4"):
        assert await outsider.call("move", (room, square), namespace="/game") == "not a member"
    assert heard == []
    await outsider.disconnect()


async def test_the_game_runs_with_the_stock_javascript_client(game: ServerProcess, tmp_path: Path) -> None:
    token = await game.register("diego")
    room = await room_of(game, token)
    (tmp_path / "play.mjs").write_text(block("js", "socket.io-client"))
    (tmp_path / "script.mjs").write_text(SCRIPT)
    (tmp_path / "node_modules").symlink_to(SCRIPTS / "node_modules")
    arguments = json.dumps({"url": game.url, "token": token, "room": room})
    process = await asyncio.create_subprocess_exec(
        node(), str(tmp_path / "script.mjs"), arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        printed, _ = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    finally:
        if process.returncode is None:
            process.kill()
    output = json.loads(printed)
    assert output["winner"] == {"room_id": room, "player": "diego"}
    assert [move["square"] for move in output["moved"]] == ["e4", "d4", "c4"]


@pytest.mark.parametrize(
    ("containing", "path", "answer"),
    [
        ("is_member(room, username)", "/orders/ajedrez/members/omar", "false"),
        ("Starlette", "/chat/health/live", '{"status":"ok"}'),
        ("app.web.get", "/orders", "[17]"),
    ],
)
async def test_the_ways_to_mount_it_work_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, containing: str, path: str, answer: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIDINGS_LOG_LEVEL", "warning")
    module: dict[str, Any] = {}
    exec(block("python", containing), module)
    async with under_uvicorn(module["app"]) as url, httpx.AsyncClient(base_url=url, timeout=30) as http:
        got = await http.get(path)
        assert (got.status_code, got.text.replace(" ", "")) == (200, answer)


@asynccontextmanager
async def printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *containing: str
) -> AsyncIterator[tuple[dict[str, Any], str]]:
    """A program of the document, of one block or several, that runs in an empty folder: its names, and its URL."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIDINGS_LOG_LEVEL", "warning")
    module: dict[str, Any] = {}
    for part in containing:
        exec(block("python", part), module)
    async with under_uvicorn(module["app"]) as url:
        async with httpx.AsyncClient(base_url=url, timeout=30) as http:
            assert (await http.get("/health/ready")).is_success
        yield module, url


async def shell(script: str, url: str, **environment: str) -> str:
    """Run commands as printed, except for the server's address; returns their output."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euc", script.replace("http://127.0.0.1:8000", url).replace("curl ", "curl -sS ")),
        env={**os.environ, "PATH": path, **environment},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    assert process.returncode == 0
    return output.decode()


async def test_an_event_arrives_from_the_application_from_a_client_and_over_http(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "node_modules").symlink_to(SCRIPTS / "node_modules")
    async with printed(tmp_path, monkeypatch, "order.paid") as (module, url):
        api = module["server"].tidings
        await api.user("diego", create=True)
        script = (
            'import { io } from "socket.io-client";\n'
            "const [url, token] = process.argv.slice(2);\n"
            "const socket = io(url, { auth: { token } });\n"
            'await new Promise((ready) => socket.once("ready", ready));\n'
            f"{block('js', 'get_events')}"
            "socket.disconnect();\n"
        )
        (tmp_path / "orders.mjs").write_text(script)
        async with httpx.AsyncClient(base_url=url, timeout=30) as http:
            for _ in range(2):  # the second is a repeat
                assert (await http.post("/orders/17/paid")).status_code == 200
        token = (await api.token("diego")).token
        output = await shell(f"'{node()}' orders.mjs {url} {token}", url)
        assert output.splitlines() == ["2 diego: 18", "[ 17, 18 ]"]
        names = await shell(block("sh", "tidings key create").replace("tidings key revoke ID\n", ""), url)
        keys = [line.split()[0] for line in names.splitlines() if line.startswith("tk_")]
        for _ in range(2):
            answer = json.loads(await shell(block("sh", "paid-19"), url, TIDINGS_KEY=keys[1]))
            assert answer["seq"] == 3
        await api.user("omar", create=True)
        await api.add_member("orders", "omar")
        act = await shell("tidings key create support --scope act", url)
        message = json.loads(await shell(block("sh", "Tidings-User"), url, TIDINGS_KEY=act.strip()))
        assert (message["sender"], message["seq"]) == ("omar", 4)
        assert "omar" in await shell("tidings audit", url)
        announce: dict[str, Any] = {}
        exec(block("python", "announce"), announce)
        await announce["announce"](module["server"], "tomorrow it begins")
        assert await api.is_member("announcements", "server")


async def test_an_application_signs_its_own_users_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with printed(tmp_path, monkeypatch, "signed_in", "exception_handler") as (module, url):
        async with httpx.AsyncClient(base_url=url, timeout=30) as http:
            token = (await http.post("/token")).json()["token"]
        async with connected(url, token) as eva:
            assert eva.of("ready")[0]["display_name"] == "Eva María"
            await module["server"].tidings.disconnect("eva")
            assert (await eva.event("closing"))["reconnect"] is False
        (tmp_path / "node_modules").symlink_to(SCRIPTS / "node_modules")
        script = (
            'import * as client from "socket.io-client";\n'
            "const url = process.argv[2];\n"
            "const io = (options) => client.io(url, options);\n"
            "const fetch = (path, options) => globalThis.fetch(url + path, options);\n"
            f"{block('js', 'forgetIf')}"
            "const ready = () => new Promise((resolve) => socket.once('ready', resolve));\n"
            "await ready();\n"
            "await socket.emitWithAck('logout');\n"
            "console.log((await ready()).username);\n"
            "token = 'invalid';\n"
            "socket.disconnect().connect();\n"
            "console.log((await ready()).username);\n"
            "socket.disconnect();\n"
        )
        (tmp_path / "page.mjs").write_text(script)
        assert await shell(f"'{node()}' page.mjs {url}", url) == "eva\neva\n"
        module["signed_in"] = lambda _: ("server", "Not the server")
        async with httpx.AsyncClient(base_url=url, timeout=30) as http:
            answer = await http.post("/token")
            assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


def test_the_table_of_the_api_has_every_method_with_its_arguments() -> None:
    section = PAGE.partition("## `app.tidings`\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+\(.*?\))`(?:, `(\w+\(.*?\))`)? \|", section, re.M)
    methods = {name: method for name, method in vars(ServerApi).items() if not name.startswith("_")}
    expected = set()
    for name, method in methods.items():
        parameters = list(inspect.signature(method).parameters.values())[1:]
        positional = [each.name for each in parameters if each.kind is not each.KEYWORD_ONLY]
        keywords = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
        expected.add(f"{name}({', '.join(positional + ['*'] * bool(keywords) + keywords)})")
    assert {call for row in rows for call in row if call} == expected


@pytest.mark.parametrize(
    ("app", "reason"),
    [
        ("game", "write MODULE:ATTRIBUTE"),
        ("nowhere:app", "there is no module nowhere"),
        ("json:dumps", "is not what tidings.create_app() returns"),
    ],
)
async def test_an_invalid_application_is_refused_with_a_reason(tmp_path: Path, app: str, reason: str) -> None:
    process = ServerProcess(tmp_path, stderr=asyncio.subprocess.PIPE, arguments=("--app", app), directory=tmp_path)
    with pytest.raises(RuntimeError, match="exit status 1"):
        await process.start()
    assert reason in await process.complaints()


async def test_an_application_can_import_packages_that_the_server_does_not_use(tmp_path: Path) -> None:
    (tmp_path / "game.py").write_text(
        "import aiohttp, requests, rich, socketio\n"
        "from tidings import create_app\n"
        "socketio.AsyncClient()\n"
        "app = create_app()\n"
    )
    process = ServerProcess(tmp_path / "data", arguments=("--app", "game:app"), directory=tmp_path)
    await process.start()
    assert await process.terminate() == 0
