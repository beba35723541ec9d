"""Permissions: every action on a room, for every kind of caller, in every kind of room, over every gateway."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect as connect_websocket

from docs import generate
from tests.permissions.doors import ByMessenger, ByRooms, ByTopics, Door
from tests.permissions.rights import (
    ACTS,
    CALLERS,
    DIRECT,
    GROUP,
    KEYS,
    ROOMS,
    TABLE,
    WITHOUT_A_ROOM,
    Act,
    exists,
    expected,
)
from tests.permissions.world import World
from tests.support.balancer import balanced
from tests.support.client import REGISTRY, connected, plainly_connected, unread_answers
from tests.support.node import NO_TLS, RunningNode, running_node
from tidings.contract.actions import RoomRef, SubjectInRoom
from tidings.contract.permissions import Permission

PATIENT: dict[str, Any] = {"durability": "normal", "options": {"streams": {"silence_s": 3600.0}}}
DOORS = ("Socket.IO", "plain WebSocket", "REST")
DIALECTS = ("topics", "rooms", "messenger")


@pytest.fixture
async def lite(sqlite_url: str, tmp_path: Path) -> AsyncIterator[RunningNode]:
    async with running_node(sqlite_url, tmp_path, **PATIENT) as node:
        yield node


@pytest.mark.timeout(240)
@pytest.mark.parametrize("doors", [DOORS[:1], pytest.param(DOORS, marks=pytest.mark.long)], ids=["one", "all"])
async def test_every_act_of_every_caller_has_its_documented_outcome_over_every_gateway(
    lite: RunningNode, doors: tuple[str, ...]
) -> None:
    await _request_everything(doors, lite)


@pytest.mark.long
async def test_every_act_has_the_same_outcome_over_the_dialects(lite: RunningNode) -> None:
    await _request_everything(DIALECTS, lite)


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_every_act_has_the_same_outcome_on_postgresql(postgresql_url: str, tmp_path: Path) -> None:
    async with running_node(postgresql_url, tmp_path, **PATIENT) as node:
        await _request_everything(DOORS[:1], node)


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize("count", [2, 4])
async def test_every_act_has_the_same_outcome_on_any_of_several_nodes(
    postgresql_url: str, tmp_path: Path, count: int
) -> None:
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(running_node(postgresql_url, tmp_path / str(n), **PATIENT))
            for n in range(count)
        ]
        await _request_everything(DOORS[:1], *nodes)


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize("doors", [("polling",), DIALECTS], ids=["polling", "dialects"])
async def test_every_act_has_the_same_outcome_whichever_node_gets_a_request(
    postgresql_url: str, tmp_path: Path, doors: tuple[str, ...]
) -> None:
    async with (
        running_node(postgresql_url, tmp_path / "a", publish_url=True, **PATIENT) as first,
        running_node(postgresql_url, tmp_path / "b", publish_url=True, **PATIENT) as second,
        balanced([first.url, second.url]) as balancer,
    ):
        with unread_answers():
            await _request_everything(doors, first, urls=[balancer.url])
        assert {port for _, port in balancer.served} == {int(n.url.rpartition(":")[2]) for n in (first, second)}
        assert [line for line in balancer.refused if "/socket.io/" in line] == []


async def _request_everything(doors: tuple[str, ...], *nodes: RunningNode, urls: Sequence[str] | None = None) -> None:
    """Each act goes to a random one of the URLs; None: of the nodes."""
    world = await World(nodes[0]).make(len(doors))
    chance, wrong = Random(1), []
    for caller in CALLERS:
        async with AsyncExitStack() as stack:
            for number, name in enumerate(doors):
                if caller in KEYS and name in DIALECTS:
                    continue
                doors_of = [
                    await _open(stack, url, name, caller, world.tokens[caller])
                    for url in urls or [node.url for node in nodes]
                ]
                for room in ROOMS:
                    wrong += await _request(world, lambda own=doors_of: chance.choice(own), number, room, caller)
    assert not wrong, f"{len(wrong)} cells, of them:\n" + "\n".join(wrong[:40])


async def _open(stack: AsyncExitStack, url: str, name: str, caller: str, token: str) -> Door:
    if name in ("REST", "messenger"):
        headers = {"Authorization": f"Bearer {token}"}
        http = httpx.AsyncClient(base_url=url, verify=NO_TLS, headers=headers, timeout=30)
        make = Door if name == "REST" else ByMessenger
        return make(name, http=await stack.enter_async_context(http))
    if name in ("topics", "rooms"):
        path = token if name == "topics" else ""
        address = f"{url.replace('http', 'ws', 1)}/{path}"
        socket = await stack.enter_async_context(connect_websocket(address, proxy=None))
        if name == "topics":
            return ByTopics(name, socket)
        await socket.send(json.dumps({"username": caller}))
        return ByRooms(name, socket, token)
    if name == "plain WebSocket":
        return Door(name, live=await stack.enter_async_context(plainly_connected(url, token)))
    transports = ["polling"] if name == "polling" else None
    return Door(name, live=await stack.enter_async_context(connected(url, token, transports)))


async def _request(world: World, choose: Callable[[], Door], number: int, room: str, caller: str) -> list[str]:
    """Request every act: a refused one must change nothing, a successful one is undone."""
    place, wrong = world.places[room, caller], []
    for act in (act for act in ACTS if exists(act, room, caller)):
        door = choose()
        if not door.has(act, room):
            continue
        outcome = expected(act, room, caller)
        before, head = await world.kept(place), await world.entries(place)
        if act.right == "administrate" and outcome == "ok":
            continue  # it would remove the room; tests/accounts covers it
        error = await door.error(act.action, world.fields(act, room, caller, number), place.topic_name)
        code = "ok" if error is None else error["code"]
        if code != outcome:
            wrong.append(f"{caller}, {room}, {door.name}: {act.label}: {code}, expected {outcome}")
        if await world.kept(place) != before:
            if code != "ok":
                wrong.append(f"{caller}, {room}, {door.name}: {act.label}: refused, but changed something")
            await world.put_back(place, before)
        if code != "ok" and await world.entries(place) != head:
            wrong.append(f"{caller}, {room}, {door.name}: {act.label}: refused, but in the log")
    return wrong


def test_every_action_that_names_a_room_is_among_the_acts() -> None:
    names = {"room_id", "topic_name", "message_id", "code", "cursors"}
    about = {
        action.name
        for action in REGISTRY
        if names & set(action.request.model_fields) or issubclass(action.request, (RoomRef, SubjectInRoom))
    }
    assert about - WITHOUT_A_ROOM <= {act.action for act in ACTS}


def test_the_documented_table_equals_the_tested_outcomes() -> None:
    """docs/protocol.md prints the server's table; the tests above request every act."""
    page = (generate.ROOT / "docs/protocol.md").read_text("utf-8")
    lines = page.partition("<!-- generated: permissions -->\n")[2].partition("<!-- /generated -->")[0].splitlines()
    head, _, *rows = ([cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines)
    assert head[2:] == list(TABLE) == [str(need) for need in Permission]
    documented: dict[tuple[str, str], list[str]] = {}
    for room, callers, *cells in rows:
        for caller in callers.split(", "):
            documented[room, "stranger" if caller == "not a member" else caller] = cells
    assert {room for room, _ in documented} == set(ROOMS)
    for (room, caller), cells in documented.items():
        for need, cell in zip(TABLE, cells, strict=True):
            if need == "join" and room in (GROUP, DIRECT):
                continue  # these rooms are entered by invitation
            outcome = expected(_act(*TABLE[need]), room, caller)
            assert ("ok" if cell == "yes" else cell) == outcome, (room, caller, need)


def _act(action: str, right: str) -> Act:
    return next(act for act in ACTS if (act.action, act.right) == (action, right))


def test_the_matrix_is_complete() -> None:
    cells: list[Any] = [(act, room, caller) for act in ACTS for room in ROOMS for caller in CALLERS]
    tested = [cell for cell in cells if exists(*cell)]
    assert {expected(*cell) for cell in tested} == {"ok", "forbidden", "not_found", "conflict"}
    assert len(tested) > 1000
