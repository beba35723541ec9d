"""The connections of a node to Redis: one that publishes, one that is subscribed.

redis-py opens them: it knows the URLs, TLS, and how to sign in. From then on each is a stream of bytes, which hiredis
parses, as in redis-py. Its own pub/sub reads one message per call and waits for each write, which costs several times
as much, and a publisher must not wait.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import hiredis
from redis._parsers import _AsyncRESP2Parser
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

READ_BYTES: Final = 64 * 1024
MAX_WAITING: Final = 8 * 1024 * 1024
"""Bytes that may wait to be sent; beyond them messages are dropped."""
LONGEST_READ: Final = 8 * 1024 * 1024
"""Bytes of the longest message that is read. No node sends one like that."""
_LARGE_ARRAY: Final = re.compile(rb"\r\n[*~>|]\d{4,}\r\n")
"""The header of an array that no Redis sends here. hiredis allocates an array before its elements arrive."""
_LONGEST_HEADER: Final = 24


class Lost(Exception):
    """The connection has ended, or could not be opened; the argument says why."""


def check_url(url: str) -> None:
    """Raises `ValueError` if redis-py does not accept a URL."""
    try:
        _pool(url, 1.0).make_connection()  # type: ignore[no-untyped-call]
    except (TypeError, RedisError) as error:
        raise ValueError(str(error)) from None


def _pool(url: str, timeout_s: float) -> ConnectionPool:
    return ConnectionPool.from_url(
        url,
        protocol=2,
        socket_timeout=None,  # a subscriber waits for messages; `RedisBroker` notices a silent one
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
        driver_info=None,
        parser_class=_AsyncRESP2Parser,  # for signing in; it allocates nothing in advance
    )


class RedisLink:
    """Made by `open`."""

    def __init__(self, publisher: AbstractConnection, subscriber: AbstractConnection) -> None:
        self._connections = publisher, subscriber
        self._publisher, self._subscriber = _Stream(publisher), _Stream(subscriber)

    @classmethod
    async def open(cls, url: str, channels: Sequence[bytes], timeout_s: float) -> RedisLink:
        """Connect and subscribe; returns when both are confirmed. Raises `Lost`."""
        pool = _pool(url, timeout_s)
        connections: list[AbstractConnection] = [pool.make_connection() for _ in range(2)]  # type: ignore[no-untyped-call]
        try:
            async with asyncio.timeout(timeout_s):
                for connection in connections:
                    await connection.connect()  # type: ignore[no-untyped-call]
                link = cls(*connections)
                link._subscriber.write([(b"SUBSCRIBE", *channels)])
                await link._subscriber.read(len(channels))
                return link
        except (RedisError, OSError, Lost) as error:
            await _close(connections)
            raise Lost(str(error) or "no answer") from None
        except BaseException:
            await _close(connections)
            raise

    async def close(self) -> None:
        await _close(self._connections)

    def publish(self, messages: Iterable[tuple[bytes, bytes]]) -> int:
        """Publish messages, each with its channel. Never waits; returns how many were dropped."""
        commands: list[tuple[bytes, ...]] = []
        dropped, waiting = 0, self._publisher.waiting
        for channel, message in messages:
            waiting += len(message)
            if waiting > MAX_WAITING:
                dropped += 1
            else:
                commands.append((b"PUBLISH", channel, message))
        self._publisher.write(commands)
        return dropped

    async def read_messages(self, receive: Callable[[bytes, bytes], None]) -> str:
        """Call `receive` with the channel and the content of each message. Returns why the connection has ended."""

        def received(reply: Any) -> None:
            if isinstance(reply, list) and len(reply) == 3 and reply[0] == b"message":
                receive(reply[1], reply[2])

        return await self._subscriber.read_until_lost(received)

    async def read_replies(self) -> str:
        """Read the answers to what was published. Returns why the connection has ended, or what Redis refused."""

        def received(reply: Any) -> None:
            if isinstance(reply, Exception):
                raise Lost(str(reply))

        return await self._publisher.read_until_lost(received)


async def _close(connections: Iterable[AbstractConnection]) -> None:
    for connection in connections:
        if (writer := connection._writer) is not None:
            writer.transport.abort()  # what waits to be sent would keep it open
        await connection.disconnect(nowait=True)


class _Stream:
    """An open connection of redis-py, as a stream of replies."""

    def __init__(self, connection: AbstractConnection) -> None:
        if connection._reader is None or connection._writer is None:
            raise Lost("the connection was closed")
        self._incoming, self._outgoing = connection._reader, connection._writer
        self._pack = connection.pack_commands
        self._parser = hiredis.Reader()
        self._before = b"\r\n"
        """The last bytes received."""

    @property
    def waiting(self) -> int:
        """Bytes that wait to be sent."""
        return self._outgoing.transport.get_write_buffer_size()

    def write(self, commands: Sequence[tuple[bytes, ...]]) -> None:
        if commands and not self._outgoing.transport.is_closing():
            self._outgoing.write(b"".join(self._pack(commands)))

    async def read(self, count: int) -> None:
        """Read so many replies. Raises `Lost` or `OSError`."""
        while count:
            await self._fill()
            while (reply := self._parser.gets()) is not False:
                if isinstance(reply, Exception):
                    raise Lost(str(reply))
                count -= 1

    async def read_until_lost(self, received: Callable[[Any], None]) -> str:
        """Call `received` with each reply. Returns why the connection has ended."""
        gets = self._parser.gets
        try:
            while True:
                await self._fill()
                while (reply := gets()) is not False:
                    received(reply)
        except (Lost, OSError, hiredis.HiredisError) as error:
            return str(error) or type(error).__name__

    async def _fill(self) -> None:
        data = await self._incoming.read(READ_BYTES)
        if not data:
            raise Lost("the connection was closed")
        recent = self._before + data
        if _LARGE_ARRAY.search(recent):
            raise Lost("a reply has too many elements")
        self._before = recent[-_LONGEST_HEADER:]
        self._parser.feed(data)
        if self._parser.len() > LONGEST_READ:
            raise Lost("a message is too long")
