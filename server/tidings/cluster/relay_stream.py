"""Streams between nodes: how one is opened, read and written, and joined to a client's connection."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit

from tidings.transport.elsewhere import RELAY_HEADER, RELAY_PROTOCOL

HIGH_WATER: Final = 64 * 1024
"""Bytes that wait in one direction of a stream before its sender is paused."""
LINGER_S: Final = 5.0
"""How long a stream may take to write its last bytes after the other end has closed."""
_SUN_PATH: Final = 100
"""Bytes of the longest address of a Unix socket, on any system."""


class SocketDirectory:
    """The Unix sockets of the nodes that share a data directory, one file for each node."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._listening: Path | None = None

    def address(self, node_id: str) -> str | None:
        """The address of a node's socket; None if there is no such file, or its path is too long."""
        file = self._path / f"{node_id}.sock"
        return self._short(file) if file.exists() else None

    def _short(self, file: Path) -> str | None:
        """A path that fits into an address: on Linux through a descriptor of the directory, if it is too long."""
        path = str(file.absolute())
        if len(os.fsencode(path)) <= _SUN_PATH:
            return path
        if not sys.platform.startswith("linux"):
            return None
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._descriptor}/{file.name}"

    def listen(self, node_id: str) -> socket.socket | None:
        """Make the socket of this node, and remove those of nodes that have ended. None if that is not possible.

        Raises OSError if the directory cannot be written.
        """
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file in self._path.glob("*.sock"):
            if _is_dead(self._short(file)):
                file.unlink(missing_ok=True)
        file = self._path / f"{node_id}.sock"
        unready = file.with_suffix(".new")  # until it listens, it looks like that of a node that has ended
        address = self._short(unready)
        if address is None or self._short(file) is None:
            return None
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.bind(address)
            os.chmod(unready, 0o600)
            listening.listen(1024)
            listening.setblocking(False)
            unready.rename(file)
        except OSError:
            listening.close()
            unready.unlink(missing_ok=True)
            raise
        self._listening = file
        return listening

    def close(self) -> None:
        """Remove the socket of this node."""
        if self._listening is not None:
            self._listening.unlink(missing_ok=True)
            self._listening = None
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _is_dead(address: str | None) -> bool:
    """Whether nobody listens on a Unix socket."""
    if address is None:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(address)
        except ConnectionRefusedError:
            return True
        except OSError:  # its backlog is full, or it belongs to somebody else
            return False
    return False


class RelayStream(asyncio.Protocol):
    """One stream to another node. Until it is joined, one task reads it and one writes it."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self._received = bytearray()
        self._changed = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._over = False
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are not instances of it
        self.transport.set_write_buffer_limits(HIGH_WATER)

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._changed.set()
        if len(self._received) >= HIGH_WATER and not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        self.connection_lost(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._over = True
        self._changed.set()
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def read(self) -> bytes:
        """The next bytes; empty at the end."""
        while not self._received and not self._over:
            self._changed.clear()
            await self._changed.wait()
        data = bytes(self._received)
        self._received.clear()
        if self._paused and not self.transport.is_closing():
            self.transport.resume_reading()
        self._paused = False
        return data

    async def write(self, data: bytes) -> None:
        """Write, and wait while the buffer is full. After the end of the stream, bytes are dropped."""
        if not self.transport.is_closing():
            self.transport.write(data)
        await self._writable.wait()

    def abort(self) -> None:
        self.transport.abort()

    def take(self) -> bytes:
        """The bytes that nobody has read, before another protocol reads the transport."""
        if self._paused and not self.transport.is_closing():
            self.transport.resume_reading()
        self._paused = False
        return bytes(self._received)

    @property
    def over(self) -> bool:
        return self._over


class _End(asyncio.Protocol):
    """One end of two connections that are joined: the other end writes what this one reads."""

    other: _End

    def __init__(self, transport: asyncio.Transport, on_lost: Callable[[], object]) -> None:
        self.transport = transport
        self._on_lost: Callable[[], object] | None = on_lost
        self._timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        self.other.transport.write(data)

    def pause_writing(self) -> None:
        if not self.other.transport.is_closing():
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def eof_received(self) -> bool:
        return False  # the transport closes: a WebSocket ends in both directions

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.other.close()
        if self._on_lost is not None:
            self._on_lost()
            self._on_lost = None

    def close(self) -> None:
        """Close after the waiting bytes are written, for which there is a time limit."""
        if not self.transport.is_closing():
            self.transport.close()
            self._timer = asyncio.get_running_loop().call_later(LINGER_S, self.transport.abort)


def join(
    client: asyncio.Transport,
    stream: asyncio.Transport,
    *,
    to_client: bytes,
    to_stream: bytes,
    on_lost: Callable[[], object],
) -> None:
    """Copy bytes in both directions until one side ends; a side that does not read pauses the other.

    Args:
        to_client: what the other node has sent already; `to_stream`: what the client has.
        on_lost: called when the client's connection has ended.
    """
    here, there = _End(client, on_lost), _End(stream, lambda: None)
    here.other, there.other = there, here
    for end, data in (here, to_client), (there, to_stream):
        end.transport.set_write_buffer_limits(HIGH_WATER)
        end.transport.set_protocol(end)
        if data:
            end.transport.write(data)
        if end.transport.is_closing():
            end.connection_lost(None)


def opening(target: bytes, host: str, relay_pass: bytes) -> bytes:
    """The request that begins a stream. `target`: its path, as `relay.Relay` reads it."""
    return b"GET %b HTTP/1.1\r\nHost: %b\r\nConnection: Upgrade\r\nUpgrade: %b\r\n%b: %b\r\n\r\n" % (
        target,
        host.encode(),
        RELAY_PROTOCOL,
        RELAY_HEADER,
        relay_pass,
    )


class StreamOpener:
    """Opens streams to other nodes: over their Unix sockets if they share the data directory, else over TCP."""

    def __init__(self, sockets: SocketDirectory) -> None:
        self._sockets = sockets
        self._tls: ssl.SSLContext | None = None

    async def open(self, node_id: str, url: str) -> tuple[RelayStream, str] | None:
        """A stream, and the value of `Host` for it; None if the node is not reached."""
        loop = asyncio.get_running_loop()
        address = self._sockets.address(node_id)
        if address is not None:
            with suppress(OSError):
                _, stream = await loop.create_unix_connection(RelayStream, address)
                return stream, "tidings"
        if not url:
            return None
        target = urlsplit(url)
        options: dict[str, Any] = {}
        if target.scheme == "https":
            if self._tls is None:
                self._tls = await asyncio.to_thread(ssl.create_default_context)
            options["ssl"] = self._tls
        port = target.port or (443 if target.scheme == "https" else 80)
        with suppress(OSError):
            _, stream = await loop.create_connection(RelayStream, target.hostname or "", port, **options)
            return stream, target.netloc
        return None
