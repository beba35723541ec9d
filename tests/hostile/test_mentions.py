"""Finding the mentions of a message takes little time, and only for members who may send it."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.delivery.support import make_topic, principal
from tests.hostile.contents import CONTENTS
from tests.hostile.meter import BUDGET_S, MeteredNode, longest_step
from tests.support.client import DEADLINE_S, connected
from tests.support.node import running_node
from tests.support.yardstick import slowdown
from tidings.auth import names
from tidings.contract.permissions import Permission
from tidings.log import commit, journal
from tidings.log.memberships import Join
from tidings.log.messages import AppendMessage


@pytest.mark.parametrize("action", ["message", "message to a room that is not there", "edit"])
async def test_no_content_holds_the_loop(node: MeteredNode, action: str) -> None:
    async with connected(node.url, await node.register("omar")) as omar:
        room = await omar.ask("create", topic_name="noticias")
        sent = await omar.ask("message", room_id=room["room_id"], content="@omar")
        fields = {
            "message": {"room_id": room["room_id"]},
            "message to a room that is not there": {"topic_name": "otra"},
            "edit": {"message_id": sent["id"]},
        }[action]
        name = action.partition(" ")[0]
        held = {
            kind: await longest_step(node, partial(omar.call, name, {**fields, "content": content}))
            for kind, content in CONTENTS.items()
        }
    assert {kind: spent for kind, spent in held.items() if spent >= BUDGET_S} == {}


@pytest.mark.parametrize("kind", CONTENTS)
def test_the_search_for_mentions_in_one_content_is_bounded(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Counts the steps, because a missing bound costs only milliseconds, too little to measure reliably."""
    names_in, without_code = names._names_in, names.without_code
    searched: list[str] = []
    words: list[str] = []
    found: set[str] = set()

    def noted_names_in(word: str) -> list[str]:
        assert len(found) < names.MAX_MENTIONS, "no further mentions are needed"
        words.append(word)
        candidates = names_in(word)
        assert len(candidates) <= names.MAX_PUNCTUATION + 2
        found.update(candidates)
        return candidates

    def noted_without_code(text: str) -> str:
        searched.append(text)
        return without_code(text)

    monkeypatch.setattr(names, "_names_in", noted_names_in)
    monkeypatch.setattr(names, "without_code", noted_without_code)
    content = CONTENTS[kind]
    assert len(names.mentions(content)) <= min(names.MAX_MENTIONS, names.most_mentions(content))
    assert len(words) <= names.MAX_MENTIONS
    assert [len(names._MARK.findall(text)) <= names.MAX_MARKS for text in searched] == [True] * ("@" in content)


async def test_a_refused_message_is_not_searched_for_mentions(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[str] = []
    search = names.mentions

    def noted(content: str) -> tuple[str, ...]:
        searched.append(content)
        return search(content)

    monkeypatch.setattr(names, "mentions", noted)
    async with running_node(sqlite_url, tmp_path) as server:
        omar, diego = await server.register("omar"), await server.register("diego")
        room_id = await make_topic(server.url, omar, "noticias")
        async with connected(server.url, omar) as member, connected(server.url, diego) as stranger:
            answer = await stranger.call("message", {"room_id": room_id, "content": "@omar of a stranger"})
            assert not answer["ok"]
            await member.ask("message", room_id=room_id, content="@omar of a member")
    assert searched == ["@omar of a member"]


async def test_a_member_who_joined_in_the_same_batch_may_mention_others(sqlite_url: str, tmp_path: Path) -> None:
    async with running_node(sqlite_url, tmp_path) as server:
        omar, diego = await server.register("omar"), await server.register("diego")
        async with connected(server.url, omar) as owner, connected(server.url, diego) as newcomer:
            await owner.ask("create", topic_name="noticias")
            key = await server.node.database.read(lambda conn: conn.exec_driver_sql("SELECT id FROM room").scalar())
            me = principal(server, "diego")
            # Handed over in one step of the event loop, so they are in one batch.
            joined = server.node.journal.hand_over(Join(me, key, me.user_key, "diego", Permission.JOIN))
            sent = server.node.journal.hand_over(AppendMessage(me, key, "hola @omar y @diego"))
            await asyncio.wait_for(joined, DEADLINE_S)
            assert sorted((await sent)["mentions"]) == ["diego", "omar"]
            await newcomer.event("message")


@pytest.mark.parametrize("kind", ["many names", "names with punctuation", "backticks", "short"])
async def test_a_thousand_messages_with_many_mentions_do_not_hold_the_writer(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """No transaction takes long, so other messages are committed in between."""
    spent: list[float] = []
    looked_up: list[int] = []
    write = commit.Writer._commit

    def timed(*work: Any) -> object:
        operations: Sequence[AppendMessage] = work[1]
        looked_up.append(sum(operation.names for operation in operations))
        begun = time.thread_time()
        try:
            return write(*work)
        finally:
            spent.append((time.thread_time() - begun) / slowdown())

    async with running_node(sqlite_url, tmp_path) as server:
        room_id = await make_topic(server.url, await server.register("omar"), "noticias")
        async with connected(server.url, await server.login("omar")):
            me, key = principal(server, "omar"), server.node.hub.key(room_id)
            monkeypatch.setattr(commit.Writer, "_commit", timed)
            content = "@a @b @c @d @e @f @g @h" if kind == "short" else CONTENTS[kind]
            contents = [f"{number} {content}"[:2000] for number in range(1000)]
            # A full collection examines the objects of all earlier tests: 0.3 s in whichever thread triggers it.
            gc.disable()
            try:
                await asyncio.gather(
                    *(server.node.journal.hand_over(AppendMessage(me, key, content)) for content in contents)
                )
            finally:
                gc.enable()
    assert len(spent) > 1
    assert max(looked_up) <= journal.MAX_BATCH_NAMES
    assert max(spent) < 0.5
    assert sum(spent) < 5
