"""Runs the scenarios of `scenarios.json` with the driver of a library.

A step is one object:

- `{"driver": "a", "do": …}`: a command (see `driver.py`); the runner adds the topic, the URL and the token. It waits
  for the answer unless `later`, and expects the error code `fails`.
- `{"driver": "a", "receives": […]}`: the driver has consumed these messages, in this order, each once.
  `receives_at_least`: these, after any others. `shows`: the timeline.
- `{"driver": "a", "shows_finished": "b"}`: the timeline is the message that `b` has finished. `{"stop": "text"}`:
  another member asks the author of the message that begins so to stop.
- `{"peer": […]}`: another member sends these messages. `{"logged": […]}`: the log has these.
- `{"kill": "a"}`, `{"cut": true}`, `{"connections": n}`, `connections_at_least`: exactly or at least so many so far.
- `{"wire": …}`, `{"server": …}`, `{"store": "full"}` (of every driver) or `"writable"`.

At the end one more message is sent, which must be the next one that each consumer gets, and the log holds no message
twice.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from docs.generate import ROOT
from tests.clients.wire import Direction, Wire, wire
from tests.e2e.javascript import node
from tests.support.network import Network, network
from tests.support.node import NO_TLS, RunningNode

FOLDER = Path(__file__).parent
BUILT = ROOT / "clients/javascript/dist/node.js"
DEADLINE_S = 60.0


def python_driver() -> list[str]:
    return [sys.executable, "-W", "error", str(FOLDER / "driver.py")]


def javascript_driver() -> list[str]:
    """Skips the test if the library is not built (CI: fails)."""
    command = [node(), str(FOLDER / "driver.mjs")]
    if not BUILT.exists():
        missing = "the JavaScript library is not built; `make client` or `make test` builds it"
        if os.environ.get("CI"):
            pytest.fail(f"CI must test it: {missing}", pytrace=False)
        pytest.skip(missing)
    return command


LIBRARIES = {"python": python_driver, "javascript": javascript_driver}
"""The command that starts the driver of each library."""


class Driver:
    """A process of a library."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._commands = 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._changed = asyncio.Event()
        self._reading = asyncio.create_task(self._read())
        self.received: list[str] = []
        self.shown: list[str] = []
        self.ever_shown: set[str] = set()
        self.finished = ""
        self.consumes = False
        self.started = False
        self.observed = 0
        """The number of observations."""

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while (line := await self._process.stdout.readline()).endswith(b"\n"):  # a kill may cut the last one
            self.observed += 1
            observation = json.loads(line)
            if number := observation.get("done") or observation.get("failed"):
                self._answers[number] = observation
            elif "message" in observation:
                self.received.append(observation["message"]["content"])
            elif "timeline" in observation:
                self.shown = observation["timeline"]
                self.ever_shown.update(self.shown)
            elif "started" in observation:
                self.started = True
            elif "finished" in observation:
                self.finished = observation["finished"]
            self._changed.set()

    def command(self, **command: Any) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._commands += 1
        return self._commands

    async def answer(self, number: int) -> dict[str, Any]:
        await self.until(lambda: number in self._answers, "no answer")
        return self._answers[number]

    async def until(self, condition: Callable[[], bool], failure: str) -> None:
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"{failure}; received {self.received}, shown {self.shown}") from None

    def limit_files(self, size: int) -> None:
        """Let this process write files only up to this size, from now on."""
        _, hard = resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (hard if size < 0 else size, hard))

    def strike(self) -> None:
        if self._process.returncode is None:
            self._process.kill()

    async def kill(self) -> None:
        """Returns when all that the process has reported is read."""
        self.strike()
        await self._process.wait()
        await self._reading


class Stage:
    """A server, the network before it, and the driver processes of one library."""

    def __init__(
        self,
        server: RunningNode,
        net: Network,
        proxy: Wire,
        http: httpx.AsyncClient,
        command: Sequence[str],
        path: Path,
    ) -> None:
        self.server, self.net, self.wire = server, net, proxy
        self._http, self._command, self._path = http, command, path
        self._drivers: dict[str, Driver] = {}
        self._tokens: dict[str, str] = {}
        self._runs = 0
        self._topic = ""
        self._seen: list[str] = []
        self._watching = asyncio.Event()
        self.packets = 0
        self.cut_before = 0
        """The connection ends instead of this packet, counted over both directions; 0: it does not."""
        self._mode = "heal"
        self._asked: set[str] = set()
        proxy.change = self._change

    async def begin(self) -> None:
        for username in ("omar", "diego"):
            self._tokens[username] = await self.server.register(username)

    async def end(self) -> None:
        for driver in self._drivers.values():
            await driver.kill()

    # The network

    def _change(self, direction: Direction, packet: str) -> list[str] | None:
        self.packets += 1
        if self.packets == self.cut_before:
            return None
        kind, _, body = packet.partition("[")
        if direction == "up" and body.startswith('"authenticate"'):
            self._asked.add(kind)
        if direction == "down" and kind.replace("43", "42", 1) in self._asked and kind.startswith("43"):
            self._watching.set()
        if self._mode.startswith("lose"):
            if direction == "up" and body.startswith('"message"'):
                self._losing = kind.replace("42", "43", 1)
            elif direction == "down" and kind == getattr(self, "_losing", None):
                self._losing = None
                self._mode = self._mode if "every" in self._mode else "heal"
                return None
        if self._mode == "speak another version" and direction == "down" and kind[:2] in ("42", "43"):
            return list(another_version(kind, json.loads(f"[{body}")))
        return [packet]

    # Steps

    async def run(self, steps: Sequence[dict[str, Any]]) -> None:
        """Run the steps in a topic, with stores and devices of their own."""
        self._runs += 1
        self._topic = f"topic{self._runs}"
        self.packets = 0
        self.wire.connections = 0
        await self._request("POST", "/api/topics", topic_name=self._topic)
        for step in steps:
            await self._step(dict(step))
        consuming = [driver for driver in self._drivers.values() if driver.consumes]
        before = [list(driver.received) for driver in consuming]
        await self._peer(["the end"])
        for driver, received in zip(consuming, before, strict=True):
            await driver.until(lambda d=driver: "the end" in d.received, "the end was not received")
            assert driver.received == [*received, "the end"]
        contents = await self._log()
        assert len(contents) == len(set(contents)), contents

    async def _step(self, step: dict[str, Any]) -> None:
        match step:
            case {"driver": name, "do": _}:
                await self._perform(name, step)
            case {"driver": name, "receives": list(expected)}:
                driver = self._drivers[name]
                await driver.until(lambda: driver.received[: len(expected)] == expected, f"not received: {expected}")
                assert driver.received == expected
            case {"driver": name, "receives_at_least": list(expected)}:
                driver = self._drivers[name]
                await driver.until(lambda: driver.received[-len(expected) :] == expected, f"not received: {expected}")
            case {"driver": name, "shows": list(expected)}:
                driver = self._drivers[name]
                await driver.until(lambda: driver.shown == expected, f"not shown: {expected}")
            case {"driver": name, "shows_finished": author}:
                driver, finished = self._drivers[name], self._drivers[author].finished
                await driver.until(lambda: driver.shown == [finished], f"not shown: {finished}")
                assert await self._log() == [finished]
            case {"stop": text}:
                page = await self._request("GET", "/api/messages", topic_name=self._topic, limit=200)
                (found,) = [each["id"] for each in page["messages"] if each["content"].startswith(text)]
                await self._request("POST", f"/api/messages/{found}/stop")
            case {"peer": contents}:
                await self._peer(contents)
            case {"logged": contents}:
                await self._until(lambda: self._logged(contents))
            case {"kill": name}:
                await self._drivers.pop(name).kill()
            case {"cut": True}:
                assert self.net.cut() > 0
            case {"connections": number}:
                await self._until(lambda: self._connected(number))
                assert self.wire.connections == number
            case {"connections_at_least": number}:
                await self._until(lambda: self._connected(number))
            case {"wire": "see authenticate"}:
                async with asyncio.timeout(DEADLINE_S):
                    await self._watching.wait()
            case {"wire": mode}:
                self._mode = mode
            case {"store": state}:
                for driver in self._drivers.values():
                    driver.limit_files(1 if state == "full" else -1)
            case {"server": what}:
                await self._serve(what)
            case _:
                raise ValueError(f"no such step: {step}")

    async def _perform(self, name: str, step: dict[str, Any]) -> None:
        command = {key: value for key, value in step.items() if key not in ("driver", "later", "fails", "tokens")}
        if name not in self._drivers:
            process = await asyncio.create_subprocess_exec(
                *self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, limit=1024 * 1024
            )
            self._drivers[name] = Driver(process)
        driver = self._drivers[name]
        await driver.until(lambda: driver.started, "not started")  # a short-lived token is made for its first connect
        match command["do"]:
            case "open":
                driver.received.clear()
                driver.consumes = False
                command["store"] = str(self._path / f"{self._runs}-{command['store']}")
                tokens = [self._token(kind) for kind in step.get("tokens", ["valid"])]
                device = f"{step.get('device', 'device')} {self._runs}"
                command |= {"url": self.wire.url, "token": tokens, "device": device}
            case "consume":
                driver.consumes = True
                command["topic"] = self._topic
            case "close":
                driver.consumes = False
            case "clock" | "write" | "write_until_stopped" | "finish":
                pass
            case _:
                command["topic"] = self._topic
        number = driver.command(**command)
        if not step.get("later"):
            assert (await driver.answer(number)).get("code") == step.get("fails"), step

    def _token(self, kind: str) -> str:
        valid = self._tokens["omar"]
        if kind in ("valid", "invalid"):
            return valid if kind == "valid" else "not a token"
        auth, now = self.server.node.auth, time.time_ns() // 1_000_000
        _, sid, _ = auth._tokens.read(valid)
        # Under a wrong clock, its lifetime decides when a client renews it: one that is old and lives long, too late.
        issued, expires = (now - 3_600_000, now + 2_000) if kind == "expires without notice" else (now, now + 6_000)
        return auth._tokens.make("omar", sid, issued, expires)

    async def _serve(self, what: str) -> None:
        database = Path(str(self.server._settings.database_url).removeprefix("sqlite:///"))
        if what != "start":
            await self.server.stop()
        if what == "backup":
            shutil.copy(database, self._path / "backup")
        elif what == "restore":
            for suffix in ("-wal", "-shm"):
                database.with_name(database.name + suffix).unlink(missing_ok=True)
            shutil.copy(self._path / "backup", database)
        if what != "stop":
            await self.server.start()

    # The other member, over REST and past the network

    async def _request(self, method: str, path: str, **fields: Any) -> dict[str, Any]:
        answer = await self._http.request(
            method,
            f"{self.server.url}{path}",
            headers={"Authorization": f"Bearer {self._tokens['diego']}"},
            **({"params": fields} if method == "GET" else {"json": fields}),
        )
        assert answer.is_success, answer.text
        data: dict[str, Any] = answer.json()
        return data

    async def _peer(self, contents: Sequence[str]) -> None:
        for content in contents:
            await self._request("POST", "/api/messages", topic_name=self._topic, content=content)

    async def _log(self) -> list[str]:
        page = await self._request("GET", "/api/messages", topic_name=self._topic, limit=200)
        return [message["content"] for message in page["messages"]]

    async def _logged(self, contents: Sequence[str]) -> bool:
        return set(contents) <= set(await self._log())

    async def _connected(self, number: int) -> bool:
        await asyncio.sleep(0)
        return self.wire.connections >= number

    async def _until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not await condition():
                pass


def another_version(kind: str, arguments: list[Any]) -> Iterator[str]:
    """The packets by which a later server would say the same."""
    name = arguments[0] if kind.startswith("42") else None
    future = {"future": {"deep": [1, None]}}
    for argument in arguments:
        if isinstance(argument, dict):
            for inner in (argument.get("data"), argument.get("message"), argument):
                if isinstance(inner, dict) and name != "order.paid":
                    inner |= future
            if argument.get("ok") is False and argument["error"]["code"] == "invalid":
                argument["error"] = {"code": "quota_exceeded", "message": "Too much", "units": 3}
    if name == "ready":
        yield '42["weather",{"sunny":true}]'
        yield '42["bare"]'
        yield '42["weather_in_room",{"room_id":"nowhere","seq":"not a number"}]'
    renamed = {"message_edited": "message_rewritten", "member": "membership", "reaction": "feeling"}
    if name in renamed:
        arguments[0] = renamed[name]
    yield kind + json.dumps(arguments)


@asynccontextmanager
async def stage(server: RunningNode, command: Sequence[str], path: Path) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        net = await stack.enter_async_context(network(server.url))
        proxy = await stack.enter_async_context(wire(net.url))
        http = await stack.enter_async_context(httpx.AsyncClient(verify=NO_TLS, timeout=DEADLINE_S))
        stage = Stage(server, net, proxy, http, command, path)
        await stage.begin()
        stack.push_async_callback(stage.end)
        yield stage
