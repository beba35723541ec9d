"""Writers with outboxes and readers of several kinds, whose history is judged as in `tests.crash`.

A writer sends one message at a time, or every third time an application's event, under a `client_id`, and repeats it
until it is acknowledged or refused for good. Readers are connections of `/ws` with cursors, and stock clients:
python-socketio's and socket.io-client, each with or without cursors, on WebSocket, on polling, and with the upgrade
between them. All of them reconnect by themselves. At the end everything that they received is compared with the log
as read over REST.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import logging
import random
import shutil
import sys
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import socketio

from tests.campaign.support.clients import Plain, Refusal
from tests.campaign.support.lab import Server
from tests.campaign.support.report import NotTried
from tests.campaign.support.wire import GONE, Ended, Http, Refused
from tests.crash.checker import Ack, Connection, Entry, History, Reception, Send, Violation, check

JS = Path(__file__).parents[2] / "js"
READER = Path(__file__).with_name("reader.mjs")
ASK_S = 8.0
"""Without an answer for so long, a writer considers its connection dead."""
CATCH_UP_S = 150.0
"""Time for all readers to catch up: longer than two heartbeats, after which stock clients notice a dead network."""
PAUSE_S = 0.2
AWAY = (Ended, Refused, TimeoutError, *GONE)
QUIET = logging.getLogger("tests.campaign.clients")
QUIET.setLevel(logging.CRITICAL)
PUBLISHED = "order.paid"
"""The application's event; its data has the content of a message."""
KINDS = ("ws", "python websocket", "python polling", "python upgrade", "js websocket", "js polling", "js upgrade")


def content_of(client_id: str) -> str:
    """A content that is derived from its `client_id`."""
    size = zlib.crc32(client_id.encode()) % 400
    return f"{client_id} " + random.Random(client_id).randbytes(size).hex()


def client_id_of(content: str) -> str:
    """The `client_id` of an intact content; otherwise the content itself, which equals no `client_id`."""
    client_id = content.partition(" ")[0]
    return client_id if content == content_of(client_id) else content


@dataclass
class Record:
    """One connection of a reader."""

    brought: dict[str, int] | None
    received: list[Reception] = field(default_factory=list)
    reset: list[str] = field(default_factory=list)


@dataclass(eq=False)
class Reader:
    kind: str
    user: str
    device: str
    exact: bool
    """Whether it sends its cursors."""
    cursors: dict[str, int] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    changed: Callable[[], None] = lambda: None
    readies: int = 0

    @property
    def name(self) -> str:
        return f"{self.kind}{'' if self.exact else ' without cursors'}"

    def begin(self) -> dict[str, int] | None:
        """Begin a new connection; returns the cursors to send."""
        brought = dict(self.cursors) if self.exact else None
        self.records.append(Record(brought))
        return brought

    def take(self, event: str, payload: Mapping[str, Any]) -> None:
        if event in ("message", PUBLISHED):
            kind, content = _kind_and_content(payload)
            one = Reception(payload["room_id"], payload["seq"], payload["id"], kind)
            self.records[-1].received.append(one._replace(content=client_id_of(content)))
            self.cursors[one.room] = max(one.seq, self.cursors.get(one.room, 0))
        elif event == "ready":
            self.readies += 1
            self.records[-1].reset += payload["reset"]
        self.changed()


class Load:
    """Traffic on a server, and its history."""

    def __init__(self, server: Server, url: str, seed: int) -> None:
        self.server = server
        self.url = url
        """The address for clients: the server, or a bad network in front of it."""
        self.rooms: list[str] = []
        self.sends: list[Send] = []
        self.acks: list[Ack] = []
        self.refused: Counter[str] = Counter()
        """Answers with an error, by code; each was retried."""
        self.final: list[str] = []
        """Answers after which a client does not retry."""
        self.times: list[float] = []
        """The time of each acknowledgement."""
        self.readers: list[Reader] = []
        self.stopping = False
        self._over = False
        self._writers = 0
        self._idle = 0
        self._seed = seed
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[Any]] = []
        self._clients: list[socketio.AsyncClient] = []
        self._processes: list[asyncio.subprocess.Process] = []

    # -- begin and end -------------------------------------------------------------------------------------------

    async def start(self, rooms: int, writers: int, kinds: Sequence[str]) -> None:
        writing = [f"writer{n}" for n in range(writers)]
        reading = [f"reader{n}" for n in range(2)]
        await self.server.users(*writing, *reading)
        for n in range(rooms):
            name = f"room {n}"
            self.rooms.append(await self.server.topic(writing[0], name, *writing[1:], *reading))
        for number, (kind, exact) in enumerate(itertools.product(kinds, (True, False))):
            if kind == "ws" and not exact:
                continue
            reader = Reader(kind, reading[number % 2], f"d{number}", exact, changed=self._changed.set)
            self.readers.append(reader)
        js = [reader for reader in self.readers if reader.kind.startswith("js")]
        if js:
            await self._start_js(js)
        for reader in self.readers:
            if reader.kind == "ws":
                self._tasks.append(asyncio.create_task(self._read(reader)))
            elif reader.kind.startswith("python"):
                self._tasks.append(asyncio.create_task(self._read_stock(reader)))
        await self.until(lambda: all(reader.readies for reader in self.readers), 60, "readers that are ready")
        self._writers = writers
        for n, name in enumerate(writing):
            self._tasks.append(asyncio.create_task(self._write(name, random.Random(f"{self._seed} {n}"))))

    async def stop(self) -> None:
        self._over = True
        for client in self._clients:
            # The library propagates the cancellation of its own tasks.
            with suppress(Exception, asyncio.CancelledError):
                async with asyncio.timeout(3):
                    await client.shutdown()
        waiting = set(self._tasks)
        for _ in range(20):  # the library treats a cancellation as the end of a pause, so cancel repeatedly
            for task in waiting:
                task.cancel()
            if waiting:
                _, waiting = await asyncio.wait(waiting, timeout=0.5)
        for process in self._processes:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def until(self, holds: Callable[[], bool], deadline: float, what: str) -> None:
        try:
            async with asyncio.timeout(deadline):
                while not holds():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise TimeoutError(f"no {what} within {deadline:.0f} s") from None

    async def acknowledged(self, more: int, deadline: float = 60.0) -> float:
        """Wait for so many more acknowledgements; returns the seconds until the first of them."""
        before, began = len(self.acks), time.monotonic()
        await self.until(lambda: len(self.acks) > before, deadline, "acknowledgement")
        first = time.monotonic() - began
        await self.until(lambda: len(self.acks) >= before + more, deadline, f"{more} acknowledgements")
        return first

    def longest_gap(self) -> float:
        """The longest time between two acknowledgements, in seconds."""
        return max((b - a for a, b in itertools.pairwise(self.times)), default=0.0)

    # -- writers -------------------------------------------------------------------------------------------------

    async def _write(self, user: str, chance: random.Random) -> None:
        client: Plain | None = None
        for number in itertools.count(1):
            if self.stopping:
                break
            room, client_id = chance.choice(self.rooms), f"{user}-{number}"
            self.sends.append(Send(user, room, client_id))
            payload: dict[str, Any] = {"room_id": room, "client_id": client_id}
            written = {"content": content_of(client_id)}
            action = "message" if number % 3 else "publish"
            payload |= written if action == "message" else {"event": PUBLISHED, "data": written}
            while True:
                try:
                    if client is None or client.ended.done():
                        token = self.server.tokens[user]
                        client = await asyncio.wait_for(
                            Plain.open(self.url, token, device="writer", on_event=lambda *_: None), ASK_S
                        )
                    answer = await client.call(action, payload, ASK_S)
                except Refusal as refusal:
                    if not refusal.error.get("retryable"):
                        self.final.append(f"connect: {refusal}")
                    self.refused[refusal.code] += 1
                except AWAY as error:
                    self.refused[type(error).__name__] += 1
                    if client is not None:
                        client.abort()
                        client = None
                else:
                    if answer["ok"]:
                        data = answer["data"]
                        self.acks.append(Ack(user, client_id, data["room_id"], data["seq"], data["id"]))
                        self.times.append(time.monotonic())
                        self._changed.set()
                        break
                    self.refused[answer["error"]["code"]] += 1
                    if not answer["error"]["retryable"]:
                        self.final.append(f"{client_id}: {answer['error']}")
                        self._changed.set()
                        break
                await asyncio.sleep(PAUSE_S)
        if client is not None:
            client.abort()
        self._idle += 1
        self._changed.set()

    # -- readers -------------------------------------------------------------------------------------------------

    async def _read(self, reader: Reader) -> None:
        token = self.server.tokens[reader.user]
        while True:
            client: Plain | None = None
            try:
                client = await asyncio.wait_for(
                    Plain.open(
                        self.url,
                        token,
                        device=reader.device,
                        cursors=reader.begin(),
                        on_event=reader.take,
                        ready=False,
                    ),
                    ASK_S,
                )
                while True:  # a periodic request detects a dead connection
                    await asyncio.wait({client.ended}, timeout=ASK_S / 2)
                    if client.ended.done():
                        break
                    await client.call("get_profile", {"username": reader.user}, ASK_S)
            except (Refusal, *AWAY):
                pass
            finally:
                if client is not None:
                    client.abort()
            await asyncio.sleep(PAUSE_S)

    async def _read_stock(self, reader: Reader) -> None:
        async with aiohttp.ClientSession() as session:
            sio = socketio.AsyncClient(
                logger=QUIET,
                engineio_logger=QUIET,
                reconnection_delay=PAUSE_S,
                reconnection_delay_max=1,
                handle_sigint=False,
                http_session=session,
            )
            self._clients.append(sio)
            sio.on("*", reader.take)
            how = reader.kind.split()[1]
            transports = {"websocket": ["websocket"], "polling": ["polling"]}.get(how, ["polling", "websocket"])

            def auth() -> dict[str, Any]:
                brought = reader.begin()
                found = {"token": self.server.tokens[reader.user], "device": reader.device}
                return found if brought is None else {**found, "cursors": brought}

            while not self._over:
                with suppress(socketio.exceptions.ConnectionError, asyncio.TimeoutError, OSError):
                    await sio.connect(self.url, auth=auth, transports=transports, retry=True, wait_timeout=10)
                    await sio.wait()
                await asyncio.sleep(PAUSE_S)

    async def _start_js(self, readers: Sequence[Reader]) -> None:
        node = shutil.which("node") or shutil.which("node", path=str(Path(sys.executable).parent))
        if node is None or not (JS / "node_modules/socket.io-client").is_dir():
            raise NotTried("the JavaScript clients are missing (make tests/js/node_modules/.installed)")
        given = {
            "url": self.url,
            "clients": [
                {
                    "name": str(self.readers.index(reader)),
                    "token": self.server.tokens[reader.user],
                    "device": reader.device,
                    "exact": reader.exact,
                    "transports": {"websocket": ["websocket"], "polling": ["polling"]}.get(
                        reader.kind.split()[1], ["polling", "websocket"]
                    ),
                }
                for reader in readers
            ],
        }
        process = await asyncio.create_subprocess_exec(
            node,
            str(READER),
            json.dumps(given),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 24,
            start_new_session=True,
        )
        self._processes.append(process)
        self._tasks.append(asyncio.create_task(self._listen(process)))

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            entry = json.loads(line)
            reader = self.readers[int(entry["name"])]
            if "brought" in entry:
                reader.records.append(Record(entry["brought"]))
            else:
                reader.take(entry["event"], entry["payload"])

    # -- the end -------------------------------------------------------------------------------------------------

    async def finish(self, catch_up_s: float = CATCH_UP_S) -> list[Violation]:
        """Let the writers finish and the readers catch up, read the log, and judge the history."""
        self.stopping = True
        await self.until(lambda: self._idle == self._writers, 90, "end of the writers")
        log, heads = await self._log()
        with suppress(TimeoutError):  # an incomplete reader is a violation below
            await self.until(
                lambda: all(
                    reader.cursors.get(room, 0) >= head for reader in self.readers for room, head in heads.items()
                ),
                catch_up_s,
                "readers that have all",
            )
        return check(self.history(log, heads))

    def history(self, log: Sequence[Entry], heads: Mapping[str, int]) -> History:
        users = {reader.user for reader in self.readers} | {send.sender for send in self.sends}
        connections = []
        for reader in self.readers:
            for record in reader.records:
                at_end = record is reader.records[-1]
                connections.append(
                    Connection(reader.user, reader.device, record.brought, record.received, record.reset, at_end)
                )
        return History(
            members={room: frozenset(users) for room in self.rooms},
            heads=heads,
            sends=self.sends,
            acks=self.acks,
            connections=connections,
            log=log,
        )

    async def _log(self) -> tuple[list[Entry], dict[str, int]]:
        heads: dict[str, int] = {}
        async with Http(self.server.url, self.server.tokens["writer0"]) as http:
            for room in (await http.ask("GET", "/api/rooms?member=true&limit=500")).json()["rooms"]:
                heads[room["room_id"]] = room["last_seq"]
            log = await log_of(http, self.rooms)
        return log, {room: heads[room] for room in self.rooms}

    def told(self, violations: Sequence[Violation]) -> str:
        """A summary in one line."""
        entries = sum(len(record.received) for reader in self.readers for record in reader.records)
        connects = sum(len(reader.records) for reader in self.readers)
        refused = f", {dict(self.refused)}" if self.refused else ""
        wrong = (
            f"; {len(violations)} violations: "
            + "; ".join(f"{law}: {what[:150]}" for law, what in _one_of_each(violations))
            if violations
            else ""
        )
        final = f"; refused for good: {self.final[:2]}" if self.final else ""
        return (
            f"{len(self.acks)} acked{refused}; {entries} entries on {connects} connections"
            f" of {len(self.readers)} readers; longest without ack {self.longest_gap():.1f} s{wrong}{final}"
        )


async def log_of(http: Http, rooms: Sequence[str]) -> list[Entry]:
    """The messages and events of some rooms."""
    log: list[Entry] = []
    for room_id in rooms:
        parts = [await _pages(http, room_id, which) for which in ("messages", "events")]
        log += heapq.merge(*parts, key=lambda entry: entry.seq)
    return log


async def _pages(http: Http, room_id: str, which: str) -> list[Entry]:
    found: list[Entry] = []
    while True:
        path = f"/api/{which}?room_id={room_id}&after={found[-1].seq if found else 0}&limit=200"
        page = (await http.ask("GET", path)).json()
        for one in page[which]:
            kind, content = _kind_and_content(one)
            client_id = client_id_of(content)
            found.append(Entry(room_id, one["seq"], one["id"], one["sender"], client_id, kind, content=client_id))
        if not page["has_more"]:
            return found


def _kind_and_content(payload: Mapping[str, Any]) -> tuple[str, str]:
    return ("event", payload["data"]["content"]) if "event" in payload else ("message", payload["content"])


def _one_of_each(violations: Sequence[Violation]) -> list[tuple[str, str]]:
    found: dict[str, str] = {}
    for law, what in violations:
        found.setdefault(law, what)
    return list(found.items())[:4]


@asynccontextmanager
async def load(
    server: Server,
    seed: int,
    *,
    url: str | None = None,
    rooms: int = 3,
    writers: int = 6,
    kinds: Sequence[str] = KINDS,
) -> AsyncIterator[Load]:
    """Running traffic: some messages have been acknowledged."""
    traffic = Load(server, url or server.url, seed)
    try:
        await traffic.start(rooms, writers, kinds)
        await traffic.acknowledged(20)
        yield traffic
    finally:
        await traffic.stop()
