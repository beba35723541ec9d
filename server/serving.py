"""Serving the application with uvicorn: from the first line it prints to a clean stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import BinaryIO

import uvicorn

from server.app import Application
from server.settings import SettingsError
from server.transport.direct import DirectWebSocket, Http
from server.transport.protocol import MAX_PAYLOAD

BACKLOG = 4096
UNSENT_BYTES = 128 * 1024
"""What the kernel takes of a connection beyond what is on its way; the rest waits here, where it is counted."""
LOCK_PATIENCE_S = 10.0
DURABILITY = {
    "full": "an acknowledged message survives a crash of the machine",
    "normal": "an acknowledged message survives a crash of the process, not of the machine",
}


class Server(uvicorn.Server):
    """uvicorn, told to drain the node before it closes connections."""

    def __init__(self, app: Application, host: str, port: int) -> None:
        self._app = app
        self.starting: asyncio.Task[object] | None = None
        """The task to cancel if told to stop before there is anything to drain."""
        self.listening = asyncio.Event()
        self._stopping = asyncio.Event()
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                lifespan="off",  # `run` starts and stops the node
                http=Http,
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
        yield  # `stopped_by_signals` has them, from before the first line that is printed

    @contextlib.contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """Stop on SIGTERM and SIGINT, with exit status 0; a second SIGINT stops without waiting."""
        loop = asyncio.get_running_loop()
        stopping = (signal.SIGTERM, signal.SIGINT)
        try:
            for number in stopping:
                loop.add_signal_handler(number, self._told_to_stop, number)
        except (NotImplementedError, RuntimeError, ValueError):  # Windows, or not the main thread
            yield
            return
        try:
            yield
        finally:
            for number in stopping:
                loop.remove_signal_handler(number)

    def _told_to_stop(self, number: int) -> None:
        if self.starting is not None and not self.should_exit:
            self.starting.cancel()
        self.handle_exit(number, None)
        self._stopping.set()

    def stop(self) -> None:
        """Have `serve` drain the node and return."""
        self.should_exit = True
        self._stopping.set()

    async def main_loop(self) -> None:
        """uvicorn's, which looks ten times a second whether to stop; but it stops at once."""
        ticks = 0
        while not await self.on_tick(ticks):
            ticks += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), 0.1)

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
    settings, node = app.node.settings, app.node
    server = Server(app, settings.host, settings.port)
    with server.stopped_by_signals():
        server.starting = asyncio.current_task()
        try:
            async with AsyncExitStack() as stack:
                if node.database.is_sqlite:
                    settings.prepare_data_dir()
                    await stack.enter_async_context(only_server(Path(node.database.url.database or "")))
                await node.start()
                stack.push_async_callback(node.stop)
                listening = stack.enter_context(listen(settings.host, settings.port))
                server.starting = None
                host, port = listening.getsockname()[:2]
                _settle_garbage_collector()
                print(banner(app, str(host), int(port)), flush=True)
                await server.serve([listening])
        except asyncio.CancelledError:
            if not server.should_exit:
                raise


def _settle_garbage_collector() -> None:
    """What was imported stays; and what comes now (entries, frames, answers) is freed by its references, in the main.

    The collector's defaults walk every connection again for each few thousand messages.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    # Accepted connections inherit it. asyncio's own loop sets it only on sockets that say they are TCP, which those
    # of `create_server` do not; without it an event right behind an answer waits 40 ms for the client's delayed ACK.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Inherited too. Without it the kernel takes 4 MB for a client that does not read, a copy for each: seconds of
    # writing at full cost, before it is known to be slow.
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
    return listening


@asynccontextmanager
async def only_server(database: Path, patience_s: float = LOCK_PATIENCE_S) -> AsyncIterator[None]:
    """Be the only server on a SQLite file, or raise `SettingsError`.

    Two would each believe that what they publish is all there is, and both would checkpoint. One that is started
    before the one before it has ended (a restart) waits for it. The lock is the operating system's: it ends with the
    process, however that ends. The command line's other commands do not take it, they may work beside a server.
    """
    with _open_lock(database) as file:
        deadline = time.monotonic() + patience_s
        told = False
        while not _lock(file.fileno()):
            if time.monotonic() >= deadline:
                raise SettingsError(f"another server is running on {database}: end it first")
            if not told:
                told = True
                waiting = f"waiting for it to end, {patience_s:g} s at most"
                print(f"tidings: another server is running on {database}; {waiting}", file=sys.stderr, flush=True)
            await asyncio.sleep(0.05)
        yield


def _open_lock(database: Path) -> BinaryIO:
    """The lock's file, beside the database, whichever way to it the settings name."""
    path = database.resolve()
    return path.with_name(f"{path.name}.lock").open("ab")


def _lock(descriptor: int) -> bool:
    """Take an exclusive lock on a file; False if another process has it. It ends when the file is closed."""
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
    else:
        import fcntl

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
