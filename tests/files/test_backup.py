"""A backup has the files of its messages; a restored server has all of their bytes, and claims none that it lacks."""

from __future__ import annotations

import asyncio
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.actions.conftest import code
from tests.cli.conftest import Run
from tests.delivery.support import make_topic
from tests.files.support import begin, cut, fetch, http, links, moved_on, picture, put, upload
from tests.support.client import connected
from tests.support.node import RunningNode, running_node
from tidings.log.retention import now_ms
from tidings_db import copies


async def test_a_backup_brings_the_files_back_and_an_upload_that_was_under_way_begins_again(
    database_url: str, tmp_path: Path, files_url: str, command: Run
) -> None:
    content, at = random.Random(7).randbytes(1_500_000), {"TIDINGS_DATABASE_URL": database_url}
    async with running_node(database_url, tmp_path / "data", files_url=files_url) as node:
        omar = await node.register("omar")
        room_id = await make_topic(node.url, omar, "fotos")
        sent = [await upload(node, omar, "datos.bin", content), await upload(node, omar, "playa.jpg", picture())]
        waiting = await upload(node, omar, "later.txt", b"hola")
        under_way = await begin(node, omar, "half.bin", 200_000)
        await cut(node, omar, under_way["url"], b"x" * 200_000, 0, 100_000)
        await moved_on(node, omar, under_way["url"], 0)
        async with connected(node.url, omar) as client:
            await client.ask("message", room_id=room_id, content="", files=[{"id": file_id} for file_id in sent])
        before = await links(node, omar, *sent)
        image, preview = [(await fetch(node, before[1][which])).content for which in ("url", "preview_url")]
        said = await command("backup", "backup.tar.gz", TIDINGS_FILES_URL=files_url, **at)
        assert ", 3 files; " in said.out
        # The restored server would claim these bytes if it knew of the upload.
        await put(node, omar, under_way["url"], b"x" * 100_000, 100_000)
    shutil.rmtree(tmp_path / "data" / "files", ignore_errors=True)
    restored_url = files_url and f"{files_url}-restored"
    said = await command("restore", "--force", "backup.tar.gz", TIDINGS_FILES_URL=restored_url, **at)
    assert ", 3 files as of " in said.out
    async with running_node(database_url, tmp_path / "data", files_url=restored_url) as node:
        [data, shown] = await links(node, omar, *sent)
        assert (await fetch(node, data["url"])).content == content
        assert (await fetch(node, shown["url"])).content == image
        assert (await fetch(node, shown["preview_url"])).content == preview
        async with http(node, omar) as uploads:
            assert (await uploads.head(under_way["url"])).status_code == 404
        async with connected(node.url, omar) as client:
            assert await code(client, "message", room_id=room_id, content="", files=[{"id": under_way["id"]}])
            await client.ask("message", room_id=room_id, content="", files=[{"id": waiting}])


async def test_a_file_that_is_deleted_during_the_backup_is_counted_and_not_found_afterwards(
    database_url: str, tmp_path: Path, files_url: str, command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = {"TIDINGS_DATABASE_URL": database_url, "TIDINGS_FILES_URL": files_url}
    async with running_node(database_url, tmp_path / "data", files_url=files_url) as server:
        omar = await server.register("omar")
        room_id = await make_topic(server.url, omar, "fotos")
        kept, deleted = [await upload(server, omar, f"{n}.txt", b"hola") for n in "ab"]
        async with connected(server.url, omar) as client:
            messages = [
                await client.ask("message", room_id=room_id, content="", files=[{"id": file_id}])
                for file_id in (kept, deleted)
            ]

            async def delete() -> None:
                await client.ask("delete", message_id=messages[1]["id"])
                await server.node.files.run_once(now_ms())

            loop, save = asyncio.get_running_loop(), copies.save

            def saving(*args: Any) -> None:
                save(*args)
                asyncio.run_coroutine_threadsafe(delete(), loop).result()

            monkeypatch.setattr(copies, "save", saving)
            assert ", 1 files; 1 more have no content" in (await command("backup", "backup.tar", **at)).out
        await server.stop()
        await command("restore", "--force", "backup.tar", **at)
        await server.start()
        async with connected(server.url, omar) as client:
            restored = (await client.ask("history", room_id=room_id))["messages"]
            assert [message["files"][0]["id"] for message in restored] == [kept, deleted]
        answers = [await fetch(server, linked["url"]) for linked in await links(server, omar, kept, deleted)]
        assert [answer.status_code for answer in answers] == [200, 404]
        assert answers[1].json()["code"] == "not_found"


async def test_a_backup_may_leave_out_the_files_which_a_restore_then_leaves_as_they_are(
    server: RunningNode, database_url: str, tmp_path: Path, command: Run
) -> None:
    at = {"TIDINGS_DATABASE_URL": database_url, "TIDINGS_DATA_DIR": str(tmp_path)}
    omar = await server.register("omar")
    room_id = await make_topic(server.url, omar, "fotos")
    file_id = await upload(server, omar, "a.txt", b"hola")
    async with connected(server.url, omar) as client:
        await client.ask("message", room_id=room_id, content="", files=[{"id": file_id}])
    assert "without the files" in (await command("backup", "--without-files", "backup.tar", **at)).out
    await server.stop()
    assert "not in the backup" in (await command("restore", "--force", "backup.tar", **at)).out
    await server.start()
    [linked] = await links(server, omar, file_id)
    assert (await fetch(server, linked["url"])).content == b"hola"


async def test_a_backup_with_a_damaged_file_is_refused_and_puts_nothing_into_the_store(
    server: RunningNode, database_url: str, tmp_path: Path, command: Run
) -> None:
    omar = await server.register("omar")
    await upload(server, omar, "a.bin", random.Random(7).randbytes(8_000_000))
    at = {"TIDINGS_DATABASE_URL": database_url}
    await command("backup", "backup.tar", TIDINGS_DATA_DIR=str(tmp_path), **at)
    content = bytearray((tmp_path / "backup.tar").read_bytes())
    content[-1_000_000] ^= 0x40
    (tmp_path / "backup.tar").write_bytes(content)
    await server.stop()
    assert "is damaged" in (await command("restore", "--force", "backup.tar", status=1, **at)).err
    assert not (tmp_path / "data" / "files").exists()
