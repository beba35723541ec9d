"""Actions of administrators, which nobody else may run."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.support.client import DEADLINE_S, REGISTRY, Refused, connected
from tests.support.examples import example
from tests.support.node import NO_TLS, PASSWORD, RunningNode
from tidings_db.queries import users


@pytest.fixture
async def admin(server: RunningNode) -> AsyncIterator[httpx.AsyncClient]:
    """Root's client."""
    token = await server.register("root")
    user = await server.node.auth.user("root")
    await server.node.database.write(lambda conn: users.set_admin(conn, user.key, True))
    async with httpx.AsyncClient(
        base_url=server.url, verify=NO_TLS, headers={"Authorization": f"Bearer {token}"}, timeout=30
    ) as client:
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
                named = path.format(username=user, room_id="nowhere", webhook_id="none", link_id="none")
                body = None
                if method == "POST":
                    body = example(action, without=re.findall(r"{(\w+)}", path))
                refused = await http.request(method, named, json=body)
                assert (refused.status_code, refused.json()["code"]) == (403, "forbidden"), (action.name, user)
    await lite.login("diego")
