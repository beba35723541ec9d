"""The two-channels protocol: everything that its document promises."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest
from socketio.exceptions import ConnectionError as SocketIOConnectionError

from tests.delivery.support import expiry_timers
from tests.dialects.channels_client import CHANNELS, bearer, entered, history, link, opened, refusal
from tests.echo.upstream import EchoServer
from tests.support.client import Client, connected
from tests.support.node import PASSWORD, RunningNode
from tidings.auth.tokens import now_ms

# -- users -----------------------------------------------------------------------------------------------------------


async def test_registering_needs_a_login_and_a_password(http: httpx.AsyncClient) -> None:
    answer = await http.post("/register", json={"username": "ana", "password": PASSWORD})
    assert answer.status_code == 201
    assert answer.json().keys() == {"access_token", "token_type", "expires_at", "username"}
    assert (await http.post("/register", json={"login": "ben", "password": PASSWORD})).status_code == 201
    assert (await http.get("/api/me", headers=bearer(answer.json()["access_token"]))).json()["username"] == "ana"


async def test_a_login_is_unique_and_a_password_is_checked(http: httpx.AsyncClient) -> None:
    await http.post("/register", json={"username": "ana", "password": PASSWORD})
    for fields, status in (
        ({"username": "ANA", "password": PASSWORD}, 409),
        ({"username": "ben", "password": "short"}, 422),
        ({"username": "ben", "password": "x" * 73}, 422),
        ({"username": "a b", "password": PASSWORD}, 422),
        ({"username": "ben"}, 422),
        ({"password": PASSWORD}, 422),
        ({"username": "ben", "login": "ben", "password": PASSWORD}, 422),
        ({"username": "ben", "password": 7}, 422),
    ):
        answer = await http.post("/register", json=fields)
        assert answer.status_code == status, fields
        assert answer.json()["detail"]


async def test_signing_in_is_answered_with_a_jwt(http: httpx.AsyncClient) -> None:
    await http.post("/register", json={"username": "ana", "password": PASSWORD})
    form = {"grant_type": "password", "username": "ana", "password": PASSWORD, "scope": "", "client_id": ""}
    for answer in (
        await http.post("/login", json={"username": "ana", "password": PASSWORD}),
        await http.post("/login", data={"username": "ana", "password": PASSWORD}),
        await http.post("/login", data=form, headers={"Authorization": "Basic Og=="}),
    ):
        assert answer.status_code == 200
        assert answer.headers["Cache-Control"] == "no-store"
        token = answer.json()
        assert token["token_type"] == "bearer"
        assert jwt.decode(token["access_token"], options={"verify_signature": False})["sub"] == "ana"
        assert (await http.get("/history", headers=bearer(token["access_token"]))).status_code == 200


async def test_wrong_credentials_are_refused(http: httpx.AsyncClient) -> None:
    await http.post("/register", json={"username": "ana", "password": PASSWORD})
    for fields in ({"username": "ana", "password": "not the password"}, {"username": "nobody", "password": PASSWORD}):
        assert (await http.post("/login", json=fields)).status_code == 401
        assert (await http.post("/login", data=fields)).status_code == 401


async def test_the_openapi_page_offers_to_authorize_with_a_password(http: httpx.AsyncClient) -> None:
    assert (await http.get("/docs")).status_code == 200
    document = (await http.get("/openapi.json")).json()
    flow = document["components"]["securitySchemes"]["password"]["flows"]["password"]
    await http.post("/register", json={"username": "ana", "password": PASSWORD})
    login = await http.post(flow["tokenUrl"], data={"username": "ana", "password": PASSWORD})
    assert {"password": []} in document["paths"]["/api/me"]["get"]["security"]
    assert (await http.get("/api/me", headers=bearer(login.json()["access_token"]))).status_code == 200


NONSENSE: list[tuple[str, bytes]] = [
    ("application/json", b""),
    ("application/json", b"{"),
    ("application/json", b"[]"),
    ("application/json", b'"\xff"'),
    ("application/json", b'{"username": {}, "password": []}'),
    ("application/json", b'{"username": "\\ud800", "password": "\\ud800\\ud800\\ud800"}'),
    ("application/x-www-form-urlencoded", b""),
    ("application/x-www-form-urlencoded", b"\xff=\xff"),
    ("application/x-www-form-urlencoded", b"username=%ff&password=%ff%ff%ff%ff%ff%ff%ff%ff"),
    ("application/x-www-form-urlencoded", b"username=ana&username=ben&password=correct+horse"),
    ("application/x-www-form-urlencoded", b"grant_type=client_credentials&username=ana&password=correct+horse"),
    ("application/x-www-form-urlencoded", b"&".join(b"a%d=1" % number for number in range(1000))),
    ("multipart/form-data; boundary=x", b"--x--"),
    ("text/plain", b"username=ana"),
]


@pytest.mark.parametrize("path", ["/register", "/login"])
async def test_malformed_http_bodies_are_refused(http: httpx.AsyncClient, path: str) -> None:
    for kind, body in NONSENSE:
        answer = await http.post(path, content=body, headers={"Content-Type": kind})
        assert answer.status_code in (401, 422), (kind, body, answer.text)
        assert answer.headers["Content-Type"] == "application/problem+json"
    answer = await http.post(path, content=b"x" * 300_000)
    assert answer.status_code == 413
    assert (await http.get(path)).status_code == 405


# -- links -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/echo_ws", "/pub_ws", "/history"])
async def test_links_and_history_need_a_valid_token(gateway: RunningNode, http: httpx.AsyncClient, path: str) -> None:
    token = await gateway.register("ana")
    user = await gateway.node.auth.user("ana")
    expired, _ = await gateway.node.auth.sign_in(user, -1000)
    assert (await http.get(path, headers=bearer(token))).status_code == 200
    assert (await http.get(path)).status_code == 401
    assert (await http.get(path, headers=bearer("wrong"))).status_code == 401
    assert (await http.get(path, headers=bearer(expired))).json()["code"] == "token_expired"
    await http.post("/api/logout", headers=bearer(token))
    assert (await http.get(path, headers=bearer(token))).json()["code"] == "token_revoked"


@pytest.mark.parametrize("channel", CHANNELS)
async def test_a_link_is_valid_for_its_channel_only_and_expires_soon(gateway: RunningNode, channel: str) -> None:
    token = await gateway.register("ana")
    address = urlsplit(await link(gateway.url, token, channel))
    assert f"http://{address.netloc}" == gateway.url
    assert address.path == f"/{channel}"
    ticket = parse_qs(address.query)["token"][0]
    claims = jwt.decode(ticket, options={"verify_signature": False})
    assert 0 < claims["exp"] - now_ms() / 1000 <= 300
    other = next(name for name in CHANNELS if name != channel)
    assert await refusal(f"ws://{address.netloc}/{other}?token={ticket}") == 401
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as http:
        for path in ("/history", "/api/me", f"/{channel}"):
            assert (await http.get(path, headers=bearer(ticket))).status_code == 401
    with pytest.raises(SocketIOConnectionError):
        await Client(gateway.url, ticket).connect()


@pytest.mark.parametrize("channel", CHANNELS)
async def test_a_channel_needs_a_valid_token_or_ticket(gateway: RunningNode, channel: str) -> None:
    token = await gateway.register("ana")
    user = await gateway.node.auth.user("ana")
    address = gateway.url.replace("http", "ws", 1) + f"/{channel}"
    expired, _ = await gateway.node.auth.sign_in(user, -1000)
    ticket = (await link(gateway.url, token, channel)).partition("token=")[2]
    for query in ("", "?token=", "?token=wrong", f"?token={expired}", f"?token={token}x", "?token=%ff"):
        assert await refusal(address + query) == 401, query
    async with opened(f"{address}?token={ticket}"), opened(f"{address}?token={token}"):
        pass
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as http:
        await http.post("/api/logout", headers=bearer(token))
    assert await refusal(f"{address}?token={token}") == 401
    assert await refusal(f"{address}?token={ticket}") == 401


@pytest.mark.parametrize("channel", CHANNELS)
async def test_the_end_of_a_session_closes_its_channels(
    gateway: RunningNode, channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await gateway.register("ana")
    user = await gateway.node.auth.user("ana")
    short, _ = await gateway.node.auth.sign_in(user, 3_600_000)
    by_link, by_token = await link(gateway.url, token, channel), await link(gateway.url, short, channel)
    timers = expiry_timers(monkeypatch, gateway)
    async with opened(by_link) as linked, opened(by_token) as direct:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as http:
            await http.post("/api/logout", headers=bearer(token))
        assert (await linked.refusal(), await linked.until_closed()) == ("token_revoked", 4401)
        timers.advance(3600)
        assert (await direct.refusal(), await direct.until_closed()) == ("token_expired", 4401)


async def test_a_channel_opened_by_a_link_stays_open_as_long_as_the_token(gateway: RunningNode) -> None:
    token = await gateway.register("ana")
    async with opened(await link(gateway.url, token, "echo_ws")) as ana:
        await ana.echo("hi")
        (connection,) = gateway.node.hub.connections
        exp = jwt.decode(token, options={"verify_signature": False})["exp"]
        assert connection.principal.expires_at == exp * 1000


# -- the echo channel ------------------------------------------------------------------------------------------------


async def test_the_echo_channel_returns_each_content(gateway: RunningNode) -> None:
    async with entered(gateway, "ana", "echo_ws") as ana:
        for content in ("hello", " ", '{"json": [1]}', "два слова", "a\nb", "👋" * 16_384):
            assert await ana.echo(content) == content
        for number in range(300):
            await ana.say(f"{number}")
        assert [await ana.receive() for _ in range(300)] == [*map(str, range(300))]


async def test_the_history_survives_the_channel_and_the_server(gateway: RunningNode) -> None:
    token = await gateway.register("ana")
    async with opened(await link(gateway.url, token, "echo_ws")) as ana:
        for content in ("one", "two"):
            await ana.echo(content)
        expected = [(direction, content) for content in ("one", "two") for direction in ("sent", "received")]
        assert await history(gateway.url, token) == expected
    await gateway.stop()
    await gateway.start()
    assert await history(gateway.url, token) == expected
    assert await history(gateway.url, await gateway.register("ben")) == []


async def test_a_long_history_is_answered_in_pages(gateway: RunningNode, http: httpx.AsyncClient) -> None:
    token = await gateway.register("ana")
    contents = [f"{number}" for number in range(2_600)]
    async with opened(await link(gateway.url, token, "echo_ws")) as ana:
        for at in range(0, len(contents), 200):
            for content in contents[at : at + 200]:
                await ana.say(content)
            assert [await ana.receive() for _ in range(200)] == contents[at : at + 200]
    newest = (await http.get("/history", headers=bearer(token))).json()
    assert len(newest["history"]) == 5_000
    older = (await http.get("/history", headers=bearer(token), params={"before": newest["next"]})).json()
    assert older["next"] is None
    whole = [entry["message"] for entry in older["history"] + newest["history"] if entry["direction"] == "sent"]
    assert whole == contents
    assert (await http.get("/history", headers=bearer(token), params={"before": "x"})).status_code == 404


async def test_in_proxy_mode_everything_from_the_upstream_is_delivered_and_stored_in_order(
    proxy: RunningNode, upstream: EchoServer
) -> None:
    async def talks(ws: Any, content: str) -> None:
        for reply in (f"{content} 1", f"{content} 2", "\0", f"{content} 3"):
            await ws.send(reply)

    upstream.greeting, upstream.behaviour = "welcome", talks
    token = await proxy.register("ana")
    async with opened(await link(proxy.url, token, "echo_ws")) as ana:
        assert await ana.receive() == "welcome"
        for content in ("a", "b"):
            await ana.say(content)
            assert [await ana.receive() for _ in range(3)] == [f"{content} 1", f"{content} 2", f"{content} 3"]
        await upstream.clients[0].send("unasked")
        assert await ana.receive() == "unasked"
    received = [content for direction, content in await history(proxy.url, token) if direction == "received"]
    assert received == ["welcome", "a 1", "a 2", "a 3", "b 1", "b 2", "b 3", "unasked"]


@pytest.mark.parametrize("channel", CHANNELS)
async def test_invalid_content_is_an_error_and_the_channel_stays(gateway: RunningNode, channel: str) -> None:
    async with entered(gateway, "ana", channel) as ana:
        for noise, code in (("", "invalid"), (b"bytes", "invalid"), ("\0", "invalid"), ("x" * 16_385, "too_large")):
            await ana.say(noise)
            assert await ana.refusal() == code
        await ana.say("still here")
        assert "still here" in await ana.receive()


async def test_an_echo_channel_gets_no_messages_of_rooms(gateway: RunningNode) -> None:
    token = await gateway.register("ana")
    async with (
        connected(gateway.url, token, device="laptop") as socketio,
        connected(gateway.url, await gateway.register("ben")) as ben,
    ):
        await socketio.ask("create", topic_name="news")
        async with opened(await link(gateway.url, token, "echo_ws")) as ana:
            await ana.echo("before")
            await ben.ask("subscribe", topic_name="news")
            await ben.ask("message", topic_name="news", content="not for the echo channel")
            await socketio.event("message")
            assert await ana.echo("after") == "after"
            await socketio.close()
            (news,) = (await ben.ask("get_rooms"))["rooms"]
            assert news["online"] == 1  # a user on the echo channel alone gets no messages
            assert await ana.echo("alone") == "alone"
