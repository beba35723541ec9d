"""The metrics of a node: `/metrics`, in Prometheus' text format. A worker answers for all workers.

Frequent events are counted in plain integers, 0.3 µs per action (a counter and a histogram of prometheus_client take
1.1 µs). Other values are computed at each scrape. One collector reads both. Each node has a registry of its own.
Labels come from the code, never from a client, so their number is bounded.
"""

from __future__ import annotations

import math
import platform
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from tidings import __version__
from tidings.contract.errors import CloseReason, ErrorCode

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
UNKNOWN: Final = "unknown"
"""The label for every unknown action."""
SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
CHANGES: Final = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)

Gauge = Callable[[], Mapping[Sequence[str], float]]
"""Called at each scrape; returns a value for each combination of label values."""


def merged(expositions: Mapping[str, str]) -> str:
    """Join the expositions of several workers; each sample gets the label `worker`.

    Args:
        expositions: the text by worker.
    """
    families: dict[str, list[str]] = {}
    for worker, text in expositions.items():
        header = ""
        samples: list[str] = []
        for line in text.splitlines():
            if line.startswith("# HELP "):
                header, samples = line, []
            elif line.startswith("# TYPE "):
                samples = families.setdefault(f"{header}\n{line}", [])
            elif line:
                samples.append(_labelled(line, worker))
    return "".join("\n".join((header, *samples, "")) for header, samples in families.items())


def _labelled(sample: str, worker: str) -> str:
    """A sample with another label: `name{label="value"} 1.0` or `name 1.0`."""
    name, _, rest = sample.partition(" ")
    if "{" not in name:
        return f'{name}{{worker="{worker}"}} {rest}'
    name, _, labels = sample.partition("{")
    return f'{name}{{worker="{worker}",{labels}'


class Distribution:
    """A histogram: the number of values up to each bound."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def quantile(self, part: float, earlier: Sequence[int]) -> float | None:
        """The bound that this part of the values since the counts `earlier` keeps; None: there were none."""
        new = [count - before for count, before in zip(self.counts, earlier, strict=True)]
        for bound, below in zip((*self._bounds, math.inf), accumulate(new), strict=True):
            if below and below >= part * sum(new):
                return min(bound, self._bounds[-1])
        return None

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by bound, as Prometheus expects them."""
        cumulative, below = [], 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self.counts, strict=True):
            below += count
            cumulative.append((bound, float(below)))
        return cumulative


class Metrics:
    """The metrics of one node. Use it only from the event loop."""

    def __init__(self, actions: Iterable[str]) -> None:
        """`actions`: names that are reported from the start, before their first call."""
        self._seconds: defaultdict[str, Distribution] = defaultdict(lambda: Distribution(SECONDS))
        for name in (*actions, UNKNOWN):
            self._seconds[name] = Distribution(SECONDS)
        self._errors: Counter[tuple[str, str]] = Counter()
        self._opened: Counter[str] = Counter()
        self._closed: Counter[str] = Counter(dict.fromkeys(CloseReason, 0))
        self._batch = Distribution(CHANGES)
        self.commit = Distribution(SECONDS)
        self.delivery = Distribution(SECONDS)
        self.loop_lag = Distribution(SECONDS)
        self.check_health: Callable[[], Awaitable[object]] | None = None
        """Called before each scrape."""
        self._gauges: list[tuple[type[Metric], str, str, Sequence[str], Gauge]] = []
        self.gather: Callable[[], Awaitable[bytes]] | None = None
        """Returns the metrics of all workers; None: this process is no worker."""
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._registry.register(self)

    # -- counted when it happens ---------------------------------------------------------------------------------

    def action_answered(self, action: str, error: ErrorCode | None, seconds: float) -> None:
        """Count an answered action.

        Args:
            action: its registered name, or `UNKNOWN`; never a name from a client.
            seconds: from its start to its answer; an append is answered after its commit.
        """
        self._seconds[action].add(seconds)
        if error is not None:
            self._errors[action, error] += 1

    def opened(self, gateway: str) -> None:
        self._opened[gateway] += 1

    def closed(self, reason: str) -> None:
        self._closed[reason] += 1

    def committed(self, changes: int, seconds: float) -> None:
        """Count a transaction of the journal with that many changes."""
        self._batch.add(changes)
        self.commit.add(seconds)

    def delivered(self, seconds: float) -> None:
        """Count entries that were written to this node's connections. `seconds`: since their time in the log."""
        self.delivery.add(seconds)

    # -- read at each scrape -------------------------------------------------------------------------------------

    def gauge(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """Report a value that is read at each scrape."""
        self._gauges.append((GaugeMetricFamily, name, help_text, (), lambda: {(): value()}))

    def counter(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """`gauge` for a value that only grows."""
        self._gauges.append((CounterMetricFamily, name, help_text, (), lambda: {(): value()}))

    def gauges(self, name: str, help_text: str, labels: Sequence[str], values: Gauge) -> None:
        """`gauge` with one value for each combination of labels."""
        self._gauges.append((GaugeMetricFamily, name, help_text, labels, values))

    def counters(self, name: str, help_text: str, labels: Sequence[str], values: Gauge) -> None:
        """`gauges` for values that only grow."""
        self._gauges.append((CounterMetricFamily, name, help_text, labels, values))

    # -- the scrape ----------------------------------------------------------------------------------------------

    async def exposition(self) -> bytes:
        """All metrics of this process in Prometheus' text format, `CONTENT_TYPE`."""
        if self.check_health is not None:
            await self.check_health()
        return generate_latest(self._registry)

    async def expositions(self) -> bytes:
        """The answer of `/metrics`: `exposition`, and those of the other workers if there are any."""
        return await self.exposition() if self.gather is None else await self.gather()

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        answered = CounterMetricFamily("tidings_actions", "Actions answered", labels=("action", "outcome"))
        seconds = HistogramMetricFamily(
            "tidings_action_seconds", "From an action's begin to its answer", labels=("action",)
        )
        for name, durations in self._seconds.items():
            failed = {code: count for (action, code), count in self._errors.items() if action == name}
            if name != UNKNOWN:
                answered.add_metric((name, "ok"), sum(durations.counts) - sum(failed.values()))
            for code, count in failed.items():
                answered.add_metric((name, code), count)
            seconds.add_metric((name,), durations.buckets(), durations.total)
        yield answered
        yield seconds
        opened = CounterMetricFamily("tidings_connections_opened", "Live connections opened", labels=("gateway",))
        for gateway, count in self._opened.items():
            opened.add_metric((gateway,), count)
        yield opened
        closed = CounterMetricFamily("tidings_connections_closed", "Live connections ended", labels=("reason",))
        for reason, count in self._closed.items():
            closed.add_metric((str(reason),), count)
        yield closed
        batch = HistogramMetricFamily("tidings_journal_batch_changes", "Changes in one commit of the journal")
        batch.add_metric((), self._batch.buckets(), self._batch.total)
        yield batch
        for name, help_text, values in (
            ("tidings_journal_commit_seconds", "One transaction of the journal", self.commit),
            (
                "tidings_delivery_seconds",
                "From the time of an entry written here to its delivery here",
                self.delivery,
            ),
            ("tidings_loop_lag_seconds", "How late a timer of the event loop is, twice a second", self.loop_lag),
        ):
            histogram = HistogramMetricFamily(name, help_text)
            histogram.add_metric((), values.buckets(), values.total)
            yield histogram
        for family, name, help_text, labels, read in self._gauges:
            metric = family(name, help_text, labels=labels)  # type: ignore[call-arg]
            for label_values, value in read().items():
                metric.add_metric(label_values, value)  # type: ignore[attr-defined]
            yield metric
        build = GaugeMetricFamily("tidings_build_info", "Always 1", labels=("version", "python"))
        build.add_metric((__version__, platform.python_version()), 1)
        yield build
