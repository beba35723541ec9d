"""`tidings backup`, `restore` and `move`: nothing that was acknowledged is missing, and clients are told what is."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Run, Start
from tests.delivery.support import fill, make_topic, stored
from tests.files.support import begin, cut, fetch, links, moved_on, put, upload
from tests.support.client import DEADLINE_S, connected
from tests.support.node import running_node

ONLY_SOCKETIO = True
WRITERS = 3


class Writers:
    """Connections that each send one message after the other, until `end`."""

    def __init__(self, url: str, token: str, room_id: str) -> None:
        self._to = url, token, room_id
        self._more = asyncio.Event()
        self.end = asyncio.Event()
        self.acknowledged: list[list[str]] = [[] for _ in range(WRITERS)]

    async def write(self, number: int) -> None:
        url, token, room_id = self._to
        mine = self.acknowledged[number]
        async with connected(url, token, device=f"writer{number}") as client:
            while not self.end.is_set():
                content = f"{number}: {len(mine)}"
                await client.ask("message", room_id=room_id, content=content, client_id=content)
                mine.append(content)
                self._more.set()

    async def reach(self, number: int) -> None:
        """Wait until so many messages are acknowledged."""
        while sum(map(len, self.acknowledged)) < number:
            self._more.clear()
            await self._more.wait()


async def test_a_backup_under_load_brings_back_what_was_acknowledged_and_tells_clients_what_is_lost(
    database_url: str, tmp_path: Path, command: Run
) -> None:
    at = {"TIDINGS_DATABASE_URL": database_url}
    async with running_node(database_url, tmp_path / "data", secret_key="") as server:
        omar, diego = await server.register("omar"), await server.register("diego")
        room_id = await make_topic(server.url, omar, "noticias", diego)
        writers = Writers(server.url, omar, room_id)
        async with asyncio.TaskGroup() as tasks:
            for number in range(WRITERS):
                tasks.create_task(writers.write(number))
            await writers.reach(60)
            before = [list(mine) for mine in writers.acknowledged]
            said = await command("backup", "backup.tar.gz", **at)
            assert "read back and checked" in said.out
            await writers.reach(sum(map(len, writers.acknowledged)) + 20)
            writers.end.set()
        async with connected(server.url, diego, device="phone") as phone:
            head = (await phone.ask("get_rooms"))["rooms"][0]["last_seq"]
        assert "running" in (await command("restore", "--force", "backup.tar.gz", status=1, **at)).err
        await server.stop()
        assert "--force" in (await command("restore", "backup.tar.gz", status=1, **at)).err
        await command("restore", "--force", "backup.tar.gz", **at)
        (tmp_path / "data" / "postgresql-mark").unlink(missing_ok=True)  # as on a new machine
        await server.start()

        kept = await stored(database_url, room_id)
        assert len(set(kept)) == len(kept) < head
        for acknowledged, written in zip(before, writers.acknowledged, strict=True):
            restored = [content for content in kept if content in written]
            assert restored == written[: len(restored)], "in order, without a gap"
            assert len(restored) >= len(acknowledged), "everything that was acknowledged before the backup began"
        cursors = {room_id: head}
        async with connected(server.url, diego, device="phone", cursors=cursors) as phone:  # the token is valid still
            assert phone.of("ready")[0]["reset"] == [room_id]
            message = await phone.ask("message", room_id=room_id, content="después")
            assert message["seq"] == len(kept) + 1
            async with asyncio.timeout(DEADLINE_S):  # another database's index is built anew
                while not (await phone.ask("search", query=f'"{kept[0]}"'))["messages"]:
                    pass


@pytest.mark.long
async def test_a_server_moves_to_postgresql_with_its_tokens_ids_cursors_and_files(
    tmp_path: Path, command: Run, empty_postgresql_url: str
) -> None:
    async with running_node("", tmp_path / "data", secret_key="") as server:
        omar, diego = await server.register("omar"), await server.register("diego")
        room_id = await make_topic(server.url, omar, "noticias", diego)
        async with (
            connected(server.url, omar) as sender,
            connected(server.url, diego, device="phone") as phone,
        ):
            first = await sender.ask("message", room_id=room_id, content="uno", client_id="1")
            await sender.ask("message", room_id=room_id, content="dos", thread=first["id"])
            await sender.ask("react", message_id=first["id"], emoji="👍")
            await phone.until(lambda: bool(phone.of("reaction")))
            file_id = await upload(server, omar, "a.txt", b"hola")
            await sender.ask("message", room_id=room_id, content="", files=[{"id": file_id}])
            await phone.ask("delivered", cursors={room_id: 4})
            under_way = await begin(server, omar, "b.bin", 200_000)
            await cut(server, omar, under_way["url"], b"x" * 200_000, 0, 100_000)
            received = await moved_on(server, omar, under_way["url"], 0)
            history = await sender.ask("history", room_id=room_id)
            threads = await sender.ask("get_threads")
        async with connected(server.url, omar) as sender:
            await sender.ask("message", room_id=room_id, content="while the phone is away")
        assert "running" in (await command("move", empty_postgresql_url, status=1)).err
    moved = await command("move", empty_postgresql_url)
    assert "2 users, 1 rooms, 5 entries" in moved.out
    assert "--force" in (await command("move", empty_postgresql_url, status=1)).err, "nothing is moved over it"
    async with running_node(empty_postgresql_url, tmp_path / "data", secret_key="") as server:
        async with connected(server.url, diego, device="phone") as phone:
            (ready,) = phone.of("ready")
            assert (ready["reset"], ready["replayed"]) == ([], 1), "it continues where it was"
            assert [message["content"] for message in phone.of("message")] == ["while the phone is away"]
        async with connected(server.url, omar) as sender:
            page = await sender.ask("history", room_id=room_id, before=5)
            assert page["messages"] == history["messages"]
            assert await sender.ask("get_threads") == threads
            again = await sender.ask("message", room_id=room_id, content="uno", client_id="1")
            assert again["id"] == first["id"]
            assert (await sender.ask("message", room_id=room_id, content="tres"))["seq"] == 6
            await sender.ask("create", topic_name="nuevas")
        [linked] = await links(server, diego, file_id)
        assert (await fetch(server, linked["url"])).content == b"hola"
        rest = await put(server, omar, under_way["url"], b"x" * (200_000 - received), received)
        assert rest.headers["Upload-Offset"] == "200000"
        await server.register("satoshi")


def _cut(backup: Path) -> None:
    backup.write_bytes(backup.read_bytes()[: backup.stat().st_size // 2])


def _flip(backup: Path) -> None:
    content = bytearray(backup.read_bytes())
    content[len(content) // 2] ^= 0x40
    backup.write_bytes(content)


def _forge(backup: Path) -> None:
    with tarfile.open(backup, "w") as tar:
        tar.addfile(tarfile.TarInfo("../../tidings.db"), io.BytesIO(b""))


def _describe_nothing(backup: Path) -> None:
    with tarfile.open(backup, "w") as tar:
        contents = tarfile.TarInfo("backup.json")
        contents.size = 2
        tar.addfile(contents, io.BytesIO(b"[]"))


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
@pytest.mark.parametrize("damage", [_cut, _flip, _forge, _describe_nothing])
async def test_a_damaged_backup_is_refused_and_changes_nothing(
    damage: Callable[[Path], None], suffix: str, tmp_path: Path, command: Run
) -> None:
    await command("user", "add", "omar", stdin="a good password\n")
    backup = tmp_path / f"backup.{suffix}"
    await command("backup", str(backup))
    assert "exists" in (await command("backup", str(backup), status=1)).err
    damage(backup)
    before = (tmp_path / "data" / "tidings.db").read_bytes()
    error = (await command("restore", "--force", str(backup), status=1)).err
    assert any(what in error for what in ("is damaged", "is no complete backup", "is no backup"))
    assert (tmp_path / "data" / "tidings.db").read_bytes() == before
    assert not [path.name for path in (tmp_path / "data").iterdir() if "restored" in path.name]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A directory on another file system than `tmp_path`."""
    for path in map(Path, ("/dev/shm", "/var/tmp")):
        if path.is_dir() and path.stat().st_dev != tmp_path.stat().st_dev:
            with tempfile.TemporaryDirectory(dir=path) as directory:
                yield Path(directory)
            return
    pytest.skip("needs a second file system")


async def test_a_database_on_another_file_system_is_restored_where_it_is_and_can_be_used(
    elsewhere: Path, tmp_path: Path, command: Run
) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(elsewhere / "real.db")
    at = {"TIDINGS_DATABASE_URL": f"sqlite+aiosqlite:///{link}"}
    await command("user", "add", "omar", stdin="a good password\n", **at)
    await command("backup", "backup.tar", **at)
    await command("user", "add", "diego", stdin="a good password\n", **at)
    await command("restore", "--force", "backup.tar", **at)
    assert link.is_symlink()
    assert sorted(await asyncio.to_thread(os.listdir, elsewhere)) == ["real.db", "real.db.lock"]
    await command("user", "add", "diego", stdin="a good password\n", **at)


async def test_restore_replaces_another_signing_key_only_when_forced(tmp_path: Path, command: Run) -> None:
    at = {"TIDINGS_SECRET_KEY": ""}
    async with running_node("", tmp_path / "data", secret_key=""):
        pass
    await command("backup", "backup.tar", **at)
    secret, database = tmp_path / "data" / "secret_key", tmp_path / "data" / "tidings.db"
    kept, other = secret.read_bytes(), b"x" * 43
    database.unlink()
    await command("restore", "backup.tar", **at)
    assert secret.read_bytes() == kept, "the same key is no obstacle"
    database.unlink()
    secret.write_bytes(other)
    assert "signing key" in (await command("restore", "backup.tar", status=1, **at)).err
    assert secret.read_bytes() == other
    assert not database.exists()
    await command("restore", "--force", "backup.tar", **at)
    assert secret.read_bytes() == kept


async def test_a_backup_that_is_killed_leaves_nothing_that_looks_like_one(
    tmp_path: Path, tidings: Start, command: Run
) -> None:
    (tmp_path / "backups").mkdir()
    async with running_node("", tmp_path / "data", secret_key="") as server:
        token = await server.register("omar")
        room_id = await make_topic(server.url, token, "noticias")
        await fill(server.node.database, "omar", {room_id: [f"{n}" for n in range(20_000)]})
        backup = await tidings("backup", "backups/backup.tar")
        while not await asyncio.to_thread(os.listdir, tmp_path / "backups"):
            pass
        assert await backup.end(signal.SIGKILL) == -signal.SIGKILL
        assert not (tmp_path / "backups" / "backup.tar").exists()
        await command("backup", "backups/backup.tar")
        assert [path.name for path in (tmp_path / "backups").iterdir()] == ["backup.tar"]
