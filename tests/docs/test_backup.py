"""The commands of docs/deployment.md that back up and restore PostgreSQL, run as printed, except for the address."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

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


@pytest.mark.long
@pytest.mark.skipif(shutil.which("pg_dump") is None, reason="there is no pg_dump on the PATH")
async def test_a_restored_dump_has_what_was_there_and_nothing_later(postgresql_url: str, tmp_path: Path) -> None:
    url = make_url(postgresql_url)
    host, name = str(url.query.get("host", url.host)), str(url.database)

    def run(script: str) -> None:
        for example, here in {
            "--host=db.example.org": f"--host={host}",
            "--username=tidings": f"--username={url.username}",
            "--dbname=tidings ": f"--dbname={name} ",
            "tidings.dump tidings\n": f"tidings.dump {name}\n",
        }.items():
            script = script.replace(example, here)
        assert "example.org" not in script
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "TIDINGS_DATABASE_URL": postgresql_url,
            "TIDINGS_DATA_DIR": str(tmp_path / "data"),
        }
        subprocess.run(["bash", "-euc", script], check=True, cwd=tmp_path, env=environment, timeout=60)

    async with running_node(postgresql_url, tmp_path / "data") as node:
        token = await node.register("omar")
        room_id = await make_topic(node.url, token, "noticias")
        async with rest(node.url, token) as http:
            await http.post("/api/messages", json={"room_id": room_id, "content": "before"})
            run(commands("pg_dump --host"))
            await http.post("/api/messages", json={"room_id": room_id, "content": "after"})
        assert await _contents(node, token, room_id) == ["before", "after"]
    run(commands("pg_restore"))
    async with running_node(postgresql_url, tmp_path / "data") as node:
        assert await _contents(node, token, room_id) == ["before"]
