"""Outdated rows are deleted in small steps; others stay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Table, func, insert, select, update
from sqlalchemy.engine import Connection as Transaction

from tests.support.client import DEADLINE_S, connected
from tests.support.node import RunningNode, running_node
from tidings.log import purge
from tidings.log.retention import DAY_MS, now_ms
from tidings_db.models import bans, cursors, devices, echo_entries, invitation_links, mutes, sessions
from tidings_db.queries import purge as queries


@pytest.fixture
async def server(database_url: str, tmp_path: Path) -> AsyncIterator[RunningNode]:
    bounds = {"purge_sessions_days": 30, "purge_devices_days": 100, "quotas": "echo_entries=6"}
    async with running_node(database_url, tmp_path, **bounds) as running:
        yield running


async def _run_purge(server: RunningNode, days: int = 0) -> None:
    await server.node.purge.run_once(now_ms() + days * DAY_MS)


async def _count(server: RunningNode, table: Table) -> int:
    def read(conn: Transaction) -> int:
        return conn.execute(select(func.count()).select_from(table)).scalar_one()

    return await server.node.database.read(read)


async def _set(server: RunningNode, table: Table, where: Any, values: Mapping[str, Any]) -> None:
    def change(conn: Transaction) -> None:
        conn.execute(update(table).where(where).values(values))

    await server.node.database.write(change)


async def _status(server: RunningNode, token: str) -> tuple[int, str | None]:
    async with httpx.AsyncClient(base_url=server.url, headers={"Authorization": f"Bearer {token}"}) as http:
        answer = await http.get("/api/me")
        return answer.status_code, answer.json().get("code")


async def test_sessions_that_ended_long_ago_are_purged_and_valid_ones_stay(server: RunningNode) -> None:
    expired, withdrawn, recent, good = [await server.register("omar")] + [
        await server.login("omar") for _ in range(3)
    ]
    ids = sorted(await server.node.database.read(lambda conn: conn.scalars(select(sessions.c.id)).all()))
    long_ago = now_ms() - 31 * DAY_MS
    await _set(server, sessions, sessions.c.id == ids[0], {"expires_at": long_ago})
    await _set(server, sessions, sessions.c.id == ids[1], {"revoked_at": long_ago})
    await _set(server, sessions, sessions.c.id == ids[2], {"revoked_at": now_ms() - 29 * DAY_MS})
    await server.register("diego")  # the newest session of all always stays
    await _run_purge(server)
    assert await _count(server, sessions) == 3
    codes = [await _status(server, token) for token in (expired, withdrawn, recent, good)]
    assert codes == [(401, "unauthenticated"), (401, "unauthenticated"), (401, "token_revoked"), (200, None)]


async def test_devices_unseen_for_long_are_purged_with_their_cursors_unless_connected(server: RunningNode) -> None:
    token = await server.register("omar")
    async with connected(server.url, token, device="connected") as client:
        for name in ("unseen", "seen"):
            await client.ask("create", topic_name=name)
            async with connected(server.url, token, device=name):
                pass
        async with connected(server.url, await server.register("diego")):
            pass
        long_ago = {"seen_at": now_ms() - 101 * DAY_MS}
        await _set(server, devices, devices.c.name.in_(["connected", "unseen"]), long_ago)
        await _run_purge(server)
        names = select(devices.c.name)
        remaining = await server.node.database.read(lambda conn: set(conn.scalars(names)))
        assert remaining == {"connected", "seen", "default"}
        known = select(devices.c.id)
        orphans = select(func.count()).select_from(cursors).where(cursors.c.device_id.not_in(known))
        assert await server.node.database.read(lambda conn: conn.execute(orphans).scalar_one()) == 0
        sent = await client.ask("message", topic_name="seen", content="hola")
        assert (await client.event("message"))["id"] == sent["id"]
    async with connected(server.url, token, device="unseen") as returned:  # like a new device
        await returned.ask("get_rooms")


async def test_expired_links_bans_and_mutes_are_purged_and_the_others_stay(server: RunningNode) -> None:
    tokens = [await server.register(name) for name in ("omar", "diego", "satoshi", "ana")]
    async with connected(server.url, tokens[0]) as omar, connected(server.url, tokens[1]) as diego:
        await omar.ask("create", topic_name="secreta", is_private=True)
        links = [
            (await omar.ask("create_invitation_link", topic_name="secreta", **fields))["code"]
            for fields in ({"uses": 1}, {"expires_in": 60}, {"expires_in": 3 * 24 * 3600, "uses": 2}, {})
        ]
        await diego.ask("join_by_link", code=links[0])
        await omar.ask("invite", topic_name="secreta", username="ana")
        await omar.ask("ban", topic_name="secreta", username="satoshi", duration=60)
        await omar.ask("mute", topic_name="secreta", username="diego", duration=60)
        await omar.ask("mute", topic_name="secreta", username="ana", duration=3 * 24 * 3600)
        await _run_purge(server)
        assert [await _count(server, table) for table in (invitation_links, bans, mutes)] == [3, 1, 2]
        await _run_purge(server, days=1)
        assert [await _count(server, table) for table in (invitation_links, bans, mutes)] == [2, 0, 1]
        remaining = (await omar.ask("get_invitation_links", topic_name="secreta"))["links"]
        assert {link["code"] for link in remaining} == set(links[2:])


async def test_the_newest_of_an_echo_log_stay(server: RunningNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purge, "STEP", 3)
    monkeypatch.setattr(purge, "USERS", 1)
    async with (
        connected(server.url, await server.register("omar")) as omar,
        connected(server.url, await server.register("diego")) as diego,
    ):
        for number in range(8):
            await omar.ask("echo", content=f"{number}")
        await diego.ask("echo", content="hola")
        await _run_purge(server)
        entries = (await omar.ask("echo_history"))["entries"]
        assert [entry["content"] for entry in entries] == ["5", "5", "6", "6", "7", "7"]
        assert await _count(server, echo_entries) == 8


async def test_no_transaction_removes_more_than_a_step(server: RunningNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages are committed in between, however many rows are outdated."""
    await server.register("omar")
    async with connected(server.url, await server.login("omar")) as omar:
        await omar.ask("create", topic_name="secreta", is_private=True)

        def add_used_links(conn: Transaction) -> None:
            link = {"room_id": 1, "user_id": 1, "created_at": 0, "uses_left": 0}
            conn.execute(insert(invitation_links), [link | {"code": f"{n}"} for n in range(35)])

        await server.node.database.write(add_used_links)
        steps: list[int] = []
        drop = queries.drop_links

        def counted(conn: Transaction, codes: Sequence[str]) -> None:
            steps.append(len(codes))
            drop(conn, codes)

        monkeypatch.setattr(queries, "drop_links", counted)
        monkeypatch.setattr(purge, "STEP", 10)
        await _run_purge(server)
        assert steps == [10, 10, 10, 5]
        assert await _count(server, invitation_links) == 0


async def test_a_node_purges_periodically(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = asyncio.Event()
    run_once = purge.Purge.run_once

    async def run(self: purge.Purge, now: int) -> None:
        await run_once(self, now)
        ran.set()

    monkeypatch.setattr(purge.Purge, "run_once", run)
    async with running_node(sqlite_url, tmp_path, options={"retention_s": 0.01}), asyncio.timeout(DEADLINE_S):
        await ran.wait()


async def test_settings_of_0_keep_everything_forever(sqlite_url: str, tmp_path: Path) -> None:
    bounds = {"purge_sessions_days": 0, "purge_devices_days": 0, "quotas": "echo_entries=0"}
    async with running_node(sqlite_url, tmp_path, **bounds) as server:
        token = await server.register("omar")
        for name in ("laptop", "phone"):
            async with connected(server.url, token, device=name) as client:
                await client.ask("echo", content="hola")
        await server.register("diego")
        await _run_purge(server, days=10_000)
        assert [await _count(server, table) for table in (sessions, devices, echo_entries)] == [2, 2, 4]
