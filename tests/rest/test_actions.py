"""Every action with a route works over REST as over a live connection, and reaches connected members."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from tests.rest.problems import problem
from tests.support.client import REGISTRY, Client, Refused, connected
from tests.support.examples import beside_the_room
from tests.support.node import NO_TLS, PASSWORD, RunningNode
from tidings.contract.actions import SubjectInRoom
from tidings_db.queries import users

ROUTED = [action for action in REGISTRY if action.http is not None]


class Caller:
    """Requests actions over REST by the registry's routes, and checks the answers against the contract."""

    asked: set[str]

    def __init__(self, http: httpx.AsyncClient, token: str | None) -> None:
        self.asked = set()
        self._http = http
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    async def raw(self, name: str, /, **fields: Any) -> httpx.Response:
        action = REGISTRY.get(name)
        assert action is not None
        assert action.http is not None, f"{name} has no route"
        method, path = action.http.split(" ", 1)
        for field in list(fields):
            if f"{{{field}}}" in path:
                path = path.replace(f"{{{field}}}", str(fields.pop(field)))
        if method in ("GET", "DELETE"):
            return await self._http.request(method, path, params=fields, headers=self._headers)
        return await self._http.request(method, path, json=fields, headers=self._headers)

    async def ask(self, name: str, /, **fields: Any) -> Any:
        action = REGISTRY.get(name)
        assert action is not None
        answer = await self.raw(name, **fields)
        assert answer.status_code == action.status, answer.text
        self.asked.add(name)
        if action.status == 204:
            assert answer.content == b""
            return None
        assert answer.headers["Content-Type"] == "application/json"
        action.response.model_validate(answer.json())
        return answer.json()


async def test_every_action_with_a_route_works_over_it_and_reaches_live_connections(server: RunningNode) -> None:
    async with httpx.AsyncClient(base_url=server.url, verify=NO_TLS, timeout=30) as http:
        anyone = Caller(http, None)
        diego = await anyone.ask("register", username="diego", password=PASSWORD)
        await anyone.ask("register", username="omar", password=PASSWORD)
        omar = Caller(http, (await anyone.ask("login", username="omar", password=PASSWORD))["token"])
        async with connected(server.url, diego["token"]) as live:
            public = await omar.ask("create", topic_name="noticias")
            private = await omar.ask("create", topic_name="secreto", is_private=True)
            other = Caller(http, diego["token"])
            await other.ask("subscribe", topic_name="noticias")
            await omar.ask("invite", room_id=private["room_id"], username="diego")
            added = [(await live.event("room_added"))["room"]["topic_name"] for _ in range(2)]
            assert added == ["noticias", "secreto"]

            sent = await omar.ask("message", topic_name="noticias", content="over REST", client_id="once")
            again = await omar.ask("message", topic_name="noticias", content="over REST", client_id="once")
            assert again == sent
            direct = await omar.ask("message", username="diego", content="just you", reply_to=None)
            received = [await live.event("message") for _ in range(2)]
            assert [message["id"] for message in received] == [sent["id"], direct["id"]]
            assert received[0] == sent | {"client_id": None}  # shown to its sender only

            history = await other.ask("history", topic_name="noticias", limit=10)
            assert [message["id"] for message in history["messages"]] == [sent["id"]]
            assert (await other.ask("read", room_id=public["room_id"], seq=sent["seq"])) == {"unread": 0}
            rooms = await omar.ask("get_rooms", kind="topic", member="true", limit="1")
            assert [room["topic_name"] for room in rooms["rooms"]] == ["noticias"]
            rooms = await omar.ask("get_rooms", after=rooms["next"])
            assert [room["kind"] for room in rooms["rooms"]] == ["topic", "direct"]
            members = await omar.ask("get_members", topic_name="noticias")
            assert [(member["username"], member["online"]) for member in members["members"]] == [
                ("diego", True),
                ("omar", False),
            ]
            (receipt,) = (await omar.ask("get_receipts", topic_name="noticias"))["receipts"]
            assert (receipt["username"], receipt["read_seq"]) == ("diego", sent["seq"])
            entered = await omar.ask("connect_to_room", roomName="noticias")
            assert entered["usernames"] == ["diego"]
            assert (await omar.ask("get_profile", username="diego"))["online"] is True
            assert (await omar.ask("me"))["username"] == "omar"
            assert (await omar.ask("preview_topic", topic_name="noticias"))["is_member"] is True
            shown = await omar.ask("set_profile", display_name="Omar García", status={"text": "here"})
            assert (await live.event("profile"))["status"] == shown["status"]
            assert [user["username"] for user in (await other.ask("get_users", query="gar"))["users"]] == ["omar"]
            await server.node.indexer.caught_up()
            found = await other.ask("search", query="REST", topic_name="noticias", limit=1)
            assert [message["id"] for message in found["messages"]] == [sent["id"]]

            upload = await omar.ask("create_upload", name="a.txt", size=4)
            assert await omar.ask("get_files", file_ids=[upload["id"]]) == {"files": []}
            assert await omar.ask("delete_upload", file_id=upload["id"]) == {}

            nothing = {"previews": [], "pending": []}
            assert await other.ask("get_previews", message_ids=[sent["id"]]) == nothing

            await other.ask("unsubscribe", topic_name="noticias")
            assert (await live.event("room_removed"))["room_id"] == public["room_id"]
            await omar.ask("message", topic_name="noticias", content="after you left")
            await omar.ask("message", room_id=private["room_id"], content="the barrier")
            await live.until(lambda: "the barrier" in live.contents())
            assert "after you left" not in live.contents()

            assert await omar.ask("echo", content="hola") == {"content": "hola"}
            assert len((await omar.ask("echo_history", limit="2"))["entries"]) == 2
            assert (await other.ask("get_pending", limit="1"))["next"] is not None
            assert await other.ask("clear_pending") == {}
            assert (await other.ask("get_pending"))["rooms"] == []
            assert (await omar.raw("export")).status_code == 200
            omar.asked.add("export")
            await _change_a_message(omar, other, live)
            await _converse_and_moderate(omar, other, live)
            await _request_the_rest(omar, omar.asked | other.asked, live)
            await omar.ask("refresh")
            await _manage_the_account(omar, anyone)
            await server.node.database.write(lambda conn: users.set_admin(conn, 1, True))
            await _administrate(other, private["room_id"])
            await omar.ask("logout")
            problem(await omar.raw("me"), "token_revoked")
            await other.ask("admin_disable_user", username="omar")
            problem(await omar.raw("login", username="omar", password="another password"), "unauthenticated")
            await other.ask("admin_enable_user", username="omar")
            await anyone.ask("login", username="omar", password="another password")
            link = await other.ask("admin_reset_password", username="omar")
            again = await anyone.ask("reset_password", code=link["code"], new_password="a third password")
            gone = Caller(http, again["token"])
            await gone.ask("delete_account", password="a third password")
            await server.node.database.write(lambda conn: users.set_admin(conn, 1, False))
            await other.ask("deactivate", password=PASSWORD)
            await asyncio.wait_for(live.closed.wait(), 30)
            routed = {action.name for action in ROUTED}
            assert anyone.asked | omar.asked | other.asked | gone.asked == routed


async def _change_a_message(omar: Caller, diego: Caller, live: Client) -> None:
    sent = await omar.ask("message", topic_name="secreto", content="uno")
    edited = await omar.ask("edit", message_id=sent["id"], content="dos")
    assert (await live.event("message_edited"))["message"] == edited
    reacted = await diego.ask("react", message_id=sent["id"], emoji="👍")
    assert reacted["reactions"] == {"👍": ["diego"]}
    assert (await live.event("reaction"))["message"] == reacted
    reply = await omar.ask("message", topic_name="secreto", content="tres", thread=sent["id"])
    assert (await live.event("message", lambda message: message.get("thread") == sent["id"])) == reply
    (thread,) = (await omar.ask("get_threads"))["threads"]
    assert (thread["message"]["replies"], thread["unread"]) == (1, 0)
    assert await omar.ask("delete", message_id=sent["id"]) == {}
    assert (await live.event("message_deleted"))["message"]["content"] == ""


async def _converse_and_moderate(omar: Caller, diego: Caller, live: Client) -> None:
    group = await omar.ask("create_conversation", usernames=["diego"], title="uno")
    ref = {"room_id": group["room_id"]}
    link = await omar.ask("create_invitation_link", **ref)
    assert await omar.ask("get_invitation_links", **ref) == {"links": [link], "next": None}
    them = {**ref, "username": "diego"}
    await omar.ask("set_role", **them, role="moderator")
    await omar.ask("mute", **them, duration=600)
    problem(await diego.raw("message", **ref, content="x"), "forbidden")
    await omar.ask("kick", **them)
    assert await live.event("room_removed", lambda e: e["reason"] == "kicked")
    assert (await diego.ask("join_by_link", code=link["code"]))["role"] == "member"
    theirs = await omar.ask("message", **ref, content="x")
    assert await diego.ask("report", message_id=theirs["id"], reason="an advertisement") == {}
    (report,) = (await omar.ask("get_reports", **ref))["reports"]
    assert await omar.ask("close_report", report_id=report["report_id"]) == {}
    assert await omar.ask("delete_invitation_link", code=link["code"]) == {}
    problem(await diego.raw("join_by_link", code=link["code"]), "not_found")
    await omar.ask("remove_member", **them)
    assert await omar.ask("add_member", **them) == {}
    await omar.ask("ban", **them)
    assert [ban["username"] for ban in (await omar.ask("get_bans", **ref, limit=5))["bans"]] == ["diego"]
    await omar.ask("unban", **them)
    assert (await omar.ask("get_bans", **ref))["bans"] == []

    await diego.ask("block", username="omar")
    assert (await diego.ask("get_blocks"))["usernames"] == ["omar"]
    problem(await omar.raw("message", username="diego", content="x"), "forbidden")
    await diego.ask("unblock", username="omar")
    await omar.ask("message", username="diego", content="x")


async def _request_the_rest(omar: Caller, asked: set[str], live: Client) -> None:
    """Request each remaining action on a room or a message, with the documents' example as its payload."""
    for action in ROUTED:
        fields = action.request.model_fields.keys()
        if action.name in asked or action.admin or not fields & {"room_id", "message_id"}:
            continue
        group = await omar.ask("create_conversation", usernames=["diego"], title="uno")
        streams = action.name == "append"
        sent = await omar.ask("message", room_id=group["room_id"], content="" if streams else "hola", stream=streams)
        named = {"room_id": group["room_id"], "message_id": sent["id"]}
        if issubclass(action.request, SubjectInRoom):
            named["username"] = "diego"
        await omar.ask(action.name, **beside_the_room(action) | {name: named[name] for name in named.keys() & fields})
        (room,) = [
            listed for listed in (await omar.ask("get_rooms"))["rooms"] if listed["room_id"] == group["room_id"]
        ]
        await live.until(lambda room=room: _has_arrived(live, room))  # type: ignore[misc]


def _has_arrived(live: Client, room: dict[str, Any]) -> bool:
    """Whether the newest entry of the room has arrived."""
    seqs = (data["seq"] for _, data in live.events if data.get("room_id") == room["room_id"] and data.get("seq"))
    return room["last_seq"] in seqs


async def _manage_the_account(omar: Caller, anyone: Caller) -> None:
    assert await anyone.ask("get_registration") == {"registration": "open"}
    await anyone.ask("login", username="omar", password=PASSWORD)
    sessions = (await omar.ask("get_sessions"))["sessions"]
    assert [session["current"] for session in sessions] == [False, True, False]
    assert sessions[0]["user_agent"] == f"python-httpx/{httpx.__version__}"
    await omar.ask("revoke_session", session_id=sessions[0]["session_id"])
    assert (await omar.ask("get_sessions"))["sessions"] == sessions[1:]
    keys = {
        "p256dh": "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
        "auth": "BTBZMqHH6r4Tts7J_aSIgg",
    }
    subscribed = await omar.ask("subscribe_push", endpoint="https://push.invalid/", keys=keys)
    assert (await omar.ask("get_push"))["subscriptions"] == [subscribed]
    await omar.ask("unsubscribe_push", subscription_id=subscribed["subscription_id"])
    await omar.ask("change_password", password=PASSWORD, new_password="another password")
    assert (await omar.ask("get_sessions"))["sessions"] == sessions[1:2]


async def _administrate(diego: Caller, private_id: str) -> None:
    users_ = (await diego.ask("admin_get_users", limit=10))["users"]
    assert [(user["username"], user["admin"]) for user in users_] == [("diego", True), ("omar", False)]
    topics = (await diego.ask("admin_get_topics"))["topics"]
    assert [topic["topic_name"] for topic in topics] == ["noticias", "secreto"]
    assert await diego.ask("admin_get_reports") == {"reports": [], "next": None}
    link = await diego.ask("create_registration_link", uses=2)
    assert (await diego.ask("get_registration_links", limit=10))["links"] == [
        {name: value for name, value in link.items() if name != "code"}
    ]
    await diego.ask("delete_registration_link", link_id=link["link_id"])
    webhook = await diego.ask("admin_create_webhook", url="https://hook.invalid/", events=["member"])
    named = {"webhook_id": webhook["webhook_id"]}
    assert [each["url"] for each in (await diego.ask("admin_get_webhooks"))["webhooks"]] == ["https://hook.invalid/"]
    assert (await diego.ask("admin_test_webhook", **named))["delivered"] is False
    await diego.ask("admin_replay_webhook", **named, room_id=private_id, after=0)
    await diego.ask("admin_enable_webhook", **named)
    assert await diego.ask("admin_delete_webhook", **named) == {}
    await diego.ask("put_user", username="ana", display_name="Ana Ruiz")
    token = (await diego.ask("create_token", username="ana", minutes=5))["token"]
    assert (await diego.ask("end_sessions", username="ana")) is None
    problem(await Caller(diego._http, token).raw("me"), "token_revoked")
    group = await diego.ask("create_conversation", usernames=["ana"], title="uno")
    await diego.ask("delete_room", room_id=group["room_id"])
    assert [each["action"] for each in (await diego.ask("get_audit", limit=2))["entries"]] == [
        "delete_room",
        "end_sessions",
    ]
    (session,) = (await diego.ask("admin_get_sessions", username="diego"))["sessions"]
    assert session["current"] is True
    rooms = (await diego.ask("admin_get_rooms"))["rooms"]
    assert [(room["topic_name"], room["messages"]) for room in rooms if room["topic_name"]] == [
        ("noticias", 2),
        ("secreto", 2),
    ]
    assert await diego.ask("set_registration", registration="open") == {"registration": "open"}
    made = await diego.ask("admin_create_key", username="tienda", scopes=["read"], room_id=private_id)
    assert made["key"].startswith("tk_")
    (key,) = (await diego.ask("admin_get_keys"))["keys"]
    await diego.ask("admin_revoke_key", key_id=key["key_id"])
    assert (await diego.ask("admin_get_health"))["trouble"] is None
    await diego.ask("admin_delete_user", username="ana", messages="delete")
    await diego.ask("admin_delete_topic", room_id=private_id)
    problem(await diego.raw("history", room_id=private_id), "not_found")


async def test_a_payload_is_refused_alike_over_rest_and_over_a_live_connection(lite: RunningNode) -> None:
    token = await lite.register("omar")
    async with connected(lite.url, token) as live, httpx.AsyncClient(base_url=lite.url) as http:
        rest = Caller(http, token)
        await live.ask("create", topic_name="noticias")
        cases: list[tuple[str, dict[str, Any]]] = [
            ("message", {}),
            ("message", {"topic_name": "noticias"}),
            ("message", {"topic_name": "noticias", "content": ""}),
            ("message", {"topic_name": "noticias", "content": 7}),
            ("message", {"topic_name": "noticias", "content": None}),
            ("message", {"topic_name": "noticias", "content": "x", "client-id": "typo"}),
            ("message", {"topic_name": "noticias", "content": "x", "username": "diego"}),
            ("message", {"topic_name": "noticias", "content": "nul\0"}),
            ("message", {"topic_name": "noticias", "content": "x" * 16_385}),
            ("message", {"topic_name": "noticias", "content": "x", "client_id": "x" * 65}),
            ("message", {"topic_name": "noticias", "content": "x", "reply_to": "nothing"}),
            ("message", {"topic_name": "nowhere", "content": "x"}),
            ("message", {"topic_name": ["noticias"], "content": "x"}),
            ("create", {"topic_name": "noticias"}),
            ("create", {"topic_name": "x", "is_private": "true"}),
            ("create", {"topic_name": "x", "is_private": 1}),
            ("create", {"topic_name": "\u202e"}),
            ("read", {"topic_name": "noticias", "seq": -1}),
            ("read", {"topic_name": "noticias", "seq": 2**53}),
            ("read", {"topic_name": "noticias", "seq": 1.5}),
            ("read", {"topic_name": "noticias", "seq": "1"}),
            ("read", {"topic_name": "noticias", "seq": True}),
            ("read", {"topic_name": "noticias", "seq": 9}),
            ("subscribe", {"topic_name": "noticias"}),
            ("invite", {"topic_name": "noticias", "username": "omar"}),
            ("invite", {"topic_name": "noticias", "username": "nobody"}),
            ("connect_to_room", {"roomName": "nowhere"}),
            ("get_profile", {"username": "nobody"}),
        ]
        for name, fields in cases:
            error = await _refusal(live, name, fields)
            details = problem(await rest.raw(name, **fields), error["code"])
            assert details == error["details"], (name, fields)


async def _refusal(live: Client, name: str, fields: dict[str, Any]) -> dict[str, Any]:
    try:
        await live.ask(name, fields)
    except Refused as refused:
        return dict(refused.error)
    raise AssertionError(f"{name} {fields} was not refused")
