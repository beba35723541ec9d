"""The Postman collection has every HTTP route, and its requests succeed in their order on a fresh server."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Final

import anyio
import pytest

from docs import postman
from tests.e2e.javascript import SCRIPTS, node
from tests.support.client import REGISTRY
from tests.support.node import running_node
from tidings.gateways.dialects.registry import mounted

pytestmark = pytest.mark.long
NEWMAN: Final = SCRIPTS / "node_modules/newman/bin/newman.js"
REFUSED: Final = {
    "PUT /api/picture": 422,  # the collection uploads no image
    "POST /api/invitation-links/{code}": 409,  # the caller made the link, and so is a member
    "GET /api/pending": 404,  # no device of the caller has connected
    "DELETE /api/pending": 404,
    "POST /api/messages/{message_id}/reports": 422,  # the caller's own
    "DELETE /api/reports/{report_id}": 404,
    "POST /api/reset-password": 403,  # no administrator has made a link
    "POST /api/me/delete": 401,  # the account is deactivated before
    **dict.fromkeys((f"POST /api/messages/{{message_id}}/{what}" for what in ("append", "finish", "stop")), 404),
}
"""What a fresh server refuses, besides the requests of administrators. The message is deleted before it streams."""


@pytest.fixture(scope="module")
def collection() -> dict[str, Any]:
    collection = postman.collection(node("openapi-to-postmanv2"))
    assert {"key": "baseUrl", "value": "http://127.0.0.1:8000"} in collection["variable"]
    return collection


def test_the_collection_has_every_route_once(collection: dict[str, Any]) -> None:
    routes = [" ".join(postman.route(item)) for folder in collection["item"] for item in folder["item"]]
    dialects = [route.http for route in mounted(dev_tokens=True)]
    assert sorted(routes) == sorted([*dialects, *(action.http for action in REGISTRY if action.http)])


async def test_newman_runs_the_whole_collection_on_a_fresh_server(
    collection: dict[str, Any], sqlite_url: str, tmp_path: Path
) -> None:
    source, report = tmp_path / "collection.json", tmp_path / "report.json"
    source.write_text(json.dumps(collection), "utf-8")
    async with running_node(sqlite_url, tmp_path, dev_tokens=True) as running:
        options = ("--env-var", f"baseUrl={running.url}", "--reporters", "json", "--reporter-json-export", report)
        command = [node("newman"), NEWMAN, "run", source, *options]
        await anyio.to_thread.run_sync(
            lambda: subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        )
    executions = json.loads(report.read_text("utf-8"))["run"]["executions"]
    answers = {" ".join(postman.route(execution["item"])): execution["response"]["code"] for execution in executions}
    refused = {route: code for route, code in answers.items() if code >= 400}
    administrative = [action.http for action in REGISTRY if action.admin]
    assert refused == REFUSED | {route: 403 for route in answers if route in administrative}
