"""Publishes notices: to the connections of this node, and through the cluster to those of the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from tidings.fanout.cluster import Cluster
from tidings.log.notices import Notice

logger = logging.getLogger("tidings.publisher")


class Publisher:
    """Notices take effect on this node within the call of `publish`, in order; before `start`, nowhere."""

    def __init__(self) -> None:
        self._share: Callable[[Sequence[Notice]], None] = lambda notices: None
        self._receive: Callable[[Notice], None] = lambda notice: None

    def start(self, cluster: Cluster, receive: Callable[[Notice], None]) -> None:
        """`receive` is called with each notice, also with those of other nodes."""
        self._share = cluster.share
        self._receive = receive

    def publish(self, *notices: Notice) -> None:
        """Publish the notices of one commit. Never blocks, never raises: a failure is logged."""
        self._share(notices)
        for notice in notices:
            self.deliver(notice)

    def deliver(self, notice: Notice) -> None:
        """Deliver a notice to the connections of this node. Never raises."""
        try:
            self._receive(notice)
        except Exception:
            logger.exception("a notice could not be delivered")
