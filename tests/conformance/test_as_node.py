"""What clients expect of Node's servers beyond the protocols' documents."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError
from websockets.exceptions import InvalidStatus

from tests.conformance.wire import DEADLINE_S, Endpoint, received
from tests.e2e.javascript import run
from tests.gateways.plain import plain
from tests.support.node import running_node
from tidings.settings import Settings

REFUSALS: dict[str, tuple[dict[str, str], dict[str, object]]] = {
    "an unknown transport": ({"EIO": "4", "transport": "abc"}, {"code": 0, "message": "Transport unknown"}),
    "an unknown session": (
        {"EIO": "4", "transport": "{}", "sid": "nobody"},
        {"code": 1, "message": "Session ID unknown"},
    ),
}


async def test_a_refusal_has_the_code_and_the_text_of_node(engineio: Endpoint) -> None:
    for query, body in REFUSALS.values():
        for transport in ("polling", "websocket"):
            asked = {name: value.format(transport) for name, value in query.items()}
            if transport == "polling":
                assert (await engineio.request("GET", **asked)).json() == body
            else:
                with pytest.raises(InvalidStatus) as refusal:
                    async with engineio.websocket(query=asked):
                        pass
                assert json.loads(refusal.value.response.body or b"") == body
    method = await engineio.request("POST", EIO="4", transport="polling")
    assert method.json() == {"code": 2, "message": "Bad handshake method"}
    old = (await engineio.request("GET", EIO="3", transport="polling")).json()
    assert old["code"] == 5
    assert old["message"].startswith("Unsupported protocol version: use socket.io-client 3 or 4")
    too_large = await engineio.post(await engineio.open(), "4" * 1_000_001)
    assert (too_large.status_code, too_large.content) == (413, b"")


async def test_an_upgrade_without_a_probe_is_accepted(engineio: Endpoint) -> None:
    """As of `arduinoWebSockets`."""
    sid = await engineio.open()
    await engineio.post(sid, "4before")
    async with engineio.websocket(sid) as socket:
        await socket.send("5")
        assert await received(socket) == "4before"
        await socket.send("4after")
        assert await received(socket) == "4after"


async def test_an_upgrade_without_a_probe_is_refused_while_a_poll_waits(engineio: Endpoint) -> None:
    sid = await engineio.open()
    async with engineio.waiting_poll(sid) as poll:
        async with engineio.websocket(sid) as socket:
            await socket.send("5")
            await socket.wait_closed()
        await engineio.post(sid, "4still here")
        assert (await poll).text == "4still here"


async def test_a_noop_and_a_second_upgrade_are_ignored(engineio: Endpoint) -> None:
    sid = await engineio.open()
    assert (await engineio.post(sid, "6", "5", "4polled")).text == "ok"
    assert (await engineio.poll(sid)).text == "4polled"
    async with engineio.upgrading(sid) as socket:
        for packet in ("5", "5", "6", "4sent"):
            await socket.send(packet)
        assert await received(socket) == "4sent"


async def test_a_binary_message_may_be_sent_as_base64_over_a_websocket(engineio: Endpoint) -> None:
    async with engineio.session() as socket:
        await socket.send("bAQIDBA==")
        assert await received(socket) == b"\x01\x02\x03\x04"


@pytest.mark.parametrize("parser", ["json", "msgpack"])
async def test_the_official_client_works_with_base64_and_with_subprotocols(
    sqlite_url: str, tmp_path: Path, parser: str
) -> None:
    async with running_node(sqlite_url, tmp_path, parser=parser) as node:
        token = await node.register("omar")
        await run("options.mjs", {"url": node.url, "token": token, "msgpack": parser == "msgpack"})


# -- pages of other origins --------------------------------------------------------------------------------------

PAGE = "https://chat.example"
PREFLIGHT = {"Origin": PAGE, "Access-Control-Request-Headers": "x-tenant,authorization"}
POLLING = "/socket.io/?EIO=4&transport=polling"


@pytest.mark.parametrize("credentials", [False, True])
async def test_a_preflight_allows_the_requested_headers_and_credentials_if_set(
    sqlite_url: str, tmp_path: Path, *, credentials: bool
) -> None:
    async with (
        running_node(sqlite_url, tmp_path, cors_origins=[PAGE], cors_credentials=credentials) as node,
        httpx.AsyncClient(base_url=node.url, timeout=DEADLINE_S) as http,
    ):
        for method in ("OPTIONS", "GET"):
            answer = (await http.request(method, POLLING, headers=PREFLIGHT)).headers
            assert answer["access-control-allow-origin"] == PAGE
            assert answer["access-control-allow-headers"] == "x-tenant,authorization"
            assert answer.get("access-control-allow-credentials") == ("true" if credentials else None)
        node.node.socketio.eio.linger = 0.1  # nobody polls that session to its end


@pytest.mark.parametrize("origins", [[], ["*"], [PAGE, "*"]])
def test_credentials_need_the_origins_themselves(origins: list[str]) -> None:
    with pytest.raises(ValidationError, match="TIDINGS_CORS_CREDENTIALS"):
        Settings(_env_file=None, cors_origins=origins, cors_credentials=True)


async def test_the_origin_of_a_microcontroller_can_be_allowed(sqlite_url: str, tmp_path: Path) -> None:
    for origins, status in (([], 403), (["file://"], 200)):
        async with (
            running_node(sqlite_url, tmp_path, cors_origins=origins) as node,
            httpx.AsyncClient(base_url=node.url, timeout=DEADLINE_S) as http,
        ):
            assert (await http.get(POLLING, headers={"Origin": "file://"})).status_code == status
            node.node.socketio.eio.linger = 0.1


# -- what is served beside ---------------------------------------------------------------------------------------


async def test_the_client_library_is_served_on_its_path(sqlite_url: str, tmp_path: Path) -> None:
    built = tmp_path / "static"
    (built / "socket.io").mkdir(parents=True)
    (built / "index.html").write_text("<!doctype html>")
    (built / "socket.io/socket.io.min.js").write_text("io()")
    (built / "socket.io/socket.io.min.js.map").write_text("{}")
    async with (
        running_node(sqlite_url, tmp_path, options={"static": built}) as node,
        httpx.AsyncClient(base_url=node.url, timeout=DEADLINE_S) as http,
    ):
        script = await http.get("/socket.io/socket.io.min.js")
        assert (script.status_code, script.text) == (200, "io()")
        assert script.headers["content-type"].startswith("text/javascript")
        assert script.headers["cross-origin-resource-policy"] == "cross-origin"
        tag = {"If-None-Match": script.headers["etag"]}
        assert (await http.get("/socket.io/socket.io.min.js", headers=tag)).status_code == 304
        assert (await http.get("/socket.io/socket.io.min.js.map")).json() == {}
        assert (await http.get("/socket.io/socket.io.esm.min.js")).status_code == 404
        assert (await http.get("/socket.io/other.js")).json() == {"code": 0, "message": "Transport unknown"}


async def test_a_plain_websocket_may_bring_its_token_in_the_authorization_header(
    sqlite_url: str, tmp_path: Path
) -> None:
    async with running_node(sqlite_url, tmp_path) as node:
        token = await node.register("omar")
        async with plain(node.url, headers={"Authorization": f"Bearer {token}"}, device="laptop") as omar:
            await omar.event("ready")
        async with plain(node.url, headers={"Authorization": "Bearer wrong"}) as nobody:
            assert (await nobody.answer())["error"]["code"] == "unauthenticated"
