"""How a node is joined with the others on its database."""

from __future__ import annotations

from collections.abc import Callable

from tidings.fanout.broker import Broker, MemoryBroker
from tidings.fanout.feed import Feed
from tidings.fanout.node_messages import Identity, Nodes
from tidings.fanout.notify import NotifyBroker
from tidings.fanout.online import OnlineUsers
from tidings.log.epochs import Epochs
from tidings.log.nodes import NodeRegistry
from tidings.metrics import Metrics
from tidings.monitoring import register_redis
from tidings.settings import REDIS_NEEDS_POSTGRESQL, Settings, SettingsError
from tidings_db.engine import Database


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
    from tidings.fanout.redis_broker import RedisBroker  # takes a fifth of a second

    try:
        broker = RedisBroker(settings.redis_urls, node_id, identity, known, online_users)
    except ValueError as error:
        raise SettingsError(f"TIDINGS_REDIS_URL: {error}") from None
    register_redis(metrics, broker)
    return broker
