"""Tab completion in the chat."""

from __future__ import annotations

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
