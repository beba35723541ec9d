"""Cursors are written behind, in bounded transactions: a message never waits for those of thousands of devices."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import func, insert, select, text
from sqlalchemy.engine import Connection as Transaction

from tests.delivery.support import make_topic, principal
from tests.support.client import DEADLINE_S, connected
from tests.support.node import RunningNode
from tidings.log import commit, journal
from tidings.log.cursors import MAX_CURSORS_PER_WRITE, Cursors
from tidings.log.messages import AppendMessage
from tidings_db import models

ONLY_SOCKETIO = True  # the gateway makes no difference to what is written
COUNT = 4 * MAX_CURSORS_PER_WRITE + 7


async def test_cursors_of_thousands_of_devices_are_written_in_parts_and_delay_no_message(
    server: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await server.register("omar")
    room_id = await make_topic(server.url, token, "noticias")
    async with connected(server.url, token):
        me, key = principal(server, "omar"), server.node.hub.key(room_id)
        assert key is not None
        devices = range(10_000, 10_000 + COUNT)

        def add(conn: Transaction) -> None:
            new = [{"id": n, "user_id": me.user_key, "name": str(n), "created_at": 1, "seen_at": 1} for n in devices]
            conn.execute(insert(models.devices), new)

        await server.node.database.write(add)
        sizes: list[int] = []
        save = commit.save

        def counting(conn: Transaction, moved: Any) -> None:
            sizes.append(len(moved))
            save(conn, moved)

        monkeypatch.setattr(commit, "save", counting)
        monkeypatch.setattr(journal, "CURSOR_INTERVAL_S", 3600.0)  # no interval writes the cursors below
        cursors = server.node.cursors
        for n in devices:
            cursors.advance(me.user_key, n, {key: 7})
            cursors.ended(me.user_key, n)
        sent = server.node.journal.hand_over(AppendMessage(me, key, "hola"))
        async with asyncio.timeout(DEADLINE_S):
            assert (await sent)["seq"] == 1
            assert sum(sizes) <= 2 * MAX_CURSORS_PER_WRITE, "the message is in one of the first transactions"
            while cursors or sum(sizes) < 2 * COUNT:
                await server.node.database.read(lambda conn: conn.execute(text("SELECT 1")))
        assert max(sizes) <= MAX_CURSORS_PER_WRITE

        def written(conn: Transaction) -> tuple[int, int]:
            mine = models.cursors.c.device_id >= devices[0]
            moved = select(func.count()).select_from(models.cursors).where(mine, models.cursors.c.seq == 7)
            seen = select(func.count()).select_from(models.devices).where(models.devices.c.seen_at > 1)
            return conn.execute(moved).scalar_one(), conn.execute(
                seen.where(models.devices.c.id >= devices[0])
            ).scalar_one()

        async with asyncio.timeout(DEADLINE_S):
            while await server.node.database.read(written) != (COUNT, COUNT):
                pass


def test_a_receipt_is_written_with_its_cursor() -> None:
    cursors = Cursors()
    for n in range(MAX_CURSORS_PER_WRITE + 3):
        cursors.advance(n, n, {n % 5: 1}, shown=range(5))
    while cursors:
        moved = cursors.take()
        assert moved.receipts == {(device, room): device for device, room in moved.cursors}
        assert all(cursors.known(device, room) == 1 for device, room in moved.cursors)
        cursors.written()
    assert cursors.take().receipts == {}


def test_cursors_of_a_failed_write_are_written_by_the_next_and_never_move_back() -> None:
    cursors = Cursors()
    cursors.advance(1, 0, {1: 5, 2: 5}, shown={1, 2})
    assert len(cursors.take()) == 2
    cursors.advance(1, 0, {1: 9}, shown={1, 2})
    cursors.failed()
    moved = cursors.take()
    assert moved.cursors == {(0, 1): 9, (0, 2): 5}
    assert moved.receipts == {(0, 1): 1, (0, 2): 1}
    first, second = moved.halves()
    assert first.cursors | second.cursors == moved.cursors
    assert first.receipts | second.receipts == moved.receipts
    assert (len(first), len(second)) == (1, 1)
    assert first.halves() == ()
