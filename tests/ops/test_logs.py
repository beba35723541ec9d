"""The log has a line for each request and action, made only of safe fields."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import re
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from tests.gateways.raw import entered, opened
from tests.support.client import DEADLINE_S, Refused, connected
from tests.support.node import PASSWORD, RunningNode, running_node
from tidings.actions.context import Context
from tidings.actions.dispatch import action
from tidings.contract.actions import SendMessage
from tidings.contract.models import Empty
from tidings.monitoring.logs import Level, Logs
from tidings.settings import Settings

SECRET = "Sesame7431"


class Log:
    """The written lines."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self._written = asyncio.Event()

    def write(self, lines: bytes) -> None:
        self.writes.append(lines)
        self._written.set()

    @property
    def text(self) -> str:
        return b"".join(self.writes).decode()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]

    def of(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == event and fields.items() <= line.items()]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for a condition: lines are written in batches."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                self._written.clear()
                await self._written.wait()

    async def only(self, event: str, **fields: Any) -> dict[str, Any]:
        await self.until(lambda: self.of(event, **fields))
        (line,) = self.of(event, **fields)
        return line


@pytest.fixture
def standard_library() -> Iterator[None]:
    """Restores the configuration of the standard library's logging."""
    root, ours = logging.getLogger(), logging.getLogger("tidings")
    kept = root.handlers[:], root.level, ours.level
    yield
    logging.captureWarnings(False)
    root.handlers[:], level, our_level = kept
    root.setLevel(level)
    ours.setLevel(our_level)


@asynccontextmanager
async def logged(
    sqlite_url: str, data_dir: Path, level: Level = "info", **changes: Any
) -> AsyncIterator[tuple[RunningNode, Log]]:
    log = Log()
    logs = Logs(level, write=log.write)
    logs.take_over()
    async with running_node(sqlite_url, data_dir, options={"logs": logs}, **changes) as node:
        yield node, log


@action("fail", http="POST /api/fail")
async def fail(ctx: Context, req: SendMessage) -> Empty:
    """Fails with an unexpected exception that quotes its payload."""
    try:
        raise KeyError(req.content)
    except KeyError as error:
        raise ValueError(f"no such thing: {req.content}") from error


pytestmark = pytest.mark.usefixtures("standard_library")


async def test_each_action_over_a_live_connection_has_one_line(sqlite_url: str, tmp_path: Path) -> None:
    async with logged(sqlite_url, tmp_path) as (node, log):
        async with connected(node.url, await node.register("omar"), device="laptop") as omar:
            room = await omar.ask("create", topic_name="noticias")
            await omar.ask("message", topic_name="noticias", content="hola")
            with pytest.raises(Refused):
                await omar.ask("message", topic_name="nothing", content="hola")
            with pytest.raises(Refused):
                await omar.ask("made up")
        sent = await log.only("action", action="message", outcome="ok")
        opened_line = await log.only("connection opened")
        assert sent == {
            "event": "action",
            "level": "info",
            "timestamp": sent["timestamp"],
            "request_id": sent["request_id"],
            "user": "omar",
            "connection": opened_line["connection"],
            "gateway": "socketio",
            "action": "message",
            "room": room["room_id"],
            "outcome": "ok",
            "duration_ms": sent["duration_ms"],
        }
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", sent["timestamp"])
        assert 0 < sent["duration_ms"] < DEADLINE_S * 1000
        assert (await log.only("action", action="message", outcome="not_found"))["room"] is None
        await log.only("action", action="unknown", outcome="unknown_action")
        assert len({line["request_id"] for line in log.of("action")}) == len(log.of("action")) == 4
        assert (opened_line["user"], opened_line["transport"]) == ("omar", "websocket")
        closed = await log.only("connection closed")
        assert closed["connection"] == opened_line["connection"]
        assert closed["reason"]
        assert closed["duration_s"] > 0


async def test_the_reason_of_a_close_is_logged(sqlite_url: str, tmp_path: Path) -> None:
    async with logged(sqlite_url, tmp_path) as (node, log), connected(node.url, await node.register("omar")) as omar:
        await omar.ask("logout")
        await log.only("connection closed", user="omar", reason="token_revoked")


async def test_each_http_request_has_one_line_with_the_request_id_of_its_answer(
    sqlite_url: str, tmp_path: Path
) -> None:
    async with logged(sqlite_url, tmp_path) as (node, log), httpx.AsyncClient(base_url=node.url) as http:
        token = await node.register("omar")
        http.headers["Authorization"] = f"Bearer {token}"
        made = await http.post("/api/topics", json={"topic_name": "noticias"})
        line = await log.only("request", request_id=made.headers["X-Request-Id"])
        assert {name: line[name] for name in ("method", "route", "action", "user", "status", "outcome", "room")} == {
            "method": "POST",
            "route": "/api/topics",
            "action": "create",
            "user": "omar",
            "status": 201,
            "outcome": "ok",
            "room": made.json()["room_id"],
        }
        own = await http.get("/api/me", headers={"X-Request-Id": "from-the-proxy_1"})
        assert own.headers.get_list("X-Request-Id") == ["from-the-proxy_1"]
        await log.only("request", request_id="from-the-proxy_1", action="me")
        for insane in ("x" * 65, "two words", 'quo"te', token, ""):
            answer = await http.get("/api/me", headers={"X-Request-Id": insane})
            assert answer.headers["X-Request-Id"] != insane
        lost = await http.get("/api/nothing")
        assert (await log.only("request", request_id=lost.headers["X-Request-Id"]))["status"] == 404
        nobody = await http.get("/api/me", headers={"Authorization": "Bearer nonsense"})
        line = await log.only("request", request_id=nobody.headers["X-Request-Id"])
        assert (line["outcome"], line["status"], line["user"]) == ("unauthenticated", 401, None)
        assert (await log.only("request", action="register", outcome="ok"))["user"] == "omar"
        assert not log.of("action"), "a request is not an action of a connection"
        live = await http.get("/health/live")
        scraped = await http.get("/metrics")
        assert live.headers["X-Request-Id"] != scraped.headers["X-Request-Id"]
        await http.get("/api/me", headers={"X-Request-Id": "last"})
        await log.only("request", request_id="last")
        assert not [line for line in log.of("request") if line["route"] in ("/health/live", "/metrics")]


async def test_an_internal_error_is_logged_with_the_request_id_that_the_client_got(
    sqlite_url: str, tmp_path: Path
) -> None:
    async with logged(sqlite_url, tmp_path) as (node, log):
        node.node.dispatcher.registry.add(fail.__action__)  # type: ignore[attr-defined]
        token = await node.register("omar")
        payload = {"topic_name": "noticias", "content": SECRET}
        async with connected(node.url, token) as omar:
            with pytest.raises(Refused) as refused:
                await omar.ask("fail", payload)
        request_id = refused.value.details["request_id"]
        await log.only("action", action="fail", outcome="internal", request_id=request_id)
        (error,) = [line for line in log.lines if line["level"] == "error"]
        log.writes.clear()

        async def broken(_token: str) -> None:
            raise LookupError(SECRET)

        node.node.auth.authenticate = broken  # type: ignore[method-assign, assignment]
        async with httpx.AsyncClient(base_url=node.url) as http:
            answer = await http.get("/api/me", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 500
        assert answer.json()["details"]["request_id"] == answer.headers["X-Request-Id"]
        await log.only("request", outcome="internal", request_id=answer.headers["X-Request-Id"])
        (line,) = [line for line in log.lines if line["level"] == "error"]
        assert line["request_id"] == answer.headers["X-Request-Id"]
        assert error["request_id"] == request_id
        assert error["exception"] == ["ValueError", "KeyError"]
        assert any(__file__ in frame and frame.endswith(" fail") for frame in error["at"])
        assert SECRET not in log.text


async def test_no_secret_gets_into_the_log_wherever_clients_put_it(sqlite_url: str, tmp_path: Path) -> None:
    """At level debug. A client may put a password, a token or a message anywhere."""
    async with logged(sqlite_url, tmp_path, "debug") as (node, log):
        node.node.dispatcher.registry.add(fail.__action__)  # type: ignore[attr-defined]
        token = await node.register("omar", SECRET)
        bearer = {"Authorization": f"Bearer {token}"}
        async with connected(node.url, token, device=SECRET) as omar:
            await omar.ask("create", topic_name="noticias")
            await omar.ask("message", topic_name="noticias", content=SECRET, client_id=SECRET)
            room = {"topic_name": "noticias"}
            for name, wrong in (
                ("message", {**room, "content": SECRET, SECRET: SECRET}),
                ("message", {**room, "content": SECRET * 2000}),
                ("message", {**room, "content": SECRET, "reply_to": SECRET}),
                ("message", {**room, "content": [SECRET]}),
                ("message", {"topic_name": SECRET, "content": SECRET}),
                ("message", {"room_id": SECRET, "content": SECRET}),
                ("message", {"username": SECRET, "content": SECRET}),
                ("history", {"room_id": SECRET}),
                ("get_profile", {"username": SECRET}),
                ("authenticate", {"token": SECRET}),
                ("authenticate", {"token": token, "password": SECRET}),
                (SECRET, {SECRET: SECRET}),
                ("fail", {**room, "content": SECRET}),
            ):
                with pytest.raises(Refused):
                    await omar.ask(name, wrong)
        for packet in (SECRET, f"4{SECRET}", f"42{SECRET}", f'42["message",{SECRET}]', f"5{SECRET}", f'41["{SECRET}'):
            async with entered(node.url, token) as raw:
                await raw.send(packet)
                await raw.until_closed()
        async with opened(node.url) as raw:
            await raw.send(f'40{{"token":"{SECRET}","device":["{SECRET}"]}}')
            await raw.until("44")
        for path in (f"/socket.io/?EIO=4&transport=websocket&token={token}&sid={SECRET}", f"/ws?token={token}-x"):
            with contextlib.suppress(WebSocketException):
                async with connect(node.url.replace("http", "ws", 1) + path, proxy=None) as socket:
                    await asyncio.wait_for(socket.recv(), DEADLINE_S)
        async with connect(node.url.replace("http", "ws", 1) + f"/ws?token={token}", proxy=None) as socket:
            for data in ({**room, "content": SECRET}, {**room, "content": SECRET, SECRET: 1}):
                await socket.send(json.dumps({"id": SECRET, "action": "message", "data": data}))
            await socket.send(SECRET)
            await log.only("action", gateway="websocket", outcome="ok")
            await log.only("action", gateway="websocket", outcome="invalid")
        with contextlib.suppress(WebSocketException):
            await connect(node.url.replace("http", "ws", 1) + f"/{token}-x", proxy=None)
        async with connect(node.url.replace("http", "ws", 1) + f"/{token}", proxy=None) as socket:
            for content in (SECRET, [SECRET]):
                await socket.send(json.dumps({"action": "message", **room, "content": content}))
            await log.only("action", gateway="topics", outcome="ok")
            await log.only("action", gateway="topics", outcome="invalid")
        async with httpx.AsyncClient(base_url=node.url) as http:
            for username, password in (("omar", SECRET), (SECRET, PASSWORD), ("omar", SECRET + "x")):
                await http.post("/api/login", json={"username": username, "password": password})
            await http.post("/api/login", json={"username": "omar", "password": SECRET, SECRET: SECRET})
            await http.post("/api/login", content=SECRET)
            await http.get(f"/api/me?token={token}&{SECRET}={SECRET}", headers=bearer)
            await http.get(f"/api/{SECRET}?token={token}", headers={"Authorization": f"Bearer {SECRET}"})
            await http.get(f"/api/users/{SECRET}", headers=bearer)
            await http.request(SECRET.upper(), "/api/me", headers=bearer)
            await http.post("/api/fail", json={**room, "content": SECRET}, headers=bearer)
            await http.get("/api/me", headers=bearer | {"X-Request-Id": "end"})
        await log.only("request", request_id="end")
        assert len(log.of("action")) == 19
        assert len(log.of("request")) == 11  # with the registration, without the request of an invalid method
        for secret in (SECRET, SECRET.upper(), SECRET[:6], token, token.split(".")[1], token.split(".")[2]):
            assert secret not in log.text, [line for line in log.text.splitlines() if secret in line]


@pytest.mark.parametrize("level", ["warning", "error"])
async def test_above_info_successful_actions_are_not_logged(sqlite_url: str, tmp_path: Path, level: Level) -> None:
    async with logged(sqlite_url, tmp_path, level) as (node, log):
        async with connected(node.url, await node.register("omar")) as omar:
            await omar.ask("create", topic_name="noticias")
        logging.getLogger("tidings.hub").warning("something is up")
        logging.getLogger("tidings.hub").error("something is wrong")
        assert [line["event"] for line in log.lines][-1] == "something is wrong"
        assert len(log.lines) == (2 if level == "warning" else 1)


async def test_errors_of_libraries_are_logged_as_json_and_their_lesser_messages_are_not() -> None:
    log = Log()
    Logs("debug", write=log.write).take_over()
    for name in ("uvicorn.error", "sqlalchemy.engine", "websockets.server", "asyncio"):
        logging.getLogger(name).info("WebSocket /ws?token=%s", SECRET)
        logging.getLogger(name).debug("INSERT %s", SECRET)
        try:
            raise FileNotFoundError(2, "No such file", "/nowhere")
        except OSError:
            logging.getLogger(name).exception("broken\nfuture: %r", SECRET)
    assert [line["logger"] for line in log.lines] == [
        "uvicorn.error",
        "sqlalchemy.engine",
        "websockets.server",
        "asyncio",
    ]
    for line in log.lines:
        assert (line["event"], line["level"]) == ("broken", "error")
        assert line["exception"] == ["FileNotFoundError: [Errno 2] No such file: '/nowhere'"]
    assert SECRET not in log.text


async def test_log_lines_are_batched_and_urgent_ones_written_immediately() -> None:
    log = Log()
    logs = Logs("info", write=log.write)
    for n in range(100):
        logs.info("action", n=n)
    assert log.writes == []
    await log.until(lambda: log.writes)
    assert len(log.writes) == 1
    logs.info("action", n=100)
    logs.take_over()
    logging.getLogger("tidings.x").error("now")
    assert len(log.writes) == 2
    assert [line.get("n") for line in log.lines] == [*range(101), None]


def test_pretty_lines_are_not_json() -> None:
    log = Log()
    logs = Logs("info", write=log.write, pretty=True)
    logs.info("action", user="omar", action="message")
    logs.flush()
    assert "user" in log.text
    assert "omar" in log.text
    assert not log.text.startswith("{")


def test_the_level_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings(_env_file=None).log_level == "info"
    monkeypatch.setenv("TIDINGS_LOG_LEVEL", "loud")
    with pytest.raises(ValueError, match="log_level"):
        Settings(_env_file=None)


def test_a_line_of_another_thread_is_written_at_whichever_instruction_a_flush_interrupts_it() -> None:
    """For each instruction of `line`, another thread flushes before that instruction."""
    written: list[bytes] = []
    logs = Logs(write=written.append)

    def line_interrupted_at(at: int) -> bool:
        """False if there is no such instruction."""
        instructions = itertools.count()
        interrupted = False

        def trace(frame: FrameType, event: str, _argument: object) -> Any:
            nonlocal interrupted
            frame.f_trace_opcodes = frame.f_code is Logs.line.__code__
            if event == "opcode" and next(instructions) == at:
                interrupted = True
                other = threading.Thread(target=logs.flush)
                other.start()
                other.join()
            return trace

        def write_line() -> None:
            sys.settrace(trace)
            logs.line(b"line %d\n" % at, urgent=False)

        thread = threading.Thread(target=write_line)
        thread.start()
        thread.join()
        return interrupted

    instructions = 0
    while line_interrupted_at(instructions):
        instructions += 1
    logs.flush()
    assert instructions > 10
    assert b"".join(written).splitlines() == [b"line %d" % at for at in range(instructions + 1)]


async def test_lines_name_the_node_where_several_may_share_a_database(
    sqlite_url: str, postgresql_url: str, tmp_path: Path
) -> None:
    for url, node_name in (sqlite_url, None), (postgresql_url, "berlin"):
        async with logged(url, tmp_path, node_name="berlin") as (node, log):
            await node.register("omar")
            assert (await log.only("request", action="register")).get("node") == node_name


WRITER = """
import asyncio, sys
from tidings.monitoring.logs import Logs

async def write():
    logs = Logs(pretty=False)
    for n in range(3000):
        logs.info("x", writer=sys.argv[1], n=n, filler="f" * (n % 700))
    logs.flush()

asyncio.run(write())
"""


async def test_lines_of_several_processes_do_not_mix() -> None:
    """The pipe is full most of the time."""
    receiving, sending = os.pipe()
    writers = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", WRITER, name, stderr=sending) for name in "abc"
    ]
    os.close(sending)

    def read() -> list[bytes]:
        with open(receiving, "rb") as pipe:
            return pipe.read().splitlines()

    lines = [json.loads(line) for line in await asyncio.to_thread(read)]
    assert [await writer.wait() for writer in writers] == [0, 0, 0]
    for name in "abc":
        assert [line["n"] for line in lines if line["writer"] == name] == list(range(3000))
