"""Batched reads: each sees everything committed before its request, and fails alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest
from sqlalchemy import Connection, insert

from tests.db.rows import add_room, add_user, count_rooms
from tidings_db import models
from tidings_db.engine import Database
from tidings_db.queries import progress, users
from tidings_db.queries.rows import RoomRow
from tidings_db.queries.users import DeviceRow
from tidings_db.read_batcher import MAX_BATCH, ReadBatcher


async def test_concurrent_requests_share_a_transaction(database: Database) -> None:
    sizes: list[int] = []

    def query(_: Connection, requests: Sequence[int]) -> list[int]:
        sizes.append(len(requests))
        return [-request for request in requests]

    batcher = ReadBatcher(database, query)
    count = 2 * MAX_BATCH + 1
    assert await asyncio.gather(*map(batcher.read, range(count))) == [-n for n in range(count)]
    assert sizes == [MAX_BATCH, MAX_BATCH, 1]
    assert await batcher.read(7) == -7


async def test_requests_in_quick_succession_share_a_transaction(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    waits: list[float] = []
    over = asyncio.Event()

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await over.wait()

    def query(_: Connection, requests: Sequence[int]) -> Sequence[int]:
        sizes.append(len(requests))
        return requests

    batcher = ReadBatcher(database, query, gather_s=60)
    monkeypatch.setattr("tidings_db.read_batcher.asyncio.sleep", sleep)
    assert await batcher.read(0) == 0, "a lone request does not wait"
    tasks = []
    for n in range(1, 4):
        tasks.append(asyncio.create_task(batcher.read(n)))
        await database.read(count_rooms)  # as long as a separate read would have taken
    over.set()
    assert await asyncio.gather(*tasks) == [1, 2, 3]
    assert [0 < wait <= 60 for wait in waits] == [True]
    assert sizes == [1, 3]


async def test_a_read_sees_everything_committed_before_its_request(sqlite: Database) -> None:
    begun, released = threading.Event(), threading.Event()

    def query(conn: Connection, requests: Sequence[str]) -> list[int]:
        count = count_rooms(conn)
        if "first" in requests:
            begun.set()
            assert released.wait(30)
        return [count] * len(requests)

    batcher = ReadBatcher(sqlite, query)
    first = asyncio.create_task(batcher.read("first"))
    try:
        assert await asyncio.to_thread(begun.wait, 30)
        await sqlite.write(lambda conn: add_room(conn, 1))
        second = asyncio.create_task(batcher.read("second"))
        await asyncio.sleep(0)
    finally:
        released.set()
    assert (await first, await second) == (0, 1)


async def test_a_failing_or_cancelled_request_does_not_affect_the_others(database: Database) -> None:
    def query(_: Connection, requests: Sequence[int]) -> list[int]:
        return [10 // request for request in requests]

    batcher = ReadBatcher(database, query)
    first, failing, cancelled, last = (asyncio.create_task(batcher.read(n)) for n in (1, 0, 2, 5))
    await asyncio.sleep(0)
    cancelled.cancel()
    assert (await first, await last) == (10, 2)
    with pytest.raises(ZeroDivisionError):
        await failing


async def test_rooms_cursors_and_sessions_of_many_devices_are_queried_together(database: Database) -> None:
    def fill(conn: Connection) -> None:
        add_user(conn)
        conn.execute(
            insert(models.users).values(id=2, username="diego", username_key="diego", created_at=0, disabled=True)
        )
        for number in (1, 2, 3):
            add_room(conn, number)
        for key, user in ((1, 1), (2, 1), (3, 2)):
            conn.execute(
                insert(models.sessions).values(id=key, sid=f"s{key}", user_id=user, created_at=0, expires_at=9)
            )
            conn.execute(insert(models.devices).values(id=key, user_id=user, name=f"d{key}", created_at=0))
        users.revoke_session(conn, 2, 5)
        for room, user in ((1, 1), (2, 1), (1, 2)):
            member = {"role": "member", "joined_at": 0, "joined_seq": 4}
            conn.execute(insert(models.members).values(room_id=room, user_id=user, **member))
        for device, room in ((1, 2), (1, 3), (3, 1)):
            conn.execute(insert(models.cursors).values(device_id=device, room_id=room, seq=7))

    await database.write(fill)
    requests = [("s1", "d1"), ("none", "d1"), ("s3", "d1"), ("s2", "d2")]
    first, nobody, third, second = await database.read(lambda conn: users.arrivals(conn, requests))
    assert nobody is None
    assert first is not None
    assert (first.session.username, first.session.disabled, first.device) == ("ana", False, DeviceRow(1, None, 0))
    assert third is not None
    assert (third.session.username, bool(third.session.disabled), third.device) == ("diego", True, None)
    assert second is not None
    assert (second.session.revoked_at, second.device) == (5, DeviceRow(2, None, 0))
    assert await database.read(lambda conn: users.valid_sessions(conn, [1, 2, 3, 4])) == {1}
    assert await database.read(lambda conn: users.valid_sessions(conn, [])) == set()

    first_device, second_device, third_device, unknown = await database.read(
        lambda conn: progress.arrival_states(conn, [(1, 1), (1, 2), (2, 3), (9, 9)])
    )
    assert [(room.room.key, room.joined_seq, room.cursor) for room in first_device.member_rooms] == [
        (1, 4, None),
        (2, 4, 7),
    ]
    assert first_device.former_rooms == [(3, "r3")]
    assert [(room.room.key, room.cursor) for room in second_device.member_rooms] == [(1, None), (2, None)]
    assert second_device.former_rooms == []
    assert [(room.room.key, room.cursor) for room in third_device.member_rooms] == [(1, 7)]
    assert unknown == ([], [])
    assert first_device.member_rooms[0].room == RoomRow(
        1, "r1", "group", True, None, None, None, 1, 0, 0, 0, 0, 0, 0, 0
    )
    assert first_device.member_rooms[0].room.is_private is True
