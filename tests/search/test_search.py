"""Search: results, access and order."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.actions.conftest import People, code
from tests.delivery.support import rest
from tests.search.support import caught_up, search_contents
from tests.support.client import DEADLINE_S, Client, Refused, connected
from tests.support.depth import examples
from tests.support.node import RunningNode
from tidings.actions.context import SEARCHES_WAITING
from tidings.log.indexer import Indexer
from tidings_db.queries import search, words

CONTENTS = [
    "¡Buenos días, señor!",
    "Η Ὀδύσσεια του Ομήρου",
    "Вечером ёлка горит",
    "मुझे हिन्दी पसंद है",
    "我在東京的大學工作",
    "明日はアパートで会いましょう",
    "내일 학교에서 만나자",
    "Good morning, lunchtime is at noon",
    "morning good",
]


async def send(client: Client, *contents: str, **room: Any) -> list[dict[str, Any]]:
    return [await client.ask("message", content=content, **room) for content in contents]


async def test_messages_are_found_by_words_prefixes_and_phrases_of_any_script(people: People) -> None:
    await people.omar.ask("create", topic_name="noticias")
    await send(people.omar, *CONTENTS, topic_name="noticias")
    await caught_up(people.server.node.indexer)
    cases = {
        "dias SENOR": [0],
        "DI\u0301AS": [0],
        "seño*": [0],
        "οδυσσεια": [1],
        "ΟΜΉΡΟΥ": [1],
        "елка вечером": [2],
        "ВЕЧЕР*": [2],
        "हिन्दी": [3],
        "हिन*": [3],
        "हन": [],
        "東京": [4],
        "京東": [],
        "大學 東京*": [4],
        "アパート": [5],
        "はアパ": [5],
        "学校": [],
        "학교": [6],
        "교학": [],
        "good morning": [8, 7],
        '"good morning"': [7],
        '"morning good"': [8],
        '"Morning: LUNCH"*': [7],
        "lunch*": [7],
        "lunch": [],
        "good noon": [7],
        "good midnight": [],
        "(good) AND* -- 'morning'": [],
        "good; morning,": [8, 7],
    }
    for query, expected in cases.items():
        assert await search_contents(people.omar, query) == [CONTENTS[n] for n in expected], query
        assert await search_contents(people.omar, query, topic_name="noticias") == [CONTENTS[n] for n in expected], (
            query
        )


async def test_the_answer_has_each_message_with_a_snippet_around_its_match(people: People) -> None:
    await people.omar.ask("create", topic_name="noticias")
    await people.diego.ask("subscribe", topic_name="noticias")
    (sent,) = await send(people.omar, "Buenos días a todos", topic_name="noticias", client_id="one")
    await caught_up(people.server.node.indexer)
    snippets = {
        sent["id"]: [
            {"text": "Buenos ", "match": False},
            {"text": "días", "match": True},
            {"text": " a todos", "match": False},
        ]
    }
    for client, message in ((people.omar, sent), (people.diego, sent | {"client_id": None})):
        answer = await client.ask("search", query="DIAS")
        assert answer == {"messages": [message], "snippets": snippets, "next": None}


async def test_only_rooms_of_the_caller_are_searched(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    omar, diego, satoshi = people.omar, people.diego, people.satoshi
    for name, private in (("abierto", False), ("secreto", True)):
        await omar.ask("create", topic_name=name, is_private=private)
        await send(omar, f"needle in {name}", topic_name=name)
    room_id = (await send(omar, "needle just for you", username="diego"))[0]["room_id"]
    await caught_up(people.server.node.indexer)
    everything = ["needle just for you", "needle in secreto", "needle in abierto"]
    for terms_in_query in (256, 1):  # all rooms in one statement, then one statement per room
        monkeypatch.setattr(search, "TERMS_IN_QUERY", terms_in_query)
        assert await search_contents(omar, "needle") == everything
        assert await search_contents(omar, "needle", topic_name="secreto") == ["needle in secreto"]
        assert await search_contents(omar, "needle", username="diego") == ["needle just for you"]
        assert await search_contents(diego, "needle") == ["needle just for you"]
        assert await search_contents(diego, "needle", topic_name="omar") == ["needle just for you"]
        assert await search_contents(satoshi, "needle") == []
        assert await code(satoshi, "search", query="needle", topic_name="secreto") == "not_found"
        assert await code(satoshi, "search", query="needle", room_id=room_id) == "not_found"
        assert await code(satoshi, "search", query="needle", topic_name="nowhere") == "not_found"
        assert await code(satoshi, "search", query="needle", username="omar") == "not_found"
        assert await code(satoshi, "search", query="needle", topic_name="abierto") == "forbidden"


async def test_a_former_member_finds_nothing_of_the_room(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    room = await people.omar.ask("create", topic_name="secreto", is_private=True)
    await people.omar.ask("invite", room_id=room["room_id"], username="diego")
    await people.diego.ask("create", topic_name="otro")
    await send(people.omar, "needle", room_id=room["room_id"])
    await caught_up(people.server.node.indexer)
    assert await search_contents(people.diego, "needle") == ["needle"]
    await people.omar.ask("kick", room_id=room["room_id"], username="diego")
    for terms_in_query in (256, 1):
        monkeypatch.setattr(search, "TERMS_IN_QUERY", terms_in_query)
        assert await search_contents(people.diego, "needle") == []
        assert await code(people.diego, "search", query="needle", room_id=room["room_id"]) == "not_found"


async def test_an_edited_message_is_found_by_its_new_content_and_a_deleted_one_is_not_found(people: People) -> None:
    await people.omar.ask("create", topic_name="noticias")
    edited, deleted, kept = await send(people.omar, "alpha common", "alpha gone", "alpha kept", topic_name="noticias")
    indexer = people.server.node.indexer
    await caught_up(indexer)
    await indexer.stop()  # the following changes are not indexed, but answers must show them
    await people.omar.ask("edit", message_id=edited["id"], content="beta common")
    await people.omar.ask("delete", message_id=deleted["id"])
    assert await search_contents(people.omar, "alpha", limit=1) == ["alpha kept"]
    assert await search_contents(people.omar, "alpha") == ["alpha kept"]
    assert await search_contents(people.omar, "gone") == []
    assert await search_contents(people.omar, "common") == ["beta common"]
    later = Indexer(people.server.node.database)
    await later.start()
    await caught_up(later)
    await later.stop()
    assert await search_contents(people.omar, "alpha") == [kept["content"]]
    assert await search_contents(people.omar, "gone") == []
    assert await search_contents(people.omar, "beta") == ["beta common"]


async def test_pages_neither_repeat_nor_miss_messages_while_others_are_sent_and_deleted(people: People) -> None:
    await people.omar.ask("create", topic_name="noticias")
    sent = await send(people.omar, *(f"needle {n}" for n in range(10)), topic_name="noticias")
    indexer = people.server.node.indexer
    await caught_up(indexer)
    results: list[str] = []
    page = await people.omar.ask("search", query="needle", limit=3)
    while True:
        results += [message["content"] for message in page["messages"]]
        if page["next"] is None:
            break
        assert page["next"] == page["messages"][-1]["id"]
        if len(results) == 3:
            await people.omar.ask("delete", message_id=page["next"])  # the last message of the page
            await people.omar.ask("delete", message_id=sent[5]["id"])
            await people.omar.ask("edit", message_id=sent[4]["id"], content="needle 4, edited")
        await send(people.omar, "needle meanwhile", topic_name="noticias")
        await caught_up(indexer)
        page = await people.omar.ask("search", query="needle", limit=3, before=page["next"])
    assert results == [
        "needle 9",
        "needle 8",
        "needle 7",
        "needle 6",
        "needle 4, edited",
        *(f"needle {n}" for n in (3, 2, 1, 0)),
    ]
    assert await code(people.omar, "search", query="needle", before="nothing") == "not_found"


async def test_filters_narrow_a_search_by_sender_place_time_and_what_a_message_has(people: People) -> None:
    omar, diego = people.omar, people.diego
    await omar.ask("create", topic_name="la plaza")
    await diego.ask("subscribe", topic_name="la plaza")
    (first,) = await send(omar, "lunch at noon, see https://example.org", topic_name="la plaza")
    await send(diego, "lunch? run `make lunch`", topic_name="la plaza")
    await send(diego, "lunch, just us two", username="omar")
    edited = (await send(omar, "lunch http://example.org", topic_name="la plaza"))[0]
    await omar.ask("edit", message_id=edited["id"], content="lunch without it")
    await caught_up(people.server.node.indexer)
    everything = ["lunch without it", "lunch, just us two", "lunch? run `make lunch`", first["content"]]
    today, tomorrow = first["created_at"][:10], "2999-01-01"
    cases = {
        "lunch": everything,
        "from:diego": everything[1:3],
        "lunch from:@DIEGO": everything[1:3],
        "from:diego run": everything[2:3],
        "from:satoshi lunch": [],
        "from:diego from:omar": [],
        'in:"la plaza" lunch': [everything[0], *everything[2:]],
        'in:"#la plaza" from:omar': [everything[0], everything[3]],
        "in:@diego lunch": everything[1:2],
        "has:link": everything[3:],
        "has:LINK from:diego": [],
        "has:code": everything[2:3],
        f"after:{today} lunch": everything,
        f"after:{tomorrow} lunch": [],
        f"before:{today} from:omar": [],
        f"before:{tomorrow} from:omar": [everything[0], everything[3]],
        f"after:{first['created_at']} before:{first['created_at']} lunch": [],
        '"from:diego"': [],
        "from: lunch": [],
    }
    for query, expected in cases.items():
        assert await search_contents(omar, query) == expected, query
    for query in ("has:fish", "in:@", "in:plaza in:diego lunch", "after:soon lunch", "before:2026-13-01", "in:omar"):
        assert await code(diego, "search", query=query) == "invalid", query
    assert await code(diego, "search", query="in:omar x", topic_name="la plaza") == "invalid"
    assert await code(omar, "search", query="from:nobody") == "not_found"
    assert await code(omar, "search", query="in:nowhere x") == "not_found"
    assert await code(people.satoshi, "search", query='in:"la plaza" lunch') == "forbidden"


async def test_a_search_that_examines_many_messages_goes_on_in_the_next_page(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "MAX_EXAMINED", 10)
    await people.omar.ask("create", topic_name="noticias")
    sent = await send(people.omar, *(f"needle {n}" for n in range(40)), topic_name="noticias")
    await caught_up(people.server.node.indexer)
    query, found, pages = f"needle before:{sent[1]['created_at']}", list[str](), 0
    page = await people.omar.ask("search", query=query, limit=3)
    while True:
        pages += 1
        found += [message["content"] for message in page["messages"]]
        if page["next"] is None:
            break
        page = await people.omar.ask("search", query=query, limit=3, before=page["next"])
    assert found == [message["content"] for message in sent if message["created_at"] < sent[1]["created_at"]][::-1]
    assert pages > 1


async def test_a_query_needs_a_word_and_at_most_one_room(people: People) -> None:
    for query in ("", " ", "*", '""', "!? … 👍", "\u0301", "x" * 257, "a\0b", None, 7):
        with pytest.raises(Refused) as refused:
            await people.omar.ask("search", query=query)
        assert (refused.value.code, list(refused.value.details["fields"])) == ("invalid", ["query"]), query
    for bad in ({"limit": 0}, {"limit": 101}, {"topic_name": "a", "username": "b"}, {"before": ""}):
        assert await code(people.omar, "search", query="x", **bad) == "invalid"


@pytest.fixture
async def standing(server: RunningNode) -> AsyncIterator[tuple[RunningNode, Client]]:
    """A server, and omar with a message."""
    async with connected(server.url, await server.register("omar")) as omar:
        await omar.ask("create", topic_name="noticias")
        await omar.ask("message", topic_name="noticias", content="needle")
        yield server, omar


_hostile = st.lists(
    st.sampled_from(
        ['"', "'", "*", "\\", " ", "(", ")", ":", "&", "|", "!", "<->", "-", "^", "+", "{", "}", ",", "%", "_"]
    )
    | st.sampled_from(
        ["AND", "OR", "NOT", "NEAR(", "words", "room", "¶1", "1·a", "a", "東", "\u0301", "ﷺ", "\u200d", "x:*", "1"]
    )
    | st.text(max_size=8),
    min_size=1,
    max_size=40,
).map("".join)


@settings(deadline=None, max_examples=examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=_hostile.map(lambda query: query[:256]))
async def test_every_query_is_answered_or_invalid(standing: tuple[RunningNode, Client], query: str) -> None:
    _, omar = standing
    for room in ({}, {"topic_name": "noticias"}):
        answer = await omar.sio.call("search", {"query": query, **room}, timeout=DEADLINE_S)
        assert answer["ok"] or answer["error"]["code"] == "invalid", answer


async def test_sending_does_not_wait_for_the_index(people: People) -> None:
    indexer = people.server.node.indexer
    await indexer.stop()
    await people.omar.ask("create", topic_name="noticias")
    await send(people.omar, "needle", topic_name="noticias")
    assert (await people.omar.event("message"))["content"] == "needle"
    assert await search_contents(people.omar, "needle") == []
    later = Indexer(people.server.node.database)
    await later.start()
    await caught_up(later)
    await later.stop()
    assert await search_contents(people.omar, "needle") == ["needle"]


async def test_the_journal_informs_the_indexer_of_each_commit(
    standing: tuple[RunningNode, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, omar = standing
    notified: list[set[int]] = []
    monkeypatch.setattr(server.node.indexer, "appended", lambda room_keys: notified.append(set(room_keys)))
    await omar.ask("message", topic_name="noticias", content="hay")
    await omar.event("message", lambda message: message["content"] == "hay")
    assert [len(room_keys) for room_keys in notified if room_keys] == [1]


async def test_a_message_is_found_by_a_search_right_after_sending(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidings.log.indexer.SETTLE_S", DEADLINE_S)  # a search waits however slow the index is
    await people.omar.ask("create", topic_name="noticias")
    for n in range(5):
        await people.omar.ask("message", topic_name="noticias", content=f"palabra{n}")
        answer = await people.omar.ask("search", query=f"palabra{n}")
        assert [m["content"] for m in answer["messages"]] == [f"palabra{n}"]


async def test_a_search_ends_the_wait_for_more_messages(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DELAY_S", "SETTLE_S"):
        monkeypatch.setattr(f"tidings.log.indexer.{name}", 10 * DEADLINE_S)
    await people.omar.ask("create", topic_name="noticias")
    for n in range(3):
        await people.omar.ask("message", topic_name="noticias", content=f"palabra{n}")
        async with asyncio.timeout(DEADLINE_S):
            answer = await people.omar.ask("search", query=f"palabra{n}")
        assert [m["content"] for m in answer["messages"]] == [f"palabra{n}"]


async def test_many_searches_of_one_user_keep_no_other_user_waiting(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = people.server.node
    await people.omar.ask("create", topic_name="noticias")
    await people.diego.ask("subscribe", topic_name="noticias")
    await send(people.omar, "hola", topic_name="noticias")
    await caught_up(node.indexer)
    held, go_on, snippet = threading.Event(), threading.Event(), words.snippet

    def slow_snippet(*arguments: Any) -> Any:
        if not held.is_set():
            held.set()
            go_on.wait(DEADLINE_S)
        return snippet(*arguments)

    monkeypatch.setattr(words, "snippet", slow_snippet)
    async with rest(people.server.url, people.omar.auth["token"]) as http, asyncio.timeout(DEADLINE_S):
        searches = [asyncio.create_task(http.get("/api/search?query=hola")) for _ in range(SEARCHES_WAITING + 3)]
        await asyncio.to_thread(held.wait)
        in_order = asyncio.as_completed(searches)
        for refused in [await next(in_order), await next(in_order)]:
            assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        assert await search_contents(people.diego, "hola") == ["hola"]
        go_on.set()
        found = [(await answer).json()["messages"] for answer in in_order]
        assert [[message["content"] for message in messages] for messages in found] == [["hola"]] * len(found)
