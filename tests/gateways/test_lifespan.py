"""Served by any ASGI server, the application starts and stops its node by the lifespan protocol."""

from __future__ import annotations

import asyncio
import re
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from tests.delivery.support import store_held
from tests.gateways.raw import entered
from tests.support.client import DEADLINE_S, connected
from tests.support.node import PASSWORD, running_node, settings_for
from tidings.app import Application, create_app
from tidings.settings import Settings
from tidings.transport.listening import listen


async def _lifespan(app: Application, *, until: str) -> list[MutableMapping[str, Any]]:
    """The messages that the application sends for startup and, after a successful one, for shutdown."""
    messages: list[MutableMapping[str, Any]] = []
    requests: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
    requests.put_nowait({"type": "lifespan.startup"})

    async def send(message: MutableMapping[str, Any]) -> None:
        messages.append(message)
        if message["type"] == "lifespan.startup.complete":
            requests.put_nowait({"type": "lifespan.shutdown"})

    serving = asyncio.ensure_future(app({"type": "lifespan", "asgi": {"version": "3.0"}}, requests.get, send))
    await asyncio.wait([serving], timeout=30)
    assert serving.done()
    serving.exception()  # an application may report a failure by an exception, too
    assert [message["type"] for message in messages][-1] == until, messages
    return messages


async def test_an_asgi_server_of_any_kind_starts_and_stops_the_node(
    quiet_log: None, sqlite_url: str, tmp_path: Path
) -> None:
    app = create_app(settings_for(sqlite_url, tmp_path), bcrypt_rounds=4)
    config = uvicorn.Config(app, lifespan="on", log_config=None, ws="websockets-sansio", timeout_graceful_shutdown=5)
    stock = uvicorn.Server(config)
    with listen("127.0.0.1", 0) as socket:
        url = f"http://127.0.0.1:{socket.getsockname()[1]}"
        serving = asyncio.create_task(stock._serve([socket]))  # `serve` would take pytest's signals
        async with httpx.AsyncClient(base_url=url, timeout=30) as http:
            answer = await http.post("/api/register", json={"username": "omar", "password": PASSWORD})
            assert answer.status_code == 201, answer.text
        async with entered(url, answer.json()["token"]) as raw:
            await raw.is_alive()
        stock.should_exit = True
        await asyncio.wait_for(serving, 30)
    with pytest.raises(Exception, match=r"."):
        await app.node.database.read(lambda conn: None)


async def test_startup_and_shutdown_are_completed(quiet_log: None, sqlite_url: str, tmp_path: Path) -> None:
    messages = await _lifespan(create_app(settings_for(sqlite_url, tmp_path)), until="lifespan.shutdown.complete")
    assert [message["type"] for message in messages] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_a_node_whose_store_is_blocked_stops_and_names_its_unfinished_parts(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidings.node.STOP_PART_S", 0.2)
    async with (
        running_node(sqlite_url, tmp_path) as server,
        connected(server.url, await server.register("omar")) as omar,
    ):
        node = server.node
        await omar.ask("create", topic_name="noticias")
        async with store_held(sqlite_url):
            sent = omar.send("message", {"topic_name": "noticias", "content": "x"})
            async with asyncio.timeout(DEADLINE_S):
                while not node.journal.age:
                    await asyncio.to_thread(str)
            await asyncio.wait_for(node.stop(), DEADLINE_S)
            assert {"actions", "the journal", "the database"} <= set(node.unfinished)
        assert await omar.event("closing") == {"reason": "shutdown", "reconnect": True}
        sent.cancel()
        await node.journal.loop.ended()  # the blocked store had kept it waiting
        await node.database.stop()


def _broken_settings(tmp_path: Path) -> dict[str, Settings]:
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"not a database " * 1000)
    return {
        "a file that is not a database": settings_for(f"sqlite:///{garbage}", tmp_path),
        "a database server that does not exist": settings_for(
            "postgresql+asyncpg://nobody@127.0.0.1:1/none", tmp_path
        ),
        "a key that is too short": settings_for(f"sqlite:///{tmp_path / 'new.db'}", tmp_path, secret_key="short"),
    }


async def test_a_node_that_cannot_start_reports_startup_failed(tmp_path: Path) -> None:
    for case, settings in _broken_settings(tmp_path).items():
        messages = await _lifespan(create_app(settings), until="lifespan.startup.failed")
        assert messages[-1]["message"], case


async def test_a_second_node_on_a_sqlite_file_is_refused_in_one_sentence(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tidings.node.LOCK_PATIENCE_S", 0.1)
    async with running_node(sqlite_url, tmp_path / "first") as first:
        settings = settings_for(sqlite_url, tmp_path / "second")
        (failed,) = await _lifespan(create_app(settings), until="lifespan.startup.failed")
        assert re.fullmatch(r"tidings: another server is running on \S+: stop it first", failed["message"])
        await first.register("omar")
    assert capsys.readouterr().err.count("waiting up to 0.1 s for it to stop") == 1
    await _lifespan(create_app(settings), until="lifespan.shutdown.complete")


async def test_an_asgi_server_does_not_serve_a_node_that_cannot_start(tmp_path: Path) -> None:
    for case, settings in _broken_settings(tmp_path).items():
        config = uvicorn.Config(create_app(settings), lifespan="on", log_config=None)
        config.load()
        lifespan = config.lifespan_class(config)
        await asyncio.wait_for(lifespan.startup(), 30)
        assert lifespan.should_exit, case
