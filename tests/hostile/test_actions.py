"""No accepted request blocks the event loop: every action, over every gateway, with expensive payloads."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import httpx
import pytest

from tests.hostile.doors import DOORS, REST_BYTES, Door, door_of
from tests.hostile.meter import BUDGET_S, MeteredNode, longest_step, metered_node
from tests.hostile.payloads import Attack, of_action, of_fields, of_json
from tests.support.client import REGISTRY
from tests.support.node import NO_TLS

pytestmark = pytest.mark.long


@pytest.fixture(params=DOORS)
async def door(request: pytest.FixtureRequest, sqlite_url: str, tmp_path: Path) -> AsyncIterator[Door]:
    parser = "msgpack" if request.param == "msgpack" else "json"
    async with metered_node(sqlite_url, tmp_path, parser=parser) as node:
        token = await node.register("omar")
        await node.register("diego")
        async with door_of(request.param, node.url, token) as opened:
            opened.node = node
            yield opened


async def _known(door: Door) -> dict[str, str]:
    """The ids and names of a valid payload."""
    headers = {"Authorization": f"Bearer {door.token}"}
    async with httpx.AsyncClient(base_url=door.node.url, verify=NO_TLS, headers=headers) as http:
        room = (await http.post("/api/topics", json={"topic_name": "noticias"})).json()
        sent = (await http.post("/api/messages", json={"topic_name": "noticias", "content": "hola"})).json()
    return {"room_id": room["room_id"], "message_id": sent["id"], "topic_name": "noticias"}


async def _held(door: Door, action: str, attacks: Iterable[Attack]) -> list[str]:
    """The attacks that hold the loop for longer than the budget."""
    definition = REGISTRY.get(action)
    assert definition is not None
    held = []
    for kind, payload in attacks:
        spent = await longest_step(door.node, lambda payload=payload: door.ask(definition, payload))  # type: ignore[misc]
        if spent >= BUDGET_S:
            held.append(f"{action}, {kind}: {spent * 1000:.0f} ms")
    return held


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "door",
    [name if name == "socketio" else pytest.param(name, marks=pytest.mark.long) for name in DOORS],
    indirect=True,
)
async def test_no_field_of_any_action_holds_the_loop(door: Door) -> None:
    known, held = await _known(door), []
    for action in REGISTRY:
        if door.has(action):
            held += await _held(door, action.name, of_fields(action, known, min(door.budget, REST_BYTES)))
    assert held == []


def _doors_of(action: str) -> list[str]:
    """The gateways that offer an action."""
    definition = REGISTRY.get(action)
    assert definition is not None
    return [name for name, door in DOORS.items() if door.has(definition)]


@pytest.mark.parametrize(
    ("door", "action"),
    [
        pytest.param(door, action, marks=[pytest.mark.long] * (action != "message"))
        for action in ("message", "delivered", "create_conversation")
        for door in _doors_of(action)
    ],
    indirect=["door"],
)
async def test_no_json_holds_the_loop(door: Door, action: str) -> None:
    definition = REGISTRY.get(action)
    assert definition is not None
    right, _ = of_action(definition, {})
    assert await _held(door, action, of_json(right, door.budget)) == []


async def test_refusing_a_wrong_token_does_not_decode_the_rest_of_the_payload(node: MeteredNode) -> None:
    """The other fields of the payload cost nothing until the token has been checked."""
    for kind, auth in of_json({"token": "x", "cursors": {"Zm3kQ9vT2xLw": 41}}, 900_000):

        async def attempt(auth: str = auth) -> None:
            door = DOORS["websocket"](node.url, "x")
            await door.send(f'{{"action":"authenticate","data":{auth}}}')
            await door.close()

        assert await longest_step(node, attempt) < BUDGET_S, kind


async def test_an_error_names_twenty_fields_and_cuts_their_names(node: MeteredNode) -> None:
    headers = {"Authorization": f"Bearer {await node.register('omar')}"}
    async with httpx.AsyncClient(base_url=node.url, verify=NO_TLS, headers=headers) as http:
        for payload in (
            {f"{at}{'x' * 1000}": 1 for at in range(200)},
            {"x" * 1000: 1, "username": 1},
            {"usernames": [1] * 200},
        ):
            answer = await http.post("/api/conversations", content=json.dumps(payload))
            error = answer.json()
            assert (answer.status_code, error["code"]) == (422, "invalid")
            assert 1 <= len(error["details"]["fields"]) <= 20
            assert all(len(name) <= 80 for name in error["details"]["fields"])
            assert len(answer.content) < 8_000
