"""How a node is joined with the others on its database."""

from __future__ import annotations

from collections.abc import Callable

from db.engine import Database
from server.fanout.broker import Broker, MemoryBroker
from server.fanout.feed import Feed
from server.fanout.node_messages import Identity, Nodes
from server.fanout.notify import NotifyBroker
from server.fanout.online import OnlineUsers
from server.log.epochs import Epochs
from server.log.nodes import NodeRegistry
from server.metrics import Metrics
from server.monitoring import register_redis
from server.settings import REDIS_NEEDS_POSTGRESQL, Settings, SettingsError


def make_broker(
    settings: Settings,
    database: Database,
    node_id: str,
    nodes: NodeRegistry,
    epochs: Callable[[], Epochs],
    feed: Feed,
    online_users: OnlineUsers,
    metrics: Metrics,
) -> Broker:
    """Raises `SettingsError`."""
    if settings.redis_urls and database.is_sqlite:
        raise SettingsError(REDIS_NEEDS_POSTGRESQL)
    if database.is_sqlite:
        return MemoryBroker()

    def identity() -> Identity:
        return Identity(epochs().instance, settings.signing_keys())

    known = Nodes(lambda: nodes.others, lambda: epochs().current, feed.wake)
    if not settings.redis_urls:
        return NotifyBroker(database, node_id, identity, known, online_users)
    from server.fanout.redis_broker import RedisBroker  # takes a fifth of a second

    try:
        broker = RedisBroker(settings.redis_urls, node_id, identity, known, online_users)
    except ValueError as error:
        raise SettingsError(f"TIDINGS_REDIS_URL: {error}") from None
    register_redis(metrics, broker)
    return broker
