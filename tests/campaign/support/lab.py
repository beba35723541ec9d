"""Servers as processes, their users and costs; and the runner of the checks of a campaign."""

from __future__ import annotations

import argparse
import asyncio
import copy
import gc
import json
import logging
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil

from bench.cpu import cpu_seconds
from tests.campaign.support.clients import Plain
from tests.campaign.support.report import NotTried, Report, Seen
from tests.campaign.support.wire import HOME, Answer, Ended, ask
from tests.support.process import ServerProcess
from tidings.testing import postgresql

PASSWORD = "correct horse"
SECRET_KEY = "the key of a campaign's servers, 32 bytes and more"
MIB = 1 << 20
POLL_S = 0.2


class Server(ServerProcess):
    """`tidings serve` on a port of its own, with measurements from the operating system."""

    def __init__(self, data_dir: Path, **environment: str) -> None:
        data_dir.mkdir(parents=True, exist_ok=True)
        self.log = data_dir.with_name(f"{data_dir.name}.log")
        self._log = self.log.open("ab")
        self.environment = {"TIDINGS_SECRET_KEY": SECRET_KEY, **environment}
        super().__init__(data_dir, stderr=self._log.fileno(), **self.environment)
        self.tokens: dict[str, str] = {}
        self._accounts = 0

    def __del__(self) -> None:
        self._log.close()

    def loop_seconds(self) -> float:
        """Processor time of the thread that runs the event loop."""
        return int(Path(f"/proc/{self.pid}/task/{self.pid}/schedstat").read_bytes().split()[0]) / 1e9

    def processor_seconds(self) -> float:
        """Processor time of all threads of the server."""
        return cpu_seconds(self.pid)

    def memory(self) -> float:
        """Resident memory, in MiB."""
        return float(psutil.Process(self.pid).memory_info().rss) / MIB

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def allow_descriptors(self, most: int) -> None:
        """Limit the descriptors, like `ulimit -n`."""
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (most, most))

    async def metrics(self) -> dict[str, float]:
        """The samples of `/metrics`: name with labels -> value."""
        answer = await self.get("/metrics")
        found: dict[str, float] = {}
        for line in answer.body.decode().splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                found[name] = float(value)
        return found

    async def get(self, path: str, token: str | None = None, **options: Any) -> Answer:
        return await ask(self.url, "GET", path, token=token, **options)

    async def post(self, path: str, payload: Any, token: str | None = None, **options: Any) -> Answer:
        return await ask(self.url, "POST", path, payload, token=token, **options)

    async def user(self, name: str) -> str:
        """The token of a user, who is registered first, from an address with registrations left."""
        if name not in self.tokens:
            self._accounts += 1
            source = f"127.77.{self._accounts // 10 // 250}.{self._accounts // 10 % 250 + 1}"
            answer = await self.post("/api/register", {"username": name, "password": PASSWORD}, source=source)
            assert answer.status == 201, answer
            self.tokens[name] = answer.json()["token"]
        return self.tokens[name]

    async def users(self, *names: str) -> list[str]:
        """The tokens of users, registered two at a time because two threads hash passwords."""
        made: list[str] = []
        for at in range(0, len(names), 2):
            made += await asyncio.gather(*(self.user(name) for name in names[at : at + 2]))
        return made

    async def login(self, name: str, source: str = HOME) -> str:
        """A token of a new session."""
        answer = await self.post("/api/login", {"username": name, "password": PASSWORD}, source=source)
        assert answer.status == 200, answer
        token: str = answer.json()["token"]
        return token

    async def live(self, name: str, **options: Any) -> Plain:
        """A user's connection to `/ws` after `ready`."""
        return await Plain.open(self.url, await self.user(name), **options)

    async def topic(self, owner: str, name: str, *members: str, private: bool = False) -> str:
        """The id of a new topic with these members."""
        made = await self.post("/api/topics", {"topic_name": name, "is_private": private}, await self.user(owner))
        assert made.status == 201, made
        room_id: str = made.json()["room_id"]
        for member in members:
            token = await self.user(member)
            if private:
                fields = {"room_id": room_id, "username": member}
                joined = await self.post("/api/invitations", fields, await self.user(owner))
            else:
                joined = await self.post("/api/subscriptions", {"topic_name": name}, token)
            assert joined.status in (200, 201), joined
        return room_id

    def complaints(self) -> list[dict[str, Any]]:
        """The lines of the log with an error or a traceback."""
        found = []
        for line in self.log.read_text(errors="replace").splitlines():
            try:
                told = json.loads(line)
            except ValueError:
                told = {"level": "error", "event": line}
            if told.get("level") in ("error", "critical") or "traceback" in told or "exception" in told:
                found.append(told)
        return found


class Neighbour:
    """An honest user who sends small requests repeatedly, and records the wait for each answer.

    The wait is the server's processor time between request and answer, so other programs do not count.
    """

    def __init__(self, server: Server, client: Plain, pause_s: float) -> None:
        self._server = server
        self._client = client
        self._pause_s = pause_s
        self.waits: list[float] = []
        self.seconds: list[float] = []
        """The waits by the wall clock."""
        self.lost = 0
        """Requests without an answer."""
        self.stopping = False

    async def run(self) -> None:
        while not self.stopping:
            spent, began = self._server.processor_seconds(), time.monotonic()
            answered = False
            try:
                answered = (await self._client.call("get_profile", {"username": "neighbour"}, 90))["ok"]
            except (Ended, TimeoutError):
                return
            finally:
                self.waits.append(self._server.processor_seconds() - spent)
                self.seconds.append(time.monotonic() - began)
                self.lost += not answered
            await asyncio.sleep(self._pause_s)

    @property
    def worst(self) -> float:
        return max(self.waits, default=0.0)

    def served(self, within: float) -> bool:
        """Whether each request was answered within that processor time."""
        return not self.lost and self.worst <= within

    def told(self) -> str:
        clock = max(self.seconds, default=0.0)
        lost = f", {self.lost} lost" if self.lost else ""
        return f"neighbour waited {ms(self.worst)} at most ({ms(clock)} by the clock){lost}"


@asynccontextmanager
async def neighbour(server: Server, pause_s: float = 0.005) -> AsyncIterator[Neighbour]:
    """Run an honest neighbour from another address."""
    client = await server.live("neighbour", source="127.9.9.9")
    found = Neighbour(server, client, pause_s)
    asking = asyncio.create_task(found.run())
    try:
        yield found
    finally:
        found.stopping = True  # the pending request, perhaps the slowest, still counts
        await asyncio.wait({asking}, timeout=100)
        asking.cancel()
        client.abort()


async def until(holds: Callable[[], Awaitable[bool]], within_s: float) -> bool:
    """Ask another process again and again until something holds of it; returns whether it does in time."""
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while not await holds():  # noqa: ASYNC110 - nothing tells of another process
                await asyncio.sleep(POLL_S)
            return True
    return False


async def pace(seconds: float) -> None:
    """How long a fault lasts, or the time between two: its pace. For a state to come, use `until`."""
    await asyncio.sleep(seconds)


def ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Least squares: by how much y grows for each unit of x."""
    count = len(points)
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


class Lab:
    """The environment of a check: options, random numbers, a folder, servers."""

    def __init__(self, options: argparse.Namespace, folder: Path, postgres: str | None) -> None:
        self.options = options
        self.seed: int = options.seed
        self.quick: bool = options.quick
        self.database: str = options.database
        self.folder = folder
        self.random = random.Random(options.seed)
        self.postgres = postgres
        """URL of a PostgreSQL server on which databases can be made; None: SQLite is tried."""
        self._template: list[str] = []
        self._stack = AsyncExitStack()
        self._shared: dict[str, Server] = {}

    def size(self, quick: int, full: int) -> int:
        return quick if self.quick else full

    def only(self, database: str) -> None:
        """Raises `NotTried` on the other database."""
        if self.database != database:
            raise NotTried(f"is about {database}")

    async def database_url(self, stack: AsyncExitStack) -> str:
        """A migrated, empty PostgreSQL database, dropped when the stack is closed."""
        assert self.postgres is not None
        if not self._template:
            url = await self._make(self._stack, self.postgres, "")
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tidings", "migrate"),
                env={**os.environ, "TIDINGS_DATABASE_URL": url, "TIDINGS_SECRET_KEY": SECRET_KEY},
                stdout=asyncio.subprocess.DEVNULL,
            )
            assert await process.wait() == 0
            self._template.append(url.partition("?")[0].rpartition("/")[2])
        return await self._make(stack, self.postgres, f"TEMPLATE {self._template[0]}")

    @staticmethod
    async def _make(stack: AsyncExitStack, server: str, options: str) -> str:
        database = postgresql.database(server, options)
        url = await asyncio.to_thread(database.__enter__)
        stack.push_async_callback(asyncio.to_thread, database.__exit__, None, None, None)
        return url

    @asynccontextmanager
    async def server(self, *, data_dir: Path | None = None, **environment: str) -> AsyncIterator[Server]:
        """A new server on a new database, with the limits on as they are by default."""
        folder = data_dir or Path(tempfile.mkdtemp(dir=self.folder)) / "data"
        async with AsyncExitStack() as stack:
            extra = {"TIDINGS_RATE_LIMITS": "on", **environment}
            if self.postgres is not None:
                extra.setdefault("TIDINGS_DATABASE_URL", await self.database_url(stack))
            server = Server(folder, **extra)
            await server.start()
            try:
                yield server
            finally:
                await server.kill()

    async def shared(self, **environment: str) -> Server:
        """A server that the checks of an area share until it dies."""
        name = repr(sorted(environment.items()))
        server = self._shared.get(name)
        if server is None or not psutil.pid_exists(server.pid):
            server = await self._stack.enter_async_context(self.server(**environment))
            self._shared[name] = server
        return server

    async def close(self) -> None:
        self._shared.clear()
        self._template.clear()
        await self._stack.aclose()


Check = Callable[[Lab], Awaitable[Seen]]


class Area:
    """The checks of one module, in the order of definition."""

    def __init__(self, name: str, together: int = 1) -> None:
        """`together`: the number of checks that may run concurrently; they have servers of their own."""
        self.name = name
        self.together = together
        self.checks: list[tuple[str, Check]] = []

    def check(self, promise: str) -> Callable[[Check], Check]:
        def add(function: Check) -> Check:
            self.checks.append((promise, function))
            return function

        return add


def parser(summary: str | None) -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=summary, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--seed", type=int, default=1, help="of everything that is left to chance")
    found.add_argument("--quick", action="store_true", help="small sizes: a minute or two, instead of the full ones")
    found.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    found.add_argument("--only", metavar="TEXT", action="append", help="checks whose area or name contains it")
    found.add_argument("--area", metavar="NAME", action="append", help="checks of that area")
    found.add_argument("--list", action="store_true", help="name the checks and end")
    found.add_argument("--verbose", action="store_true", help="print the tracebacks of checks that fail themselves")
    found.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    return found


def run(campaign: str, areas: Sequence[Area], options: argparse.Namespace) -> int:
    """Run the checks, area by area; returns the exit status."""
    wanted = [text.lower() for text in options.only or [""]]

    def chosen(area: Area) -> list[tuple[str, Check]]:
        return [
            (promise, check)
            for promise, check in area.checks
            if (options.area is None or area.name in options.area)
            and any(text in area.name.lower() or text in promise.lower() for text in wanted)
        ]

    if options.list:
        for area in areas:
            for promise, _ in chosen(area):
                print(f"{area.name:12} {promise}")
        return 0
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    shown = {"seed": options.seed, "database": options.database, "size": "quick" if options.quick else "full"}
    report = Report(campaign, **shown)
    report.begin()
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # no warnings about writes to cut connections
    logging.getLogger("engineio.client").setLevel(logging.CRITICAL)
    folder = Path(tempfile.mkdtemp(prefix="tidings-campaign-"))
    with ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # of clients that were cut
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        postgres = stack.enter_context(postgresql.server()) if options.database == "postgresql" else None
        with asyncio.Runner() as runner:
            for area in areas:
                runner.run(_run(area, chosen(area), report, Lab(options, folder, postgres)))
        gc.collect()
    return report.end(options.json)


async def _run(area: Area, checks: Sequence[tuple[str, Check]], report: Report, lab: Lab) -> None:
    gate = asyncio.Semaphore(area.together)
    mine = asyncio.current_task()
    assert mine is not None
    # Like Ctrl+C, so that nothing is left running.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, mine.cancel)

    async def one(promise: str, check: Check) -> None:
        async with gate:
            own = copy.copy(lab)
            own.random = random.Random(f"{lab.seed} {promise}")
            began = time.monotonic()
            try:
                seen = await check(own)
            except NotTried as why:
                seen = Seen(0, "", str(why), None)
            except (Exception, asyncio.CancelledError) as error:
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    raise
                report.failed(area.name, promise, error, time.monotonic() - began)
                if lab.options.verbose:
                    traceback.print_exc()
                return
            report.add(area.name, promise, seen, time.monotonic() - began)

    try:
        async with asyncio.TaskGroup() as group:
            for promise, check in checks:
                group.create_task(one(promise, check))
    finally:
        await lab.close()


def areas_of(*modules: ModuleType) -> list[Area]:
    return [module.area for module in modules]
