"""The configuration of HAProxy in docs/cluster, in front of two nodes."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from docs.generate import ROOT
from tests.delivery.support import make_topic, rest
from tests.support.client import DEADLINE_S, Client
from tests.support.node import NO_TLS, RunningNode, running_node
from tests.support.ports import port_of

EACH = 10


class HoldsPort:
    """Owns a reserved port."""


@asynccontextmanager
async def haproxy(nodes: list[RunningNode], home: Path) -> AsyncIterator[str]:
    """The URL of a HAProxy with our configuration, except for the addresses."""
    program = shutil.which("haproxy")
    if program is None:
        pytest.skip("there is no haproxy on this machine")
    owner = HoldsPort()
    port = port_of(owner)
    text = (ROOT / "docs/cluster/haproxy.cfg").read_text("utf-8").replace("bind :8080", f"bind 127.0.0.1:{port}")
    for n, node in enumerate(nodes, 1):
        assert f"node-{n}:8000" in text
        text = text.replace(f"node-{n}:8000", node.url.removeprefix("http://"))
    file = home / "haproxy.cfg"
    file.write_text(text, "utf-8")
    process = await asyncio.create_subprocess_exec(program, "-db", "-f", str(file))
    url = f"http://127.0.0.1:{port}"
    try:
        async with asyncio.timeout(DEADLINE_S), httpx.AsyncClient(verify=NO_TLS) as http:
            while True:
                try:
                    if (await http.get(f"{url}/health/ready")).status_code == 200:
                        break
                except httpx.TransportError:
                    assert process.returncode is None, "haproxy does not start"
        yield url
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_stock_clients_connect_through_haproxy_without_sticky_sessions(
    postgresql_url: str, tmp_path: Path
) -> None:
    async with (
        running_node(postgresql_url, tmp_path / "a", publish_url=True) as first,
        running_node(postgresql_url, tmp_path / "b", publish_url=True) as second,
        haproxy([first, second], tmp_path) as url,
    ):
        token = await first.register("omar")
        room_id = await make_topic(url, token, "noticias")
        clients = []
        for n in range(EACH):
            for transports in (["polling", "websocket"], ["websocket"], ["polling"]):
                client = await Client(url, token, device=f"d{n % 4}{len(transports)}").connect(transports)
                assert client.sio.transport() == transports[-1]
                sent = await client.ask("message", room_id=room_id, content=str(n))
                await client.event("message", lambda message, sent=sent: message["seq"] == sent["seq"])
                clients.append(client)
        for client in clients:
            await client.close()
        relayed = [node.node.cluster.elsewhere.relayed for node in (first, second)]
        assert all(counts[transport] > 0 for counts in relayed for transport in ("polling", "websocket"))
        async with httpx.AsyncClient(base_url=url, verify=NO_TLS) as http:
            for path in ("/metrics", "/%6detrics", "/%6Detrics?x", "/metrics/"):
                assert (await http.get(path)).status_code == 403, path


@pytest.mark.long
async def test_haproxy_turns_away_from_a_node_that_leaves_before_it_stops(
    postgresql_url: str, tmp_path: Path
) -> None:
    async with (
        running_node(postgresql_url, tmp_path / "a", publish_url=True) as first,
        running_node(postgresql_url, tmp_path / "b", publish_url=True, drain_wait=5) as second,
        haproxy([first, second], tmp_path) as url,
    ):
        token = await first.register("omar")
        room_id = await make_topic(url, token, "noticias")
        left, number = second.leave(), 0
        async with rest(url, token) as http:
            while not left.done():
                number += 1
                sent = await http.post("/api/messages", json={"room_id": room_id, "content": str(number)})
                assert (sent.status_code, sent.json()["seq"]) == (201, number)
        assert number > 10
