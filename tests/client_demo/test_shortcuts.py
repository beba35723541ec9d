"""Tab completion in the chat."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidings_chat.chat_commands import ChatCommands
from tidings_chat.shortcuts import suggestions


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("/jo", ["/join"]),  # the common prefix with /join-link would lack a space
        ("/join", ["/join", "/join-link"]),
        ("/ba", ["/ban"]),
        ("/ban", ["/ban", "/bans"]),
        ("/op", ["/open"]),
        ("/bl", ["/block"]),
        ("/un", ["/unban", "/unblock", "/unlink", "/unreact", "/unread"]),
        ("/nothing", []),
        ("/react 1 ", ["❤️", "🎉", "👀", "👍", "😂", "🙏"]),
        ("@di", ["@diego"]),
        ("/who di", ["diego"]),
    ],
)
def test_tab_suggests_the_commands_emojis_and_users_that_fit(line: str, completed: list[str]) -> None:
    assert suggestions(line, ChatCommands.names, [], {"diego", "omar"}) == completed


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("/send ", ["data/", '"mi foto.jpg"', "plan.txt"]),
        ("/send pl", ["plan.txt"]),
        ("/send mi", ['"mi foto.jpg"']),
        ('/send "mi f', ['foto.jpg"']),
        ("/send data/", ["data/x"]),
        ("/send .", [".hidden"]),
        ("/send plan.txt @di", ["@diego"]),
        ('/send "mi foto.jpg" @di', ["@diego"]),
        ("/save 1", ["12.2", "12.1", "1.1"]),
        ("/save 12.1 da", ["data/"]),
        ("/send none/", []),
    ],
)
def test_tab_completes_paths_and_the_numbers_of_files(
    line: str, completed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("plan.txt", "mi foto.jpg", ".hidden", "data/x"):
        (tmp_path / name).touch()
    found = suggestions(line, ChatCommands.names, [], {"diego"}, ["12.2", "12.1", "7.1", "1.1"])
    assert sorted(found) == sorted(completed)
