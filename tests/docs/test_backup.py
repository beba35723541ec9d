"""The commands of docs/deployment.md that back up and restore, run as printed, except for the places of files."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

from docs.generate import ROOT
from tests.delivery.support import make_topic, rest
from tests.support.node import RunningNode, running_node

DEPLOYMENT = (ROOT / "docs/deployment.md").read_text("utf-8")


def commands(containing: str) -> str:
    """The one block of commands with that text."""
    (block,) = [text for text in re.findall(r"^```sh\n(.*?)^```$", DEPLOYMENT, re.M | re.S) if containing in text]
    return str(block)


async def _contents(node: RunningNode, token: str, room_id: str) -> list[str]:
    async with rest(node.url, token) as http:
        page = (await http.get("/api/messages", params={"room_id": room_id})).json()
        return [message["content"] for message in page["messages"]]


async def test_a_restored_backup_has_what_was_there_and_nothing_later(database_url: str, tmp_path: Path) -> None:
    def run(script: str) -> None:
        for example, here in {
            "/backup/": f"{tmp_path}/",
            "tidings-2026-11-26": next((file.name[:-7] for file in tmp_path.glob("tidings-*.tar.gz")), ""),
            "# --force: replace": "--force  # replace",
        }.items():
            script = script.replace(example, here)
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "TIDINGS_DATABASE_URL": database_url,
            "TIDINGS_DATA_DIR": str(tmp_path / "data"),
        }
        subprocess.run(["bash", "-euc", script], check=True, cwd=tmp_path, env=environment, timeout=60)

    async with running_node(database_url, tmp_path / "data") as node:
        token = await node.register("omar")
        room_id = await make_topic(node.url, token, "noticias")
        async with rest(node.url, token) as http:
            await http.post("/api/messages", json={"room_id": room_id, "content": "before"})
            await asyncio.to_thread(run, commands("tidings backup"))
            await http.post("/api/messages", json={"room_id": room_id, "content": "after"})
        assert await _contents(node, token, room_id) == ["before", "after"]
    run(commands("tidings restore"))
    async with running_node(database_url, tmp_path / "data") as node:
        assert await _contents(node, token, room_id) == ["before"]
