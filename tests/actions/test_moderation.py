"""Moderation: what owners and moderators may do to other members."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from tests.actions.conftest import People, code
from tests.support.client import DEADLINE_S, Client, Refused, connected
from tests.support.node import running_node
from tidings.auth.tokens import now_ms
from tidings.fanout import presence


async def _room(people: People, *, private: bool) -> dict[str, str]:
    """A room of omar, with diego and satoshi as members."""
    room = await people.omar.ask("create", topic_name="sala", is_private=private)
    for name, client in (("diego", people.diego), ("satoshi", people.satoshi)):
        if private:
            await people.omar.ask("invite", room_id=room["room_id"], username=name)
        else:
            await client.ask("subscribe", topic_name="sala")
        await client.event("room_added")
    return {"room_id": room["room_id"]}


@pytest.mark.parametrize("private", [False, True])
async def test_a_kicked_member_gets_nothing_more_and_may_rejoin(people: People, private: bool) -> None:
    ref = await _room(people, private=private)
    await people.omar.ask("kick", **ref, username="diego")
    assert await people.diego.event("room_removed") == {**ref, "reason": "kicked"}
    event = await people.satoshi.event("member", lambda e: e["change"] == "kicked")
    assert (event["username"], event["role"], event["seq"] is None) == ("diego", None, not private)
    await people.omar.ask("message", **ref, content="sin diego")
    await people.satoshi.event("message")
    assert people.diego.contents() == []
    expected = "not_found" if private else "forbidden"
    assert await code(people.diego, "message", **ref, content="x") == expected
    assert await code(people.omar, "kick", **ref, username="diego") == "not_found"
    if private:
        await people.satoshi.ask("invite", **ref, username="diego")
    else:
        await people.diego.ask("subscribe", topic_name="sala")


@pytest.mark.parametrize("private", [False, True])
async def test_a_banned_user_cannot_rejoin_in_any_way_until_unbanned(people: People, private: bool) -> None:
    ref = await _room(people, private=private)
    await people.omar.ask("ban", **ref, username="diego")
    assert await people.diego.event("room_removed") == {**ref, "reason": "banned"}
    refusal = "not_found" if private else "forbidden"
    assert await code(people.diego, "subscribe", topic_name="sala") == refusal
    assert await code(people.diego, "connect_to_room", topic_name="sala") == refusal
    assert await code(people.diego, "message", **ref, content="x") == refusal
    if private:
        assert await code(people.satoshi, "invite", **ref, username="diego") == "forbidden"
        link = await people.satoshi.ask("create_invitation_link", **ref)
        assert await code(people.diego, "join_by_link", code=link["code"]) == "forbidden"
    bans = (await people.omar.ask("get_bans", **ref))["bans"]
    assert [(ban["username"], ban["expires_at"]) for ban in bans] == [("diego", None)]
    assert await code(people.satoshi, "get_bans", **ref) == "forbidden"
    await people.omar.ask("unban", **ref, username="diego")
    assert await code(people.omar, "unban", **ref, username="diego") == "not_found"
    if private:
        await people.diego.ask("join_by_link", code=link["code"])
    else:
        await people.diego.ask("subscribe", topic_name="sala")


async def test_a_temporary_ban_expires(people: People) -> None:
    ref = await _room(people, private=False)
    began = now_ms()
    await people.omar.ask("ban", **ref, username="diego", duration=1)
    async with asyncio.timeout(30):
        answer: dict[str, Any] = {"ok": False}
        while not answer["ok"]:
            answer = await people.diego.send("subscribe", {"topic_name": "sala"})
            assert answer["ok"] or answer["error"]["code"] == "forbidden"
    assert now_ms() >= began + 1000


async def test_a_muted_member_cannot_send_until_the_mute_ends_even_after_rejoining(people: People) -> None:
    ref = await _room(people, private=False)
    sent = await people.diego.ask("message", **ref, content="antes")
    await people.omar.ask("mute", **ref, username="diego", duration=600)
    with pytest.raises(Refused) as refused:
        await people.diego.ask("message", **ref, content="x")
    assert refused.value.code == "forbidden"
    assert refused.value.details["muted_until"] > sent["created_at"]
    await people.diego.ask("unsubscribe", **ref)
    await people.diego.ask("subscribe", topic_name="sala")
    for action, fields in [
        ("message", {**ref, "content": "x"}),
        ("edit", {"message_id": sent["id"], "content": "x"}),
        ("react", {"message_id": sent["id"], "emoji": "👍"}),
        ("typing", ref),
    ]:
        assert await code(people.diego, action, **fields) == "forbidden", action
    await people.diego.ask("delete", message_id=sent["id"])
    await people.omar.ask("mute", **ref, username="diego", duration=0)
    await people.diego.ask("message", **ref, content="y")


async def test_only_the_muted_member_and_moderators_see_a_mute(people: People) -> None:
    ref = await _room(people, private=True)

    async def muted(of: str, seen_by: Client) -> str | None:
        members = (await seen_by.ask("get_members", **ref))["members"]
        (until,) = [member["muted_until"] for member in members if member["username"] == of]
        return cast("str | None", until)

    assert await muted("diego", people.diego) is None
    await people.omar.ask("mute", **ref, username="diego", duration=600)
    until = await muted("diego", people.diego)
    assert until is not None
    assert await muted("diego", people.omar) == until
    assert await muted("diego", people.satoshi) is None
    assert await muted("satoshi", people.omar) is None
    with pytest.raises(Refused) as refused:
        await people.diego.ask("message", **ref, content="x")
    assert refused.value.details["muted_until"] == until
    await people.omar.ask("mute", **ref, username="diego", duration=0)
    assert await muted("diego", people.diego) is None
    await people.omar.ask("mute", **ref, username="diego", duration=1)
    async with asyncio.timeout(30):
        while await muted("diego", people.diego) is not None:
            pass


async def test_moderation_reaches_only_members_of_a_lower_role(people: People) -> None:
    ref = await _room(people, private=True)
    for action in ("kick", "ban", "mute", "set_role"):
        fields = {**ref, **({"role": "member"} if action == "set_role" else {})}
        assert await code(people.diego, action, **fields, username="satoshi") == "forbidden", action
        assert await code(people.omar, action, **fields, username="omar") == "invalid", action
    await people.omar.ask("set_role", **ref, username="diego", role="moderator")
    assert (await people.diego.event("member", lambda e: e["change"] == "role"))["role"] == "moderator"
    await people.diego.ask("set_role", **ref, username="satoshi", role="moderator")
    for action in ("kick", "ban", "mute"):
        assert await code(people.diego, action, **ref, username="omar") == "forbidden", action
        assert await code(people.diego, action, **ref, username="satoshi") == "forbidden", action
    assert await code(people.diego, "set_role", **ref, username="satoshi", role="member") == "forbidden"
    await people.omar.ask("set_role", **ref, username="satoshi", role="member")
    assert await code(people.diego, "set_role", **ref, username="satoshi", role="owner") == "forbidden"
    await people.diego.ask("mute", **ref, username="satoshi")


async def test_an_owner_who_hands_over_the_room_becomes_a_moderator(people: People) -> None:
    ref = await _room(people, private=True)
    await people.omar.ask("set_role", **ref, username="diego", role="owner")
    members = (await people.satoshi.ask("get_members", **ref))["members"]
    assert {m["username"]: m["role"] for m in members} == {
        "diego": "owner",
        "omar": "moderator",
        "satoshi": "member",
    }
    assert await code(people.omar, "kick", **ref, username="diego") == "forbidden"


async def test_a_blocked_user_cannot_message_or_add_the_blocking_user(people: People) -> None:
    room = await people.omar.ask("create_conversation", usernames=["diego"])
    await people.diego.ask("block", username="omar")
    assert (await people.diego.ask("get_blocks"))["usernames"] == ["omar"]
    ref = {"room_id": room["room_id"]}
    for action, fields in [
        ("message", {**ref, "content": "x"}),
        ("message", {"username": "diego", "content": "x"}),
        ("typing", ref),
        ("create_conversation", {"usernames": ["diego", "satoshi"]}),
    ]:
        assert await code(people.omar, action, **fields) == "forbidden", (action, fields)
    await people.diego.ask("message", **ref, content="yo sí")
    await people.diego.ask("unblock", username="omar")
    await people.omar.ask("message", **ref, content="x")


async def test_a_refused_conversation_of_a_blocked_user_leaves_no_room(people: People) -> None:
    await people.diego.ask("block", username="omar")
    assert await code(people.omar, "message", username="diego", content="x") == "forbidden"
    assert await code(people.omar, "create_conversation", usernames=["diego"]) == "forbidden"
    assert (await people.omar.ask("get_rooms"))["rooms"] == []
    await people.diego.ask("message", username="omar", content="hola")
    assert await code(people.omar, "message", username="diego", content="x") == "forbidden"


async def test_presence_is_sent_to_users_who_share_a_room_and_are_not_blocked(people: People) -> None:
    await people.diego.ask("create", topic_name="sala")
    for client in (people.satoshi, people.omar):
        await client.ask("subscribe", topic_name="sala")
    await people.omar.ask("block", username="satoshi")
    token = await people.server.register("memoor")
    async with connected(people.server.url, token) as memoor:
        await memoor.ask("subscribe", topic_name="sala")
    async with connected(people.server.url, token):
        await people.diego.event("presence", lambda e: e["username"] == "memoor" and e["online"])
    offline = await people.diego.event("presence", lambda e: e["username"] == "memoor" and not e["online"])
    assert offline["last_seen"] is not None
    second = await people.server.login("omar")
    assert (await people.diego.event("presence", lambda e: e["username"] == "omar"))["online"]
    await people.omar.close()
    await people.diego.event("presence", lambda e: e["username"] == "omar" and not e["online"])
    assert (await people.satoshi.ask("get_profile", username="omar"))["last_seen"] is None
    async with connected(people.server.url, second) as omar:
        online = await people.diego.event("presence", lambda e: e["username"] == "omar" and e["online"])
        assert online["last_seen"] is None
        async with connected(people.server.url, second, device="dos"):
            pass
        assert (await people.diego.ask("get_profile", username="omar"))["online"]
        assert not (await people.satoshi.ask("get_profile", username="omar"))["online"]
        members = (await people.satoshi.ask("get_members", topic_name="sala"))["members"]
        assert not next(m for m in members if m["username"] == "omar")["online"]
        await omar.ask("message", topic_name="sala", content="fin")
        await people.satoshi.event("message")
    *before, last = [e for e in people.satoshi.of("presence") if e["username"] == "omar"]
    assert last == {"username": "omar", "online": False, "last_seen": None, "display_name": None, "picture": None}
    assert all(e["online"] for e in before)  # that omar is online, if it was announced before the block
    assert [e["online"] for e in people.diego.of("presence") if e["username"] == "omar"][:3] == [True, False, True]


async def test_a_blocked_user_sees_the_other_go_offline_until_the_block_ends(people: People) -> None:
    direct = await people.omar.ask("create_conversation", usernames=["diego"])

    async def online_in_direct(client: Client) -> list[int]:
        rooms = (await client.ask("get_rooms", kind="direct"))["rooms"]
        return [room["online"] for room in rooms if room["room_id"] == direct["room_id"]]

    of_omar = lambda event: event["username"] == "omar"  # noqa: E731
    assert (await people.diego.event("presence", of_omar))["online"]  # they share a room now
    assert await online_in_direct(people.diego) == [2]
    await people.omar.ask("block", username="diego")
    away = {"username": "omar", "online": False, "last_seen": None, "display_name": None, "picture": None}
    assert await people.diego.event("presence", of_omar) == away
    assert await online_in_direct(people.diego) == [1]
    assert await online_in_direct(people.omar) == [2]
    await people.omar.ask("unblock", username="diego")
    assert await people.diego.event("presence", of_omar) == {**away, "online": True}
    assert await online_in_direct(people.diego) == [2]


async def test_a_user_who_is_blocked_during_an_announcement_sees_the_other_go_offline(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, queried, blocked = people.server.node.database, asyncio.Event(), asyncio.Event()
    read = database.read

    async def slowly(query: Any) -> Any:
        answer = await read(query)
        if getattr(query, "func", None) is presence._read:
            queried.set()
            await blocked.wait()
        return answer

    monkeypatch.setattr(database, "read", slowly)
    await people.omar.ask("create_conversation", usernames=["diego"])
    await asyncio.wait_for(queried.wait(), DEADLINE_S)
    await people.omar.ask("block", username="diego")
    away = await people.diego.event("presence", lambda e: not e["online"])
    blocked.set()
    await people.omar.event("presence", lambda e: e["username"] == "diego")  # of the same announcement
    await people.diego.ask("get_rooms")
    assert people.diego.of("presence") == [away]


async def test_members_get_the_presence_of_a_new_member(people: People) -> None:
    await people.omar.ask("create", topic_name="sala")
    await people.diego.ask("subscribe", topic_name="sala")
    online = {"username": "diego", "online": True, "last_seen": None, "display_name": None, "picture": None}
    assert await people.omar.event("presence", lambda e: e["username"] == "diego") == online
    await people.omar.ask("create_conversation", usernames=["satoshi"])
    assert await people.omar.event("presence", lambda e: e["username"] == "satoshi") == {
        **online,
        "username": "satoshi",
    }
    assert (await people.satoshi.event("presence", lambda e: e["username"] == "omar"))["online"]


async def test_a_block_between_users_without_a_common_room_sends_no_presence(people: People) -> None:
    for action in ("block", "unblock"):
        await people.omar.ask(action, username="diego")
    await people.omar.ask("create_conversation", usernames=["diego"])
    await people.diego.event("presence")  # they share a room now
    before = [name for name, _ in people.diego.events][:-1]
    assert "room_added" in before
    assert "presence" not in before


async def test_a_user_who_reconnects_before_the_announcement_is_announced_as_online(
    sqlite_url: str, tmp_path: Path
) -> None:
    async with running_node(sqlite_url, tmp_path, options={"presence_s": 3600}) as node:
        omar, diego = await node.register("omar"), await node.register("diego")
        announce = node.node.hub.presence._begin_publishing
        async with connected(node.url, diego) as watching:
            async with connected(node.url, omar) as first:
                await first.ask("create", topic_name="sala")
                await watching.ask("subscribe", topic_name="sala")
            async with connected(node.url, omar):
                announce()
                await watching.event("presence", lambda e: e["online"])
            online = True
            while online:
                members = (await watching.ask("get_members", topic_name="sala"))["members"]
                online = next(m["online"] for m in members if m["username"] == "omar")
            async with connected(node.url, omar):
                announce()
                await watching.event("presence", lambda e: e["username"] == "omar" and e["online"])
                assert not [e for e in watching.of("presence") if not e["online"]], (
                    "omar was never announced as offline"
                )


async def test_a_user_who_disconnects_before_the_announcement_is_announced_as_offline(
    sqlite_url: str, tmp_path: Path
) -> None:
    async with running_node(sqlite_url, tmp_path, options={"presence_s": 1}) as node:
        omar, diego = await node.register("omar"), await node.register("diego")
        async with connected(node.url, diego) as watching:
            await watching.ask("create", topic_name="sala")
            async with connected(node.url, omar) as blink:
                await blink.ask("subscribe", topic_name="sala")
                members = (await watching.ask("get_members", topic_name="sala"))["members"]
                assert next(m["online"] for m in members if m["username"] == "omar"), "a query shows them online"
            await watching.event("presence", lambda e: e["username"] == "omar" and not e["online"])
