"""Keys of backends: what each scope allows, over every gateway; users and members by REST; the audit log."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import httpx
import pytest
from sqlalchemy.engine import Connection as Transaction

from tests.actions.conftest import People, code
from tests.support.backend_keys import Backend, make_key
from tests.support.client import Client, Refused, connected, plainly_connected
from tests.support.node import NO_TLS
from tidings.auth import keys
from tidings.auth.tokens import now_ms
from tidings.contract.permissions import KeyScope
from tidings_db.queries import users


async def backend(people: People, *scopes: KeyScope, **options: Any) -> Backend:
    return Backend(people.server.url, await make_key(people.server, *scopes, **options))


async def test_a_key_publishes_into_any_room_under_its_name_and_is_a_member_of_none(people: People) -> None:
    private = await people.omar.ask("create", topic_name="orders", is_private=True, posting="moderators")
    ref = {"room_id": private["room_id"]}
    await people.omar.ask("invite", **ref, username="diego")
    desk = await backend(people, KeyScope.PUBLISH, name="order-desk")
    for n in (1, 2):  # the second is a retry
        event = await desk.ask("POST", "/api/events", **ref, event="order.paid", data=n, client_id="17")
        assert event["seq"] == 2, n
    received = await people.diego.event("order.paid")
    assert (received["sender"], received["data"]) == ("order-desk", 1)
    sent = await desk.ask("POST", "/api/messages", **ref, content="paid")
    await desk.ask("PATCH", f"/api/messages/{sent['id']}", content="paid twice")
    assert (await people.diego.event("message_edited"))["message"]["sender"] == "order-desk"
    direct = await desk.ask("POST", "/api/messages", username="satoshi", content="hola")
    assert (await people.satoshi.event("message"))["id"] == direct["id"]
    members = (await people.omar.ask("get_members", **ref))["members"]
    assert [member["username"] for member in members] == ["diego", "omar"]
    other = await people.omar.ask("message", **ref, content="not the key's")
    assert await desk.code("PATCH", f"/api/messages/{other['id']}", content="x") == "forbidden"


REQUESTS: dict[KeyScope, list[tuple[str, str, dict[str, Any]]]] = {
    KeyScope.PUBLISH: [
        ("POST", "/api/messages", {"topic_name": "plaza", "content": "x"}),
        ("POST", "/api/events", {"topic_name": "plaza", "event": "x", "data": 1}),
    ],
    KeyScope.READ: [
        ("GET", "/api/messages", {"topic_name": "plaza"}),
        ("GET", "/api/events", {"topic_name": "plaza"}),
        ("GET", "/api/members", {"topic_name": "plaza"}),
        ("GET", "/api/users/omar", {}),
    ],
    KeyScope.ROOMS: [
        ("POST", "/api/topics", {"topic_name": "nueva"}),
        ("PUT", "/api/posting", {"topic_name": "plaza", "posting": "members"}),
        ("PUT", "/api/rooms/{plaza}/members/satoshi", {}),
        ("DELETE", "/api/rooms/{plaza}/members/satoshi", {}),
        ("DELETE", "/api/rooms/{old}", {}),
    ],
    KeyScope.USERS: [
        ("PUT", "/api/users/nuevo", {"display_name": "El Nuevo"}),
        ("POST", "/api/users/nuevo/token", {"minutes": 5}),
        ("DELETE", "/api/users/nuevo/sessions", {}),
        ("POST", "/api/admin/users/nuevo/disable", {}),
    ],
}
NOT_FOR_KEYS = [
    ("POST", "/api/me/password", {"password": "x", "new_password": "correct horse"}),
    ("POST", "/api/refresh", {}),
    ("POST", "/api/logout", {}),
    ("GET", "/api/me/export", {}),
    ("GET", "/api/audit", {}),
    ("GET", "/api/search", {"query": "x"}),
]


@pytest.mark.parametrize("scope", REQUESTS)
async def test_a_key_may_do_what_its_scope_says_and_is_told_the_scope_that_it_lacks(
    people: People, scope: KeyScope
) -> None:
    room_id = (await people.omar.ask("create", topic_name="plaza"))["room_id"]
    old = (await people.omar.ask("create_conversation", usernames=["diego"], title="old"))["room_id"]
    with_scope = await backend(people, scope, name="with")
    without = await backend(people, *(set(KeyScope) - {scope}), name="without")
    for method, path, fields in REQUESTS[scope]:
        named = path.format(plaza=room_id, old=old)
        with pytest.raises(Refused) as refused:
            await without.ask(method, named, **fields)
        assert (refused.value.code, refused.value.details.get("scope")) == ("forbidden", scope), path
        assert await with_scope.code(method, named, **fields) == "ok", path
    for method, path, fields in NOT_FOR_KEYS:
        assert await with_scope.code(method, path, **fields) == "forbidden", path


async def test_a_key_of_one_room_has_no_rights_in_another(people: People) -> None:
    first, second = [
        (await people.omar.ask("create", topic_name=name, is_private=True))["room_id"] for name in ("uno", "dos")
    ]
    hook = await backend(people, KeyScope.PUBLISH, KeyScope.READ, room_id=first)
    assert await hook.code("POST", "/api/events", room_id=first, event="x", data=1) == "ok"
    for method, path, fields in (
        ("POST", "/api/events", {"event": "x", "data": 1}),
        ("POST", "/api/messages", {"content": "x"}),
        ("GET", "/api/messages", {}),
    ):
        assert await hook.code(method, path, room_id=second, **fields) == "not_found", path


async def test_a_key_acts_as_a_user_with_that_users_rights_and_the_audit_log_says_so(people: People) -> None:
    room_id = (await people.omar.ask("create", topic_name="plaza", is_private=True))["room_id"]
    support = await backend(people, KeyScope.ACT, KeyScope.USERS, name="support")
    sent = await support.ask("POST", "/api/messages", act="Omar", room_id=room_id, content="for omar")
    assert (sent["sender"], (await people.omar.event("message"))["content"]) == ("omar", "for omar")
    assert await support.code("POST", "/api/messages", act="diego", room_id=room_id, content="x") == "not_found"
    assert await support.code("POST", "/api/messages", act="nobody", room_id=room_id, content="x") == "not_found"
    await support.ask("PUT", "/api/users/eva", display_name="Eva María")
    await support.ask("POST", "/api/admin/users/diego/disable")
    assert await support.code("GET", "/api/rooms", act="diego") == "forbidden"
    plain = await backend(people, KeyScope.READ, name="plain")
    assert await plain.code("GET", "/api/rooms", act="omar") == "forbidden"
    token = await people.server.node.auth.token_for("root")
    await people.server.node.database.write(_make_admin)
    assert await support.code("POST", "/api/users/root/token") == "forbidden", (
        "a key does not become an administrator"
    )
    assert await support.code("GET", "/api/audit", act="root") == "forbidden"
    headers = {"Authorization": f"Bearer {token[0]}"}
    async with httpx.AsyncClient(base_url=people.server.url, verify=NO_TLS, headers=headers) as http:
        pages = [(await http.get("/api/audit", params={"limit": 3})).json()]
        pages.append((await http.get("/api/audit", params={"limit": 3, "before": pages[0]["next"]})).json())
    entries = [(e["key"], e["username"], e["action"], e["request"]) for page in pages for e in page["entries"]]
    assert entries[::-1] == [
        ("support", "omar", "message", {"room_id": room_id}),
        ("support", "diego", "message", {"room_id": room_id}),
        ("support", None, "put_user", {"username": "eva", "display_name": "Eva María"}),
        ("support", None, "admin_disable_user", {"username": "diego"}),
        ("support", None, "create_token", {"username": "root"}),
        ("support", "root", "get_audit", {}),
    ]
    assert pages[1]["next"] is None


def _make_admin(conn: Transaction) -> None:
    user = users.by_key(conn, "root")
    assert user is not None
    users.set_admin(conn, user.key, True)


async def test_a_key_signs_users_in_and_out(people: People) -> None:
    idp = await backend(people, KeyScope.USERS)
    assert await idp.code("POST", "/api/users/eva/token") == "not_found"
    assert await idp.code("PUT", "/api/users/backend", display_name="x") == "conflict"  # its own, or another key's
    assert await idp.code("POST", "/api/users/backend/token") == "forbidden"
    profile = await idp.ask("PUT", "/api/users/eva", display_name="Eva María")
    assert (profile["username"], profile["display_name"]) == ("eva", "Eva María")
    for name, expected in (("", "invalid"), ("x" * 65, "invalid"), ("a\u202eb", "invalid"), (7, "invalid")):
        assert await idp.code("PUT", "/api/users/eva", display_name=name) == expected, name
    room = await people.omar.ask("create", topic_name="plaza")
    token = (await idp.ask("POST", "/api/users/eva/token", minutes=5))["token"]
    async with connected(people.server.url, token) as eva:
        assert eva.of("ready")[0]["display_name"] == "Eva María"
        await eva.ask("subscribe", topic_name="plaza")
        presence = await people.omar.event("presence", lambda payload: payload["username"] == "eva")
        assert presence["display_name"] == "Eva María"
        members = (await people.omar.ask("get_members", room_id=room["room_id"]))["members"]
        assert [member["display_name"] for member in members] == ["Eva María", None]
        await idp.ask("DELETE", "/api/users/eva/sessions")
        assert (await eva.event("closing"))["reason"] == "token_revoked"
    assert (await idp.ask("PUT", "/api/users/eva", display_name=None))["display_name"] is None


async def test_a_live_connection_with_a_key_ends_when_the_key_is_revoked(people: People) -> None:
    await people.omar.ask("create", topic_name="plaza")
    key = await make_key(people.server, KeyScope.PUBLISH)
    async with (
        connected(people.server.url, key, device="a") as live,
        plainly_connected(people.server.url, key, device="b") as plain,
    ):
        clients: Iterable[Client | Any] = (live, plain)
        for client in clients:
            await client.ask("publish", topic_name="plaza", event="x", data=1)
            assert await code(client, "history", topic_name="plaza") == "forbidden"
        database = people.server.node.database
        (row,) = await database.read(keys.keys.listed)
        await database.write(lambda conn: keys.revoke(conn, row.key_id, now_ms()))
        user = await people.server.node.auth.user("backend")
        people.server.node.sessions.look([(user.key, row.session_key)])  # otherwise within a minute
        for client in clients:
            await client.closed.wait()
    for attempt in (key, "tk_unknown", "tk_"):
        async with httpx.AsyncClient(base_url=people.server.url, verify=NO_TLS) as http:
            answer = await http.get("/api/rooms", headers={"Authorization": f"Bearer {attempt}"})
        assert answer.json()["code"] == ("token_revoked" if attempt == key else "unauthenticated")


async def test_a_key_moderates_without_being_a_member(people: People) -> None:
    room_id = (await people.omar.ask("create", topic_name="plaza"))["room_id"]
    await people.diego.ask("subscribe", topic_name="plaza")
    admin = await backend(people, KeyScope.ROOMS)
    ref = {"room_id": room_id}
    await admin.ask("PUT", f"/api/rooms/{room_id}/members/satoshi")
    assert (await people.satoshi.event("room_added"))["room"]["room_id"] == room_id
    await admin.ask("PUT", f"/api/rooms/{room_id}/members/satoshi")  # again: no change
    await admin.ask("PUT", "/api/roles", **ref, username="diego", role="owner")
    roles = {m["username"]: m["role"] for m in (await people.omar.ask("get_members", **ref))["members"]}
    assert roles == {"omar": "moderator", "diego": "owner", "satoshi": "member"}
    await admin.ask("DELETE", f"/api/rooms/{room_id}/members/diego")
    assert (await people.diego.event("room_removed"))["reason"] == "kicked"
    await admin.ask("DELETE", f"/api/rooms/{room_id}")
    assert (await people.omar.event("room_removed"))["reason"] == "deleted"
    direct = (await people.omar.ask("create_conversation", usernames=["diego"]))["room_id"]
    assert await admin.code("DELETE", f"/api/rooms/{direct}") == "not_found"
    assert await admin.code("PUT", f"/api/rooms/{direct}/members/satoshi") == "forbidden"
