"""What the store remembers, in a file and in memory."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tidings_client import SQLiteStore, StoreInUse, StoreOfAnother, stores
from tidings_client.stores import Entry, StoredUnsent


@pytest.fixture(params=["file", "memory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    opened = SQLiteStore(tmp_path / "state.db" if request.param == "file" else None)
    await opened.open()
    yield opened
    await opened.close()


def message(seq: int, content: str = "") -> Entry:
    return Entry("r", seq, "message", row(seq, content))


def row(seq: int, content: str = "") -> dict[str, Any]:
    return {"room_id": "r", "id": f"m{seq}", "seq": seq, "content": content or f"content {seq}"}


async def seqs(store: SQLiteStore, after: int) -> list[int]:
    return [entry.seq for entry in await store.entries("r", "message", after, 99)]


async def test_an_entry_is_taken_once(store: SQLiteStore) -> None:
    assert await store.take([message(3), message(4)]) == [message(3), message(4)]
    assert await store.take([message(2), message(3), message(4), message(5)]) == [message(5)]
    assert await store.cursors() == {"r": 5}
    assert await seqs(store, 3) == [4, 5]
    assert await store.position("r", "mail") == (None, 2)


async def test_a_change_replaces_the_message_whatever_its_name(store: SQLiteStore) -> None:
    for name in ("message_edited", "message_finished", "of a later version"):
        seq = (await store.cursors()).get("r", 0)
        changed = {"room_id": "r", "seq": seq + 2, "message": row(seq + 1, name)}
        await store.take([message(seq + 1), Entry("r", seq + 2, name, changed)])
        assert (await store.newest("r", "message", 1))[0]["content"] == name


async def test_events_and_messages_are_apart(store: SQLiteStore) -> None:
    event = Entry("r", 2, "order.paid", {"room_id": "r", "seq": 2, "event": "order.paid", "data": 17})
    unknown = Entry("r", 3, "of a later version", {"room_id": "r", "seq": 3})
    assert await store.take([message(1), event, unknown]) == [message(1), event, unknown]
    assert await store.entries("r", "event", 0, 10) == [event]
    assert await store.entries("r", "message", 0, 10) == [message(1)]
    assert await store.entries("r", None, 0, 10) == [message(1), event, unknown]


async def test_the_newest_are_kept_and_all_that_a_consumer_has_not_had(
    store: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "KEPT", 3)
    monkeypatch.setattr(stores, "_PRUNE_AFTER", 0)
    await store.take([message(seq) for seq in range(1, 11)])
    assert await seqs(store, 0) == [8, 9, 10]
    assert await store.position("r", "mail") == (None, 7)
    await store.move("r", "mail", 9)
    await store.take([message(seq) for seq in range(11, 16)])
    assert await seqs(store, 0) == [10, 11, 12, 13, 14, 15]
    assert await store.position("r", "mail") == (9, 9)


async def test_a_log_that_went_back_moves_consumers_back(store: SQLiteStore) -> None:
    await store.take([message(seq) for seq in range(1, 6)])
    await store.move("r", "mail", 5)
    await store.move("r", "slow", 2)
    await store.replace("r", [row(2), row(3), row(4, "another")], 1, 3)
    assert await store.position("r", "mail") == (3, 1)
    assert await store.position("r", "slow") == (2, 1)
    assert await store.cursors() == {"r": 4}
    assert await store.entries("r", "message", 3, 99) == [message(4, "another")]
    await store.move("r", "mail", 9)
    await store.replace("r", [row(2), row(3)], 1, None)
    assert await store.position("r", "mail") == (3, 1)


async def test_the_outbox_keeps_its_order_and_survives(tmp_path: Path) -> None:
    requests = [StoredUnsent(f"c{n}", "message", {"content": f"{n}"}, tried=False) for n in range(3)]
    first = SQLiteStore(tmp_path / "state.db")
    await first.open()
    for request in requests:
        await first.enqueue(request)
    tried = StoredUnsent("c1", "message", {"content": "edited"}, tried=True, edited=True)
    await first.enqueue(tried)
    await first.dequeue("c0")
    await first.close()
    second = SQLiteStore(tmp_path / "state.db")
    await second.open()
    assert await second.outbox() == [tried, requests[2]]
    await second.close()


async def test_one_user_and_one_process_at_a_time_have_a_store(tmp_path: Path) -> None:
    path = tmp_path / "new" / "state.db"
    first, second = SQLiteStore(path), SQLiteStore(path)
    await first.open()
    with pytest.raises(StoreInUse):
        await second.open()
    await first.claim("omar on laptop")
    with pytest.raises(StoreOfAnother, match="belongs to omar on laptop"):
        await first.claim("diego on laptop")
    await first.close()
    await second.open()
    await second.claim("omar on laptop")
    await second.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
