"""Served by any ASGI server, the application starts and stops its node by the lifespan protocol."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from server.app import Application, create_app
from server.serving import listen
from server.settings import Settings
from tests.gateways.raw import entered
from tests.support.node import PASSWORD, settings_for


async def _lifespan(app: Application, *, until: str) -> list[MutableMapping[str, Any]]:
    """What the application answers to startup and, if it comes that far, to shutdown."""
    said: list[MutableMapping[str, Any]] = []
    ask: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
    ask.put_nowait({"type": "lifespan.startup"})

    async def send(message: MutableMapping[str, Any]) -> None:
        said.append(message)
        if message["type"] == "lifespan.startup.complete":
            ask.put_nowait({"type": "lifespan.shutdown"})

    serving = asyncio.ensure_future(app({"type": "lifespan", "asgi": {"version": "3.0"}}, ask.get, send))
    await asyncio.wait([serving], timeout=10)
    assert serving.done()
    serving.exception()  # a server may be told by an exception as well as by a message
    assert [message["type"] for message in said][-1] == until, said
    return said


async def test_an_asgi_server_of_any_kind_starts_and_stops_the_node(
    quiet_log: None, sqlite_url: str, tmp_path: Path
) -> None:
    app = create_app(settings_for(sqlite_url, tmp_path), bcrypt_rounds=4)
    config = uvicorn.Config(app, lifespan="on", log_config=None, ws="websockets-sansio", timeout_graceful_shutdown=5)
    stock = uvicorn.Server(config)
    with listen("127.0.0.1", 0) as socket:
        url = f"http://127.0.0.1:{socket.getsockname()[1]}"
        serving = asyncio.create_task(stock._serve([socket]))  # `serve` would take pytest's signals
        async with httpx.AsyncClient(base_url=url, timeout=10) as http:
            answer = await http.post("/api/register", json={"username": "omar", "password": PASSWORD})
            assert answer.status_code == 201, answer.text
        async with entered(url, answer.json()["token"]) as raw:
            await raw.is_alive()
        stock.should_exit = True
        await asyncio.wait_for(serving, 20)
    with pytest.raises(Exception, match=r"."):
        await app.node.database.read(lambda conn: None)


async def test_startup_and_shutdown_are_completed(quiet_log: None, sqlite_url: str, tmp_path: Path) -> None:
    said = await _lifespan(create_app(settings_for(sqlite_url, tmp_path)), until="lifespan.shutdown.complete")
    assert [message["type"] for message in said] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def _broken_settings(tmp_path: Path) -> dict[str, Settings]:
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"not a database " * 1000)
    return {
        "a database that is none": settings_for(f"sqlite:///{garbage}", tmp_path),
        "a database that is not there": settings_for("postgresql+asyncpg://nobody@127.0.0.1:1/none", tmp_path),
        "a key that is too short": settings_for(f"sqlite:///{tmp_path / 'new.db'}", tmp_path, secret_key="short"),
    }


async def test_a_node_that_cannot_start_says_so_to_the_server(tmp_path: Path) -> None:
    for what, settings in _broken_settings(tmp_path).items():
        said = await _lifespan(create_app(settings), until="lifespan.startup.failed")
        assert said[-1]["message"], what


async def test_an_asgi_server_does_not_serve_a_node_that_cannot_start(tmp_path: Path) -> None:
    for what, settings in _broken_settings(tmp_path).items():
        config = uvicorn.Config(create_app(settings), lifespan="on", log_config=None)
        config.load()
        lifespan = config.lifespan_class(config)
        await asyncio.wait_for(lifespan.startup(), 10)
        assert lifespan.should_exit, what
