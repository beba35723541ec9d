"""Every test of this folder runs on both databases, and over both doors: Socket.IO and the plain WebSocket.

Tests marked `bad_network` also run through `tests.support.network`, over the transports that the mark names.
`make test` runs only SQLite with Socket.IO, except in modules that set `EVERY_WAY_MATTERS`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.delivery.support import BAD, TRANSPORTS, clients_over, plain_reader
from tests.support.client import PlainClient, plainly_connected
from tests.support.network import network
from tests.support.node import RunningNode, running_node
from tests.support.redis import RedisServer, redis_server

PLAIN: Mapping[str, Callable[..., Any]] = {
    "Client": PlainClient,
    "connected": plainly_connected,
    "reader": plain_reader,
}
"""Replaces the clients that the tests import, for runs over the plain WebSocket."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "database_url" in metafunc.fixturenames:
        variants = ["postgresql"]
        if not getattr(metafunc.module, "ONLY_SOCKETIO", False):
            variants.append("sqlite-plain")
        if mark := metafunc.definition.get_closest_marker("bad_network"):
            variants += [f"sqlite-{door}-bad_network" for door in mark.args]
        marks = () if getattr(metafunc.module, "EVERY_WAY_MATTERS", False) else pytest.mark.long
        ways = ["sqlite", *(pytest.param(way, marks=marks) for way in variants)]
        metafunc.parametrize("database_url", ways, indirect=True)


@pytest.fixture
def way(request: pytest.FixtureRequest) -> list[str]:
    """The database, the door and the network of this run; the last two may be missing."""
    parts: list[str] = request.node.callspec.params["database_url"].split("-")
    return parts


@pytest.fixture
def database_url(request: pytest.FixtureRequest, way: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    door = way[1:2]
    if door:
        clients = PLAIN if door == ["plain"] else clients_over(TRANSPORTS[door[0]])
        for name, client in clients.items():
            monkeypatch.setattr(request.module, name, client, raising=False)
    url: str = request.getfixturevalue(f"{way[0]}_url")
    return url


@pytest.fixture
async def server(way: list[str], database_url: str, tmp_path: Path) -> AsyncIterator[RunningNode]:
    """A running node; its `url` leads through the network, if there is one."""
    async with running_node(database_url, tmp_path) as node:
        if way[2:]:
            async with network(node.url, BAD, BAD) as bad:
                node.through(bad.url)
                yield node
        else:
            yield node


@pytest.fixture
async def redis() -> AsyncIterator[RedisServer]:
    async with redis_server() as server:
        yield server
