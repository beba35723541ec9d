"""Ports that stay one's own."""

from __future__ import annotations

import os
import socket
import sys
import weakref


def port_of(owner: object) -> int:
    """A free port that nobody else is given while `owner` lives, so that a server can stop and come back on it.

    Linux lets one listen on a port to which a socket that does not listen is bound, if both say SO_REUSEADDR, and
    gives it to nobody who asks for any. Elsewhere it is 0: any.
    """
    if sys.platform != "linux":
        return 0
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        weakref.finalize(owner, os.close, bound.detach())
    return port
