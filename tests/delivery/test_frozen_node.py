"""A node that freezes within a transaction holds up another node for seconds, and loses nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from tests.delivery.support import make_topic, stored
from tests.support.client import connected
from tests.support.node import SECRET_KEY, running_node
from tests.support.process import ServerProcess

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
