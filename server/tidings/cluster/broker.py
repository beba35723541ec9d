"""The interface of a broker: it carries notices between nodes, fast if it can.

It promises neither delivery nor order. What a commit has changed is in the feed, so a broker saves time, and loses
nothing but transient events.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from tidings.log.notices import Notice


class Broker(Protocol):
    """All methods are called on the event loop of the node, between `start` and `stop`."""

    trouble: str
    """Why notices are not passed on now, although another way is open to them; empty if they are."""

    @property
    def carries_entries(self) -> bool:
        """Whether entries that other nodes commit are delivered here soon, so that a missing one may be under way."""

    async def start(self, deliver: Callable[[Notice], None]) -> None:
        """Begin. `deliver` is called with each notice of another node, and never after `stop` has returned."""

    async def stop(self) -> None: ...

    def share(self, notices: Sequence[Notice]) -> None:
        """See `Cluster.share`."""
