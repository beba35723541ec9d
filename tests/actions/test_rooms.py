"""Topics: creating, entering, leaving, handing over, listing."""

from __future__ import annotations

import pytest

from tests.actions.conftest import People, code
from tests.support.client import Refused, connected
from tidings.actions import context


async def test_create_makes_the_caller_the_owner(people: People) -> None:
    room = await people.omar.ask("create", topic_name="  Noticias ")
    assert room == {
        "room_id": room["room_id"],
        "kind": "topic",
        "topic_name": "Noticias",
        "title": None,
        "is_private": False,
        "role": "owner",
        "members": 1,
        "online": room["online"],
        "last_seq": 0,
        "read_seq": 0,
        "unread": 0,
        "last_message": None,
        "posting": "members",
        "purpose": None,
        "picture": None,
        "preferences": room["preferences"],
    }
    assert (await people.omar.event("room_added"))["room"]["room_id"] == room["room_id"]


async def test_a_bad_topic_name_is_invalid(people: People) -> None:
    for name in ("", "   ", "a" * 65, "a\u202eb", "a\nb", "\u200d", "\ud800", 7, None):
        assert await code(people.omar, "create", topic_name=name) == "invalid"


async def test_anybody_may_subscribe_to_a_public_topic_once(people: People) -> None:
    room = await people.omar.ask("create", topic_name="noticias")
    await people.omar.ask("message", room_id=room["room_id"], content="before")
    joined = await people.diego.ask("subscribe", topic_name="NOTICIAS")
    assert (joined["role"], joined["members"], joined["unread"], joined["last_seq"]) == ("member", 2, 0, 1)
    assert joined["last_message"]["content"] == "before"
    assert (await people.diego.event("room_added"))["room"]["room_id"] == room["room_id"]
    member = await people.omar.event("member")
    assert member == {
        "room_id": room["room_id"],
        "seq": None,
        "username": "diego",
        "change": "joined",
        "role": "member",
    }
    for action in ("subscribe", "suscribe"):
        assert await code(people.diego, action, topic_name="noticias") == "conflict"
        assert await code(people.diego, action, topic_name="none") == "not_found"
    assert (await people.satoshi.ask("suscribe", topic_name="noticias"))["members"] == 3
    assert people.diego.of("message") == []  # earlier messages are in the history
    assert [m["content"] for m in (await people.diego.ask("history", topic_name="noticias"))["messages"]] == [
        "before"
    ]


async def test_a_username_does_not_name_a_topic_that_can_be_entered(people: People) -> None:
    await people.omar.ask("message", topic_name="diego", content="hola")
    for action in ("subscribe", "connect_to_room"):
        for name in ("diego", "omar", "satoshi"):
            assert await code(people.omar, action, topic_name=name) == "not_found"
    assert await code(people.omar, "invite", topic_name="diego", username="satoshi") == "not_found"


async def test_any_member_of_a_private_topic_can_add_a_user_immediately(people: People) -> None:
    omar, diego, satoshi = people.omar, people.diego, people.satoshi
    room = await omar.ask("create", topic_name="secreta", is_private=True)
    room_id = room["room_id"]
    assert (await omar.ask("invite", room_id=room_id, username="DIEGO"))["members"] == 2
    added = (await diego.event("room_added"))["room"]
    assert (added["room_id"], added["role"], added["is_private"], added["last_seq"]) == (room_id, "member", True, 1)
    assert (await diego.ask("invite", topic_name="secreta", username="satoshi"))["members"] == 3
    await satoshi.event("room_added")
    for client in (omar, diego):
        joined = await client.event("member", lambda m: m["username"] == "satoshi")
        assert (joined["seq"], joined["change"], joined["role"]) == (2, "joined", "member")
    sent = await satoshi.ask("message", room_id=room_id, content="hola")
    assert sent["seq"] == 3
    for client in (omar, diego, satoshi):
        await client.event("message", lambda m: m["id"] == sent["id"])
    assert await code(omar, "invite", room_id=room_id, username="diego") == "conflict"
    assert await code(omar, "invite", room_id=room_id, username="omar") == "conflict"
    assert await code(omar, "invite", room_id=room_id, username="nobody") == "not_found"
    assert await code(omar, "invite", room_id=room_id) == "invalid"
    assert await code(omar, "invite", username="diego") == "invalid"


async def test_a_member_who_leaves_gets_nothing_more_and_may_rejoin(people: People) -> None:
    omar, diego = people.omar, people.diego
    room_id = (await omar.ask("create", topic_name="noticias"))["room_id"]
    await diego.ask("subscribe", topic_name="noticias")
    assert await diego.ask("unsubscribe", topic_name="noticias") == {}
    assert await diego.event("room_removed") == {"room_id": room_id, "reason": "left"}
    left = await omar.event("member", lambda m: m["change"] == "left")
    assert (left["username"], left["role"]) == ("diego", None)
    assert await code(diego, "unsubscribe", room_id=room_id) == "forbidden"
    assert await code(diego, "unsubscribe", room_id="none") == "not_found"
    await omar.ask("message", room_id=room_id, content="meanwhile")
    rejoined = await diego.ask("subscribe", topic_name="noticias")
    assert (rejoined["members"], rejoined["unread"], rejoined["read_seq"]) == (2, 0, 1)
    await omar.ask("message", room_id=room_id, content="after")
    assert (await diego.event("message"))["content"] == "after"


async def test_ownership_passes_to_the_longest_standing_member_when_the_owner_leaves(people: People) -> None:
    omar, diego, satoshi = people.omar, people.diego, people.satoshi
    room_id = (await omar.ask("create", topic_name="secreta", is_private=True))["room_id"]
    await omar.ask("invite", room_id=room_id, username="satoshi")
    await omar.ask("invite", room_id=room_id, username="diego")
    await omar.ask("unsubscribe", room_id=room_id)
    role = await diego.event("member", lambda m: m["change"] == "role")
    assert (role["username"], role["role"], role["seq"]) == ("satoshi", "owner", 4)
    members = (await diego.ask("get_members", room_id=room_id))["members"]
    assert {member["username"]: member["role"] for member in members} == {"satoshi": "owner", "diego": "member"}
    await satoshi.ask("unsubscribe", room_id=room_id)
    await diego.ask("unsubscribe", room_id=room_id)  # the last member
    assert await code(diego, "history", room_id=room_id) == "not_found"


async def test_the_first_member_to_join_an_abandoned_public_topic_owns_it(people: People) -> None:
    await people.omar.ask("create", topic_name="noticias")
    await people.omar.ask("unsubscribe", topic_name="noticias")
    assert (await people.diego.ask("subscribe", topic_name="noticias"))["role"] == "owner"
    assert (await people.omar.ask("subscribe", topic_name="noticias"))["role"] == "member"


async def test_get_rooms_lists_visible_rooms_in_pages(people: People) -> None:
    omar, diego = people.omar, people.diego
    public = [(await omar.ask("create", topic_name=f"public{n}"))["room_id"] for n in range(5)]
    private = (await omar.ask("create", topic_name="private", is_private=True))["room_id"]
    direct = (await omar.ask("message", username="diego", content="hola"))["room_id"]
    await diego.ask("subscribe", topic_name="public3")

    async def listed(**fields: object) -> list[str]:
        answer = await diego.ask("get_rooms", **fields)
        assert answer["next"] is None
        return [room["room_id"] for room in answer["rooms"]]

    assert await listed() == [*public, direct]
    assert await listed(member=True) == [public[3], direct]
    assert await listed(member=False) == public[:3] + public[4:]
    assert await listed(kind="topic") == public
    assert await listed(kind="direct") == [direct]
    assert await listed(kind="group") == []
    assert await listed(kind="direct", member=False) == []
    assert private in [room["room_id"] for room in (await omar.ask("get_rooms"))["rooms"]]
    assert (await people.satoshi.ask("get_rooms", kind="direct"))["rooms"] == []

    pages, after = [], None
    while True:
        page = await diego.ask("get_rooms", limit=2, **({"after": after} if after else {}))
        pages += [room["room_id"] for room in page["rooms"]]
        assert len(page["rooms"]) <= 2
        after = page["next"]
        if after is None:
            break
    assert pages == [*public, direct]
    (room,) = (await diego.ask("get_rooms", kind="direct"))["rooms"]
    assert (room["title"], room["unread"], room["members"], room["role"]) == ("omar", 1, 2, "member")
    outside = (await diego.ask("get_rooms", member=False))["rooms"][0]
    assert (outside["role"], outside["unread"], outside["last_message"]) == (None, 0, None)
    for bad in ({"limit": 0}, {"limit": 501}, {"kind": "nonsense"}, {"member": 1}, {"unknown": 1}):
        assert await code(diego, "get_rooms", **bad) == "invalid"


async def test_connect_to_room_accepts_the_fields_of_the_chat_rooms_document(people: People) -> None:
    await people.omar.ask("create", topic_name="noticias")
    for fields in (
        {"username": "diego", "roomName": "noticias"},
        {"username": "DIEGO", "topic_name": "noticias"},
        {"roomName": "noticias", "topic_name": "noticias"},
        {"action": "connect_to_room", "username": "diego", "roomName": "noticias", "topic_name": "noticias"},
    ):
        assert (await people.diego.ask("connect_to_room", fields))["roomName"] == "noticias"
    assert await code(people.diego, "connect_to_room", username="omar", roomName="noticias") == "forbidden"
    assert await code(people.diego, "connect_to_room", topic_name="noticias", roomName="general") == "invalid"


async def test_the_action_field_of_a_documented_frame_must_match_its_event(people: People) -> None:
    await people.omar.ask("create", {"action": "create", "topic_name": "noticias", "is_private": False})
    await people.omar.ask("create", {"action": "create", "topic_name": "cave", "is_private": True})
    await people.diego.ask("suscribe", {"action": "suscribe", "topic_name": "noticias"})
    await people.omar.ask("invite", {"action": "invite", "topic_name": "cave", "username": "diego"})
    message = {"action": "message", "topic_name": "noticias", "content": "Content of the message"}
    assert (await people.omar.ask("message", message))["content"] == "Content of the message"
    for name in ("create", "nothing", 7, None, ["message"]):
        with pytest.raises(Refused) as refused:
            await people.omar.ask("message", {**message, "action": name})
        assert refused.value.code == "invalid"


async def test_connect_to_room_subscribes_if_necessary_and_returns_the_online_members(people: People) -> None:
    room = await people.omar.ask("create", topic_name="noticias")
    entered = await people.diego.ask("connect_to_room", roomName="noticias")
    assert (entered["roomName"], entered["usernames"]) == ("noticias", ["diego", "omar"])
    assert (entered["room"]["room_id"], entered["room"]["role"]) == (room["room_id"], "member")
    entered = await people.diego.ask("connect_to_room", topic_name="noticias")
    assert entered["room"]["members"] == 2
    assert len(people.diego.of("room_added")) == 1
    await people.omar.close()
    while (await people.diego.ask("get_profile", username="omar"))["online"]:
        pass
    assert (await people.diego.ask("connect_to_room", topic_name="noticias"))["usernames"] == ["diego"]
    assert await code(people.diego, "connect_to_room", topic_name="none") == "not_found"


async def test_connect_to_room_returns_at_most_the_limit_of_online_members(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above that number of members, it looks up the connected users instead of the members."""
    monkeypatch.setattr(context, "MAX_ONLINE", 2)
    await people.omar.ask("create", topic_name="noticias")
    await people.diego.ask("subscribe", topic_name="noticias")
    entered = await people.satoshi.ask("connect_to_room", topic_name="noticias")
    assert (entered["usernames"], entered["room"]["members"]) == (["diego", "omar"], 3)
    await people.diego.close()
    while (await people.omar.ask("get_profile", username="diego"))["online"]:
        pass
    assert (await people.omar.ask("connect_to_room", topic_name="noticias"))["usernames"] == ["omar", "satoshi"]


async def test_get_members_lists_members_and_their_presence_in_pages(people: People) -> None:
    omar, diego = people.omar, people.diego
    room_id = (await omar.ask("create", topic_name="noticias"))["room_id"]
    await diego.ask("subscribe", topic_name="noticias")
    await people.satoshi.ask("subscribe", topic_name="noticias")
    await people.satoshi.close()
    while (await diego.ask("get_profile", username="satoshi"))["online"]:
        pass
    first = await diego.ask("get_members", topic_name="noticias", limit=2)
    assert [(m["username"], m["role"], m["online"]) for m in first["members"]] == [
        ("diego", "member", True),
        ("omar", "owner", True),
    ]
    second = await diego.ask("get_members", room_id=room_id, limit=2, after=first["next"])
    assert [(m["username"], m["online"]) for m in second["members"]] == [("satoshi", False)]
    assert second["next"] is None
    assert await code(diego, "get_members", room_id=room_id, limit=501) == "invalid"
    direct = await omar.ask("message", username="diego", content="hola")
    members = (await diego.ask("get_members", username="omar"))["members"]
    assert [m["username"] for m in members] == ["diego", "omar"]
    assert direct["topic_name"] is None


async def test_online_includes_the_caller_in_a_direct_conversation(people: People) -> None:
    async def online() -> int:
        (room,) = (await people.omar.ask("get_rooms", kind="direct"))["rooms"]
        return int(room["online"])

    token = await people.server.register("eva")
    await people.omar.ask("message", username="eva", content="x")
    assert await online() == 1
    async with connected(people.server.url, token):
        assert (await people.omar.event("presence"))["online"] is True
        assert await online() == 2


async def test_get_profile(people: People) -> None:
    profile = await people.omar.ask("get_profile", username="DIEGO")
    assert (profile["username"], profile["online"]) == ("diego", True)
    assert await code(people.omar, "get_profile", username="nobody") == "not_found"
    assert await code(people.omar, "get_profile", username="a b") == "not_found"


IN_A_ROOM: list[tuple[str, dict[str, object]]] = [
    ("history", {}),
    ("read", {"seq": 0}),
    ("typing", {}),
    ("message", {"content": "x"}),
    ("get_members", {}),
    ("get_receipts", {}),
    ("unsubscribe", {}),
]


async def test_a_room_reference_has_exactly_one_field(people: People) -> None:
    room_id = (await people.omar.ask("create", topic_name="noticias"))["room_id"]
    for action, more in IN_A_ROOM:
        assert await code(people.omar, action, **more) == "invalid"
        assert await code(people.omar, action, room_id=room_id, topic_name="noticias", **more) == "invalid"


async def test_a_private_room_looks_nonexistent_to_non_members(people: People) -> None:
    """No action and no detail of an answer reveals it, except `create` with its name."""
    room_id = (await people.omar.ask("create", topic_name="secreta", is_private=True))["room_id"]
    message_id = (await people.omar.ask("message", room_id=room_id, content="x"))["id"]
    direct = (await people.omar.ask("message", username="diego", content="x"))["room_id"]
    await people.omar.ask("create", topic_name="later")
    refs = [("room_id", room_id, "none"), ("room_id", direct, "none"), ("topic_name", "secreta", "none")]

    async def answer(action: str, **fields: object) -> dict[str, object]:
        return dict(await people.satoshi.sio.call(action, fields, timeout=30))

    for action, more in [
        ("history", {"before": 5}),
        ("read", {"seq": 99}),
        ("message", {"content": "x", "client_id": "1", "reply_to": message_id}),
        ("get_members", {"after": "a b"}),
        ("invite", {"username": "satoshi"}),
        ("invite", {"username": "omar"}),
        ("invite", {"username": "nobody"}),
        ("invite", {"username": "a b"}),
    ]:
        for ref, private, unknown in refs:
            refused = await answer(action, **{ref: private}, **more)
            assert refused == await answer(action, **{ref: unknown}, **more), (action, more, ref)
            assert refused["ok"] is False
    for action in ("subscribe", "connect_to_room"):
        assert await answer(action, topic_name="secreta") == await answer(action, topic_name="none")
    for private in (room_id, direct):
        assert await answer("delivered", cursors={private: 1}) == await answer("delivered", cursors={"none": 1})
        assert await answer("get_rooms", after=private) == await answer("get_rooms", after="none")
    token = people.tokens["satoshi"]
    async with connected(people.server.url, token, device="new", cursors={room_id: 1, direct: 9, "none": 1}) as new:
        assert [name for name, _ in new.events] == ["room_removed"] * 3 + ["ready"]
        assert {event["reason"] for event in new.of("room_removed")} == {"gone"}
    assert {room["room_id"] for room in (await people.satoshi.ask("get_rooms"))["rooms"]}.isdisjoint(
        {room_id, direct}
    )
    assert people.satoshi.events[1:] == []
    with pytest.raises(Refused):
        await people.omar.ask("message", room_id=room_id, content="x", reply_to="none")
