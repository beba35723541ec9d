"""Stock clients get the last events of a connection that the server closes, and reconnect if they should."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
import socketio

from server.contract.errors import CloseReason
from tests.e2e.javascript import run
from tests.gateways.raw import ENGINE, polling
from tests.support.client import DEADLINE_S
from tests.support.node import PASSWORD, RunningNode

SHUTDOWN = {"reason": "shutdown", "reconnect": True}
REVOKED = {"reason": "token_revoked", "reconnect": False}
TIMES = 5
"""How often each is tried: what is lost is lost by a race in the client."""


async def test_a_server_that_stops_opens_no_session_over_a_connection_that_is_still_open(
    gateway: RunningNode,
) -> None:
    """A polling client that is told to reconnect does so at once, over the TCP connection of its last poll."""
    async with polling(gateway.url, await gateway.register("omar")) as session:
        stopping = asyncio.create_task(gateway.node.socketio.stop())
        await session.until('42["closing",')
        refused = await session.http.get(ENGINE + "polling")
        assert (refused.status_code, "shutting down" in refused.text) == (503, True)
        await stopping
    assert not gateway.node.socketio.eio.sockets


def close_all(gateway: RunningNode) -> None:
    """Close every connection; its client is to reconnect."""
    for connection in list(gateway.node.hub.connections):
        connection.link.close(CloseReason.SHUTDOWN)


@pytest.mark.parametrize("transports", [["polling"], ["websocket"], None], ids=["polling", "websocket", "default"])
async def test_a_javascript_application_gets_the_last_words_and_reconnects(
    gateway: RunningNode, transports: list[str] | None
) -> None:
    tokens = [await gateway.register("omar")] + [await gateway.login("omar") for _ in range(TIMES)]

    async def close() -> None:
        close_all(gateway)

    await run("closing.mjs", {"url": gateway.url, "tokens": tokens, "transports": transports}, {"close": close})


@pytest.mark.parametrize("transport", ["polling", "websocket"])
async def test_a_python_application_gets_the_last_words_and_reconnects(gateway: RunningNode, transport: str) -> None:
    tokens = [await gateway.register("omar")] + [await gateway.login("omar") for _ in range(TIMES)]
    async with asyncio.timeout(2 * DEADLINE_S), aiohttp.ClientSession() as http:
        for token in tokens[1:]:
            client, came = _async_client(http)
            await client.connect(gateway.url, auth={"token": token}, transports=[transport])
            assert await client.call("logout", {}, timeout=int(DEADLINE_S)) == {"ok": True, "data": {}}
            while (await came.get()) != REVOKED:
                pass
            await client.wait()
        client, came = _async_client(http)
        await client.connect(gateway.url, auth={"token": tokens[0]}, transports=[transport])
        assert await came.get() == "ready"
        for _ in range(3):
            close_all(gateway)
            assert await came.get() == SHUTDOWN
            assert await came.get() == "ready"
        await client.shutdown()


def _async_client(http: aiohttp.ClientSession) -> tuple[socketio.AsyncClient, asyncio.Queue[Any]]:
    came: asyncio.Queue[Any] = asyncio.Queue()
    client = socketio.AsyncClient(reconnection_delay=0.01, handle_sigint=False, http_session=http)
    client.on("closing", came.put)

    async def ready(_: Any) -> None:
        await came.put("ready")

    client.on("ready", ready)
    return client, came


async def test_a_synchronous_python_application_that_polls_gets_the_last_words_and_reconnects(
    gateway: RunningNode,
) -> None:
    tokens = [await gateway.register("omar")] + [await gateway.login("omar") for _ in range(TIMES)]
    loop = asyncio.get_running_loop()

    def close() -> None:
        loop.call_soon_threadsafe(close_all, gateway)

    await asyncio.to_thread(_synchronous_application, gateway.url, tokens, close)


def _synchronous_application(url: str, tokens: list[str], close: Callable[[], None]) -> None:
    for token in tokens[1:]:
        client, came = _sync_client()
        client.connect(url, auth={"token": token}, transports=["polling"])
        assert client.call("logout", {}, timeout=int(DEADLINE_S)) == {"ok": True, "data": {}}
        while came.get(timeout=DEADLINE_S) != REVOKED:
            pass
        client.wait()
    client, came = _sync_client()
    client.connect(url, auth={"token": tokens[0]}, transports=["polling"])
    assert came.get(timeout=DEADLINE_S) == "ready"
    for _ in range(3):
        close()
        assert came.get(timeout=DEADLINE_S) == SHUTDOWN
        assert came.get(timeout=DEADLINE_S) == "ready"
    client.shutdown()


def _sync_client() -> tuple[socketio.Client, queue.Queue[Any]]:
    came: queue.Queue[Any] = queue.Queue()
    client = socketio.Client(reconnection_delay=0.01, handle_sigint=False)
    client.on("closing", came.put)
    client.on("ready", lambda _: came.put("ready"))
    return client, came


@pytest.mark.parametrize("action", ["logout", "revoke_session", "deactivate"])
async def test_an_action_that_ends_its_own_session_is_answered_when_a_check_finds_the_session_withdrawn_first(
    gateway: RunningNode, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    """The check comes between the commit and the answer."""
    name = {"logout": "logout", "revoke_session": "revoke", "deactivate": "set_disabled"}[action]
    commit = getattr(gateway.node.auth, name)

    async def commit_and_check(*args: Any) -> Any:
        done = await commit(*args)
        await gateway.node.sessions._round()
        return done

    monkeypatch.setattr(gateway.node.auth, name, commit_and_check)
    token = await gateway.register("omar")
    async with asyncio.timeout(DEADLINE_S), aiohttp.ClientSession() as http:
        client, came = _async_client(http)
        await client.connect(gateway.url, auth={"token": token}, transports=["websocket"])
        assert await came.get() == "ready"
        sessions = await client.call("get_sessions", {})
        data = {
            "logout": {},
            "revoke_session": {"session_id": sessions["data"]["sessions"][0]["session_id"]},
            "deactivate": {"password": PASSWORD},
        }[action]
        assert await client.call(action, data, timeout=int(DEADLINE_S)) == {"ok": True, "data": {}}
        assert await came.get() == REVOKED
        await client.wait()
