"""The stored state survives the process, and only its user can read it."""

from __future__ import annotations

import contextlib
import sqlite3
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidings_chat.errors import Busy
from tidings_chat.state import State, default_directory, state_path
from tidings_client.stores import StoredUnsent

VERSION_1 = """
CREATE TABLE kept (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE cursor (
    device TEXT NOT NULL, room_id TEXT NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (device, room_id)
) WITHOUT ROWID;
CREATE TABLE outbox (
    position INTEGER PRIMARY KEY AUTOINCREMENT, client_id TEXT NOT NULL UNIQUE, room TEXT NOT NULL,
    content TEXT NOT NULL
);
INSERT INTO kept VALUES ('token', 't1');
INSERT INTO cursor VALUES ('laptop', 'r1', 7), ('laptop', 'r2', 0), ('laptop tail', 'r1', 3);
INSERT INTO outbox (client_id, room, content) VALUES ('c1', '{"username":"diego"}', 'hola');
PRAGMA user_version=1;
"""
VERSION_2 = f"""
{VERSION_1}
ALTER TABLE outbox ADD COLUMN reply_to TEXT;
ALTER TABLE outbox ADD COLUMN tried INTEGER NOT NULL DEFAULT 1;
ALTER TABLE outbox ADD COLUMN edited INTEGER NOT NULL DEFAULT 0;
INSERT INTO outbox (client_id, room, content, reply_to, tried, edited) VALUES
    ('c2', '{{"room_id":"r1"}}', 'yes', 'm1', 0, 0), ('c3', '{{"room_id":"r1"}}', 'no', NULL, 1, 1);
PRAGMA user_version=2;
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "omar.sqlite3"


@contextlib.contextmanager
def file(path: Path, script: str) -> Iterator[None]:
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(script)
    yield


def test_values_survive_and_several_processes_share_them(path: Path) -> None:
    with State(path) as first, State(path) as second:
        first.put(token="t1", expires_at="soon")
        second.put(token="t2", expires_at=None)
        assert (first.get("token"), first.get("expires_at")) == ("t2", None)
    with State(path) as third:
        assert third.get("token") == "t2"


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX's")
async def test_only_its_user_can_read_the_state(path: Path) -> None:
    with State(path) as state:
        state.put(token="secret")
        store = await state.store("chat", "laptop")
        await store.open()
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        files = list(path.parent.iterdir())
        assert len(files) >= 7  # two databases, their logs and shared memories, the lock
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        await store.close()


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


def test_a_state_of_another_version_is_refused_and_unchanged(path: Path) -> None:
    with file(path, "PRAGMA user_version=99"):
        with pytest.raises(Busy, match="another version"):
            State(path)
        with contextlib.closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA user_version").fetchone() == (99,)


@pytest.mark.parametrize("version", [1, 2])
async def test_a_state_of_an_earlier_version_is_moved_once_with_its_unsent_messages(path: Path, version: int) -> None:
    """Version 1 may have tried what is in its outbox; of version 2, it is known."""
    unsent = [StoredUnsent("c1", "message", {"username": "diego", "content": "hola", "client_id": "c1"}, tried=True)]
    if version == 2:
        reply = {"room_id": "r1", "content": "yes", "client_id": "c2", "reply_to": "m1"}
        edited = {"room_id": "r1", "content": "no", "client_id": "c3"}
        unsent += [
            StoredUnsent("c2", "message", reply, tried=False),
            StoredUnsent("c3", "message", edited, tried=True, edited=True),
        ]
    with file(path, VERSION_1 if version == 1 else VERSION_2):
        for _ in range(2):
            with State(path) as state:
                assert state.get("token") == "t1"
                tail = await state.store("tail", "laptop tail")
                await tail.open()
                assert (await tail.cursors(), await tail.outbox()) == ({"r1": 3}, [])
                await tail.close()
                chat = await state.store("chat", "laptop", has_outbox=True)
                await chat.open()
                assert (await chat.cursors(), await chat.outbox()) == ({"r1": 7, "r2": 0}, unsent)
                while unsent:
                    await chat.dequeue(unsent.pop().client_id)
                await chat.close()
