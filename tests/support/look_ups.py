"""A name of the tests' own."""

from __future__ import annotations

import socket
from typing import Any

import pytest


class Names:
    """Answers of look-ups of `hook.test`, in turn; the last one again and again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> None:
        self.asked = 0
        self._answers = answers
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._find)

    def _find(self, host: str | bytes, port: int, *args: Any, **options: Any) -> Any:
        if host not in ("hook.test", b"hook.test"):
            return self._real(host, port, *args, **options)
        addresses = self._answers[min(self.asked, len(self._answers) - 1)]
        self.asked += 1
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]
