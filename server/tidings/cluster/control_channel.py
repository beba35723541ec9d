"""The channel between the supervisor and a worker: JSON objects, one per line, over a pair of sockets."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any, Final

MAX_LINE: Final = 16 * 1024 * 1024
"""The longest message in bytes: the metrics of a worker."""
MAX_UNREAD: Final = 1024 * 1024
"""Messages are dropped while the other side leaves more bytes unread: it hangs."""

ControlMessage = dict[str, Any]


class ControlChannel:
    """One end. Whether the other process has ended shows at the end of the messages."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, end: socket.socket) -> ControlChannel:
        return cls(*await asyncio.open_unix_connection(sock=end, limit=MAX_LINE))

    def send(self, kind: str, **fields: object) -> None:
        """Send a message. Never blocks; nothing is sent to a process that has ended."""
        transport = self._writer.transport
        if not transport.is_closing() and transport.get_write_buffer_size() < MAX_UNREAD:
            self._writer.write(json.dumps({"kind": kind, **fields}).encode() + b"\n")

    async def receive(self) -> ControlMessage | None:
        """Wait for the next message. Returns None if the other process has ended. Cancelling it loses no message."""
        try:
            line = await self._reader.readline()
        except (ConnectionError, ValueError):  # reset, or a line that is too long
            return None
        if not line.endswith(b"\n"):
            return None
        message: ControlMessage = json.loads(line)
        return message

    def close(self) -> None:
        self._writer.close()
