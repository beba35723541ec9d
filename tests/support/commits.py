"""A proxy to PostgreSQL that can lose the answer to a commit, and can freeze."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.engine import make_url

_COMMIT = b"C\x00\x00\x00\x0bCOMMIT\x00"
"""CommandComplete"""
_WRITTEN = re.compile(
    rb"D\x00\x00\x00(?:\x23\x00\x05|\x2b\x00\x07)\x00\x00\x00\x01\x01\x00\x00\x00\x08.{8}\xff{12}"
    rb"|D\x00\x00\x00\x17\x00\x02\x00\x00\x00\x01\x01\x00\x00\x00\x08",
    re.DOTALL,
)
"""DataRows of `if_unchanged`, sent after its commit: true, a time; of `queries.journal` also three or five NULLs."""


class Commits:
    """Passes everything on. After `lose_answer` it cuts a connection after its next commit, before the answer."""

    def __init__(self, host: str, port: int) -> None:
        """`host` may be the directory of a Unix socket."""
        self._host, self._port = host, port
        self._connections: set[asyncio.Task[None]] = set()
        self._losing: bytes | None = None
        self._passing = asyncio.Event()
        self._passing.set()
        self.lost = asyncio.Event()
        """Set when the answer to a commit was lost; the commit has taken effect."""

    def lose_answer(self, containing: bytes = b"") -> None:
        """Lose the next answer to a commit, on a connection on which these bytes were sent from now on."""
        self._losing = containing

    def freeze(self) -> None:
        """From now on pass nothing on in either direction, and end no connection."""
        self._passing.clear()

    def thaw(self) -> None:
        self._passing.set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        if self._host.startswith("/"):
            from_server, to_server = await asyncio.open_unix_connection(f"{self._host}/.s.PGSQL.{self._port}")
        else:
            from_server, to_server = await asyncio.open_connection(self._host, self._port)
        chosen = asyncio.Event()
        requests = asyncio.create_task(self._pass_requests(reader, to_server, chosen))
        try:
            await self._pass_answers(from_server, writer, chosen)
        finally:
            requests.cancel()
            for end in (writer, to_server):
                end.transport.abort()

    async def _pass_requests(
        self, client: asyncio.StreamReader, server: asyncio.StreamWriter, chosen: asyncio.Event
    ) -> None:
        """`chosen`: set when the answer to the next commit is to be lost."""
        with contextlib.suppress(OSError):
            while data := await client.read(65536):
                await self._passing.wait()
                if self._losing is not None and self._losing in data:
                    chosen.set()
                server.write(data)
                await server.drain()
        server.close()

    async def _pass_answers(
        self, server: asyncio.StreamReader, client: asyncio.StreamWriter, chosen: asyncio.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await server.read(65536):
                await self._passing.wait()
                if self._losing is not None and chosen.is_set() and (_COMMIT in data or _WRITTEN.search(data)):
                    self._losing = None
                    self.lost.set()
                    return
                client.write(data)
                await client.drain()

    async def stop(self) -> None:
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)


@asynccontextmanager
async def commits(database_url: str) -> AsyncIterator[tuple[Commits, str]]:
    """The proxy, and the URL of the database through it."""
    url = make_url(database_url)
    target = {"host": url.host or "127.0.0.1", "port": url.port or 5432, **url.query}
    proxy = Commits(str(target["host"]), int(str(target["port"])))
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        proxied = url.difference_update_query(["host", "port"]).set(host="127.0.0.1", port=port)
        yield proxy, proxied.render_as_string(hide_password=False)
    finally:
        server.close()
        await proxy.stop()
