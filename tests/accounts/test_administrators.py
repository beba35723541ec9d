"""Actions of administrators, which nobody else may run."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import httpx
import pytest

from tests.support.client import DEADLINE_S, REGISTRY, Refused, connected
from tests.support.examples import example
from tests.support.node import NO_TLS, PASSWORD, RunningNode
from tidings.auth import keys
from tidings.auth.tokens import now_ms
from tidings.contract.permissions import KeyScope
from tidings_db.queries import users


async def _administrator(server: RunningNode) -> httpx.AsyncClient:
    """Root's client."""
    token = await server.register("root")
    user = await server.node.auth.user("root")
    await server.node.database.write(lambda conn: users.set_admin(conn, user.key, True))
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.AsyncClient(base_url=server.url, verify=NO_TLS, headers=headers, timeout=30)


@pytest.fixture
async def admin(server: RunningNode) -> AsyncIterator[httpx.AsyncClient]:
    async with await _administrator(server) as client:
        yield client


async def _pages(http: httpx.AsyncClient, path: str, field: str) -> list[dict[str, Any]]:
    """The items in `field` of all pages, one item per page."""
    items: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    for _ in range(20):
        page = (await http.get(path, params={"limit": "1", **after})).json()
        assert len(page[field]) <= 1
        items += page[field]
        if page["next"] is None:
            return items
        after = {"after": page["next"]}
    raise AssertionError("no last page")


async def test_administrators_list_disable_and_enable_users(server: RunningNode, admin: httpx.AsyncClient) -> None:
    token = await server.register("omar")
    await server.register("diego")
    async with connected(server.url, token) as omar:
        listed = await _pages(admin, "/api/admin/users", "users")
        assert [(user["username"], user["online"], user["disabled"], user["admin"]) for user in listed] == [
            ("diego", False, False, False),
            ("omar", True, False, False),
            ("root", False, False, True),
        ]
        assert (await admin.post("/api/admin/users/OMAR/disable")).json() == {}
        assert await omar.event("closing") == {"reason": "token_revoked", "reconnect": False}
        await asyncio.wait_for(omar.closed.wait(), DEADLINE_S)
    credentials = {"username": "omar", "password": PASSWORD}
    assert (await admin.post("/api/login", json=credentials)).status_code == 401
    listed = (await admin.get("/api/admin/users", params={"after": "diego"})).json()["users"]
    assert listed[0]["disabled"] is True
    assert (await admin.post("/api/admin/users/omar/enable")).json() == {}
    assert (await admin.post("/api/login", json=credentials)).status_code == 200
    old = await admin.get("/api/me", headers={"Authorization": f"Bearer {token}"})
    assert old.json()["code"] == "token_revoked", "a withdrawn session stays withdrawn"


async def test_a_deleted_topic_is_gone_and_its_name_is_free_immediately(
    server: RunningNode, admin: httpx.AsyncClient
) -> None:
    tokens = {name: await server.register(name) for name in ("omar", "diego", "satoshi")}
    async with connected(server.url, tokens["omar"]) as omar, connected(server.url, tokens["diego"]) as diego:
        for private in (False, True):
            room = await omar.ask("create", topic_name="noticias", is_private=private)
            if private:
                await omar.ask("invite", topic_name="noticias", username="diego")
                await omar.ask("create_invitation_link", topic_name="noticias")
            else:
                await diego.ask("subscribe", topic_name="noticias")
            sent = await diego.ask("message", topic_name="noticias", content="xyzzy")
            await omar.ask("mute", topic_name="noticias", username="diego")
            await omar.ask("ban", topic_name="noticias", username="satoshi")

            (topic,) = (await admin.get("/api/admin/topics")).json()["topics"]
            assert (topic["topic_name"], topic["is_private"], topic["members"]) == ("noticias", private, 2)
            assert (topic["online"], topic["messages"]) == (2, 1)
            assert (await admin.delete(f"/api/admin/topics/{room['room_id']}")).json() == {}
            for client in (omar, diego):
                removal = {"room_id": room["room_id"], "reason": "deleted"}
                await client.event("room_removed", lambda e, removal=removal: e == removal)
                assert (await client.ask("get_rooms"))["rooms"] == []
                assert (await client.ask("search", query="xyzzy"))["messages"] == []
                for action, fields in (
                    ("history", {"room_id": room["room_id"]}),
                    ("history", {"topic_name": "noticias"}),
                    ("message", {"room_id": room["room_id"], "content": "x"}),
                    ("message", {"topic_name": "noticias", "content": "x"}),
                    ("react", {"message_id": sent["id"], "emoji": "👍"}),
                    ("delete", {"message_id": sent["id"]}),
                    ("subscribe", {"topic_name": "noticias"}),
                ):
                    with pytest.raises(Refused) as refused:
                        await client.ask(action, fields)
                    assert refused.value.code == "not_found", (private, action, fields)
            repeated = await admin.delete(f"/api/admin/topics/{room['room_id']}")
            assert (repeated.status_code, repeated.json()["code"]) == (404, "not_found")

            new = await diego.ask("create", topic_name="noticias")
            assert (new["role"], new["last_seq"], new["members"]) == ("owner", 0, 1)
            assert new["room_id"] != room["room_id"]
            await omar.ask("subscribe", topic_name="noticias")
            assert (await diego.ask("message", topic_name="noticias", content="nuevo"))["seq"] == 1
            history = (await omar.ask("history", topic_name="noticias"))["messages"]
            assert [message["content"] for message in history] == ["nuevo"]
            assert (await omar.event("message", lambda m: m["content"] == "nuevo"))["room_id"] == new["room_id"]
            assert (await admin.delete(f"/api/admin/topics/{new['room_id']}")).json() == {}


async def test_administrators_cannot_delete_conversations(server: RunningNode, admin: httpx.AsyncClient) -> None:
    token = await server.register("omar")
    await server.register("diego")
    async with connected(server.url, token) as omar:
        for fields in ({"usernames": ["diego"]}, {"usernames": ["diego"], "title": "dos"}):
            room = await omar.ask("create_conversation", **fields)
            assert (await admin.delete(f"/api/admin/topics/{room['room_id']}")).status_code == 404
            await omar.ask("message", room_id=room["room_id"], content="still here")
        assert (await admin.get("/api/admin/topics")).json()["topics"] == []


async def test_an_administrator_finds_users_by_the_begin_of_a_name(lite: RunningNode) -> None:
    async with await _administrator(lite) as admin:
        for username in ("diego", "omar"):
            await lite.register(username)
        await admin.put("/api/users/ana", json={"display_name": "Ana Díaz"})
        for query, found in (("di", ["ana", "diego"]), ("DIA an", ["ana"]), ("mar", []), ("?!", [])):
            listed = (await admin.get("/api/admin/users", params={"query": query})).json()["users"]
            assert [user["username"] for user in listed] == found, query


async def test_the_last_administrator_is_not_locked_out(server: RunningNode, admin: httpx.AsyncClient) -> None:
    create = partial(keys.create, name="backend", scopes=[KeyScope.USERS], room_key=None, now=now_ms())
    key = {"Authorization": f"Bearer {await server.node.database.write(create)}"}
    disable = "/api/admin/users/root/disable"
    refused = [
        await admin.post(disable),
        await admin.delete("/api/admin/users/root"),
        await admin.post(disable, headers=key),
        await admin.post("/api/me/deactivate", json={"password": PASSWORD}),
        await admin.post("/api/me/delete", json={"password": PASSWORD}),
    ]
    assert [answer.json()["code"] for answer in refused] == ["conflict"] * 5
    await server.register("diego")
    diego = await server.node.auth.user("diego")
    await server.node.database.write(lambda conn: users.set_admin(conn, diego.key, True))
    assert (await admin.post(disable, headers=key)).json() == {}


async def test_of_two_administrators_who_disable_each_other_one_remains(server: RunningNode) -> None:
    tokens = {name: await server.register(name) for name in ("omar", "diego")}
    for name in tokens:
        user = await server.node.auth.user(name)
        await server.node.database.write(partial(users.set_admin, user_key=user.key, admin=True))
    async with httpx.AsyncClient(base_url=server.url, verify=NO_TLS, timeout=30) as http:
        paths = [f"/api/admin/users/{name}/disable" for name in ("diego", "omar")]
        await asyncio.gather(
            *(
                http.post(path, headers={"Authorization": f"Bearer {token}"})
                for path, token in zip(paths, tokens.values(), strict=True)
            )
        )
    assert [(await server.node.auth.user(name)).disabled for name in tokens].count(False) == 1


async def test_an_administrator_deletes_an_account_but_not_that_of_a_key(
    server: RunningNode, admin: httpx.AsyncClient
) -> None:
    async with connected(server.url, await server.register("omar")) as omar:
        assert (await admin.delete("/api/admin/users/omar")).json() == {}
        assert await omar.event("closing") == {"reason": "token_revoked", "reconnect": False}
    async with asyncio.timeout(DEADLINE_S):
        while (await admin.get("/api/users/omar")).status_code != 404:
            pass
    assert (await admin.post("/api/admin/keys", json={"username": "shop", "scopes": ["read"]})).status_code == 201
    assert (await admin.delete("/api/admin/users/shop")).json()["code"] == "conflict"


async def test_administrators_make_and_revoke_keys(server: RunningNode, admin: httpx.AsyncClient) -> None:
    key = (await admin.post("/api/admin/keys", json={"username": "shop", "scopes": ["read", "publish"]})).json()[
        "key"
    ]
    (listed,) = (await admin.get("/api/admin/keys")).json()["keys"]
    assert (listed["username"], listed["scopes"], listed["revoked_at"]) == ("shop", ["publish", "read"], None)
    assert key not in str(listed)
    async with connected(server.url, key) as shop:
        assert (await admin.delete(f"/api/admin/keys/{listed['key_id']}")).json() == {}
        assert await shop.event("closing") == {"reason": "token_revoked", "reconnect": False}
    (listed,) = (await admin.get("/api/admin/keys")).json()["keys"]
    assert listed["revoked_at"] is not None
    assert (await admin.delete(f"/api/admin/keys/{listed['key_id']}")).json()["code"] == "not_found"


async def test_administrators_list_topics_and_groups_with_their_size(
    server: RunningNode, admin: httpx.AsyncClient
) -> None:
    async with connected(server.url, await server.register("omar")) as omar:
        await server.register("diego")
        await omar.ask("create", topic_name="noticias", is_private=True)
        group = await omar.ask("create_conversation", usernames=["diego"], title="uno")
        await omar.ask("message", username="diego", content="between us")
        for _ in range(3):
            await omar.ask("message", topic_name="noticias", content="x" * 1000)
        listed = await _pages(admin, "/api/admin/rooms", "rooms")
        assert [(each["topic_name"], each["title"], each["messages"]) for each in listed] == [
            ("noticias", None, 3),
            (None, "uno", 0),
        ]
        assert 3000 <= listed[0]["size"] < 3500
        assert (await admin.delete(f"/api/rooms/{group['room_id']}")).json() == {}
        assert len(await _pages(admin, "/api/admin/rooms", "rooms")) == 1


async def test_what_administrators_change_is_in_the_audit_log(server: RunningNode, admin: httpx.AsyncClient) -> None:
    await server.register("omar")
    await admin.get("/api/admin/users")
    await admin.post("/api/admin/users/omar/reset-password")
    await admin.post("/api/admin/users/omar/disable")
    entries = (await admin.get("/api/audit")).json()["entries"]
    assert [(each["key"], each["action"], each["request"]) for each in entries] == [
        ("root", "admin_disable_user", {"username": "omar"}),
        ("root", "admin_reset_password", {"username": "omar"}),
    ]


async def test_administrators_see_how_the_server_is_doing(server: RunningNode, admin: httpx.AsyncClient) -> None:
    async with connected(server.url, await server.register("omar")) as omar:
        await omar.ask("create", topic_name="noticias")
        await omar.ask("message", topic_name="noticias", content="hola")
        await omar.event("message")
        health = (await admin.get("/api/admin/health")).json()
    assert (health["trouble"], health["degraded"], health["connections"], health["online_users"]) == (
        None,
        None,
        1,
        1,
    )
    assert 0 < health["commit_ms"] <= 10_000
    assert 0 < health["delivery_ms"] <= 10_000
    assert 0 < health["database_bytes"] < health["disk_bytes"]
    assert 0 < health["disk_free_bytes"] <= health["disk_bytes"]
    assert health["database_errors"] == 0


async def test_other_users_are_refused_every_administrative_action(lite: RunningNode) -> None:
    """The refusal precedes every lookup, so existing and unknown users are refused alike."""
    administrative = [action for action in REGISTRY if action.admin]
    assert all(action.admin for action in REGISTRY if "/api/admin/" in (action.http or ""))
    assert len(administrative) >= 5
    token = await lite.register("omar")
    await lite.register("diego")
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=lite.url, verify=NO_TLS, headers=headers, timeout=30) as http:
        for action in administrative:
            method, _, path = (action.http or "").partition(" ")
            for user in ("diego", "nobody"):
                named = path.format(
                    username=user, room_id="nowhere", webhook_id="none", link_id="none", key_id="none"
                )
                body = None
                if method in ("POST", "PUT"):
                    body = example(action, without=re.findall(r"{(\w+)}", path))
                refused = await http.request(method, named, json=body)
                assert (refused.status_code, refused.json()["code"]) == (403, "forbidden"), (action.name, user)
    await lite.login("diego")
