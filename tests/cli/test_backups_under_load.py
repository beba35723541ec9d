"""Backups one after the other, while messages with files are written: each restored server has all of its past."""

from __future__ import annotations

import asyncio
import hashlib
import time
from contextlib import ExitStack
from operator import itemgetter
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli.conftest import Start
from tests.delivery.support import make_topic, rest
from tests.files.support import upload
from tests.support.client import connected
from tests.support.depth import examples
from tests.support.node import RunningNode, running_node
from tidings.testing import postgresql

ONLY_SOCKETIO = True
ROUNDS = examples(10)
WRITERS = 3
MESSAGES = 60
"""Acknowledged before the first backup, and between two."""
PAGE = 100


def content_of(name: str) -> bytes:
    """The content of a file: 64 KiB that only its name determines."""
    return hashlib.sha256(name.encode()).digest() * 2048


class Load:
    """Writers whose every fourth message has a file, until `end`."""

    def __init__(self, node: RunningNode, token: str, room_id: str) -> None:
        self._node, self._token, self._room_id = node, token, room_id
        self._more = asyncio.Event()
        self.end = asyncio.Event()
        self.go_on = asyncio.Event()
        """Not set while a restored server is checked: the logs would grow with the time that it takes."""
        self.go_on.set()
        self.acknowledged: list[list[dict[str, Any]]] = [[] for _ in range(WRITERS)]

    async def write(self, number: int) -> None:
        mine = self.acknowledged[number]
        async with connected(self._node.url, self._token, device=f"writer{number}") as client:
            while await self.go_on.wait() and not self.end.is_set():
                content, files = f"{number}: {len(mine)}", []
                if len(mine) % 4 == 0:
                    file_id = await upload(self._node, self._token, content, content_of(content))
                    files.append({"id": file_id})
                mine.append(
                    await client.ask(
                        "message", room_id=self._room_id, content=content, client_id=content, files=files
                    )
                )
                self._more.set()

    def count(self) -> int:
        return sum(map(len, self.acknowledged))

    async def reach(self, count: int) -> None:
        while self.count() < count:
            self._more.clear()
            await self._more.wait()


async def log_of(http: httpx.AsyncClient, room_id: str) -> list[dict[str, Any]]:
    """All messages of a room, in order."""
    found: list[dict[str, Any]] = []
    while True:
        after = found[-1]["seq"] if found else 0
        answer = await http.get("/api/messages", params={"room_id": room_id, "after": after, "limit": PAGE})
        page = answer.json()
        found += page["messages"]
        if not page["has_more"]:
            return found


async def check_files(http: httpx.AsyncClient, log: list[dict[str, Any]]) -> int:
    """Check that each message has the file that was sent with it; returns how many have one."""
    sent = [message for message in log if int(message["content"].partition(": ")[2]) % 4 == 0]
    for message in sent:
        [file] = message["files"]
        answer = await http.post("/api/file-links", json={"file_ids": [file["id"]]})
        [linked] = answer.json()["files"]
        assert linked["name"] == file["name"]
        assert (await http.get(linked["url"])).content == content_of(message["content"])
    return len(sent)


@pytest.mark.timeout(600)
async def test_what_was_acknowledged_before_a_backup_is_on_the_restored_server_with_its_files(
    database_url: str, tmp_path: Path, tidings: Start, request: pytest.FixtureRequest
) -> None:
    async def run(*args: str, **at: str) -> None:
        command = await tidings(*args, **at)
        assert await command.end() == 0, command.err

    began, messages, files, fresh = time.monotonic(), 0, 0, ""
    async with running_node(database_url, tmp_path / "data", secret_key="") as node:
        omar, diego = await node.register("omar"), await node.register("diego")
        room_id = await make_topic(node.url, omar, "noticias", diego)
        load = Load(node, omar, room_id)
        async with asyncio.TaskGroup() as tasks:
            for number in range(WRITERS):
                tasks.create_task(load.write(number))
            for turn in range(ROUNDS):
                await load.reach(load.count() + MESSAGES)
                before = [list(mine) for mine in load.acknowledged]
                await run("backup", f"{turn}.tar", TIDINGS_DATABASE_URL=database_url, TIDINGS_DATA_DIR="data")
                await load.reach(load.count() + WRITERS)  # the last of them is not in the backup
                load.go_on.clear()
                beyond = max(mine[-1]["seq"] for mine in load.acknowledged)
                with ExitStack() as stack:
                    if not database_url.startswith("sqlite"):
                        server_url = request.getfixturevalue("postgresql_server")
                        fresh = stack.enter_context(postgresql.database(server_url))
                    restored_dir = tmp_path / f"restored{turn}"
                    restored_dir.mkdir()
                    await run(
                        "restore", f"{turn}.tar", TIDINGS_DATABASE_URL=fresh, TIDINGS_DATA_DIR=str(restored_dir)
                    )
                    async with running_node(fresh, restored_dir, secret_key="") as restored:
                        assert restored.node.epochs.current > node.node.epochs.current
                        async with rest(restored.url, omar) as http:
                            log = await log_of(http, room_id)
                            files += await check_files(http, log)
                        messages += len(log)
                        check_log(log, before)
                        assert log[-1]["seq"] < beyond
                        cursors = {room_id: beyond}
                        async with connected(restored.url, diego, device="phone", cursors=cursors) as phone:
                            assert phone.of("ready")[0]["reset"] == [room_id]
                load.go_on.set()
            load.end.set()
    print(f"{ROUNDS} rounds, {messages} messages, {files} files, {time.monotonic() - began:.0f} s")


def check_log(log: list[dict[str, Any]], before: list[list[dict[str, Any]]]) -> None:
    """Check a restored log: once and in order, with what each writer had been acknowledged before the backup."""
    assert [message["seq"] for message in log] == list(range(log[0]["seq"], log[0]["seq"] + len(log)))
    place = itemgetter("id", "seq", "content")
    for number, acknowledged in enumerate(before):
        mine = [place(message) for message in log if message["content"].startswith(f"{number}: ")]
        assert [content for _, _, content in mine] == [f"{number}: {n}" for n in range(len(mine))]
        assert mine[: len(acknowledged)] == [place(message) for message in acknowledged]
