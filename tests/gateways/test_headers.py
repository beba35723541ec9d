"""The headers of every answer for browsers and caches."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.support.node import NO_TLS, PASSWORD, RunningNode, running_node


@pytest.fixture
async def node(sqlite_url: str, tmp_path: Path) -> AsyncIterator[RunningNode]:
    async with running_node(sqlite_url, tmp_path, dev_tokens=True) as node:
        yield node


async def test_every_answer_forbids_caching_and_content_sniffing(node: RunningNode) -> None:
    token = await node.register("omar")
    me, credentials = {"Authorization": f"Bearer {token}"}, {"username": "omar", "password": PASSWORD}
    documented = {"Username": "omar", "Password": PASSWORD}
    async with httpx.AsyncClient(base_url=node.url, verify=NO_TLS, headers=me) as http:
        answers = [
            await http.post("/api/register", json={"username": "diego", "password": PASSWORD}),
            await http.post("/api/login", json=credentials),
            await http.post("/api/login", json=credentials | {"password": "wrong password"}),
            await http.post("/api/login", content=b"not JSON"),
            await http.post("/api/refresh"),
            await http.get("/api/me"),
            await http.get("/api/me", headers={"Authorization": "Bearer wrong"}),
            await http.get("/api/me/export"),
            await http.get("/api/rooms"),
            await http.get("/api/search", params={"query": "x"}),
            await http.get("/api/nothing"),
            await http.patch("/api/me"),
            await http.get("/docs"),
            await http.get("/openapi.json"),
            await http.get("/asyncapi.json"),
            await http.get("/metrics"),
            await http.get("/health/live"),
            await http.get("/health/ready"),
            await http.get("/token", params={"username": "omar"}),
            await http.post("/user/login", json=documented),
            await http.get("/conversation"),
            await http.get("/user/nobody"),
            await http.post("/login", json=credentials),
            await http.get("/echo_ws"),
            await http.get("/history"),
            await http.get("/socket.io/?EIO=4&transport=polling"),
            await http.get("/socket.io/?EIO=3&transport=polling"),
            await http.get("/api/me", headers={"Host": "evil.example"}),
            await http.post("/api/logout"),
        ]
    for answer in answers:
        headers = answer.headers
        assert (headers.get("Cache-Control"), headers.get("X-Content-Type-Options")) == ("no-store", "nosniff"), (
            answer.url
        )
        assert len(headers.get_list("Cache-Control")) == len(headers.get_list("X-Content-Type-Options")) == 1, (
            answer.url
        )
    assert {answer.status_code for answer in answers} == {200, 201, 204, 400, 401, 404, 405, 421, 422}


async def test_files_of_the_documentation_page_have_their_own_cache_time(node: RunningNode) -> None:
    async with httpx.AsyncClient(base_url=node.url, verify=NO_TLS) as http:
        for path, cache_control in (
            ("/docs/assets/swagger-ui.css", "max-age=86400"),
            ("/docs/assets/start.js", "max-age=86400"),
        ):
            answer = await http.get(path)
            assert answer.headers.get_list("Cache-Control") == [cache_control]
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
