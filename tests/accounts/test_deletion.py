"""A deleted account leaves nothing personal, in whatever order the server dies."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select

from tests.accounts.conftest import check_closed
from tests.actions.conftest import code
from tests.delivery.support import rest
from tests.support.client import Client, connected
from tests.support.node import PASSWORD, RunningNode, running_node
from tidings.log.deletion import Deletions
from tidings_db.models import feed, metadata

WORDS = ["to be or", "not to be", "that is", "the question"]


class World:
    """Omar in a topic that he owns, a private one that he has left, a conversation, and his marks everywhere."""

    def __init__(self, server: RunningNode) -> None:
        self.server = server
        self.tokens: dict[str, str] = {}
        self.rooms: dict[str, str] = {}

    async def make(self) -> None:
        self.tokens = {name: await self.server.register(name) for name in ("omar", "diego")}
        async with self.client("omar", device="omar's phone") as omar, self.client("diego") as diego:
            await diego.ask("create", topic_name="private", is_private=True)
            await diego.ask("message", topic_name="private", content="has anybody seen him?")
            await diego.ask("invite", topic_name="private", username="omar")
            await omar.ask("create", topic_name="public")
            await diego.ask("subscribe", topic_name="public")
            for word, ref in zip(WORDS, ["public", "public", "private", "diego"], strict=True):
                sent = await omar.ask("message", topic_name=ref, content=word)
                self.rooms.setdefault(ref, sent["room_id"])
                await diego.ask("react", message_id=sent["id"], emoji="👍")
            theirs = await diego.ask("message", topic_name="public", content="words, words")
            await omar.ask("react", message_id=theirs["id"], emoji="🎭")
            await omar.ask("set_profile", display_name="Omar the Great", status={"text": "acting"})
            await omar.ask("echo", content="omar speaks")
            await omar.ask("block", username="diego")
            await omar.ask("unblock", username="diego")
            await omar.ask("report", message_id=theirs["id"], reason="omar is bored")
            await omar.ask("unsubscribe", topic_name="private")

    def client(self, name: str, **auth: Any) -> Any:
        return connected(self.server.url, self.tokens[name], **auth)

    async def contents(self, diego: Client) -> dict[str, list[tuple[str, str]]]:
        """Room -> the (sender, content) of its messages."""
        seen = {}
        for name, room_id in self.rooms.items():
            messages = (await diego.ask("history", room_id=room_id))["messages"]
            seen[name] = [(message["sender"], message["content"]) for message in messages]
        return seen


async def _delete(server: RunningNode, token: str, messages: str) -> None:
    async with rest(server.url, token) as http:
        refused = await http.post("/api/me/delete", json={"password": "wrong password", "messages": messages})
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        answer = await http.post("/api/me/delete", json={"password": PASSWORD, "messages": messages})
        assert answer.json() == {}
        assert (await http.get("/api/me")).status_code == 401


def _traces(conn: Connection) -> list[str]:
    """Every row of the database that names omar, or has his words; but the notices for other nodes, which pass."""
    found = []
    for table in set(metadata.sorted_tables) - {feed}:
        for row in conn.execute(select(table)).mappings():
            shown = {name: str(value) for name, value in row.items() if value is not None}
            text = json.dumps(shown, ensure_ascii=False).lower()
            if any(word in text for word in ("omar", "acting", *WORDS)):
                found.append(f"{table.name}: {text}")
    return [trace for trace in found if not trace.startswith("name:")]  # the name is free for users, not for topics


@pytest.mark.parametrize("messages", ["delete", "keep"])
async def test_a_deleted_account_is_gone_for_others_and_its_name_is_free(server: RunningNode, messages: str) -> None:
    world = World(server)
    await world.make()
    async with world.client("omar") as omar, world.client("diego") as diego:
        await _delete(server, world.tokens["omar"], messages)
        await check_closed(omar)
        await diego.event("member", lambda e: (e["username"], e["change"]) == ("omar", "left"))
        await server.node.deletions.run_once()
        await diego.event("presence", lambda e: (e["username"], e["online"]) == ("omar", False))
        if messages == "delete":
            assert len(diego.of("message_deleted")) == len(WORDS)
        theirs = [event["message"] for event in diego.of("reaction") if event["message"]["sender"] == "diego"]
        assert [(message["content"], message["reactions"]) for message in theirs[-1:]] == [("words, words", {})]
        seen = await world.contents(diego)
        (name,) = {sender for room in seen.values() for sender, _ in room} - {"diego"}
        assert name.startswith("deleted-")
        expected = WORDS if messages == "keep" else [""] * 4
        assert seen == {
            "public": [(name, expected[0]), (name, expected[1]), ("diego", "words, words")],
            "private": [("diego", "has anybody seen him?"), (name, expected[2])],
            "diego": [(name, expected[3])],
        }
        members = (await diego.ask("get_members", room_id=world.rooms["public"]))["members"]
        assert [(member["username"], member["role"]) for member in members] == [("diego", "owner")]
        assert await code(diego, "get_profile", username="omar") == "not_found"
    traces = await server.node.database.read(_traces)
    if messages == "delete":
        assert traces == []
    else:
        assert all(trace.startswith("entry:") for trace in traces)
        assert not any("omar" in trace for trace in traces)
    token = await server.register("omar")  # somebody else
    async with connected(server.url, token) as new:
        assert (await new.ask("get_rooms", member=True))["rooms"] == []


async def test_a_deletion_goes_on_where_a_server_that_died_left_it(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, take_back = 0, Deletions._take_back

    async def die(self: Deletions, *args: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == 3:
            raise asyncio.CancelledError
        await take_back(self, *args)

    async with running_node(database_url, tmp_path) as server:
        world = World(server)
        await world.make()
        with monkeypatch.context() as patched:
            patched.setattr(Deletions, "_take_back", die)
            await _delete(server, world.tokens["omar"], "delete")
            await server.node.deletions.loop.ended()
        # Nobody can take it back.
        await server.node.auth.set_disabled(await server.node.auth.user("omar"), False)
        assert (await server.node.auth.user("omar")).disabled
    async with running_node(database_url, tmp_path) as world.server:
        async with rest(world.server.url, world.tokens["omar"]) as http:
            assert (await http.get("/api/me")).status_code == 401
        async with world.client("diego") as diego:
            await world.server.node.deletions.run_once()
            assert all(
                not content
                for room in (await world.contents(diego)).values()
                for sender, content in room
                if sender != "diego"
            )
        assert await world.server.node.database.read(_traces) == []
