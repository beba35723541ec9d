"""Invitation links end with their creator's membership; moderators see and delete all links of a room."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.actions.conftest import People, code
from tests.support.client import Client, Refused, connected
from tidings_db.queries import users


@pytest.fixture
async def room_id(people: People) -> str:
    """A private topic of omar, with diego as a member."""
    room = await people.omar.ask("create", topic_name="secreto", is_private=True)
    await people.omar.ask("invite", room_id=room["room_id"], username="diego")
    created: str = room["room_id"]
    return created


async def _codes(client: Client, room_id: str, **page: Any) -> list[str]:
    return [link["code"] for link in (await client.ask("get_invitation_links", room_id=room_id, **page))["links"]]


async def _link(client: Client, room_id: str, **fields: Any) -> str:
    link: str = (await client.ask("create_invitation_link", room_id=room_id, **fields))["code"]
    return link


@pytest.mark.parametrize("removal", ["kick", "ban", "unsubscribe"])
async def test_links_end_with_their_creators_membership_and_rejoining_does_not_revive_them(
    people: People, room_id: str, removal: str
) -> None:
    of_diego = [await _link(people.diego, room_id, expires_in=None), await _link(people.diego, room_id, uses=5)]
    of_omar = await _link(people.omar, room_id)
    if removal == "unsubscribe":
        await people.diego.ask("unsubscribe", room_id=room_id)
    else:
        await people.omar.ask(removal, room_id=room_id, username="diego")
    for link in of_diego:
        assert await code(people.diego, "join_by_link", code=link) == "not_found"
        assert await code(people.satoshi, "join_by_link", code=link) == "not_found"
    assert await _codes(people.omar, room_id) == [of_omar], "links of other members stay valid"
    if removal == "ban":
        await people.omar.ask("unban", room_id=room_id, username="diego")
    await people.diego.ask("join_by_link", code=of_omar)
    assert await _codes(people.diego, room_id) == []
    for link in of_diego:
        assert await code(people.satoshi, "join_by_link", code=link) == "not_found"


async def test_a_link_is_void_while_its_creator_is_disabled(people: People, room_id: str) -> None:
    link = await _link(people.diego, room_id)
    database, diego = people.server.node.database, await people.server.node.auth.user("diego")
    await database.write(lambda conn: users.set_disabled(conn, diego.key, True))
    assert await code(people.satoshi, "join_by_link", code=link) == "not_found"
    assert await _codes(people.omar, room_id) == []
    await database.write(lambda conn: users.set_disabled(conn, diego.key, False))
    assert (await people.satoshi.ask("join_by_link", code=link))["room_id"] == room_id


async def test_moderators_manage_all_links_of_a_room_and_members_their_own(people: People, room_id: str) -> None:
    omar, diego, satoshi = people.omar, people.diego, people.satoshi
    await omar.ask("invite", room_id=room_id, username="satoshi")
    links = {
        client: [await _link(client, room_id), await _link(client, room_id, expires_in=None, uses=3)]
        for client in (omar, diego, satoshi)
    }
    all_codes = sorted(link for codes in links.values() for link in codes)
    assert await _codes(omar, room_id) == all_codes
    assert await _codes(diego, room_id) == sorted(links[diego])
    await omar.ask("set_role", room_id=room_id, username="satoshi", role="moderator")
    assert await _codes(satoshi, room_id) == all_codes

    pages, after = [], None
    while True:
        page = await omar.ask("get_invitation_links", room_id=room_id, limit=4, after=after)
        pages.append([link["code"] for link in page["links"]])
        after = page["next"]
        if after is None:
            break
    assert pages == [all_codes[:4], all_codes[4:]]

    for link in (links[omar][0], links[satoshi][0]):
        assert await code(diego, "delete_invitation_link", code=link) == "forbidden"
    await diego.ask("delete_invitation_link", code=await _link(diego, room_id))
    await satoshi.ask("delete_invitation_link", code=links[diego][0])
    assert await _codes(diego, room_id) == links[diego][1:]
    (shown,) = (await diego.ask("get_invitation_links", room_id=room_id))["links"]
    assert shown.pop("created_at").endswith("Z")
    expected = {"code": links[diego][1], "room_id": room_id, "username": "diego", "expires_at": None, "uses_left": 3}
    assert shown == expected


async def test_expired_and_used_up_links_are_not_listed(people: People, room_id: str) -> None:
    used_up, usable = await _link(people.omar, room_id, uses=1), await _link(people.omar, room_id, uses=2)
    await people.satoshi.ask("join_by_link", code=used_up)
    assert await _codes(people.omar, room_id) == [usable]
    expired = await _link(people.omar, room_id, expires_in=1)
    await people.server.node.database.write(
        lambda conn: conn.exec_driver_sql(f"UPDATE invitation_link SET expires_at = 1 WHERE code = '{expired}'")
    )
    assert await _codes(people.omar, room_id) == [usable]


async def test_of_those_who_follow_a_link_of_one_use_at_a_time_one_joins(people: People, room_id: str) -> None:
    link = await _link(people.omar, room_id, uses=1)
    async with AsyncExitStack() as stack:
        guests = []
        for number in range(4):
            token = await people.server.register(f"guest{number}")
            guests.append(await stack.enter_async_context(connected(people.server.url, token)))
        joins = await asyncio.gather(
            *(guest.ask("join_by_link", code=link) for guest in guests), return_exceptions=True
        )
        refused = [join.code for join in joins if isinstance(join, Refused)]
        assert refused == ["not_found"] * 3
    members = await people.omar.ask("get_members", room_id=room_id)
    assert len(members["members"]) == 3
