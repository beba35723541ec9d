"""`python -m tests.transport.serve SERVER`: Tidings as an ASGI application under another server than its own.

It listens, prints its address, and serves until SIGTERM. Requests before the startup wait.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import sys
from collections.abc import Callable

import uvicorn
from granian.constants import Interfaces
from granian.net import SocketHolder
from granian.server import MPServer
from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.config import Config as HypercornConfig

from tidings.app import Application, create_app

FACTORY = "tests.transport.serve:application"


def application() -> Application:
    """The application factory for the servers; the settings are in the environment."""
    return create_app(bcrypt_rounds=4)


def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
        SERVERS[sys.argv[1]](listening)


def uvicorn_with(websockets: str) -> Callable[[socket.socket], None]:
    def serve(listening: socket.socket) -> None:
        config = uvicorn.Config(FACTORY, factory=True, ws=websockets, lifespan="on", timeout_graceful_shutdown=2)  # type: ignore[arg-type]
        uvicorn.Server(config).run([listening])

    return serve


def hypercorn(listening: socket.socket) -> None:
    config = HypercornConfig()
    config.graceful_timeout = 2
    config.bind = [f"fd://{listening.detach()}"]
    asyncio.run(hypercorn_serve(application(), config))


class Granian(MPServer):
    """Granian with a listening socket: it has no option for one, and on Linux its workers open their own."""

    def __init__(self, listening: socket.socket) -> None:
        super().__init__(FACTORY, interface=Interfaces.ASGI, factory=True)
        self._listening = listening

    def _init_shared_socket(self) -> None:
        self._shd, self._sso = SocketHolder(self._listening.fileno(), False, self.backlog), None


def granian(listening: socket.socket) -> None:
    multiprocessing.set_start_method("fork")  # so that the worker has the socket
    Granian(listening).serve()


SERVERS: dict[str, Callable[[socket.socket], None]] = {
    "granian": granian,
    "hypercorn": hypercorn,
    "uvicorn, websockets": uvicorn_with("websockets"),
    "uvicorn, websockets-sansio": uvicorn_with("websockets-sansio"),
    "uvicorn, wsproto": uvicorn_with("wsproto"),
}


if __name__ == "__main__":
    main()
