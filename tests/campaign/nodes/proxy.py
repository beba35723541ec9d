"""PostgreSQL as one node reaches it: a TCP proxy that goes silent, refuses, or holds up the reading of the feed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from sqlalchemy.engine import make_url

FEED = b"FROM feed WHERE"
"""In the statement that reads the feed; only the feed's own connection sends it."""


class Proxy:
    def __init__(self, url: str) -> None:
        """`url`: of a database whose server listens on TCP or on a Unix socket."""
        self._target = make_url(url)
        self.url = ""
        self._passing = asyncio.Event()
        self._passing.set()
        self._feed_passing = asyncio.Event()
        self._feed_passing.set()
        self._refusing = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        there = self._target.set(host="127.0.0.1", port=port, query={})
        self.url = there.render_as_string(hide_password=False)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._end_links()

    def silence(self) -> None:
        """Pass nothing in either direction, also on new connections. Nothing is lost."""
        self._passing.clear()

    async def refuse(self) -> None:
        """End all connections and refuse new ones."""
        self._refusing = True
        await self._end_links()

    def hold_feed(self) -> None:
        """Let no statement that reads the feed pass; everything else does."""
        self._feed_passing.clear()

    def heal(self) -> None:
        self._refusing = False
        self._passing.set()
        self._feed_passing.set()

    async def _end_links(self) -> None:
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if not self._refusing:
                await self._link(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = self._target
        host, port = str(target.query.get("host", target.host or "")), int(str(target.query.get("port", target.port)))
        if host.startswith("/"):
            to_server = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        else:
            to_server = await asyncio.open_connection(host, port)
        is_feed = asyncio.Event()
        pumps = [
            asyncio.create_task(self._pump(reader, to_server[1], is_feed)),
            asyncio.create_task(self._pump(to_server[0], writer, None)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.wait(pumps)
            to_server[1].transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_feed: asyncio.Event | None
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                if is_feed is not None and FEED in data:
                    is_feed.set()
                if is_feed is not None and is_feed.is_set():
                    await self._feed_passing.wait()
                await self._passing.wait()
                writer.write(data)
                await writer.drain()


@asynccontextmanager
async def proxy(url: str) -> AsyncIterator[Proxy]:
    there = Proxy(url)
    await there.start()
    try:
        yield there
    finally:
        await there.stop()
