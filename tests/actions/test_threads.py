"""Threads: replies beside a room, and who is told of them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.actions.conftest import People, code


@pytest.fixture
async def room(people: People) -> str:
    room = await people.omar.ask("create", topic_name="noticias")
    for client in (people.diego, people.satoshi):
        await client.ask("subscribe", topic_name="noticias")
    return str(room["room_id"])


async def unread(client: Any) -> int:
    return int((await client.ask("get_rooms"))["rooms"][0]["unread"])


async def test_a_reply_in_a_thread_is_an_entry_of_the_log_and_stays_out_of_the_room(
    people: People, room: str
) -> None:
    began = await people.omar.ask("message", room_id=room, content="¿Quién viene?")
    assert not began.keys() & {"thread", "replies"}
    first = await people.diego.ask("message", room_id=room, content="Yo", thread=began["id"])
    second = await people.diego.ask(
        "message", room_id=room, content="con Ana", thread=first["id"], reply_to=first["id"]
    )
    assert [(reply["seq"], reply["thread"], reply["replies"]) for reply in (first, second)] == [
        (2, began["id"], 1),
        (3, began["id"], 2),
    ]
    for client in (people.omar, people.diego, people.satoshi):
        await client.until(lambda client=client: len(client.of("message")) == 3)
        assert client.of("message") == [began, first, second]
        (message,) = (await client.ask("history", room_id=room, without_threads=True))["messages"]
        assert (await client.ask("history", room_id=room))["messages"] == [message, first, second]
        assert message == began | {"replies": 2}
        assert (await client.ask("history", room_id=room, thread=began["id"]))["messages"] == [first, second]
        shown = (await client.ask("get_rooms"))["rooms"][0]
        assert (shown["last_seq"], shown["last_message"]) == (3, message)
    page = await people.omar.ask("history", room_id=room, thread=began["id"], before=3, limit=1)
    assert page == {"messages": [first], "has_more": False, "began": began | {"replies": 2}}
    assert (await unread(people.diego), await unread(people.omar)) == (1, 0), "the reply has read the room for nobody"
    await people.satoshi.ask("read", room_id=room, seq=3)
    assert await unread(people.satoshi) == 0


async def test_a_reply_counts_once_however_often_it_is_sent(people: People, room: str) -> None:
    began = await people.omar.ask("message", room_id=room, content="uno")
    reply = {"room_id": room, "content": "dos", "thread": began["id"], "client_id": "c"}
    assert await people.diego.ask("message", **reply) == await people.diego.ask("message", **reply)
    assert (await people.omar.ask("history", room_id=room, without_threads=True))["messages"] == [
        began | {"replies": 1}
    ]


async def test_who_begins_a_thread_replies_or_is_mentioned_follows_it_until_they_stop(
    people: People, room: str
) -> None:
    omar, diego, satoshi = people.omar, people.diego, people.satoshi
    began = await omar.ask("message", room_id=room, content="uno")
    await diego.ask("message", room_id=room, content="dos", thread=began["id"])
    assert await omar.event("thread") == {"message": began | {"replies": 1}, "following": True, "unread": 1}
    assert await diego.event("thread") == {"message": began | {"replies": 1}, "following": True, "unread": 0}
    assert (await satoshi.ask("get_threads"))["threads"] == []
    await diego.ask("message", room_id=room, content="@satoshi, ¿tú?", thread=began["id"])
    assert await satoshi.event("thread") == {"message": began | {"replies": 2}, "following": True, "unread": 1}
    (thread,) = (await omar.ask("get_threads"))["threads"]
    assert thread == {"message": began | {"replies": 2}, "following": True, "unread": 2}

    stopped = await satoshi.ask("follow_thread", message_id=began["id"], following=False)
    assert (stopped["following"], stopped["unread"]) == (False, 0)
    await diego.ask("message", room_id=room, content="@satoshi, perdona", thread=began["id"])
    assert (await satoshi.ask("get_threads"))["threads"] == []
    again = await satoshi.ask("follow_thread", message_id=began["id"])
    assert (again["following"], again["unread"]) == (True, 0), "what was there before is not news"


async def test_a_thread_has_its_own_read_marker_which_moves_forward_on_every_device(
    people: People, room: str
) -> None:
    omar, diego = people.omar, people.diego
    began = await omar.ask("message", room_id=room, content="uno")
    replies = [await diego.ask("message", room_id=room, content=f"{n}", thread=began["id"]) for n in range(3)]
    read = {"room_id": room, "thread": began["id"]}
    assert await omar.ask("read", **read, seq=replies[1]["seq"]) == {"unread": 1}
    await omar.until(lambda: omar.of("thread")[-1]["unread"] == 1)
    assert await omar.ask("read", **read, seq=replies[0]["seq"]) == {"unread": 1}
    own = await omar.ask("message", room_id=room, content="yo", thread=began["id"])
    assert await omar.ask("read", **read, seq=0) == {"unread": 0}, "a reply of one's own has read those before"
    assert await people.satoshi.ask("read", **read, seq=own["seq"]) == {"unread": 0}
    assert await code(omar, "read", **read, seq=99) == "invalid"
    assert await code(omar, "read", room_id=room, thread="none", seq=1) == "invalid"


async def test_threads_come_with_the_newest_reply_first_page_by_page(people: People, room: str) -> None:
    began = [await people.omar.ask("message", room_id=room, content=f"{n}") for n in range(3)]
    for n in (0, 1, 2, 1):
        await people.diego.ask("message", room_id=room, content="sí", thread=began[n]["id"])
    first = await people.omar.ask("get_threads", limit=2)
    assert [thread["message"]["content"] for thread in first["threads"]] == ["1", "2"]
    second = await people.omar.ask("get_threads", limit=2, after=first["next"])
    assert ([thread["message"]["content"] for thread in second["threads"]], second["next"]) == (["0"], None)


async def test_a_thread_is_of_one_room_and_of_its_members(people: People, room: str) -> None:
    omar, diego = people.omar, people.diego
    began = await omar.ask("message", room_id=room, content="uno")
    other = await omar.ask("message", username="satoshi", content="dos")
    for thread in (other["id"], "none"):
        assert await code(diego, "message", room_id=room, content="x", thread=thread) == "invalid"
        assert await code(diego, "follow_thread", message_id=thread) == "not_found"
    assert await code(omar, "message", username="diego", content="x", thread=began["id"]) == "invalid"
    assert len((await omar.ask("get_rooms"))["rooms"]) == 2, "the refused message leaves no conversation behind"
    await diego.ask("message", room_id=room, content="tres", thread=began["id"])
    await diego.ask("unsubscribe", room_id=room)
    assert (await diego.ask("get_threads"))["threads"] == []
    await diego.ask("subscribe", topic_name="noticias")
    assert (await diego.ask("get_threads"))["threads"] == []


async def test_changes_of_a_message_and_of_its_thread_keep_each_other(people: People, room: str) -> None:
    omar, diego = people.omar, people.diego
    began = await omar.ask("message", room_id=room, content="uno")
    reply = await diego.ask("message", room_id=room, content="dos", thread=began["id"])
    edited = await omar.ask("edit", message_id=began["id"], content="UNO")
    assert (edited["content"], edited["replies"]) == ("UNO", 1)
    await diego.ask("delete", message_id=reply["id"])
    deleted = (await diego.event("message_deleted"))["message"]
    assert (deleted["thread"], deleted["replies"]) == (began["id"], 1)
    await omar.ask("delete", message_id=began["id"])
    later = await diego.ask("message", room_id=room, content="tres", thread=began["id"])
    assert later["replies"] == 2
    (message,) = (await omar.ask("history", room_id=room, without_threads=True))["messages"]
    assert (message["deleted"], message["replies"]) == (True, 2)
