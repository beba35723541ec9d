"""Publishers and brokers that do what a network does: lose, repeat and hold back notices, and join several nodes."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import fields

from tidings.cluster.feed import FeedReceiver
from tidings.cluster.node_messages import BODY, encode_parts, parts_of
from tidings.fanout.publisher import Publisher
from tidings.log.notices import (
    Appended,
    Carried,
    Joined,
    Left,
    MembershipChanged,
    Notice,
    Personal,
    Withdrawn,
    decode,
    encode,
)
from tidings_db.queries.feed import Changes


class FaultyPublisher(Publisher):
    """Loses, repeats and holds back notices of every kind.

    Notices of entries arrive in any order; other notices keep the order of their room or user.
    It always loses some notices of entries; `loses` names further kinds.
    """

    def __init__(self, seed: int, *loses: type) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._loses = (Appended, *loses)
        self._held: list[Notice] = []
        self._late: dict[object, deque[Notice]] = {}
        self.harm: Counter[type] = Counter()
        """How many notices of each kind were lost, repeated or late."""
        self.lose_next: type | None = None
        """The next notice of this kind is lost."""

    def deliver(self, notice: Notice) -> None:
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
                self._publish_entries(notice, fault)
            else:
                self._publish_in_order(notice, fault)
        self._release()

    def _publish_entries(self, notice: Notice, fault: str) -> None:
        if fault != "hold":
            super().deliver(notice)
        if fault != "pass":
            self._held.append(notice)

    def _publish_in_order(self, notice: Notice, fault: str) -> None:
        late = self._late.setdefault(_stream(notice), deque())
        late.extend([notice] * (2 if fault == "repeat" else 1))
        if fault != "hold":
            self._catch_up(late)

    def _catch_up(self, late: deque[Notice]) -> None:
        while late:
            super().deliver(late.popleft())

    def settle(self) -> None:
        """Deliver every late notice."""
        held, self._held = self._held, []
        for notice in held:
            super().deliver(notice)
        for late in self._late.values():
            self._catch_up(late)

    def _release(self) -> None:
        """Deliver some late notices."""
        if self._random.random() < 0.4:
            held, self._held = self._held, []
            for notice in self._random.sample(held, len(held)):
                super().deliver(notice)
            if self._late:
                self._catch_up(self._random.choice(list(self._late.values())))


class RepeatingPublisher(Publisher):
    """Publishes every notice twice in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.repeated: set[type] = set()

    def deliver(self, notice: Notice) -> None:
        self.repeated.add(type(notice))
        super().deliver(notice)
        super().deliver(notice)


class ChoosyPublisher(Publisher):
    """Loses the notices that `loses` selects, and holds back those that `holds` selects until `go_on`."""

    def __init__(self) -> None:
        super().__init__()
        self.loses: Callable[[Notice], bool] = lambda _: False
        self.holds: Callable[[Notice], bool] = lambda _: False
        self.held: list[Notice] = []

    def deliver(self, notice: Notice) -> None:
        if self.loses(notice):
            return
        if self.holds(notice):
            self.held.append(notice)
        else:
            super().deliver(notice)

    def go_on(self) -> None:
        self.holds = lambda _: False
        held, self.held = self.held, []
        for notice in held:
            super().deliver(notice)


class DeafPublisher(Publisher):
    """Loses every notice of entries while `deaf` is set."""

    deaf = False

    def deliver(self, notice: Notice) -> None:
        if not (self.deaf and isinstance(notice, Appended)):
            super().deliver(notice)


class NotingPublisher(Publisher):
    """Records the notices of entries."""

    def __init__(self) -> None:
        super().__init__()
        self.appended: list[Appended] = []

    def deliver(self, notice: Notice) -> None:
        if isinstance(notice, Appended):
            self.appended.append(notice)
        super().deliver(notice)


class Wire:
    """Joins the brokers of several nodes in one process. Notices cross it as bytes."""

    def __init__(self) -> None:
        self.brokers: list[LinkedBroker] = []


class LinkedBroker:
    """One node's end of a `Wire`: what another node shares is received in a later step of the event loop."""

    trouble = ""
    carries_entries = False

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def start(self, deliver: Callable[[Notice], None]) -> None:
        self.deliver = deliver
        self._wire.brokers.append(self)

    async def stop(self) -> None:
        self._wire.brokers.remove(self)

    def share(self, notices: Sequence[Notice]) -> None:
        loop = asyncio.get_running_loop()
        for other in self._wire.brokers:
            if other is not self:
                for notice in notices:
                    for copy in _copies(notice):
                        loop.call_soon(other.receive, copy)

    def receive(self, notice: Notice) -> None:
        """A notice of another node has come."""
        self.deliver(notice)


class SilentBroker(LinkedBroker):
    """Carries nothing: only the feed tells of other nodes."""

    def __init__(self) -> None:
        super().__init__(Wire())


def _copies(notice: Notice) -> Sequence[Notice]:
    """The notice as other nodes read it from bytes; nothing if brokers do not carry it."""
    if isinstance(notice, Appended):
        assert notice.name is not None
        parts, _ = encode_parts(notice, notice.name)
        return list(parts_of(bytes(BODY) + b"".join(parts), {notice.room_key}))
    return [decode(encode(notice))] if isinstance(notice, Carried) else []


def _stream(notice: Notice) -> object:
    """The room or the user that a notice is for."""
    if isinstance(notice, (Joined, Left, Personal, Withdrawn)):
        return "user", notice.user_key
    return "room", notice.change.room if isinstance(notice, MembershipChanged) else notice.room_key


class HarmfulLink(LinkedBroker):
    """One node's end of a `Wire` that delays, loses, repeats and reorders what comes from other nodes."""

    def __init__(self, wire: Wire, seed: int, *spares: type) -> None:
        """`spares`: kinds of notices that it does not harm."""
        super().__init__(wire)
        self._random = random.Random(seed)
        self._spares = spares
        self._late: list[Notice] = []
        self.harm: Counter[tuple[type, str]] = Counter()
        """How often each fault befell each kind of notice."""

    def receive(self, notice: Notice) -> None:
        fault = "none" if isinstance(notice, self._spares) else self._random.choice(FAULTS)
        self.harm[type(notice), fault] += 1
        if fault in ("none", "repeat"):
            self.deliver(notice)
        if fault in ("repeat", "delay"):
            self._late.append(notice)
        if self._random.random() < 0.3:
            late, self._late = self._late, []
            for each in self._random.sample(late, len(late)):
                self.deliver(each)


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
