"""Brokers that do what a network does: lose, repeat and hold back notices, and join several nodes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable

from server.delivery.broker import Appended, Channel, MemoryBroker, Notice


class FaultyBroker(MemoryBroker):
    """Loses, repeats and holds back what tells of entries; for the rest it is the broker of a single node."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._held: list[tuple[Channel, Notice]] = []
        self.harm = 0

    def publish(self, channel: Channel, notice: Notice) -> None:
        if not isinstance(notice, Appended):
            super().publish(channel, notice)
            return
        match self._random.choice(["pass", "lose", "repeat", "hold", "hold"]):
            case "pass":
                super().publish(channel, notice)
            case "repeat":
                super().publish(channel, notice)
                self._held.append((channel, notice))
            case "hold":
                self._held.append((channel, notice))
            case _:
                self.harm += 1
        if self._random.random() < 0.4:
            held, self._held = self._held, []
            self.harm += len(held)
            for late in self._random.sample(held, len(held)):
                super().publish(*late)


class DeafBroker(MemoryBroker):
    """Loses every notice of entries as long as `deaf` holds."""

    deaf = False

    def publish(self, channel: Channel, notice: Notice) -> None:
        if not (self.deaf and isinstance(notice, Appended)):
            super().publish(channel, notice)


class NotingBroker(MemoryBroker):
    """Notes what was appended."""

    def __init__(self) -> None:
        super().__init__()
        self.appended: list[Appended] = []

    def publish(self, channel: Channel, notice: Notice) -> None:
        if isinstance(notice, Appended):
            self.appended.append(notice)
        super().publish(channel, notice)


class Wire:
    """Joins the brokers of several nodes of one process."""

    def __init__(self) -> None:
        self.brokers: list[LinkedBroker] = []


class LinkedBroker(MemoryBroker):
    """One node's end of a `Wire`. What another node publishes is received in a later step of the event loop."""

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self._wire = wire

    async def start(self, receive: Callable[[Notice], None]) -> None:
        await super().start(receive)
        self._wire.brokers.append(self)

    async def stop(self) -> None:
        self._wire.brokers.remove(self)
        await super().stop()

    def publish(self, channel: Channel, notice: Notice) -> None:
        super().publish(channel, notice)
        for other in self._wire.brokers:
            if other is not self:
                asyncio.get_running_loop().call_soon(MemoryBroker.publish, other, channel, notice)

    async def who_is_online(self, user_keys: Iterable[int] | None = None) -> set[int]:
        wanted = None if user_keys is None else set(user_keys)
        return set().union(*[await MemoryBroker.who_is_online(broker, wanted) for broker in self._wire.brokers])
