"""A picture of a user or a room is seen by those who see its name, and is deleted when another takes its place."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.engine import Connection

from tests.actions.conftest import code
from tests.delivery.support import make_topic
from tests.files.support import begin, fetch, http, links, picture, stored, upload
from tests.support.client import connected
from tests.support.node import RunningNode
from tidings.log.retention import now_ms
from tidings_db import models
from tidings_db.queries import retention, rooms


async def shown(server: RunningNode, token: str, file_id: str) -> int:
    """The status by which a user gets a picture; 404 if there is no link for them."""
    found = await links(server, token, file_id)
    return (await fetch(server, found[0]["preview_url"])).status_code if found else 404


def trim_all(conn: Connection) -> None:
    """Delete every entry of every room, as retention does."""
    for room in rooms.lock(conn, list(conn.scalars(select(models.rooms.c.id)))).values():
        retention.trim(conn, room, None, 100)


async def test_the_picture_of_a_user_reaches_everybody_and_the_one_before_is_deleted(server: RunningNode) -> None:
    omar, diego, satoshi = [await server.register(name) for name in ("omar", "diego", "satoshi")]
    await make_topic(server.url, omar, "plaza", diego)
    first, second = [await upload(server, omar, "me.png", picture(kind="PNG")) for _ in range(2)]
    text, others = await upload(server, omar, "me.txt", b"me"), await upload(server, diego, "me.png", picture())
    unfinished = (await begin(server, omar, "me.png", 10))["id"]
    async with connected(server.url, omar) as client, connected(server.url, diego) as beside:
        for wrong in (text, others, unfinished, "nothing"):
            assert await code(client, "set_profile", picture=wrong) == "invalid", wrong
        assert (await client.ask("set_profile"))["picture"] is None
        assert await shown(server, satoshi, first) == 404, "an upload is its owner's alone"
        for chosen in (first, first, second):
            assert (await client.ask("set_profile", picture=chosen))["picture"] == chosen
            assert await beside.event("profile", lambda event, chosen=chosen: event["picture"] == chosen)
        assert (await beside.ask("get_profile", username="omar"))["picture"] == second
        members = (await beside.ask("get_members", topic_name="plaza"))["members"]
        assert {member["username"]: member["picture"] for member in members} == {"omar": second, "diego": None}
        for token in (omar, diego, satoshi):
            assert await shown(server, token, second) == 200
            assert await shown(server, token, first) == 404
        assert await code(client, "message", topic_name="plaza", content="", files=[{"id": second}]) == "invalid"
        assert await code(client, "delete_upload", file_id=second) == "not_found"
        await server.node.files.run_once(now_ms())
        assert {path.parent.name for path in stored(server)} == {second, text, others}
        assert (await client.ask("set_profile", picture=None))["picture"] is None
    assert await shown(server, omar, second) == 404


async def test_the_picture_of_a_deleted_user_goes_with_the_account(server: RunningNode) -> None:
    omar, diego = await server.register("omar"), await server.register("diego")
    chosen = await upload(server, omar, "me.png", picture(kind="PNG"))
    async with http(server, omar) as client:
        assert (await client.put("/api/me", json={"picture": chosen})).json()["picture"] == chosen
        assert await shown(server, diego, chosen) == 200
        answer = await client.post("/api/me/delete", json={"password": "correct horse"})
        assert answer.is_success, answer.text
    await server.node.deletions.run_once()
    assert await shown(server, diego, chosen) == 404


async def test_the_picture_of_a_room_is_for_who_may_see_the_room_and_survives_its_messages(
    server: RunningNode,
) -> None:
    omar, diego, satoshi = [await server.register(name) for name in ("omar", "diego", "satoshi")]
    public = await make_topic(server.url, omar, "plaza", diego)
    async with connected(server.url, omar) as client, connected(server.url, diego) as member:
        group = (await client.ask("create_conversation", usernames=["diego"], title="Almuerzo"))["room_id"]
        direct = (await client.ask("create_conversation", usernames=["diego"]))["room_id"]
        of_public, of_group = [await upload(server, omar, "room.jpg", picture()) for _ in range(2)]
        assert await code(member, "set_picture", room_id=public, picture=None) == "forbidden"
        assert await code(client, "set_picture", room_id=direct, picture=of_public) == "forbidden"
        assert await code(client, "set_picture", room_id=public, picture="nothing") == "invalid"
        for room_id, chosen in ((public, of_public), (group, of_group)):
            assert (await client.ask("set_picture", room_id=room_id, picture=chosen))["picture"] == chosen
            event = await member.event("room_changed")
            assert (event["room_id"], event["username"], event["picture"]) == (room_id, "omar", chosen)
            assert "purpose" not in event
        assert [await shown(server, token, of_public) for token in (omar, diego, satoshi)] == [200, 200, 200]
        assert [await shown(server, token, of_group) for token in (omar, diego, satoshi)] == [200, 200, 404]
        snapshots = (await member.ask("get_rooms", member=True))["rooms"]
        assert {room["room_id"]: room["picture"] for room in snapshots} == {
            public: of_public,
            group: of_group,
            direct: None,
        }
        async with connected(server.url, diego, device="new", cursors={public: 0}) as later:
            assert (await later.event("room_changed"))["picture"] == of_public
        await server.node.database.write(trim_all)
        assert await shown(server, diego, of_public) == 200, "what it was chosen by is gone, but not the picture"
        assert (await client.ask("set_picture", room_id=public, picture=None))["picture"] is None
        assert await shown(server, omar, of_public) == 404
        await client.ask("unsubscribe", room_id=group)
        await member.ask("unsubscribe", room_id=group)
        assert await shown(server, diego, of_group) == 404
    await server.node.retention.run_once(now_ms())
    await server.node.files.run_once(now_ms())
    assert stored(server) == []
