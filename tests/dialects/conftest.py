"""A node for the dialects' tests, a watch over its log, and users of each dialect."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.dialects.topics_client import (
    USERS,
)
from tests.echo.upstream import EchoServer, echo_server
from tests.gateways.conftest import gateway, quiet_log
from tests.support.client import Client, connected
from tests.support.node import NO_TLS, RunningNode, running_node

__all__ = ("gateway", "quiet_log")


@pytest.fixture
async def tokens(gateway: RunningNode) -> dict[str, str]:
    """The tokens of the document's users, and of the user whom it invites."""
    return {name: await gateway.register(name) for name in (*USERS, "eder")}


@pytest.fixture
async def http(gateway: RunningNode) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.url, verify=NO_TLS, timeout=30) as client:
        yield client


@pytest.fixture
async def upstream() -> AsyncIterator[EchoServer]:
    async with echo_server() as server:
        yield server


@pytest.fixture
async def proxy(quiet_log: None, sqlite_url: str, tmp_path: Path, upstream: EchoServer) -> AsyncIterator[RunningNode]:
    """A node in proxy mode."""
    async with running_node(sqlite_url, tmp_path, echo_upstream=upstream.url) as node:
        yield node


@pytest.fixture
async def host(gateway: RunningNode) -> AsyncIterator[Client]:
    """The creator of the rooms, on Socket.IO, who has left them."""
    async with connected(gateway.url, await gateway.register("host")) as host:
        for name in ("room one", "room1", "room two"):
            await host.ask("create", topic_name=name)
            await host.ask("unsubscribe", topic_name=name)
        yield host
