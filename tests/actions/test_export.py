"""An export has all data of the user, complete and in order, and no data of others."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.actions.conftest import People
from tests.delivery.support import fill, make_topic, rest
from tests.support.exports import exported, of
from tests.support.node import RunningNode, running_node
from tidings.actions import export as action
from tidings_db.queries import export as queries


async def test_an_export_has_all_data_of_the_caller_and_none_of_others(people: People) -> None:
    omar, diego, server = people.omar, people.diego, people.server
    room_id = (await omar.ask("create", topic_name="noticias"))["room_id"]
    await diego.ask("subscribe", topic_name="noticias")
    first = await omar.ask("message", room_id=room_id, content="one", client_id="c1")
    theirs = await diego.ask("message", room_id=room_id, content="diego's secret", reply_to=first["id"])
    await omar.ask("edit", message_id=first["id"], content="one, edited")
    await omar.ask("react", message_id=theirs["id"], emoji="👍")
    await omar.ask("react", message_id=theirs["id"], emoji="👍", remove=True)
    deleted = await omar.ask("message", room_id=room_id, content="to be deleted")
    await omar.ask("delete", message_id=deleted["id"])
    direct = await omar.ask("message", username="diego", content="two")
    private = (await diego.ask("create", topic_name="secreta", is_private=True))["room_id"]
    await diego.ask("invite", room_id=private, username="omar")
    in_private = await omar.ask("message", room_id=private, content="three")
    await omar.ask("create_invitation_link", room_id=private)  # ends with omar's membership
    own = (await omar.ask("create", topic_name="propia", is_private=True))["room_id"]
    link = await omar.ask("create_invitation_link", room_id=own)
    await omar.ask("unsubscribe", room_id=private)
    await omar.ask("block", username="satoshi")
    await omar.ask("echo", content="four")
    await omar.ask("delivered", cursors={room_id: 3})
    await omar.ask("message", room_id=room_id, content="last")  # writes the cursor, too
    lines = await exported(server, people.tokens["omar"])
    assert [line["username"] for line in of(lines, "profile")] == ["omar"]
    assert [line["device"] for line in of(lines, "device")] == ["default"]
    assert len(of(lines, "session")) == 1
    assert {line["room_id"]: line["role"] for line in of(lines, "room")} == {
        room_id: "owner",
        own: "owner",
        direct["room_id"]: "member",
    }
    assert {"device": "default", "room_id": room_id, "seq": 3} in of(lines, "cursor")
    assert {line["room_id"] for line in of(lines, "read_marker")} == {room_id, own, direct["room_id"]}
    assert [line["username"] for line in of(lines, "block")] == ["satoshi"]
    assert [line["code"] for line in of(lines, "invitation_link")] == [link["code"]]
    assert [(line["direction"], line["content"]) for line in of(lines, "echo")] == [
        ("sent", "four"),
        ("received", "four"),
    ]
    messages = of(lines, "message")
    assert [(line["room_id"], line["content"], line["deleted"]) for line in messages] == [
        (room_id, "one, edited", False),
        (room_id, "", True),
        (room_id, "last", False),
        (direct["room_id"], "two", False),
        (private, "three", False),  # from a room that omar has left
    ]
    assert (messages[0]["id"], messages[0]["client_id"], messages[-1]["id"]) == (first["id"], "c1", in_private["id"])
    assert [(line["message_id"], line["emoji"], line["remove"]) for line in of(lines, "reaction")] == [
        (theirs["id"], "👍", False),
        (theirs["id"], "👍", True),
    ]
    text = json.dumps(lines)
    for secret in ("diego's secret", people.tokens["omar"], "$2b$"):
        assert secret not in text
    assert await exported(server, people.tokens["omar"]) == lines  # in the same order


async def test_pages_of_an_export_join_without_a_gap_or_repeat(
    server: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page ends at a number of scanned entries, at a size, or at the end of a room."""
    token, diego = await server.register("omar"), await server.register("diego")
    room_ids = [await make_topic(server.url, token, f"t{n}", diego) for n in range(4)]
    database = server.node.database
    for n in range(6):  # entries of both users alternate
        await fill(database, "diego", {room_id: ["x"] * (n + 1) for room_id in room_ids[:2]})
        await fill(database, "omar", {room_id: [f"{room_id} {n}"] for room_id in room_ids[:3]})
    async with rest(server.url, token) as http:
        for n in range(5):
            await http.post("/api/echo", json={"content": str(n)})
    expected = [f"{room_id} {n}" for room_id in room_ids[:3] for n in range(6)]
    whole = await exported(server, token)
    assert [line["content"] for line in of(whole, "message")] == expected
    monkeypatch.setattr(action, "PAGE", 3)
    for scanned in (1, 2, 3, 7, 1000):
        monkeypatch.setattr(queries, "_SCANNED", scanned)
        assert await exported(server, token) == whole
    monkeypatch.setattr(queries, "_BYTES", 60)
    assert await exported(server, token) == whole


async def test_no_statement_of_an_export_scans_more_than_a_page(
    server: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await server.register("omar")
    room_id = await make_topic(server.url, token, "noticias")
    await fill(server.node.database, "omar", {room_id: ["x"] * 100})
    monkeypatch.setattr(queries, "_SCANNED", 10)
    bounds: list[int] = []
    written = queries.written

    def recorded(conn: Any, user_key: int, after: tuple[int, int]) -> Any:
        page = written(conn, user_key, after)
        bounds.append(len(page[0]))
        return page

    monkeypatch.setattr(queries, "written", recorded)
    assert len(of(await exported(server, token), "message")) == 100
    assert max(bounds) == 10


async def test_an_export_without_a_token_is_refused(server: RunningNode) -> None:
    async with rest(server.url, "nonsense") as http:
        answer = await http.get("/api/me/export")
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


async def test_a_failed_export_ends_with_the_error_and_no_end_line(
    server: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await server.register("omar")

    def fails(*_: Any, **__: Any) -> Any:
        raise OSError("the disk is gone")

    monkeypatch.setattr(queries, "written", fails)
    async with rest(server.url, token) as http:
        answer = await http.get("/api/me/export")
        last = json.loads(answer.text.splitlines()[-1])
        assert (last["type"], last["code"], last["retryable"]) == ("error", "unavailable", True)
        monkeypatch.setattr(queries, "page", fails)
        refused = await http.get("/api/me/export")
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")


async def test_an_export_is_not_an_action_of_live_connections(people: People) -> None:
    answer = await asyncio.wait_for(people.omar.send("export", {}), 30)
    assert answer["error"]["code"] == "unknown_action"


async def test_exports_have_a_rate_limit_of_their_own(sqlite_url: str, tmp_path: Path) -> None:
    """An export scans all logs."""
    async with running_node(sqlite_url, tmp_path, rate_limits="on", rates="exports=1/hour") as server:
        token = await server.register("omar")
        async with rest(server.url, token) as http:
            assert [(await http.get("/api/me/export")).status_code for _ in range(2)] == [200, 429]
            assert (await http.get("/api/me")).status_code == 200
