"""A PostgreSQL server with a replica that can take over, and one address that leads to the server in charge."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import asyncpg
from sqlalchemy.engine import make_url

from tests.support.client import DEADLINE_S
from tidings.testing import postgresql
from tidings.testing.postgresql import LocalServer


class Replica(LocalServer):
    def copy(self, primary: LocalServer) -> None:
        """Become a replica of a running server, which replays what that commits."""
        source = ("-h", str(primary.home), "-p", "5432", "-U", "postgres")
        self.run("pg_basebackup", "-D", self.data, *source, "-R", "-X", "stream", "-c", "fast", "--no-sync")

    def promote(self) -> None:
        """Take over: it accepts changes when this returns."""
        self.run("pg_ctl", "-D", self.data, "-w", "promote")


class Pair:
    """`url` leads to `primary`, and to `replica` after `fail_over`."""

    def __init__(self, primary: LocalServer, replica: Replica) -> None:
        self.url = ""
        self._primary = primary
        self._replica = replica
        self._in_charge: LocalServer | None = primary
        """None: connections are refused."""
        self._links: set[asyncio.Task[None]] = set()

    async def wait_for_replica(self) -> None:
        """From here on a commit is acknowledged when the replica has it, too."""
        await self._tell(self._primary, "ALTER SYSTEM SET synchronous_standby_names TO '*'")
        await self._until(self._primary, "SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'")

    async def cut_off_replica(self) -> None:
        """From here on the replica gets nothing. It has everything that was committed before."""
        head = await self._ask(self._primary, "SELECT pg_current_wal_flush_lsn()::text")
        await self._until(self._replica, f"SELECT pg_last_wal_replay_lsn() >= '{head}'::pg_lsn")
        await self._tell(self._replica, "ALTER SYSTEM SET primary_conninfo TO ''")
        await self._until(self._replica, "SELECT count(*) = 0 FROM pg_stat_wal_receiver")

    async def fail_over(self) -> None:
        """The primary crashes, the replica takes over."""
        self._in_charge = None
        await asyncio.to_thread(self._primary.stop)
        await self._end_links()
        await asyncio.to_thread(self._replica.promote)
        self._in_charge = self._replica

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        link.add_done_callback(self._links.discard)
        with suppress(OSError, asyncio.CancelledError):
            if (server := self._in_charge) is not None:
                await _join((reader, writer), await asyncio.open_unix_connection(f"{server.home}/.s.PGSQL.5432"))
        writer.transport.abort()

    async def _end_links(self) -> None:
        for link in (links := set(self._links)):
            link.cancel()
        if links:
            await asyncio.wait(links)

    async def stop(self) -> None:
        self._in_charge = None
        await self._end_links()

    async def _ask(self, server: LocalServer, query: str) -> object:
        conn = await asyncpg.connect(server.url.replace("+asyncpg", ""))
        try:
            return await conn.fetchval(query)
        finally:
            await conn.close()

    async def _until(self, server: LocalServer, query: str) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not await self._ask(server, query):
                pass  # each is a round trip

    async def _tell(self, server: LocalServer, statement: str) -> None:
        await asyncio.to_thread(postgresql.execute, server.url, statement, "SELECT pg_reload_conf()")


Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _join(one: Ends, other: Ends) -> None:
    pumps = [asyncio.create_task(_pump(one[0], other[1])), asyncio.create_task(_pump(other[0], one[1]))]
    try:
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.wait(pumps)
        other[1].transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def pair() -> AsyncIterator[Pair]:
    """Two servers, the replica asynchronous at first. Raises `NoServer`."""
    primary, replica = LocalServer(), Replica()
    servers = Pair(primary, replica)
    try:
        await asyncio.to_thread(primary.create)
        await asyncio.to_thread(primary.start)
        try:
            await asyncio.to_thread(replica.copy, primary)
            await asyncio.to_thread(replica.start)
            listener = await asyncio.start_server(servers.accept, "127.0.0.1", 0)
            port = listener.sockets[0].getsockname()[1]
            there = make_url(primary.url).set(host="127.0.0.1", port=port, query={})
            servers.url = there.render_as_string(hide_password=False)
            try:
                yield servers
            finally:
                listener.close()
                await servers.stop()
        finally:
            for server in (primary, replica):
                with suppress(postgresql.NoServer):
                    await asyncio.to_thread(server.stop)
    finally:
        primary.remove()
        replica.remove()
