"""A log that has gone back to an earlier state is noticed, also when it has grown past the cursors of its clients."""

from __future__ import annotations

import asyncio
import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from sqlalchemy import Connection, select
from sqlalchemy.engine import make_url

from tests.conftest import ON_BOTH
from tests.delivery.support import make_topic, reader, stored
from tests.support.client import DEADLINE_S, connected
from tests.support.node import RunningNode, running_node
from tests.support.timers import Timers
from tidings.log import epochs
from tidings.log.epochs import Epochs, MarkFile, Marks
from tidings.log.retention import DAY_MS, now_ms
from tidings.testing import postgresql
from tidings_db.engine import Database, StoreUnavailable
from tidings_db.models import entries, rooms, witnesses

ONLY_SOCKETIO = True  # the catch-up is the same for every gateway

OFTEN = {"mark_s": 3600.0, "engine": {"ping_interval": 0.2, "ping_timeout": 20}}
"""Rounds of the marks run when a test calls them."""


@pytest.fixture(params=ON_BOTH)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(kind: str, request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{kind}_url"))


@contextmanager
def backup(url: str) -> Iterator[Callable[[], None]]:
    """Copies a database that no server has open; gives what replaces the database with the copy."""
    target = make_url(url)
    if target.get_backend_name() == "sqlite":
        path = Path(str(target.database))
        copy = shutil.copy(path, path.with_name("backup"))
        yield lambda: shutil.copy(copy, path) and None
        return
    name = str(target.database)
    server_url = target.set(database="postgres").render_as_string(hide_password=False)
    with postgresql.database(server_url, f"TEMPLATE {name}") as copied:

        def restore() -> None:
            postgresql.execute(
                server_url, f"DROP DATABASE {name}", f"CREATE DATABASE {name} TEMPLATE {make_url(copied).database}"
            )

        yield restore


async def send(server: RunningNode, token: str, room_id: str, contents: list[str]) -> None:
    async with connected(server.url, token, device="sender") as sender:
        for content in contents:
            await sender.ask("message", room_id=room_id, content=content)


async def reset_of(server: RunningNode, token: str, device: str, cursors: dict[str, int] | None = None) -> list[str]:
    """What `ready` names as reset. The client stays until its device's epoch is in the database."""
    brought = {} if cursors is None else {"cursors": cursors}
    async with connected(server.url, token, device=device, **brought) as client:
        (ready,) = client.of("ready")
        await learned(server, device)
        return list(ready["reset"])


async def learned(server: RunningNode, device: str) -> None:
    """Wait until the server knows that a device has received `ready`."""

    def epoch(conn: object) -> int | None:
        return conn.exec_driver_sql(f"SELECT epoch FROM device WHERE name = '{device}'").scalar()  # type: ignore[attr-defined]

    while await server.node.database.read(epoch) != server.node.epochs.current:
        pass


async def test_a_log_that_grew_past_the_cursors_after_a_restore_is_named_in_reset(url: str, tmp_path: Path) -> None:
    async with running_node(url, tmp_path, options=OFTEN) as server:
        omar, diego = await server.register("omar"), await server.register("diego")
        room_id = await make_topic(server.url, omar, "noticias", diego)
        quiet_id = await make_topic(server.url, omar, "otras", diego)
        await send(server, omar, room_id, [f"kept {n}" for n in range(5)])
        assert await reset_of(server, diego, "phone") == []
        assert await reset_of(server, diego, "tablet") == []
        await server.stop()
        with ExitStack() as stack:
            restore = await asyncio.to_thread(stack.enter_context, backup(url))
            await server.start()
            await send(server, omar, room_id, [f"lost {n}" for n in range(6)])
            assert await reset_of(server, diego, "phone", {room_id: 5, quiet_id: 0}) == []
            await server.stop()
            await asyncio.to_thread(restore)
            await asyncio.to_thread(stack.close)
        await server.start()
        await send(server, omar, room_id, [f"new {n}" for n in range(9)])
        assert server.node.epochs.current == 1
        async with reader(server.url, diego, device="phone", cursors={room_id: 11, quiet_id: 0}) as phone:
            assert phone.events[-1][1]["reset"] == [room_id]
            assert phone.seqs(room_id) == list(range(6, 15)), "it may ignore `reset` and still miss nothing"
        # Its `ready` was never confirmed: it may not have arrived.
        assert await reset_of(server, diego, "phone", {room_id: 11, quiet_id: 0}) == [room_id]
        assert await reset_of(server, diego, "phone", {room_id: 14, quiet_id: 0}) == []
        # What a client holds that brings no cursors is unknown.
        assert await reset_of(server, diego, "tablet") == sorted([room_id, quiet_id])
        assert await reset_of(server, diego, "tablet") == []
        assert await reset_of(server, diego, "watch") == [], "a new device holds nothing"
        assert await reset_of(server, diego, "laptop", {room_id: 12}) == [room_id], "it was lost with its device"
        assert await reset_of(server, diego, "terminal", {room_id: 5, quiet_id: 0}) == []


async def test_a_device_that_was_away_during_two_restores_learns_of_the_first(
    sqlite_url: str, tmp_path: Path
) -> None:
    async with running_node(sqlite_url, tmp_path, options=OFTEN) as server:
        omar = await server.register("omar")
        room_id = await make_topic(server.url, omar, "noticias")
        assert await reset_of(server, omar, "phone", {room_id: 0}) == []
        await server.node.database.write(epochs.begin)
        await send(server, omar, room_id, [f"new {n}" for n in range(9)])
        await server.node.database.write(epochs.begin)
        await server.node.epochs._round()
        assert await reset_of(server, omar, "phone", {room_id: 4}) == [room_id]


async def test_a_client_that_leaves_before_a_heartbeat_is_told_reset_once(sqlite_url: str, tmp_path: Path) -> None:
    options = {"mark_s": 3600.0, "timers": Timers()}  # no regular PING is ever due
    async with running_node(sqlite_url, tmp_path, options=options) as server:
        omar = await server.register("omar")
        room_id = await make_topic(server.url, omar, "noticias")
        await server.node.database.write(epochs.begin)
        await server.node.epochs._round()
        await send(server, omar, room_id, [f"new {n}" for n in range(9)])
        async with connected(server.url, omar, device="watch") as watch:
            assert watch.of("ready")[0]["reset"] == []
        async with asyncio.timeout(DEADLINE_S):
            assert await reset_of(server, omar, "phone", {room_id: 4}) == [room_id]
        for device, cursors in (("phone", {room_id: 9}), ("watch", {})):
            async with connected(server.url, omar, device=device, cursors=cursors) as client:
                assert client.of("ready")[0]["reset"] == []
                assert client.of("message") == []


@pytest.mark.long
async def test_what_retention_removes_is_not_taken_for_lost(postgresql_url: str, tmp_path: Path) -> None:
    async with running_node(postgresql_url, tmp_path, options=OFTEN, retention_topic_days=10) as server:
        omar = await server.register("omar")
        room_id = await make_topic(server.url, omar, "noticias")
        async with connected(server.url, omar) as client:
            abandoned = (await client.ask("create", topic_name="secreta", is_private=True))["room_id"]
            await client.ask("message", room_id=abandoned, content="hola")
            await client.ask("unsubscribe", room_id=abandoned)
            await client.ask("create", topic_name="later")
            for content in ("1", "2", "3"):
                await client.ask("message", room_id=room_id, content=content)
            for _ in range(2):
                await server.node.retention.run_once(now_ms() + 60 * DAY_MS)
            assert not await stored(postgresql_url, room_id) + await stored(postgresql_url, abandoned)
            await server.node.epochs._round()
            assert server.node.epochs.current == 0


@pytest.mark.long
@pytest.mark.parametrize(("replaced", "begun"), [(False, 1), (True, 2)], ids=["ends earlier", "has grown again"])
async def test_two_nodes_that_notice_the_same_loss_begin_one_epoch(
    postgresql_url: str, tmp_path: Path, *, replaced: bool, begun: int
) -> None:
    """A second one only if the log has grown over what the second node had written when the first epoch began."""
    async with (
        running_node(postgresql_url, tmp_path / "1", options=OFTEN) as first,
        running_node(postgresql_url, tmp_path / "2", options=OFTEN) as second,
    ):
        omar = await first.register("omar")
        room_id, other_id = [await make_topic(first.url, omar, name) for name in ("noticias", "otras")]
        await send(first, omar, room_id, ["by the first"])
        await send(second, omar, room_id, ["by the second"])
        for node in (first, second):
            await node.node.epochs._round()

        def lose(conn: Connection) -> None:
            conn.execute(witnesses.update().values(mark="older"))
            key = conn.execute(select(rooms.c.id).where(rooms.c.room_id == room_id)).scalar_one()
            second_entry = entries.c.room_id == key, entries.c.seq == 2
            if replaced:
                conn.execute(entries.update().where(*second_entry).values(message_id="another"))
            else:
                conn.execute(entries.delete().where(*second_entry))
                conn.execute(rooms.update().where(rooms.c.id == key).values(last_seq=1))

        await second.node.database.write(lose)
        for node in (first, second, first, second):
            await send(node, omar, other_id, ["a later one"])  # a node without one has nothing to compare
            await node.node.epochs._round()
        assert first.node.epochs.current == second.node.epochs.current == begun


@pytest.mark.parametrize("evidence", ["the mark is gone", "an operator's command"])
async def test_a_log_that_goes_back_under_a_running_server_closes_all_connections(
    sqlite_url: str, tmp_path: Path, evidence: str
) -> None:
    async with running_node(sqlite_url, tmp_path, options=OFTEN) as server:
        omar = await server.register("omar")
        room_id = await make_topic(server.url, omar, "noticias")
        async with connected(server.url, omar, device="phone") as phone:
            await phone.ask("message", room_id=room_id, content="hola")
            if evidence == "the mark is gone":
                await server.node.database.write(lambda conn: conn.execute(witnesses.update().values(mark="older")))
            else:
                await server.node.database.write(epochs.begin)
            await server.node.epochs._round()
            assert await phone.event("closing") == {"reason": "shutdown", "reconnect": True}
        assert server.node.epochs.current == 1
        assert not server.node.hub.live_rooms, "the heads are forgotten"
        await server.node.epochs._round()
        assert server.node.epochs.current == 1
        assert await reset_of(server, omar, "phone", {room_id: 1}) == []


class Crash(Exception):
    """The process ends here."""


class CrashingFile(MarkFile):
    """Ends the process before or after the save with this number."""

    def __init__(self, path: Path, at: float) -> None:
        super().__init__(path)
        self._left = at

    def save(self, marks: Marks) -> None:
        self._left -= 1
        if self._left == -0.5:
            raise Crash
        super().save(marks)
        if self._left == 0:
            raise Crash


@pytest.mark.parametrize("at", [0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5])
async def test_a_crash_at_any_point_begins_no_epoch(url: str, tmp_path: Path, at: float) -> None:
    """A file and a database cannot change together: whichever came last, the next start knows both marks."""
    database = Database(url)
    await database.start()
    written = 0

    def node(file: MarkFile) -> Epochs:
        return Epochs(database, file, lambda: written, lambda: pytest.fail("the log did not go back"), 3600)

    try:
        marked = node(CrashingFile(tmp_path / "mark", at))
        with suppress(Crash):
            await marked.start()
            for _ in range(3):
                written += 1
                await marked._round()
            pytest.fail("it has not crashed")
        marked.loop.cancel()
        for _ in range(2):
            again = node(MarkFile(tmp_path / "mark"))
            await again.start()
            assert again.current == 0
            written += 1
            await again.stop()
    finally:
        await database.stop()


async def test_a_round_that_the_store_refuses_begins_no_epoch(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(sqlite_url)
    await database.start()
    written = 1
    marked = Epochs(database, MarkFile(tmp_path / "mark"), lambda: written, lambda: pytest.fail("it went back"), 3600)
    await marked.start()
    with monkeypatch.context() as patch:

        async def refuse(*_: object, **__: object) -> None:
            raise StoreUnavailable("away")

        patch.setattr(database, "write", refuse)
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await marked._round()
    await marked._round()
    await marked.stop()
    again = Epochs(database, MarkFile(tmp_path / "mark"), lambda: written, lambda: pytest.fail("it went back"), 3600)
    await again.start()
    assert again.current == 0
    await again.stop()
    await database.stop()


async def test_a_sqlite_database_that_came_without_its_mark_begins_an_epoch(sqlite_url: str, tmp_path: Path) -> None:
    async with running_node(sqlite_url, tmp_path, options=OFTEN) as server:
        assert server.node.epochs.current == 0
        await server.stop()
        server.node.settings.mark_file.unlink()
        await server.start()
        assert server.node.epochs.current == 1


async def test_a_server_that_cannot_write_its_mark_starts_and_serves(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    database = Database(url)
    await database.start()
    written = 0
    unmarked = Epochs(
        database, MarkFile(tmp_path / "file" / "mark"), lambda: written, lambda: pytest.fail("it went back"), 3600
    )
    await unmarked.start()
    for _ in range(3):
        written += 1
        await unmarked._round()
    await unmarked.stop()
    assert unmarked.current == 0
    assert [record.levelname for record in caplog.records if "restored backup" in record.message] == ["WARNING"]
    await database.stop()


class FullDisk(MarkFile):
    is_full = False

    def save(self, marks: Marks) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().save(marks)


async def test_a_mark_that_cannot_be_replaced_for_a_while_begins_no_epoch(sqlite_url: str, tmp_path: Path) -> None:
    database, file = Database(sqlite_url), FullDisk(tmp_path / "mark")
    await database.start()
    written = 1
    marked = Epochs(database, file, lambda: written, lambda: pytest.fail("it went back"), 3600)
    await marked.start()
    for is_full in (False, True, True, False, True):
        file.is_full = is_full
        written += 1
        await marked._round()
    await marked.stop()
    again = Epochs(database, MarkFile(tmp_path / "mark"), lambda: written, lambda: pytest.fail("it went back"), 3600)
    await again.start()
    assert again.current == 0
    await again.stop()
    await database.stop()
