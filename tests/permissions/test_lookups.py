"""A stranger's question about a private room costs the database what one about no room costs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.pool import Pool

from tests.support.client import REGISTRY, Refused, connected
from tests.support.node import running_node

MORE: dict[str, dict[str, Any]] = {
    "message": {"content": "x"},
    "read": {"seq": 0},
    "set_title": {"title": "x"},
    "set_role": {"role": "member"},
    "search": {"query": "x"},
}
WITH_A_USER = {"invite", "kick", "ban", "unban", "mute", "set_role"}


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """Every look-up that SQLite runs, without its values."""
    seen: list[str] = []

    def trace(sql: str) -> None:
        if sql.startswith(("SELECT", "WITH")) and "total_changes" not in sql:
            seen.append(re.sub(r"'[^']*'|\d+", "?", sql))

    def watch(dbapi: Any, _record: Any) -> None:
        dbapi.set_trace_callback(trace)

    event.listen(Pool, "connect", watch)
    yield seen
    event.remove(Pool, "connect", watch)


async def test_a_private_room_takes_the_same_statements_as_none(
    sqlite_url: str, tmp_path: Path, statements: list[str]
) -> None:
    async with running_node(sqlite_url, tmp_path, options={"session_check_s": 1000, "presence_s": 1000}) as node:
        omar, diego = await node.register("omar"), await node.register("diego")
        async with connected(node.url, omar) as owner, connected(node.url, diego) as stranger:
            room = await owner.ask("create", topic_name="secreto", is_private=True)
            message = await owner.ask("message", topic_name="secreto", content="x")
            await node.node.indexer.caught_up()
            await node.node.indexer.stop()  # it looks things up when it likes
            pairs: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
            for action in REGISTRY:
                fields = action.request.model_fields
                more = MORE.get(action.name, {})
                if not action.live or action.name == "create":
                    continue
                if action.name in WITH_A_USER:
                    more = {**more, "username": "omar"}
                found = pairs.setdefault(action.name, [])
                if "message_id" in fields:
                    extra = {"edit": {"content": "x"}, "react": {"emoji": "x"}}.get(action.name, {})
                    found.append(({"message_id": message["id"], **extra}, {"message_id": "0" * 32, **extra}))
                if "room_id" in fields:
                    found.append(({"room_id": room["room_id"], **more}, {"room_id": "0" * 24, **more}))
                if "topic_name" in fields:
                    found.append(({"topic_name": "secreto", **more}, {"topic_name": "nothing", **more}))
            asked = 0
            for name, cases in pairs.items():
                for private, missing in cases:
                    took = []
                    for payload in (private, missing):
                        statements.clear()
                        with pytest.raises(Refused) as refused:
                            await stranger.ask(name, payload)
                        took.append((refused.value.error, sorted(statements)))
                    assert took[0] == took[1], (name, private)
                    assert took[0][1], (name, "asked the database")
                    asked += 1
            assert asked > 35
