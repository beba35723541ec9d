"""One way to ask, over Socket.IO, the plain WebSocket and REST."""

from __future__ import annotations

from typing import Any

import httpx

from tests.support.client import REGISTRY, LiveClient


class Door:
    """Answers with the data, or with the error."""

    def __init__(self, name: str, live: LiveClient | None = None, http: httpx.AsyncClient | None = None) -> None:
        self.name = name
        self._live, self._http = live, http

    def has(self, action: str) -> bool:
        """Whether the action can be asked this way."""
        found = REGISTRY.get(action)
        assert found is not None
        return found.live if self._live is not None else found.http is not None

    async def error(self, action: str, fields: dict[str, Any]) -> dict[str, Any] | None:
        """Ask; the error's `code`, `message` and `details`, or None."""
        if self._live is not None:
            answer = await self._live.call(action, fields)
            return None if answer["ok"] else {name: answer["error"][name] for name in ("code", "message", "details")}
        assert self._http is not None
        came = await request(self._http, action, fields)
        if came.is_success:
            return None
        body = came.json()
        return {"code": body["code"], "message": body["detail"], "details": body["details"]}


async def request(http: httpx.AsyncClient, action: str, fields: dict[str, Any]) -> httpx.Response:
    """Ask over REST, by the registry's route."""
    found = REGISTRY.get(action)
    assert found is not None
    assert found.http is not None
    method, path = found.http.split(" ", 1)
    for name in list(fields):
        if f"{{{name}}}" in path:
            path = path.replace(f"{{{name}}}", str(fields[name]))
            fields = {other: value for other, value in fields.items() if other != name}
    if method in ("GET", "DELETE"):
        return await http.request(method, path, params=fields)
    return await http.request(method, path, json=fields)
