"""What clients of an application cannot do: hear before they are accepted, take memory or time from others."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import thread_time
from typing import Any

import httpx
import pytest
import socketio
from websockets.asyncio.client import ClientConnection, connect

from tests.extending.conftest import Serving, on_tidings
from tests.extending.test_namespaces import ADMIN, DEADLINE_S, GAME, OPEN, client, closed, raw
from tests.support.timers import Timers
from tidings.gateways import applications
from tidings.transport.python_socketio import MAX_STARTED


class Open(socketio.AsyncNamespace):  # type: ignore[misc]
    authenticate = False

    def __init__(self, entering: asyncio.Queue[str]) -> None:
        super().__init__(OPEN)
        self.entering = entering

    async def on_connect(self, sid: str, environ: dict[str, Any]) -> None:
        await self.entering.put(sid)


class Application:
    """`/game`, whose connect handler waits for a verdict, and `/open`, which needs no token."""

    def __init__(self, sio: socketio.AsyncServer) -> None:
        self.sio = sio
        self.entering: asyncio.Queue[str] = asyncio.Queue()
        """The sid of each client whose connect handler runs."""
        self.verdict = asyncio.Event()
        self.verdict.set()
        self.admits = True
        self.left: asyncio.Queue[str] = asyncio.Queue()
        self.started = 0
        for event in ("echo", "compute", "fail"):
            sio.on(event, getattr(self, event), namespace=GAME)
        sio.on("connect", self.connect, namespace=GAME)
        sio.on("disconnect", self.disconnect, namespace=GAME)
        sio.register_namespace(Open(self.entering))

    async def connect(self, sid: str, environ: dict[str, Any], auth: Any) -> bool:
        await self.sio.enter_room(sid, "table", namespace=GAME)
        if "greet" in auth:
            await self.sio.emit("welcome", 1, to=sid, namespace=GAME)
        await self.entering.put(sid)
        await self.verdict.wait()
        return self.admits

    async def disconnect(self, sid: str, reason: str) -> None:
        await self.left.put(reason)

    async def echo(self, sid: str, *data: Any) -> Any:
        await self.sio.emit("echoed", data, namespace=GAME)
        return data

    async def compute(self, sid: str) -> None:
        self.started += 1
        until = thread_time() + 0.011
        while thread_time() < until:
            pass

    async def fail(self, sid: str) -> None:
        raise LookupError("a fault of the application")


@pytest.fixture
async def serving(tmp_path: Path) -> AsyncIterator[Serving]:
    async with on_tidings(Application, tmp_path) as serving:
        yield serving


@asynccontextmanager
async def outside(serving: Serving) -> AsyncIterator[ClientConnection]:
    """A WebSocket in no namespace."""
    url = serving.url.replace("http", "ws") + "/socket.io/?EIO=4&transport=websocket"
    async with connect(url) as socket:
        await socket.recv()
        yield socket


def enter(serving: Serving, user: str = "omar") -> str:
    return "40/game," + json.dumps({"token": serving.tokens[user], "greet": True})


async def frame(socket: ClientConnection) -> str:
    async with asyncio.timeout(DEADLINE_S):
        return str(await socket.recv())


async def written(socket: ClientConnection, *frames: str) -> None:
    """Send frames in one write."""
    transport = socket.transport
    write: Callable[[bytes], None] = transport.write
    buffer = bytearray()
    transport.write = buffer.extend  # type: ignore[method-assign,assignment]
    try:
        for each in frames:
            await socket.send(each)
    finally:
        transport.write = write  # type: ignore[method-assign]
    write(bytes(buffer))


@pytest.mark.parametrize("admits", [False, True])
async def test_a_client_hears_nothing_before_its_connect_handler_accepts_it(serving: Serving, admits: bool) -> None:
    game: Application = serving.installed
    async with raw(serving, serving.tokens["diego"]) as member, outside(serving) as newcomer:
        game.verdict.clear()
        game.admits = admits
        await game.entering.get()
        await newcomer.send(enter(serving))
        sid = await asyncio.wait_for(game.entering.get(), DEADLINE_S)
        await game.sio.emit("moved", "to all", namespace=GAME)
        await game.sio.emit("moved", "to the room", namespace=GAME, room="table")
        await game.sio.emit("moved", "alone", namespace=GAME, to=sid)
        assert await frame(member) == '42/game,["moved","to all"]'
        assert await frame(member) == '42/game,["moved","to the room"]'
        game.verdict.set()
        if not admits:
            assert (await frame(newcomer)).startswith("44/game,")
        else:  # in the order of a stock server
            for expected in ('["welcome",1]', '["moved","to all"]', '["moved","to the room"]', '["moved","alone"]'):
                assert await frame(newcomer) == f"42/game,{expected}"
            assert await frame(newcomer) == f'40/game,{{"sid":"{sid}"}}'


async def test_a_client_with_a_full_queue_does_not_stay_connecting(serving: Serving) -> None:
    game: Application = serving.installed
    async with httpx.AsyncClient(base_url=serving.url, timeout=DEADLINE_S) as http:
        opened = await http.get("/socket.io/?EIO=4&transport=polling")
        at = f"/socket.io/?EIO=4&transport=polling&sid={json.loads(opened.text[1:])['sid']}"
        await http.post(at, content="40/open,")
        await asyncio.wait_for(game.entering.get(), DEADLINE_S)
        await http.get(at)  # it is accepted
        await game.sio.emit("noise", "x" * 600_000, namespace=OPEN)  # more than half of its queue
        await http.post(at, content=enter(serving))
        await asyncio.wait_for(game.entering.get(), DEADLINE_S)  # it has been welcomed
        await asyncio.wait_for(game.sio.emit("moved", namespace=GAME), DEADLINE_S)  # and delays no broadcast


async def test_what_a_connecting_client_will_get_is_bounded(tmp_path: Path) -> None:
    # The timers stand still: the session does not end because it takes too long to connect.
    async with on_tidings(Application, tmp_path, options={"timers": Timers()}) as serving, outside(serving) as socket:
        game: Application = serving.installed
        game.verdict.clear()
        await socket.send(enter(serving))
        await asyncio.wait_for(game.entering.get(), DEADLINE_S)
        for _ in range(3):
            await game.sio.emit("noise", "x" * 500_000, namespace=GAME)
        assert await closed(socket) == 1000
        game.verdict.set()


@pytest.mark.parametrize("numbers", [[0, 0], [0], [0, 2], [0, -1], [0, 1, 1]])
async def test_an_attachment_is_used_exactly_once(serving: Serving, numbers: list[int]) -> None:
    async with raw(serving, serving.tokens["omar"]) as socket:
        placeholders = [{"_placeholder": True, "num": number} for number in numbers]
        await socket.send("452-/game," + json.dumps(["echo", *placeholders]))
        await socket.send(b"one")
        await socket.send(b"two")
        assert await closed(socket) == 1002


async def test_an_emit_larger_than_a_clients_buffer_is_refused_with_a_reason(serving: Serving) -> None:
    async with raw(serving, serving.tokens["omar"]) as socket:
        attachment = b"x" * 900_000
        with pytest.raises(ValueError, match=r"2,2\S* bytes is larger than the buffer of a client, 1,048,576 bytes"):
            await serving.sio.emit("bomb", [attachment] * 2_500, namespace=GAME)
        await serving.sio.emit("small", namespace=GAME)
        assert await frame(socket) == '42/game,["small"]'


async def test_a_packet_has_up_to_ten_attachments_that_arrive_in_time(tmp_path: Path) -> None:
    timers = Timers()
    options = {"timers": timers, "engine": {"ping_interval": 600}}
    async with on_tidings(Application, tmp_path, options=options) as serving:
        async with client(serving, GAME, token=serving.tokens["diego"]) as sio:
            ten = tuple(bytes([number]) for number in range(10))
            assert await sio.call("echo", ten, namespace=GAME, timeout=DEADLINE_S) == ten
            await sio.emit("echo", (*ten, b"eleven"), namespace=GAME)
            async with asyncio.timeout(DEADLINE_S):
                assert await serving.installed.left.get() == "transport error"
        async with httpx.AsyncClient(base_url=serving.url, timeout=DEADLINE_S) as http:
            opened = await http.get("/socket.io/?EIO=4&transport=polling")
            at = f"/socket.io/?EIO=4&transport=polling&sid={json.loads(opened.text[1:])['sid']}"
            await http.post(at, content=enter(serving))
            await http.get(at)
            await http.post(at, content='451-/game,1["echo",{"_placeholder":true,"num":0}]')
            timers.advance(61)
            assert (await http.get(at)).text == "1"


async def test_handlers_start_in_turns(serving: Serving) -> None:
    game: Application = serving.installed
    async with raw(serving, serving.tokens["omar"]) as socket:
        most, before = 0, 0
        await written(socket, *['42/game,["compute"]'] * 30)
        async with asyncio.timeout(DEADLINE_S):
            while game.started < 30:
                await asyncio.sleep(0)
                most, before = max(most, game.started - before), game.started
        assert most == 1
        assert MAX_STARTED <= 64


async def test_a_failing_handler_that_a_client_repeats_is_logged_once_with_a_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    timers = Timers()
    async with on_tidings(Application, tmp_path, options={"timers": timers}) as serving:
        async with raw(serving, serving.tokens["omar"]) as socket:
            await written(socket, *['42/game,["fail"]'] * 300, '42/game,7["echo"]')
            while await frame(socket) != "43/game,7[]":
                pass
        timers.advance(10)
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [bool(record.exc_info) for record in errors] == [True, False]
    assert errors[1].getMessage() == "the handler of 'fail' in /game failed, and 299 more times in 10 s"


async def test_a_user_with_too_many_connections_loses_the_oldest(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(applications, "CONNECTIONS_PER_USER", 2)
    async with (
        raw(serving, serving.tokens["omar"]) as first,
        raw(serving, serving.tokens["omar"]) as second,
        raw(serving, serving.tokens["diego"]) as other,
        raw(serving, serving.tokens["omar"]) as third,
    ):
        assert await frame(first) == "41/game,"
        await serving.sio.emit("all", namespace=GAME)
        for socket in (second, other, third):
            assert await frame(socket) == '42/game,["all"]'


async def test_leaving_while_the_connect_handler_runs_is_quiet(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    game: Application = serving.installed
    async with outside(serving) as socket:
        await written(socket, enter(serving), "41/game,", enter(serving))
        assert await frame(socket) == '42/game,["welcome",1]'
        assert (await frame(socket)).startswith('40/game,{"sid":')
        while not game.entering.empty():
            await game.entering.get()
        game.verdict.clear()
        await written(socket, "41/game,", enter(serving))
        assert await game.left.get() == "client disconnect"
        await asyncio.wait_for(game.entering.get(), DEADLINE_S)
        # It leaves, and comes again with a bad token, before its connect handler accepts it.
        await written(socket, "41/game,", '40/game,{"token":"x"}')
        await asyncio.wait_for(await socket.ping(), DEADLINE_S)  # the server has read both
        game.verdict.set()
        assert (await frame(socket)).startswith("44/game,")
        assert await game.left.get() == "client disconnect"
    async with outside(serving) as socket:
        game.verdict.clear()
        await socket.send(enter(serving))
        await asyncio.wait_for(game.entering.get(), DEADLINE_S)
    game.verdict.set()
    assert await asyncio.wait_for(game.left.get(), DEADLINE_S) in ("transport close", "transport error")
    assert not list(game.sio.manager.get_participants(GAME, None))
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_broken_protocol_is_logged_once(serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tidings")
    async with raw(serving, serving.tokens["omar"]) as socket:
        await socket.send("49")
        assert await closed(socket) == 1002
    assert [record.getMessage() for record in caplog.records if "protocol" in record.getMessage()] == [
        "a client broke the protocol: not a Socket.IO packet"
    ]


async def test_the_password_of_the_admin_ui_cannot_be_guessed_quickly(tmp_path: Path) -> None:
    auth = {"username": "admin", "password": "for this test"}

    def install(sio: socketio.AsyncServer) -> None:
        sio.instrument(auth=auth)

    async with on_tidings(install, tmp_path, rate_limits="on") as serving:
        async with client(serving, ADMIN, **auth):
            pass
        codes = []
        for number in range(12):
            with pytest.raises(PermissionError) as refused:
                async with client(serving, ADMIN, username="admin", password=str(number)):
                    pass
            codes.append(refused.value.args[0].get("data", {}).get("code"))
        assert codes == [None] * 10 + ["rate_limited"] * 2


@pytest.mark.parametrize(("packet", "answer"), [('1["echo","\\ud800"]', '1["\\ud800"]'), ('2["echo",5]', "2[5]")])
async def test_an_unpaired_surrogate_is_answered(serving: Serving, packet: str, answer: str) -> None:
    async with raw(serving, serving.tokens["omar"]) as socket:
        await socket.send("42/game," + packet)
        assert (await frame(socket)).startswith('42/game,["echoed",')
        assert await frame(socket) == "43/game," + answer


async def test_an_event_named_by_a_number_is_ignored_as_by_node(serving: Serving) -> None:
    async with raw(serving, serving.tokens["omar"]) as socket:
        for number in ("5", "0", "-1.5"):
            await socket.send(f"42/game,3[{number},1]")
        await socket.send('42/game,4["echo"]')
        assert await frame(socket) == '42/game,["echoed"]'
        assert await frame(socket) == "43/game,4[]"
        await socket.send("40" + json.dumps({"token": serving.tokens["omar"]}))
        while not (await frame(socket)).startswith('42["ready"'):
            pass
        await socket.send("426[5,1]")
        answer = json.loads((await frame(socket)).removeprefix("436"))
        assert answer[0]["error"]["code"] in ("invalid", "unknown_action")


@pytest.mark.parametrize(("parser", "serializer"), [("json", "msgpack"), ("msgpack", "default")])
async def test_a_client_with_the_other_parser_is_refused_with_a_reason(
    tmp_path: Path, parser: str, serializer: str
) -> None:
    async with on_tidings(Application, tmp_path, parser=parser) as serving:
        for namespace in ("/", GAME):
            sio = socketio.AsyncClient(reconnection=False, serializer=serializer)
            refused: asyncio.Queue[Any] = asyncio.Queue()
            sio.on("connect_error", refused.put_nowait, namespace=namespace)
            with pytest.raises(socketio.exceptions.ConnectionError):
                await sio.connect(serving.url, namespaces=[namespace], auth={}, wait_timeout=int(DEADLINE_S))
            reason = await asyncio.wait_for(refused.get(), DEADLINE_S)
            assert reason["message"].startswith("this server needs ")
