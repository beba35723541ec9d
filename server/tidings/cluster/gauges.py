"""The gauges of what joins the nodes, for `/metrics`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tidings.cluster.relay import Relay
from tidings.monitoring.metrics import Metrics

if TYPE_CHECKING:
    from tidings.cluster.redis_broker import RedisBroker


def register_redis(metrics: Metrics, broker: RedisBroker) -> None:
    """Register the gauges of the messages between nodes that pass through Redis."""
    metrics.gauge("tidings_redis_up", "1 if messages pass through Redis, 0 if it is away", lambda: not broker.trouble)
    for name, help_text, value in (
        ("connects", "Times that Redis has come back, the first one included", lambda: broker.connects),
        ("published", "Messages published to the other nodes", lambda: broker.published),
        ("dropped", "Messages that could not be published", lambda: broker.dropped),
        ("received", "Messages received", lambda: broker.messages),
        ("gaps", "Times that messages of another node were missing", lambda: broker.gaps),
    ):
        metrics.counter(f"tidings_redis_{name}", help_text, value)
    metrics.counters(
        "tidings_redis_ignored",
        "Messages that are not authentic, not new, or not of a live node",
        ("reason",),
        lambda: {(reason,): count for reason, count in broker.ignored.items()},
    )


def register_relay(metrics: Metrics, relay: Relay) -> None:
    """Register the counters of requests that belong to other nodes."""
    for transport in relay.relayed:
        metrics.counter(
            f"tidings_relayed_{transport}_requests",
            f"Requests over {transport} passed on to the node that owns their session",
            partial(relay.relayed.__getitem__, transport),
        )
    metrics.counter(
        "tidings_relay_failures", "Requests whose node was known but did not answer", lambda: relay.failed
    )
    metrics.counter(
        "tidings_relay_refused", "Requests of the relay refused: not by another node", lambda: relay.passes.refused
    )
    metrics.gauge("tidings_relay_streams", "Requests and WebSockets that are being relayed", lambda: relay.streams)
