"""On a full disk the server reports it, signs users in and out, serves reads, stops and starts; then it recovers."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.cli.conftest import DEADLINE_S, Command, Start
from tests.rest.problems import problem
from tests.support.client import Refused, connected
from tests.support.node import token_from
from tidings_db.space import RESERVE_BYTES

pytestmark = pytest.mark.long

NO_SPACE = "no space is left on the disk"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system for this test alone."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={4 * RESERVE_BYTES},mode=700", "none", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("a file system can be mounted by root only")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> None:
    with (disk / "filler").open("ab", buffering=0) as file:
        for size in (65536, 512, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                pass


async def _ready(server: Command, status: int) -> httpx.Response:
    """Wait until the readiness check answers with `status`: it keeps its last answer for seconds."""
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http, asyncio.timeout(DEADLINE_S):
        while (answer := await http.get("/health/ready")).status_code != status:
            pass  # each query is a round trip
        return answer


async def test_users_sign_in_read_and_sign_out_on_a_full_disk_even_after_a_restart(serve: Start, disk: Path) -> None:
    settings = {"TIDINGS_DATA_DIR": str(disk / "data"), "TIDINGS_RATE_LIMITS": "off"}
    server = await serve(**settings)
    token = await token_from(server.url, "register", "omar")
    acknowledged = []
    async with connected(server.url, token) as omar:
        await omar.ask("create", topic_name="noticias")
        for n in range(50):
            acknowledged.append((await omar.ask("message", topic_name="noticias", content=f"{n}"))["id"])
        while not (await omar.ask("search", query="49"))["messages"]:
            pass  # the index lags behind
        fill(disk)
        while (answer := await omar.call("message", {"topic_name": "noticias", "content": "x" * 4000}))["ok"]:
            acknowledged.append(answer["data"]["id"])
        assert NO_SPACE in answer["error"]["message"]
        for _ in range(3):
            with pytest.raises(Refused, match=NO_SPACE):
                await omar.ask("message", topic_name="noticias", content="x")
        answer = await _ready(server, 503)
        problem(answer, "unavailable", 503)
        assert NO_SPACE in answer.json()["detail"]
    for n in range(2):
        fresh = await token_from(server.url, "login", "omar")
        async with connected(server.url, fresh, device=f"new {n}") as omar:
            await omar.until(lambda omar=omar: len(omar.of("message")) >= len(acknowledged))  # type: ignore[misc]
            answer = await omar.ask("search", query="49")
            assert [hit["content"] for hit in answer["messages"]] == ["49"]
            await omar.ask("logout")
        if not n:
            assert await server.end(signal.SIGTERM) == 0
            assert NO_SPACE in server.err
            server = await serve(**settings)
            assert NO_SPACE in (await _ready(server, 503)).json()["detail"]
    token = await token_from(server.url, "login", "omar")
    async with connected(server.url, token, device="last") as omar:
        os.unlink(disk / "filler")
        await _ready(server, 200)
        acknowledged.append((await omar.ask("message", topic_name="noticias", content="after"))["id"])
        await omar.until(lambda: len(omar.of("message")) == len(acknowledged))
        assert [message["id"] for message in omar.of("message")] == acknowledged
    assert await server.end(signal.SIGTERM) == 0


async def test_a_failed_start_on_a_full_disk_prints_the_reason(tidings: Start, disk: Path) -> None:
    (disk / "data").mkdir()
    fill(disk)
    server = await tidings("serve", "--port", "0", TIDINGS_DATA_DIR=str(disk / "data"))
    assert await server.end() == 1
    assert "no space" in server.err.lower()
    assert "Traceback" not in server.err
