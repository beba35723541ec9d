"""docs/protocol.md names, for each action, what it may be refused for: each of these can be seen to happen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import jwt

from docs import generate
from server.contract.actions import MAX_CONTENT
from server.contract.errors import ErrorCode
from tests.support.client import Client, Refused, connected
from tests.support.node import PASSWORD, RunningNode, running_node

NOTICIAS, SECRETO = {"topic_name": "noticias"}, {"topic_name": "secreto"}
NOBODY, MYSELF = {"username": "nobody"}, {"username": "diego"}
DIRECT, SECRET = "<direct>", "<secreto>"
"""To be replaced by the ids of the conversation and of `secreto`."""
LONG = "x" * (MAX_CONTENT + 1)

# Asked by diego, who is in no topic but `abierto` (public) and `corro` (private), and has a conversation with omar.
# `noticias` is public, `secreto` is private; omar is in both.
LIVE: dict[str, dict[ErrorCode, list[dict[str, Any]]]] = {
    "create": {ErrorCode.CONFLICT: [NOTICIAS, SECRETO, {"topic_name": "Omar"}]},
    "subscribe": {
        ErrorCode.NOT_FOUND: [SECRETO, {"topic_name": "nothing"}],
        ErrorCode.CONFLICT: [{"topic_name": "abierto"}],
    },
    "connect_to_room": {ErrorCode.NOT_FOUND: [SECRETO, {"topic_name": "nothing"}]},
    "unsubscribe": {
        ErrorCode.INVALID: [MYSELF],
        ErrorCode.NOT_FOUND: [SECRETO, NOBODY],
        ErrorCode.FORBIDDEN: [NOTICIAS, {"username": "omar"}],
    },
    "invite": {
        ErrorCode.NOT_FOUND: [SECRETO | {"username": "omar"}, {"topic_name": "corro", "username": "nobody"}],
        ErrorCode.FORBIDDEN: [
            {"topic_name": "abierto", "username": "satoshi"},
            {"room_id": DIRECT, "username": "satoshi"},
        ],
        ErrorCode.CONFLICT: [{"topic_name": "corro", "username": "diego"}],
    },
    "message": {
        ErrorCode.INVALID: [
            MYSELF | {"content": "x"},
            {"topic_name": "abierto", "content": "x", "reply_to": "none"},
        ],
        ErrorCode.NOT_FOUND: [SECRETO | {"content": "x"}, NOBODY | {"content": "x"}],
        ErrorCode.FORBIDDEN: [NOTICIAS | {"content": "x"}],
        ErrorCode.TOO_LARGE: [{"topic_name": "abierto", "content": LONG}],
    },
    "history": {
        ErrorCode.INVALID: [MYSELF],
        ErrorCode.NOT_FOUND: [SECRETO, NOBODY],
        ErrorCode.FORBIDDEN: [NOTICIAS],
    },
    "search": {
        ErrorCode.INVALID: [{"query": "?!"}, MYSELF | {"query": "x"}],
        ErrorCode.NOT_FOUND: [SECRETO | {"query": "x"}, NOBODY | {"query": "x"}, {"query": "x", "before": "none"}],
        ErrorCode.FORBIDDEN: [NOTICIAS | {"query": "x"}],
    },
    "get_members": {
        ErrorCode.INVALID: [MYSELF],
        ErrorCode.NOT_FOUND: [SECRETO, NOBODY],
        ErrorCode.FORBIDDEN: [NOTICIAS],
    },
    "typing": {
        ErrorCode.INVALID: [MYSELF],
        ErrorCode.NOT_FOUND: [SECRETO, NOBODY],
        ErrorCode.FORBIDDEN: [NOTICIAS],
    },
    "get_rooms": {ErrorCode.NOT_FOUND: [{"after": SECRET}, {"after": "nothing"}]},
    "read": {
        ErrorCode.INVALID: [MYSELF | {"seq": 0}, {"topic_name": "abierto", "seq": 1}],
        ErrorCode.NOT_FOUND: [SECRETO | {"seq": 0}, NOBODY | {"seq": 0}],
        ErrorCode.FORBIDDEN: [NOTICIAS | {"seq": 0}],
    },
    "get_profile": {ErrorCode.NOT_FOUND: [NOBODY]},
    "echo": {ErrorCode.TOO_LARGE: [{"content": LONG}]},
    "echo_history": {ErrorCode.NOT_FOUND: [{"before": "nothing"}]},
    "get_pending": {ErrorCode.NOT_FOUND: [{"device": "none"}, {"after": SECRET}]},
    "clear_pending": {ErrorCode.NOT_FOUND: [{"device": "none"}, {"room_id": SECRET}, {"room_id": "nothing"}]},
}


async def test_every_refusal_that_is_documented_happens(sqlite_url: str, tmp_path: Path) -> None:
    async with running_node(sqlite_url, tmp_path, rate_limits="on") as node:
        tokens = {name: await node.register(name) for name in ("omar", "diego", "satoshi")}
        async with connected(node.url, tokens["omar"]) as omar, connected(node.url, tokens["diego"]) as diego:
            await omar.ask("create", NOTICIAS)
            secreto = await omar.ask("create", SECRETO | {"is_private": True})
            abierto = await diego.ask("create", topic_name="abierto")
            await diego.ask("create", topic_name="corro", is_private=True)
            direct = await diego.ask("message", username="omar", content="hola")
            ids = {DIRECT: direct["room_id"], SECRET: secreto["room_id"]}
            asked = {
                **LIVE,
                "delivered": {ErrorCode.INVALID: [{"cursors": {abierto["room_id"]: 1}}]},
                "authenticate": await _tokens(node, tokens["omar"]),
            }
            for action, refusals in asked.items():
                for code, payloads in refusals.items():
                    for payload in payloads:
                        payload = {field: ids.get(str(value), value) for field, value in payload.items()}
                        assert await _refusal(diego, action, payload) == code, (action, payload)
        over_http = await _over_http(node)
    seen = {action: set(refusals) for action, refusals in asked.items()} | over_http
    documented = {action.name: set(action.refusals) for action in generate.registry()}
    assert seen == {action: codes for action, codes in documented.items() if codes}


async def _refusal(client: Client, action: str, payload: dict[str, Any]) -> str:
    try:
        await client.ask(action, payload)
    except Refused as refused:
        return refused.code
    return "ok"


async def _tokens(node: RunningNode, of_another: str) -> dict[ErrorCode, list[dict[str, Any]]]:
    """Tokens that `authenticate` refuses to diego."""
    revoked = await node.login("diego")
    claims = jwt.decode(revoked, options={"verify_signature": False})
    expired = jwt.encode(claims | {"exp": claims["iat"]}, node.node.settings.signing_key(), algorithm="HS256")
    async with httpx.AsyncClient(base_url=node.url) as http:
        await http.post("/api/logout", headers={"Authorization": f"Bearer {revoked}"})
    return {
        ErrorCode.UNAUTHENTICATED: [{"token": "not a token"}],
        ErrorCode.TOKEN_EXPIRED: [{"token": expired}],
        ErrorCode.TOKEN_REVOKED: [{"token": revoked}],
        ErrorCode.FORBIDDEN: [{"token": of_another}],
    }


async def _over_http(node: RunningNode) -> dict[str, set[ErrorCode]]:
    """The codes that `register` and `login` answer with, until they answer that it was too often."""
    seen: dict[str, set[ErrorCode]] = {"register": set(), "login": set()}
    async with httpx.AsyncClient(base_url=node.url) as http:
        for action, password in (("login", "wrong password"), ("register", PASSWORD)):
            for _ in range(40):
                answer = await http.post(f"/api/{action}", json={"username": "satoshi", "password": password})
                seen[action].add(ErrorCode(answer.json()["code"]))
    return seen
