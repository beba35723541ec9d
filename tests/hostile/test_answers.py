"""No answer blocks the event loop, however large it is."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import insert
from sqlalchemy.engine import Connection as Transaction

from tests.delivery.support import fill
from tests.hostile.doors import Door, door_of
from tests.hostile.meter import BUDGET_S, MeteredNode, longest_step
from tests.support.client import REGISTRY, connected
from tests.support.node import NO_TLS, running_node
from tidings.contract.actions import MAX_PAGE_BYTES
from tidings_db import models
from tidings_db.queries import members, rooms, users

pytestmark = pytest.mark.long

LONG = "é" * 16_384
NAMES = [f"topic {number}" for number in range(520)]


@pytest.fixture(scope="module")
def crowded_file(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Omar is in many topics, and the first is full of long messages and has many members."""
    folder = tmp_path_factory.mktemp("crowded")

    async def prepare(url: str) -> None:
        async with running_node(url, folder) as node:
            await node.register("omar")
            database = node.node.database
            room_ids = await database.write(_crowd)
            await fill(database, "omar", {room_ids[0]: [LONG] * 220})
            await fill(database, "omar", {room_id: [LONG] for room_id in room_ids[1:100]})
            indexer = node.node.indexer
            indexer.appended([await database.read(partial(_key, room_id)) for room_id in room_ids[:100]])
            while indexer.rooms_behind:
                await indexer.settle()

    path = Path(shutil.copy(sqlite_template, folder / "crowded.sqlite3"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tidings.log.indexer.REST", 0)  # no other work to yield to
        asyncio.run(prepare(f"sqlite:///{path}"))
    return path


@pytest.fixture
def sqlite_url(crowded_file: Path, tmp_path: Path) -> str:
    return f"sqlite:///{shutil.copy(crowded_file, tmp_path / 'tidings.sqlite3')}"


@pytest.fixture
async def crowded(node: MeteredNode) -> str:
    """Omar's token."""
    return await node.login("omar")


def _crowd(conn: Transaction) -> list[str]:
    omar = users.by_key(conn, "omar")
    assert omar is not None
    for name in NAMES:
        room = {"kind": "topic", "is_private": False, "topic_name": name, "name_key": name, "created_at": 0}
        key = rooms.insert_room(conn, room_id=f"id of {name}", members=1, **room)
        row = rooms.by_key(conn, key or 0)
        assert row is not None
        members.add(conn, row, omar.key, "owner", 0)
    first = rooms.find(conn, room_id=f"id of {NAMES[0]}")
    assert first is not None
    for number in range(2_000):
        user = users.add(conn, f"user{number}", None, 0)
        member = {"room_id": first.key, "user_id": user, "role": "member", "joined_at": 0, "joined_seq": 0}
        conn.execute(insert(models.members).values(**member, blocked=False))
    conn.execute(models.rooms.update().where(models.rooms.c.id == first.key).values(members=2_001))
    return [f"id of {name}" for name in NAMES]


def _key(room_id: str, conn: Transaction) -> int:
    room = rooms.find(conn, room_id=room_id)
    assert room is not None
    return room.key


PAGES = {
    "history": {"topic_name": NAMES[0], "limit": 200},
    "get_rooms": {"limit": 500},
    "get_members": {"topic_name": NAMES[0], "limit": 500},
    "search": {"query": "é*", "limit": 100},
    "connect_to_room": {"topic_name": NAMES[0]},
    "get_pending": {"limit": 500},
}


@pytest.fixture(params=["websocket", "socketio", "rest"])
async def door(request: pytest.FixtureRequest, node: MeteredNode, crowded: str) -> AsyncIterator[Door]:
    async with door_of(request.param, node.url, crowded) as opened:
        yield opened


async def test_no_page_holds_the_loop(node: MeteredNode, door: Door) -> None:
    held = {}
    for action, payload in PAGES.items():
        definition = REGISTRY.get(action)
        assert definition is not None
        held[action] = await longest_step(node, partial(door.ask, definition, json.dumps(payload)))
    assert {action: spent for action, spent in held.items() if spent >= BUDGET_S} == {}


async def test_pages_of_long_messages_are_bounded_in_bytes_and_complete_together(
    node: MeteredNode, crowded: str
) -> None:
    async with connected(node.url, crowded) as omar:
        seqs: list[int] = []
        before: dict[str, Any] = {}
        while True:
            page = await omar.ask("history", topic_name=NAMES[0], limit=200, **before)
            assert 1 <= len(page["messages"]) <= MAX_PAGE_BYTES // len(LONG) // 2
            seqs = [message["seq"] for message in page["messages"]] + seqs
            if not page["has_more"]:
                break
            before = {"before": seqs[0]}
        assert seqs == list(range(1, 221))
        after: dict[str, Any] = {}
        topics: list[str] = []
        while True:
            rooms_page = await omar.ask("get_rooms", limit=500, **after)
            topics += [room["topic_name"] for room in rooms_page["rooms"]]
            assert (
                sum(len(room["last_message"]["content"]) for room in rooms_page["rooms"] if room["last_message"])
                < MAX_PAGE_BYTES
            )
            if rooms_page["next"] is None:
                break
            after = {"after": rooms_page["next"]}
        assert topics == NAMES


async def test_no_unpaged_route_holds_the_loop(node: MeteredNode, crowded: str) -> None:
    headers = {"Authorization": f"Bearer {crowded}"}
    async with httpx.AsyncClient(base_url=node.url, verify=NO_TLS, headers=headers, timeout=60) as http:
        held = {
            path: await longest_step(node, partial(http.get, path))
            for path in (
                "/conversation",
                f"/message/id of {NAMES[0]}",
                "/history",
                "/api/me/export",
                "/api/admin/users",
                "/api/rooms?" + "a&" * 30_000,
                "/echo_ws?" + "&" * 60_000,
            )
        }
    assert {path: spent for path, spent in held.items() if spent >= BUDGET_S} == {}


async def test_the_pages_of_the_messengers_conversations_are_complete_together(
    node: MeteredNode, crowded: str
) -> None:
    headers = {"Authorization": f"Bearer {crowded}"}
    names: list[str] = []
    async with httpx.AsyncClient(base_url=node.url, verify=NO_TLS, headers=headers, timeout=60) as http:
        path: str | None = "/conversation"
        while path is not None:
            answer = await http.get(path)
            page = [conversation["Name"] for conversation in answer.json()["Data"]]
            assert len(page) <= 100
            names += page
            path = answer.links["next"]["url"] if "next" in answer.links else None
            if path is not None:
                assert path.startswith("/conversation?after=")
    assert names == NAMES
