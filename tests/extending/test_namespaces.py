"""The namespaces of an application on Tidings: authentication, expiry, and limits per client."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import socketio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.extending.conftest import Serving, on_tidings

GAME, OPEN, ADMIN = "/game", "/open", "/admin"
DEADLINE_S = 20.0


class Open(socketio.AsyncNamespace):  # type: ignore[misc]
    """A namespace without authentication."""

    authenticate = False

    async def on_session(self, sid: str) -> dict[str, Any]:
        session: dict[str, Any] = await self.get_session(sid)
        return session


class Application:
    """Handlers in `/game`; `ended` has the reason of each disconnect."""

    def __init__(self, sio: socketio.AsyncServer) -> None:
        self.sio = sio
        self.running = 0
        self.ended: asyncio.Queue[str] = asyncio.Queue()
        sio.register_namespace(Open(OPEN))
        sio.on("whoami", self.whoami, namespace=GAME)
        sio.on("wait", self.wait, namespace=GAME)
        sio.on("fail", self.fail, namespace=GAME)
        sio.on("connect", self.connect, namespace=GAME)
        sio.on("disconnect", self.disconnect, namespace=GAME)

    def connect(self, sid: str, environ: dict[str, Any], auth: dict[str, Any]) -> None:
        if auth.get("fail"):
            raise LookupError("a fault of the application")

    async def whoami(self, sid: str) -> str:
        session = await self.sio.get_session(sid, namespace=GAME)
        username: str = session["principal"].username
        return username

    async def wait(self, sid: str) -> None:
        self.running += 1
        await asyncio.Event().wait()

    async def fail(self, sid: str) -> None:
        raise LookupError("a fault of the application")

    async def disconnect(self, sid: str, reason: str) -> None:
        await self.ended.put(reason)


@pytest.fixture
async def serving(tmp_path: Path) -> AsyncIterator[Serving]:
    async with on_tidings(Application, tmp_path, options={"session_check_s": 0.1}) as serving:
        yield serving


@asynccontextmanager
async def client(serving: Serving, namespace: str, **auth: Any) -> AsyncIterator[socketio.AsyncClient]:
    sio = socketio.AsyncClient(reconnection=False)
    refused: list[Any] = []
    sio.on("connect_error", refused.append, namespace=namespace)
    try:
        try:
            await sio.connect(
                serving.url, namespaces=[namespace], auth=auth, transports=["websocket"], wait_timeout=int(DEADLINE_S)
            )
        except socketio.exceptions.ConnectionError:
            raise PermissionError(refused[0]) from None
        yield sio
    finally:
        await sio.disconnect()


@asynccontextmanager
async def raw(serving: Serving, token: str) -> AsyncIterator[ClientConnection]:
    """A WebSocket in the namespace `/game`."""
    url = serving.url.replace("http", "ws") + "/socket.io/?EIO=4&transport=websocket"
    async with connect(url) as socket:
        await socket.recv()
        await socket.send("40/game," + json.dumps({"token": token}))
        assert str(await socket.recv()).startswith('40/game,{"sid":')
        yield socket


async def closed(socket: ClientConnection) -> int | None:
    """Wait until the server closes; returns its close code."""
    async with asyncio.timeout(DEADLINE_S):
        with contextlib.suppress(ConnectionClosed):
            async for _ in socket:
                pass
        await socket.wait_closed()
    return socket.close_code


async def test_a_handler_knows_the_user_of_the_clients_token(serving: Serving) -> None:
    for name in ("omar", "diego"):
        async with client(serving, GAME, token=serving.tokens[name]) as sio:
            assert await sio.call("whoami", namespace=GAME, timeout=DEADLINE_S) == name


@pytest.mark.parametrize("auth", [{}, {"token": "nonsense"}, {"token": 5}])
async def test_a_client_without_a_valid_token_is_refused_as_in_the_core(
    serving: Serving, auth: dict[str, Any]
) -> None:
    refusals = []
    for namespace in ("/", GAME):
        with pytest.raises(PermissionError) as refused:
            async with client(serving, namespace, **auth):
                pass
        refusals.append(refused.value.args[0])
    assert refusals[0] == refusals[1]
    assert refusals[0]["data"]["code"] == "unauthenticated"


async def test_a_namespace_without_authentication_needs_no_token(serving: Serving) -> None:
    async with client(serving, OPEN) as sio:
        assert await sio.call("session", namespace=OPEN, timeout=DEADLINE_S) == {}


async def test_a_withdrawn_session_is_disconnected_from_the_namespace(serving: Serving) -> None:
    token = await serving.node.login("omar")
    async with (
        client(serving, GAME, token=token) as sio,
        client(serving, GAME, token=serving.tokens["diego"]) as diego,
    ):
        node = serving.node.node
        await node.auth.set_disabled(await node.auth.user("omar"), True)
        async with asyncio.timeout(DEADLINE_S):
            assert await serving.installed.ended.get() == "server disconnect"
        assert await diego.call("whoami", namespace=GAME, timeout=DEADLINE_S) == "diego"
        await sio.disconnect()


async def test_a_client_that_signs_in_during_the_check_of_sessions_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with on_tidings(Application, tmp_path, options={"session_check_s": 3600.0}) as serving:
        node = serving.node.node
        read, entered, release = node.database.read, asyncio.Event(), asyncio.Event()

        async def held(query: Any) -> Any:
            result = await read(query)
            entered.set()
            await release.wait()
            return result

        async with client(serving, GAME, token=serving.tokens["omar"]) as omar:
            monkeypatch.setattr(node.application_users, "_db", SimpleNamespace(read=held))
            check = asyncio.create_task(node.application_users._round())
            await asyncio.wait_for(entered.wait(), DEADLINE_S)
            async with client(serving, GAME, token=serving.tokens["diego"]) as diego:
                release.set()
                await check
                assert await diego.call("whoami", namespace=GAME, timeout=DEADLINE_S) == "diego"
            assert await omar.call("whoami", namespace=GAME, timeout=DEADLINE_S) == "omar"


async def test_a_client_is_disconnected_when_its_token_expires(serving: Serving) -> None:
    node = serving.node.node
    token, _ = await node.auth.token_for("omar", 5000)
    async with client(serving, GAME, token=token), asyncio.timeout(DEADLINE_S):
        assert await serving.installed.ended.get() == "server disconnect"


async def test_a_failing_handler_is_logged_and_the_client_stays(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    token = serving.tokens["omar"]
    with pytest.raises(PermissionError) as refused:
        async with client(serving, GAME, token=token, fail=True):
            pass
    assert refused.value.args[0]["data"]["code"] == "internal"
    async with client(serving, GAME, token=token) as sio:
        await sio.emit("fail", namespace=GAME)
        assert await sio.call("whoami", namespace=GAME, timeout=DEADLINE_S) == "omar"
    assert sum("a fault of the application" in (record.exc_text or "") for record in caplog.records) >= 1


@pytest.mark.parametrize("event", ['["connect"]', '["disconnect","x"]', "[true]", "[[]]", "[]", '{"a":1}'])
async def test_no_client_event_reaches_the_handlers_of_connect_and_disconnect(serving: Serving, event: str) -> None:
    async with raw(serving, serving.tokens["omar"]) as socket:
        await socket.send("42/game," + event)
        assert await closed(socket) == 1002
        async with asyncio.timeout(DEADLINE_S):
            assert await serving.installed.ended.get() == "transport error"


async def test_unexpected_acknowledgements_are_ignored(serving: Serving) -> None:
    async with raw(serving, serving.tokens["omar"]) as socket:
        for packet in ("43/game,0[]", "43/game,77[1]", "43/game,1[]", "43/game,[]"):
            await socket.send(packet)
        await socket.send('42/game,5["whoami"]')
        assert await socket.recv() == '43/game,5["omar"]'


async def test_a_client_with_too_many_running_handlers_is_disconnected(serving: Serving) -> None:
    async with (
        raw(serving, serving.tokens["omar"]) as flood,
        client(serving, GAME, token=serving.tokens["diego"]) as sio,
    ):
        with contextlib.suppress(ConnectionClosed):
            for _ in range(1100):
                await flood.send('42/game,["wait"]')
        await closed(flood)
        assert serving.installed.running <= 1024
        assert await sio.call("whoami", namespace=GAME, timeout=DEADLINE_S) == "diego"


async def test_a_slow_consumer_is_closed_and_delays_no_other_client(serving: Serving) -> None:
    sio: socketio.AsyncServer = serving.sio
    async with (
        raw(serving, serving.tokens["omar"]) as slow,
        client(serving, GAME, token=serving.tokens["diego"]) as reader,
    ):
        numbers: asyncio.Queue[int] = asyncio.Queue()
        reader.on("noise", lambda number, _: numbers.put_nowait(number), namespace=GAME)
        slow.transport.pause_reading()
        for number in range(100):
            await sio.emit("noise", (number, "x" * 65_536), namespace=GAME)
            async with asyncio.timeout(DEADLINE_S):
                assert await numbers.get() == number
        async with asyncio.timeout(DEADLINE_S):
            assert await serving.installed.ended.get() == "slow consumer"


async def test_the_admin_ui_can_connect_and_send_commands(tmp_path: Path) -> None:
    auth = {"username": "admin", "password": "for this test"}

    def install(sio: socketio.AsyncServer) -> Application:
        sio.instrument(auth=auth, server_stats_interval=1)
        return Application(sio)

    events: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()

    async def until(name: str, *first: Any) -> Any:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                event, *arguments = await events.get()
                if event == name and tuple(arguments[: len(first)]) == first:
                    return arguments

    async with on_tidings(install, tmp_path) as serving:
        with pytest.raises(PermissionError):
            async with client(serving, ADMIN, username="admin", password="guessed"):
                pass
        token = serving.tokens["omar"]
        async with client(serving, GAME, token=token) as player, client(serving, "/", token=token) as member:
            admin = socketio.AsyncClient(reconnection=False)
            admin.on("*", lambda *event: events.put_nowait(event), namespace=ADMIN)
            await admin.connect(
                serving.url, namespaces=[ADMIN], auth=auth, transports=["websocket"], wait_timeout=int(DEADLINE_S)
            )
            try:
                assert "JOIN" in (await until("config"))[0]["supportedFeatures"]
                sockets = {(socket["nsp"], socket["id"]) for socket in (await until("all_sockets"))[0]}
                assert {(GAME, player.get_sid(GAME)), ("/", member.get_sid("/"))} <= sockets
                # The refused client is counted until its connection has ended.
                while (stats := (await until("server_stats"))[0])["clientsCount"] != 3:
                    pass
                assert {"/", GAME, ADMIN} <= {namespace["name"] for namespace in stats["namespaces"]}
                await admin.emit("join", (GAME, "red", player.get_sid(GAME)), namespace=ADMIN)
                await until("room_joined", GAME, "red", player.get_sid(GAME))
                hello: asyncio.Future[str] = asyncio.get_running_loop().create_future()
                player.on("hello", hello.set_result, namespace=GAME)
                await admin.emit("emit", (GAME, "red", "hello", "you"), namespace=ADMIN)
                assert await asyncio.wait_for(hello, DEADLINE_S) == "you"
                await admin.emit("_disconnect", (GAME, False, player.get_sid(GAME)), namespace=ADMIN)
                await until("socket_disconnected", GAME, player.get_sid(GAME))
            finally:
                await admin.disconnect()


async def test_a_session_whose_end_fails_is_forgotten(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ended = asyncio.Event()

    async def fail(eio_sid: str, reason: str) -> None:
        ended.set()
        raise LookupError("a fault within python-socketio")

    monkeypatch.setitem(serving.sio.eio.handlers, "disconnect", fail)
    async with client(serving, GAME, token=serving.tokens["omar"]):
        assert serving.sio._applications
    await asyncio.wait_for(ended.wait(), DEADLINE_S)
    await asyncio.sleep(0)  # the session's task has been resumed by the failure
    assert serving.sio._applications == {}
    assert "a fault within python-socketio" in caplog.text
