"""A client's state after any actions, of anybody, equals what the server then answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test as run_machine

from tests.law.machine import Law
from tests.support.node import NO_TLS, running_node

BENS_PHONE, CLEOS_PHONE = 2, 4
"""Among the devices with which an example begins."""
OTHER, OWN = False, True
"""By whom: any user's device, or another device of the same user."""

CHANGES = ("edit", "react", "edit", "delete")

pytestmark = pytest.mark.timeout(300)  # what fails is run again and again, until it is small


@asynccontextmanager
async def _serving(database_url: str, data_dir: Path) -> AsyncIterator[httpx.AsyncClient]:
    # One client for all: making one loads the system's certificates, which takes longer than an example's step.
    async with (
        running_node(database_url, data_dir, durability="normal") as node,
        httpx.AsyncClient(base_url=node.url, verify=NO_TLS) as http,
    ):
        yield http


@contextmanager
def _law(database_url: str, tmp_path: Path) -> Iterator[type[Law]]:
    with asyncio.Runner() as runner:
        serving = _serving(database_url, tmp_path)
        http = runner.run(serving.__aenter__())
        try:
            yield type("TheLaw", (Law,), {"http": http, "runner": runner})
        finally:
            runner.run(serving.__aexit__(None, None, None))


def _settings(examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.parametrize("examples", [5, pytest.param(60, marks=pytest.mark.long)])
def test_a_snapshot_and_the_events_since_make_the_new_snapshot(
    sqlite_url: str, tmp_path: Path, examples: int
) -> None:
    with _law(sqlite_url, tmp_path) as law:
        run_machine(law, settings=_settings(examples, 25))


@pytest.mark.long
def test_so_they_do_on_postgresql(postgresql_url: str, tmp_path: Path) -> None:
    with _law(postgresql_url, tmp_path) as law:
        run_machine(law, settings=_settings(8, 25))


@pytest.mark.parametrize(
    ("who", "confirmed", "seen", "steps"),
    [
        (BENS_PHONE, False, 0, [(OTHER, 0, "send", 0, False), (OWN, 0, "read", 0, False)]),
        (BENS_PHONE, False, 0, [(OWN, 0, "leave", 0, False)]),
        (BENS_PHONE, True, 1, [(OWN, 0, "leave", 0, False), (OWN, 0, "join", 0, False)]),
        (CLEOS_PHONE, False, 0, [(OTHER, 0, "invite", 1, False), (OTHER, 0, "send", 1, False)]),
        (BENS_PHONE, True, 1, [(OWN, 0, "send", 0, False), *((OWN, 0, one, 0, False) for one in CHANGES)]),
        (CLEOS_PHONE, False, 1, [(OTHER, 2, "send", 2, False), *((OTHER, 2, one, 2, False) for one in CHANGES)]),
        (CLEOS_PHONE, True, 1, [(OTHER, 2, "title", 2, False), (OTHER, 2, "title", 2, False)]),
        (CLEOS_PHONE, True, 1, [(OTHER, 2, "promote", 2, True), (OTHER, 2, "promote", 2, False)]),
        (BENS_PHONE, True, 0, [(OTHER, 0, "kick", 0, False), (OWN, 0, "join", 0, False)]),
        (BENS_PHONE, True, 0, [(OTHER, 0, one, 0, False) for one in ("ban", "send", "unban")]),
    ],
    ids=[
        "read elsewhere",
        "lost",
        "left and come back to",
        "gained",
        "changed",
        "changed in a group",
        "titled",
        "handed over",
        "kicked and come back",
        "banned",
    ],
)
def test_a_device_that_comes_back_knows_its_rooms_and_markers(
    sqlite_url: str,
    tmp_path: Path,
    who: int,
    confirmed: bool,
    seen: int,
    steps: list[tuple[bool, int, str, int, bool]],
) -> None:
    """Examples that must be among those above, by chance or not."""
    with _law(sqlite_url, tmp_path) as law:
        example = law()
        example.begin()
        try:
            example.be_away(who=who, confirmed=confirmed, steps=steps, seen=seen, how="cursors")
        finally:
            example.teardown()
