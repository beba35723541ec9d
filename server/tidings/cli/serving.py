"""Serves the application with uvicorn: the start, the banner, and a clean stop on signals."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import threading
from collections.abc import Collection, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

from tidings.app import Application
from tidings.cli.banner import banner, url_of
from tidings.cluster.worker import Worker
from tidings.supervision import spawn
from tidings.transport.listening import listen
from tidings.transport.socketio_server import MAX_PAYLOAD
from tidings.transport.tcp_connections import raise_descriptor_limit
from tidings.transport.uvicorn_server import DrainingServer

STOPPING = (signal.SIGTERM, signal.SIGINT)
FORCED_EXIT_S = 15.0
"""The process exits this long after the signal even if something hangs, such as a thread in a system call."""

logger = logging.getLogger("tidings.cli.serving")


class Server(DrainingServer):
    """Serves the application, and stops on signals (`stopped_by_signals`)."""

    def __init__(self, app: Application, host: str, port: int) -> None:
        super().__init__(
            app,
            host,
            port,
            max_message=MAX_PAYLOAD,
            drain=app.node.drain,
            listen_for_nodes=app.elsewhere.listen,
        )
        self._node = app.node
        self.starting: asyncio.Task[object] | None = None
        """The task to cancel if a signal arrives during the start."""
        self._departing: asyncio.Task[None] | None = None
        self._also_leaving: set[str] = set()
        """Ids of other nodes that stop together with this one."""
        self._owns_process = False
        """Whether the process ends with the server."""
        self._last_resort: threading.Timer | None = None
        app.connections.trusted = self.trusted_proxies()

    @contextlib.contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """Stop on SIGTERM or SIGINT, with exit status 0. A second one ends the process without waiting."""
        self._owns_process = True
        loop = asyncio.get_running_loop()
        try:
            for number in STOPPING:
                loop.add_signal_handler(number, self._handle_stop_signal)
        except (RuntimeError, ValueError):  # not the main thread
            yield
            return
        try:
            yield
        finally:
            for number in STOPPING:
                loop.remove_signal_handler(number)

    def _handle_stop_signal(self) -> None:
        for number in STOPPING:  # a second signal gets the default handler, which works even if the event loop hangs
            asyncio.get_running_loop().remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        self.leave()

    def leave(self, *, also_leaving: Collection[str] = (), replaced: bool = False) -> None:
        """Stop, after the connections have moved to the nodes that stay, if any do. Idempotent.

        Args:
            also_leaving: ids of nodes that stop together with this one. A later call may add some.
            replaced: another process already accepts connections on the port, so this one need not.
        """
        self._also_leaving.update(also_leaving)
        if self._departing is not None or self.should_exit:
            return
        if self.starting is not None or not self._others_stay():
            self.stop()
        else:
            self._departing = spawn(self._depart(replaced), "departure")

    def stop(self) -> None:
        """Stop now."""
        if self.starting is not None and not self.should_exit:
            self.starting.cancel()
        self._exit_within(FORCED_EXIT_S)
        super().stop()

    def trusted_addresses(self) -> list[str] | str:
        """The addresses and networks whose `X-Forwarded-For` uvicorn trusts."""
        return self.config.forwarded_allow_ips or ""

    def _others_stay(self) -> bool:
        return not self.should_exit and not self._node.cluster.staying <= self._also_leaving

    async def _depart(self, replaced: bool) -> None:
        settings = self._node.settings
        wait_s = 0.0 if replaced else settings.drain_wait
        self._exit_within(wait_s + settings.drain_s + FORCED_EXIT_S)
        if replaced:
            for listener in self.servers:
                listener.close()
        try:
            await self._node.cluster.depart(wait_s, self._others_stay)
        finally:
            self.stop()

    def _exit_within(self, seconds: float) -> None:
        if not self._owns_process:
            return
        if self._last_resort is not None:
            self._last_resort.cancel()
        self._last_resort = threading.Timer(seconds, self._end_process)
        self._last_resort.daemon = True
        self._last_resort.start()

    def _end_process(self) -> None:
        logger.critical("the server did not stop in time: exiting now")
        self._node.logs.flush()
        os._exit(1)


async def run(app: Application, host: str, port: int, worker: Worker | None = None) -> None:
    """Serve until SIGTERM or SIGINT, or until the supervisor of a worker says so or ends.

    Raises `SettingsError`, `StoreUnavailable` or `OSError` if it cannot start.
    """
    settings, node = app.node.settings, app.node
    node.connections.descriptors = raise_descriptor_limit()
    node.logs.info("descriptors", limit=node.connections.descriptors)
    server = Server(app, host, port)
    with server.stopped_by_signals():
        server.starting = asyncio.current_task()
        try:
            async with AsyncExitStack() as stack:
                if worker is not None:
                    await stack.enter_async_context(worker.attached(server, node))
                await node.start()
                stack.push_async_callback(node.stop)
                await node.database.keep_reserve()
                listening = stack.enter_context(listen(host, port) if worker is None else worker.listening)
                server.starting = None
                host, port = listening.getsockname()[:2]
                _settle_garbage_collector()
                if worker is None:
                    trusted = server.trusted_addresses()
                    print(banner(settings, node.database.url, str(host), int(port), trusted), flush=True)
                    stack.enter_context(_published(url_of(str(host), int(port)), settings.address_file))
                await server.serve([listening])
        except asyncio.CancelledError:
            if not server.should_exit:
                raise
    if node.unfinished:  # a thread may hang in a system call, and the interpreter would wait for it
        node.logs.flush()
        os._exit(1)


@contextlib.contextmanager
def _published(url: str, file: Path) -> Iterator[None]:
    """Keep the address in a file, for commands on this machine. They can do without."""
    with contextlib.suppress(OSError):
        file.write_text(url, "utf-8")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            file.unlink()


def _settle_garbage_collector() -> None:
    """Freeze the imported objects, and set how often the collector runs.

    Reference counting frees entries, frames, answers and most of a closed connection. The collector's default
    thresholds would traverse all connections every few thousand messages. But the rest of a closed connection (a
    cancelled replay, exceptions, objects of libraries) has mostly survived a young collection, and needs an old one.
    With thresholds of 50,000, 20 and 20, memory grew by 7 MiB a minute while clients connected and disconnected. With
    these, an old collection runs after 80,000 new objects, but not before the survivors have grown by a quarter.

    Garbage from the start is frozen as well: it is less than 1,000 objects, and finding it would add a twentieth to
    the start.
    """
    gc.freeze()
    gc.enable()
    gc.set_threshold(20_000, 2, 2)
