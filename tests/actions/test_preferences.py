"""What a member prefers for a room, marking it as unread, its purpose, and invitations to public topics."""

from __future__ import annotations

import httpx

from tests.actions.conftest import People, code
from tidings_db.queries import registration

DEFAULTS = {"notify": "mentions", "quiet_until": None, "favourite": False, "section": None, "unread_from": None}


async def test_preferences_are_kept_for_every_device_and_end_with_the_membership(people: People) -> None:
    room = await people.omar.ask("create", topic_name="sala")
    assert room["preferences"] == DEFAULTS
    await people.diego.ask("subscribe", topic_name="sala")
    chosen = {"notify": "nothing", "quiet_for": 60, "favourite": True, "section": " Trabajo "}
    shown = (await people.diego.ask("set_preferences", topic_name="sala", **chosen))["preferences"]
    assert shown["quiet_until"] is not None
    assert shown == DEFAULTS | {
        "notify": "nothing",
        "quiet_until": shown["quiet_until"],
        "favourite": True,
        "section": "Trabajo",
    }
    event = await people.diego.event("preferences")
    assert event == {"room_id": room["room_id"], "preferences": shown, "unread": 0}
    later = await people.diego.ask("set_preferences", topic_name="sala", quiet_for=None, section=None)
    assert later["preferences"] == DEFAULTS | {"notify": "nothing", "favourite": True}
    assert await code(people.diego, "set_preferences", topic_name="sala", notify=None) == "invalid"
    (kept,) = (await people.diego.ask("get_rooms", member=True))["rooms"]
    assert kept["preferences"] == later["preferences"]
    await people.diego.ask("unsubscribe", topic_name="sala")
    assert await code(people.diego, "set_preferences", topic_name="sala", favourite=True) == "forbidden"
    (left,) = (await people.diego.ask("get_rooms"))["rooms"]
    assert left["preferences"] is None
    assert (await people.diego.ask("subscribe", topic_name="sala"))["preferences"] == DEFAULTS


async def test_a_room_marked_as_unread_counts_from_there_until_it_is_read_and_its_receipt_stays(
    people: People,
) -> None:
    sala = {"topic_name": "sala"}
    await people.omar.ask("create", **sala)
    await people.diego.ask("subscribe", **sala)
    for number in range(1, 6):
        await people.omar.ask("message", content=str(number), **sala)
    assert await people.diego.ask("read", seq=4, **sala) == {"unread": 1}
    assert await people.diego.ask("mark_unread", seq=3, **sala) == {"unread": 3}
    event = await people.diego.event("preferences")
    assert (event["preferences"]["unread_from"], event["unread"]) == (3, 3)
    (room,) = (await people.diego.ask("get_rooms"))["rooms"]
    assert (room["read_seq"], room["unread"]) == (4, 3)
    (receipt,) = (await people.omar.ask("get_receipts", **sala))["receipts"]
    assert receipt["read_seq"] == 4
    assert await people.diego.ask("read", seq=2, **sala) == {"unread": 3}
    assert await people.diego.ask("read", seq=3, **sala) == {"unread": 1}
    assert (await people.diego.event("preferences"))["preferences"]["unread_from"] is None
    for seq in (0, 6):
        assert await code(people.diego, "mark_unread", seq=seq, **sala) == "invalid"


async def test_sending_a_message_reads_a_room_that_was_marked_as_unread(people: People) -> None:
    sala = {"topic_name": "sala"}
    await people.omar.ask("create", **sala)
    await people.omar.ask("message", content="uno", **sala)
    assert await people.omar.ask("mark_unread", seq=1, **sala) == {"unread": 1}
    await people.omar.ask("message", content="dos", **sala)
    (room,) = (await people.omar.ask("get_rooms"))["rooms"]
    assert (room["unread"], room["preferences"]["unread_from"]) == (0, None)


async def test_moderators_set_and_remove_the_purpose_and_the_log_has_each_change_once(people: People) -> None:
    sala = {"topic_name": "sala"}
    room = await people.omar.ask("create", purpose=" Lo que comemos ", **sala)
    assert room["purpose"] == "Lo que comemos"
    await people.diego.ask("subscribe", **sala)
    assert await code(people.diego, "set_purpose", purpose="x", **sala) == "forbidden"
    for purpose in ("Comer", "Comer", None):
        assert (await people.omar.ask("set_purpose", purpose=purpose, **sala))["purpose"] == purpose
    fields = {"room_id": room["room_id"], "username": "omar"}
    for seq, purpose in ((1, "Comer"), (2, None)):
        assert await people.diego.event("room_changed") == fields | {"seq": seq, "purpose": purpose}
    assert await code(people.omar, "set_purpose", purpose="x" * 251, **sala) == "invalid"
    group = await people.omar.ask("create_conversation", usernames=["diego"], title="uno", purpose="dos")
    assert group["purpose"] == "dos"
    assert await code(people.omar, "create_conversation", usernames=["diego"], purpose="dos") == "invalid"


async def test_any_member_of_a_public_topic_invites_and_links_to_it_there_are_none(people: People) -> None:
    sala = {"topic_name": "sala"}
    await people.omar.ask("create", **sala)
    assert await code(people.diego, "invite", username="satoshi", **sala) == "forbidden"
    await people.omar.ask("invite", username="diego", **sala)
    assert (await people.diego.event("room_added"))["room"]["role"] == "member"
    joined = await people.omar.event("member")
    assert (joined["username"], joined["change"], joined["role"]) == ("diego", "joined", "member")
    assert joined["seq"] is None
    assert await code(people.diego, "create_invitation_link", **sala) == "forbidden"
    await people.omar.ask("ban", username="diego", **sala)
    assert await code(people.omar, "invite", username="diego", **sala) == "forbidden"


async def test_a_public_topic_is_previewed_without_a_token_only_where_anybody_may_register(people: People) -> None:
    room = await people.omar.ask("create", topic_name="sala", purpose="Comer")
    await people.omar.ask("create", topic_name="secreto", is_private=True)
    expected = {"room_id": room["room_id"], "topic_name": "sala", "purpose": "Comer", "members": 1}
    assert await people.omar.ask("preview_topic", topic_name=" Sala") == expected | {"is_member": True}
    database = people.server.node.database
    async with httpx.AsyncClient(base_url=people.server.url, timeout=30) as http:

        async def ask(topic: str, token: str | None = None) -> httpx.Response:
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            return await http.get("/api/topic-preview", params={"topic_name": topic}, headers=headers)

        await database.write(lambda conn: registration.set_mode(conn, "open"))
        assert (await ask("sala")).json() == expected | {"is_member": False}
        assert (await ask("sala", people.tokens["omar"])).json()["is_member"] is True
        assert (await ask("sala", "wrong")).json()["code"] == "unauthenticated"
        hidden, missing = (await ask("secreto")).json(), (await ask("nada")).json()
        assert hidden["code"] == "not_found"
        assert {**hidden, "request_id": ""} == {**missing, "request_id": ""}
        await database.write(lambda conn: registration.set_mode(conn, "closed"))
        assert (await ask("sala")).json()["code"] == "unauthenticated"
        assert (await ask("sala", people.tokens["diego"])).json() == expected | {"is_member": False}
