"""The export of a user, as records."""

from __future__ import annotations

import json
from typing import Any

import httpx

from tests.support.node import NO_TLS, RunningNode


async def exported(server: RunningNode, token: str) -> list[dict[str, Any]]:
    headers = {"Authorization": f"Bearer {token}"}
    client = httpx.AsyncClient(base_url=server.url, verify=NO_TLS, headers=headers, timeout=30)
    async with client as http, http.stream("GET", "/api/me/export") as answer:
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == "application/x-ndjson"
        lines = [json.loads(line) async for line in answer.aiter_lines()]
    assert lines[-1] == {"type": "end", "lines": len(lines) - 1}
    return lines[:-1]


def of(lines: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name != "type"} for line in lines if line["type"] == kind]
