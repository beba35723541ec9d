"""Serving the application with uvicorn: from the first line it prints to a clean stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator

import uvicorn

from server.app import Application
from server.gateways.socketio import MAX_PAYLOAD
from server.transport.direct import DirectWebSocket

BACKLOG = 4096
DURABILITY = {
    "full": "an acknowledged message survives a crash of the machine",
    "normal": "an acknowledged message survives a crash of the process, not of the machine",
}


class Server(uvicorn.Server):
    """uvicorn, told to drain the node before it closes connections."""

    def __init__(self, app: Application, host: str, port: int) -> None:
        self._app = app
        self.listening = asyncio.Event()
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                lifespan="off",  # `run` starts and stops the node
                ws=DirectWebSocket,
                ws_max_size=MAX_PAYLOAD,
                ws_per_message_deflate=False,  # it holds memory per connection
                ws_ping_interval=None,  # Engine.IO has a heartbeat of its own
                timeout_keep_alive=5,
                timeout_graceful_shutdown=10,
                access_log=False,
                log_config=None,
                server_header=False,
                backlog=BACKLOG,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGTERM and SIGINT, with exit status 0; a second one stops without waiting."""
        loop = asyncio.get_running_loop()
        stopping = (signal.SIGTERM, signal.SIGINT)
        try:
            for number in stopping:
                loop.add_signal_handler(number, self.handle_exit, number, None)
        except (NotImplementedError, RuntimeError, ValueError):  # Windows, or not the main thread
            yield
            return
        try:
            yield
        finally:
            for number in stopping:
                loop.remove_signal_handler(number)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in self.servers:
            listener.close()
        await self._app.node.drain()
        await super().shutdown(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


def banner(app: Application, host: str, port: int) -> str:
    settings, database = app.node.settings, app.node.database
    shown = f"[{host}]" if ":" in host else host
    data = database.url.database if database.is_sqlite else database.url.render_as_string(hide_password=True)
    return "\n".join(
        (
            f"Tidings listening on http://{shown}:{port}",
            f"  data        {data}",
            f"  durability  {settings.durability}: {DURABILITY[settings.durability]}",
        )
    )


async def run(app: Application) -> None:
    """Serve until SIGTERM or SIGINT. Raises `SettingsError`, `StoreUnavailable` or `OSError` if it cannot start."""
    settings = app.node.settings
    await app.node.start()
    try:
        with listen(settings.host, settings.port) as listening:
            host, port = listening.getsockname()[:2]
            print(banner(app, str(host), int(port)), flush=True)
            await Server(app, settings.host, settings.port).serve([listening])
    finally:
        await app.node.stop()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)
