"""Listening sockets."""

from __future__ import annotations

import socket
import sys
from typing import Final

BACKLOG: Final = 4096
UNSENT_BYTES: Final = 128 * 1024
"""Bytes per connection that the kernel buffers beyond those in flight; the server buffers and counts the rest."""


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening socket; port 0: any free port. `shared`: others may listen on the same port. Raises `OSError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG, reuse_port=shared)
    except OSError as error:
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    # Accepted connections inherit this option. asyncio's own loop sets it only on sockets with proto IPPROTO_TCP,
    # which `create_server` does not set. Without it, an event right after an answer waits 40 ms for the client's
    # delayed ACK.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Inherited too. Without it the kernel buffers up to 4 MB for each client that does not read, so the server writes
    # to it at full cost for seconds before it notices.
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
    return listening


def listen_together(host: str, port: int, number: int) -> list[socket.socket]:
    """Listening sockets on one port, for one process each. Raises `OSError`.

    Linux distributes connections among such sockets evenly, so each has a queue of its own. Elsewhere it may not:
    there all processes share one queue.
    """
    # Any process of the same user may share the port of sockets that are shared, but not of this one.
    with listen(host, port) as first:
        port = first.getsockname()[1]
    if sys.platform != "linux":
        return [listen(host, port)] * number
    return [listen(host, port, shared=True) for _ in range(number)]
