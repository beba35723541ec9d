"""Invitation links end with their creator's membership; moderators see and delete all links of a room."""

from __future__ import annotations

from typing import Any

import pytest

from db.queries import users
from tests.actions.conftest import People, code
from tests.support.client import Client


@pytest.fixture
async def room_id(people: People) -> str:
    """A private topic of omar's that diego is in."""
    room = await people.omar.ask("create", topic_name="secreto", is_private=True)
    await people.omar.ask("invite", room_id=room["room_id"], username="diego")
    made: str = room["room_id"]
    return made


async def _codes(client: Client, room_id: str, **page: Any) -> list[str]:
    return [link["code"] for link in (await client.ask("get_invitation_links", room_id=room_id, **page))["links"]]


async def _link(client: Client, room_id: str, **fields: Any) -> str:
    made: str = (await client.ask("create_invitation_link", room_id=room_id, **fields))["code"]
    return made


@pytest.mark.parametrize("removal", ["kick", "ban", "unsubscribe"])
async def test_the_links_of_a_member_end_when_they_leave_or_are_removed_and_stay_so_when_they_come_back(
    people: People, room_id: str, removal: str
) -> None:
    theirs = [await _link(people.diego, room_id, expires_in=None), await _link(people.diego, room_id, uses=5)]
    other = await _link(people.omar, room_id)
    if removal == "unsubscribe":
        await people.diego.ask("unsubscribe", room_id=room_id)
    else:
        await people.omar.ask(removal, room_id=room_id, username="diego")
    for link in theirs:
        assert await code(people.diego, "join_by_link", code=link) == "not_found"
        assert await code(people.satoshi, "join_by_link", code=link) == "not_found"
    assert await _codes(people.omar, room_id) == [other], "those of others are good"
    if removal == "ban":
        await people.omar.ask("unban", room_id=room_id, username="diego")
    await people.diego.ask("join_by_link", code=other)
    assert await _codes(people.diego, room_id) == []
    for link in theirs:
        assert await code(people.satoshi, "join_by_link", code=link) == "not_found"


async def test_a_link_is_void_as_long_as_whoever_made_it_is_disabled(people: People, room_id: str) -> None:
    link = await _link(people.diego, room_id)
    database, diego = people.server.node.database, await people.server.node.auth.user("diego")
    await database.write(lambda conn: users.set_disabled(conn, diego.key, True))
    assert await code(people.satoshi, "join_by_link", code=link) == "not_found"
    assert await _codes(people.omar, room_id) == []
    await database.write(lambda conn: users.set_disabled(conn, diego.key, False))
    assert (await people.satoshi.ask("join_by_link", code=link))["room_id"] == room_id


async def test_moderators_see_and_end_every_link_of_a_room_and_members_their_own(
    people: People, room_id: str
) -> None:
    omar, diego, satoshi = people.omar, people.diego, people.satoshi
    await omar.ask("invite", room_id=room_id, username="satoshi")
    made = {
        client: [await _link(client, room_id), await _link(client, room_id, expires_in=None, uses=3)]
        for client in (omar, diego, satoshi)
    }
    everything = sorted(link for links in made.values() for link in links)
    assert await _codes(omar, room_id) == everything
    assert await _codes(diego, room_id) == sorted(made[diego])
    await omar.ask("set_role", room_id=room_id, username="satoshi", role="moderator")
    assert await _codes(satoshi, room_id) == everything

    pages, after = [], None
    while True:
        page = await omar.ask("get_invitation_links", room_id=room_id, limit=4, after=after)
        pages.append([link["code"] for link in page["links"]])
        after = page["next"]
        if after is None:
            break
    assert pages == [everything[:4], everything[4:]]

    await satoshi.ask("delete_invitation_link", code=made[diego][0])
    assert await _codes(diego, room_id) == made[diego][1:]
    (told,) = (await diego.ask("get_invitation_links", room_id=room_id))["links"]
    assert told.pop("created_at").endswith("Z")
    one = {"code": made[diego][1], "room_id": room_id, "username": "diego", "expires_at": None, "uses_left": 3}
    assert told == one


async def test_links_that_have_expired_or_are_used_up_are_not_listed(people: People, room_id: str) -> None:
    used, good = await _link(people.omar, room_id, uses=1), await _link(people.omar, room_id, uses=2)
    await people.satoshi.ask("join_by_link", code=used)
    assert await _codes(people.omar, room_id) == [good]
    expired = await _link(people.omar, room_id, expires_in=1)
    await people.server.node.database.write(
        lambda conn: conn.exec_driver_sql(f"UPDATE invitation_link SET expires_at = 1 WHERE code = '{expired}'")
    )
    assert await _codes(people.omar, room_id) == [good]


async def test_nobody_else_learns_whether_there_are_links(people: People, room_id: str) -> None:
    await _link(people.omar, room_id)
    assert await code(people.satoshi, "get_invitation_links", room_id=room_id) == "not_found"
    await people.omar.ask("kick", room_id=room_id, username="diego")
    assert await code(people.diego, "get_invitation_links", room_id=room_id) == "not_found"
    await people.omar.ask("create", topic_name="noticias")
    assert await code(people.omar, "get_invitation_links", topic_name="noticias") == "forbidden"
    await people.omar.ask("message", username="diego", content="psst")
    assert await code(people.omar, "get_invitation_links", username="diego") == "forbidden"
