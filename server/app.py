"""The only place that wires things together: settings in, an ASGI application out."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, MutableMapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.resources.abc import Traversable
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

import server.actions
from db.engine import Database, StoreUnavailable
from db.schema import migrate, pending
from server import __version__
from server.access import Directory
from server.auth import BCRYPT_ROUNDS, Auth
from server.context import Parts
from server.contract.models import RoomKind
from server.delivery.broker import Broker, MemoryBroker
from server.delivery.catchup import CatchUp
from server.delivery.connection import Connection
from server.delivery.cursors import Cursors
from server.delivery.hub import HEAD_CHECK_S, Hub
from server.delivery.indexer import Indexer
from server.delivery.journal import Journal
from server.delivery.presence import PRESENCE_S, Presence
from server.delivery.retention import RETENTION_S, Retention
from server.delivery.sessions import SESSION_CHECK_S, SessionCheck
from server.delivery.typing import TYPING_S, Typists
from server.dispatch import Dispatcher, Registry
from server.echo import EchoChannel
from server.gateways import docs, rest
from server.gateways import web as web_client
from server.gateways.dialects.mount import Dialects
from server.gateways.requests import Requests
from server.gateways.socketio import SocketIOGateway
from server.gateways.websocket import WebSocketGateway
from server.limits import Limits
from server.logs import Logs
from server.metrics import Metrics
from server.settings import Settings, SettingsError
from server.transport.admission import MAX_HALF_OPEN
from server.transport.direct import Opening, Wire
from server.transport.outlet import Receive, Send

SOCKETIO_PATH = "/socket.io"
WEBSOCKET_PATH = "/ws"
_DIRECT_PATHS = (b"/socket.io/", b"/socket.io")
HALF_OPEN_PER_ADDRESS = 200


class Node:
    """One server process: its parts, and the order in which they start and stop."""

    def __init__(
        self,
        settings: Settings,
        *,
        broker: Broker | None = None,
        logs: Logs | None = None,
        bcrypt_rounds: int = BCRYPT_ROUNDS,
        session_check_s: float = SESSION_CHECK_S,
        engine: dict[str, Any] | None = None,
        websocket: dict[str, Any] | None = None,
        head_check_s: float = HEAD_CHECK_S,
        typing_s: float = TYPING_S,
        presence_s: float = PRESENCE_S,
        echo: dict[str, float] | None = None,
        retention_s: float = RETENTION_S,
    ) -> None:
        """`engine`, `websocket`: options of those gateways (`connect_timeout`, `ping_interval`; in s).

        `websocket` is also the dialects'. `echo`: options of the echo channel (`answer_s`, `idle_s`).
        """
        self.settings = settings
        self.logs = Logs(settings.log_level) if logs is None else logs
        self.database = Database(settings.database, settings.durability)
        self.broker: Broker = MemoryBroker() if broker is None else broker
        self.hub = Hub(self.database, self.broker, head_check_s=head_check_s)
        self.cursors = Cursors(self.hub.members_of)
        self.journal = Journal(self.database, self.broker, self.hub, self.cursors)
        self.indexer = Indexer(self.database)
        self.journal.appended = self.indexer.appended
        self.presence = Presence(self.database, self.broker, self.hub, presence_s=presence_s)
        self.catch_up = CatchUp(self.database, self.hub, self.cursors, self.presence)
        self.typists = Typists(self.broker, typing_s=typing_s)
        self.hub.left = self.typists.end
        self.echo = EchoChannel(self.journal, settings.echo_upstream, **(echo or {}))
        self.retention = Retention(
            self.database,
            {
                RoomKind.TOPIC: settings.retention_topic_days,
                RoomKind.DIRECT: settings.retention_direct_days,
                RoomKind.GROUP: settings.retention_group_days,
            },
            retention_s,
        )
        self.sessions = SessionCheck(self.database, self.hub, session_check_s)
        self.auth = Auth(
            self.database,
            self.broker,
            token_minutes=settings.access_token_expire_minutes,
            logins=settings.limit_logins if settings.limited else None,
            registrations=settings.limit_registrations,
            bcrypt_rounds=bcrypt_rounds,
        )
        self.parts = Parts(
            self.database,
            self.auth,
            Directory(self.database),
            self.journal,
            self.hub,
            self.cursors,
            self.typists,
            self.presence,
            self.echo,
            self.indexer,
        )
        registry = Registry(server.actions)
        self.metrics = Metrics(action.name for action in registry)
        self.dispatcher = Dispatcher(
            registry,
            unavailable=(StoreUnavailable,),
            metrics=self.metrics,
            logs=self.logs,
            limits=Limits(settings.limits) if settings.limited else None,
        )
        self.socketio = SocketIOGateway(
            self.parts,
            self.dispatcher,
            self.catch_up,
            parser=settings.parser,
            cors_allowed_origins=settings.cors_origins,
            max_half_open_per_address=HALF_OPEN_PER_ADDRESS if settings.limited else MAX_HALF_OPEN,
            **(engine or {}),
        )
        self.websocket = WebSocketGateway(
            self.parts,
            self.dispatcher,
            self.catch_up,
            self.socketio.eio.half_open,
            cors_allowed_origins=settings.cors_origins,
            **(websocket or {}),
        )
        self.dialects = Dialects(
            self.parts,
            self.dispatcher,
            self.catch_up,
            self.socketio.eio.half_open,
            dev_tokens=settings.dev_tokens,
            cors_allowed_origins=settings.cors_origins,
            **(websocket or {}),
        )
        self._watch()
        self._stack = AsyncExitStack()
        self._drained = False

    def _watch(self) -> None:
        """Have the parts tell, or be asked, what `/metrics` shows of them."""
        hub, journal, metrics = self.hub, self.journal, self.metrics
        hub.opened, hub.ended = self._opened, self._ended
        journal.committed = metrics.committed
        metrics.gauges(
            "tidings_connections", "Live connections", ("gateway", "transport"), lambda: _by_transport(hub)
        )
        metrics.gauge(
            "tidings_connections_queued_bytes",
            "What waits in this process for clients to read",
            lambda: sum(connection.link.buffered for connection in hub.connections),
        )
        metrics.gauge(
            "tidings_connections_half_open",
            "Connections without authentication",
            lambda: len(self.socketio.eio.half_open),
        )
        metrics.gauge("tidings_online_users", "Users with a live connection here", lambda: hub.users)
        metrics.gauge("tidings_live_rooms", "Rooms with a live connection here", lambda: hub.live_rooms)
        metrics.gauge("tidings_journal_queue_changes", "Changes that wait for a commit", lambda: journal.waiting)
        metrics.gauge("tidings_journal_queue_bytes", "Their size", lambda: journal.waiting_bytes)
        metrics.gauge("tidings_bcrypt_waiting", "Passwords looked at or waiting", lambda: self.auth.passwords.waiting)
        metrics.counter(
            "tidings_replayed_entries", "Entries sent to who had missed them", lambda: self.catch_up.replayed
        )

    def _opened(self, connection: Connection) -> None:
        self.metrics.opened(connection.link.gateway)
        if self.logs.on:
            self.logs.info(
                "connection opened",
                connection=connection.id,
                user=connection.principal.username,
                device=connection.device_key,
                gateway=connection.link.gateway,
                transport=connection.link.transport,
            )

    def _ended(self, connection: Connection) -> None:
        self.metrics.closed(connection.link.reason)
        if self.logs.on:
            self.logs.info(
                "connection closed",
                connection=connection.id,
                user=connection.principal.username,
                device=connection.device_key,
                gateway=connection.link.gateway,
                reason=connection.link.reason,
                duration_s=round(time.monotonic() - connection.opened_at, 3),
            )

    async def start(self) -> None:
        """Open the database and start the parts. Raises `StoreUnavailable` or `SettingsError`."""
        settings = self.settings
        if self.database.is_sqlite:
            settings.prepare_data_dir()
            await asyncio.to_thread(migrate, settings.database)
        elif await asyncio.to_thread(pending, settings.database):
            raise SettingsError("the database needs migrations: run `tidings migrate`")
        async with AsyncExitStack() as stack:
            await self.database.start()
            stack.push_async_callback(self.database.stop)
            stack.callback(self.auth.stop)
            await self.auth.start(settings.signing_key())
            await self.hub.start()
            stack.push_async_callback(self.hub.stop)
            await self.journal.start()
            stack.push_async_callback(self.journal.stop)
            await self.indexer.start()
            stack.push_async_callback(self.indexer.stop)
            stack.callback(self.typists.stop)
            stack.push_async_callback(self.presence.stop)
            await self.sessions.start()
            stack.push_async_callback(self.sessions.stop)
            await self.retention.start()
            stack.push_async_callback(self.retention.stop)
            stack.push_async_callback(self.catch_up.stop)
            stack.push_async_callback(self.drain)
            self._stack = stack.pop_all()

    async def drain(self) -> None:
        """Refuse new work, finish what is in flight, tell the connections and close them. Idempotent."""
        if not self._drained:
            self._drained = True
            await self.echo.stop()
            await self.dispatcher.drain()
            await asyncio.gather(self.socketio.stop(), self.websocket.stop(), self.dialects.stop())

    async def stop(self) -> None:
        await self._stack.aclose()
        self.logs.flush()


def _by_transport(hub: Hub) -> dict[Sequence[str], float]:
    ways = ("socketio", "polling"), ("socketio", "websocket"), ("websocket", "websocket")
    found: Counter[Sequence[str]] = Counter(dict.fromkeys(ways, 0))
    found.update((connection.link.gateway, connection.link.transport) for connection in hub.connections)
    return dict(found)


class Application:
    """The ASGI application: live connections on their paths, the rest to FastAPI, whose lifespan runs the node."""

    def __init__(self, node: Node, web: FastAPI) -> None:
        self.node = node
        self.web = web
        self._requests = Requests(web, node.logs)

    def open_websocket(self, opening: Opening) -> tuple[bytes, Callable[[Wire], None]] | None:
        """As `transport.direct.Opens`: under uvicorn with our protocol classes."""
        return self.node.socketio.eio.open_websocket(opening) if opening.path in _DIRECT_PATHS else None

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            path: str = scope["path"]
            if path == SOCKETIO_PATH or path.startswith(SOCKETIO_PATH + "/"):
                await self.node.socketio.eio.handle_request(scope, receive, send)
                return
            if scope["type"] == "websocket":
                if path == WEBSOCKET_PATH:
                    await self.node.websocket.server.handle_request(scope, receive, send)
                    return
                dialect = self.node.dialects.find(path)
                if dialect is not None:
                    await dialect.server.handle_request(scope, receive, send)
                    return
                await receive()
                await send({"type": "websocket.close", "code": 1008})
                return
        await self._requests(scope, receive, send)


def create_app(settings: Settings | None = None, *, static: Traversable | None = None, **options: Any) -> Application:
    """An application of its own: several can run in one process. `options` as of `Node`.

    `static`: the built web client; None: the one in this package.
    """
    node = Node(Settings() if settings is None else settings, **options)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await node.start()
        try:
            yield
        finally:
            await node.stop()

    web = FastAPI(title="Tidings", version=__version__, lifespan=lifespan, openapi_url=None)
    if node.settings.cors_origins:
        web.add_middleware(
            CORSMiddleware,
            allow_origins=node.settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["authorization", "content-type", "idempotency-key", "x-request-id"],
            expose_headers=["x-request-id"],
        )
    rest.install(web, node.dispatcher, node.parts, node.metrics)
    docs.install(web, node.dispatcher.registry)
    node.dialects.install(web)
    web_client.install(web, node.logs, static)
    return Application(node, web)
