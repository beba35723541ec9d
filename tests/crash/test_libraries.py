"""The client libraries keep their promises while the server and they themselves are killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.runner import LIBRARIES
from tests.crash.checker import check
from tests.crash.libraries import libraries, violations
from tests.crash.load import record

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]
KILLS = 4


async def test_libraries_send_and_receive_once_and_in_order_across_kills_of_the_server_and_of_them(
    tmp_path: Path, seed: int
) -> None:
    commands = {name: command() for name, command in LIBRARIES.items()}
    async with libraries(commands, tmp_path / "stores") as running:
        crashes = await record(tmp_path, seed, KILLS, pause_s=0.2, beside=running)
    print(f"TIDINGS_CRASH_SEED={seed}: {crashes}; {running.seen}")
    # Otherwise the kills met idle processes.
    assert all(len(lives) > 2 for lives in running.seen.lives.values()), running.seen
    assert running.seen.promised
    assert any(stream.is_finished for stream in running.seen.streams)
    assert any(not stream.is_finished for stream in running.seen.streams)
    assert list(violations(running.seen)) == []
    assert check(crashes.history) == []
