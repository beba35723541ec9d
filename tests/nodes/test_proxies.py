"""The configurations of HAProxy and Caddy in docs/, each in front of two nodes."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
from collections.abc import AsyncIterator, Sequence
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
CADDY = "{\n\tadmin off\n\tskip_install_trust\n\tauto_https disable_redirects\n"


class HoldsPort:
    """Owns a reserved port."""


@asynccontextmanager
async def proxy(
    url: str, arguments: Sequence[str], text: str, nodes: list[RunningNode], file: Path
) -> AsyncIterator[None]:
    """Run a proxy at a URL until the body ends. `file`: where to write its configuration; `arguments` name that."""
    program = shutil.which(arguments[0])
    if program is None:
        pytest.skip(f"there is no {arguments[0]} on this machine")
    for n, node in enumerate(nodes, 1):
        assert f"node-{n}:8000" in text
        text = text.replace(f"node-{n}:8000", node.url.removeprefix("http://"))
    await asyncio.to_thread(file.write_text, text, "utf-8")
    home = os.environ | dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"), str(file.parent))
    process = await asyncio.create_subprocess_exec(program, *arguments[1:], env=home)
    try:
        async with asyncio.timeout(DEADLINE_S), httpx.AsyncClient(verify=False) as http:
            while True:
                try:
                    if (await http.get(f"{url}/health/ready")).status_code == 200:
                        break
                except httpx.TransportError:
                    assert process.returncode is None, f"{program} does not start"
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def haproxy(nodes: list[RunningNode], home: Path) -> AsyncIterator[str]:
    """The URL of a HAProxy with our configuration, except for the addresses."""
    owner = HoldsPort()
    url, file = f"http://127.0.0.1:{port_of(owner)}", home / "haproxy.cfg"
    text = (ROOT / "docs/cluster/haproxy.cfg").read_text("utf-8").replace("bind :8080", f"bind {url[7:]}")
    async with proxy(url, ("haproxy", "-db", "-f", str(file)), text, nodes, file):
        yield url


@asynccontextmanager
async def caddy(nodes: list[RunningNode], home: Path) -> AsyncIterator[tuple[str, ssl.SSLContext]]:
    """The URL of a Caddy with our configuration, except for the addresses and the certificate; who trusts that."""
    owner = HoldsPort()
    url, file = f"https://localhost:{port_of(owner)}", home / "Caddyfile"
    text = (ROOT / "docs/operations/Caddyfile").read_text("utf-8").replace("{\n", CADDY, 1)
    text = text.replace("chat.example.org {", f"{url} {{\n\ttls internal", 1)
    command = "caddy", "run", "--config", str(file), "--adapter", "caddyfile"
    async with proxy(url, command, text, nodes, file):
        yield url, ssl.create_default_context(cafile=home / "caddy/pki/authorities/local/root.crt")


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


async def test_stock_clients_stay_on_a_node_behind_caddy_and_reach_another_when_it_stops(
    postgresql_url: str, tmp_path: Path
) -> None:
    async with (
        running_node(postgresql_url, tmp_path / "a", publish_url=True) as first,
        running_node(postgresql_url, tmp_path / "b", publish_url=True) as second,
        caddy([first, second], tmp_path) as (url, trusted),
    ):
        token = await first.register("omar")
        room_id = await make_topic(first.url, token, "noticias")
        clients = []

        async def connect(transports: list[str]) -> None:
            client = Client(url, token, device=f"d{len(clients)}")
            client.sio.eio.ssl_verify = False  # it would look for the certificate on the machine
            clients.append(await client.connect(transports))
            assert client.sio.transport() == transports[-1]
            sent = await client.ask("message", room_id=room_id, content="x" * 1000)
            await client.event("message", lambda message: message["seq"] == sent["seq"])

        for transports in (["polling", "websocket"], ["websocket"], ["polling"]):
            await connect(transports)
        (owner,) = [node for node in (first, second) if node.node.hub.users]
        relayed = [node.node.cluster.elsewhere.relayed for node in (first, second)]
        assert not any(count for counts in relayed for count in counts.values())
        async with httpx.AsyncClient(base_url=url, verify=trusted) as http:
            for path in ("/metrics", "/%6detrics", "/%6Detrics?x", "/Metrics/"):
                assert (await http.get(path)).status_code == 403, path
            http.headers["Authorization"] = f"Bearer {token}"
            answer = await http.get("/api/messages", params={"topic_name": "noticias"})
            assert answer.headers.get_list("Content-Encoding") == ["gzip"]
            assert len(answer.json()["messages"]) == len(clients)
        await owner.stop()
        for client in clients:
            await client.until(client.closed.is_set)
        await connect(["polling", "websocket"])
        await clients[-1].close()
