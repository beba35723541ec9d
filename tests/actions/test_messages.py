"""Messages: their recipients, their limits, and history."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.actions.conftest import People, code
from tests.support.client import Refused
from tidings.contract.actions import MAX_PAGE_BYTES


async def test_a_message_is_equal_in_the_answer_the_event_and_the_history(people: People) -> None:
    room = await people.omar.ask("create", topic_name="noticias")
    await people.diego.ask("subscribe", topic_name="noticias")
    answer = await people.omar.ask("message", topic_name="NOTICIAS", content="Buenos días 🦉\n")
    assert answer == {
        "id": answer["id"],
        "room_id": room["room_id"],
        "topic_name": "noticias",
        "seq": 1,
        "sender": "omar",
        "content": "Buenos días 🦉\n",
        "created_at": answer["created_at"],
        "edited_at": None,
        "deleted": False,
        "client_id": None,
        "reply_to": None,
        "reactions": {},
        "mentions": [],
        "data": None,
        "state": "complete",
    }
    for client in (people.omar, people.diego):
        assert await client.event("message") == answer
        assert await client.ask("history", topic_name="noticias") == {"messages": [answer], "has_more": False}
        assert (await client.ask("get_rooms"))["rooms"][0]["last_message"] == answer
    reply = await people.diego.ask("message", room_id=room["room_id"], content="hola", reply_to=answer["id"])
    assert (reply["reply_to"], reply["seq"]) == (answer["id"], 2)
    assert await code(people.diego, "message", room_id=room["room_id"], content="x", reply_to="none") == "invalid"


async def test_every_reference_to_a_direct_conversation_names_the_same_room(people: People) -> None:
    omar, diego = people.omar, people.diego
    first = await omar.ask("message", username="Diego", content="1")
    assert first["topic_name"] is None
    room_id = first["room_id"]
    for client, fields in [
        (omar, {"topic_name": "diego"}),
        (omar, {"topic_name": "DIEGO"}),
        (diego, {"username": "omar"}),
        (diego, {"topic_name": "omar"}),
        (diego, {"room_id": room_id}),
    ]:
        assert (await client.ask("message", content="x", **fields))["room_id"] == room_id
    for client, partner in ((omar, "diego"), (diego, "omar")):
        await client.until(lambda client=client: len(client.of("message")) == 6)
        assert [m["seq"] for m in client.of("message")] == [1, 2, 3, 4, 5, 6]
        (added,) = client.of("room_added")
        assert (added["room"]["kind"], added["room"]["title"], added["room"]["is_private"]) == (
            "direct",
            partner,
            True,
        )
        names = [name for name, _ in client.events]
        assert names.index("room_added") < names.index("message")
        assert len((await client.ask("history", username=partner))["messages"]) == 6
    assert people.satoshi.events == [("ready", people.satoshi.of("ready")[0])]


async def test_a_message_to_oneself_or_to_nobody_is_refused(people: People) -> None:
    assert await code(people.omar, "message", username="omar", content="x") == "invalid"
    assert await code(people.omar, "message", topic_name="OMAR", content="x") == "invalid"
    assert await code(people.omar, "message", username="nobody", content="x") == "not_found"
    assert await code(people.omar, "message", topic_name="nobody", content="x") == "not_found"
    assert await code(people.omar, "history", username="diego") == "not_found"  # no conversation yet
    assert await code(people.omar, "read", username="diego", seq=0) == "not_found"
    assert await code(people.omar, "typing", username="diego") == "not_found"


async def test_a_message_has_1_to_16384_characters(people: People) -> None:
    room_id = (await people.omar.ask("create", topic_name="noticias"))["room_id"]
    for longest in ("x" * 16_384, "🦉" * 16_384, "\x01" * 16_384):
        assert (await people.omar.ask("message", room_id=room_id, content=longest))["content"] == longest
        assert (await people.omar.event("message"))["content"] == longest
    with pytest.raises(Refused) as refused:
        await people.omar.ask("message", room_id=room_id, content="x" * 16_385)
    assert (refused.value.code, refused.value.details) == ("too_large", {"limit": 16_384})
    for content in ("", None, 7, ["x"], "a\x00b", "\ud800"):
        with pytest.raises(Refused) as refused:
            await people.omar.ask("message", room_id=room_id, content=content)
        assert (refused.value.code, list(refused.value.details["fields"])) == ("invalid", ["content"])
    for bad in ({"client_id": ""}, {"client_id": "x" * 65}, {"reply_to": 7}, {"clientid": "x"}):
        assert await code(people.omar, "message", room_id=room_id, content="x", **bad) == "invalid"


async def test_a_page_is_as_large_as_its_encoding_allows(people: People) -> None:
    room_id = (await people.omar.ask("create", topic_name="noticias"))["room_id"]
    for _ in range(12):
        await people.omar.ask("message", room_id=room_id, content="\x01" * 16_384)
    page = await people.omar.ask("history", room_id=room_id, limit=200)
    assert len(json.dumps(page)) <= MAX_PAGE_BYTES
    assert len(page["messages"]) == 10
    assert page["has_more"]


async def test_history_pages_in_both_directions_while_messages_arrive(people: People) -> None:
    room_id = (await people.omar.ask("create", topic_name="secreta", is_private=True))["room_id"]
    sent = [people.omar.send("message", {"room_id": room_id, "content": f"{n}"}) for n in range(10)]
    await asyncio.gather(*sent)
    await people.omar.ask("invite", room_id=room_id, username="diego")  # an entry, but no message
    sent = [people.omar.send("message", {"room_id": room_id, "content": f"{n}"}) for n in range(10, 15)]
    last = (await asyncio.gather(*sent))[-1]["data"]["seq"]
    assert last == 16

    async def page(**fields: int) -> tuple[list[int], bool]:
        answer = await people.diego.ask("history", room_id=room_id, **fields)
        return [m["seq"] for m in answer["messages"]], answer["has_more"]

    messages = [*range(1, 11), *range(12, 17)]
    assert await page() == (messages, False)
    assert await page(limit=15) == (messages, False)
    assert await page(limit=14) == (messages[1:], True)
    assert await page(before=1) == ([], False)
    assert await page(after=16) == ([], False)
    assert await page(after=0, limit=3) == ([1, 2, 3], True)
    assert await page(after=9, limit=2) == ([10, 12], True)
    assert await page(after=10, limit=5) == ([12, 13, 14, 15, 16], False)
    assert await page(before=13, limit=2) == ([10, 12], True)
    assert await page(before=2**53 - 1, limit=1) == ([16], True)

    backwards: list[int] = []
    more = True
    while more:
        before = {"before": backwards[0]} if backwards else {}
        seqs, more = await page(limit=4, **before)
        backwards = seqs + backwards
        await people.omar.ask("message", room_id=room_id, content="meanwhile")
    assert backwards == messages
    forwards: list[int] = []
    more = True
    while more:
        seqs, more = await page(limit=4, after=forwards[-1] if forwards else 0)
        forwards += seqs
    assert forwards == [*messages, *range(17, 21)]
    for bad in ({"limit": 0}, {"limit": 201}, {"before": -1}, {"before": 1, "after": 1}, {"before": 2**53}):
        assert await code(people.diego, "history", room_id=room_id, **bad) == "invalid"
