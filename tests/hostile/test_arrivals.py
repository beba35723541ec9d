"""A user in the maximum number of rooms connects and disconnects without blocking the loop."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import insert
from sqlalchemy.engine import Connection as Transaction

from tests.hostile.meter import BUDGET_S, TRIES, longest_step, metered_node
from tests.support.client import connected
from tidings.auth.limits import QUOTAS
from tidings_db import models

ROOMS = QUOTAS["rooms"]


def _enter(conn: Transaction, user_key: int) -> None:
    """Make the user a member of the maximum number of rooms, half of them groups, which show presence."""
    room = {"last_seq": 1, "messages": 1, "last_message_seq": 1, "members": 1, "created_at": 0}
    member = {"user_id": user_key, "role": "owner", "joined_at": 0, "joined_seq": 1, "blocked": False}
    for kind, numbers in (("topic", range(1, ROOMS, 2)), ("group", range(2, ROOMS + 1, 2))):
        private = kind == "group"
        conn.execute(
            insert(models.rooms),
            [
                room
                | {"id": n, "room_id": f"room {n}", "kind": kind, "is_private": private, "name_key": f"topic {n}"}
                for n in numbers
            ],
        )
        conn.execute(insert(models.members), [member | {"room_id": n} for n in numbers])


@pytest.mark.parametrize("with_cursors", [False, True])
async def test_a_connection_of_a_user_in_many_rooms_does_not_hold_the_loop(
    sqlite_url: str, tmp_path: Path, with_cursors: bool
) -> None:
    cursors = {f"room {n}": 1 for n in range(1, ROOMS + 1)} if with_cursors else {}
    async with metered_node(sqlite_url, tmp_path) as node:
        token = await node.register("omar")
        await node.thread.run(node.node.database.write(lambda conn: _enter(conn, 1)))

        async def visit() -> None:
            async with connected(node.url, token, device="laptop", cursors=cursors) as client:
                assert len((await client.ask("get_rooms", member=True, limit=10))["rooms"]) == 10

        assert await longest_step(node, visit, tries=8 * TRIES) < BUDGET_S
