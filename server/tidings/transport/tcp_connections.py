"""The TCP connections of the process: limits per source, clients that do not read, and which to close when
descriptors run short.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import resource
import socket
import struct
import sys
import termios
import time
from collections import Counter
from collections.abc import Hashable
from contextlib import suppress
from functools import partial
from typing import Final, Generic, Protocol, TypeVar

from tidings.transport.addresses import source_of
from tidings.transport.timers import GetTimers

MAX_PER_SOURCE: Final = 1000
"""Connections of one source (an IPv4 address, an IPv6 /64) that is not a trusted proxy."""
MAX_DESCRIPTORS: Final = 1 << 20
"""The limit to set if the system has none."""
RESERVED: Final = 64
"""Descriptors reserved for the database, files and outgoing connections."""
WARN_S: Final = 60.0
SLOWEST: Final = 1024
"""Bytes per second: a client that reads, or sends a message, at least this fast is alive."""
STALLED_S: Final = 20.0
"""Seconds after which an unread answer is dropped, unless its client has read `SLOWEST` bytes in each of them."""
_NO_LINGER: Final = struct.pack("ii", 1, 0)

logger = logging.getLogger("tidings.transport")

T = TypeVar("T", bound=Hashable)


class Addresses(Protocol):
    """A set of addresses."""

    def __contains__(self, address: str, /) -> bool: ...


class SourceQueue(Generic[T]):
    """Items by source, in the order of arrival, with constant-time access to the busiest source."""

    def __init__(self) -> None:
        self._source: dict[T, str] = {}
        self._items: dict[str, dict[T, None]] = {}
        self._by_size: dict[int, dict[str, None]] = {}
        """Sources by the number of their items."""
        self._largest = 0

    def __len__(self) -> int:
        return len(self._source)

    def count(self, source: str) -> int:
        return len(self._items.get(source, ()))

    def sources(self) -> list[str]:
        """The source of each item."""
        return list(self._source.values())

    def add(self, item: T, source: str) -> None:
        items = self._items.setdefault(source, {})
        self._source[item] = source
        items[item] = None
        self._move(source, len(items) - 1, len(items))
        self._largest = max(self._largest, len(items))

    def remove(self, item: T) -> bool:
        """Remove an item. Returns False if it was not there."""
        source = self._source.pop(item, None)
        if source is None:
            return False
        items = self._items[source]
        del items[item]
        self._move(source, len(items) + 1, len(items))
        if not items:
            del self._items[source]
        if not self._by_size.get(self._largest):
            self._largest -= 1
        return True

    def oldest(self, source: str | None = None) -> T | None:
        """The oldest item of a source, by default of the busiest one; None if there is none."""
        if source is None:
            source = next(iter(self._by_size.get(self._largest, ())), None)
        return next(iter(self._items.get(source or "", ())), None)

    def _move(self, source: str, old_size: int, new_size: int) -> None:
        if old_size:
            sources = self._by_size[old_size]
            del sources[source]
            if not sources:
                del self._by_size[old_size]
        if new_size:
            self._by_size.setdefault(new_size, {})[source] = None


class TcpConnection:
    """One TCP connection, across changes of its protocol."""

    __slots__ = ("_connections", "_timer", "_transport", "source")

    def __init__(self, connections: TcpConnections, source: str, transport: asyncio.Transport) -> None:
        self._connections = connections
        self._transport = transport
        self._timer: asyncio.TimerHandle | None = None
        """Runs while bytes wait for the client."""
        self.source = source

    def head_received(self) -> None:
        """The connection has sent a complete request head: it is no longer silent."""
        self._connections.silent.remove(self)

    def expect_progress(self) -> None:
        """Bytes wait for the client: drop the connection if it does not read them. Idempotent."""
        if self._timer is None:
            self._expect_progress()

    def _expect_progress(self) -> None:
        self._connections.stalled.remove(self)
        self._connections.stalled.add(self, self.source)
        timers = self._connections.timers()
        check = partial(self._check_progress, unacknowledged(self._transport))
        self._timer = timers.call_at(timers.time() + STALLED_S, check)

    def _check_progress(self, before: int) -> None:
        if unacknowledged(self._transport) <= before - SLOWEST * STALLED_S:
            self._expect_progress()
        else:
            self.drop()

    def progressed(self) -> None:
        """The client has read enough for now. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._connections.stalled.remove(self)

    def drop(self) -> None:
        """Close the connection, whatever is unsent."""
        self.progressed()
        self._connections.silent.remove(self)
        abort(self._transport)

    def end(self) -> None:
        """The connection is over. Call it once."""
        self.progressed()
        self._connections.ended(self)


class Sheds(Protocol):
    def shed(self) -> bool:
        """End a connection, which frees its descriptor. Returns False if there is none."""


class TcpConnections:
    """Counts connections by source. `silent` are those that have not sent a complete request head yet; on `stalled`
    ones, an answer waits to be read.

    When descriptors run short, a connection of the busiest source is closed for each new one: the one that is stalled
    for longest, or else the oldest silent one. If there is neither, `half_open` ends another one that has not
    authenticated; if it cannot, the new one is refused.
    """

    def __init__(
        self,
        half_open: Sheds,
        max_per_source: int | None = MAX_PER_SOURCE,
        timers: GetTimers = asyncio.get_running_loop,
    ) -> None:
        """`half_open`: other connections that can be ended. `max_per_source`: None for no limit."""
        self.timers = timers
        self.trusted: Addresses = frozenset()
        """Addresses of proxies, whose connections carry many clients and are not limited by source."""
        self.silent: SourceQueue[TcpConnection] = SourceQueue()
        self.stalled: SourceQueue[TcpConnection] = SourceQueue()
        self._half_open = half_open
        self.open = 0
        self.refused = 0
        """Number of refused connections since the start."""
        self.dropped = 0
        """Stalled and silent connections closed for new ones since the start."""
        self.descriptors = descriptor_limit()
        self._max_per_source = max_per_source
        self._others = 0
        """Descriptors that were in use without a connection."""
        self._count_by_source: Counter[str] = Counter()
        self._warned_at = -WARN_S

    def begin(self, address: str, transport: asyncio.Transport) -> TcpConnection | None:
        """Count a new connection; None: refuse it."""
        source = source_of(address)
        if (
            self._max_per_source is not None
            and self._count_by_source[source] >= self._max_per_source
            and address not in self.trusted
        ):
            self.refused += 1
            return None
        self.descriptors = min(self.descriptors, descriptor_limit())  # an operator can lower it at any time
        # The system assigns the lowest free number, so all lower ones are in use; higher ones may be, too.
        descriptor: int = transport.get_extra_info("socket").fileno()
        if not self.open:
            self._others = descriptor
        if max(descriptor, self._others + self.open) >= self.descriptors - RESERVED and not self._make_room():
            self.refused += 1
            return None
        tcp_connection = TcpConnection(self, source, transport)
        self.open += 1
        self._count_by_source[source] += 1
        self.silent.add(tcp_connection, source)
        return tcp_connection

    def ended(self, tcp_connection: TcpConnection) -> None:
        self.silent.remove(tcp_connection)
        self.open -= 1
        self._count_by_source[tcp_connection.source] -= 1
        if not self._count_by_source[tcp_connection.source]:
            del self._count_by_source[tcp_connection.source]

    def _make_room(self) -> bool:
        now = time.monotonic()
        if now - self._warned_at >= WARN_S:
            self._warned_at = now
            logger.error(
                "file descriptors run short: %d connections, %d of them without a request, %d with an unread answer; "
                "limit %d (ulimit -n)",
                self.open,
                len(self.silent),
                len(self.stalled),
                self.descriptors,
            )
        # Two for each new connection: several may be accepted together, and would use up the last descriptors.
        if not self._drop_oldest():
            return self._half_open.shed()
        self._drop_oldest()
        return True

    def _drop_oldest(self) -> bool:
        oldest = self.stalled.oldest() or self.silent.oldest()
        if oldest is None:
            return False
        self.dropped += 1
        oldest.drop()
        return True


def unacknowledged(transport: asyncio.Transport) -> int:
    """Bytes that the peer has not acknowledged: in this process, and in the kernel if it reports them."""
    waiting = transport.get_write_buffer_size()
    try:
        in_kernel = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    except OSError:
        return waiting
    return waiting + int.from_bytes(in_kernel, sys.byteorder)


def abort(transport: asyncio.Transport) -> None:
    """Close, and drop unread bytes in the kernel, too, which could keep megabytes for minutes."""
    with suppress(OSError):
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    transport.abort()


def descriptor_limit() -> int:
    """The maximum number of descriptors of this process."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def raise_descriptor_limit() -> int:
    """Raise the limit as far as the system allows; returns the new limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < target:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
        except (OSError, ValueError) as error:  # macOS allows less than it reports
            logger.warning("the limit of file descriptors stays at %d: %s", soft, error)
    return descriptor_limit()
