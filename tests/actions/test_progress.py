"""Unread counts, receipts, typing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, insert, update
from sqlalchemy.engine import Connection as Transaction

from tests.actions.conftest import People, code
from tests.support.client import Client, connected
from tests.support.node import RunningNode, running_node
from tidings.node import NodeOptions
from tidings_db import models


async def test_read_moves_the_marker_forwards_and_returns_the_unread_count(people: People) -> None:
    omar, diego = people.omar, people.diego
    room_id = (await omar.ask("create", topic_name="secreta", is_private=True))["room_id"]
    await omar.ask("invite", room_id=room_id, username="diego")  # seq 1, no message
    for n in range(4):
        await omar.ask("message", room_id=room_id, content=str(n))  # seqs 2 to 5

    async def view() -> tuple[int, int]:
        (room,) = (await diego.ask("get_rooms"))["rooms"]
        return room["read_seq"], room["unread"]

    assert await view() == (1, 4)
    assert await diego.ask("read", room_id=room_id, seq=3) == {"unread": 2}
    assert await view() == (3, 2)
    assert await diego.ask("read", topic_name="secreta", seq=2) == {"unread": 2}  # forwards only
    assert await view() == (3, 2)
    assert await code(diego, "read", room_id=room_id, seq=6) == "invalid"
    assert await code(diego, "read", room_id=room_id, seq=-1) == "invalid"
    assert await code(diego, "read", room_id="none", seq=1) == "not_found"
    await diego.ask("message", room_id=room_id, content="answer")  # sending marks as read
    assert await view() == (6, 0)
    assert await diego.ask("read", room_id=room_id, seq=6) == {"unread": 0}
    assert (await omar.ask("get_rooms"))["rooms"][0]["unread"] == 1


async def test_an_unread_count_does_not_count_entries(server: RunningNode) -> None:
    """Counts are differences of stored numbers: no statement counts entries."""
    tokens = await server.register("omar"), await server.register("diego")
    async with connected(server.url, tokens[0]) as omar, connected(server.url, tokens[1]) as diego:
        room_id = (await omar.ask("create", topic_name="noticias"))["room_id"]
        await diego.ask("subscribe", topic_name="noticias")
        sent = [omar.send("message", {"room_id": room_id, "content": "x"}) for _ in range(300)]
        await asyncio.gather(*sent)
        statements: list[str] = []

        def record(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
            statements.append(statement.lower())

        event.listen(Engine, "before_cursor_execute", record)
        try:
            assert await diego.ask("read", room_id=room_id, seq=100) == {"unread": 200}
            (room,) = (await diego.ask("get_rooms"))["rooms"]
        finally:
            event.remove(Engine, "before_cursor_execute", record)
        assert room["unread"] == 200
        assert statements
        assert not [statement for statement in statements if "count(" in statement]


async def test_receipts_show_how_far_a_member_has_received_and_read(people: People) -> None:
    omar, diego = people.omar, people.diego
    room_id = (await omar.ask("create", topic_name="noticias"))["room_id"]
    await diego.ask("subscribe", topic_name="noticias")
    async with connected(people.server.url, people.tokens["diego"], device="phone") as phone:
        for n in range(3):
            await omar.ask("message", room_id=room_id, content=str(n))
        await diego.ask("delivered", cursors={room_id: 2})
        for client in (omar, diego, phone):  # the user's own devices, too
            receipt = await client.event("receipt", lambda r: r["delivered_seq"] == 2)
            assert receipt == {"room_id": room_id, "username": "diego", "delivered_seq": 2, "read_seq": 0}
        await diego.ask("read", room_id=room_id, seq=3)
        for client in (omar, diego, phone):
            receipt = await client.event("receipt", lambda r: r["read_seq"] == 3)
            assert (receipt["username"], receipt["delivered_seq"]) == ("diego", 2)
        await diego.ask("read", room_id=room_id, seq=1)  # sends no receipt
        await diego.ask("delivered", cursors={room_id: 3})
        receipt = await omar.event("receipt", lambda r: r["delivered_seq"] == 3)
        assert receipt["read_seq"] == 3
        assert len(omar.of("receipt")) == 3
    assert people.satoshi.of("receipt") == []


async def crowd(server: RunningNode, room_id: str, size: int) -> None:
    """Fill a room up to `size` members with users who never connect."""

    def add(conn: Transaction) -> None:
        room = conn.execute(models.rooms.select().where(models.rooms.c.room_id == room_id)).one()
        for n in range(size - room.members):
            key = conn.execute(
                insert(models.users)
                .values(username=f"crowd{n}", username_key=f"crowd{n}", created_at=0, disabled=False)
                .returning(models.users.c.id)
            ).scalar_one()
            conn.execute(
                insert(models.members).values(room_id=room.id, user_id=key, role="member", joined_at=0, joined_seq=0)
            )
        conn.execute(update(models.rooms).where(models.rooms.c.room_id == room_id).values(members=size))

    await server.node.database.write(add)


@pytest.mark.parametrize(("members", "sent"), [(50, True), (51, False)])
async def test_receipts_are_sent_in_rooms_of_up_to_50_members(people: People, members: int, *, sent: bool) -> None:
    omar, diego = people.omar, people.diego
    room_id = (await omar.ask("create", topic_name="noticias"))["room_id"]
    await diego.ask("subscribe", topic_name="noticias")
    await crowd(people.server, room_id, members)
    await omar.ask("message", room_id=room_id, content="x")
    await diego.event("message")
    await diego.ask("delivered", cursors={room_id: 1})
    await diego.ask("read", room_id=room_id, seq=1)
    assert (await diego.event("receipt", lambda r: r["read_seq"] == 1))[
        "room_id"
    ] == room_id  # always sent to the own devices
    if sent:
        await omar.event("receipt", lambda r: r["delivered_seq"] == 1 and r["read_seq"] == 1)
    else:
        await omar.ask("message", room_id=room_id, content="y")
        await omar.event("message", lambda m: m["content"] == "y")
        assert omar.of("receipt") == []


async def marks(client: Client, **ref: str) -> dict[str, tuple[int, int]]:
    """`get_receipts`: username -> (delivered_seq, read_seq)."""
    receipts = (await client.ask("get_receipts", **ref))["receipts"]
    assert [r["username"] for r in receipts] == sorted(r["username"] for r in receipts)
    return {r["username"]: (r["delivered_seq"], r["read_seq"]) for r in receipts}


async def test_a_later_connection_can_request_the_receipts_of_the_others(people: People) -> None:
    omar, diego, satoshi = people.omar, people.diego, people.satoshi
    ref = {"room_id": (await omar.ask("create", topic_name="noticias"))["room_id"]}
    await omar.ask("message", **ref, content="0")
    await satoshi.ask("subscribe", topic_name="noticias")
    await diego.ask("subscribe", topic_name="noticias")
    assert await marks(omar, **ref) == {"diego": (1, 1), "satoshi": (1, 1)}  # they start where they joined
    for n in range(3):
        await omar.ask("message", **ref, content=str(n))
    await diego.ask("delivered", cursors={ref["room_id"]: 3})
    await omar.event("receipt", lambda r: (r["username"], r["delivered_seq"]) == ("diego", 3))
    await diego.ask("read", **ref, seq=2)
    async with connected(people.server.url, people.tokens["omar"], device="phone") as phone:
        assert await marks(phone, topic_name="noticias") == {"diego": (3, 2), "satoshi": (1, 1)}
        assert phone.of("receipt") == []
    assert (await marks(diego, **ref)).keys() == {"omar", "satoshi"}
    assert (await marks(diego, **ref))["omar"][1] == 4  # sending marks as read
    await diego.ask("unsubscribe", **ref)
    assert (await marks(omar, **ref)).keys() == {"satoshi"}
    assert await code(diego, "get_receipts", **ref) == "forbidden"


async def test_receipts_show_the_furthest_device_of_a_member(people: People) -> None:
    omar, diego = people.omar, people.diego
    ref = {"room_id": (await omar.ask("message", username="diego", content="0"))["room_id"]}
    await omar.ask("message", **ref, content="1")
    async with connected(people.server.url, people.tokens["diego"], device="phone") as phone:
        await phone.ask("delivered", cursors={ref["room_id"]: 2})
        await diego.ask("delivered", cursors={ref["room_id"]: 1})
        await omar.event("receipt", lambda r: r["delivered_seq"] == 2)
    assert await marks(omar, username="diego") == {"diego": (2, 0)}


@pytest.mark.parametrize("how", ["read", "delivered"])
async def test_receipts_are_hidden_from_blocked_users(people: People, how: str) -> None:
    """The blocked member sees no progress. The other members of the room get the receipts."""
    omar, diego, satoshi = people.omar, people.diego, people.satoshi
    ref = {"room_id": (await omar.ask("create_conversation", usernames=["diego", "satoshi"], title="x"))["room_id"]}
    await diego.ask("block", username="omar")
    await omar.ask("message", **ref, content="1")
    await diego.event("message")
    if how == "read":
        await diego.ask("read", **ref, seq=1)
    else:
        await diego.ask("delivered", cursors={ref["room_id"]: 1})
    at = 1 if how == "read" else 0
    await satoshi.event("receipt", lambda r: (r["username"], r["read_seq"]) == ("diego", at))
    assert (await marks(satoshi, **ref))["diego"] == (int(how != "read"), at)
    assert (await marks(omar, **ref))["diego"] == (0, 0)

    await satoshi.ask("read", **ref, seq=1)
    await omar.event("receipt", lambda r: (r["username"], r["read_seq"]) == ("satoshi", 1))
    assert [r for r in omar.of("receipt") if r["username"] == "diego"] == []


async def test_receipts_resume_after_an_unblock_and_those_of_the_blocked_user_never_stop(people: People) -> None:
    omar, diego = people.omar, people.diego
    ref = {"room_id": (await omar.ask("message", username="diego", content="1"))["room_id"]}
    await omar.ask("message", **ref, content="2")
    await diego.ask("block", username="omar")
    await diego.ask("read", **ref, seq=1)
    assert (await marks(omar, **ref))["diego"] == (0, 0)
    await omar.ask("read", **ref, seq=2)
    assert (await marks(diego, **ref))["omar"][1] == 2
    await diego.ask("unblock", username="omar")
    assert (await marks(omar, **ref))["diego"][1] == 1
    await diego.ask("read", **ref, seq=2)
    await omar.event("receipt", lambda r: (r["username"], r["read_seq"]) == ("diego", 2))
    assert len([r for r in omar.of("receipt") if r["username"] == "diego"]) == 1


@pytest.mark.parametrize(("members", "receipts"), [(50, 49), (51, 0)])
async def test_get_receipts_covers_rooms_of_up_to_50_members(people: People, members: int, receipts: int) -> None:
    room_id = (await people.omar.ask("create", topic_name="noticias"))["room_id"]
    await crowd(people.server, room_id, members)
    assert len(await marks(people.omar, room_id=room_id)) == receipts


@pytest.mark.parametrize(("members", "announced"), [(200, True), (201, False)])
async def test_public_topics_of_up_to_200_members_send_member_events(
    people: People, members: int, *, announced: bool
) -> None:
    room_id = (await people.omar.ask("create", topic_name="noticias"))["room_id"]
    await crowd(people.server, room_id, members - 1)
    await people.diego.ask("subscribe", topic_name="noticias")
    if announced:
        assert (await people.omar.event("member"))["seq"] is None
    sent = await people.omar.ask("message", room_id=room_id, content="x")
    assert sent["seq"] == 1  # a membership change of a public topic is no entry
    await people.omar.event("message")
    assert len(people.omar.of("member")) == announced


async def test_private_topics_of_any_size_log_their_membership(people: People) -> None:
    room_id = (await people.omar.ask("create", topic_name="secreta", is_private=True))["room_id"]
    await crowd(people.server, room_id, 300)
    await people.omar.ask("invite", room_id=room_id, username="diego")
    assert (await people.omar.event("member"))["seq"] == 1


async def test_typing_is_sent_to_the_others_and_ends_on_request(people: People) -> None:
    omar, diego = people.omar, people.diego
    room_id = (await omar.ask("create", topic_name="noticias"))["room_id"]
    await diego.ask("subscribe", topic_name="noticias")
    async with connected(people.server.url, people.tokens["omar"], device="phone") as phone:
        assert await omar.ask("typing", topic_name="noticias") == {}
        await omar.ask("typing", room_id=room_id, typing=False)
        await omar.ask("typing", room_id=room_id, typing=False)  # already ended
        await omar.ask("message", room_id=room_id, content="x")
        for client in (diego, phone):
            await client.event("message")
            assert [e["typing"] for e in client.of("typing")] == [True, False]
            assert client.of("typing")[0] == {"room_id": room_id, "username": "omar", "typing": True}
    assert omar.of("typing") == []
    assert people.satoshi.of("typing") == []
    assert await code(people.satoshi, "typing", room_id=room_id) == "forbidden"


async def test_typing_ends_with_the_connection(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people.server.node.hub.typists, "_typing_s", 3600)  # it does not time out
    omar, diego = people.omar, people.diego
    await omar.ask("message", username="diego", content="x")
    await omar.ask("typing", username="diego")
    await diego.event("typing", lambda e: e["typing"] is True)
    await omar.close()
    await diego.event("typing", lambda e: e["typing"] is False)


async def test_typing_times_out(database_url: str, tmp_path: Path) -> None:
    async with running_node(database_url, tmp_path, options={"typing_s": 0.1}) as server:
        tokens = [await server.register(name) for name in ("omar", "diego")]
        async with connected(server.url, tokens[0]) as omar, connected(server.url, tokens[1]) as diego:
            await omar.ask("message", username="diego", content="x")
            await omar.ask("typing", username="diego")
            await diego.event("typing", lambda e: e["typing"] is True)
            await diego.event("typing", lambda e: e["typing"] is False)


def test_typing_times_out_after_6_s_by_default() -> None:
    assert NodeOptions().typing_s == 6
