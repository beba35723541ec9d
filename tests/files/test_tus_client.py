"""Uploads are tus 1.0: its reference client, `tus-js-client`, works with them, also through a network that cuts."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.javascript import node, run
from tests.files.support import fetch, links
from tests.support.network import network
from tests.support.node import running_node

SIZE = 3_000_000
MOST = 5_000_000


async def test_the_reference_client_of_tus_uploads_resumes_and_ends(database_url: str, tmp_path: Path) -> None:
    node("tus-js-client")
    async with running_node(database_url, tmp_path, file_bytes=MOST) as server, network(server.url, seed=3) as bad:
        omar = await server.register("omar")
        for turn in range(12):
            bad.cut_next("up" if turn % 3 else "down", 40_000 * turn if turn % 3 else 10 * turn, reset=turn % 2 == 0)
        done = await run("tus.mjs", {"url": bad.url, "token": omar, "size": SIZE, "most": MOST})
        ids = [url.rpartition("/")[2] for url in done["uploaded"]]
        for linked in await links(server, omar, *ids):
            assert (linked["name"], linked["size"]) == ("datos ñ.bin", SIZE)
            assert (await fetch(server, linked["url"])).content == (b"0123456789abcdef" * (SIZE // 16 + 1))[:SIZE]
        assert len(await links(server, omar, *ids)) == len(set(ids)) == 2
        assert bad.opened > 12
