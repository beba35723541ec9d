"""What users show of themselves reaches those who may see it, ends by itself, and is found by name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from tests.actions.conftest import People, code
from tests.delivery.support import make_topic, rest
from tests.support.backend_keys import Backend, make_key
from tests.support.client import Client, connected
from tests.support.exports import exported, of
from tests.support.node import RunningNode, running_node
from tidings.contract.permissions import KeyScope
from tidings_db.models import users as table
from tidings_db.queries import users

Put = dict[str, Any]


async def put(people: People, name: str, **fields: Any) -> Put:
    async with rest(people.server.url, people.tokens[name]) as http:
        answer = await http.put("/api/me", json=fields)
    assert answer.status_code == 200, answer.text
    profile: Put = answer.json()
    return profile


def of_omar(event: dict[str, Any]) -> bool:
    return bool(event["username"] == "omar")


async def test_a_profile_reaches_those_who_share_a_room_and_the_own_connections_and_nobody_else(
    people: People,
) -> None:
    await make_topic(people.server.url, people.tokens["omar"], "noticias", people.tokens["diego"])
    holiday = {"text": "On holiday", "emoji": "🌴", "expires_in": 3600}
    changed = await people.omar.ask("set_profile", display_name=" Omar  García", status=holiday, do_not_disturb=60)
    assert (changed["display_name"], changed["admin"]) == ("Omar  García", False)
    assert changed["status"]["until"] > changed["do_not_disturb_until"] > changed["created_at"]
    for client in (people.diego, people.omar):
        event = await client.event("profile", of_omar)
        assert event == {name: changed[name] for name in event}
    assert await people.diego.ask("get_profile", username="omar") == {
        name: value for name, value in changed.items() if name not in ("admin", "folded")
    }
    (member,) = [
        member
        for member in (await people.diego.ask("get_members", topic_name="noticias"))["members"]
        if member["username"] == "omar"
    ]
    assert member["status"] == changed["status"]
    assert member["do_not_disturb_until"] == changed["do_not_disturb_until"]

    kept = await put(people, "omar", status={"text": "", "emoji": "☕"})
    assert kept == changed | {"status": {"text": "", "emoji": "☕", "until": None}, "online": True}
    gone = await put(people, "omar", display_name=None, status=None, do_not_disturb=None)
    assert gone == changed | {"display_name": None, "status": None, "do_not_disturb_until": None}
    assert await put(people, "omar") == gone
    await people.diego.event("profile", lambda event: of_omar(event) and event["display_name"] is None)
    async with rest(people.server.url, people.tokens["diego"]) as http:
        await http.put("/api/me", json={"status": {"text": "a barrier"}})
    await people.omar.event("profile", lambda event: event["username"] == "diego")
    await people.satoshi.ask("get_rooms")
    assert people.satoshi.of("profile") == []
    presence = [event for event in people.diego.of("presence") if of_omar(event) and not event["online"]]
    assert presence == [], "a profile is no presence"


async def test_folded_sections_reach_only_the_own_devices_and_are_in_the_export(people: People) -> None:
    await make_topic(people.server.url, people.tokens["omar"], "noticias", people.tokens["diego"])
    async with connected(people.server.url, people.tokens["omar"], device="phone") as phone:
        folded = await people.omar.ask("set_profile", folded=["own Trabajo", "direct", "direct"])
        assert folded["folded"] == ["direct", "own Trabajo"]
        assert (await phone.event("profile", of_omar))["folded"] == ["direct", "own Trabajo"]
        # A later change of the profile reaches the others, as the first event that they get.
        assert (await put(people, "omar", display_name="Omar García"))["folded"] == ["direct", "own Trabajo"]
        assert "folded" not in await phone.event("profile", lambda event: event["display_name"] is not None)
    assert (await people.diego.event("profile", of_omar))["display_name"] == "Omar García"
    assert all("folded" not in event for event in people.diego.of("profile"))
    for wrong in (["x" * 69], [""], ["\0"], [1], "direct", [str(n) for n in range(501)]):
        assert await code(people.omar, "set_profile", folded=wrong) == "invalid"
    lines = await exported(people.server, people.tokens["omar"])
    assert of(lines, "profile")[0]["folded"] == ["direct", "own Trabajo"]
    assert (await put(people, "omar", folded=None))["folded"] == []


async def test_a_profile_that_is_not_allowed_changes_nothing(people: People) -> None:
    before = await people.omar.ask("set_profile", display_name="Omar", status={"text": "here"})
    for fields in (
        {"status": {}},
        {"status": {"text": "   "}},
        {"status": {"text": "x" * 101}},
        {"status": {"text": "a\u202eb"}},
        {"status": {"text": "x", "expires_in": 0}},
        {"status": {"text": "x", "until": "2030-01-01T00:00:00.000Z"}},
        {"status": {"emoji": "two words"}},
        {"status": "busy"},
        {"display_name": "  "},
        {"display_name": "x" * 65},
        {"display_name": "a\u202eb"},
        {"do_not_disturb": 0},
    ):
        assert await code(people.omar, "set_profile", **{"display_name": "Another", **fields}) == "invalid", fields
    assert await people.omar.ask("set_profile") == before


async def test_what_has_ended_is_shown_to_nobody_and_is_in_the_export(people: People) -> None:
    await make_topic(people.server.url, people.tokens["omar"], "noticias", people.tokens["diego"])
    await people.omar.ask("set_profile", status={"text": "here", "expires_in": 60}, do_not_disturb=60)
    ended = update(table).where(table.c.username == "omar").values(status_until=1_000, do_not_disturb_until=1_000)
    await people.server.node.database.write(lambda conn: conn.execute(ended).rowcount)
    shown = [
        await people.diego.ask("get_profile", username="omar"),
        (await people.diego.ask("get_users", query="omar"))["users"][0],
        (await people.diego.ask("get_members", topic_name="noticias"))["members"][1],
        await people.omar.ask("set_profile", display_name="Omar"),
    ]
    assert [(each["username"], each["status"], each["do_not_disturb_until"]) for each in shown] == [
        ("omar", None, None)
    ] * 4
    (profile,) = of(await exported(people.server, people.tokens["omar"]), "profile")
    assert (profile["display_name"], profile["status_text"], profile["status_emoji"]) == ("Omar", "here", None)
    assert profile["status_until"] == profile["do_not_disturb_until"] == "1970-01-01T00:00:01.000Z"


async def test_a_blocked_user_sees_no_status_until_the_block_ends(people: People) -> None:
    await make_topic(people.server.url, people.tokens["omar"], "noticias", people.tokens["diego"])
    await people.omar.ask("set_profile", status={"text": "before"})
    await people.diego.event("profile", of_omar)
    await people.omar.ask("block", username="diego")
    hidden = {"username": "omar", "display_name": None, "status": None, "do_not_disturb_until": None, "picture": None}
    assert await people.diego.event("profile", of_omar) == hidden
    await people.omar.ask("set_profile", status={"text": "secret"}, do_not_disturb=60)
    for profile in (
        await people.diego.ask("get_profile", username="omar"),
        (await people.diego.ask("get_users", query="omar"))["users"][0],
        (await people.diego.ask("get_members", topic_name="noticias"))["members"][1],
    ):
        assert {name: profile[name] for name in hidden} == hidden
        assert not profile["online"]
    await people.satoshi.ask("subscribe", topic_name="noticias")
    await people.satoshi.ask("set_profile", status={"text": "a barrier"})
    await people.diego.event("profile", lambda event: event["username"] == "satoshi")
    await people.omar.ask("unblock", username="diego")
    assert (await people.diego.event("profile", of_omar))["status"]["text"] == "secret"
    assert len([event for event in people.diego.of("profile") if of_omar(event)]) == 3


@pytest.fixture
async def crowd(server: RunningNode) -> AsyncIterator[Client]:
    """Connected as omar; the others have the names below."""
    names = {
        "omar": "Omar García",
        "diego": "Diego Pérez",
        "Ana_Gómez": None,
        "100percent": None,
        "eva": "Иван Ёлкин",
        "off": "Omar off",
    }
    for name, display_name in names.items():
        await server.register(name)
        user = await server.node.auth.user(name)
        if display_name:
            changes = {"display_name": display_name}
            await server.node.database.write(lambda conn, k=user.key, c=changes: users.set_profile(conn, k, c))
    off = await server.node.auth.user("off")
    await server.node.auth.set_disabled(off, True)
    await make_key(server, KeyScope.READ, name="omarbot")
    async with AsyncExitStack() as stack:
        token, _ = await server.node.auth.sign_in(await server.node.auth.user("omar"), None)
        yield await stack.enter_async_context(connected(server.url, token))


async def test_users_are_found_by_the_begin_of_words_of_their_names(crowd: Client) -> None:
    for query, found in {
        None: ["100percent", "Ana_Gómez", "diego", "eva", "omar"],
        "  ": ["100percent", "Ana_Gómez", "diego", "eva", "omar"],
        "omar": ["omar"],
        "GARCIA": ["omar"],
        "g": ["Ana_Gómez", "omar"],
        "gó": ["Ana_Gómez"],
        "pe di": ["diego"],
        "елк": ["eva"],
        "@ana": ["Ana_Gómez"],
        "mar": [],
        "omar pérez": [],
        "100%": ["100percent"],
        "%": [],
        "_": [],
        "o%r": [],
        "\\": [],
    }.items():
        page = await crowd.ask("get_users", query=query)
        assert [user["username"] for user in page["users"]] == found, query
        assert page["next"] is None


async def test_the_directory_is_read_in_pages_and_hides_presence_as_a_profile_does(crowd: Client) -> None:
    listed: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        page = await crowd.ask("get_users", limit=2, **after)
        listed += page["users"]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert [user["username"] for user in listed] == ["100percent", "Ana_Gómez", "diego", "eva", "omar"]
    for user in listed:
        assert user == await crowd.ask("get_profile", username=user["username"])


async def test_a_closed_directory_has_only_those_with_whom_one_shares_a_room(
    database_url: str, tmp_path: Path
) -> None:
    async with running_node(database_url, tmp_path, directory="closed") as server:
        tokens = {name: await server.register(name) for name in ("omar", "diego", "eva", "boss")}
        await make_topic(server.url, tokens["omar"], "noticias", tokens["diego"])
        boss = (await server.node.auth.user("boss")).key
        await server.node.database.write(lambda conn: users.set_admin(conn, boss, True))

        async def listed(name: str) -> list[str]:
            async with connected(server.url, tokens[name]) as client:
                return [user["username"] for user in (await client.ask("get_users"))["users"]]

        everyone = ["boss", "diego", "eva", "omar"]
        assert await listed("omar") == ["diego", "omar"]
        assert await listed("eva") == []
        assert await listed("boss") == everyone
        backend = Backend(server.url, await make_key(server, KeyScope.READ))
        assert [user["username"] for user in (await backend.ask("GET", "/api/users"))["users"]] == everyone
        writer = Backend(server.url, await make_key(server, KeyScope.PUBLISH, name="writer"))
        assert await writer.code("GET", "/api/users") == "forbidden"
        async with connected(server.url, tokens["omar"]) as omar:
            assert (await omar.ask("get_users", query="eva"))["users"] == []
            assert (await omar.ask("get_profile", username="eva"))["username"] == "eva"
            await omar.ask("message", username="eva", content="I know your name")
        assert await listed("eva") == ["eva", "omar"]


async def test_a_backend_names_a_user_before_their_own_eyes(people: People) -> None:
    await make_topic(people.server.url, people.tokens["omar"], "noticias", people.tokens["diego"])
    backend = Backend(people.server.url, await make_key(people.server, KeyScope.USERS))
    await backend.ask("PUT", "/api/users/omar", display_name="Omar García")
    for client in (people.omar, people.diego):
        assert (await client.event("profile", of_omar))["display_name"] == "Omar García"
    assert (await people.satoshi.ask("get_users", query="garcia"))["users"][0]["username"] == "omar"
    assert await backend.code("PUT", "/api/me", display_name="x") == "forbidden"
