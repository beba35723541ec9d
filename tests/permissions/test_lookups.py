"""A stranger's request for a private room costs the database the same as one for a missing room."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.pool import Pool

from tests.support.client import REGISTRY, Refused, connected
from tests.support.examples import beside_the_room, example
from tests.support.node import running_node

QUIET = {"session_check_s": 1000, "presence_s": 1000, "head_check_s": 1000}
"""No periodic check runs statements during the test."""


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """Every SELECT that SQLite runs, without its values."""
    traced: list[str] = []

    def trace(sql: str) -> None:
        if sql.startswith(("SELECT", "WITH")) and "total_changes" not in sql:
            traced.append(re.sub(r"'[^']*'|\d+", "?", sql))

    def watch(dbapi: Any, _record: Any) -> None:
        dbapi.set_trace_callback(trace)

    event.listen(Pool, "connect", watch)
    yield traced
    event.remove(Pool, "connect", watch)


async def test_a_request_for_a_private_room_runs_the_same_statements_as_for_a_missing_one(
    sqlite_url: str, tmp_path: Path, statements: list[str]
) -> None:
    async with running_node(sqlite_url, tmp_path, options=QUIET) as node:
        omar, diego = await node.register("omar"), await node.register("diego")
        async with connected(node.url, omar) as owner, connected(node.url, diego) as stranger:
            room = await owner.ask("create", topic_name="secreto", is_private=True)
            message = await owner.ask("message", topic_name="secreto", content="x")
            await node.node.indexer.caught_up()
            await node.node.indexer.stop()  # it would run statements of its own
            pairs: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
            for action in REGISTRY:
                if not action.live or action.name == "create":
                    continue
                fields, cases = action.request.model_fields, pairs.setdefault(action.name, [])
                if "message_id" in fields:
                    rest = example(action, without=["message_id"])
                    cases.append(({"message_id": message["id"], **rest}, {"message_id": "0" * 32, **rest}))
                rest = beside_the_room(action)
                if "room_id" in fields:
                    cases.append(({"room_id": room["room_id"], **rest}, {"room_id": "0" * 24, **rest}))
                if "topic_name" in fields:
                    cases.append(({"topic_name": "secreto", **rest}, {"topic_name": "nothing", **rest}))
            compared = 0
            for name, cases in pairs.items():
                for private, missing in cases:
                    outcomes = []
                    for payload in (private, missing):
                        statements.clear()
                        with pytest.raises(Refused) as refused:
                            await stranger.ask(name, payload)
                        outcomes.append((refused.value.error, sorted(statements)))
                    assert outcomes[0] == outcomes[1], (name, private)
                    assert outcomes[0][1], (name, "runs statements")
                    compared += 1
            assert compared > 35
