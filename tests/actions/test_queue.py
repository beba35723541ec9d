"""The pending entries of a device: counting and skipping them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.actions.conftest import People, code
from tests.delivery.support import make_topic, reader, rest
from tests.support.client import Client, connected
from tidings_db.queries import undelivered


async def pending(client: Client, **fields: Any) -> dict[str, tuple[int, int, int]]:
    """room_id -> (cursor, last_seq, pending), page by page."""
    rooms: dict[str, tuple[int, int, int]] = {}
    after = None
    while True:
        page = await client.ask("get_pending", {"after": after, "limit": 2, **fields})
        for room in page["rooms"]:
            assert room["room_id"] not in rooms
            rooms[room["room_id"]] = (room["cursor"], room["last_seq"], room["pending"])
        after = page["next"]
        if after is None:
            return rooms


async def send(client: Client, room_id: str, count: int) -> None:
    for n in range(count):
        await client.ask("message", room_id=room_id, content=str(n))


async def test_pending_counts_exactly_the_entries_that_a_device_misses(people: People) -> None:
    omar, diego = people.omar, people.diego
    url, token = people.server.url, people.tokens["diego"]
    room_ids = [await make_topic(url, people.tokens["omar"], f"t{n}", token) for n in range(5)]
    async with connected(url, token, device="phone"):
        pass
    for n, room_id in enumerate(room_ids):
        await send(omar, room_id, n)  # the first room stays empty
    expected = {room_id: (0, n, n) for n, room_id in enumerate(room_ids) if n}
    assert await pending(diego, device="phone") == expected
    await diego.ask("delivered", cursors={room_ids[4]: 4, room_ids[3]: 1})  # not written to the database yet
    own = {room_ids[1]: (0, 1, 1), room_ids[2]: (0, 2, 2), room_ids[3]: (1, 3, 2)}
    assert await pending(diego) == own  # the device of the connection
    assert await pending(diego, device="phone") == expected
    assert await pending(omar) == await pending(omar, device="default")
    assert await pending(people.satoshi) == {}
    async with rest(url, token) as http:
        answer = await http.get("/api/pending", params={"device": "phone", "limit": 3})
        assert [room["room_id"] for room in answer.json()["rooms"]] == room_ids[1:4]
        assert answer.json()["next"] == room_ids[3]


async def test_pending_uses_a_cursor_that_is_written_during_the_query(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    omar, diego, database = people.omar, people.diego, people.server.node.database
    room_id = await make_topic(people.server.url, people.tokens["omar"], "one", people.tokens["diego"])
    await send(omar, room_id, 3)
    await diego.ask("delivered", cursors={room_id: 2})
    read = database.read

    async def overtaken(query: Any) -> Any:
        answer = await read(query)
        if getattr(query, "func", None) is undelivered.behind:
            await omar.ask("message", room_id=room_id, content="new")  # writes the cursor, too
        return answer

    monkeypatch.setattr(database, "read", overtaken)
    assert await pending(diego) == {room_id: (2, 3, 1)}


async def test_cleared_messages_are_not_replayed_and_later_ones_are(people: People) -> None:
    omar, url, token = people.omar, people.server.url, people.tokens["diego"]
    cleared = await make_topic(url, people.tokens["omar"], "one", token)
    kept = await make_topic(url, people.tokens["omar"], "two", token)
    async with connected(url, token, device="phone"):
        pass
    await send(omar, cleared, 3)
    await send(omar, kept, 3)
    async with rest(url, token) as http:
        answer = await http.delete("/api/pending", params={"device": "phone", "room_id": cleared})
        assert (answer.status_code, answer.json()) == (200, {})
    assert await pending(people.diego, device="phone") == {kept: (0, 3, 3)}
    async with connected(url, token, device="phone") as phone:
        assert (phone.contents(cleared), phone.contents(kept)) == ([], ["0", "1", "2"])
    await send(omar, cleared, 1)
    assert await people.diego.ask("clear_pending", device="phone") == {}
    await omar.ask("message", room_id=kept, content="new")
    async with connected(url, token, device="phone") as phone:
        assert phone.contents() == ["new"]


async def test_a_late_confirmation_does_not_move_a_cleared_cursor_back(people: People) -> None:
    url, token = people.server.url, people.tokens["diego"]
    room_id = await make_topic(url, people.tokens["omar"], "one", token)
    async with reader(url, token, device="phone") as phone:
        await send(people.omar, room_id, 5)
        await phone.ask("clear_pending")
        await phone.ask("delivered", cursors={room_id: 2})
        # The cursor is written with this message at the latest.
        await people.omar.ask("message", room_id=room_id, content="new")
        answer = await phone.ask("get_pending")
        assert [(room["cursor"], room["pending"]) for room in answer["data"]["rooms"]] == [(5, 1)]


async def test_a_live_connection_misses_nothing_when_its_device_is_cleared(people: People) -> None:
    omar, diego = people.omar, people.diego
    room_id = await make_topic(people.server.url, people.tokens["omar"], "one", people.tokens["diego"])
    sent = [omar.send("message", {"room_id": room_id, "content": str(n)}) for n in range(50)]
    await diego.ask("clear_pending")
    for answer in sent:
        await answer
    await diego.until(lambda: len(diego.contents(room_id)) == 50)
    assert diego.contents(room_id) == [str(n) for n in range(50)]


async def test_pending_covers_only_the_callers_devices_and_rooms(people: People) -> None:
    room_id = await make_topic(people.server.url, people.tokens["omar"], "one")
    await send(people.omar, room_id, 1)
    for action in ("get_pending", "clear_pending"):
        assert await code(people.diego, action, device="phone") == "not_found"
    assert await code(people.diego, "clear_pending", room_id=room_id) == "not_found"
    assert await code(people.diego, "clear_pending", room_id="none") == "not_found"
    assert await code(people.diego, "get_pending", after="none") == "not_found"
    token = await people.server.register("nakamoto")
    async with rest(people.server.url, token) as http:  # a user without a connection has no device
        assert (await http.get("/api/pending")).status_code == 404
