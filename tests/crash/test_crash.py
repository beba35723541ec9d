"""The server is killed under load again and again, and its clients lose and repeat nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.crash.checker import check
from tests.crash.conftest import KILLS, KILLS_ON_POSTGRESQL
from tests.crash.load import SLOW_DISK, Recorded, record
from tests.crash.victims import Victim
from tests.support.client import connected

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(400),
]  # twenty starts of the server on a busy machine


def test_acknowledged_changes_survive_twenty_kills_once_and_in_order(crashes: Recorded, seed: int) -> None:
    assert crashes.kills == KILLS
    _check(crashes, seed)


async def test_acknowledged_changes_survive_kills_on_postgresql(
    postgresql_url: str, tmp_path: Path, seed: int
) -> None:
    crashes = await record(tmp_path, seed, KILLS_ON_POSTGRESQL, TIDINGS_DATABASE_URL=postgresql_url)
    assert crashes.kills == KILLS_ON_POSTGRESQL
    _check(crashes, seed)


async def test_acknowledged_changes_survive_kills_of_any_of_three_nodes(
    postgresql_url: str, tmp_path: Path, seed: int
) -> None:
    """The clients move between the nodes."""
    crashes = await record(tmp_path, seed, KILLS_ON_POSTGRESQL, nodes=3, TIDINGS_DATABASE_URL=postgresql_url)
    assert crashes.kills == KILLS_ON_POSTGRESQL
    assert crashes.across, "no message was received on another node"
    _check(crashes, seed)


async def test_a_change_survives_a_kill_right_after_its_acknowledgement(tmp_path: Path) -> None:
    """One client on an idle server: the kill directly follows the acknowledgement."""
    server = Victim(tmp_path, PYTHONPATH=str(SLOW_DISK))
    await server.start()
    try:
        token = await server.register("omar")
        async with connected(server.url, token) as omar:
            room_id = (await omar.ask("create", topic_name="noticias"))["room_id"]
            sent = [await omar.ask("message", room_id=room_id, content="0") for _ in range(10)]
        expected: list[dict[str, Any]] = []
        for n, message in enumerate(sent):
            ref = {"message_id": message["id"]}
            action, fields, changed = [
                ("edit", {"content": "1"}, {"content": "1"}),
                ("delete", {}, {"content": "", "deleted": True}),
                ("react", {"emoji": "👍"}, {"reactions": {"👍": ["omar"]}}),
            ][n % 3]
            async with connected(server.url, token) as omar:
                answered = asyncio.get_running_loop().create_future()

                def strike(answer: dict[str, Any], answered: asyncio.Future[Any] = answered) -> None:
                    server.strike()
                    answered.set_result(answer)

                await omar.sio.emit(action, ref | fields, callback=strike)
                assert (await answered)["ok"]
                await server.ended()
            expected.append(changed)
            await server.start()
        async with connected(server.url, token) as omar:
            messages = (await omar.ask("history", room_id=room_id))["messages"]
            (room,) = (await omar.ask("get_rooms"))["rooms"]
        assert [message | changed for message, changed in zip(messages, expected, strict=True)] == messages
        assert room["last_seq"] == 2 * len(sent)
    finally:
        await server.kill()


def _check(crashes: Recorded, seed: int) -> None:
    print(f"TIDINGS_CRASH_SEED={seed}: {crashes}")
    # Otherwise the kills met an idle server or the readers missed nothing, and the checks would prove little.
    assert min(crashes.in_flight[:-1]) > 0, crashes
    assert crashes.counts["acknowledged"] > 10 * crashes.kills, crashes
    assert crashes.counts["replayed"] > 10 * crashes.kills, crashes
    assert crashes.counts["delivered"] > 0, crashes
    for kind in ("edit", "delete", "reaction", "member", "published"):
        assert crashes.kills < KILLS or crashes.counts[kind] >= KILLS // 2, crashes
    violations = check(crashes.history)
    assert not violations, "\n".join(f"{law}: {description}" for law, description in violations[:20])
