"""Kill the server under load, again and again: nobody who uses it may be able to tell from what they got."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.checker import check
from tests.crash.conftest import KILLS, KILLS_ON_POSTGRESQL
from tests.crash.load import Recorded, record

pytestmark = pytest.mark.timeout(400)  # twenty starts of the server, on a machine that has other things to do


def test_what_was_acknowledged_survives_twenty_kills_in_order_once_for_everyone(crashes: Recorded, seed: int) -> None:
    assert crashes.kills == KILLS
    _judge(crashes, seed)


async def test_what_was_acknowledged_survives_kills_on_postgresql(
    postgresql_url: str, tmp_path: Path, seed: int
) -> None:
    crashes = await record(tmp_path, seed, KILLS_ON_POSTGRESQL, TIDINGS_DATABASE_URL=postgresql_url)
    assert crashes.kills == KILLS_ON_POSTGRESQL
    _judge(crashes, seed)


def _judge(crashes: Recorded, seed: int) -> None:
    print(f"TIDINGS_CRASH_SEED={seed}: {crashes}")
    # Otherwise the kills met an idle server, or the readers missed nothing, and the rest says little.
    assert min(crashes.in_flight[:-1]) > 0, crashes
    assert crashes.seen["acknowledged"] > 10 * crashes.kills, crashes
    assert crashes.seen["replayed"] > 10 * crashes.kills, crashes
    assert crashes.seen["delivered"] > 0, crashes
    for kind in ("edit", "delete", "reaction", "member"):
        assert crashes.kills < KILLS or crashes.seen[kind] >= KILLS // 2, crashes
    violations = check(crashes.history)
    assert not violations, "\n".join(f"{law}: {what}" for law, what in violations[:20])
