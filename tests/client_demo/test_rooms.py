"""Old snapshot + events = new snapshot, for a room in the client."""

from __future__ import annotations

from tests.client_demo.conftest import People
from tests.files.support import picture, upload
from tests.support.client import connected
from tests.support.node import RunningNode
from tidings.contract.events import EVENTS, MemberChange, MemberChanged, MessageChanged
from tidings.contract.models import Message, Receipt, Role, Room, RoomKind
from tidings_chat.message_cache import MessageCache
from tidings_chat.rooms import applied, merged, title


async def test_a_snapshot_with_its_events_is_the_next_snapshot(server: RunningNode, people: People) -> None:
    for user in ("maria", "juan"):
        await people.ask(user, "GET", "/api/me")
    async with connected(server.url, await server.register("diego")) as diego:
        token = await server.register("omar")
        async with connected(server.url, token) as omar:
            group = await omar.ask("create_conversation", usernames=["diego", "maria"], title="Editors")
            room = Room.model_validate((await diego.event("room_added"))["room"])
            ref = {"room_id": group["room_id"]}
            first = await omar.ask("message", **ref, content="one")
            await omar.ask("message", **ref, content="two")
            last = await omar.ask("message", **ref, content="three")
            await omar.ask("edit", message_id=first["id"], content="ONE")
            await diego.ask("react", message_id=last["id"], emoji="🎉")
            await omar.ask("set_title", **ref, title="Late shift")
            await omar.ask("set_purpose", **ref, purpose="News at night")
            await omar.ask("set_picture", **ref, picture=await upload(server, token, "desk.jpg", picture((40, 30))))
            await omar.ask("invite", **ref, username="juan")
            await omar.ask("set_role", **ref, username="diego", role="moderator")
            await omar.ask("kick", **ref, username="maria")
            await omar.ask("edit", message_id=last["id"], content="THREE")
            await omar.ask("delete", message_id=first["id"])
            await diego.event("message_deleted")
            await diego.ask("read", **ref, seq=last["seq"])
            await diego.ask("set_preferences", **ref, favourite=True)
            await diego.ask("mark_unread", **ref, seq=last["seq"])
            await diego.until(lambda: len(diego.of("preferences")) == 2)
            (snapshot,) = (await diego.ask("get_rooms", kind="group"))["rooms"]
            events = [(name, data) for name, data in diego.events if data.get("room_id") == group["room_id"]]
        for name, data in [*events, *events]:  # a repeated event changes nothing
            room = applied(room, EVENTS[name].model_validate(data), "diego")
        expected = Room.model_validate(snapshot)
        assert room == expected.model_copy(update={"online": room.online})
        assert (title(room), room.role, room.members, room.unread) == ("Late shift", Role.MODERATOR, 3, 1)


def test_joining_a_public_topic_changes_the_member_count_but_not_the_log() -> None:
    room = Room(
        room_id="r",
        kind=RoomKind.TOPIC,
        topic_name="noticias",
        is_private=False,
        role=Role.MEMBER,
        members=2,
        online=1,
        last_seq=7,
        read_seq=7,
        unread=0,
    )
    joined = MemberChanged(room_id="r", username="maria", change=MemberChange.JOINED, role=Role.MEMBER)
    assert applied(room, joined, "omar").members == 3
    assert applied(room, joined, "omar").last_seq == 7


def test_an_answer_older_than_an_event_does_not_move_a_receipt_back() -> None:
    receipt = Receipt(room_id="r", username="diego", delivered_seq=5, read_seq=3)
    assert merged(None, receipt) == receipt
    answer = receipt.model_copy(update={"delivered_seq": 4, "read_seq": 4})
    assert merged(receipt, answer) == receipt.model_copy(update={"read_seq": 4})


def test_an_old_page_of_history_does_not_restore_old_content() -> None:
    sent = Message(
        id="m", room_id="r", topic_name=None, seq=1, sender="omar", content="a", created_at="2026-01-31T09:30:00.250Z"
    )
    edited = sent.model_copy(update={"content": "b", "edited_at": "2026-01-31T09:31:00.250Z"})
    deleted = edited.model_copy(update={"content": "", "deleted": True})
    log = MessageCache()
    log.add(sent)
    assert log.change(MessageChanged(room_id="r", seq=2, message=edited)) == sent
    assert log.add(sent) == edited
    log.change(MessageChanged(room_id="r", seq=3, message=deleted))
    assert log.add(edited) == deleted
    assert log.last("r") is None
