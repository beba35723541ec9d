"""A client's state after any actions, of anybody, equals what the server then answers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test as run_machine

from tests.delivery.brokers import HarmfulFeed, HarmfulLink, Wire
from tests.law.libraries import LawOfLibraries, LawOfStreamsInLibraries
from tests.law.machine import Law, LawOfStreams
from tests.support.balancer import balanced
from tests.support.client import unread_answers
from tests.support.node import NO_TLS, running_node
from tidings.log.notices import Personal, Transient
from tidings.node import Node

BENS_PHONE, CLEOS_PHONE = 2, 4
"""Indices among the devices with which an example begins."""
ACROSS_NODES_S = 5.0
"""Within this, what one node has answered is known to the connections of all others."""
ONE_SHOT = httpx.Limits(max_keepalive_connections=0)
"""A node may close an idle connection just when the next example uses it."""
OTHER, OWN = False, True
"""Whether a step is of any user, or of another device of the same user."""

CHANGES = ("edit", "react", "edit", "delete")

pytestmark = pytest.mark.timeout(300)  # Hypothesis repeats a failing example to shrink it


@asynccontextmanager
async def _serving(
    database_url: str, data_dir: Path, count: int, harmful: bool, through_balancer: bool
) -> AsyncIterator[tuple[httpx.AsyncClient, list[str], list[Node]]]:
    """Nodes on one database: an HTTP client of the first, the URLs for clients, and the nodes.

    `harmful`: what describes a commit is lost, late, repeated and out of order between the nodes. What is in no log
    arrives: a client does not get it again. So do memberships: a node that learns too late that a user was removed
    and is back closes the connection. `through_balancer`: the URL is that of a load balancer without sticky sessions.
    """
    wire = Wire()
    async with AsyncExitStack() as stack:
        nodes = []
        for n in range(count):
            options: dict[str, Any] = {"streams": {"check_s": 0.2, "silence_s": math.inf}}
            if harmful:
                options["broker"] = HarmfulLink(wire, n, Transient, Personal)
            running = running_node(
                database_url,
                data_dir / str(n),
                options=options,
                publish_url=through_balancer,
                durability="normal",
            )
            nodes.append(await stack.enter_async_context(running))
            if harmful:
                feed = nodes[-1].node.cluster.feed
                feed._receiver = HarmfulFeed(feed._receiver, n, "members", "memberships")
        urls = [node.url for node in nodes]
        if through_balancer:
            stack.enter_context(unread_answers())
            balancer = await stack.enter_async_context(balanced(urls))
            urls = [balancer.url]
        # One client for all: each new one loads the system's certificates, which takes longer than a step.
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=urls[0], verify=NO_TLS, limits=ONE_SHOT))
        yield http, urls, [node.node for node in nodes]
        if through_balancer:
            assert [line for line in balancer.refused if "/socket.io/" in line] == []
            relayed = [node.node.cluster.elsewhere.relayed for node in nodes]
            assert all(sum(counts[transport] for counts in relayed) for transport in ("polling", "websocket"))


@contextmanager
def _law(
    database_url: str,
    tmp_path: Path,
    nodes: int = 1,
    *,
    harmful: bool = False,
    through_balancer: bool = False,
    machine: type[Law] = Law,
) -> Iterator[type[Law]]:
    with asyncio.Runner() as runner:
        serving = _serving(database_url, tmp_path, nodes, harmful, through_balancer)
        http, urls, running = runner.run(serving.__aenter__())
        patience_s = ACROSS_NODES_S if nodes > 1 else 0.0
        try:
            fields: dict[str, Any] = {"http": http, "urls": urls, "patience_s": patience_s, "runner": runner}
            fields["nodes"] = running
            if through_balancer:
                fields["transports"] = (("polling", "websocket"), ("polling",))
            yield type("TheLaw", (machine,), fields)
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
def test_an_old_snapshot_and_the_events_since_give_the_new_snapshot(
    sqlite_url: str, tmp_path: Path, examples: int
) -> None:
    with _law(sqlite_url, tmp_path) as law:
        run_machine(law, settings=_settings(examples, 25))


@pytest.mark.parametrize("examples", [6, pytest.param(60, marks=pytest.mark.long)])
def test_all_readers_have_the_text_that_an_author_has_written(sqlite_url: str, tmp_path: Path, examples: int) -> None:
    with _law(sqlite_url, tmp_path, machine=LawOfStreams) as law:
        run_machine(law, settings=_settings(examples, 25))


@pytest.mark.long
@pytest.mark.parametrize("harmful", [False, True])
def test_all_readers_have_the_text_that_an_author_has_written_on_several_nodes(
    postgresql_url: str, tmp_path: Path, harmful: bool
) -> None:
    with _law(postgresql_url, tmp_path, 2, machine=LawOfStreams, harmful=harmful) as law:
        run_machine(law, settings=_settings(10, 25))


@pytest.mark.long
def test_an_old_snapshot_and_the_events_since_give_the_new_snapshot_on_postgresql(
    postgresql_url: str, tmp_path: Path
) -> None:
    with _law(postgresql_url, tmp_path) as law:
        run_machine(law, settings=_settings(8, 25))


@pytest.mark.parametrize(
    ("nodes", "examples"),
    [(2, 1), pytest.param(2, 6, marks=pytest.mark.long), pytest.param(4, 6, marks=pytest.mark.long)],
)
def test_an_old_snapshot_and_the_events_since_give_the_new_snapshot_on_several_nodes(
    postgresql_url: str, tmp_path: Path, nodes: int, examples: int
) -> None:
    with _law(postgresql_url, tmp_path, nodes) as law:
        run_machine(law, settings=_settings(examples, 25))


@pytest.mark.long
def test_an_old_snapshot_and_the_events_since_give_the_new_snapshot_whichever_node_gets_a_request(
    postgresql_url: str, tmp_path: Path
) -> None:
    with _law(postgresql_url, tmp_path, 2, through_balancer=True) as law:
        run_machine(law, settings=_settings(4, 25))


@pytest.mark.long
def test_an_old_snapshot_and_the_events_since_give_the_new_snapshot_over_a_harmful_broker_and_feed(
    postgresql_url: str, tmp_path: Path
) -> None:
    with _law(postgresql_url, tmp_path, 2, harmful=True) as law:
        run_machine(law, settings=_settings(4, 25))


@pytest.mark.parametrize(
    ("actor_index", "confirmed", "seen", "steps"),
    [
        (BENS_PHONE, False, 0, [(OTHER, 0, "send", 0, False), (OWN, 0, "read", 0, False)]),
        (BENS_PHONE, False, 0, [(OWN, 0, "leave", 0, False)]),
        (BENS_PHONE, True, 1, [(OWN, 0, "leave", 0, False), (OWN, 0, "join", 0, False)]),
        (CLEOS_PHONE, False, 0, [(OTHER, 0, "invite", 1, False), (OTHER, 0, "send", 1, False)]),
        (BENS_PHONE, True, 1, [(OWN, 0, "send", 0, False), *((OWN, 0, change, 0, False) for change in CHANGES)]),
        (
            CLEOS_PHONE,
            False,
            1,
            [(OTHER, 2, "send", 2, False), *((OTHER, 2, change, 2, False) for change in CHANGES)],
        ),
        (CLEOS_PHONE, True, 1, [(OTHER, 2, "title", 2, False), (OTHER, 2, "title", 2, False)]),
        (CLEOS_PHONE, True, 1, [(OTHER, 2, "promote", 2, True), (OTHER, 2, "promote", 2, False)]),
        (BENS_PHONE, True, 0, [(OTHER, 0, "kick", 0, False), (OWN, 0, "join", 0, False)]),
        (BENS_PHONE, True, 0, [(OTHER, 0, step, 0, False) for step in ("ban", "send", "unban")]),
    ],
    ids=[
        "read elsewhere",
        "room left",
        "room left and rejoined",
        "room added",
        "changed",
        "changed in a group",
        "titled",
        "handed over",
        "kicked and rejoined",
        "banned",
    ],
)
def test_a_returning_device_knows_its_rooms_and_read_markers(
    sqlite_url: str,
    tmp_path: Path,
    actor_index: int,
    confirmed: bool,
    seen: int,
    steps: list[tuple[bool, int, str, int, bool]],
) -> None:
    """Cases that random examples may miss."""
    with _law(sqlite_url, tmp_path) as law:
        example = law()
        example.begin()
        try:
            example.be_away(actor_index=actor_index, confirmed=confirmed, steps=steps, seen=seen, mode="cursors")
        finally:
            example.teardown()


@pytest.mark.parametrize(
    ("machine", "examples"),
    [
        (LawOfLibraries, 2),
        pytest.param(LawOfLibraries, 40, marks=pytest.mark.long),
        pytest.param(LawOfStreamsInLibraries, 40, marks=pytest.mark.long),
    ],
)
def test_the_client_library_shows_what_the_log_has(
    machine: type[Law], examples: int, sqlite_url: str, tmp_path: Path
) -> None:
    with _law(sqlite_url, tmp_path, machine=machine) as law:
        run_machine(law, settings=_settings(examples, 30))


@pytest.mark.parametrize("machine", [LawOfStreams, LawOfStreamsInLibraries])
def test_each_way_to_write_a_message_that_streams(machine: type[Law], sqlite_url: str, tmp_path: Path) -> None:
    """Cases that random examples may miss."""
    ways = ["next", "again", "overlap", "beyond", "other"]
    steps: list[tuple[str, dict[str, Any]]] = [
        *(
            ("write", {"actor_index": n, "which": n, "ways": ways, "change": change, "how": how})
            for n, (change, how) in enumerate(
                [
                    (None, "plain"),
                    ("edit", "wrong"),
                    ("react", "content"),
                    ("come back", "offset"),
                    ("delete", "plain"),
                    ("mute", "plain"),
                ]
            )
        ),
        ("append", {"actor_index": 0, "which": 0, "likely": True, "ways": ["next", "again"]}),
        ("stop", {"actor_index": BENS_PHONE, "which": 0, "likely": True}),
        ("append", {"actor_index": 0, "which": 0, "likely": True, "ways": ["overlap"]}),
        ("finish", {"actor_index": 0, "which": 0, "likely": True, "how": "wrong"}),
        ("finish", {"actor_index": 0, "which": 0, "likely": True, "how": "with an append"}),
        ("finish", {"actor_index": 0, "which": 0, "likely": False, "how": "plain"}),
        ("append", {"actor_index": BENS_PHONE, "which": 0, "likely": True, "ways": ["next"]}),
        ("connect", {"actor_index": 0, "mode": "anew"}),
        ("moderate", {"steps": [(0, ("mine", 0), "ben", True, "mute", "member")]}),
        ("append", {"actor_index": BENS_PHONE, "which": 0, "likely": True, "ways": ["next"]}),
        ("moderate", {"steps": [(0, ("mine", 0), "ben", True, "unmute", "member")]}),
        ("append", {"actor_index": BENS_PHONE, "which": 0, "likely": True, "ways": ["next"]}),
        ("fall_silent", {}),
        ("append", {"actor_index": BENS_PHONE, "which": 0, "likely": False, "ways": ["next"]}),
        ("search", {"actor_index": 0}),
    ]
    with _law(sqlite_url, tmp_path, machine=machine) as law:
        example = law()
        example.begin()
        try:
            for name, arguments in steps:
                getattr(example, name)(**arguments)
                example.a_state_is_what_the_server_answers()
        finally:
            example.teardown()
