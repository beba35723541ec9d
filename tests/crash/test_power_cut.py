"""Power cuts after failed syncs: acknowledged messages are on the disk, and the database is intact.

The file operations of a server are recorded and replayed onto a model of a disk: see `tests/support/disk`. The
campaign `powercut` does the same with many more faults and cuts: `python -m tests.campaign powercut`.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random

import pytest

from tests.support.client import PlainClient, Refused, plainly_connected
from tests.support.disk import DIE, Acknowledged, Disk, Fault, NoCompiler, Op, Recording, acknowledged, violations
from tests.support.process import ServerProcess

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


class Recorded:
    """A server whose file operations are recorded."""

    def __init__(self, folder: Path, stderr: int) -> None:
        self.database = folder / "data" / "tidings.db"
        self.folder = folder
        self.recording = Recording(folder / "data", folder / "recorded")
        self.server = ServerProcess(folder / "data", stderr=stderr, **self.recording.environment)
        self.room_id = ""
        self._sent = 0
        self._read = 0
        self._names: dict[int, str] = {}
        self._syncs: Counter[str] = Counter()
        self._writes: Counter[str] = Counter()

    async def start(self) -> str:
        """Start the server; returns the token of a user with a topic."""
        await self.server.start()
        token = await self.server.register("omar")
        async with plainly_connected(self.server.url, token) as omar:
            self.room_id = (await omar.ask("create", topic_name="tides"))["room_id"]
        return token

    async def send(self, omar: PlainClient, length: int = 100) -> int:
        """Repeat a message until it is acknowledged; returns the number of refusals."""
        self._sent += 1
        content = f"{self._sent} " + "x" * length
        for refused in range(1000):
            with contextlib.suppress(Refused):
                await omar.ask("message", room_id=self.room_id, content=content, client_id=str(self._sent))
                return refused
        raise AssertionError("the server does not recover")

    def synced(self, name: str) -> tuple[int, int]:
        """The number of successful syncs of a file, and of writes to it since."""
        for position, record in self.recording.records(self._read):
            self._read = position
            if record.op is Op.CREATE:
                self._names[record.file] = Path(record.data.decode()).name
            elif record.op is Op.WRITE:
                self._writes[self._names[record.file]] += 1
            elif record.op is Op.SYNC and not record.error:
                self._syncs[self._names[record.file]] += 1
                self._writes[self._names[record.file]] = 0
        return self._syncs[name], self._writes[name]

    def cut_power(self, wanted: Callable[[int, bool], bool], reached: float = 0.0) -> int:
        """Cut the power at the wanted places and check the database; returns the number of cuts.

        A place is the number of disk changes before it, and whether a message was just acknowledged. `reached`: the
        fraction of unsynced writes that reach the disk.
        """
        image = self.folder / "image"
        image.mkdir(exist_ok=True)
        disk, promised, cuts, chance = Disk(), list[Acknowledged](), 0, Random(1)
        for _, record, new in acknowledged(self.recording.records()):
            disk.apply(record)
            promised += new
            if wanted(disk.changes, bool(new)):
                cuts += 1
                disk.cut_power(image, lambda: chance.random() < reached)
                assert violations(image / "tidings.db", promised) == [], f"after {disk.changes} changes"
        return cuts


@pytest.fixture
async def recorded(tmp_path: Path) -> AsyncIterator[Recorded]:
    with (tmp_path / "log").open("ab") as log:
        try:
            recorded = Recorded(tmp_path, log.fileno())
        except NoCompiler as error:
            if os.environ.get("CI"):
                pytest.fail(f"CI must cut the power: {error}", pytrace=False)
            pytest.skip(f"no power was cut: {error}")
        yield recorded
        await recorded.server.kill()


async def test_messages_acknowledged_after_a_failed_sync_survive_a_power_cut(recorded: Recorded) -> None:
    token = await recorded.start()
    async with plainly_connected(recorded.server.url, token) as omar:
        for n in range(10):
            await recorded.send(omar)
            # The search finds it, so the index was written. Unsynced, it would be lost with the next failed sync.
            while not (await omar.ask("search", query=str(1 + 4 * n)))["messages"]:
                pass
            recorded.recording.fail(Fault("sync"))
            refused = [await recorded.send(omar) for _ in range(3)]
            assert recorded.recording.failed == 1
            assert sum(refused) <= 2, "one sync has failed"
    await recorded.server.terminate()
    assert recorded.cut_power(lambda _, acknowledged: acknowledged) == 40


@pytest.mark.parametrize("every", [1, 4], ids=["all fail", "one in four fails"])
async def test_actions_are_refused_while_syncs_fail_and_succeed_afterwards(recorded: Recorded, every: int) -> None:
    """After a failure, four syncs in a row must succeed before anything is written."""
    token = await recorded.start()
    async with plainly_connected(recorded.server.url, token) as omar:
        await recorded.send(omar)
        recorded.recording.fail(Fault("sync", every=every))
        for n in range(5):
            with pytest.raises(Refused) as refused:
                await omar.ask("message", room_id=recorded.room_id, content="refused", client_id=f"refused {n}")
            assert refused.value.code == "unavailable"
            assert len((await omar.ask("history", room_id=recorded.room_id))["messages"]) == 1
        recorded.recording.fail()
        await recorded.send(omar)
    await recorded.server.terminate()
    assert recorded.cut_power(lambda _, acknowledged: acknowledged) == 2


async def test_a_power_cut_after_a_failed_sync_and_a_kill_leaves_the_database_intact(
    recorded: Recorded,
) -> None:
    """The pages of a failed commit are in the page cache, so the next server sees them as committed."""
    token = await recorded.start()
    async with plainly_connected(recorded.server.url, token) as omar:
        for _ in range(20):
            await recorded.send(omar, 2_000)
    await recorded.server.terminate()
    await recorded.server.start()  # with a new log, which lacks the pages that the next message changes
    async with plainly_connected(recorded.server.url, token) as omar:
        await omar.ask("create", topic_name="storms")
        recorded.recording.fail(Fault("sync"), Fault("write", error=DIE, after=True))
        omar.send("message", {"room_id": recorded.room_id, "content": "y" * 16_000})
        await omar.closed.wait()
    await recorded.server.kill()
    died_at = sum(1 for _, record in recorded.recording.records() if record.op not in (Op.SENT, Op.CLOSED))
    recorded.recording.fail()
    await recorded.server.start()
    async with plainly_connected(recorded.server.url, token) as omar:
        for _ in range(5):
            await recorded.send(omar)
    await recorded.server.terminate()
    soon = range(died_at, died_at + 60, 3)
    for reached in (0.2, 0.4, 0.6):
        assert recorded.cut_power(lambda changes, _: changes in soon, reached) > 10


async def test_pages_of_a_partial_checkpoint_survive_a_later_failed_sync(
    recorded: Recorded,
) -> None:
    token = await recorded.start()
    async with plainly_connected(recorded.server.url, token) as omar:
        await recorded.send(omar)
        with contextlib.closing(
            sqlite3.connect(f"file:{recorded.database}?mode=ro", uri=True, isolation_level=None)
        ) as reader:
            for _ in range(150):
                await recorded.send(omar, 16_000)
            syncs, _ = recorded.synced("tidings.db")
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM entry").fetchone()  # the checkpoint stops here
            while not recorded.synced("tidings.db")[1]:
                await recorded.send(omar, 16_000)
            assert recorded.synced("tidings.db")[0] == syncs, "the checkpoint was not stopped"
        recorded.recording.fail(Fault("sync", ".db"))
        while not recorded.recording.failed:
            await recorded.send(omar, 16_000)
        # The log is checkpointed again, and then overwritten.
        before = recorded.synced("tidings.db")[0]
        while recorded.synced("tidings.db")[0] < before + 3:
            for _ in range(20):
                await recorded.send(omar, 16_000)
    await recorded.server.terminate()
    assert recorded.cut_power(lambda changes, _: changes % 50 == 0) > 20
