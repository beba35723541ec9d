"""What operators see of a node's parts: the gauges of `/metrics`, and a log line for each connection."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

from server.auth import Auth
from server.fanout.catchup import CatchUp
from server.fanout.connection import Connection
from server.fanout.hub import Hub
from server.log.indexer import Indexer
from server.log.journal import Journal
from server.logs import Logs
from server.metrics import Metrics
from server.transport.admission import HalfOpen
from server.transport.tcp_connections import TcpConnections


class ConnectionRecorder:
    """Counts and logs connections. A `server.fanout.hub.ConnectionObserver`."""

    def __init__(self, metrics: Metrics, logs: Logs) -> None:
        self._metrics = metrics
        self._logs = logs

    def opened(self, connection: Connection) -> None:
        self._metrics.opened(connection.link.gateway)
        if self._logs.on:
            self._logs.info(
                "connection opened",
                connection=connection.id,
                user=connection.principal.username,
                device=connection.device_key,
                gateway=connection.link.gateway,
                transport=connection.link.transport,
            )

    def closed(self, connection: Connection) -> None:
        self._metrics.closed(connection.link.reason)
        if self._logs.on:
            self._logs.info(
                "connection closed",
                connection=connection.id,
                user=connection.principal.username,
                device=connection.device_key,
                gateway=connection.link.gateway,
                reason=connection.link.reason,
                duration_s=round(time.monotonic() - connection.opened_at, 3),
            )


def register_log(metrics: Metrics, journal: Journal, indexer: Indexer) -> None:
    """Register the gauges of the log."""
    metrics.gauge("tidings_journal_queue_changes", "Changes that wait for a commit", lambda: journal.waiting)
    metrics.gauge("tidings_journal_queue_bytes", "Their size", lambda: journal.waiting_bytes)
    metrics.gauge("tidings_search_rooms_behind", "Rooms not wholly in the index", lambda: indexer.rooms_behind)
    metrics.gauge(
        "tidings_search_behind_seconds", "For how long the room longest behind has been", lambda: indexer.lag
    )


def register_fanout(metrics: Metrics, hub: Hub, catch_up: CatchUp) -> None:
    """Register the gauges of the live connections."""
    metrics.gauges("tidings_connections", "Live connections", ("gateway", "transport"), lambda: _by_transport(hub))
    metrics.gauge(
        "tidings_connections_queued_bytes",
        "What waits in this process for clients to read",
        lambda: sum(connection.link.buffered for connection in hub.connections),
    )
    metrics.gauge("tidings_online_users", "Users with a live connection here", lambda: hub.users)
    metrics.gauge("tidings_live_rooms", "Rooms with a live connection here", lambda: len(hub.live_rooms))
    metrics.counter("tidings_replayed_entries", "Entries sent to who had missed them", lambda: catch_up.replayed)


def register_process(metrics: Metrics, auth: Auth, tcp: TcpConnections, half_open: HalfOpen) -> None:
    """Register the gauges of connections that have not signed in, and of the event loop."""
    metrics.gauge("tidings_connections_half_open", "Connections without authentication", lambda: len(half_open))
    metrics.counter(
        "tidings_connections_half_open_dropped",
        "Connections without authentication, ended for newcomers",
        lambda: half_open.dropped,
    )
    metrics.gauge("tidings_tcp_connections", "TCP connections, silent ones included", lambda: tcp.open)
    metrics.gauge("tidings_tcp_connections_silent", "Without a whole request head yet", lambda: len(tcp.silent))
    metrics.counter("tidings_tcp_connections_refused", "Too many, of one source or in all", lambda: tcp.refused)
    metrics.counter("tidings_tcp_connections_dropped", "Silent, closed for newcomers", lambda: tcp.dropped)
    metrics.gauge("tidings_tasks", "Tasks of the event loop", lambda: len(asyncio.all_tasks()))
    metrics.gauge("tidings_bcrypt_waiting", "Passwords looked at or waiting", lambda: auth.passwords.waiting)


def _by_transport(hub: Hub) -> dict[Sequence[str], float]:
    ways = ("socketio", "polling"), ("socketio", "websocket"), ("websocket", "websocket")
    found: Counter[Sequence[str]] = Counter(dict.fromkeys(ways, 0))
    found.update((connection.link.gateway, connection.link.transport) for connection in hub.connections)
    return dict(found)
