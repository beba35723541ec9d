"""Edits, deletions, reactions and mentions: entries of the log like the messages they change."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import Connection

from tests.actions.conftest import People, code
from tests.support.client import Refused, connected
from tests.support.node import running_node


async def _room(people: People) -> str:
    room = await people.omar.ask("create", topic_name="noticias")
    await people.diego.ask("subscribe", topic_name="noticias")
    room_id: str = room["room_id"]
    return room_id


async def test_an_edit_replaces_the_content_everywhere_and_appends_an_entry(people: People) -> None:
    room_id = await _room(people)
    sent = await people.omar.ask("message", room_id=room_id, content="uno", client_id="c1")
    edited = await people.omar.ask("edit", message_id=sent["id"], content="dos")
    assert edited == sent | {"content": "dos", "edited_at": edited["edited_at"]}
    assert edited["edited_at"] is not None
    event = await people.diego.event("message_edited")
    assert event == {"room_id": room_id, "seq": 2, "message": edited | {"client_id": None}}
    assert await people.omar.event("message_edited") == {"room_id": room_id, "seq": 2, "message": edited}
    history = await people.diego.ask("history", room_id=room_id)
    assert history["messages"] == [edited | {"client_id": None}]
    retried = await people.omar.ask("message", room_id=room_id, content="uno", client_id="c1")
    assert retried == edited, "a retry is answered with the current message"


async def test_an_edit_without_a_change_appends_no_entry(people: People) -> None:
    room_id = await _room(people)
    sent = await people.omar.ask("message", room_id=room_id, content="uno")
    assert await people.omar.ask("edit", message_id=sent["id"], content="uno") == sent
    (room,) = (await people.omar.ask("get_rooms"))["rooms"]
    assert room["last_seq"] == 1


async def test_a_deleted_message_leaves_a_tombstone_without_content(people: People) -> None:
    room_id = await _room(people)
    sent = await people.omar.ask("message", room_id=room_id, content="xyzzy-secret @diego", client_id="c1")
    await people.diego.ask("react", message_id=sent["id"], emoji="👍")
    assert await people.omar.ask("delete", message_id=sent["id"]) == {}
    published = (await people.diego.event("message_deleted"))["message"]
    tombstone = sent | {"content": "", "deleted": True, "mentions": [], "reactions": {}, "client_id": None}
    assert published == tombstone
    assert (await people.diego.ask("history", room_id=room_id))["messages"] == [tombstone]
    assert await people.omar.ask("delete", message_id=sent["id"]) == {}, "deleting again changes nothing"
    assert await code(people.omar, "edit", message_id=sent["id"], content="back") == "not_found"
    assert await code(people.omar, "react", message_id=sent["id"], emoji="👍") == "not_found"
    assert (await people.omar.ask("message", room_id=room_id, content="x", client_id="c1"))["deleted"]

    def entries(conn: Connection) -> str:
        return str(conn.execute(text("SELECT * FROM entry")).all())

    assert "xyzzy" not in await people.server.node.database.read(entries)


def _files_with(folder: Path, content: bytes) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file() and content in path.read_bytes()]


async def test_deleted_and_replaced_content_is_not_in_the_database_file(sqlite_url: str, tmp_path: Path) -> None:
    async with running_node(sqlite_url, tmp_path) as node, connected(node.url, await node.register("omar")) as omar:
        await omar.ask("create", topic_name="noticias")
        for n in range(40):
            await omar.ask("message", topic_name="noticias", content=f"filler {n} " + "x" * 500)
        deleted = await omar.ask("message", topic_name="noticias", content="xyzzy-deleted " * 300)
        edited = await omar.ask("message", topic_name="noticias", content="xyzzy-edited " * 300)
        await omar.ask("delete", message_id=deleted["id"])
        await omar.ask("edit", message_id=edited["id"], content="short")
        await node.node.indexer.caught_up()  # otherwise the index may hold the words for another minute
    assert _files_with(tmp_path, b"filler 7")
    assert _files_with(tmp_path, b"xyzzy") == []


async def test_a_users_reaction_counts_once_until_it_is_removed(people: People) -> None:
    room_id = await _room(people)
    sent = await people.omar.ask("message", room_id=room_id, content="uno", client_id="c1")
    for _ in range(2):
        answer = await people.diego.ask("react", message_id=sent["id"], emoji="👍")
        assert answer["reactions"] == {"👍": ["diego"]}
        assert answer["client_id"] is None
    await people.omar.ask("react", message_id=sent["id"], emoji="👍")
    event = await people.omar.event("reaction", lambda e: e["message"]["reactions"] == {"👍": ["diego", "omar"]})
    assert event["seq"] == 3
    assert event["message"]["client_id"] == "c1", "the author sees the client_id"
    for _ in range(2):
        await people.diego.ask("react", message_id=sent["id"], emoji="👍", remove=True)
    last = await people.omar.ask("react", message_id=sent["id"], emoji="👍", remove=True)
    assert last["reactions"] == {}
    await people.diego.event("reaction", lambda e: e["seq"] == 5)
    assert [e["seq"] for e in people.diego.of("reaction")] == [2, 3, 4, 5]
    for bad in ("", "a b", "x" * 33, "\n", "\u202e"):
        assert await code(people.omar, "react", message_id=sent["id"], emoji=bad) == "invalid"


async def test_reactions_to_one_message_are_bounded(people: People) -> None:
    room_id = await _room(people)
    sent = await people.omar.ask("message", room_id=room_id, content="uno")
    for at in range(64):
        await people.omar.ask("react", message_id=sent["id"], emoji=f"e{at}")
    with pytest.raises(Refused) as refused:
        await people.omar.ask("react", message_id=sent["id"], emoji="another")
    assert (refused.value.code, refused.value.details) == ("too_large", {"limit": 64})


async def test_a_replay_brings_an_offline_device_to_the_current_state(people: People) -> None:
    room_id = await _room(people)
    first = await people.omar.ask("message", room_id=room_id, content="uno")
    second = await people.omar.ask("message", room_id=room_id, content="dos")
    await people.diego.event("message", lambda m: m["content"] == "dos")
    await people.diego.close()
    await people.omar.ask("edit", message_id=first["id"], content="uno!")
    third = await people.omar.ask("message", room_id=room_id, content="tres")
    await people.omar.ask("react", message_id=third["id"], emoji="🎉")
    await people.omar.ask("delete", message_id=second["id"])
    async with connected(people.server.url, people.tokens["diego"], cursors={room_id: 2}) as diego:
        held = {m["id"]: m for m in (first, second)}
        for name, payload in diego.events:
            if name == "message":
                held[payload["id"]] = payload
            elif name in ("message_edited", "message_deleted", "reaction"):
                held[payload["message"]["id"]] = payload["message"]
        fresh = (await diego.ask("history", room_id=room_id))["messages"]
        assert sorted(held.values(), key=lambda m: m["seq"]) == fresh
        seqs = [p["seq"] for n, p in diego.events if n in _LOGGED_EVENTS]
        assert seqs == [3, 4, 5, 6]


_LOGGED_EVENTS = ("message", "message_edited", "message_deleted", "reaction", "member")


@pytest.mark.parametrize(
    ("content", "mentions"),
    [
        ("hola @diego", ["diego"]),
        ("@Diego, @omar.", ["diego", "omar"]),
        ("@satoshi is no member", []),
        ("mail@diego", []),
        ("`@diego` and ``a ` @diego``", []),
        ("```\n@diego\n```", []),
        ("~~~ py\n@diego", []),
        ("`unclosed @diego", ["diego"]),
        ("(@diego's)", ["diego"]),
        ("@diego!!! and @ＯＭＡＲ．", ["diego", "omar"]),
        ("`a\n\n@diego ` in another paragraph", ["diego"]),
        ("````\n```\n@diego\n````\n@omar", ["omar"]),
        ("``` `not a fence`\n@diego", ["diego"]),
        ("~~~\n@diego\n~~~~ \n@omar", ["omar"]),
        ("`@diego` `` @omar `", ["omar"]),
    ],
)
async def test_mentions_are_members_named_outside_of_code(people: People, content: str, mentions: list[str]) -> None:
    room_id = await _room(people)
    sent = await people.omar.ask("message", room_id=room_id, content=content)
    assert sorted(sent["mentions"]) == mentions
    assert (await people.diego.event("message")) == sent


async def test_an_edit_replaces_the_mentions(people: People) -> None:
    room_id = await _room(people)
    sent = await people.omar.ask("message", room_id=room_id, content="@diego")
    assert (await people.omar.ask("edit", message_id=sent["id"], content="@omar"))["mentions"] == ["omar"]


async def test_repeated_typing_is_published_at_most_every_few_seconds(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidings.fanout.typing.REPEAT_S", 3600)
    monkeypatch.setattr(people.server.node.hub.typists, "_typing_s", 3600)
    room_id = await _room(people)
    for _ in range(20):
        await people.omar.ask("typing", room_id=room_id)
    await people.omar.ask("typing", room_id=room_id, typing=False)
    await people.diego.event("typing", lambda e: not e["typing"])
    assert [e["typing"] for e in people.diego.of("typing")] == [True, False]


async def test_typing_ends_when_the_member_leaves(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people.server.node.hub.typists, "_typing_s", 3600)  # it does not time out
    room_id = await _room(people)
    await people.diego.ask("typing", room_id=room_id)
    await people.diego.ask("unsubscribe", room_id=room_id)
    await people.omar.event("typing", lambda e: e["typing"])
    await people.omar.event("typing", lambda e: not e["typing"])
