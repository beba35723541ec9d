"""`python -m tests.transport.serve SERVER`: Tidings as an ASGI application under another server than its own.

It prints where it listens, and serves until SIGTERM.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable

import uvicorn
from granian.constants import Interfaces
from granian.server import Server as Granian
from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.config import Config as HypercornConfig

from server.app import Application, create_app

FACTORY = "tests.transport.serve:application"


def application() -> Application:
    """The factory that a server is given; the settings are in the environment."""
    return create_app(bcrypt_rounds=4)


def main() -> None:
    with socket.socket() as held:
        # A free port; it stays ours until the server has it too.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        print(f"http://127.0.0.1:{port}", flush=True)
        SERVERS[sys.argv[1]](port)


def uvicorn_with(websockets: str) -> Callable[[int], None]:
    def serve(port: int) -> None:
        with socket.socket() as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listening.bind(("127.0.0.1", port))
            config = uvicorn.Config(FACTORY, factory=True, ws=websockets, lifespan="on", timeout_graceful_shutdown=2)  # type: ignore[arg-type]
            uvicorn.Server(config).run([listening])

    return serve


def hypercorn(port: int) -> None:
    config = HypercornConfig()
    config.graceful_timeout = 2
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind(("127.0.0.1", port))
        config.bind = [f"fd://{listening.detach()}"]
    asyncio.run(hypercorn_serve(application(), config))


def granian(port: int) -> None:
    Granian(FACTORY, "127.0.0.1", port, interface=Interfaces.ASGI, factory=True).serve()


SERVERS: dict[str, Callable[[int], None]] = {
    "granian": granian,
    "hypercorn": hypercorn,
    "uvicorn, websockets": uvicorn_with("websockets"),
    "uvicorn, websockets-sansio": uvicorn_with("websockets-sansio"),
    "uvicorn, wsproto": uvicorn_with("wsproto"),
}


if __name__ == "__main__":
    main()
