"""Joins the nodes: the interface that a broker keeps, and the broker of a single node.

The interface asks for no more than a network can give. It promises neither delivery nor order; `notices.py` says how
receivers cope. Each method states its promise.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from typing import Protocol

from tidings.log.notices import Channel, Notice


class Broker(Protocol):
    """All methods are called on the event loop of the node, between `start` and `stop`."""

    async def start(self, receive: Callable[[Notice], None]) -> None:
        """Begin. `receive` is called on the event loop with each notice, and never after `stop` has returned."""

    async def stop(self) -> None:
        """End, and withdraw this node's subscriptions and users, here and on the other nodes."""

    trouble: str
    """Why notices are not passed on now, although another way is open to them; empty if they are."""

    @property
    def carries_entries(self) -> bool:
        """Whether entries that other nodes commit are published here soon, so that a missing one may be under way."""

    def share(self, notices: Sequence[tuple[Channel, Notice]]) -> None:
        """Pass the notices of one commit to the other nodes, together and first. Never blocks, never raises.

        Each is then given to `publish_shared`, in order. A broker may leave all of it to that.
        """

    def publish_shared(self, channel: Channel, notice: Notice) -> None:
        """As `publish`, of a notice that was given to `share`."""

    def publish(self, channel: Channel, notice: Notice) -> None:
        """Pass a notice to every node that is subscribed to the channel, this one included.

        Never blocks; it fails only if `receive` does, on this node. Delivery to each node is at most once in most
        cases, more than once in some, and not at all in others; order is not kept, not even on one channel.
        """

    def subscribe(self, channel: Channel) -> Awaitable[None]:
        """Receive the notices of the channel.

        Takes effect on this node with the call, and on all nodes when the result has been awaited: a notice that is
        published after that is received unless it is lost. Earlier ones may be missing, so the caller then reads the
        database. Idempotent. If another node is away, it waits and does not raise.
        """

    def unsubscribe(self, channel: Channel) -> None:
        """End a subscription. Notices under way may still arrive. Idempotent."""

    def online(self, user_key: int, online: bool) -> None:
        """This node has its first connection of a user, or has lost the last one. Idempotent."""

    async def online_users(self, user_keys: Iterable[int] | None = None) -> set[int]:
        """Users with a connection on any node: those of `user_keys`, or all.

        Never raises. Includes every user of this node; knowledge of other nodes may be out of date.
        """


class _Completed:
    """An awaitable without a wait: other tasks do not run meanwhile."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


class MemoryBroker:
    """The broker of a single node: `publish` calls `receive` itself, so nothing is lost, late or out of order."""

    _SUBSCRIBED = _Completed()
    trouble = ""

    @property
    def carries_entries(self) -> bool:
        return False

    def __init__(self) -> None:
        self._receive: Callable[[Notice], None] | None = None
        self._channels: set[Channel] = set()
        self._online: set[int] = set()

    async def start(self, receive: Callable[[Notice], None]) -> None:
        self._receive = receive

    async def stop(self) -> None:
        self._receive = None

    def share(self, notices: Sequence[tuple[Channel, Notice]]) -> None:
        pass

    def publish_shared(self, channel: Channel, notice: Notice) -> None:
        self.publish(channel, notice)

    def publish(self, channel: Channel, notice: Notice) -> None:
        if self._receive is not None and channel in self._channels:
            self._receive(notice)

    def subscribe(self, channel: Channel) -> Awaitable[None]:
        self._channels.add(channel)
        return self._SUBSCRIBED

    def unsubscribe(self, channel: Channel) -> None:
        self._channels.discard(channel)

    def online(self, user_key: int, online: bool) -> None:
        if online:
            self._online.add(user_key)
        else:
            self._online.discard(user_key)

    async def online_users(self, user_keys: Iterable[int] | None = None) -> set[int]:
        return set(self._online) if user_keys is None else self._online.intersection(user_keys)
