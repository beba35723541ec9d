"""Sessions begin with a login, outlive tokens by refresh, and end everywhere when they are withdrawn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import socketio
from sqlalchemy import update

from tests.accounts.conftest import check_closed
from tests.delivery.support import expiry_timers
from tests.support.client import DEADLINE_S, Client, Refused, connected
from tests.support.node import PASSWORD, RunningNode, running_node
from tidings.auth.tokens import UNTIL_LOGOUT, now_ms
from tidings_db.models import sessions
from tidings_db.queries import users


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def _refusal(url: str, token: str) -> str:
    """The code with which a connection is refused."""
    client = Client(url, token)
    with pytest.raises(socketio.exceptions.ConnectionError):
        await client.connect()
    await client.close()
    code: str = client.refusal["data"]["code"]
    return code


async def test_register_login_me_refresh_and_logout_over_http(server: RunningNode, http: httpx.AsyncClient) -> None:
    registered = await http.post("/api/register", json={"username": "Omar", "password": PASSWORD})
    assert registered.status_code == 201
    assert registered.json().keys() == {"token", "expires_at", "user"}
    profile = registered.json()["user"]
    assert profile.keys() == {
        "username",
        "online",
        "last_seen",
        "created_at",
        "display_name",
        "status",
        "do_not_disturb_until",
        "picture",
    }
    assert (profile["username"], profile["online"], profile["last_seen"]) == ("Omar", False, None)

    login = await http.post("/api/login", json={"username": "omar", "password": PASSWORD})
    assert login.status_code == 200
    assert login.json()["user"] == profile
    headers = _bearer(login.json()["token"])
    me = await http.get("/api/me", headers=headers)
    assert (me.status_code, me.json()) == (200, {**profile, "admin": False, "folded": []})

    refreshed = await http.post("/api/refresh", headers=headers)
    assert refreshed.status_code == 200
    assert refreshed.json()["user"] == profile
    fresh = _bearer(refreshed.json()["token"])
    assert (await http.get("/api/me", headers=headers)).status_code == 200  # the old token is valid until its exp
    assert (await http.get("/api/me", headers=fresh)).status_code == 200

    logout = await http.post("/api/logout", headers=fresh)
    assert (logout.status_code, logout.content) == (204, b"")
    for token in (headers, fresh):  # both belong to the same session
        for method, path in (("GET", "/api/me"), ("POST", "/api/refresh"), ("POST", "/api/logout")):
            answer = await http.request(method, path, headers=token)
            assert (answer.status_code, answer.json()["code"]) == (401, "token_revoked")
    assert (await http.get("/api/me", headers=_bearer(registered.json()["token"]))).status_code == 200


async def test_a_profile_shows_whether_its_user_is_online_or_when_last_seen(
    server: RunningNode, http: httpx.AsyncClient
) -> None:
    headers = _bearer(await server.register("omar"))
    token = await server.register("diego")
    async with connected(server.url, token):
        assert (await http.get("/api/users/diego", headers=headers)).json()["online"] is True
    async with asyncio.timeout(30):
        while (profile := (await http.get("/api/users/diego", headers=headers)).json())["last_seen"] is None:
            pass  # each query is a round trip; `last_seen` is written after the connection has closed
    assert profile["online"] is False
    for unknown in ("nobody", "two words", "x" * 100, "%E2%80%AE"):
        answer = await http.get(f"/api/users/{unknown}", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert (await http.get("/api/users/omar")).status_code == 401


@pytest.mark.parametrize("how", ["rest", "live"])
async def test_logging_out_closes_the_sessions_connections_and_no_others(
    server: RunningNode, http: httpx.AsyncClient, how: str
) -> None:
    token, second_token = await server.register("omar"), await server.login("omar")
    diego = await server.register("diego")
    async with (
        connected(server.url, token, device="laptop") as first,
        connected(server.url, token, device="phone") as second,
        connected(server.url, second_token, device="tablet") as third,
        connected(server.url, diego) as fourth,
    ):
        room = await third.ask("create", topic_name="noticias")
        await first.event("room_added")
        if how == "rest":
            assert (await http.post("/api/logout", headers=_bearer(token))).status_code == 204
        else:
            assert await first.ask("logout") == {}
        await asyncio.gather(*(check_closed(client, "token_revoked") for client in (first, second)))
        assert await _refusal(server.url, token) == "token_revoked"

        await third.ask("message", room_id=room["room_id"], content="still here")
        await third.event("message")
        await fourth.ask("get_rooms")
        assert not third.closed.is_set()
        assert not fourth.closed.is_set()
        assert first.of("message") == second.of("message") == []


HOUR_S = 3600


async def _short(server: RunningNode, username: str, seconds: int) -> str:
    """A token that expires in `seconds`, or up to a second earlier."""
    auth = server.node.auth
    token, _ = await auth.sign_in(await auth.user(username), seconds * 1000)
    return token


async def test_a_connection_closes_at_its_tokens_expiry_unless_it_authenticates_again(
    server: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = await server.register("omar")
    token = await _short(server, "omar", HOUR_S)
    timers = expiry_timers(monkeypatch, server)
    async with connected(server.url, token, device="laptop") as expiring, connected(server.url, token) as kept:
        answer = await kept.ask("authenticate", token=fresh)
        assert answer.keys() == {"token_expires_at"}
        assert answer["token_expires_at"] > expiring.of("ready")[0]["token_expires_at"]
        timers.advance(HOUR_S)
        await check_closed(expiring, "token_expired")
        assert await _refusal(server.url, await _short(server, "omar", -1)) == "token_expired"
        # The connection has outlived its first token.
        await kept.ask("create", topic_name="noticias")
        assert not kept.closed.is_set()
        assert kept.of("closing") == []


async def test_a_shorter_token_closes_the_connection_sooner(
    lite: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    timers = expiry_timers(monkeypatch, lite)
    async with connected(lite.url, await lite.register("omar")) as omar:
        await omar.ask("authenticate", token=await _short(lite, "omar", HOUR_S))
        timers.advance(HOUR_S)
        await check_closed(omar, "token_expired")


async def test_authenticate_refuses_other_users_and_bad_tokens_and_changes_nothing(
    server: RunningNode, http: httpx.AsyncClient
) -> None:
    token, diego = await server.register("omar"), await server.register("diego")
    withdrawn = await server.login("omar")
    await http.post("/api/logout", headers=_bearer(withdrawn))
    async with connected(server.url, token) as omar:
        for bad, code in (
            (diego, "forbidden"),
            (withdrawn, "token_revoked"),
            (await _short(server, "omar", -1), "token_expired"),
            ("nonsense", "unauthenticated"),
            ("", "invalid"),
            (None, "invalid"),
        ):
            with pytest.raises(Refused) as refused:
                await omar.ask("authenticate", token=bad)
            assert refused.value.code == code
        room = await omar.ask("create", topic_name="noticias")
        sent = await omar.ask("message", room_id=room["room_id"], content="as myself")
        assert sent["sender"] == "omar"
        assert not omar.closed.is_set()


async def test_a_connection_belongs_to_the_session_of_its_latest_token(
    server: RunningNode, http: httpx.AsyncClient
) -> None:
    first, second = await server.register("omar"), await server.login("omar")
    async with connected(server.url, first) as omar:
        await omar.ask("authenticate", token=second)
        await http.post("/api/logout", headers=_bearer(first))
        await omar.ask("get_rooms")
        assert not omar.closed.is_set()
        await http.post("/api/logout", headers=_bearer(second))
        await check_closed(omar, "token_revoked")


@pytest.fixture
async def watchful(database_url: str, tmp_path: Path) -> AsyncIterator[RunningNode]:
    """A node that checks for withdrawn sessions every 50 ms."""
    async with running_node(database_url, tmp_path, options={"session_check_s": 0.05}) as node:
        yield node


async def test_a_session_withdrawn_by_another_process_loses_its_connections(watchful: RunningNode) -> None:
    """This node gets no notice of it."""
    token, second_token = await watchful.register("omar"), await watchful.login("omar")
    principal = await watchful.node.auth.authenticate(token)
    async with (
        connected(watchful.url, token) as revoked,
        connected(watchful.url, second_token, device="phone") as kept,
    ):
        await watchful.node.database.write(
            lambda conn: users.revoke_session(conn, principal.session_key, now_ms()),
        )
        await check_closed(revoked, "token_revoked")
        assert await _refusal(watchful.url, token) == "token_revoked"
        await kept.ask("get_rooms")
        assert not kept.closed.is_set()


async def test_sessions_and_their_withdrawal_survive_a_restart(server: RunningNode) -> None:
    token, withdrawn = await server.register("omar"), await server.login("omar")
    async with connected(server.url, withdrawn) as omar:
        await omar.ask("logout")
        await check_closed(omar, "token_revoked")
    await server.stop()
    await server.start()
    async with connected(server.url, token) as omar:
        await omar.ask("get_rooms")
    assert await _refusal(server.url, withdrawn) == "token_revoked"


DAY_MS = 86_400_000


async def _began(server: RunningNode, token: str, days_ago: float) -> int:
    """Backdate the session of a token; returns its new beginning (ms)."""
    principal = await server.node.auth.authenticate(token)
    begun = now_ms() - round(days_ago * DAY_MS)
    change = update(sessions).where(sessions.c.id == principal.session_key).values(created_at=begun)
    await server.node.database.write(lambda conn: conn.execute(change))
    return begun


async def test_a_session_ends_at_its_maximum_age_however_often_it_is_refreshed(
    database_url: str, tmp_path: Path
) -> None:
    async with running_node(database_url, tmp_path, session_days=30) as node:
        token = await node.register("omar")
        auth, principal = node.node.auth, await node.node.auth.authenticate(token)

        async def refreshed(days_ago: float) -> tuple[int, int]:
            """Refresh a session of that age; returns its beginning and the expiry of the fresh token."""
            begun = await _began(node, token, days_ago)
            # The last token of so old a session has expired.
            change = update(sessions).where(sessions.c.id == principal.session_key).values(expires_at=begun)
            await node.node.database.write(lambda conn: conn.execute(change))
            fresh, expires_at = await auth.refresh(principal)
            if expires_at > now_ms():
                assert (await auth.authenticate(fresh)).expires_at == expires_at
            return begun, expires_at

        assert (await refreshed(28.5))[1] > now_ms() + 0.9 * DAY_MS
        for days_ago in (29.5, 30.5):
            begun, expires_at = await refreshed(days_ago)
            assert begun + 30 * DAY_MS - 1000 <= expires_at <= begun + 30 * DAY_MS


@pytest.mark.parametrize("days", [0, 30])
async def test_a_session_of_the_messenger_lasts_as_long_as_it_is_used(
    database_url: str, tmp_path: Path, days: int
) -> None:
    async with (
        running_node(database_url, tmp_path, session_days=days) as node,
        httpx.AsyncClient(base_url=node.url, timeout=30) as http,
    ):
        account, auth = {"Username": "omar", "Password": PASSWORD}, node.node.auth
        tokens = [(await http.post(path, json=account)).json()["Data"] for path in ("/user", "/user/login")]
        used, unused = [await auth.authenticate(token) for token in tokens]
        assert used.expires_at == unused.expires_at == UNTIL_LOGOUT
        for token in tokens:
            await _began(node, token, 100)
        await node.node.database.write(lambda conn: users.note_use(conn, [used.session_key], now_ms() - 29 * DAY_MS))
        await node.node.purge.run_once(now_ms())
        answers = [await http.get("/conversation", headers=_bearer(token)) for token in tokens]
        assert [answer.status_code for answer in answers] == [200, 200 if days == 0 else 401]
        assert await auth.is_signed_in("omar", viewer=used)

        await auth.logout(used)
        assert (await http.get("/conversation", headers=_bearer(tokens[0]))).status_code == 401


async def test_sessions_show_their_last_use_and_whether_they_are_connected(watchful: RunningNode) -> None:
    first, second = await watchful.register("omar"), await watchful.login("omar")
    days_ago = [await _began(watchful, token, 3) for token in (first, second)]
    async with httpx.AsyncClient(base_url=watchful.url, timeout=30) as http:

        async def listed() -> list[dict[str, Any]]:
            answer = await http.get("/api/sessions", headers=_bearer(second))
            sessions_shown: list[dict[str, Any]] = answer.json()["sessions"]
            return sessions_shown

        async with connected(watchful.url, second, device="phone"), asyncio.timeout(DEADLINE_S):
            while (shown := await listed())[0]["last_used_at"] == shown[0]["created_at"]:
                pass  # each query is a round trip; the use is recorded in the background
        assert [session["current"] for session in shown] == [True, False]
        assert [session["online"] for session in shown] == [True, False]
        used = [datetime.fromisoformat(session["last_used_at"]).timestamp() * 1000 for session in shown]
        assert abs(used[0] - now_ms()) < 60_000
        assert abs(used[1] - days_ago[0]) < 60_000
