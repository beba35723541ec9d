"""The gauges of a node's parts for `/metrics`, and a log line for each connection."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from shutil import disk_usage

from tidings.auth.sessions import Auth
from tidings.fanout.catchup import CatchUp
from tidings.fanout.connection import Connection
from tidings.fanout.hub import Hub
from tidings.log.health import Health
from tidings.log.indexer import Indexer
from tidings.log.journal import Journal
from tidings.log.views import EncodedEntry
from tidings.monitoring.logs import Logs
from tidings.monitoring.metrics import Metrics
from tidings.monitoring.traces import Traces
from tidings.push.sending import PushSender
from tidings.transport.admission import HalfOpen
from tidings.transport.tcp_connections import TcpConnections
from tidings.webhooks.delivery import Deliverer
from tidings_db.engine import Database
from tidings_db.queries.rows import EntryRow


class ConnectionRecorder:
    """Counts and logs connections. A `tidings.fanout.hub.ConnectionObserver`."""

    def __init__(self, metrics: Metrics, logs: Logs, traces: Traces | None = None) -> None:
        self._metrics = metrics
        self._logs = logs
        self._traces = traces

    def delivered(self, entries: Sequence[EntryRow | EncodedEntry]) -> None:
        last = entries[-1]
        if isinstance(last, EntryRow):  # else it comes encoded from another node
            self._metrics.delivered(max(0.0, time.time() - last.created_at / 1000))
        if self._traces is not None:
            self._traces.delivered(entries)

    def opened(self, connection: Connection) -> None:
        self._metrics.opened(connection.link.gateway)
        if self._logs.on:
            self._log("connection opened", connection, transport=connection.link.transport)

    def closed(self, connection: Connection) -> None:
        self._metrics.closed(connection.link.reason)
        if self._logs.on:
            duration_s = round(time.monotonic() - connection.opened_at, 3)
            self._log("connection closed", connection, reason=connection.link.reason, duration_s=duration_s)

    def _log(self, event: str, connection: Connection, **fields: object) -> None:
        self._logs.info(
            event,
            connection=connection.id,
            user=connection.principal.username,
            device=connection.device_key,
            gateway=connection.link.gateway,
            **fields,
        )


def register_log(metrics: Metrics, journal: Journal, indexer: Indexer) -> None:
    """Register the gauges of the log."""
    metrics.gauge("tidings_journal_queue_changes", "Changes that wait for a commit", lambda: journal.waiting)
    metrics.gauge("tidings_journal_queue_bytes", "Size of those changes", lambda: journal.waiting_bytes)
    metrics.gauge(
        "tidings_search_rooms_behind",
        "Rooms with entries that are not in the index yet",
        lambda: indexer.rooms_behind,
    )
    metrics.gauge(
        "tidings_search_behind_seconds",
        "Seconds for which the room that lags longest has been behind",
        lambda: indexer.lag,
    )


def register_vitals(metrics: Metrics, database: Database, health: Health, data_dir: Path) -> None:
    """Register what says whether the node can write."""
    metrics.check_health = health.trouble
    metrics.gauge("tidings_ready", "Whether messages can be written, as /health/ready says", lambda: health.ready)
    metrics.counter("tidings_database_errors", "Transactions that the database failed", lambda: database.failures)
    metrics.gauges(
        "tidings_disk_bytes",
        "The disk of the data directory",
        ("state",),
        lambda: {("free",): disk_usage(data_dir).free, ("total",): disk_usage(data_dir).total},
    )


def register_webhooks(metrics: Metrics, webhooks: Deliverer) -> None:
    """Register the metrics of the webhooks."""
    metrics.counters(
        "tidings_webhook_requests",
        "Requests of webhooks",
        ("outcome",),
        lambda: {(outcome,): count for outcome, count in webhooks.outcomes.items()},
    )
    metrics.gauge("tidings_webhooks_disabled", "Webhooks that are disabled", lambda: webhooks.disabled)
    metrics.gauge(
        "tidings_webhook_behind_seconds",
        "Seconds for which the room that lags longest has had entries for a webhook",
        lambda: webhooks.lag,
    )


def register_push(metrics: Metrics, push: PushSender) -> None:
    """Register the metrics of push notifications."""
    metrics.counters(
        "tidings_push_requests",
        "Requests to push services",
        ("outcome",),
        lambda: {(outcome,): count for outcome, count in push.outcomes.items()},
    )


def register_fanout(metrics: Metrics, hub: Hub, catch_up: CatchUp) -> None:
    """Register the gauges of the live connections."""
    metrics.gauges("tidings_connections", "Live connections", ("gateway", "transport"), lambda: _by_transport(hub))
    metrics.gauge(
        "tidings_connections_queued_bytes",
        "Bytes that wait in this process for clients to read",
        lambda: sum(connection.link.buffered for connection in hub.connections),
    )
    metrics.gauge("tidings_online_users", "Users with a live connection here", lambda: hub.users)
    metrics.gauge("tidings_live_rooms", "Rooms with a live connection here", lambda: len(hub.live_rooms))
    metrics.gauge(
        "tidings_held_rooms",
        "Rooms with received entries that wait for earlier ones",
        lambda: sum(bool(live_room.held) for live_room in hub.live_rooms.values()),
    )
    metrics.counter(
        "tidings_replayed_entries", "Entries sent to devices that had missed them", lambda: catch_up.replayed
    )


def register_process(metrics: Metrics, auth: Auth, tcp: TcpConnections, half_open: HalfOpen) -> None:
    """Register the gauges of connections that have not signed in, and of the event loop."""
    metrics.gauge("tidings_connections_half_open", "Connections without authentication", lambda: len(half_open))
    metrics.counter(
        "tidings_connections_half_open_dropped",
        "Connections without authentication, ended for new ones",
        lambda: half_open.dropped,
    )
    metrics.gauge("tidings_tcp_connections", "TCP connections, silent ones included", lambda: tcp.open)
    metrics.gauge("tidings_tcp_connections_silent", "Without a complete request head yet", lambda: len(tcp.silent))
    metrics.counter(
        "tidings_tcp_connections_refused",
        "TCP connections refused, over a limit of their source or of all",
        lambda: tcp.refused,
    )
    metrics.counter(
        "tidings_tcp_connections_dropped",
        "Silent and stalled TCP connections closed for new ones",
        lambda: tcp.dropped,
    )
    metrics.gauge("tidings_tasks", "Tasks of the event loop", lambda: len(asyncio.all_tasks()))
    metrics.gauge(
        "tidings_bcrypt_waiting", "Passwords that are hashed or wait for it", lambda: auth.passwords.waiting
    )


def _by_transport(hub: Hub) -> dict[Sequence[str], float]:
    paths = ("socketio", "polling"), ("socketio", "websocket"), ("websocket", "websocket")
    counts: Counter[Sequence[str]] = Counter(dict.fromkeys(paths, 0))
    counts.update((connection.link.gateway, connection.link.transport) for connection in hub.connections)
    return dict(counts)
