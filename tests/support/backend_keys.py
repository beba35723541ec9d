"""Keys of backends, and requests with them."""

from __future__ import annotations

from typing import Any

import httpx
from sqlalchemy.engine import Connection as Transaction

from tests.support.client import Refused
from tests.support.node import NO_TLS, RunningNode
from tidings.auth import keys
from tidings.auth.tokens import now_ms
from tidings.contract.permissions import KeyScope
from tidings_db.queries import rooms


async def make_key(server: RunningNode, *scopes: KeyScope, name: str = "backend", room_id: str | None = None) -> str:
    def create(conn: Transaction) -> str:
        room = None if room_id is None else rooms.find(conn, room_id=room_id)
        return keys.create(conn, name, scopes, None if room is None else room.key, now_ms())

    return await server.node.database.write(create)


class Backend:
    """REST requests with a key."""

    def __init__(self, url: str, key: str) -> None:
        self._url = url
        self._key = key

    async def ask(self, method: str, path: str, *, act: str | None = None, **body: Any) -> Any:
        """The answer's JSON, None without a body; raises `Refused`."""
        headers = {"Authorization": f"Bearer {self._key}"} | ({} if act is None else {"Tidings-User": act})
        query = {"params": body} if method in ("GET", "DELETE") else {"json": body}
        async with httpx.AsyncClient(base_url=self._url, verify=NO_TLS, headers=headers, timeout=30) as http:
            answer = await http.request(method, path, **query)
        data = answer.json() if answer.content else None
        if not answer.is_success:
            raise Refused({"message": data["detail"], **data})
        return data

    async def code(self, method: str, path: str, **fields: Any) -> str:
        try:
            await self.ask(method, path, **fields)
        except Refused as refused:
            return refused.code
        return "ok"
