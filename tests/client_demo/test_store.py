"""The stored state survives the process, and only its user can read it."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import stat
import sys
from pathlib import Path

import pytest

from tidings_chat.errors import Busy
from tidings_chat.store import Store, default_directory, state_path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "omar.sqlite3"


async def test_an_entry_is_shown_once_even_after_a_restart(path: Path) -> None:
    shown: list[int] = []
    for _ in range(2):
        async with Store(path, "laptop") as store:
            for seq in (1, 2, 2, 1, 3):
                async with store.take("r1", seq) as new:
                    if new:
                        shown.append(seq)
    assert shown == [1, 2, 3]


async def test_an_entry_that_could_not_be_shown_is_offered_again(path: Path) -> None:
    async with Store(path, "laptop") as store:
        with pytest.raises(BrokenPipeError):
            async with store.take("r1", 7):
                raise BrokenPipeError
        async with store.take("r1", 7) as new:
            assert new
        assert await store.cursors() == {"r1": 7}


async def test_an_entry_that_arrived_but_was_not_shown_is_requested_again(path: Path) -> None:
    async with Store(path, "laptop") as store:
        await store.begin({"r1": 5})
        await store.begin({"r1": 6})
    async with Store(path, "laptop") as store:
        assert await store.cursors() == {"r1": 4}


async def test_each_device_has_its_own_cursor_in_a_room(path: Path) -> None:
    async with Store(path, "laptop") as laptop, laptop.take("r1", 9):
        pass
    async with Store(path, "laptop tail noticias") as tail:
        assert await tail.cursors() == {}
        async with tail.take("r1", 3) as new:
            assert new


async def test_a_forgotten_room_starts_from_the_beginning(path: Path) -> None:
    async with Store(path, "laptop") as store:
        async with store.take("r1", 41):
            pass
        await store.forget("r1")
        async with store.take("r1", 2) as new:
            assert new


async def test_unsent_messages_survive_a_restart_in_order_and_with_their_ids(path: Path) -> None:
    async with Store(path, "laptop") as store:
        sent = [await store.enqueue({"username": "diego"}, f"hola {n}") for n in range(3)]
        assert len({unsent.client_id for unsent in sent}) == 3
    async with Store(path, "laptop") as store:
        assert store.unsent == 3
        for unsent in sent:
            assert await store.try_next() == (unsent, True)
            assert await store.acknowledge(unsent, unsent.content) is None
        assert await store.try_next() is None
        assert store.unsent == 0


async def test_an_enqueued_message_is_on_disk(path: Path) -> None:
    """The commit is synced, and a second connection reads the message."""
    async with Store(path, "laptop") as store:
        await store.enqueue({"username": "diego"}, "hola")
        ((synchronous,),) = await store._durable.execute_fetchall("PRAGMA synchronous")
        assert synchronous == 2  # FULL
        with contextlib.closing(sqlite3.connect(path)) as reader:
            assert reader.execute("SELECT content FROM outbox").fetchall() == [("hola",)]


async def test_an_edit_that_crosses_the_acknowledgement_is_not_lost(path: Path) -> None:
    async with Store(path, "laptop") as store:
        await store.enqueue({"username": "diego"}, "helo")
        attempt = await store.try_next()
        assert attempt is not None
        unsent, _ = attempt
        assert await store.change(unsent, "hello")
        changed = await store.acknowledge(unsent, "helo")
        assert changed is not None
        assert changed.content == "hello"
        assert await store.acknowledge(unsent, "hello") is None
        assert not await store.change(unsent, "too late")


async def test_concurrent_callers_of_a_store_do_not_disturb_each_other(path: Path) -> None:
    async with Store(path, "laptop") as store:
        await asyncio.gather(
            *(store.enqueue({"username": "diego"}, f"m{n}") for n in range(20)),
            *(store.put(token=f"t{n}", expires_at=None) for n in range(20)),
            *(store.begin({f"r{n}": n + 1}) for n in range(20)),
        )
    async with Store(path, "laptop") as store:
        assert (store.unsent, await store.get("token"), len(await store.cursors())) == (20, "t19", 20)


async def test_the_same_statement_of_many_callers_at_once_is_executed_for_each(path: Path) -> None:
    async with Store(path, "laptop") as store:
        for _ in range(5):
            await asyncio.gather(*(store.begin({f"r{n}": n + 1, f"s{n}": 1}) for n in range(1000)))
        cursors = await store.cursors()
    assert (len(cursors), cursors["r999"], cursors["s999"]) == (2000, 999, 0)


async def test_two_processes_cannot_receive_as_the_same_device(path: Path) -> None:
    async with Store(path, "laptop") as first, Store(path, "laptop") as second, Store(path, "phone") as phone:
        with first.receiving():
            with pytest.raises(Busy), second.receiving():
                pass
            with phone.receiving():
                pass
        with second.receiving():
            pass


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX's")
async def test_only_its_user_can_read_the_state(path: Path) -> None:
    async with Store(path, "laptop") as store:
        with store.receiving():
            await store.put(token="secret")
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            files = list(path.parent.iterdir())
            assert len(files) >= 3  # the database, its log and its shared memory, the lock
            assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_each_server_user_and_device_has_a_state_file_of_its_own(tmp_path: Path) -> None:
    paths = {
        state_path(tmp_path, server, user, device)
        for server in ("http://a:8000", "http://a:8001")
        for user in ("omar", "o/mar", "ñ" * 32)
        for device in ("terminal", "../terminal")
    }
    assert len(paths) == 12
    assert {path.parent for path in paths} == {tmp_path}
    assert state_path(tmp_path, "http://a", "Omar", "t") == state_path(tmp_path, "http://a", "omar", "t")


def test_the_state_directory_follows_the_xdg_specification(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_directory() == tmp_path / "tidings"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")  # the specification says to ignore relative paths
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_directory() == tmp_path / ".local" / "state" / "tidings"


async def test_a_state_of_another_version_is_refused_and_unchanged(path: Path) -> None:
    async with Store(path, "laptop"):
        pass
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version=99")
    with pytest.raises(Busy, match="another version"):
        async with Store(path, "laptop"):
            pass
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (99,)


async def test_a_store_of_version_1_is_migrated_with_its_outbox(path: Path) -> None:
    """Version 1 had no replies and no edits; the messages in its outbox may have been sent before."""
    async with Store(path, "laptop") as store:
        await store.enqueue({"username": "diego"}, "hola")
    with contextlib.closing(sqlite3.connect(path)) as db:
        for column in ("reply_to", "tried", "edited"):
            db.execute(f"ALTER TABLE outbox DROP COLUMN {column}")
        db.execute("PRAGMA user_version=1")
    async with Store(path, "laptop") as store:
        unsent = await store.last_unsent({"username": "diego"})
        assert unsent is not None
        assert unsent.content == "hola"
        assert not await store.withdraw(unsent)
        assert await store.try_next() == (unsent, False)
