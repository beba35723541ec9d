"""The client libraries beside the stock clients: processes with stores on disk, which are killed as the server is.

One topic has messages, of the Python library's outbox and of a stock client over HTTP. The other has messages that
stream, of the same two authors. A library of each language reads both.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import subprocess
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import httpx

from tests.clients.runner import Driver
from tests.support.node import NO_TLS
from tidings_client import SQLiteStore

if TYPE_CHECKING:
    from tests.crash.load import Load

MESSAGES, STREAMS = "libraries", "streams"
SENDER, STOCK = "outbox", "stock"
IN_FLIGHT = 6
PIECE = "¡Año 🎉 {} 👩‍👧! "
SLOW_STORE = Path(__file__).with_name("slow_store")
"""On the path of the Python library's processes."""
END_S = 20.0
"""How long everything may take to arrive after the last kill."""


@dataclass
class Stream:
    """A message that streams, as its author knows it."""

    text: str = ""
    """All that was written."""
    stored: int = 0
    """As the server answered."""
    is_finished: bool = False
    """Whether `finish` was answered."""


@dataclass
class Seen:
    """What the libraries and the stock client have done and seen, and the logs at the end."""

    sent: dict[str, list[str]] = field(default_factory=lambda: {SENDER: [], STOCK: []})
    """By user, in order; a process that was killed may not have stored its last ones."""
    acknowledged: list[str] = field(default_factory=list)
    promised: list[str] = field(default_factory=list)
    """What was in the outbox of a killed process."""
    streams: list[Stream] = field(default_factory=list)
    lives: dict[str, list[list[str]]] = field(default_factory=dict)
    """By reader: the messages that each of its processes has received."""
    shown: dict[str, list[str]] = field(default_factory=dict)
    """By reader: the timeline of the streams at the end."""
    ever_shown: set[str] = field(default_factory=set)
    """Each text that a reader has shown of a stream, at any time."""
    held: dict[str, str] = field(default_factory=dict)
    """Message id -> the content in the store of the Python library, at the end."""
    log: list[dict[str, Any]] = field(default_factory=list)
    written: list[dict[str, Any]] = field(default_factory=list)
    """The log of the streams."""

    def __str__(self) -> str:
        lives = {name: len(processes) for name, processes in self.lives.items()}
        ends = [sum(stream.is_finished for stream in self.streams), len(self.streams)]
        return f"{len(self.log)} messages, {len(self.promised)} promised, {ends} streams finished; processes: {lives}"


def violations(seen: Seen) -> Iterator[str]:
    log = [message["content"] for message in seen.log]
    yield from (f"{content} is in the log twice" for content in {*log} if log.count(content) > 1)
    yield from (f"{content} was acknowledged and lost" for content in seen.acknowledged if content not in log)
    yield from (f"{content} was in an outbox and lost" for content in seen.promised if content not in log)
    for user, sent in seen.sent.items():
        got = [message["content"] for message in seen.log if message["sender"] == user]
        if got != [content for content in sent if content in {*got}]:
            yield f"the messages of {user} are not in the order of sending: {got}"
    for reader, lives in seen.lives.items():
        at = 0
        for number, received in enumerate(lives):
            repeats = bool(at and received and received[0] == log[at - 1])  # it was being processed at the kill
            new = received[repeats:]
            if new != log[at : at + len(new)]:
                (wrong,) = itertools.islice((n for n, one in enumerate(new) if log[at + n : at + n + 1] != [one]), 1)
                yield f"{reader}'s process {number} got {new[wrong]} for {log[at + wrong : at + wrong + 1]}"
            at += len(new)
        if at != len(log):
            yield f"{reader} received {at} of {len(log)} messages"
    yield from _of_streams(seen)


def _of_streams(seen: Seen) -> Iterator[str]:
    contents = [message["content"] for message in seen.written]
    for message in seen.written:
        if message["state"] not in ("complete", "interrupted"):
            yield f"{message} has not ended"
        if not any(stream.text.startswith(message["content"]) for stream in seen.streams):
            yield f"nobody has written {message}"
        if message["id"] in seen.held and seen.held[message["id"]] != message["content"]:
            yield f"a store holds {seen.held[message['id']]!r} of {message}"
    for shown in seen.ever_shown:
        if not any(stream.text.startswith(shown) for stream in seen.streams):
            yield f"a reader has shown {shown!r}, which nobody has written"
    for stream in seen.streams:
        found = [each for each in seen.written if each["content"] and stream.text.startswith(each["content"])]
        if len(found) > 1:
            yield f"{stream} is in the log twice"
        if stream.is_finished and [(each["content"], each["state"]) for each in found] != [(stream.text, "complete")]:
            yield f"{stream} was finished, the log has {found}"
        if stream.stored and (not found or len(found[0]["content"]) < stream.stored):
            yield f"{stream} was stored, the log has {found}"
    for reader, last in seen.shown.items():
        if last != contents[-len(last) :] or len(last) < min(50, len(contents)):
            yield f"{reader} shows {last}, not {contents}"


class Libraries:
    def __init__(self, commands: Mapping[str, Sequence[str]], folder: Path, http: httpx.AsyncClient) -> None:
        """`commands`: of the driver of each library, that of `python` first."""
        self.seen = Seen()
        self._commands = commands
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._http = http
        self._load: Load
        self._numbers = itertools.count(1)
        self._tokens: dict[str, str] = {}
        self._drivers: list[Driver] = []
        self._newest: dict[str, Driver] = {}
        self._silent = asyncio.Event()
        """The authors have sent everything."""

    async def begin(self, load: Load) -> None:
        """Create the accounts and topics, on a server that runs."""
        self._load = load
        server = load.nodes[0].server
        for user in (SENDER, STOCK, *self._commands):
            self._tokens[user] = await server.register(user)
        for topic in (MESSAGES, STREAMS):
            await self._ask("POST", "/topics", topic_name=topic)
            for user in (SENDER, *self._commands):
                await self._ask("POST", "/subscriptions", user, topic_name=topic)

    async def run(self, rng: Random) -> None:
        """Returns when all is sent, received and read."""
        async with asyncio.TaskGroup() as group:
            readers = [group.create_task(self._read(name, Random(rng.random()))) for name in self._commands]
            async with asyncio.TaskGroup() as authors:
                authors.create_task(self._send_by_outbox(Random(rng.random())))
                authors.create_task(self._send_by_stock())
                authors.create_task(self._stream_by_stock())
            self._silent.set()
            await asyncio.gather(*readers)
        await self._finish()

    async def end(self) -> None:
        for driver in self._drivers:
            await driver.kill()

    # -- processes -----------------------------------------------------------------------------------------------

    async def _start(self, library: str, user: str) -> Driver:
        process = await asyncio.create_subprocess_exec(
            *self._commands[library],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            limit=1 << 22,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(SLOW_STORE), os.environ.get("PYTHONPATH", "")])},
        )
        driver = self._newest[user] = Driver(process)
        self._drivers.append(driver)
        await driver.until(lambda: driver.started, "not started")
        url, store = self._load.nodes[0].server.url, str(self._store(user))
        fields = {"url": url, "token": [self._tokens[user]], "store": store, "device": "library"}
        answer = await driver.answer(driver.command(do="open", wait=False, **fields))
        assert "done" in answer, (user, answer)
        return driver

    def _store(self, user: str) -> Path:
        return self._folder / f"{user}.store"

    async def _lives(
        self, library: str, user: str, rng: Random, live: Callable[[Driver, Callable[[], bool]], Awaitable[None]]
    ) -> None:
        """Let processes of a user live one after the other; all but the last are killed in the middle of it."""
        while not self._load.finishing.is_set():
            driver = await self._start(library, user)
            living = asyncio.ensure_future(live(driver, lambda: False))
            struck = asyncio.ensure_future(self._strike(driver, rng.randint(1, 30)))
            await asyncio.wait({living, struck}, return_when=asyncio.FIRST_COMPLETED)
            living.cancel()
            struck.cancel()
            for outcome in await asyncio.gather(living, struck, return_exceptions=True):
                if isinstance(outcome, Exception):
                    raise outcome
            await driver.kill()
            await self._died(user, driver)
        driver = await self._start(library, user)
        await live(driver, self._load.finishing.is_set)

    async def _strike(self, driver: Driver, observations: int) -> None:
        """Kill a process in the same step of the event loop in which its n-th observation arrives."""
        ending = asyncio.create_task(self._load.finishing.wait())
        busy = asyncio.create_task(driver.until(lambda: driver.observed >= observations + 3, "nothing happens"))
        await asyncio.wait({ending, busy}, return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        busy.cancel()
        driver.strike()

    async def _died(self, user: str, driver: Driver) -> None:
        if user != SENDER:
            self.seen.lives.setdefault(user, []).append(driver.received)
            self.seen.ever_shown |= driver.ever_shown
        elif self._store(user).exists():
            store = SQLiteStore(self._store(user))
            await store.open()
            contents = [unsent.payload["content"] for unsent in await store.outbox()]
            self.seen.promised += filter(None, contents)  # a stream is opened empty
            await store.close()

    # -- reading -------------------------------------------------------------------------------------------------

    async def _read(self, name: str, rng: Random) -> None:
        async def live(driver: Driver, ends: Callable[[], bool]) -> None:
            driver.command(do="consume", topic=MESSAGES)
            driver.command(do="watch", topic=STREAMS)
            await (self._silent.wait() if ends() else asyncio.Future[None]())

        await self._lives(name, name, rng, live)

    async def _finish(self) -> None:
        """Wait until the logs have ended and everybody has them."""
        seen = self.seen
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                while True:
                    seen.written = await self._log(STREAMS)
                    if all(message["state"] in ("complete", "interrupted") for message in seen.written):
                        break
                    await asyncio.sleep(0.1)
        seen.log = await self._log(MESSAGES)
        for name in self._commands:
            driver = self._newest[name]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_S):
                    await driver.until(partial(self._is_complete, driver), "not complete")
            await driver.kill()
            await self._died(name, driver)
            seen.shown[name] = driver.shown
        store = SQLiteStore(self._store("python"))
        await store.open()
        for message in await store.newest(seen.written[0]["room_id"], "message", 1000):
            seen.held[message["id"]] = message["content"]
        await store.close()

    def _is_complete(self, driver: Driver) -> bool:
        """Whether the last process of a reader has everything. Unlike the judge, it does not look at the rest."""
        is_last = driver.received[-1:] == [self.seen.log[-1]["content"]]
        return is_last and driver.shown[-1:] == [self.seen.written[-1]["content"]]

    # -- the outbox ----------------------------------------------------------------------------------------------

    async def _send_by_outbox(self, rng: Random) -> None:
        async def live(driver: Driver, ends: Callable[[], bool]) -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send(driver, ends))
                group.create_task(self._stream(driver, ends))

        await self._lives("python", SENDER, rng, live)

    async def _send(self, driver: Driver, ends: Callable[[], bool]) -> None:
        waiting: deque[tuple[str, int]] = deque()
        is_last = False
        while not is_last or waiting:
            while not is_last and len(waiting) < IN_FLIGHT:
                is_last = ends()
                content = f"{SENDER} {next(self._numbers)}"
                self.seen.sent[SENDER].append(content)
                waiting.append((content, driver.command(do="send", topic=MESSAGES, content=content)))
            content, number = waiting.popleft()
            answer = await driver.answer(number)
            assert "done" in answer, (content, answer)
            self.seen.acknowledged.append(content)

    async def _stream(self, driver: Driver, ends: Callable[[], bool]) -> None:
        is_last = False
        while not is_last:
            is_last = ends()
            stream = Stream()
            self.seen.streams.append(stream)
            if "done" not in await driver.answer(driver.command(do="stream", topic=STREAMS)):
                continue
            for piece in self._pieces():
                stream.text += piece
                if "done" not in await driver.answer(driver.command(do="write", text=piece)):
                    break
            stream.is_finished = "done" in await driver.answer(driver.command(do="finish"))

    def _pieces(self) -> Iterator[str]:
        label = next(self._numbers)
        yield f"stream {label}: "
        yield from (PIECE.format(n) for n in range(12))

    # -- the stock client ----------------------------------------------------------------------------------------

    async def _send_by_stock(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._load.finishing.is_set()
            content = f"{STOCK} {next(self._numbers)}"
            self.seen.sent[STOCK].append(content)
            await self._ask("POST", "/messages", topic_name=MESSAGES, content=content, client_id=content)
            self.seen.acknowledged.append(content)

    async def _stream_by_stock(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._load.finishing.is_set()
            stream = Stream()
            self.seen.streams.append(stream)
            fields = {"topic_name": STREAMS, "content": "", "stream": True, "client_id": f"s{next(self._numbers)}"}
            path = f"/messages/{(await self._ask('POST', '/messages', **fields))['id']}"
            end: int | None = 0
            for piece in self._pieces():
                stream.text += piece
                while end is not None and end < len(stream.text):
                    answer = await self._ask("POST", f"{path}/append", offset=end, text=stream.text[end:])
                    end = answer.get("offset", answer.get("details", {}).get("offset"))
                    stream.stored = answer.get("stored", stream.stored)
            answer = await self._ask("POST", f"{path}/finish", offset=len(stream.text))
            stream.is_finished = answer.get("state") == "complete"

    async def _ask(self, method: str, path: str, user: str = STOCK, /, **fields: Any) -> dict[str, Any]:
        """Repeat a request until it is answered; returns a conflict, too."""
        while True:
            try:
                answer = await self._http.request(
                    method,
                    f"{self._load.nodes[0].server.url}/api{path}",
                    headers={"Authorization": f"Bearer {self._tokens[user]}"},
                    **({"params": fields} if method == "GET" else {"json": fields}),
                )
            except httpx.TransportError:
                await asyncio.sleep(0.05)  # the server is away
                continue
            assert answer.is_success or answer.status_code == 409, answer.text
            data: dict[str, Any] = answer.json()
            return data

    async def _log(self, topic: str) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        while True:
            after = messages[-1]["seq"] if messages else 0
            page = await self._ask("GET", "/messages", topic_name=topic, after=after, limit=200)
            messages += page["messages"]
            if not page["has_more"]:
                return messages


@asynccontextmanager
async def libraries(commands: Mapping[str, Sequence[str]], folder: Path) -> AsyncIterator[Libraries]:
    async with httpx.AsyncClient(verify=NO_TLS, timeout=30) as http:
        running = Libraries(commands, folder, http)
        try:
            yield running
        finally:
            await running.end()
