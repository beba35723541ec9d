"""A node that freezes holds up another node for seconds, loses nothing, and finds everything changed meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.engine import Connection

from tests.delivery.support import make_topic, stored
from tests.support.client import connected
from tests.support.node import SECRET_KEY, running_node
from tests.support.process import ServerProcess
from tidings.log.retention import DAY_MS, now_ms
from tidings_db.models import rooms

pytestmark = pytest.mark.long  # several nodes on PostgreSQL

FOLDER = Path(__file__).parent
LOCKED_S = 4
"""How long its locks may last: `idle_in_transaction_session_timeout`, and the time until they are tried again."""


async def test_a_node_stopped_in_its_transaction_holds_up_its_rooms_for_seconds(
    postgresql_url: str, tmp_path: Path
) -> None:
    stop = tmp_path / "stop"
    frozen = ServerProcess(
        tmp_path / "frozen",
        PYTHONPATH=f"{FOLDER / 'stopping'}:{FOLDER.parents[1]}",
        TEST_STOP=str(stop),
        TIDINGS_DATABASE_URL=postgresql_url,
        TIDINGS_SECRET_KEY=SECRET_KEY,
    )
    try:
        await frozen.start()
        async with running_node(postgresql_url, tmp_path / "other") as other:
            omar, diego = await other.register("omar"), await other.register("diego")
            held, free = [await make_topic(other.url, omar, name, diego) for name in ("held", "free")]
            async with (
                connected(frozen.url, omar) as at_frozen,
                connected(other.url, omar, device="other") as writer,
                connected(other.url, diego) as reader,
            ):
                stop.touch()
                # What may mention somebody takes a transaction of several statements.
                sent = at_frozen.send("message", {"room_id": held, "content": "@first", "client_id": "1"})
                await asyncio.to_thread(os.waitid, os.P_PID, frozen.pid, os.WSTOPPED | os.WNOWAIT)
                frozen_at = time.monotonic()
                waiting = asyncio.ensure_future(writer.ask("message", room_id=held, content="second"))
                for n in range(20):
                    await reader.ask("message", room_id=free, content=str(n))
                assert not waiting.done()
                assert (await waiting)["seq"] == 1
                assert time.monotonic() - frozen_at < LOCKED_S
                os.kill(frozen.pid, signal.SIGCONT)
                assert (await sent)["data"]["seq"] == 2
                again = await writer.ask("message", room_id=held, content="@first", client_id="1")
                assert again["seq"] == 2
            assert await stored(postgresql_url, held) == ["second", "@first"]
    finally:
        await frozen.kill()


async def test_a_node_that_was_frozen_while_retention_dropped_a_room_learns_of_it_and_fails_no_change(
    postgresql_url: str, tmp_path: Path
) -> None:
    """It was frozen for longer than the feed keeps changes, with a cursor in that room to be written."""
    frozen = ServerProcess(
        tmp_path / "frozen",
        PYTHONPATH=f"{FOLDER / 'short_feed'}:{FOLDER.parents[1]}",
        TIDINGS_DATABASE_URL=postgresql_url,
        TIDINGS_SECRET_KEY=SECRET_KEY,
    )
    try:
        await frozen.start()
        async with running_node(postgresql_url, tmp_path / "other") as other:
            omar, diego = await other.register("omar"), await other.register("diego")
            common = await make_topic(other.url, omar, "common", diego)
            async with connected(other.url, omar) as writer, connected(frozen.url, diego) as reader:
                dropped = (await writer.ask("create", topic_name="dropped", is_private=True))["room_id"]
                await writer.ask("create", topic_name="later")
                await writer.ask("invite", room_id=dropped, username="diego")
                seq = (await writer.ask("message", room_id=dropped, content="hola"))["seq"]
                await reader.until(lambda: reader.contents(dropped) == ["hola"])
                await reader.ask("delivered", cursors={dropped: seq})
                os.kill(frozen.pid, signal.SIGSTOP)
                stopped_at = time.monotonic()
                await writer.ask("kick", room_id=dropped, username="diego")
                await writer.ask("unsubscribe", room_id=dropped)
                new = (await writer.ask("create", topic_name="new", is_private=True))["room_id"]
                await writer.ask("invite", room_id=new, username="diego")
                await writer.ask("message", room_id=new, content="welcome")
                await writer.ask("message", room_id=common, content="meanwhile")
                sent = reader.send("message", {"room_id": common, "content": "sent to the frozen node"})
                retention, database = other.node.retention, other.node.database
                while await database.read(lambda conn: _has(conn, dropped)) or time.monotonic() < stopped_at + 2:
                    await retention.run_once(now_ms() + 60 * DAY_MS)
                await database.write(lambda conn: conn.exec_driver_sql("DELETE FROM feed") and None)
                os.kill(frozen.pid, signal.SIGCONT)
                assert (await sent)["ok"]
                await reader.until(lambda: reader.contents(new) == ["welcome"])
                await reader.until(lambda: len(reader.contents(common)) == 2)
                assert new in [event["room"]["room_id"] for event in reader.of("room_added")]
                assert (await reader.event("room_removed"))["room_id"] == dropped
    finally:
        await frozen.kill()


def _has(conn: Connection, room_id: str) -> bool:
    return conn.execute(select(rooms.c.id).where(rooms.c.room_id == room_id)).first() is not None
