"""The promises of the client libraries: each scenario of `scenarios.json`, with the driver of each library."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.runner import LIBRARIES, Stage, stage
from tests.support.node import RunningNode

FOLDER = Path(__file__).parent
SCENARIOS = json.loads((FOLDER / "scenarios.json").read_text("utf-8"))


@pytest.fixture(params=LIBRARIES)
async def client_stage(server: RunningNode, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    path = tmp_path / "stores"
    path.mkdir()
    async with stage(server, LIBRARIES[request.param](), path) as running:
        yield running


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario["promise"].replace(" ", "-"))
async def test_a_promise_is_kept(client_stage: Stage, scenario: dict[str, Any]) -> None:
    await client_stage.run(scenario["steps"])
    if scenario.get("cut_at_every_packet"):
        packets = client_stage.packets
        assert packets >= 15
        for number in range(1, packets + 1):
            client_stage.cut_before = number
            await client_stage.run(scenario["steps"])
            assert client_stage.wire.connections > 1 or number > client_stage.packets, number
