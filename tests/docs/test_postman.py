"""The Postman collection has every HTTP route, and requests that the server understands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from docs import postman
from server.gateways.dialects.registry import mounted
from tests.e2e.javascript import node
from tests.support.client import REGISTRY
from tests.support.node import running_node

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def requests() -> list[dict[str, Any]]:
    made = postman.collection(node("openapi-to-postmanv2"))
    assert {"key": "baseUrl", "value": "http://127.0.0.1:8000"} in made["variable"]
    return [item for folder in made["item"] for item in folder["item"]]


def test_it_has_every_route_once(requests: list[dict[str, Any]]) -> None:
    routes = [" ".join(postman.route(item)) for item in requests]
    dialects = [route.http for route in mounted(dev_tokens=True)]
    assert sorted(routes) == sorted([*dialects, *(action.http for action in REGISTRY if action.http)])


async def test_every_request_is_one_that_the_server_understands(
    requests: list[dict[str, Any]], sqlite_url: str, tmp_path: Path
) -> None:
    """Each by a user of its own, so that none depends on what those before it did to theirs."""
    async with (
        running_node(sqlite_url, tmp_path, dev_tokens=True) as node,
        httpx.AsyncClient(base_url=node.url) as http,
    ):
        for n, item in enumerate(requests):
            asked = item["request"]
            token, _ = await node.node.auth.token_for(f"user{n}")
            values = {"MessageId": "…"} | {one["key"]: one["value"] for one in asked["url"]["variable"]}
            auth = asked.get("auth") or {}
            if auth:
                assert [(one["key"], one["value"]) for one in auth["bearer"]] == [("token", "{{bearerToken}}")]
            answer = await http.request(
                asked["method"],
                postman.route(item)[1].format(**values),
                params={one["key"]: one["value"] for one in asked["url"]["query"] if not one["disabled"]},
                content=(asked.get("body") or {}).get("raw"),
                headers={"Authorization": f"Bearer {token}"} if auth else {},
            )
            # It may be refused: there is no such room, it is for administrators. But not for how it was asked.
            assert answer.is_success or answer.status_code in (403, 404, 409), (item["name"], answer.text)
