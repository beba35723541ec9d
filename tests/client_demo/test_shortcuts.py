"""Tab completion in the chat."""

from __future__ import annotations

import pytest

from client_demo.chat_commands import NAMES
from client_demo.shortcuts import suggestions


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("/jo", ["/join"]),  # completed to what it has in common with /join-link, it would lack a space
        ("/join", ["/join", "/join-link"]),
        ("/ba", ["/ban"]),
        ("/ban", ["/ban", "/bans"]),
        ("/op", ["/open"]),
        ("/bl", ["/block"]),
        ("/un", ["/unban", "/unblock", "/unlink", "/unreact"]),
        ("/nothing", []),
        ("/react 1 ", ["❤️", "🎉", "👀", "👍", "😂", "🙏"]),
        ("@di", ["@diego"]),
        ("/whois di", ["diego"]),
    ],
)
def test_a_word_is_completed_to_what_it_most_likely_is(line: str, completed: list[str]) -> None:
    assert suggestions(line, NAMES, [], {"diego", "omar"}) == completed
