"""One server process: its parts, how they are put together, and the order in which they start and stop."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import tidings.actions
from tidings.actions.access import Directory
from tidings.actions.context import Parts
from tidings.actions.dispatch import Dispatcher, Registry
from tidings.actions.echo_channel import EchoChannel
from tidings.actions.stream_authors import StreamAuthors
from tidings.auth.attempts import Attempts, MemoryStore, Rates, attempt_rates, kept_ms
from tidings.auth.external import ExternalTokens
from tidings.auth.external_keys import key_from
from tidings.auth.limits import Limit, Limits
from tidings.auth.passwords import BCRYPT_ROUNDS
from tidings.auth.sessions import Auth
from tidings.cli.file_lock import LOCK_PATIENCE_S, only_server
from tidings.cluster.broker import Broker
from tidings.cluster.feed import POLL_S
from tidings.cluster.postgresql import PostgreSQLCluster
from tidings.cluster.registry import LEASE_S, PREFIX
from tidings.cluster.shared_attempts import SharedStore
from tidings.contract.models import RoomKind
from tidings.fanout.catchup import CatchUp
from tidings.fanout.cluster import Cluster, LocalNode
from tidings.fanout.confirming import confirm_all
from tidings.fanout.delivery import Delivery
from tidings.fanout.hub import HEAD_CHECK_S, Hub
from tidings.fanout.presence import PRESENCE_S
from tidings.fanout.publisher import Publisher
from tidings.fanout.session_check import SESSION_CHECK_S, SessionCheck
from tidings.fanout.typing import TYPING_S
from tidings.files.store import make_store
from tidings.files.uploads import Files
from tidings.gateways.applications import ApplicationUsers, RoomsOfHub
from tidings.gateways.client_session import Backend
from tidings.gateways.dialects.mounting import Dialects
from tidings.gateways.dialects.registry import DIALECTS
from tidings.gateways.socketio import SocketIOGateway
from tidings.gateways.websocket import JsonCodec, PlainClient
from tidings.gateways.websocket_client import WebSocketGateway
from tidings.log.cursors import Cursors
from tidings.log.deletion import Deletions
from tidings.log.epochs import MARK_S, Epochs, MarkFile
from tidings.log.health import Health
from tidings.log.indexer import Indexer
from tidings.log.journal import Journal
from tidings.log.outbox import Outbox
from tidings.log.purge import Purge
from tidings.log.quotas import Quotas
from tidings.log.retention import RETENTION_S, Retention
from tidings.log.streams import Interruptions
from tidings.monitoring.gauges import (
    ConnectionRecorder,
    register_fanout,
    register_log,
    register_process,
    register_push,
    register_vitals,
    register_webhooks,
)
from tidings.monitoring.logs import Logs
from tidings.monitoring.memory import MemoryTrim
from tidings.monitoring.metrics import Metrics
from tidings.monitoring.traces import Traces
from tidings.monitoring.vitals import Vitals
from tidings.previews.service import Previews
from tidings.push.sending import PushSender
from tidings.settings import MIGRATIONS_NEEDED, REDIS_NEEDS_POSTGRESQL, Settings, SettingsError
from tidings.supervision import Periodic
from tidings.transport.admission import MAX_HALF_OPEN
from tidings.transport.buffered_session import LINGER_S
from tidings.transport.tcp_connections import MAX_PER_SOURCE, TcpConnections
from tidings.transport.timers import GetTimers
from tidings.webhooks.delivery import Deliverer
from tidings_db.engine import Database, StoreUnavailable
from tidings_db.outbox_functions import CHANNEL
from tidings_db.schema import migrate, pending


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeOptions:
    """Options for tests and for applications built on Tidings: another broker, other intervals (in seconds)."""

    broker: Broker | None = None
    """In place of the one that the settings choose; only on PostgreSQL."""
    publisher: Publisher | None = None
    logs: Logs | None = None
    bcrypt_rounds: int = BCRYPT_ROUNDS
    session_check_s: float = SESSION_CHECK_S
    head_check_s: float = HEAD_CHECK_S
    typing_s: float = TYPING_S
    presence_s: float = PRESENCE_S
    retention_s: float = RETENTION_S
    mark_s: float = MARK_S
    lease_s: float = LEASE_S
    poll_s: float = POLL_S
    timers: GetTimers = asyncio.get_running_loop
    """Timers of sign-ins, heartbeats, expiring tokens, and typing."""
    engine: Mapping[str, Any] = field(default_factory=dict)
    """Options of the Socket.IO gateway (`connect_timeout`, `ping_interval`)."""
    websocket: Mapping[str, Any] = field(default_factory=dict)
    """Options of the WebSocket gateways, those of the dialects included."""
    external: Mapping[str, Any] = field(default_factory=dict)
    """Options of `ExternalTokens` (`clock`, `fetch_s`)."""
    echo: Mapping[str, float] = field(default_factory=dict)
    """Options of the echo channel (`answer_s`, `idle_s`)."""
    streams: Mapping[str, float] = field(default_factory=dict)
    """Options of streams without appends (`silence_s`, `check_s`)."""
    previews: Mapping[str, Any] = field(default_factory=dict)
    """Options of link previews (`private`, `fetch_s`, `clock`)."""
    webhooks: Mapping[str, Any] = field(default_factory=dict)
    """Options of the delivery of webhooks (`check_s`, `answer_s`, `first_retry_s`, `clock`)."""
    push: Mapping[str, Any] = field(default_factory=dict)
    """Options of push notifications (`providers`, `wait_s`, `check_s`, `claim_s`, `first_retry_s`, `clock`)."""


HALF_OPEN_PER_SOURCE = 200
CONNECTIONS_OF_WORKERS, MIN_CONNECTIONS = 32, 4
"""Connections to PostgreSQL that all workers of a supervisor use at a time, and the fewest for one of them."""
STOP_S = 13.0
"""Stopping takes no longer, even if the store does not answer."""
STOP_PART_S = LINGER_S + 1.0
"""The longest that one part may take: enough for clients to read the last events of their connections."""

logger = logging.getLogger("tidings.node")


class Node:
    """One server process."""

    def __init__(self, settings: Settings, options: NodeOptions) -> None:
        self.settings = settings
        self.logs = Logs(settings.log_level) if options.logs is None else options.logs
        registry = Registry(tidings.actions)
        self.metrics = Metrics(action.name for action in registry)
        try:
            self.traces = Traces(settings.node_label) if settings.traced else None
        except ImportError as error:
            raise SettingsError(f"OTEL_EXPORTER_OTLP_ENDPOINT is set: install tidings[otel] ({error})") from None
        self.id = secrets.token_urlsafe(9)
        """Names this process in the database; new at each start."""
        self.name = settings.node_label
        self.database = Database(
            settings.database, settings.durability, node=self.id, connections=connections_of_worker(settings.workers)
        )
        self.cluster = make_cluster(settings, options, self.database, self.id, self.metrics)
        if self.cluster.is_shared:
            self.logs.node = self.name
        self.publisher = options.publisher or Publisher()
        quotas = Quotas(**settings.quotas)

        self.cursors = Cursors()
        self.hub = Hub(
            self.database,
            self.cluster,
            self.publisher,
            self.cursors,
            ConnectionRecorder(self.metrics, self.logs, self.traces),
            head_check_s=options.head_check_s,
            presence_s=options.presence_s,
            typing_s=options.typing_s,
            timers=options.timers,
        )
        self.catch_up = CatchUp(self.database, self.hub, self.cursors, lambda: self.epochs.current)
        self.auth = make_auth(settings, options, self.database, self.publisher, quotas)
        self.sessions = SessionCheck(self.database, self.hub, self.auth.used, options.session_check_s)
        self.delivery = Delivery(self.cluster, self.publisher, self.hub, self.catch_up, self.sessions)
        self.indexer = Indexer(self.database)
        self.webhooks = Deliverer(
            self.database, self.id, private=settings.webhook_private == "on", **options.webhooks
        )
        self.push = PushSender(
            self.database,
            contact=settings.push_contact or settings.public_contact,
            enabled=settings.push != "off",
            private=settings.push == "private",
            **options.push,
        )
        self.previews = Previews(
            self.database,
            enabled=settings.link_previews == "on",
            public_url=settings.public_url,
            **options.previews,
        )
        followers = self.indexer, self.webhooks, self.push
        self.journal = Journal(self.database, self.delivery, self.cursors, followers, self.metrics, quotas)
        self.authors = StreamAuthors(self.journal, self.hub.streams)
        self.interruptions = Interruptions(
            self.database, self.journal, self.auth.server, self.hub.streams.expect, **options.streams
        )
        self.outbox = Outbox(self.database, self.journal, self.auth.server)
        self.epochs: Epochs = Epochs(
            self.database,
            MarkFile(settings.mark_file),
            lambda: self.journal.transactions,
            self.hub.log_went_back,
            options.mark_s,
            self.journal.latest_entries,
            is_shared=self.cluster.is_shared,
        )
        self.retention, self.purge = make_maintenance(settings, options, self.database, self.delivery, quotas)
        self.deletions = Deletions(self.database, self.journal, options.retention_s)
        self.files = Files(
            self.database,
            make_store(settings.files_url, settings.data_dir),
            settings.data_dir / "uploads",
            quotas,
            max_bytes=settings.file_bytes,
            origin=settings.files_origin,
            interval_s=options.retention_s,
        )
        self.echo = EchoChannel(self.journal, settings.echo_upstream, **options.echo)
        self.vitals = Vitals(self.metrics)
        health = Health(
            self.database,
            self.journal,
            (self.journal.loop, self.hub.head_check, self.sessions.loop, *self.cluster.loops),
            self.cluster,
        )
        self.parts = Parts(
            self.database,
            self.auth,
            Directory(self.database),
            self.journal,
            self.hub,
            self.cursors,
            self.echo,
            self.indexer,
            self.webhooks,
            self.push,
            self.previews,
            health,
            self.authors,
            self.deletions,
            self.files,
            self.vitals,
            self.name,
            settings.data_dir,
            Limits({kind: settings.rates[kind] for kind in Limit}) if settings.limited else None,
            closed_directory=settings.directory == "closed",
        )
        self.dispatcher = Dispatcher(
            registry, unavailable=(StoreUnavailable,), metrics=self.metrics, logs=self.logs, traces=self.traces
        )
        self.application_users = ApplicationUsers(self.parts, self.dispatcher, self.database, options.session_check_s)
        self.socketio, self.websocket, self.dialects = make_gateways(
            settings,
            options,
            Backend(self.parts, self.dispatcher, self.catch_up),
            RoomsOfHub(self.parts, self.publisher),
            self.application_users,
            lambda: self.cluster.public_since,
            id_prefix=self.id[:PREFIX],
            elsewhere=self.cluster.elsewhere,
            manager=self.cluster.applications,
        )
        half_open = self.socketio.eio.half_open
        self.connections = TcpConnections(half_open, MAX_PER_SOURCE if settings.limited else None, options.timers)
        register_log(self.metrics, self.journal, self.indexer)
        register_vitals(self.metrics, self.database, health, settings.data_dir)
        register_webhooks(self.metrics, self.webhooks)
        register_push(self.metrics, self.push)
        register_fanout(self.metrics, self.hub, self.catch_up)
        register_process(self.metrics, self.auth, self.connections, half_open)
        self.memory_trim = MemoryTrim()
        self._periodic: dict[str, Periodic] = {
            "the check of sessions": self.sessions,
            "the check of applications' users": self.application_users,
            "retention": self.retention,
            "the purge": self.purge,
            "the deletion of accounts": self.deletions,
            "the deletion of files": self.files,
            "the end of silent streams": self.interruptions,
            "the trim of memory": self.memory_trim,
            "the lag of the event loop": self.vitals,
        }
        self._stack = AsyncExitStack()
        self._drained = False
        self._stop_by: float | None = None
        """The deadline of stopping, by the loop's clock."""
        self.unfinished: list[str] = []
        """The parts that did not end in time."""

    async def start(self) -> None:
        """Open the database and start the parts. Raises `StoreUnavailable` or `SettingsError`."""
        settings = self.settings
        async with AsyncExitStack() as stack:
            await prepare(self.database, settings, stack)

            def on_stop(part: str, stop: Callable[[], Awaitable[object]]) -> None:
                stack.push_async_callback(self._stop_part, part, stop)

            if self.traces is not None:
                on_stop("traces", partial(asyncio.to_thread, self.traces.stop))
            await self.database.start()
            on_stop("the database", self.database.stop)
            await self.epochs.start()
            on_stop("the marks of the database", self.epochs.stop)
            stack.callback(self.auth.stop)
            keys = settings.signing_keys()
            self.auth.sign_with(keys)
            self.publisher.start(self.cluster, self.delivery.receive)
            here = LocalNode(
                self.hub,
                self.catch_up,
                self.sessions,
                self.publisher.deliver,
                self.journal.flush_cursors,
                self.socketio.connections_of,
                keys,
                self.epochs.instance,
                lambda: self.epochs.current,
            )
            self.cluster.listen(CHANNEL, self.outbox.wake)
            await self.cluster.start(here, on_stop)
            self.hub.start()
            on_stop("the hub", self.hub.stop)
            await self.journal.start()
            on_stop("the journal", self.journal.stop)
            if not self.database.is_sqlite:
                await self.outbox.start()
                on_stop("the outbox", self.outbox.stop)
            await self.indexer.start()
            on_stop("the search index", self.indexer.stop)
            await self.webhooks.start()
            on_stop("webhooks", self.webhooks.stop)
            await self.push.start()
            on_stop("push notifications", self.push.stop)
            on_stop("link previews", self.previews.stop)
            stack.callback(self.hub.typists.stop)
            on_stop("presence", self.hub.presence.stop)
            for part, periodic in self._periodic.items():
                await periodic.start()
                on_stop(part, periodic.stop)
            on_stop("replays", self.catch_up.stop)
            stack.push_async_callback(self.drain)
            await self.dialects.start()
            self._stack = stack.pop_all()

    async def drain(self) -> None:
        """Refuse new work, finish the running actions, notify the connections and close them. Idempotent."""
        if not self._drained:
            self._drained = True
            await self._stop_part("the announcement to other nodes", self.cluster.leave)
            self.auth.passwords.drain()
            await self._stop_part("the echo server's answers", self.echo.stop)
            await self._stop_part("actions", self.dispatcher.drain)
            await self._stop_part("the text of streams", self.authors.stop)
            await self._stop_part("the last confirmations", self._confirm_all)
            gateways = self.socketio, self.websocket, self.dialects
            await self._stop_part("connections", lambda: asyncio.gather(*(gateway.stop() for gateway in gateways)))
            await self._stop_part("relayed connections", self.cluster.elsewhere.leave)

    async def _confirm_all(self) -> None:
        """Write the cursors of all devices, as far as their clients have received, before other nodes read them."""
        await confirm_all(self.hub.connections)
        await self.journal.flush_cursors()

    async def stop(self) -> None:
        """Stop all parts within `STOP_S`, counted from `drain`. Those that do not end are in `unfinished`."""
        await self._stack.aclose()
        self.logs.flush()

    async def _stop_part(self, part: str, stop: Callable[[], Awaitable[object]]) -> None:
        """Stop a part, or give up on it at its deadline."""
        now = asyncio.get_running_loop().time()
        self._stop_by = self._stop_by or now + STOP_S
        stopping = asyncio.ensure_future(stop())
        await asyncio.wait([stopping], timeout=max(0.1, min(STOP_PART_S, self._stop_by - now)))
        if stopping.done():
            stopping.result()
            return
        stopping.cancel()
        self.unfinished.append(part)
        logger.error("the server stops without waiting any longer for %s", part)


def connections_of_worker(workers: int) -> int | None:
    """How many connections to the database a worker may use at a time; None: the default, for a single process."""
    return None if workers == 1 else max(MIN_CONNECTIONS, CONNECTIONS_OF_WORKERS // workers)


def make_cluster(
    settings: Settings, options: NodeOptions, database: Database, node_id: str, metrics: Metrics
) -> Cluster:
    """Raises `SettingsError`."""
    if not database.is_sqlite:
        return PostgreSQLCluster(
            settings, database, node_id, metrics, options.broker, poll_s=options.poll_s, lease_s=options.lease_s
        )
    if settings.redis_urls:
        raise SettingsError(REDIS_NEEDS_POSTGRESQL)
    return Cluster()


async def prepare(database: Database, settings: Settings, stack: AsyncExitStack) -> None:
    """Check the tables; make them on SQLite, after taking the lock of the file. Raises `SettingsError`."""
    if database.is_sqlite:
        settings.prepare_data_dir()
        await stack.enter_async_context(only_server(Path(database.url.database or ""), LOCK_PATIENCE_S))
        database.make_room()
        await asyncio.to_thread(migrate, settings.database)
    elif await asyncio.to_thread(pending, settings.database):
        raise SettingsError(MIGRATIONS_NEEDED)


def make_maintenance(
    settings: Settings, options: NodeOptions, database: Database, delivery: Delivery, quotas: Quotas
) -> tuple[Retention, Purge]:
    days = {
        RoomKind.TOPIC: settings.retention_topic_days,
        RoomKind.DIRECT: settings.retention_direct_days,
        RoomKind.GROUP: settings.retention_group_days,
    }
    purge = Purge(
        database,
        delivery,
        session_days=settings.session_days,
        sessions_days=settings.purge_sessions_days,
        devices_days=settings.purge_devices_days,
        echo_entries=quotas.echo_entries,
        attempts_ms=kept_ms(_attempt_rates(settings)),
        interval_s=options.retention_s,
    )
    return Retention(database, days, options.retention_s), purge


def _attempt_rates(settings: Settings) -> Rates:
    return attempt_rates(*(settings.rates[kind] for kind in ("logins", "registrations", "conflicts")))


def make_auth(
    settings: Settings, options: NodeOptions, database: Database, publisher: Publisher, quotas: Quotas
) -> Auth:
    attempts = None
    if settings.limited:
        rates = _attempt_rates(settings)
        attempts = Attempts(MemoryStore(rates) if database.is_sqlite else SharedStore(database, rates))
    return Auth(
        database,
        publisher,
        external=make_external(settings, options),
        registration=settings.registration,
        token_minutes=settings.access_token_expire_minutes,
        session_days=settings.session_days,
        attempts=attempts,
        sessions=quotas.sessions,
        bcrypt_rounds=options.bcrypt_rounds,
    )


def make_external(settings: Settings, options: NodeOptions) -> ExternalTokens | None:
    """Raises `SettingsError`."""
    if not settings.jwt_issuer:
        return None
    setting = "TIDINGS_JWT_KEY"
    try:
        key = None if settings.jwt_jwks_url else key_from(settings.jwt_key.get_secret_value())
        setting = "TIDINGS_JWT_ISSUER"
        return ExternalTokens(
            settings.jwt_issuer,
            key=key,
            jwks_url=settings.jwt_jwks_url,
            audience=settings.jwt_audience,
            username_claim=settings.jwt_username_claim,
            name_claim=settings.jwt_name_claim,
            **options.external,
        )
    except ValueError as error:
        raise SettingsError(f"{setting}: {error}") from None


def make_gateways(
    settings: Settings,
    options: NodeOptions,
    backend: Backend,
    rooms: RoomsOfHub,
    users: ApplicationUsers,
    public_since: Callable[[], int],
    **sessions: Any,
) -> tuple[SocketIOGateway, WebSocketGateway, Dialects]:
    """`sessions`: options of the Socket.IO server and its sessions."""
    engine = {"max_half_open_per_source": HALF_OPEN_PER_SOURCE if settings.limited else MAX_HALF_OPEN, **sessions}
    socketio = SocketIOGateway(
        backend,
        rooms,
        users,
        parser=settings.parser,
        cors_allowed_origins=settings.origins,
        cors_credentials=settings.cors_credentials,
        timers=options.timers,
        **engine | dict(options.engine),
    )
    websocket = WebSocketGateway(
        partial(PlainClient, JsonCodec()),
        backend,
        socketio.eio.half_open,
        cors_allowed_origins=settings.origins,
        timers=options.timers,
        **options.websocket,
    )
    dialects = Dialects(
        DIALECTS,
        backend,
        socketio.eio.half_open,
        dev_tokens=settings.dev_tokens,
        public_channel=settings.public_channel == "start",
        public_since=public_since,
        public_url=settings.public_url,
        cors_allowed_origins=settings.origins,
        timers=options.timers,
        **options.websocket,
    )
    return socketio, websocket, dialects
