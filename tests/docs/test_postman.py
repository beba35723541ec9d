"""The Postman collection has every HTTP route, with valid requests."""

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
    collection = postman.collection(node("openapi-to-postmanv2"))
    assert {"key": "baseUrl", "value": "http://127.0.0.1:8000"} in collection["variable"]
    return [item for folder in collection["item"] for item in folder["item"]]


def test_the_collection_has_every_route_once(requests: list[dict[str, Any]]) -> None:
    routes = [" ".join(postman.route(item)) for item in requests]
    dialects = [route.http for route in mounted(dev_tokens=True)]
    assert sorted(routes) == sorted([*dialects, *(action.http for action in REGISTRY if action.http)])


async def test_every_request_of_the_collection_is_valid(
    requests: list[dict[str, Any]], sqlite_url: str, tmp_path: Path
) -> None:
    """Each request has its own user, so no request depends on an earlier one."""
    async with (
        running_node(sqlite_url, tmp_path, dev_tokens=True) as node,
        httpx.AsyncClient(base_url=node.url, timeout=30) as http,
    ):
        for n, item in enumerate(requests):
            request = item["request"]
            token, _ = await node.node.auth.token_for(f"user{n}")
            values = {"MessageId": "…"} | {field["key"]: field["value"] for field in request["url"]["variable"]}
            auth = request.get("auth") or {}
            if auth:
                assert [(field["key"], field["value"]) for field in auth["bearer"]] == [("token", "{{bearerToken}}")]
            answer = await http.request(
                request["method"],
                postman.route(item)[1].format(**values),
                params={field["key"]: field["value"] for field in request["url"]["query"] if not field["disabled"]},
                content=(request.get("body") or {}).get("raw"),
                headers={"Authorization": f"Bearer {token}"} if auth else {},
            )
            # A missing room or right may refuse it, but never its form.
            assert answer.is_success or answer.status_code in (403, 404, 409), (item["name"], answer.text)
