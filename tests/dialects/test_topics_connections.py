"""The topics protocol: sign-in, tokens, and the end of a connection."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.conformance.wire import eventually
from tests.delivery.support import expiry_timers, rest, store_held
from tests.dialects.topics_client import (
    CREATE,
    MESSAGE,
    _refusal,
    address,
    talking,
)
from tests.gateways.test_websocket_auth import resigned
from tests.support.client import DEADLINE_S
from tests.support.node import RunningNode, running_node
from tests.support.timers import Timers
from tidings.contract.errors import ActionError
from tidings.gateways.client_session import MAX_EARLY
from tidings.transport.socketio_server import CONNECT_TIMEOUT_S

# -- connection and authentication ------------------------------------------------------------------------------

DOCUMENTED = (
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJleHAiOjE2ODIzNDkwMzUsImlhdCI6MTY4MjI2MjYzNSwic3ViIjoib21hciIsInBheWxvYWQi"
    "Onsi"
    "ZGVzY3JpcHRpb24iOiJUZXN0IHRva2VuIn19.BYeL0-7k_bM2BvLS0Me-vvd0om-WkXGSvuhm4WPuxWs",
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJleHAiOjE2ODIzNDkwMDUsImlhdCI6MTY4MjI2MjYwNSwic3ViIjoiZGllZ28iLCJwYXlsb2Fk"
    "Ijp7ImRlc2NyaXB0aW9uIjoiVGVzdCB0b2tlbiJ9fQ.yiS5HlCEoqUjW0pp9UerpymJJvD_07lJCCSMZr0vAf8",
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJleHAiOjE2ODIzNDkwNTcsImlhdCI6MTY4MjI2MjY1Nywic3ViIjoic2F0b3NoaSIsInBheWxv"
    "YWQiOnsiZGVzY3JpcHRpb24iOiJUZXN0IHRva2VuIn19.Mxl6LujulMFeGWF7LvNG5G4NbFwp18HAQKoV7LgmhVM",
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJleHAiOjE2ODIzNDkxMTksImlhdCI6MTY4MjI2MjcxOSwic3ViIjoibWVtb29yIiwicGF5bG9h"
    "ZCI6eyJkZXNjcmlwdGlvbiI6IlRlc3QgdG9rZW4ifX0.DNO5TU4ie8-gPWUx9BEtai1QD_3MyZg7tlDE7kRdcII",
)
"""The tokens in the document, expired and of another server."""


async def test_an_invalid_expired_or_withdrawn_token_is_refused_in_the_handshake(
    gateway: RunningNode, tokens: dict[str, str]
) -> None:
    valid = tokens["omar"]
    withdrawn = await gateway.login("omar")
    async with rest(gateway.url, withdrawn) as http:
        assert (await http.post("/api/logout")).status_code == 204
    for token, reason in (
        *((token, "no valid token") for token in DOCUMENTED),
        (valid[:-3], "no valid token"),
        ("omar", "no valid token"),
        ("x" * 5000, "no valid token"),
        ("%00", "no valid token"),
        (resigned(valid, exp=int(time.time()) - 1), "the token has expired"),
        (withdrawn, "the token was withdrawn"),
    ):
        assert await _refusal(address(gateway.url, token)) == (401, {"message": reason}), token
    for path in (f"{valid}/", f"x/{valid}", f"{valid}%2Fx"):
        with pytest.raises(InvalidStatus):
            await connect(address(gateway.url, path), proxy=None)
    assert not gateway.node.hub.connections
    async with talking(gateway.url, valid) as omar:
        assert await omar.nothing_more() == []


async def test_the_topics_protocol_does_not_shadow_other_paths(gateway: RunningNode, tokens: dict[str, str]) -> None:
    async with connect(f"{address(gateway.url, 'ws')}?token={tokens['omar']}", proxy=None) as plain:
        assert json.loads(await asyncio.wait_for(plain.recv(), DEADLINE_S))["event"] == "ready"
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as http:
        assert (await http.get(f"/{tokens['omar']}")).status_code == 404  # the path has no page


async def test_requests_wait_within_bounds_until_the_token_is_verified(
    gateway: RunningNode, tokens: dict[str, str], sqlite_url: str
) -> None:
    ended = gateway.gone("diego")
    async with AsyncExitStack() as stack:
        async with store_held(sqlite_url):  # a new device is stored first
            omar = await stack.enter_async_context(talking(gateway.url, tokens["omar"]))
            await omar.socket.send(CREATE)
            await omar.socket.send(MESSAGE)
            flood = await stack.enter_async_context(talking(gateway.url, tokens["diego"]))
            for _ in range(MAX_EARLY + 1):
                await flood.socket.send(MESSAGE)
            assert (await flood.answer())["code"] == "rate_limited"
            assert await flood.until_closed() == 1008
        assert (await omar.answer())["status"] == "ok"
        assert (await omar.answer())["code"] == "not_found"
    await asyncio.wait_for(ended.wait(), DEADLINE_S)
    assert "diego" not in {connection.principal.username for connection in gateway.node.hub.connections}


async def test_a_store_that_hangs_closes_the_connection_as_unavailable(
    gateway: RunningNode, tokens: dict[str, str], sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    timers, dialect = Timers(), gateway.node.dialects.find(f"/{tokens['omar']}")
    assert dialect is not None
    with monkeypatch.context() as patch:
        patch.setattr(dialect.server, "timers", timers)
        async with store_held(sqlite_url), talking(gateway.url, tokens["omar"]) as omar:
            await eventually(lambda: bool(dialect.server.sessions))
            timers.advance(CONNECT_TIMEOUT_S)
            assert await omar.until_closed() == 1008
            assert omar.last | {"message": ""} == _ended("unavailable")
    async with talking(gateway.url, tokens["omar"]) as omar:
        await omar.nothing_more()


async def test_a_connection_ends_with_its_token(
    gateway: RunningNode, tokens: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    exp = int(time.time()) + 3600
    second = await gateway.login("omar")
    timers = expiry_timers(monkeypatch, gateway)
    async with (
        talking(gateway.url, resigned(tokens["omar"], exp=exp)) as expires,
        talking(gateway.url, second) as withdrawn,
        talking(gateway.url, tokens["omar"]) as stays,
    ):
        await withdrawn.nothing_more()
        async with rest(gateway.url, second) as http:
            await http.post("/api/logout")
        assert await withdrawn.until_closed() == 4401
        assert withdrawn.last | {"message": ""} == _ended("token_revoked")
        timers.advance(3540)
        await expires.nothing_more()
        timers.advance(60)
        assert await expires.until_closed() == 4401
        assert expires.last | {"message": ""} == _ended("token_expired")
        await stays.nothing_more()


def _ended(code: str) -> dict[str, Any]:
    return {"action": "disconnect", "status": "error", "code": code, "message": ""}


async def test_a_stopping_server_announces_the_shutdown(gateway: RunningNode, tokens: dict[str, str]) -> None:
    async with talking(gateway.url, tokens["omar"]) as omar:
        await omar.nothing_more()
        await gateway.stop()
        assert await omar.until_closed() == 1012
        assert omar.last | {"message": ""} == _ended("shutdown")


# -- tokens for trying things out -------------------------------------------------------------------------------


async def test_the_token_route_serves_one_day_tokens_to_the_same_machine(sqlite_url: str, tmp_path: Path) -> None:
    async with (
        running_node(sqlite_url, tmp_path, dev_tokens=True) as node,
        httpx.AsyncClient(base_url=node.url, timeout=30) as http,
    ):
        for username in ("omar", "Omar"):  # the second request finds the user
            answer = await http.get("/token?username=" + username)
            assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
            token = answer.json()["token"]
            claims = jwt.decode(token, options={"verify_signature": False})
            assert (claims["sub"], claims["exp"] - claims["iat"]) == ("omar", 24 * 3600)
            assert answer.json() == {
                "token": token,
                "expires_at": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(claims["exp"])),
            }
            async with talking(node.url, token) as omar:
                await omar.nothing_more()
        async with talking(node.url, token) as omar:
            await omar.ask("create", topic_name="noticias")
        for query, status in (
            ("", 422),
            ("?username=", 422),
            ("?username=two words", 422),
            ("?username=omar&username=diego", 422),
            ("?username=noticias", 409),
        ):
            refused = await http.get(f"/token{query}")
            assert (refused.status_code, refused.headers["content-type"]) == (status, "application/problem+json")
        for host in ("localhost", "localhost:5000", "[::1]:8000"):
            assert (await http.get("/token?username=omar", headers={"Host": host})).status_code == 200
        await node.node.auth.set_disabled(await node.node.auth.user("omar"), True)
        assert (await http.get("/token?username=omar")).json()["code"] == "forbidden"


_FROM_ELSEWHERE: list[list[tuple[str, str]]] = [
    *([("Host", host)] for host in ("evil.example", "evil.example:8000", "localhost.evil.example", "[::", "")),
    *(
        [(name, "203.0.113.9")]
        for name in ("X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Server", "X-Real-IP", "Forwarded", "Via")
    ),
    [("X-Forwarded-For", "127.0.0.1")],
    *([("Origin", origin)] for origin in ("https://evil.example", "null", "http://localhost:3000", "")),
    *([("Sec-Fetch-Site", site)] for site in ("cross-site", "same-site")),
]


async def test_the_token_route_refuses_proxies_and_foreign_pages(sqlite_url: str, tmp_path: Path) -> None:
    async with (
        running_node(sqlite_url, tmp_path, dev_tokens=True) as node,
        httpx.AsyncClient(base_url=node.url, timeout=30) as http,
    ):
        for headers in _FROM_ELSEWHERE:
            refused = await http.get("/token?username=root", headers=headers)
            assert refused.status_code in (403, 421), headers  # 421: not a host of this server, for any route
            assert refused.json()["code"] == "forbidden", headers
            assert "access-control-allow-origin" not in refused.headers
        preflight = {"Origin": "https://evil.example", "Access-Control-Request-Method": "GET"}
        allowed = await http.options("/token?username=root", headers=preflight)
        assert (allowed.status_code, "access-control-allow-origin" in allowed.headers) == (405, False)
        with pytest.raises(ActionError, match="no such user"):
            await node.node.auth.user("root")
        own = {"Origin": node.url, "Sec-Fetch-Site": "same-origin"}
        for headers in (own, {"Sec-Fetch-Site": "none"}, {"User-Agent": "curl/8.5.0"}):
            assert (await http.get("/token?username=root", headers=headers)).status_code == 200


async def test_the_token_route_refuses_other_machines(sqlite_url: str, tmp_path: Path) -> None:
    """Only the peer address counts. The test calls the application directly to set it."""
    async with running_node(sqlite_url, tmp_path, dev_tokens=True) as node:
        for peer, status in ((("203.0.113.9", 5), 403), (None, 403), (("127.0.0.1", 5), 200), (("::1", 5), 200)):
            transport = httpx.ASGITransport(node.app, client=peer)  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=30) as http:
                assert (await http.get("/token?username=omar")).status_code == status, peer


async def test_without_the_setting_there_is_no_token_route(gateway: RunningNode) -> None:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as http:
        missing, token = await http.get("/nothing"), await http.get("/token?username=omar")
        assert token.status_code == 404
        assert token.json() == missing.json()
        assert (await http.get("/openapi.json")).json()["paths"].get("/token") is None
