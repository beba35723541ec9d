"""Brokers that do what a network does: lose, repeat and hold back notices, and join several nodes."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import fields

from tidings.fanout.broker import MemoryBroker
from tidings.fanout.feed import FeedReceiver
from tidings.fanout.notify import CARRIED
from tidings.log.notices import Appended, Channel, Notice, decode, encode
from tidings_db.queries.feed import Changes


class FaultyBroker(MemoryBroker):
    """Loses, repeats and holds back notices of every kind.

    Notices of entries arrive in any order; other notices keep the order of their channel.
    It always loses some notices of entries; `loses` names further kinds.
    """

    def __init__(self, seed: int, *loses: type) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._loses = (Appended, *loses)
        self._held: list[tuple[Channel, Notice]] = []
        self._late: dict[Channel, deque[Notice]] = {}
        self.harm: Counter[type] = Counter()
        """How many notices of each kind were lost, repeated or late."""
        self.lose_next: type | None = None
        """The next notice of this kind is lost."""

    def publish(self, channel: Channel, notice: Notice) -> None:
        faults = ["pass", "repeat", "hold", "hold"]
        if isinstance(notice, self._loses):
            faults.append("lose")
        fault = self._random.choice(faults)
        if type(notice) is self.lose_next:
            fault, self.lose_next = "lose", None
        if fault != "pass":
            self.harm[type(notice)] += 1
        if fault != "lose":
            if isinstance(notice, Appended):
                self._publish_entries(channel, notice, fault)
            else:
                self._publish_in_order(channel, notice, fault)
        self._release()

    def _publish_entries(self, channel: Channel, notice: Notice, fault: str) -> None:
        if fault != "hold":
            super().publish(channel, notice)
        if fault != "pass":
            self._held.append((channel, notice))

    def _publish_in_order(self, channel: Channel, notice: Notice, fault: str) -> None:
        late = self._late.setdefault(channel, deque())
        late.extend([notice] * (2 if fault == "repeat" else 1))
        if fault != "hold":
            self._catch_up(late, channel)

    def _catch_up(self, late: deque[Notice], channel: Channel) -> None:
        while late:
            super().publish(channel, late.popleft())

    def settle(self) -> None:
        """Deliver every late notice."""
        held, self._held = self._held, []
        for channel, notice in held:
            super().publish(channel, notice)
        for channel, late in self._late.items():
            self._catch_up(late, channel)

    def _release(self) -> None:
        """Deliver some late notices."""
        if self._random.random() < 0.4:
            held, self._held = self._held, []
            for channel, notice in self._random.sample(held, len(held)):
                super().publish(channel, notice)
            if self._late:
                channel = self._random.choice(list(self._late))
                self._catch_up(self._late[channel], channel)


class RepeatingBroker(MemoryBroker):
    """Publishes every notice twice in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.repeated: set[type] = set()

    def publish(self, channel: Channel, notice: Notice) -> None:
        self.repeated.add(type(notice))
        super().publish(channel, notice)
        super().publish(channel, notice)


class ChoosyBroker(MemoryBroker):
    """Loses the notices that `loses` selects, and holds back those that `holds` selects until `go_on`."""

    def __init__(self) -> None:
        super().__init__()
        self.loses: Callable[[Notice], bool] = lambda _: False
        self.holds: Callable[[Notice], bool] = lambda _: False
        self.held: list[tuple[Channel, Notice]] = []

    def publish(self, channel: Channel, notice: Notice) -> None:
        if self.loses(notice):
            return
        if self.holds(notice):
            self.held.append((channel, notice))
        else:
            super().publish(channel, notice)

    def go_on(self) -> None:
        self.holds = lambda _: False
        held, self.held = self.held, []
        for channel, notice in held:
            super().publish(channel, notice)


class DeafBroker(MemoryBroker):
    """Loses every notice of entries while `deaf` is set."""

    deaf = False

    def publish(self, channel: Channel, notice: Notice) -> None:
        if not (self.deaf and isinstance(notice, Appended)):
            super().publish(channel, notice)


class NotingBroker(MemoryBroker):
    """Records the notices of entries."""

    def __init__(self) -> None:
        super().__init__()
        self.appended: list[Appended] = []

    def publish(self, channel: Channel, notice: Notice) -> None:
        if isinstance(notice, Appended):
            self.appended.append(notice)
        super().publish(channel, notice)


class HesitantBroker(MemoryBroker):
    """Answers `online_users` late, with the state at the time of the request, as a remote service may."""

    def __init__(self) -> None:
        super().__init__()
        self._held_user: int | None = None
        self._requested, self._may_answer = asyncio.Event(), asyncio.Event()

    def hold(self, user_key: int) -> asyncio.Event:
        """Hold the next answer about a user until `go_on`; the returned event is set when it is requested."""
        self._held_user = user_key
        return self._requested

    def go_on(self) -> None:
        self._may_answer.set()

    async def online_users(self, user_keys: Iterable[int] | None = None) -> set[int]:
        answer = await super().online_users(user_keys)
        if user_keys is not None and self._held_user in set(user_keys):
            self._held_user = None
            self._requested.set()
            await self._may_answer.wait()
        return answer


class Wire:
    """Joins the brokers of several nodes in one process. Notices cross it as bytes."""

    def __init__(self) -> None:
        self.brokers: list[LinkedBroker] = []


class LinkedBroker(MemoryBroker):
    """One node's end of a `Wire`.

    What another node publishes is received in a later step of the event loop, and a subscription takes effect on the
    wire in a later step than the call, as over a network.
    """

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self._wire = wire
        self._effective: set[Channel] = set()

    async def start(self, receive: Callable[[Notice], None]) -> None:
        await super().start(receive)
        self._wire.brokers.append(self)

    async def stop(self) -> None:
        self._wire.brokers.remove(self)
        await super().stop()

    async def _subscribed(self, channel: Channel) -> None:
        await asyncio.sleep(0)
        if channel in self._channels:
            self._effective.add(channel)

    def subscribe(self, channel: Channel) -> Awaitable[None]:
        super().subscribe(channel)
        return asyncio.ensure_future(self._subscribed(channel))

    def unsubscribe(self, channel: Channel) -> None:
        super().unsubscribe(channel)
        self._effective.discard(channel)

    def publish(self, channel: Channel, notice: Notice) -> None:
        super().publish(channel, notice)
        data = encode(channel, notice)
        for other in self._wire.brokers:
            if other is not self and channel in other._effective:
                asyncio.get_running_loop().call_soon(other._receive_encoded, data)

    def _receive_encoded(self, data: bytes) -> None:
        MemoryBroker.publish(self, *decode(data))

    async def online_users(self, user_keys: Iterable[int] | None = None) -> set[int]:
        wanted = None if user_keys is None else set(user_keys)
        return set().union(*[await MemoryBroker.online_users(broker, wanted) for broker in self._wire.brokers])


class HarmfulBroker(MemoryBroker):
    """Delays, loses, repeats and reorders notices, also within a channel. Loses the first of each kind."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._late: list[tuple[Channel, Notice]] = []
        self.harm: Counter[tuple[type, str]] = Counter()
        """How often each fault befell each kind of notice."""

    def publish(self, channel: Channel, notice: Notice) -> None:
        fault = self._random.choice(["none", "lose", "repeat", "delay", "delay"])
        if not any(kind is type(notice) for kind, _ in self.harm):
            fault = "lose"
        self.harm[type(notice), fault] += 1
        if fault in ("none", "repeat"):
            super().publish(channel, notice)
        if fault in ("repeat", "delay"):
            self._late.append((channel, notice))
        if self._random.random() < 0.3:
            self.release()

    def release(self) -> None:
        """Deliver the late notices in any order."""
        late, self._late = self._late, []
        if len(late) > 1:
            self.harm.update((type(notice), "reorder") for _, notice in late)
        for channel, notice in self._random.sample(late, len(late)):
            super().publish(channel, notice)


class HarmfulLink(LinkedBroker):
    """One node's end of a `Wire` that delays, loses, repeats and reorders what comes from other nodes.

    It loses all notices that no broker passes between nodes: the feed tells what they describe.
    """

    def __init__(self, wire: Wire, seed: int, *spares: type) -> None:
        """`spares`: kinds of notices that it does not harm."""
        super().__init__(wire)
        self._random = random.Random(seed)
        self._spares = spares
        self._late: list[tuple[Channel, Notice]] = []
        self.harm: Counter[tuple[type, str]] = Counter()
        """How often each fault befell each kind of notice."""

    def _receive_encoded(self, data: bytes) -> None:
        channel, notice = decode(data)
        fault = "none" if isinstance(notice, self._spares) else self._random.choice(FAULTS)
        if not isinstance(notice, (Appended, *CARRIED)):
            fault = "lose"
        self.harm[type(notice), fault] += 1
        if fault in ("none", "repeat"):
            MemoryBroker.publish(self, channel, notice)
        if fault in ("repeat", "delay"):
            self._late.append((channel, notice))
        if self._random.random() < 0.3:
            late, self._late = self._late, []
            for each in self._random.sample(late, len(late)):
                MemoryBroker.publish(self, *each)


FAULTS = ("none", "lose", "repeat", "delay", "delay")
LATEST_S = 0.3
"""The longest delay of a change in the feed."""


class HarmfulFeed:
    """Passes on single changes of the feed: late, repeated and in any order. Who is online keeps its order.

    Instead of some changes, also the first of each kind, it says that changes may have been missed, as after an
    interruption.
    """

    def __init__(self, receiver: FeedReceiver, seed: int, *spares: str) -> None:
        """`spares`: fields of `Changes` that it does not harm."""
        self._receiver = receiver
        self._spares = spares
        self._random = random.Random(seed)
        self.harm: Counter[tuple[str, str]] = Counter()
        """How often each fault befell each field of `Changes`."""
        self.interrupted = False
        """Whether all changes are lost."""

    def compare_all(self) -> None:
        self._receiver.compare_all()

    def changed(self, changes: Changes) -> None:
        self._receiver.changed(Changes(online=changes.online))
        for name in (field.name for field in fields(Changes) if field.name != "online"):
            group = getattr(changes, name)
            for each in group:
                change = Changes(**{name: {each: group[each]} if isinstance(group, dict) else type(group)([each])})
                self._harm(name, change)

    def _harm(self, name: str, change: Changes) -> None:
        lose = self.interrupted or not any(harmed == name for harmed, _ in self.harm)
        fault = "none" if name in self._spares else "lose" if lose else self._random.choice(FAULTS)
        self.harm[name, fault] += 1
        if fault in ("none", "repeat"):
            self._receiver.changed(change)
        if fault in ("repeat", "delay"):
            self._later(lambda: self._receiver.changed(change))
        if fault == "lose":
            self._later(self._receiver.compare_all)

    def _later(self, call: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(self._random.uniform(0, LATEST_S), call)
