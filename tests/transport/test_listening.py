"""The listening sockets of several processes on one port."""

from __future__ import annotations

import contextlib
import select
import socket
import sys
from collections.abc import Iterator

import pytest

from tidings.transport.listening import listen, listen_together


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the processes share one queue")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_connections_are_distributed_among_sockets_on_one_port(stack: contextlib.ExitStack, host: str) -> None:
    sockets = [stack.enter_context(one) for one in listen_together(host, 0, 3)]
    ((_, port),) = {one.getsockname()[:2] for one in sockets}
    for _ in range(60):
        stack.enter_context(socket.create_connection((host, port)))
    ready, _, _ = select.select(sockets, [], [], 0)
    assert len(ready) == 3


def test_a_port_that_another_server_shares_among_its_processes_is_taken(stack: contextlib.ExitStack) -> None:
    (first, *_) = [stack.enter_context(one) for one in listen_together("127.0.0.1", 0, 2)]
    port = first.getsockname()[1]
    for again in (listen_together, lambda host, port, _: listen(host, port)):
        with pytest.raises(OSError, match="cannot listen on"):
            again("127.0.0.1", port, 2)
