"""Background work never dies silently, and one failure does not affect other work."""

from __future__ import annotations

import asyncio
import re
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from tests.delivery.support import make_topic, principal, store_held
from tests.support.client import DEADLINE_S, Refused, connected
from tests.support.node import RunningNode, running_node, settings_for
from tidings.app import create_app
from tidings.contract.errors import ActionError
from tidings.log.journal import PAUSE_S
from tidings.log.messages import AppendMessage
from tidings.monitoring.memory import MemoryTrim
from tidings.supervision import LONGEST_RESTART_S, OFTEN, SETTLED_S, Loop, spawn
from tidings_db.engine import StoreUnavailable

ONLY_SOCKETIO = True


async def _until(condition: Callable[[], object]) -> None:
    """Wait for a condition that this event loop changes."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.to_thread(str)


class Dying:
    """A loop that dies when the test sets `die`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.runs = 0
        self.die = asyncio.Event()
        self.end = asyncio.Event()
        self.loop = Loop("tidings.test", self.run, restart_s=0.0, clock=lambda: self.now)

    async def run(self) -> None:
        self.runs += 1
        waiting = [asyncio.create_task(event.wait()) for event in (self.die, self.end)]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        if self.die.is_set():
            self.die.clear()
            raise KeyError("a bug")


async def test_a_loop_that_dies_is_logged_with_its_traceback_and_restarted(caplog: pytest.LogCaptureFixture) -> None:
    dying = Dying()
    assert not dying.loop.down, "not started"
    dying.loop.start()
    await _until(lambda: dying.runs == 1)
    assert not dying.loop.down
    for deaths in range(1, OFTEN + 1):
        dying.die.set()
        await _until(lambda deaths=deaths: dying.runs == deaths + 1)
        assert dying.loop.deaths == deaths
        assert dying.loop.down is (deaths >= OFTEN)
    assert [record.getMessage() for record in caplog.records] == ["tidings.test has died; restarting it"] * OFTEN
    for record in caplog.records:
        assert record.exc_info is not None
        assert "in run" in "".join(traceback.format_exception(record.exc_info[1]))
    dying.now += SETTLED_S
    assert not dying.loop.down, "it has run for a while"
    dying.end.set()
    await dying.loop.ended()
    assert not dying.loop.down


async def test_a_loop_that_returns_is_restarted_and_counts_as_down_until_then(
    caplog: pytest.LogCaptureFixture,
) -> None:
    runs = 0

    async def run() -> None:
        nonlocal runs
        runs += 1

    loop = Loop("tidings.test", run, restart_s=LONGEST_RESTART_S)
    loop.start()
    await _until(lambda: loop.down)
    assert (runs, loop.deaths) == (1, 1)
    assert "ended by itself" in caplog.text
    await asyncio.wait_for(loop.ended(), DEADLINE_S)  # does not wait for the restart
    assert not loop.down


async def test_no_message_is_lost_when_the_journal_dies(
    server: RunningNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    token = await server.register("omar")
    room_id = await make_topic(server.url, token, "noticias")
    journal = server.node.journal
    async with connected(server.url, token) as omar:
        next_batch = journal._next_batch

        def die() -> Any:
            monkeypatch.setattr(journal, "_next_batch", next_batch)
            raise KeyError("a bug")

        monkeypatch.setattr(journal, "_next_batch", die)
        sent = [omar.send("message", {"room_id": room_id, "content": str(n)}) for n in range(5)]
        await _until(lambda: journal.loop.deaths)
        assert [answer["ok"] for answer in await asyncio.gather(*sent)] == [True] * 5
        assert "tidings.journal has died" in caplog.text


async def test_a_batch_that_kills_the_journal_is_answered(
    server: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await server.register("omar")
    room_id = await make_topic(server.url, token, "noticias")
    journal = server.node.journal
    async with connected(server.url, token) as omar:
        hub = server.node.hub

        def die(_: object) -> None:
            raise KeyError("a bug")

        async def away(*_: object, **__: object) -> Any:
            raise StoreUnavailable("away")

        monkeypatch.setattr(hub, "suspect", die)
        monkeypatch.setattr(journal._writer, "write", away)
        with pytest.raises(Refused, match="unavailable"):
            await omar.ask("message", room_id=room_id, content="lost")
        monkeypatch.undo()
        assert journal.loop.deaths == 1
        await omar.ask("message", room_id=room_id, content="kept")


async def test_a_cursor_that_cannot_be_written_fails_no_message_and_is_dropped(
    server: RunningNode, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = {name: await server.register(name) for name in ("omar", "diego", "satoshi")}
    room_id = await make_topic(server.url, tokens["omar"], "noticias", tokens["diego"], tokens["satoshi"])
    async with (
        connected(server.url, tokens["omar"]) as omar,
        connected(server.url, tokens["diego"], device="gone") as diego,
        connected(server.url, tokens["satoshi"], device="here") as satoshi,
    ):
        await omar.ask("message", room_id=room_id, content="0")
        for client in (diego, satoshi):
            await client.event("message")
        (device,) = [c.device_key for c in server.node.hub.connections if c.device == "gone"]

        def remove(conn: Any) -> None:
            conn.execute(text(f"DELETE FROM cursor WHERE device_id = {device}"))
            conn.execute(text(f"DELETE FROM device WHERE id = {device}"))

        await server.node.database.write(remove)
        sent = []
        for n in range(1, 21):
            for client in (diego, satoshi):
                client.send("delivered", {"cursors": {room_id: n}})
            sent.append(omar.send("message", {"room_id": room_id, "content": str(n)}))
        assert all(answer["ok"] for answer in await asyncio.gather(*sent))
        await satoshi.until(lambda: len(satoshi.of("message")) == 21)
        # No write is pending: the transaction of the next message takes both cursors.
        await asyncio.gather(*(client.ask("delivered", cursors={room_id: 21}) for client in (diego, satoshi)))
        await omar.ask("message", room_id=room_id, content="21")

        def known(conn: Any) -> list[int]:
            return list(
                conn.execute(
                    text("SELECT seq FROM cursor JOIN device ON id = device_id WHERE name = 'here'")
                ).scalars()
            )

        async with asyncio.timeout(DEADLINE_S):
            while await server.node.database.read(known) != [21]:
                pass
        if server.node.database.is_sqlite:  # PostgreSQL passes over it in the statement
            assert "a cursor cannot be written, and is dropped" in caplog.text
        assert server.node.journal.loop.deaths == 0


async def test_changes_wait_ever_longer_while_the_store_is_away(
    server: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await server.register("omar")
    room_id = await make_topic(server.url, token, "noticias")
    async with connected(server.url, token):
        journal, me = server.node.journal, principal(server, "omar")
        key = server.node.hub.key(room_id)

        async def away(*_: object, **__: object) -> Any:
            raise StoreUnavailable("away")

        monkeypatch.setattr(journal._writer, "write", away)
        clock = asyncio.get_running_loop().time
        began = clock()
        for tries in range(6):
            pauses = sum(PAUSE_S * 2**n for n in range(tries))
            with pytest.raises(ActionError):  # an immediate retry does not shorten the pause
                await journal.write(AppendMessage(me, key, "x"))
            assert clock() - began >= 0.9 * pauses
        monkeypatch.undo()
        async with asyncio.timeout(DEADLINE_S):
            assert (await journal.write(AppendMessage(me, key, "y")))["seq"] == 1


async def test_the_age_of_the_oldest_change_is_known(server: RunningNode, database_url: str) -> None:
    token = await server.register("omar")
    room_id = await make_topic(server.url, token, "noticias")
    journal = server.node.journal
    async with connected(server.url, token) as omar:
        assert journal.age == 0.0
        async with store_held(database_url):
            sent = omar.send("message", {"room_id": room_id, "content": "held"})
            await _until(lambda: journal.age > 0.2)
        assert (await sent)["ok"]
        await _until(lambda: journal.age == 0.0)


KINDS = ["journal", "head_check", "session_check", "search", "retention", "purge", "applications", "memory"]
VITAL = {"feed", "journal", "head_check", "nodes", "session_check"}
"""Without them messages are not written or not repaired, or a withdrawn session still gets them."""


@pytest.mark.parametrize("kind", KINDS)
async def test_a_background_loop_that_is_killed_is_logged_and_fails_the_readiness(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    intervals = {"head_check_s": 0.01, "session_check_s": 0.01, "retention_s": 0.01}
    monkeypatch.setattr("tidings.node.MemoryTrim", partial(MemoryTrim, 0.01))
    async with running_node(sqlite_url, tmp_path, options=intervals) as server:
        node = server.node
        loop, owner, method = {
            "journal": (node.journal.loop, node.journal, "_next_batch"),
            "head_check": (node.hub.head_check, node.hub.repairs, "compare_heads"),
            "session_check": (node.sessions.loop, node.sessions, "_round"),
            "search": (node.indexer.loop, node.indexer, "_work"),
            "retention": (node.retention.loop, node.retention, "_round"),
            "purge": (node.purge.loop, node.purge, "_round"),
            "applications": (node.application_users.loop, node.application_users, "_round"),
            "memory": (node.memory_trim.loop, node.memory_trim, "_round"),
        }[kind]
        monkeypatch.setattr(loop, "_restart_s", LONGEST_RESTART_S)

        def cancel(*_: object) -> Any:
            raise asyncio.CancelledError  # like a foreign cancel scope: no `except Exception` catches it

        monkeypatch.setattr(owner, method, cancel)
        if kind == "journal":
            owner._wake.set()
        elif kind == "search":
            owner.appended([0])
        await _until(lambda: loop.down)
        (record,) = [entry for entry in caplog.records if entry.getMessage().startswith(f"{loop.name} was cancelled")]
        assert record.levelname == "ERROR"
        assert record.exc_info is not None
        assert "in cancel" in "".join(traceback.format_exception(record.exc_info[1]))
        async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE_S) as http:
            ready = await http.get("/health/ready")
        assert ready.status_code == (503 if kind in VITAL else 200)
        assert (f"tidings.{kind} has stopped" in ready.text) is (kind in VITAL)


def _loops_of_a_node(url: str, **changes: Any) -> list[str]:
    """The names of all loops that a node on such a database, with changed settings, creates."""
    names = []
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        make = Loop.__init__

        def record(loop: Loop, *args: Any, **options: Any) -> None:
            make(loop, *args, **options)
            names.append(loop.name)

        patch.setattr(Loop, "__init__", record)
        create_app(settings_for(url, Path(folder), **changes))
    return names


OF_NODES = {"tidings.feed", "tidings.nodes", "tidings.online", "tidings.outbox"}
"""Loops that every node has, and that run only on PostgreSQL."""
LOOPS = [name for name in _loops_of_a_node("") if name not in OF_NODES]
LOOPS_ON_POSTGRESQL = _loops_of_a_node("postgresql://host/database")
REDIS = {"redis_url": "unix:///there/is/none"}
LOOPS_WITH_REDIS = [
    name for name in _loops_of_a_node("postgresql://host/database", **REDIS) if name not in LOOPS_ON_POSTGRESQL
]


class KillableLoop:
    """The loop of that name in the next node. `kill` raises an exception in it, wherever it waits."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop: Loop
        self.runs = 0
        self._killed = asyncio.Event()
        make = Loop.__init__

        def record(loop: Loop, name_: str, run: Callable[[], Awaitable[None]], **options: Any) -> None:
            if name_ == name:
                self.loop, self._run, run = loop, run, self._run_until_killed
            make(loop, name_, run, **options)

        monkeypatch.setattr(Loop, "__init__", record)

    async def _run_until_killed(self) -> None:
        self.runs += 1
        running, killed = asyncio.ensure_future(self._run()), asyncio.ensure_future(self._killed.wait())
        try:
            await asyncio.wait([running, killed], return_when=asyncio.FIRST_COMPLETED)
            if self._killed.is_set():
                self._killed.clear()
                raise KeyError("a bug")
        finally:
            for task in (running, killed):
                task.cancel()
            await asyncio.wait([running, killed])

    async def kill(self, restart_s: float) -> None:
        self.loop._restart_s = restart_s
        deaths = self.loop.deaths
        self._killed.set()
        await _until(lambda: self.loop.deaths > deaths)


@pytest.fixture
def url_for_loop(request: pytest.FixtureRequest, name: str) -> str:
    """The URL of a database on which the loop runs."""
    url: str = request.getfixturevalue("sqlite_url" if name in LOOPS else "postgresql_url")
    return url


def test_a_node_with_redis_has_a_loop_for_it() -> None:
    assert LOOPS_WITH_REDIS == ["tidings.redis"]


@pytest.mark.parametrize("name", [*LOOPS_ON_POSTGRESQL, *LOOPS_WITH_REDIS])
async def test_every_loop_that_dies_is_logged_and_restarted_and_a_vital_one_fails_the_readiness(
    url_for_loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    vital = name.removeprefix("tidings.") in VITAL
    killable = KillableLoop(name, monkeypatch)
    changes = REDIS if name in LOOPS_WITH_REDIS else {}
    async with (
        running_node(url_for_loop, tmp_path, **changes) as server,
        httpx.AsyncClient(base_url=server.url) as http,
    ):
        await _until(lambda: killable.runs == 1)
        await killable.kill(restart_s=0.0)
        await _until(lambda: killable.runs == 2)
        (record,) = [one for one in caplog.records if one.getMessage() == f"{name} has died; restarting it"]
        assert record.levelname == "ERROR"
        assert record.exc_info is not None
        assert "in _run_until_killed" in "".join(traceback.format_exception(record.exc_info[1]))
        assert (await http.get("/health/ready")).status_code == 200
        await killable.kill(restart_s=LONGEST_RESTART_S)
        ready = await http.get("/health/ready")
        assert ready.status_code == (503 if vital else 200)
        assert (f"{name} has stopped" in ready.text) is vital


async def test_an_idle_node_runs_its_loops_and_no_other_task(sqlite_url: str, tmp_path: Path) -> None:
    """A background task that is no loop would not be restarted after its death."""
    node = create_app(settings_for(sqlite_url, tmp_path)).node
    code = str(Path(__file__).parents[2])

    def running() -> list[str]:
        ours = [one for one in asyncio.all_tasks() if one.get_coro().cr_code.co_filename.startswith(code)]
        return sorted(one.get_name() for one in ours if one is not asyncio.current_task())

    await node.start()
    try:
        with suppress(TimeoutError):
            await _until(lambda: running() == sorted(LOOPS))
        assert running() == sorted(LOOPS)
    finally:
        await node.stop()


@pytest.mark.parametrize("error", [KeyError("a bug"), asyncio.CancelledError("of a scope within")], ids=repr)
async def test_a_task_that_nobody_awaits_is_logged_when_it_fails(
    caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    async def work() -> None:
        raise error

    task = spawn(work(), "the work")
    await asyncio.wait([task])
    await _until(lambda: caplog.records)
    (record,) = caplog.records
    assert record.getMessage() == "the task 'the work' has failed"
    assert record.exc_info is not None
    assert "in work" in "".join(traceback.format_exception(record.exc_info[1]))


async def test_a_task_that_its_owner_cancels_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    for begun in (False, True):
        task = spawn(asyncio.Event().wait(), "the work")
        if begun:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    await asyncio.sleep(0)  # the done callbacks may run after this coroutine is woken
    assert not caplog.records


AWAITED = {
    "db/tidings_db/postgresql.py": 2,  # a rollback, and the close of a connection, awaited through a shield
    "server/tidings/node.py": 1,  # the stop of a part, which `stop` awaits
    "server/tidings/cluster/relay.py": 3,  # an upload and a download, gathered; requests to move, kept until they end
    "server/tidings/fanout/repair.py": 1,  # drains, gathered
    "server/tidings/actions/echo_channel.py": 1,  # an answer, which the action awaits
    "server/tidings/supervision.py": 2,
    "db/tidings_db/engine.py": 1,  # a write, which its caller awaits through a shield
    "db/tidings_db/read_batcher.py": 1,  # gives every failure to the readers
    "server/tidings/testing/kit.py": 1,  # the server of a test
    "server/tidings/testing/links.py": 2,  # in a group
}


def test_every_other_task_is_started_by_the_supervision() -> None:
    root = Path(__file__).parents[2]
    started: dict[str, int] = {}
    for path in [*root.glob("server/**/*.py"), *root.glob("db/**/*.py")]:
        name = path.relative_to(root).as_posix()
        if not name.startswith("server/tidings/transport/"):  # awaits every task where it starts it
            count = len(re.findall(r"\b(?:create_task|ensure_future)\(", path.read_text(encoding="utf-8")))
            if count:
                started[name] = count
    assert started == AWAITED
