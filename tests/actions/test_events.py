"""Events that applications publish, data that they attach to messages, and rooms where only moderators write."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.actions.conftest import People, code
from tests.delivery.support import rest
from tests.support.client import Refused, connected, plainly_connected
from tidings.contract.actions import MAX_DATA, MAX_EVENT_DATA

ORDER = {"id": 17, "lines": [{"sku": "é", "n": 2.5}], "paid": None}


async def _topic(people: People, **fields: Any) -> str:
    room_id: str = (await people.omar.ask("create", topic_name="orders", **fields))["room_id"]
    await people.diego.ask("subscribe", topic_name="orders")
    return room_id


async def test_an_event_reaches_all_members_under_its_own_name_in_the_order_of_the_log(people: People) -> None:
    room_id = await _topic(people)
    await people.omar.ask("message", room_id=room_id, content="before")
    answer = await people.omar.ask(
        "publish", topic_name="orders", event="order.paid", data=ORDER, client_id="17-paid"
    )
    assert answer == {
        "id": answer["id"],
        "room_id": room_id,
        "seq": 2,
        "event": "order.paid",
        "created_at": answer["created_at"],
    }
    await people.omar.ask("message", room_id=room_id, content="after")
    event = {**answer, "topic_name": "orders", "sender": "omar", "data": ORDER}
    assert await people.diego.event("order.paid") == event
    assert await people.omar.event("order.paid") == {**event, "client_id": "17-paid"}
    for client in (people.omar, people.diego):
        await client.until(lambda client=client: len(client.of("message")) == 2)
        assert [payload["seq"] for _, payload in client.events if "created_at" in payload] == [1, 2, 3]
    assert await people.diego.ask("get_events", room_id=room_id) == {"events": [event], "has_more": False}


async def test_an_event_waits_for_who_is_away_and_takes_effect_once(people: People) -> None:
    room_id = await _topic(people)
    await people.diego.close()
    published = [
        await people.omar.ask("publish", room_id=room_id, event="order.paid", data=n, client_id="once")
        for n in (1, 2)
    ]
    assert published[0] == published[1]
    async with connected(people.server.url, people.tokens["diego"]) as back:
        assert [payload["data"] for payload in back.of("order.paid")] == [1]
        assert back.of("ready")[0]["replayed"] == 1
    assert await code(people.omar, "message", room_id=room_id, content="x", client_id="once") == "conflict"


async def test_an_event_is_not_unread_and_in_no_history_or_search(people: People) -> None:
    room_id = await _topic(people)
    sent = await people.omar.ask("message", room_id=room_id, content="the only message")
    answer = await people.omar.ask("publish", room_id=room_id, event="only", data="the only message")
    (room,) = (await people.diego.ask("get_rooms", member=True))["rooms"]
    assert (room["unread"], room["last_seq"], room["last_message"]) == (1, 2, sent)
    assert (await people.diego.ask("history", room_id=room_id))["messages"] == [sent]
    await people.diego.ask("message", room_id=room_id, content="searched afterwards")
    for words, found in (("afterwards", 1), ("only", 1)):  # the index has reached the second message
        while len((await people.diego.ask("search", query=words))["messages"]) != found:
            pass
    for action, fields in (("edit", {"content": "x"}), ("delete", {}), ("react", {"emoji": "👍"})):
        assert await code(people.omar, action, message_id=answer["id"], **fields) == "not_found"
    assert await code(people.omar, "message", room_id=room_id, content="x", reply_to=answer["id"]) == "invalid"


async def test_a_transient_event_reaches_live_members_only_and_leaves_no_trace(people: People) -> None:
    room_id = await _topic(people)
    fields = {"room_id": room_id, "event": "cursor", "data": {"x": 1}, "transient": True}
    assert await people.omar.ask("publish", **fields) == {}
    event = await people.diego.event("cursor")
    assert event == {
        "room_id": room_id,
        "topic_name": "orders",
        "event": "cursor",
        "sender": "omar",
        "created_at": event["created_at"],
        "data": {"x": 1},
    }
    assert await people.omar.event("cursor") == event
    assert (await people.omar.ask("get_events", room_id=room_id))["events"] == []
    assert people.satoshi.of("cursor") == []
    assert await code(people.satoshi, "publish", **fields) == "forbidden"


async def test_events_are_paged_by_seq_and_by_name(people: People) -> None:
    room_id = await _topic(people)
    for n in range(1, 8):
        await people.omar.ask("publish", room_id=room_id, event="odd" if n % 2 else "even", data=n)

    async def page(**fields: Any) -> tuple[list[int], bool]:
        answer = await people.diego.ask("get_events", room_id=room_id, **fields)
        return [event["data"] for event in answer["events"]], answer["has_more"]

    assert await page(limit=3) == ([5, 6, 7], True)
    assert await page(limit=3, before=5) == ([2, 3, 4], True)
    assert await page(limit=3, after=5) == ([6, 7], False)
    assert await page(event="odd", limit=2, before=7) == ([3, 5], True)
    assert await page(event="none") == ([], False)
    large = "x" * (MAX_EVENT_DATA - 2)
    for _ in range(20):
        await people.omar.ask("publish", room_id=room_id, event="large", data=large)
    answer = await people.diego.ask("get_events", room_id=room_id, event="large")
    assert (len(answer["events"]) < 17, answer["has_more"]) == (True, True)


async def test_events_and_their_refusals_are_the_same_over_every_gateway(people: People) -> None:
    room_id = await _topic(people)
    deep: Any = []
    for _ in range(100):
        deep = [deep]
    bad: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
        ({"event": "message", "data": 1}, "invalid", {"fields": ["event"]}),
        ({"event": "message_append", "data": 1}, "invalid", {"fields": ["event"]}),
        ({"event": "connect_error", "data": 1}, "invalid", {"fields": ["event"]}),
        ({"event": "1st", "data": 1}, "invalid", {"fields": ["event"]}),
        ({"event": "x" * 65, "data": 1}, "invalid", {"fields": ["event"]}),
        ({"event": "paid\n", "data": 1}, "invalid", {"fields": ["event"]}),
        ({"event": 7, "data": 1}, "invalid", {"fields": ["event"]}),
        ({"event": "paid"}, "invalid", {"fields": ["data"]}),
        ({"event": "paid", "data": deep}, "invalid", {"fields": ["data"]}),
        ({"event": "paid", "data": "\ud800"}, "invalid", {"fields": ["data"]}),
        ({"event": "paid", "data": "x" * (MAX_EVENT_DATA - 1)}, "too_large", {"limit": MAX_EVENT_DATA}),
        ({"event": "paid", "data": 1, "extra": 1}, "invalid", {"fields": ["extra"]}),
        ({"event": "paid", "data": 1, "transient": "yes"}, "invalid", {"fields": ["transient"]}),
    ]
    async with (
        plainly_connected(people.server.url, people.tokens["omar"]) as plain,
        rest(people.server.url, people.tokens["omar"]) as http,
    ):
        for payload, expected, details in bad:
            for client in (people.omar, plain):
                with pytest.raises(Refused) as refused:
                    await client.ask("publish", {"room_id": room_id, **payload})
                assert refused.value.code == expected, payload
                shown = {
                    name: list(value) if name == "fields" else value for name, value in refused.value.details.items()
                }
                assert shown == details, payload
            body = json.dumps({"room_id": room_id, **payload})
            problem = (await http.post("/api/events", content=body)).json()
            assert problem["code"] == expected, payload
        assert (await people.omar.ask("get_events", room_id=room_id))["events"] == []
        first = await plain.ask("publish", {"room_id": room_id, "event": "paid", "data": {"é": [1, "\x00"]}})
        answer = await http.post(
            "/api/events",
            json={"topic_name": "orders", "event": "paid", "data": "x" * (MAX_EVENT_DATA - 2)},
            headers={"Idempotency-Key": "k1"},
        )
        assert answer.status_code == 201
        seqs = [first["seq"], answer.json()["seq"]]
        for client in (people.diego, plain):
            await client.until(lambda client=client: len(client.of("paid")) == 2)
            assert [event["seq"] for event in client.of("paid")] == seqs == [1, 2]
        listed = (await http.get("/api/events", params={"room_id": room_id, "event": "paid", "limit": "1"})).json()
        assert [event["seq"] for event in listed["events"]] == [2]


async def test_a_message_carries_data_and_may_then_be_empty(people: People) -> None:
    room_id = await _topic(people)
    sent = await people.omar.ask("message", room_id=room_id, content="", data=ORDER)
    assert (sent["content"], sent["data"]) == ("", ORDER)
    assert await people.diego.event("message") == sent
    assert (await people.diego.ask("history", room_id=room_id))["messages"] == [sent]
    ref = {"message_id": sent["id"]}
    assert (await people.omar.ask("edit", **ref, content="x"))["data"] == ORDER, "left out: unchanged"
    assert (await people.omar.ask("edit", **ref, content="", data={"new": 1}))["data"] == {"new": 1}
    assert await code(people.omar, "edit", **ref, content="", data=None) == "invalid"
    removed = await people.omar.ask("edit", **ref, content="x", data=None)
    assert (removed["content"], removed["data"]) == ("x", None)
    changes = [await people.diego.event("message_edited") for _ in range(3)]
    assert [change["message"]["data"] for change in changes] == [ORDER, {"new": 1}, None]
    for data, expected in (([], "invalid"), ("x", "invalid"), ({"x": "y" * MAX_DATA}, "too_large")):
        assert await code(people.omar, "message", room_id=room_id, content="x", data=data) == expected
        assert await code(people.omar, "edit", **ref, content="x", data=data) == expected
    deleted = await people.omar.ask("message", room_id=room_id, content="y", data=ORDER)
    await people.omar.ask("delete", message_id=deleted["id"])
    assert (await people.diego.event("message_deleted"))["message"]["data"] is None


async def test_where_only_moderators_write_a_member_reads_and_reacts(people: People) -> None:
    room_id = await _topic(people, posting="moderators")
    ref = {"room_id": room_id}
    sent = await people.omar.ask("message", **ref, content="announcement")
    for action, fields in (
        ("message", {"content": "x"}),
        ("publish", {"event": "x", "data": 1}),
        ("publish", {"event": "x", "data": 1, "transient": True}),
        ("typing", {}),
        ("set_posting", {"posting": "members"}),
    ):
        assert await code(people.diego, action, **ref, **fields) == "forbidden", action
    await people.diego.ask("react", message_id=sent["id"], emoji="👍")
    await people.omar.ask("set_role", **ref, username="diego", role="moderator")
    own = await people.diego.ask("message", **ref, content="as a moderator")
    await people.omar.ask("set_role", **ref, username="diego", role="member")
    assert await code(people.diego, "edit", message_id=own["id"], content="x") == "forbidden"
    changed = await people.omar.ask("set_posting", **ref, posting="members")
    assert changed["posting"] == "members"
    event = await people.diego.event("room_changed")
    assert event == {"room_id": room_id, "seq": changed["last_seq"], "username": "omar", "posting": "members"}
    await people.diego.ask("message", **ref, content="now I may")
    assert await code(people.omar, "create_conversation", usernames=["diego"], posting="moderators") == "invalid"
    direct = await people.omar.ask("create_conversation", usernames=["diego"])
    assert await code(people.omar, "set_posting", room_id=direct["room_id"], posting="moderators") == "forbidden"
