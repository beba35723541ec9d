"""Messages that stream: what their author and their readers may rely on, on one node."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.actions.conftest import People, code
from tests.delivery.support import principal
from tests.support.client import Client, Refused, connected, plainly_connected
from tests.support.node import running_node
from tests.support.streams import texts
from tidings.contract.actions import MAX_CONTENT, MAX_STREAM
from tidings.log.streams import InterruptMessage
from tidings_db.queries import streams

PIECES = ("Había ", "una ", "vez 🐙", "\U0001f468\u200d\U0001f469 ", "y otra")
TEXT = "".join(PIECES)


async def _open(people: People, content: str = "", **fields: Any) -> dict[str, Any]:
    await people.omar.ask("create", topic_name="cuentos")
    await people.diego.ask("subscribe", topic_name="cuentos")
    return await people.omar.ask("message", topic_name="cuentos", content=content, stream=True, **fields)


async def _append_all(author: Client, message_id: str, offset: int = 0) -> int:
    for piece in PIECES:
        answer = await author.ask("append", message_id=message_id, offset=offset, text=piece)
        offset += len(piece)
        assert answer["offset"] == offset, "counted in code points"
        assert answer["stored"] <= offset
    return offset


def _pieces_after_ready(client: Client) -> list[dict[str, Any]]:
    names = [event for event, _ in client.events]
    if "ready" not in names:
        return []
    assert names.index("message") < names.index("ready")
    return [data for event, data in client.events[names.index("ready") :] if event == "message_append"]


async def test_readers_see_a_message_grow_and_its_end_is_one_entry(people: People) -> None:
    sent = await _open(people, "¡", client_id="cuento-1")
    assert (sent["state"], sent["content"]) == ("streaming", "¡")
    end = await _append_all(people.omar, sent["id"], 1)
    for client in (people.omar, people.diego):
        await client.until(lambda client=client: texts(client) == {sent["id"]: "¡" + TEXT})
    finished = await people.omar.ask("finish", message_id=sent["id"], offset=end, data={"tokens": 5})
    assert finished == sent | {"content": "¡" + TEXT, "state": "complete", "data": {"tokens": 5}}
    event = await people.diego.event("message_finished")
    assert event == {"room_id": sent["room_id"], "seq": 2, "message": finished | {"client_id": None}}
    assert (await people.omar.event("message_finished"))["message"] == finished
    assert await people.omar.ask("finish", message_id=sent["id"]) == finished, "a repeat is answered alike"
    (room,) = (await people.diego.ask("get_rooms", member=True))["rooms"]
    assert (room["last_seq"], room["unread"], room["last_message"]["content"]) == (2, 1, "¡" + TEXT)
    assert await code(people.omar, "append", message_id=sent["id"], offset=end, text="x") == "conflict"


async def test_text_that_is_there_is_not_added_again_and_text_beyond_the_end_is_refused(people: People) -> None:
    sent = await _open(people)
    ask = people.omar.ask
    await ask("append", message_id=sent["id"], offset=0, text="abc")
    assert (await ask("append", message_id=sent["id"], offset=0, text="abc"))["offset"] == 3
    assert (await ask("append", message_id=sent["id"], offset=1, text="bcde"))["offset"] == 5
    for offset, text in ((6, "g"), (2, "X"), (4, "fg")):
        with pytest.raises(Refused) as refused:
            await ask("append", message_id=sent["id"], offset=offset, text=text)
        assert (refused.value.code, refused.value.details) == ("conflict", {"offset": 5})
    with pytest.raises(Refused) as refused:
        await ask("finish", message_id=sent["id"], offset=4)
    assert (refused.value.code, refused.value.details) == ("conflict", {"offset": 5})
    assert (await ask("finish", message_id=sent["id"], offset=5))["content"] == "abcde"


async def test_a_stream_is_bounded_and_wrong_payloads_change_nothing(people: People) -> None:
    sent = await _open(people)
    ask = people.omar.ask
    for fields in (
        {"offset": -1, "text": "x"},
        {"offset": 0, "text": ""},
        {"offset": 0, "text": "\0"},
        {"offset": 0.5, "text": "x"},
        {"text": "x"},
    ):
        assert await code(people.omar, "append", message_id=sent["id"], **fields) == "invalid"
    too_long = {"message_id": sent["id"], "offset": 0, "text": "x" * (MAX_CONTENT + 1)}
    assert await code(people.omar, "append", **too_long) == "too_large"
    for offset in range(0, MAX_STREAM, MAX_CONTENT):
        await ask("append", message_id=sent["id"], offset=offset, text="y" * MAX_CONTENT)
    with pytest.raises(Refused) as refused:
        await ask("append", message_id=sent["id"], offset=MAX_STREAM, text="z")
    assert (refused.value.code, refused.value.details) == ("too_large", {"limit": MAX_STREAM})
    assert len((await ask("finish", message_id=sent["id"]))["content"]) == MAX_STREAM


async def test_text_is_durable_within_a_second_and_history_has_all_that_was_shown(people: People) -> None:
    sent = await _open(people)
    end = await _append_all(people.omar, sent["id"])
    assert (await people.diego.ask("history", topic_name="cuentos"))["messages"][0]["content"] == TEXT
    database = people.server.node.database
    async with asyncio.timeout(5):
        while [stream.length for stream in await database.read(streams.streaming)] != [end]:
            pass
    answer = await people.omar.ask("append", message_id=sent["id"], offset=end - 1, text=TEXT[-1])
    assert answer == {"offset": end, "stored": end, "stop": False}


async def test_a_device_that_comes_while_a_message_streams_gets_all_of_its_text_after_ready(people: People) -> None:
    sent = await _open(people)
    await people.diego.close()
    await _append_all(people.omar, sent["id"])
    for connect, text in ((connected, TEXT), (plainly_connected, TEXT + "!")):
        async with connect(people.server.url, people.tokens["diego"], cursors={sent["room_id"]: 0}) as back:
            await back.until(lambda back=back: _pieces_after_ready(back))
            piece = _pieces_after_ready(back)[0]
            assert (piece["offset"], piece["text"]) == (0, text)
            await people.omar.ask("append", message_id=sent["id"], offset=len(text), text="!")
            await back.until(lambda back=back, text=text: texts(back) == {sent["id"]: text + "!"})
            assert _pieces_after_ready(back)[1]["offset"] == len(text), "only what it lacks"
    await people.omar.ask("finish", message_id=sent["id"])
    async with connected(people.server.url, people.tokens["diego"], cursors={sent["room_id"]: 0}) as later:
        assert texts(later) == {sent["id"]: TEXT + "!!"}
        assert [m["state"] for m in later.of("message")] == ["complete"]
        assert later.of("message_append") == []


async def test_a_member_stops_an_author_on_any_connection(people: People) -> None:
    sent = await _open(people)
    assert not (await people.omar.ask("append", message_id=sent["id"], offset=0, text="a"))["stop"]
    assert await people.diego.ask("stop", message_id=sent["id"]) == {}
    assert await people.diego.ask("stop", message_id=sent["id"]) == {}
    assert (await people.omar.ask("append", message_id=sent["id"], offset=1, text="b"))["stop"]
    async with connected(people.server.url, people.tokens["omar"], device="other") as other:
        assert (await other.ask("append", message_id=sent["id"], offset=2, text="c"))["stop"]
    assert (await people.omar.ask("finish", message_id=sent["id"]))["content"] == "abc"
    assert await people.diego.ask("stop", message_id=sent["id"]) == {}, "it has ended already"
    assert await code(people.satoshi, "stop", message_id=sent["id"]) == "not_found"


async def test_only_its_author_appends_and_only_while_they_may_write(people: People) -> None:
    sent = await _open(people)
    message = {"message_id": sent["id"], "offset": 0, "text": "x"}
    assert await code(people.diego, "append", **message) == "forbidden"
    assert await code(people.diego, "finish", message_id=sent["id"]) == "forbidden"
    assert await code(people.satoshi, "append", **message) == "not_found"
    await people.omar.ask("set_role", topic_name="cuentos", username="diego", role="moderator")
    theirs = await people.diego.ask("message", topic_name="cuentos", content="", stream=True)
    append = {"message_id": theirs["id"], "offset": 0, "text": "x"}
    await people.diego.ask("append", **append)
    for change, fields, expected in (("mute", {"duration": 600}, "forbidden"), ("kick", {}, "not_found")):
        await people.omar.ask(change, topic_name="cuentos", username="diego", **fields)
        assert await code(people.diego, "append", **append) == expected, change
    ordinary = await people.omar.ask("message", topic_name="cuentos", content="whole")
    assert await code(people.omar, "append", message_id=ordinary["id"], offset=5, text="x") == "conflict"


async def test_edits_reactions_and_deletions_of_a_streaming_message_leave_no_gap(people: People) -> None:
    sent = await _open(people)
    end = await _append_all(people.omar, sent["id"])
    for n in range(3):
        await people.diego.until(lambda n=n: texts(people.diego)[sent["id"]] == TEXT + "012"[:n])
        await people.diego.ask("react", message_id=sent["id"], emoji=f"e{n}")
        end = (await people.omar.ask("append", message_id=sent["id"], offset=end, text=str(n)))["offset"]
    for client in (people.omar, people.diego):
        await client.until(lambda client=client: texts(client)[sent["id"]] == TEXT + "012")
    edited = await people.omar.ask("edit", message_id=sent["id"], content="Otra vez")
    assert (edited["content"], edited["state"]) == ("Otra vez", "streaming")
    with pytest.raises(Refused) as refused:
        await people.omar.ask("append", message_id=sent["id"], offset=end, text="x")
    assert refused.value.details == {"offset": 8}
    await people.omar.ask("append", message_id=sent["id"], offset=8, text="!")
    for client in (people.omar, people.diego):
        await client.until(lambda client=client: texts(client)[sent["id"]] == "Otra vez!")
    await people.omar.ask("delete", message_id=sent["id"])
    assert (await people.diego.event("message_deleted"))["message"]["state"] == "complete"
    assert await code(people.omar, "append", message_id=sent["id"], offset=9, text="x") == "not_found"
    assert await code(people.omar, "finish", message_id=sent["id"]) == "not_found"


async def test_an_edit_to_what_is_stored_drops_the_text_that_is_shown_beyond(people: People) -> None:
    sent = await _open(people, "Había")
    await people.omar.ask("append", message_id=sent["id"], offset=5, text=" una")  # stored within a second
    await people.omar.ask("edit", message_id=sent["id"], content="Había")
    await people.omar.ask("append", message_id=sent["id"], offset=5, text=" otra")
    finished = await people.omar.ask("finish", message_id=sent["id"], offset=10)
    assert finished["content"] == "Había otra"
    await people.diego.until(lambda: texts(people.diego) == {sent["id"]: "Había otra"})


async def test_finish_can_replace_the_text_and_finds_the_mentions(people: People) -> None:
    sent = await _open(people)
    await people.omar.ask("append", message_id=sent["id"], offset=0, text="draft")
    finished = await people.omar.ask("finish", message_id=sent["id"], content="for @diego")
    assert (finished["content"], finished["mentions"]) == ("for @diego", ["diego"])
    while (await people.diego.ask("search", query="for"))["messages"] != [finished | {"client_id": None}]:
        pass  # the index follows the log


async def test_a_stream_without_appends_ends_as_interrupted_with_what_was_stored(
    database_url: str, tmp_path: Path
) -> None:
    options = {"streams": {"silence_s": 1.5, "check_s": 0.1}}
    async with running_node(database_url, tmp_path, options=options) as server:
        omar = await server.register("omar")
        async with connected(server.url, omar) as author:
            await author.ask("create", topic_name="cuentos")
            sent = await author.ask("message", topic_name="cuentos", content="", stream=True)
            await author.ask("append", message_id=sent["id"], offset=0, text="Había")
            (stream,) = await server.node.database.read(streams.streaming)
            grown = InterruptMessage(principal(server, "omar"), stream.room_key, stream.seq, 0, length=99)
            await server.node.journal.write(grown)
            assert (await author.ask("append", message_id=sent["id"], offset=0, text="Había"))["offset"] == 5
            event = await author.event("message_finished")
            assert (event["message"]["state"], event["message"]["content"]) == ("interrupted", "Había")
            assert await code(author, "append", message_id=sent["id"], offset=5, text="x") == "conflict"
            assert await code(author, "finish", message_id=sent["id"]) == "conflict"
            edited = await author.ask("edit", message_id=sent["id"], content="Había una vez")
            assert edited["state"] == "interrupted"
