"""The Postman collection has every HTTP route, and requests that the server understands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from docs import postman
from tests.e2e.javascript import node
from tests.support.client import REGISTRY
from tests.support.node import running_node


@pytest.fixture(scope="module")
def requests() -> list[dict[str, Any]]:
    made = postman.collection(node("openapi-to-postmanv2"))
    assert {"key": "baseUrl", "value": "http://127.0.0.1:8000"} in made["variable"]
    return [item for folder in made["item"] for item in folder["item"]]


def test_it_has_every_route_once(requests: list[dict[str, Any]]) -> None:
    routes = [" ".join(postman.route(item)) for item in requests]
    assert sorted(routes) == sorted(action.http for action in REGISTRY if action.http)


async def test_every_request_is_one_that_the_server_understands(
    requests: list[dict[str, Any]], sqlite_url: str, tmp_path: Path
) -> None:
    """Each by a user of its own, so that none depends on what those before it did to theirs."""
    async with running_node(sqlite_url, tmp_path) as node, httpx.AsyncClient(base_url=node.url) as http:
        for n, item in enumerate(requests):
            asked = item["request"]
            token, _ = await node.node.auth.token_for(f"user{n}")
            values = {one["key"]: one["value"] for one in asked["url"]["variable"]}
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
            refused = answer.json().get("code") if answer.status_code >= 400 else None
            assert refused in (None, "not_found", "forbidden", "conflict"), (item["name"], answer.text)
