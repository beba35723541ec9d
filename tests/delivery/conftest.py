"""Every test of this folder runs on both databases, and over both doors: Socket.IO and the plain WebSocket."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.delivery.support import plain_reader
from tests.support.client import PlainClient, plainly_connected

PLAIN: Mapping[str, Callable[..., Any]] = {
    "Client": PlainClient,
    "connected": plainly_connected,
    "reader": plain_reader,
}
"""What stands for the clients that the tests import, when they run over the plain WebSocket."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "database_url" in metafunc.fixturenames:
        ways = ["sqlite", "postgresql"]
        if not getattr(metafunc.module, "ONLY_SOCKETIO", False):
            ways.append("sqlite-websocket")
        metafunc.parametrize("database_url", ways, indirect=True)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    database, _, door = request.param.partition("-")
    if door:
        for name, client in PLAIN.items():
            monkeypatch.setattr(request.module, name, client, raising=False)
    url: str = request.getfixturevalue(f"{database}_url")
    return url
