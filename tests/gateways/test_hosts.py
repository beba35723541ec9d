"""The `Host` header: a page of a rebound name is refused by every gateway."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.support.client import DEADLINE_S, connected
from tests.support.node import NO_TLS, RunningNode, running_node
from tidings.settings import Settings

HTTP = ("/", "/api/rooms", "/health/live", "/metrics", "/docs", "/nothing", "/socket.io/?EIO=4&transport=polling")
WEBSOCKETS = ("/socket.io/?EIO=4&transport=websocket", "/ws", "/", "/websocket", "/echo_ws", "/pub_ws", "/token")


async def statuses(node: RunningNode, host: str) -> dict[str, int]:
    """The status of each route; 101 for a WebSocket that opens."""
    statuses_by_route: dict[str, int] = {}
    async with httpx.AsyncClient(base_url=node.url, verify=NO_TLS, timeout=DEADLINE_S) as http:
        for path in HTTP:
            statuses_by_route[path] = (await http.get(path, headers={"Host": host})).status_code
        refused = await http.post("/api/register", headers={"Host": host}, json={"username": "x", "password": ""})
        statuses_by_route["register"] = refused.status_code
    for path in WEBSOCKETS:
        address = node.url.replace("http", "ws", 1) + path
        # Like a page of that host, with the same origin. The library derives the Host header from the address.
        try:
            socket = await connect(
                address.replace("127.0.0.1", host.partition(":")[0]),
                host="127.0.0.1",
                port=int(node.url.rpartition(":")[2]),
                proxy=None,
                origin=f"http://{host}",  # type: ignore[arg-type]
            )
        except InvalidStatus as refusal:
            statuses_by_route[f"ws {path}"] = refusal.response.status_code
        else:
            statuses_by_route[f"ws {path}"] = 101
            await socket.close()
    return statuses_by_route


async def test_a_server_on_loopback_refuses_every_request_for_a_rebound_host_name(
    sqlite_url: str, tmp_path: Path
) -> None:
    async with running_node(sqlite_url, tmp_path) as node:
        port = node.url.rpartition(":")[2]
        for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "nas.local", "localhostx"):
            statuses_by_route = await statuses(node, f"{host}:{port}")
            assert set(statuses_by_route.values()) == {421}, (host, statuses_by_route)
        for host in ("localhost", "127.0.0.1"):
            statuses_by_route = await statuses(node, f"{host}:{port}")
            assert 421 not in statuses_by_route.values(), (host, statuses_by_route)
            assert (
                statuses_by_route["/health/live"],
                statuses_by_route["ws /ws"],
                statuses_by_route[f"ws {WEBSOCKETS[0]}"],
            ) == (200, 101, 101)


async def test_a_wrong_host_is_refused_as_a_problem_that_names_the_setting(sqlite_url: str, tmp_path: Path) -> None:
    async with running_node(sqlite_url, tmp_path) as node, httpx.AsyncClient(base_url=node.url) as http:
        refused = await http.get("/api/me", headers={"Host": "evil.example"})
        assert refused.headers["content-type"] == "application/problem+json"
        assert (refused.json()["code"], refused.json()["status"]) == ("forbidden", 421)
        assert "TIDINGS_ALLOWED_HOSTS" in refused.json()["detail"]
        assert "x-request-id" in refused.headers
        for malformed in ("[::", "a b", "evil.example:x", "http://localhost", "localhost@evil.example", "localhost."):
            assert (await http.get("/health/live", headers={"Host": malformed})).status_code in (400, 421), malformed
        for address in ("127.0.0.1", "127.9.9.9:1", "[::1]:8000", "192.168.1.2:8000", "[2001:db8::1]", "LOCALHOST"):
            assert (await http.get("/health/live", headers={"Host": address})).status_code == 200, address


@pytest.mark.parametrize(
    ("settings", "good", "bad"),
    [
        ({"public_url": "https://Chat.example.org/"}, ["chat.example.org", "CHAT.example.org:443"], ["example.org"]),
        ({"cors_origins": "https://app.example:3000,http://b.example"}, ["app.example", "b.example:8000"], ["app"]),
        ({"allowed_hosts": "one.example, TWO.example"}, ["one.example", "two.example:1"], ["three.example"]),
        ({"allowed_hosts": "one.example", "cors_origins": "https://app.example"}, ["one.example"], ["app.example"]),
        ({"allowed_hosts": "one.example", "host": "0.0.0.0"}, ["one.example", "localhost"], ["evil.example"]),
        ({"allowed_hosts": "*"}, ["anything.example"], []),
        ({"cors_origins": "*"}, ["anything.example"], []),
        ({"host": "0.0.0.0"}, ["anything.example"], []),
    ],
)
async def test_the_settings_determine_the_accepted_hosts(
    sqlite_url: str, tmp_path: Path, settings: dict[str, Any], good: list[str], bad: list[str]
) -> None:
    async with (
        running_node(sqlite_url, tmp_path, **settings) as node,
        httpx.AsyncClient(base_url=node.url, verify=NO_TLS) as http,
    ):
        for host in good:
            assert (await http.get("/health/live", headers={"Host": host})).status_code == 200, host
        for host in bad:
            assert (await http.get("/health/live", headers={"Host": host})).status_code == 421, host


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("public_url", "chat.example.org"),
        ("public_url", "https://chat.example.org/tidings"),
        ("public_url", "ftp://chat.example.org"),
        ("public_url", "https://me@chat.example.org"),
        ("allowed_hosts", "https://chat.example.org"),
        ("allowed_hosts", "chat.example.org:443"),
    ],
)
def test_a_malformed_address_in_the_settings_keeps_the_server_from_starting(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="give "):
        Settings(_env_file=None, **{name: value})


async def test_links_name_the_public_address_and_not_the_clients_host_header(sqlite_url: str, tmp_path: Path) -> None:
    async with (
        running_node(sqlite_url, tmp_path, public_url="https://chat.example.org", allowed_hosts="*") as node,
        httpx.AsyncClient(base_url=node.url) as http,
    ):
        token = await node.register("omar")
        headers = {"Authorization": f"Bearer {token}", "Host": "evil.example"}
        for channel in ("echo_ws", "pub_ws"):
            link = (await http.get(f"/{channel}", headers=headers)).json()["link"]
            assert link.startswith(f"wss://chat.example.org/{channel}?token="), link
        for path in ("/docs/", "/api/me/", "/health/live/"):
            answer = await http.get(path, headers=headers)
            assert (answer.status_code, answer.headers.get("location")) == (404, None)


async def test_a_page_of_the_public_address_is_accepted_behind_a_proxy_that_rewrites_host(
    sqlite_url: str, tmp_path: Path
) -> None:
    async with running_node(sqlite_url, tmp_path, public_url="https://chat.example.org") as node:
        token = await node.register("omar")
        address = f"{node.url.replace('http', 'ws', 1)}/ws?token={token}"
        async with connect(address, proxy=None, origin="https://chat.example.org") as page:  # type: ignore[arg-type]
            assert json.loads(await page.recv())["event"] == "ready"
        with pytest.raises(InvalidStatus) as refused:
            await connect(address, proxy=None, origin="https://evil.example")  # type: ignore[arg-type]
        assert refused.value.response.status_code == 403
        async with connected(node.url, token) as omar:
            await omar.ask("get_rooms")
