from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.accounts.external_issuer import AUDIENCE, ISSUER, Clock, Issuer
from tests.accounts.gate import Gate, server_bcrypt
from tests.support.client import DEADLINE_S, Client
from tests.support.node import NO_TLS, RunningNode, running_node


async def check_closed(client: Client, reason: str = "token_revoked") -> None:
    """The connection gets the reason, then closes; a stock client does not reconnect."""
    async with asyncio.timeout(DEADLINE_S):
        assert await client.event("closing") == {"reason": reason, "reconnect": False}
        await client.closed.wait()


@pytest.fixture
async def server(database_url: str, tmp_path: Path) -> AsyncIterator[RunningNode]:
    """A running node without the periodic check for withdrawn sessions: only notices close connections."""
    async with running_node(database_url, tmp_path, options={"session_check_s": 3600}) as node:
        yield node


@pytest.fixture
async def http(server: RunningNode) -> AsyncIterator[httpx.AsyncClient]:
    """A client of `server`."""
    async with httpx.AsyncClient(base_url=server.url, verify=NO_TLS, timeout=30) as client:
        yield client


@pytest.fixture
async def lite(sqlite_url: str, tmp_path: Path) -> AsyncIterator[RunningNode]:
    """A running node on SQLite alone, for tests that do not depend on the database."""
    async with running_node(sqlite_url, tmp_path) as node:
        yield node


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    monkeypatch.setattr(server_bcrypt(), "checkpw", gate.checkpw)
    yield gate
    gate.open()


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with Issuer().running() as issuer:
        yield issuer


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def trusting(issuer: Issuer, clock: Clock, database_url: str, tmp_path: Path) -> AsyncIterator[RunningNode]:
    """A running node that accepts the tokens of `issuer`, and fetches its keys by `clock`."""
    options = {"external": {"clock": clock}}
    async with running_node(
        database_url,
        tmp_path,
        options=options,
        jwt_jwks_url=issuer.url,
        jwt_issuer=ISSUER,
        jwt_audience=AUDIENCE,
    ) as node:
        yield node
