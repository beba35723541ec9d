"""A reported message reaches those who moderate its room, and the administrators."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Connection, func, select

from tests.actions.conftest import People, code
from tests.delivery.support import rest
from tests.support.client import Client
from tests.support.exports import exported, of
from tidings_db.models import reports
from tidings_db.queries import retention, rooms, users


async def _room(people: People) -> str:
    """A topic of omar, with diego and satoshi as members."""
    room_id = str((await people.omar.ask("create", topic_name="sala"))["room_id"])
    for client in (people.diego, people.satoshi):
        await client.ask("subscribe", topic_name="sala")
    return room_id


async def _open(client: Client, room_id: str) -> list[dict[str, Any]]:
    return list((await client.ask("get_reports", room_id=room_id))["reports"])


async def test_moderators_see_a_report_with_the_content_of_then_until_one_closes_it(people: People) -> None:
    omar, diego, satoshi = people.omar, people.diego, people.satoshi
    room_id = await _room(people)
    bad = await diego.ask("message", room_id=room_id, content="buy now", client_id="c1")
    assert await satoshi.ask("report", message_id=bad["id"], reason=" an advertisement ") == {}
    told = await omar.event("reported")
    (report,) = await _open(omar, room_id)
    assert told == {"room_id": room_id, "report": report}
    assert (report["message"], report["content"], report["username"], report["reason"]) == (
        bad | {"client_id": None},
        "buy now",
        "satoshi",
        "an advertisement",
    )
    await diego.ask("edit", message_id=bad["id"], content="nothing to see")
    await omar.ask("delete", message_id=bad["id"])
    (report,) = await _open(omar, room_id)
    assert (report["content"], report["message"]["content"], report["message"]["deleted"]) == ("buy now", "", True)
    assert await omar.ask("close_report", report_id=report["report_id"]) == {}
    assert await _open(omar, room_id) == []
    assert await code(omar, "close_report", report_id=report["report_id"]) == "not_found"
    assert not diego.of("reported")
    assert not satoshi.of("reported")


async def test_a_report_is_refused_of_an_own_a_deleted_or_a_hidden_message_and_twice(people: People) -> None:
    omar, diego, satoshi = people.omar, people.diego, people.satoshi
    room_id = await _room(people)
    own, theirs, gone = [await diego.ask("message", room_id=room_id, content=text) for text in "abc"]
    hidden = await omar.ask("message", username="diego", content="just us")
    await diego.ask("delete", message_id=gone["id"])
    await satoshi.ask("report", message_id=theirs["id"], reason="x")
    for client, message, reason, expected in (
        (diego, own, "x", "invalid"),
        (satoshi, gone, "x", "invalid"),
        (satoshi, hidden, "x", "not_found"),
        (satoshi, theirs, "x", "conflict"),
        (omar, theirs, " ", "invalid"),
        (omar, theirs, "x" * 501, "invalid"),
    ):
        assert await code(client, "report", message_id=message["id"], reason=reason) == expected, (message, reason)
    (report,) = await _open(omar, room_id)
    assert await code(satoshi, "close_report", report_id=report["report_id"]) == "not_found"
    assert [line["reason"] for line in of(await exported(people.server, people.tokens["satoshi"]), "report")] == ["x"]


async def test_administrators_see_the_reports_of_all_rooms_in_pages_and_close_them(people: People) -> None:
    room_id = await _room(people)
    reasons = []
    for n in range(3):
        message = await people.diego.ask("message", room_id=room_id, content=f"spam {n}")
        for client in (people.satoshi, people.omar):
            reasons.append(f"{n}, {client is people.omar}")
            await client.ask("report", message_id=message["id"], reason=reasons[-1])
    direct = await people.diego.ask("message", username="omar", content="worse spam")
    await people.omar.ask("report", message_id=direct["id"], reason="direct")
    assert await code(people.omar, "get_reports", username="diego") == "forbidden"
    root = await people.server.register("root")
    async with rest(people.server.url, root) as http:
        assert (await http.get("/api/admin/reports")).status_code == 403
    key = (await people.server.node.auth.user("root")).key
    await people.server.node.database.write(lambda conn: users.set_admin(conn, key, True))
    async with rest(people.server.url, root) as http:
        seen: list[dict[str, Any]] = []
        params: dict[str, Any] = {"limit": 2}
        while True:
            page = (await http.get("/api/admin/reports", params=params)).json()
            seen += page["reports"]
            if page["next"] is None:
                break
            params["after"] = page["next"]
        assert [report["reason"] for report in seen] == [*reasons, "direct"]
        assert (await http.delete(f"/api/reports/{seen[0]['report_id']}")).status_code == 200
    assert [report["reason"] for report in await _open(people.omar, room_id)] == reasons[1:]


@pytest.mark.parametrize("how", ["deleted topic", "retention"])
async def test_reports_go_with_their_messages(people: People, how: str) -> None:
    room_id, database = await _room(people), people.server.node.database
    message = await people.diego.ask("message", room_id=room_id, content="spam")
    await people.satoshi.ask("report", message_id=message["id"], reason="x")

    def remove(conn: Connection) -> int:
        room = rooms.find(conn, room_id=room_id)
        assert room is not None
        if how == "retention":
            retention.trim(conn, room, 2**62, 100)
        else:
            rooms.delete_topic(conn, room.key)
        return conn.execute(select(func.count()).select_from(reports)).scalar_one()

    assert await database.write(remove) == 0
