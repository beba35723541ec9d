from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.node import NO_TLS, RunningNode, running_node
from tests.webhooks.receiver import Receiver, receiving
from tidings_db.queries import users

FAST: dict[str, Any] = {"webhooks": {"check_s": 0.1, "first_retry_s": 0.02}}
"""Options of a node that does not let tests wait."""


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@pytest.fixture
async def server(database_url: str, tmp_path: Path) -> AsyncIterator[RunningNode]:
    """A running node whose webhooks may go to this machine."""
    async with running_node(database_url, tmp_path, options=FAST, webhook_private="on") as node:
        yield node


class Admin:
    """Root's requests."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def ask(self, method: str, path: str = "", **fields: Any) -> dict[str, Any]:
        """A request below `/api/admin/webhooks`; returns the answer."""
        answer = await self.http.request(method, f"/api/admin/webhooks{path}", json=fields or None)
        body: dict[str, Any] = answer.json()
        assert answer.is_success, body
        return body

    async def code(self, method: str, path: str = "", **fields: Any) -> str:
        """The code with which a request is refused."""
        answer = await self.http.request(method, f"/api/admin/webhooks{path}", json=fields or None)
        assert answer.is_error, answer.text
        code: str = answer.json()["code"]
        return code

    async def create(self, url: str, *events: str, **fields: Any) -> dict[str, Any]:
        return await self.ask("POST", url=url, events=events or ("message",), **fields)

    async def listed(self, webhook_id: str) -> dict[str, Any]:
        found = (await self.ask("GET"))["webhooks"]
        (webhook,) = [webhook for webhook in found if webhook["webhook_id"] == webhook_id]
        return dict(webhook)


GetAdmin = Callable[[RunningNode], Awaitable[Admin]]


@pytest.fixture
async def admin_of() -> AsyncIterator[GetAdmin]:
    async with AsyncExitStack() as stack:

        async def admin(node: RunningNode) -> Admin:
            token = await node.register("root")
            user = await node.node.auth.user("root")
            await node.node.database.write(lambda conn: users.set_admin(conn, user.key, True))
            headers = {"Authorization": f"Bearer {token}"}
            http = httpx.AsyncClient(base_url=node.url, verify=NO_TLS, headers=headers, timeout=30)
            return Admin(await stack.enter_async_context(http))

        yield admin


@pytest.fixture
async def admin(server: RunningNode, admin_of: GetAdmin) -> Admin:
    return await admin_of(server)
