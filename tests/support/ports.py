"""Ports that stay reserved while a server restarts."""

from __future__ import annotations

import os
import socket
import sys
import weakref


def port_of(owner: object) -> int:
    """A free port that is reserved while `owner` lives, so that a server can stop and start again on it.

    Linux allows listening on a port to which a socket that does not listen is bound, if both set SO_REUSEADDR, and
    does not assign such a port to others. On other systems the result is 0: any port.
    """
    if sys.platform != "linux":
        return 0
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        weakref.finalize(owner, os.close, bound.detach())
    return port
