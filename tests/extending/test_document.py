"""The code of docs/extending.md runs as printed: `tidings serve --app`, and both clients."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import socketio

from docs.generate import ROOT
from tests.e2e.javascript import SCRIPTS, node
from tests.extending.conftest import under_uvicorn
from tests.support.process import ServerProcess

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
