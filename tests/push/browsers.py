"""A push service, and browsers that are subscribed to it."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.e2e.javascript import SCRIPTS, node
from tests.support.client import Client
from tests.webhooks.receiver import Receiver, Request, receiving


class Browsers:
    """Node.js, which has the keys of the browsers (`tests/js/push.mjs`)."""

    def __init__(self, process: asyncio.subprocess.Process, service: Receiver) -> None:
        self.service = service
        self._process = process
        self._asking = asyncio.Lock()

    async def keys(self, name: str) -> dict[str, str]:
        """Make the keys of a browser."""
        return await self._ask({"name": name})

    def endpoint(self, name: str) -> str:
        return self.service.url.replace("/hook", f"/{name}")

    async def subscribe(self, user: Client, name: str, **fields: Any) -> dict[str, Any]:
        """Subscribe a browser of a user."""
        keys = await self.keys(name)
        return await user.ask("subscribe_push", endpoint=self.endpoint(name), keys=keys, **fields)

    async def opened(self, request: Request) -> dict[str, Any]:
        """A request decrypted by the browser it is for, and verified: `data`, `claims`, `key`."""
        name, body = request.path.lstrip("/"), base64.b64encode(request.raw).decode()
        return await self._ask({"name": name, "body": body, "authorization": request.headers["authorization"]})

    async def data(self) -> list[dict[str, Any]]:
        """The accepted notifications, in the order of their arrival."""
        return [(await self.opened(request))["data"] for request in list(self.service.accepted)]

    async def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with self._asking:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            answer: dict[str, Any] = json.loads(await self._process.stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer


@asynccontextmanager
async def browsers_of_service() -> AsyncIterator[Browsers]:
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE, "limit": 1 << 20}
    process = await asyncio.create_subprocess_exec(node("http_ece"), str(SCRIPTS / "push.mjs"), **pipes)
    try:
        async with receiving() as service:
            yield Browsers(process, service)
    finally:
        process.kill()
        await process.wait()
