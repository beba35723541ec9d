"""Conversations, direct and groups: members, titles, joining."""

from __future__ import annotations

import asyncio

import pytest

from tests.actions.conftest import People, code
from tests.support.client import Refused


async def test_two_users_have_one_direct_conversation_even_if_both_create_it_concurrently(people: People) -> None:
    rooms = await asyncio.gather(
        people.omar.ask("create_conversation", usernames=["diego"]),
        people.diego.ask("create_conversation", usernames=["Omar"]),
        people.omar.ask("message", username="diego", content="hola"),
    )
    assert len({room["room_id"] for room in rooms}) == 1
    assert (rooms[0]["kind"], rooms[0]["title"], rooms[0]["members"]) == ("direct", "diego", 2)
    for client in (people.omar, people.diego):
        await client.event("room_added")
        assert len(client.of("room_added")) == 1


async def test_a_new_group_has_its_members_and_its_creator_as_owner(people: People) -> None:
    room = await people.omar.ask("create_conversation", usernames=["diego", "satoshi"], title=" Familia ")
    assert (room["kind"], room["title"], room["role"], room["is_private"]) == ("group", "Familia", "owner", True)
    for client in (people.diego, people.satoshi):
        assert (await client.event("room_added"))["room"]["role"] == "member"
    await people.diego.ask("message", room_id=room["room_id"], content="hola")
    assert (await people.satoshi.event("message"))["topic_name"] is None
    titled = await people.omar.ask("create_conversation", usernames=["diego"], title="dos")
    assert titled["kind"] == "group", "a title makes it a group"


async def test_a_conversation_needs_another_existing_user(people: People) -> None:
    assert await code(people.omar, "create_conversation", usernames=["omar"]) == "invalid"
    assert await code(people.omar, "create_conversation", usernames=[]) == "invalid"
    assert await code(people.omar, "create_conversation", usernames=["diego", "nadie"]) == "not_found"
    assert await code(people.omar, "create_conversation", usernames=["x"] * 256) == "invalid"
    assert (await people.omar.ask("get_rooms"))["rooms"] == []


async def test_only_moderators_set_the_title_of_a_group_and_the_log_has_the_change(people: People) -> None:
    room = await people.omar.ask("create_conversation", usernames=["diego"], title="uno")
    assert await code(people.diego, "set_title", room_id=room["room_id"], title="dos") == "forbidden"
    changed = await people.omar.ask("set_title", room_id=room["room_id"], title="dos")
    assert changed["title"] == "dos"
    event = await people.diego.event("room_changed")
    assert event == {"room_id": room["room_id"], "seq": 1, "username": "omar", "title": "dos"}
    topic = await people.omar.ask("create", topic_name="tema", is_private=True)
    assert await code(people.omar, "set_title", room_id=topic["room_id"], title="x") == "forbidden"


async def test_a_later_member_reads_the_whole_log_and_a_former_member_nothing_more(people: People) -> None:
    room = await people.omar.ask("create_conversation", usernames=["diego"], title="uno")
    ref = {"room_id": room["room_id"]}
    await people.omar.ask("message", **ref, content="antes")
    await people.diego.ask("invite", **ref, username="satoshi")
    history = await people.satoshi.ask("history", **ref)
    assert [m["content"] for m in history["messages"]] == ["antes"]
    await people.diego.ask("unsubscribe", **ref)
    assert await code(people.diego, "history", **ref) == "not_found"
    await people.omar.ask("message", **ref, content="después")
    await people.satoshi.event("message", lambda m: m["content"] == "después")
    assert "después" not in people.diego.contents()


async def test_an_invitation_link_ends_when_it_is_used_up_or_deleted(people: People) -> None:
    room = await people.omar.ask("create", topic_name="secreto", is_private=True)
    link = await people.omar.ask("create_invitation_link", room_id=room["room_id"], uses=1)
    assert link["uses_left"] == 1
    joined = await people.diego.ask("join_by_link", code=link["code"])
    assert (joined["room_id"], joined["role"]) == (room["room_id"], "member")
    assert (await people.omar.event("member"))["username"] == "diego"
    assert await code(people.satoshi, "join_by_link", code=link["code"]) == "not_found", "used up"
    permanent = await people.diego.ask("create_invitation_link", room_id=room["room_id"], expires_in=None)
    assert permanent["expires_at"] is None
    assert await code(people.satoshi, "delete_invitation_link", code=permanent["code"]) == "not_found"
    await people.omar.ask("delete_invitation_link", code=permanent["code"])
    assert await code(people.satoshi, "join_by_link", code=permanent["code"]) == "not_found"
    assert await code(people.satoshi, "create_invitation_link", room_id=room["room_id"]) == "not_found"


async def test_a_group_has_256_members_at_most(people: People) -> None:
    await people.server.node.database.write(_make_users)
    names = [f"user{n}" for n in range(254)]
    room = await people.omar.ask("create_conversation", usernames=[*names, "diego"])
    assert room["members"] == 256
    with pytest.raises(Refused) as refused:
        await people.omar.ask("invite", room_id=room["room_id"], username="satoshi")
    assert (refused.value.code, refused.value.details) == ("too_large", {"limit": 256})


def _make_users(conn) -> None:  # type: ignore[no-untyped-def]
    from tidings_db.queries import users

    for n in range(254):
        users.add(conn, f"user{n}", None, 0)
