"""Files of messages: stored with them, uploaded once over a bad network, in their place; and downloads."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import tidings_client
from tests.clients.support import until
from tests.clients.wire import Direction, wire
from tests.files.support import http
from tests.support.network import network
from tests.support.node import RunningNode, running_node
from tidings_client import Client, File, NotFound, SQLiteStore, StoreFailed, Unsent
from tidings_client.files import safe_name

DEADLINE_S = 60.0
SIZE = 2_500_000


@pytest.fixture
async def server(sqlite_url: str, tmp_path: Path) -> AsyncIterator[RunningNode]:
    async with running_node(sqlite_url, tmp_path, file_bytes=3_000_000) as node:
        yield node


@pytest.fixture
def content() -> bytes:
    return random.Random(7).randbytes(SIZE)


async def contents(client: Client) -> list[tuple[str, list[str]]]:
    """The texts of the room, and the names of their files."""
    page = await client.room(topic_name="noticias").history()
    return [(message.content, [file.name for file in message.files]) for message in page.messages]


def left(store: Path) -> list[Path]:
    folder = Path(f"{store}.files")
    return list(folder.iterdir()) if folder.exists() else []


async def status_of(server: RunningNode, token: str, upload_id: str) -> int:
    async with http(server, token) as direct:
        return (await direct.head(f"/api/uploads/{upload_id}")).status_code


async def begun(client: Client, unsent: Unsent) -> str:
    """Wait until some bytes of a file are on the server: the upload's id."""
    await until(client, "outbox", lambda: unsent.uploaded > 0)
    assert unsent.files[0].upload_id is not None
    return unsent.files[0].upload_id


async def test_a_file_arrives_once_and_in_its_place_over_connections_that_are_cut_again_and_again(
    server: RunningNode, omar: str, tmp_path: Path, content: bytes
) -> None:
    source = tmp_path / "datos.bin"
    source.write_bytes(content)
    async with (
        network(server.url) as net,
        tidings_client.connect(net.url, omar, store=tmp_path / "state.db") as client,
        asyncio.timeout(DEADLINE_S),
    ):
        room = client.room(topic_name="noticias")
        for _ in range(6):
            net.cut_next("up", 200_000)
            net.cut_next("down", 20)  # an answer is lost in its middle
        sent = [await room.enqueue("uno"), await room.enqueue("dos", files=[source, File(b"x", "nota.txt")])]
        sent.append(await room.enqueue("tres"))
        source.unlink()
        await begun(client, sent[1])
        net.cut()
        for unsent in sent:
            await unsent.sent()
        assert await contents(client) == [("uno", []), ("dos", ["datos.bin", "nota.txt"]), ("tres", [])]
        assert left(tmp_path / "state.db") == []
        page = await room.history()
        first, _ = page.messages[1].files
        assert (await client.download(first.id, tmp_path / "copia.bin")).read_bytes() == content


async def test_a_download_goes_on_where_it_was_cut_and_replaces_no_file(
    server: RunningNode, omar: str, tmp_path: Path, content: bytes
) -> None:
    async with (
        tidings_client.connect(server.url, omar) as author,
        network(server.url) as net,
        tidings_client.connect(net.url, omar, device="other") as client,
        asyncio.timeout(DEADLINE_S),
    ):
        files = [File(content), File(b"x", "nota.txt")]
        first, second = (await author.room(topic_name="noticias").send(files=files)).files
        opened = net.opened
        for _ in range(40):
            net.cut_next("down", 200_000)
        saved = await client.download(first.id, tmp_path / "copia.bin")
        assert saved.read_bytes() == content
        assert net.opened - opened <= SIZE // 200_000 + 2
        with pytest.raises(FileExistsError):
            await client.download(second.id, tmp_path / "copia.bin")
        folder = tmp_path / "folder"
        folder.mkdir()
        for name in ("nota.txt", "nota (2).txt"):
            assert await client.download(second.id, folder) == folder / name
        assert sorted(path.name for path in folder.iterdir()) == ["nota (2).txt", "nota.txt"]
        assert saved.read_bytes() == content
        with pytest.raises(NotFound):
            await client.download("0", folder)


async def test_an_upload_holds_up_the_later_messages_of_its_room_and_of_no_other(
    server: RunningNode, omar: str, content: bytes
) -> None:
    async with (
        network(server.url) as net,
        tidings_client.connect(net.url, omar) as client,
        asyncio.timeout(DEADLINE_S),
    ):
        noticias, pedidos = (client.room(topic_name=name) for name in ("noticias", "pedidos"))
        net.refuse()  # the connection of events stays, those of uploads are new
        large = await noticias.enqueue("uno", files=[File(content, "datos.bin")])
        later = await noticias.enqueue("dos")
        await pedidos.send("mientras")
        assert [unsent.state for unsent in (large, later)] == ["waiting", "waiting"]
        net.heal()
        await later.sent()
        assert await contents(client) == [("uno", ["datos.bin"]), ("dos", [])]


ENQUEUE = """
import asyncio, os, pathlib, sys, tidings_client

async def main(url, token, store, source):
    client = await tidings_client.connect(url, token, store=store, wait=False)
    await client.room(topic_name="noticias").enqueue("antes", files=[source])
    pathlib.Path(source).unlink()
    os._exit(9)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_file_enqueued_offline_is_sent_after_the_process_died_and_its_source_is_gone(
    server: RunningNode, omar: str, tmp_path: Path, content: bytes
) -> None:
    source, store = tmp_path / "datos.bin", tmp_path / "state.db"
    source.write_bytes(content)
    async with network(server.url) as net, asyncio.timeout(DEADLINE_S):
        net.refuse()
        program = [sys.executable, "-c", ENQUEUE, net.url, omar, str(store), str(source)]
        process = await asyncio.to_thread(subprocess.run, program, check=False)
        assert (process.returncode, source.exists(), len(left(store))) == (9, False, 1)
        (Path(f"{store}.files") / "orphan").write_bytes(b"of an enqueue that was never finished")
        net.heal()
        net.cut_next("up", 10**9)  # that of events
        net.cut_next("up", 900_000)
        client = await tidings_client.connect(net.url, omar, store=store)
        (unsent,) = client.unsent
        upload_id = await begun(client, unsent)
        net.refuse()
        net.cut()
        await until(client, "status", lambda: client.status.state == "offline")
        await client.close()
        net.heal()
        client = await tidings_client.connect(net.url, omar, store=store)
        await client.room(topic_name="noticias").send("después")
        assert await contents(client) == [("antes", ["datos.bin"]), ("después", [])]
        ((file,), _) = [message.files for message in (await client.room(topic_name="noticias").history()).messages]
        assert file.id == upload_id, "the upload went on"
        assert (await client.download(file.id, tmp_path / "copia")).read_bytes() == content
        assert (client.unsent, left(store)) == ([], [])
        await client.close()


async def test_a_file_that_is_too_large_is_refused_and_does_not_hold_up_what_follows(
    server: RunningNode, omar: str, tmp_path: Path
) -> None:
    async with tidings_client.connect(server.url, omar, store=tmp_path / "state.db") as client:
        room = client.room(topic_name="noticias")
        large = await room.enqueue("", files=[File(bytes(4_000_000))])
        await room.send("sigue")
        with pytest.raises(tidings_client.TooLarge):
            await large.sent()
        assert await contents(client) == [("sigue", [])]
        assert left(tmp_path / "state.db") == []
        for path, error in ((tmp_path / "none", FileNotFoundError), (tmp_path, IsADirectoryError)):
            with pytest.raises(error):
                await room.enqueue("", files=[File(b"first"), path])
        with pytest.raises(ValueError, match="empty"):
            await room.enqueue("", files=[File(b"")])
        assert (left(tmp_path / "state.db"), client.unsent) == ([], [])


@pytest.mark.parametrize("withdrawn", [False, True], ids=["ended", "withdrawn"])
async def test_an_upload_that_has_ended_begins_anew_and_a_withdrawn_one_ends(
    server: RunningNode, omar: str, tmp_path: Path, content: bytes, withdrawn: bool
) -> None:
    async with (
        network(server.url) as net,
        tidings_client.connect(net.url, omar, store=tmp_path / "state.db") as client,
        tidings_client.connect(server.url, omar, device="other") as other,
        asyncio.timeout(DEADLINE_S),
    ):
        net.cut_next("up", 900_000)
        net.cut_next("up", 0)
        unsent = await client.room(topic_name="noticias").enqueue("dos", files=[File(content, "datos.bin")])
        upload_id = await begun(client, unsent)
        net.freeze()
        assert await status_of(server, omar, upload_id) == 200
        if withdrawn:
            assert await unsent.withdraw()
            net.thaw()
            await client.room(topic_name="noticias").send("tres")
            while await status_of(server, omar, upload_id) != 404:
                pass
            assert await contents(client) == [("tres", [])]
        else:
            await other.actions.delete_upload(file_id=upload_id)
            net.thaw()
            assert [file["name"] for file in (await unsent.sent())["files"]] == ["datos.bin"]
            assert unsent.files[0].upload_id != upload_id
        await until(client, "outbox", lambda: left(tmp_path / "state.db") == [])


async def test_a_message_whose_uploads_ended_while_its_answer_was_lost_is_sent_with_new_ones(
    server: RunningNode, omar: str, tmp_path: Path
) -> None:
    lost, ended = asyncio.Event(), asyncio.Event()
    async with (
        wire(server.url) as proxy,
        tidings_client.connect(server.url, omar, device="other") as other,
        asyncio.timeout(DEADLINE_S),
    ):

        def change(_: Direction, packet: str) -> list[str] | None:
            if '["message"' in packet and not ended.is_set():
                lost.set()
                return None
            return [packet]

        proxy.change = change
        async with tidings_client.connect(proxy.url, omar, store=tmp_path / "state.db") as client:
            unsent = await client.room(topic_name="noticias").enqueue("dos", files=[File(b"hola", "nota.txt")])
            await lost.wait()
            upload_id = unsent.files[0].upload_id
            assert upload_id is not None
            await other.actions.delete_upload(file_id=upload_id)
            ended.set()
            assert [file["name"] for file in (await unsent.sent())["files"]] == ["nota.txt"]
            assert await contents(client) == [("dos", ["nota.txt"])]


async def test_a_content_that_the_store_has_lost_is_refused(server: RunningNode, omar: str, tmp_path: Path) -> None:
    async with network(server.url) as net, tidings_client.connect(net.url, omar, store=tmp_path / "s.db") as client:
        net.refuse()
        net.cut()
        await until(client, "status", lambda: client.status.state == "offline")
        unsent = await client.room(topic_name="noticias").enqueue("", files=[File(b"hola", "nota.txt")])
        (content,) = left(tmp_path / "s.db")
        content.unlink()
        net.heal()
        with pytest.raises(NotFound, match=r"the store has lost the content of nota\.txt"):
            await unsent.sent()


async def test_a_store_in_memory_keeps_contents_until_it_closes(tmp_path: Path) -> None:
    store = SQLiteStore()
    await store.open()
    key, size = await store.keep(b"hola")
    path = store.content(key)
    assert (size, path.read_bytes()) == (4, b"hola")
    await store.close()
    assert not path.parent.exists()


async def test_a_store_of_the_first_version_keeps_its_outbox(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = SQLiteStore(path)
    await store.open()
    await store.close()
    with sqlite3.connect(path) as old:
        old.execute("ALTER TABLE outbox DROP COLUMN files")
        old.execute("INSERT INTO outbox (client_id, action, payload, tried) VALUES ('c', 'message', '{}', 1)")
        old.execute("PRAGMA user_version=1")
    old.close()
    for _ in range(2):
        await store.open()
        (unsent,) = await store.outbox()
        assert (unsent.client_id, unsent.tried, unsent.files) == ("c", True, ())
        await store.close()
    with sqlite3.connect(path) as newer:
        newer.execute("PRAGMA user_version=3")
    newer.close()
    with pytest.raises(StoreFailed, match="another version"):
        await store.open()


@pytest.mark.parametrize(
    ("name", "number", "safe"),
    [
        ("playa.jpg", 1, "playa.jpg"),
        ("playa.tar.gz", 2, "playa.tar (2).gz"),
        ("../../evil\x1b[31m.txt", 1, "evil[31m.txt"),
        ("C:\\x\\\u202egpj.exe", 1, "gpj.exe"),
        (".bashrc", 1, "bashrc"),
        ("..", 1, "file"),
        ("a:b?\n", 1, "a_b_"),
        ("ñ" * 255 + ".txt", 12, "ñ" * 80 + " (12).txt"),
    ],
)
def test_a_name_of_another_user_is_safe_in_a_folder(name: str, number: int, safe: str) -> None:
    assert safe_name(name, number) == safe
