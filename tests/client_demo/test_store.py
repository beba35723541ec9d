"""What is kept on disk survives the process, and only its user can read it."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from client_demo.errors import Busy
from client_demo.store import Store, default_directory, state_path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "omar.sqlite3"


def test_an_entry_is_taken_once_also_after_a_restart(path: Path) -> None:
    shown: list[int] = []
    for _ in range(2):
        with Store(path, "laptop") as store:
            for seq in (1, 2, 2, 1, 3):
                with store.take("r1", seq) as new:
                    if new:
                        shown.append(seq)
    assert shown == [1, 2, 3]


def test_an_entry_that_could_not_be_shown_is_taken_again(path: Path) -> None:
    with Store(path, "laptop") as store:
        with pytest.raises(BrokenPipeError), store.take("r1", 7):
            raise BrokenPipeError
        with store.take("r1", 7) as new:
            assert new
        assert store.cursors() == {"r1": 7}


def test_what_arrived_but_was_never_taken_is_asked_for_again(path: Path) -> None:
    with Store(path, "laptop") as store:
        store.begin("r1", 5)
        store.begin("r1", 6)
    with Store(path, "laptop") as store:
        assert store.cursors() == {"r1": 4}


def test_each_device_has_its_own_place_in_a_room(path: Path) -> None:
    with Store(path, "laptop") as laptop, laptop.take("r1", 9):
        pass
    with Store(path, "laptop tail noticias") as tail:
        assert tail.cursors() == {}
        with tail.take("r1", 3) as new:
            assert new


def test_a_forgotten_room_begins_anew(path: Path) -> None:
    with Store(path, "laptop") as store:
        with store.take("r1", 41):
            pass
        store.forget("r1")
        with store.take("r1", 2) as new:
            assert new


def test_unsent_messages_survive_a_restart_in_order_and_with_their_ids(path: Path) -> None:
    with Store(path, "laptop") as store:
        sent = [store.enqueue({"username": "diego"}, f"hola {n}") for n in range(3)]
        assert len({unsent.client_id for unsent in sent}) == 3
    with Store(path, "laptop") as store:
        for unsent in sent:
            assert store.next_unsent() == unsent
            store.done(unsent)
        assert store.next_unsent() is None
        assert store.unsent() == 0


def test_two_processes_do_not_receive_as_one_device(path: Path) -> None:
    with Store(path, "laptop") as one, Store(path, "laptop") as same, Store(path, "phone") as other:
        with one.receiving():
            with pytest.raises(Busy), same.receiving():
                pass
            with other.receiving():
                pass
        with same.receiving():
            pass


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX's")
def test_nobody_else_on_the_machine_can_read_the_state(path: Path) -> None:
    with Store(path, "laptop") as store, store.receiving():
        store.put(token="secret")
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        files = list(path.parent.iterdir())
        assert len(files) >= 3  # the database, its log and its shared memory, the lock
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_the_state_of_one_server_user_and_device_is_not_mixed_with_another(tmp_path: Path) -> None:
    paths = {
        state_path(tmp_path, server, user, device)
        for server in ("http://a:8000", "http://a:8001")
        for user in ("omar", "o/mar", "ñ" * 32)
        for device in ("terminal", "../terminal")
    }
    assert len(paths) == 12
    assert {path.parent for path in paths} == {tmp_path}
    assert state_path(tmp_path, "http://a", "Omar", "t") == state_path(tmp_path, "http://a", "omar", "t")


def test_the_state_directory_is_where_xdg_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_directory() == tmp_path / "tidings"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")  # to be ignored, by the specification
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_directory() == tmp_path / ".local" / "state" / "tidings"


def test_a_state_of_another_version_is_refused_and_left_alone(path: Path) -> None:
    with Store(path, "laptop") as store:
        store._db.execute("PRAGMA user_version=99")
    with pytest.raises(Busy, match="another version"):
        Store(path, "laptop")


def test_what_the_client_before_this_one_kept_is_taken_over(path: Path) -> None:
    """Version 1 had no answers and no changes; what waited there may have been tried."""
    with Store(path, "laptop") as store:
        store.enqueue({"username": "diego"}, "hola")
        for column in ("reply_to", "tried", "edited"):
            store._db.execute(f"ALTER TABLE outbox DROP COLUMN {column}")
        store._db.execute("PRAGMA user_version=1")
    with Store(path, "laptop") as store:
        unsent = store.next_unsent()
        assert unsent is not None
        assert unsent.content == "hola"
        assert not store.withdraw(unsent)
