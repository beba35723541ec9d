"""Permissions: every action on a room, for every kind of caller, in every kind of room, over every gateway."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect as connect_websocket

from docs import generate
from server.contract.actions import RoomRef, SubjectInRoom
from server.contract.permissions import Permission
from tests.permissions.doors import ByMessenger, ByRooms, ByTopics, Door
from tests.permissions.rights import (
    ACTS,
    CALLERS,
    DIRECT,
    GROUP,
    ROOMS,
    TABLE,
    WITHOUT_A_ROOM,
    Act,
    exists,
    expected,
)
from tests.permissions.world import World
from tests.support.client import REGISTRY, connected, plainly_connected
from tests.support.node import NO_TLS, RunningNode, running_node

DOORS = ("Socket.IO", "plain WebSocket", "REST")
DIALECTS = ("topics", "rooms", "messenger")


@pytest.fixture
async def lite(sqlite_url: str, tmp_path: Path) -> AsyncIterator[RunningNode]:
    async with running_node(sqlite_url, tmp_path, durability="normal") as node:
        yield node


@pytest.mark.timeout(240)
@pytest.mark.parametrize("doors", [DOORS[:1], pytest.param(DOORS, marks=pytest.mark.long)], ids=["one", "all"])
async def test_who_may_do_what_by_every_door(lite: RunningNode, doors: tuple[str, ...]) -> None:
    await _ask_everything(lite, doors)


@pytest.mark.long
async def test_the_dialects_give_nobody_another_right(lite: RunningNode) -> None:
    await _ask_everything(lite, DIALECTS)


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_who_may_do_what_on_postgresql(postgresql_url: str, tmp_path: Path) -> None:
    async with running_node(postgresql_url, tmp_path, durability="normal") as node:
        await _ask_everything(node, DOORS[:1])


async def _ask_everything(node: RunningNode, doors: tuple[str, ...]) -> None:
    world = await World(node).make(len(doors))
    wrong = []
    for caller in CALLERS:
        async with AsyncExitStack() as stack:
            for number, name in enumerate(doors):
                door = await _open(stack, node, name, caller, world.tokens[caller])
                for room in ROOMS:
                    wrong += await _ask(world, door, number, room, caller)
    assert not wrong, f"{len(wrong)} cells, of them:\n" + "\n".join(wrong[:40])


async def _open(stack: AsyncExitStack, node: RunningNode, name: str, caller: str, token: str) -> Door:
    if name in ("REST", "messenger"):
        headers = {"Authorization": f"Bearer {token}"}
        http = httpx.AsyncClient(base_url=node.url, verify=NO_TLS, headers=headers, timeout=30)
        make = Door if name == "REST" else ByMessenger
        return make(name, http=await stack.enter_async_context(http))
    if name in ("topics", "rooms"):
        path = token if name == "topics" else ""
        address = f"{node.url.replace('http', 'ws', 1)}/{path}"
        socket = await stack.enter_async_context(connect_websocket(address, proxy=None))
        if name == "topics":
            return ByTopics(name, socket)
        await socket.send(json.dumps({"username": caller}))
        return ByRooms(name, socket, token)
    connect = connected if name == "Socket.IO" else plainly_connected
    return Door(name, live=await stack.enter_async_context(connect(node.url, token)))


async def _ask(world: World, door: Door, number: int, room: str, caller: str) -> list[str]:
    """Ask every act; what is refused must change nothing, what is done is taken back."""
    place, wrong = world.places[room, caller], []
    for act in (act for act in ACTS if exists(act, room, caller) and door.has(act, room)):
        want = expected(act, room, caller)
        before, head = await world.kept(place), await world.entries(place)
        if act.right == "administrate" and want == "ok":
            continue  # there would be no room to put back: tests/accounts has it
        error = await door.error(act.action, world.fields(act, room, caller, number), place.topic_name)
        code = "ok" if error is None else error["code"]
        if code != want:
            wrong.append(f"{caller}, {room}, {door.name}: {act.label}: {code}, expected {want}")
        if await world.kept(place) != before:
            if code != "ok":
                wrong.append(f"{caller}, {room}, {door.name}: {act.label}: refused, but changed something")
            await world.put_back(place, before)
        if code != "ok" and await world.entries(place) != head:
            wrong.append(f"{caller}, {room}, {door.name}: {act.label}: refused, but in the log")
    return wrong


def test_every_action_that_names_a_room_is_asked() -> None:
    names = {"room_id", "topic_name", "message_id", "code", "cursors"}
    about = {
        found.name
        for found in REGISTRY
        if names & set(found.request.model_fields) or issubclass(found.request, (RoomRef, SubjectInRoom))
    }
    assert about - WITHOUT_A_ROOM <= {act.action for act in ACTS}


def test_the_documented_table_is_what_happens() -> None:
    """docs/protocol.md prints the server's table; what happens is asked above."""
    page = (generate.ROOT / "docs/protocol.md").read_text("utf-8")
    lines = page.partition("<!-- generated: permissions -->\n")[2].partition("<!-- /generated -->")[0].splitlines()
    head, _, *rows = ([cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines)
    assert head[2:] == list(TABLE) == [str(need) for need in Permission]
    said: dict[tuple[str, str], list[str]] = {}
    for room, who, *cells in rows:
        for one in who.split(", "):
            said[room, "stranger" if one == "not a member" else one] = cells
    assert {room for room, _ in said} == set(ROOMS)
    for (room, caller), cells in said.items():
        for need, cell in zip(TABLE, cells, strict=True):
            if need == "join" and room in (GROUP, DIRECT):
                continue  # one comes in by invitation
            happens = expected(_act(*TABLE[need]), room, caller)
            assert ("ok" if cell == "yes" else cell) == happens, (room, caller, need)


def _act(action: str, right: str) -> Act:
    return next(act for act in ACTS if (act.action, act.right) == (action, right))


def test_no_cell_is_missing() -> None:
    cells: list[Any] = [(act, room, caller) for act in ACTS for room in ROOMS for caller in CALLERS]
    asked = [cell for cell in cells if exists(*cell)]
    assert {expected(*cell) for cell in asked} == {"ok", "forbidden", "not_found", "conflict"}
    assert len(asked) > 1000
