"""The network between a client and the server: a TCP relay that can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: a close discards what is buffered and sends RST, as when a network fails."""


class ClientLink:
    """An address of its own that leads to a server, also after that has restarted on another port."""

    def __init__(self, port_of_server: Callable[[], int | None]) -> None:
        """`port_of_server`: None while there is no server."""
        self._port_of_server = port_of_server
        self._connections: set[_Connection] = set()
        self._listener: asyncio.Server
        self.is_down = False
        """Whether new connections are refused."""
        self.url = ""

    async def start(self) -> None:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """End all connections. What is on its way in either direction is lost."""
        for connection in list(self._connections):
            connection.reset()

    def mute(self) -> None:
        """Lose everything that the server sends over the connections of now."""
        for connection in self._connections:
            connection.is_mute = True

    def stop(self) -> None:
        self._listener.close()
        self.cut()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = None if self.is_down else self._port_of_server()
        connection = _Connection(reader, writer)
        self._connections.add(connection)
        try:
            if port is not None:
                await connection.relay(port)
        except OSError:
            connection.reset()
        finally:
            connection.reset()
            self._connections.discard(connection)


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writers = [writer]
        self.is_mute = False

    async def relay(self, port: int) -> None:
        """Pass bytes on until both sides have ended, or either fails."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        self._writers.append(writer)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pass(self._reader, writer, is_down=False))
            group.create_task(self._pass(reader, self._writers[0], is_down=True))

    def reset(self) -> None:
        for writer in self._writers:
            if not writer.transport.is_closing():
                with contextlib.suppress(OSError):
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()

    async def _pass(self, source: asyncio.StreamReader, to: asyncio.StreamWriter, *, is_down: bool) -> None:
        try:
            while data := await source.read(65536):
                if not (is_down and self.is_mute):
                    to.write(data)
                    await to.drain()
            if to.can_write_eof():
                to.write_eof()
        except OSError:
            self.reset()
