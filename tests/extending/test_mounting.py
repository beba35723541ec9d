"""The server within another application, as docs/extending.md mounts it: at its root, or below a prefix."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest
import socketio
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from websockets.asyncio.client import connect

import tidings_client
from tests.extending.conftest import under_uvicorn
from tests.support.node import PASSWORD, settings_for
from tidings.app import Application, create_app

DEADLINE_S = 20.0


def in_starlette(tidings: Application, prefix: str) -> Starlette:
    async def own(_: Any) -> PlainTextResponse:
        return PlainTextResponse("own")

    return Starlette(lifespan=tidings.lifespan, routes=[Route("/own", own), Mount(prefix or "/", tidings)])


def in_fastapi(tidings: Application, prefix: str) -> FastAPI:
    app = FastAPI(lifespan=tidings.lifespan, openapi_url=None)  # its own /docs would come first

    @app.get("/own")
    async def own() -> str:
        return "own"

    app.mount(prefix or "/", tidings)
    return app


@pytest.mark.parametrize("mount", [in_starlette, in_fastapi])
@pytest.mark.parametrize("prefix", ["", "/chat", "/a/chat"])
async def test_everything_works_within_another_application(
    sqlite_url: str, tmp_path: Path, mount: Any, prefix: str
) -> None:
    tidings = create_app(settings_for(sqlite_url, tmp_path), bcrypt_rounds=4)
    async with under_uvicorn(mount(tidings, prefix)) as url, httpx.AsyncClient(base_url=url, timeout=30) as http:
        assert (await http.get("/own")).text.strip('"') == "own"
        base = f"{url}{prefix}"
        assert (await http.get(f"{base}/health/ready")).status_code == 200
        answer = await http.post(f"{base}/api/register", json={"username": "omar", "password": PASSWORD})
        assert answer.status_code == 201, answer.text
        token = answer.json()["token"]
        await check_pages(http, f"{base}/")
        document = (await http.get(f"{base}/openapi.json")).json()
        assert document["servers"][0]["url"] == (prefix or "/")
        servers = (await http.get(f"{base}/asyncapi.json")).json()["servers"]
        assert servers["socketio"].get("pathname") == f"{prefix}/socket.io/"
        assert servers["websocket"].get("pathname", "") == prefix
        for transports in (["websocket"], ["polling"], ["polling", "websocket"]):
            await check_socketio(url, f"{prefix}/socket.io", token, transports)
        async with connect(f"{base.replace('http', 'ws')}/ws?token={token}") as plain:
            async with asyncio.timeout(DEADLINE_S):
                while '"ready"' not in str(await plain.recv()):
                    pass
        async with tidings_client.connect(base, token) as client:
            assert client.username == "omar"


async def check_pages(http: httpx.AsyncClient, root: str) -> None:
    """The page and the documents load with every file that they name."""
    for page in (root, f"{root}docs"):
        html = await http.get(page)
        assert html.status_code == 200
        links = re.findall(r'(?:src|href)="([^"]+)"', html.text)
        assert len(links) >= 4
        for link in links:
            target = urljoin(page, link)
            assert target.startswith(root)
            assert (await http.get(target)).status_code == 200, target


async def check_socketio(url: str, path: str, token: str, transports: list[str]) -> None:
    """A stock client signs in and has an action answered."""
    client = socketio.AsyncClient(reconnection=False)
    ready = asyncio.Event()
    client.on("ready", lambda _: ready.set())
    await client.connect(
        url, socketio_path=path, auth={"token": token}, transports=transports, wait_timeout=DEADLINE_S
    )
    await asyncio.wait_for(ready.wait(), DEADLINE_S)
    assert (await client.call("get_rooms", {}, timeout=DEADLINE_S))["ok"]
    await client.disconnect()
