"""The cluster of a node on PostgreSQL: the parts that join it with the other nodes, and their order.

The **registry** holds a lease for each live node. The **feed** tells what the others have committed; `changes.py`
applies it. A **broker** is faster: NOTIFY, or Redis. The **online users** of all nodes are in memory. The **relay**
passes requests to the node that owns their session. **Draining** moves connections away from a node that stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence

from tidings import __version__
from tidings.auth.tokens import fingerprint
from tidings.cluster.applications import SharedManager
from tidings.cluster.broker import Broker
from tidings.cluster.changes import ChangesElsewhere
from tidings.cluster.draining import CutOff, Mover, drain_in_slices
from tidings.cluster.feed import Feed
from tidings.cluster.gauges import register_redis, register_relay
from tidings.cluster.node_messages import ClusterState, Identity
from tidings.cluster.notify import NotifyBroker
from tidings.cluster.online import ClusterUsers
from tidings.cluster.reconcile import Reconciler
from tidings.cluster.registry import ForeignKey, NodeRegistry, PrefixTaken
from tidings.cluster.relay import Relay
from tidings.cluster.relay_pass import RelayPasses
from tidings.cluster.relay_stream import SocketDirectory
from tidings.fanout.cluster import Cluster, LocalNode, OnStop
from tidings.log.notices import ApplicationMessage, Notice
from tidings.monitoring.metrics import Metrics
from tidings.settings import FOREIGN_KEY, Settings, SettingsError
from tidings.supervision import spawn
from tidings_db.engine import Database

PEER_POLL_S = 0.1
"""The interval at which a departing node looks whether another one stays."""


class PostgreSQLCluster(Cluster):
    is_shared = True

    def __init__(
        self,
        settings: Settings,
        database: Database,
        node_id: str,
        metrics: Metrics,
        broker: Broker | None,
        *,
        poll_s: float,
        lease_s: float,
    ) -> None:
        """Raises `SettingsError`."""
        self.feed = Feed(database, node_id, poll_s=poll_s)
        self.registry = NodeRegistry(
            database,
            node_id,
            settings.node_label,
            __version__,
            url=settings.node_url,
            lease_s=lease_s,
            run=self.feed.run,
        )
        self.online: ClusterUsers
        self.elsewhere: Relay
        self.applications: SharedManager
        relay = Relay(
            node_id,
            RelayPasses(node_id, self.registry.clock_ms),
            self.registry.owner,
            SocketDirectory(settings.socket_dir),
            lambda sids: self._mover.move(self._node.connections_of(sids)),
        )
        online = ClusterUsers(database, node_id, lambda: self.registry.others, lease_s=lease_s)
        applications = SharedManager(node_id, lambda: self.registry.others, lambda message: self.share([message]))
        super().__init__(online, relay, applications)
        register_relay(metrics, relay)
        self.broker = broker or self._make_broker(settings, database, node_id, metrics)
        self.reconciler: Reconciler
        self._database = database
        self._node_id = node_id
        self._drain_s = settings.drain_s
        self._node: LocalNode
        self._mover: Mover
        self.loops = (self.feed.loop, self.registry.loop)

    def _make_broker(self, settings: Settings, database: Database, node_id: str, metrics: Metrics) -> Broker:
        def identity() -> Identity:
            return Identity(self._node.instance, self._node.keys)

        def epoch() -> int:
            return self._node.epoch()

        nodes = ClusterState(lambda: self.registry.others, epoch, self.feed.wake)
        if not settings.redis_urls:
            return NotifyBroker(database, node_id, identity, nodes)
        from tidings.cluster.redis_broker import RedisBroker  # takes a fifth of a second

        try:
            broker = RedisBroker(settings.redis_urls, node_id, identity, nodes, lambda: self._node.hub.live_rooms)
        except ValueError as error:
            raise SettingsError(f"TIDINGS_REDIS_URL: {error}") from None
        register_redis(metrics, broker)
        return broker

    async def start(self, node: LocalNode, on_stop: OnStop) -> None:
        self._node = node
        self.elsewhere.passes.sign_with(node.keys)
        on_stop("the relay", self.elsewhere.stop)
        try:
            await self.registry.enter([fingerprint(key) for key in node.keys])
        except ForeignKey:
            raise SettingsError(FOREIGN_KEY) from None
        except PrefixTaken:
            raise SettingsError("this server drew the same id as another one: start it again") from None
        on_stop("the registry of nodes", self.registry.stop)
        self.reconciler = Reconciler(self._database, node.hub, node.catch_up)
        on_stop("reconciling memberships", self.reconciler.stop)
        await self.broker.start(node.deliver)
        on_stop("the broker", self.broker.stop)
        changes = ChangesElsewhere(self.broker, node.hub, self.reconciler, node.sessions, self.online)
        await self.feed.start(changes)
        on_stop("the feed", self.feed.stop)
        await self.online.start(node.hub.presence)
        on_stop("the users of other nodes", self.online.stop)
        self._mover = Mover(lambda: node.hub.connections, node.write_cursors, self._drain_s)
        cut_off = CutOff(lambda: self.silence_s, lambda: self.elsewhere.is_any_ready(self.staying), self._mover)
        await cut_off.start()
        on_stop("the check of being cut off", cut_off.stop)

    def share(self, notices: Sequence[Notice]) -> None:
        self.broker.share(notices)

    def application_message(self, message: ApplicationMessage) -> None:
        self.applications.received(message)

    def listen(self, channel: str, notified: Callable[[], None]) -> None:
        def wake_first() -> None:
            if all(self._node_id < other for other in self.registry.others):
                notified()

        self.feed.listen(channel, wake_first)

    @property
    def carries_entries(self) -> bool:
        return self.broker.carries_entries

    @property
    def trouble(self) -> str:
        return self.broker.trouble

    @property
    def silence_s(self) -> float:
        return self.feed.age

    def is_behind(self) -> bool:
        return self.feed.is_behind()

    def wake(self) -> None:
        self.feed.wake()

    async def caught_up(self) -> None:
        await self.feed.caught_up()

    @property
    def public_since(self) -> int:
        return self.registry.public_since

    @property
    def staying(self) -> frozenset[str]:
        return self.registry.staying

    @property
    def leaving(self) -> bool:
        return self.registry.leaving

    async def leave(self) -> None:
        self.online.leave()
        await self.registry.leave()

    async def depart(self, wait_s: float, others_stay: Callable[[], bool]) -> None:
        await self.leave()

        async def run(work: Coroutine[object, object, None]) -> None:
            running = spawn(work, "departure")
            while others_stay() and not running.done():
                await asyncio.wait([running], timeout=PEER_POLL_S)
            running.cancel()

        await run(asyncio.sleep(wait_s))
        await run(self._move_all())

    async def _move_all(self) -> None:
        """Move the connections of this node, and the sessions of others whose requests it relays."""
        await asyncio.gather(
            self._mover.move_all(),
            drain_in_slices(self.elsewhere.sessions, self._drain_s, self.elsewhere.move),
        )
        await self.elsewhere.moved()
