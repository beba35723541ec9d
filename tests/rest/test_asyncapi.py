"""The AsyncAPI document describes live connections, for both gateways."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from functools import cache
from typing import Any

import httpx
import pytest

from tests.e2e.javascript import SCRIPTS, node
from tests.support.client import REGISTRY
from tidings.contract.actions import ConnectAuth
from tidings.contract.events import EVENTS
from tidings.gateways import asyncapi

LIVE = [action for action in REGISTRY if action.live]
BESIDE = {"socketio": ("connect",), "websocket": ("connect", "disconnect")}
"""The gateways, and the operations of each beside the common actions and events."""
GATEWAYS = tuple(BESIDE)
INFORMATION = 2
"""The parser's severities: 0 is an error, 1 a warning."""


@cache
def document() -> dict[str, Any]:
    return asyncapi.document(REGISTRY)


def resolve(reference: dict[str, Any]) -> Any:
    target: Any = document()
    for part in reference["$ref"].removeprefix("#/").split("/"):
        target = target[part]
    return resolve(target) if "$ref" in target else target


@pytest.mark.long
def test_the_official_parser_accepts_the_document() -> None:
    result = subprocess.run(
        [node("@asyncapi/parser"), SCRIPTS / "asyncapi.mjs"],
        input=json.dumps(document()),
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    report = json.loads(result.stdout)
    assert [entry for entry in report["diagnostics"] if entry["severity"] < INFORMATION] == []
    assert Counter(report["operations"]) == Counter(document()["operations"].keys())


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_the_document_names_exactly_the_live_actions_and_the_events(gateway: str) -> None:
    names = {name for action in LIVE for name in (action.name, *action.aliases)}
    expected = {f"{gateway}.{name}" for name in names} | {f"{gateway}.{event}.event" for event in EVENTS}
    operations = {name for name in document()["operations"] if name.startswith(f"{gateway}.")}
    assert operations == expected | {f"{gateway}.{name}" for name in BESIDE[gateway]}


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_a_connect_names_both_outcomes(gateway: str) -> None:
    summary = document()["operations"][f"{gateway}.connect"]["summary"]
    assert "`ready`; or the connection is refused" in summary


@pytest.mark.parametrize("gateway", GATEWAYS)
@pytest.mark.parametrize("action", LIVE, ids=lambda action: action.name)
def test_an_action_is_described_with_its_payload_answer_and_refusals(gateway: str, action: Any) -> None:
    operation = document()["operations"][f"{gateway}.{action.name}"]
    assert operation["action"] == "receive"
    (request,), (reply,) = operation["messages"], operation["reply"]["messages"]
    (example,), (answer,) = resolve(request)["examples"], resolve(reply)["examples"]
    payload, answer = example["payload"], dict(answer["payload"])
    if gateway == "websocket":
        assert (payload["id"], payload["action"]) == (answer.pop("id"), action.name)
        payload = payload["data"]
    action.request.model_validate(payload, strict=True)
    assert answer.keys() == {"ok", "data"}
    action.response.model_validate(answer["data"])
    succeeded, failed = resolve(reply)["payload"]["oneOf"]
    assert (succeeded["properties"]["ok"]["const"], failed["properties"]["ok"]["const"]) == (True, False)
    assert resolve(failed["properties"]["error"])["title"] == "Error"
    for code, when in action.refusals.items():
        assert f"- `{code}`: " in operation["description"]
        assert when in operation["description"]


@pytest.mark.parametrize("gateway", GATEWAYS)
@pytest.mark.parametrize("name", EVENTS)
def test_the_example_of_an_event_is_valid(gateway: str, name: str) -> None:
    operation = document()["operations"][f"{gateway}.{name}.event"]
    assert operation["action"] == "send"
    (example,) = resolve(operation["messages"][0])["examples"]
    payload = example["payload"]
    if gateway == "websocket":
        assert payload["event"] == name
        payload = payload["data"]
    EVENTS[name].model_validate(payload)


def test_connecting_is_described() -> None:
    auth = resolve(document()["operations"]["socketio.connect"]["messages"][0])
    ConnectAuth.model_validate(auth["examples"][0]["payload"])
    for gateway in GATEWAYS:
        server = document()["servers"][gateway]
        assert resolve(server["security"][0])["type"]


async def test_the_document_is_served(http: httpx.AsyncClient) -> None:
    answer = await http.get("/asyncapi.json")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.json() == document()
