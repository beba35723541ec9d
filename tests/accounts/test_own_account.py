"""Users change their password, list and end their sessions, and deactivate their account."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from tests.accounts.conftest import check_closed
from tests.actions.conftest import code
from tests.support.client import connected
from tests.support.node import PASSWORD, RunningNode, running_node

NEW = "another password"


async def _status(http: httpx.AsyncClient, token: str) -> int:
    return (await http.get("/api/me", headers={"Authorization": f"Bearer {token}"})).status_code


async def _login(http: httpx.AsyncClient, password: str) -> int:
    return (await http.post("/api/login", json={"username": "omar", "password": password})).status_code


async def test_changing_the_password_withdraws_every_other_session(
    server: RunningNode, http: httpx.AsyncClient
) -> None:
    own, other, unused = await server.register("omar"), await server.login("omar"), await server.login("omar")
    diego = await server.register("diego")
    async with (
        connected(server.url, own, device="laptop") as laptop,
        connected(server.url, own, device="tablet") as tablet,
        connected(server.url, other, device="phone") as phone,
        connected(server.url, diego) as bystander,
    ):
        assert await code(laptop, "change_password", password="wrong password", new_password=NEW) == "forbidden"
        assert await code(laptop, "change_password", password=PASSWORD, new_password="short") == "invalid"
        assert await code(laptop, "change_password", password=PASSWORD, new_password="x" * 73) == "invalid"
        await phone.ask("get_rooms")
        assert await laptop.ask("change_password", password=PASSWORD, new_password=NEW) == {}
        await check_closed(phone)
        for client in (laptop, tablet, bystander):
            await client.ask("get_rooms")
            assert not client.closed.is_set()
    assert [await _status(http, token) for token in (own, other, unused)] == [200, 401, 401]
    assert (await _login(http, PASSWORD), await _login(http, NEW)) == (401, 200)


async def test_guesses_of_the_own_password_are_limited_per_session(sqlite_url: str, tmp_path: Path) -> None:
    """A thief with a stolen token can neither guess the password nor stop the owner from changing it."""
    async with running_node(sqlite_url, tmp_path, rate_limits="on", rates="logins=10/hour") as node:
        stolen, own = await node.register("omar"), await node.login("omar")
        async with connected(node.url, stolen) as thief, connected(node.url, own) as omar:
            for attempt in range(10):
                action, fields = ("change_password", {"new_password": NEW}) if attempt % 2 else ("deactivate", {})
                assert await code(thief, action, password=f"guess {attempt}", **fields) == "forbidden"
            assert await code(thief, "change_password", password=PASSWORD, new_password=NEW) == "rate_limited"
            assert await code(thief, "deactivate", password=PASSWORD) == "rate_limited"
            await thief.ask("get_rooms")
            assert await omar.ask("change_password", password=PASSWORD, new_password=NEW) == {}
            await check_closed(thief)


async def test_a_device_can_withdraw_another_devices_session(server: RunningNode, http: httpx.AsyncClient) -> None:
    first = await server.register("omar")
    agent = {"User-Agent": "Tidings für Omar\xad/1.0 " + "x" * 300}
    raw = {name: value.encode("latin-1") for name, value in agent.items()}
    answer = await http.post("/api/login", json={"username": "omar", "password": PASSWORD}, headers=raw)
    second = answer.json()["token"]
    diego = await server.register("diego")
    async with (
        connected(server.url, first, device="laptop") as laptop,
        connected(server.url, second, device="phone") as phone,
        connected(server.url, diego) as stranger,
    ):
        listed = (await laptop.ask("get_sessions"))["sessions"]
        assert [session["current"] for session in listed] == [False, True]
        assert listed[0]["user_agent"].startswith("Tidings für Omar/1.0 xxx")
        assert len(listed[0]["user_agent"]) <= 200
        assert listed[1]["user_agent"].startswith("python-httpx/")
        assert [session["current"] for session in (await phone.ask("get_sessions"))["sessions"]] == [True, False]
        assert await code(stranger, "revoke_session", session_id=listed[0]["session_id"]) == "not_found"
        await phone.ask("get_rooms")

        assert await laptop.ask("revoke_session", session_id=listed[0]["session_id"]) == {}
        await check_closed(phone)
        assert [await _status(http, token) for token in (first, second)] == [200, 401]
        assert (await laptop.ask("get_sessions"))["sessions"] == listed[1:]
        assert await code(laptop, "revoke_session", session_id=listed[0]["session_id"]) == "not_found"
        assert await laptop.ask("revoke_session", session_id=listed[1]["session_id"]) == {}, (
            "a session can revoke itself"
        )
        await check_closed(laptop)


async def test_a_deactivated_account_cannot_sign_in_and_its_messages_remain(
    server: RunningNode, http: httpx.AsyncClient
) -> None:
    first, second = await server.register("omar"), await server.login("omar")
    diego = await server.register("diego")
    async with (
        connected(server.url, first, device="laptop") as laptop,
        connected(server.url, second, device="phone") as phone,
        connected(server.url, diego) as stranger,
    ):
        await laptop.ask("create", topic_name="noticias")
        await stranger.ask("subscribe", topic_name="noticias")
        sent = await laptop.ask("message", topic_name="noticias", content="hola")
        assert await code(laptop, "deactivate", password="wrong password") == "forbidden"
        assert await laptop.ask("deactivate", password=PASSWORD) == {}
        await asyncio.gather(check_closed(laptop), check_closed(phone))
        assert [await _status(http, token) for token in (first, second)] == [401, 401]
        assert await _login(http, PASSWORD) == 401
        taken = await http.post("/api/register", json={"username": "omar", "password": PASSWORD})
        assert taken.status_code == 409
        (message,) = (await stranger.ask("history", topic_name="noticias"))["messages"]
        assert (message["id"], message["sender"], message["content"]) == (sent["id"], "omar", "hola")
