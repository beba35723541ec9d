"""A private room looks missing to non-members; and no gateway accepts an unauthenticated caller."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from tests.permissions.doors import Door, request
from tests.permissions.rights import ACTS, OUTSIDE, PRIVATE, ROOMS, Act, exists, expected
from tests.permissions.world import World
from tests.support.client import REGISTRY, connected
from tests.support.node import NO_TLS, RunningNode, running_node
from tidings_db.queries import users

MISSING = {
    "room_id": "0" * 24,
    "topic_name": "no such topic",
    "message_id": "0" * 32,
    "code": "none",
    "after": "0" * 24,
}
"""A value that does not exist, by the field that holds it."""


@pytest.fixture
async def lite(sqlite_url: str, tmp_path: Path) -> AsyncIterator[RunningNode]:
    async with running_node(sqlite_url, tmp_path, durability="normal") as node:
        yield node


async def test_outsiders_cannot_distinguish_a_private_room_from_a_missing_one(lite: RunningNode) -> None:
    world = await World(lite).make(1)
    compared = 0
    for caller in OUTSIDE:
        async with connected(lite.url, world.tokens[caller]) as live:
            door = Door("Socket.IO", live=live)
            for room in ROOMS:
                for act in (act for act in ACTS if door.has(act, room) and exists(act, room, caller)):
                    if expected(act, room, caller) != "not_found":
                        continue
                    fields = world.fields(act, room, caller, 0)
                    for payload in [fields, *_by_topic_name(act, fields, room, caller)]:
                        missing = payload | {name: MISSING[name] for name in MISSING.keys() & payload.keys()}
                        private, absent = await door.error(act.action, payload), await door.error(act.action, missing)
                        assert private == absent, (caller, room, act.label, payload)
                        compared += 1
    assert compared > 200


def _by_topic_name(act: Act, fields: dict[str, Any], room: str, caller: str) -> list[dict[str, Any]]:
    """For a private topic, the same payload with its name instead of its id."""
    definition = REGISTRY.get(act.action)
    assert definition is not None
    if room != PRIVATE or "room_id" not in fields or "topic_name" not in definition.request.model_fields:
        return []
    rest = {name: value for name, value in fields.items() if name != "room_id"}
    return [{**rest, "topic_name": f"{room} {caller}"}]


async def _unauthenticated(node: RunningNode) -> dict[str, tuple[str | None, str]]:
    """Callers without a valid token: their token, and the error code that they get."""
    revoked, disabled = await node.register("revoked"), await node.register("disabled")
    claims = jwt.decode(await node.register("expired"), options={"verify_signature": False})
    expired = jwt.encode(claims | {"exp": claims["iat"]}, node.node.settings.signing_keys()[0], algorithm="HS256")
    async with httpx.AsyncClient(
        base_url=node.url, verify=NO_TLS, headers={"Authorization": f"Bearer {revoked}"}
    ) as http:
        assert (await http.post("/api/logout")).status_code == 204
    user = await node.node.auth.user("disabled")
    await node.node.database.write(lambda conn: users.set_disabled(conn, user.key, True))
    return {
        "anonymous": (None, "unauthenticated"),
        "expired": (expired, "token_expired"),
        "revoked": (revoked, "token_revoked"),
        "disabled": (disabled, "token_revoked"),
    }


async def test_an_unauthenticated_caller_is_refused_by_every_route(lite: RunningNode) -> None:
    routed = [definition for definition in REGISTRY if definition.http is not None and not definition.anonymous]
    assert len(routed) > 40
    for caller, (token, code) in (await _unauthenticated(lite)).items():
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=lite.url, verify=NO_TLS, headers=headers, timeout=30) as http:
            for definition in routed:
                fields = dict.fromkeys(definition.request.model_fields, "x")
                answer = await request(http, definition.name, fields)
                assert (answer.status_code, answer.json()["code"]) == (401, code), (caller, definition.name)
            malformed = await http.post("/api/topics", content=b"{")
            assert malformed.json()["code"] == code, caller
