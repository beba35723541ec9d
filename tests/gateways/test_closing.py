"""Stock clients get the last events of a connection that the server closes, and reconnect if they should."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
import socketio

from tests.e2e.javascript import run
from tests.gateways.raw import ENGINE, polling
from tests.support.client import DEADLINE_S
from tests.support.node import PASSWORD, RunningNode
from tidings.contract.errors import CloseReason

SHUTDOWN = {"reason": "shutdown", "reconnect": True}
REVOKED = {"reason": "token_revoked", "reconnect": False}
TIMES = 5
"""Repetitions: a lost event would be lost by a race in the client, so one try may miss it."""


async def test_a_stopping_server_opens_no_session_over_an_open_tcp_connection(
    gateway: RunningNode,
) -> None:
    """A polling client reconnects immediately, over the TCP connection of its last poll."""
    async with polling(gateway.url, await gateway.register("omar")) as session:
        stopping = asyncio.create_task(gateway.node.socketio.stop())
        await session.until('42["closing",')
        refused = await session.http.get(ENGINE + "polling")
        assert (refused.status_code, "shutting down" in refused.text) == (503, True)
        await stopping
    assert not gateway.node.socketio.eio.sockets


def close_all(gateway: RunningNode) -> None:
    """Close every connection, with a reason after which clients reconnect."""
    for connection in list(gateway.node.hub.connections):
        connection.link.close(CloseReason.SHUTDOWN)


@pytest.mark.parametrize("transports", [["polling"], ["websocket"], None], ids=["polling", "websocket", "default"])
async def test_a_javascript_application_gets_the_last_events_and_reconnects(
    gateway: RunningNode, transports: list[str] | None
) -> None:
    tokens = [await gateway.register("omar")] + [await gateway.login("omar") for _ in range(TIMES)]

    async def close() -> None:
        close_all(gateway)

    await run("closing.mjs", {"url": gateway.url, "tokens": tokens, "transports": transports}, {"close": close})


@pytest.mark.parametrize("transport", ["polling", "websocket"])
async def test_a_python_application_gets_the_last_events_and_reconnects(gateway: RunningNode, transport: str) -> None:
    tokens = [await gateway.register("omar")] + [await gateway.login("omar") for _ in range(TIMES)]
    async with asyncio.timeout(2 * DEADLINE_S), aiohttp.ClientSession() as http:
        for token in tokens[1:]:
            client, events = _async_client(http)
            await client.connect(
                gateway.url, auth={"token": token}, transports=[transport], wait_timeout=int(DEADLINE_S)
            )
            assert await client.call("logout", {}, timeout=int(DEADLINE_S)) == {"ok": True, "data": {}}
            while (await events.get()) != REVOKED:
                pass
            await client.wait()
        client, events = _async_client(http)
        await client.connect(
            gateway.url, auth={"token": tokens[0]}, transports=[transport], wait_timeout=int(DEADLINE_S)
        )
        assert await events.get() == "ready"
        for _ in range(3):
            close_all(gateway)
            assert await events.get() == SHUTDOWN
            assert await events.get() == "ready"
        await client.shutdown()


def _async_client(http: aiohttp.ClientSession) -> tuple[socketio.AsyncClient, asyncio.Queue[Any]]:
    events: asyncio.Queue[Any] = asyncio.Queue()
    client = socketio.AsyncClient(reconnection_delay=0.01, handle_sigint=False, http_session=http)
    client.on("closing", events.put)

    async def ready(_: Any) -> None:
        await events.put("ready")

    client.on("ready", ready)
    return client, events


async def test_a_synchronous_python_application_that_polls_gets_the_last_events_and_reconnects(
    gateway: RunningNode,
) -> None:
    tokens = [await gateway.register("omar")] + [await gateway.login("omar") for _ in range(TIMES)]
    loop = asyncio.get_running_loop()

    def close() -> None:
        loop.call_soon_threadsafe(close_all, gateway)

    await asyncio.to_thread(_synchronous_application, gateway.url, tokens, close)


def _synchronous_application(url: str, tokens: list[str], close: Callable[[], None]) -> None:
    for token in tokens[1:]:
        client, events = _sync_client()
        client.connect(url, auth={"token": token}, transports=["polling"], wait_timeout=int(DEADLINE_S))
        assert client.call("logout", {}, timeout=int(DEADLINE_S)) == {"ok": True, "data": {}}
        while events.get(timeout=DEADLINE_S) != REVOKED:
            pass
        client.wait()
    client, events = _sync_client()
    client.connect(url, auth={"token": tokens[0]}, transports=["polling"], wait_timeout=int(DEADLINE_S))
    assert events.get(timeout=DEADLINE_S) == "ready"
    for _ in range(3):
        close()
        assert events.get(timeout=DEADLINE_S) == SHUTDOWN
        assert events.get(timeout=DEADLINE_S) == "ready"
    client.shutdown()


def _sync_client() -> tuple[socketio.Client, queue.Queue[Any]]:
    events: queue.Queue[Any] = queue.Queue()
    client = socketio.Client(reconnection_delay=0.01, handle_sigint=False)
    client.on("closing", events.put)
    client.on("ready", lambda _: events.put("ready"))
    return client, events


@pytest.mark.parametrize("action", ["logout", "revoke_session", "deactivate"])
async def test_an_action_that_ends_its_own_session_is_answered_even_if_a_check_finds_it_withdrawn(
    gateway: RunningNode, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    """The session check runs between the commit and the answer."""
    name = {"logout": "logout", "revoke_session": "revoke", "deactivate": "set_disabled"}[action]
    commit = getattr(gateway.node.auth, name)

    async def commit_and_check(*args: Any, **options: Any) -> Any:
        result = await commit(*args, **options)
        await gateway.node.sessions._round()
        return result

    monkeypatch.setattr(gateway.node.auth, name, commit_and_check)
    token = await gateway.register("omar")
    async with asyncio.timeout(DEADLINE_S), aiohttp.ClientSession() as http:
        client, events = _async_client(http)
        await client.connect(
            gateway.url, auth={"token": token}, transports=["websocket"], wait_timeout=int(DEADLINE_S)
        )
        assert await events.get() == "ready"
        sessions = await client.call("get_sessions", {})
        data = {
            "logout": {},
            "revoke_session": {"session_id": sessions["data"]["sessions"][0]["session_id"]},
            "deactivate": {"password": PASSWORD},
        }[action]
        assert await client.call(action, data, timeout=int(DEADLINE_S)) == {"ok": True, "data": {}}
        assert await events.get() == REVOKED
        await client.wait()
