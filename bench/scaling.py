"""The tables and the plot of docs/scaling.md, by the model: `python -m bench model`.

`make docs` writes the tables into the document; the plot is docs/scaling.svg.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from bench.model import HEARTBEAT_S, PER_MINUTE, RECIPIENTS, Cluster, checks, constants, largest, split

PLOT: Final = Path(__file__).parents[1] / "docs" / "scaling.svg"

# -- the tables -----------------------------------------------------------------------------------------------------

EXTRAPOLATED: Final = (10_000, 100_000, 1_000_000, 10_000_000)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "".join("| " + " | ".join(row) + " |\n" for row in (head, ["---"] * len(head), *rows))


def _digits(value: float) -> str:
    """With two digits, or as many as it has before the point."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def constants_table() -> str:
    k = constants()
    rows = [
        ("a commit, on SQLite", k.commit),
        ("a message, on SQLite", k.message),
        ("a write to a socket, which has what one commit appended to the room", k.write),
        ("a commit, on PostgreSQL, the node's part", k.pg_node_commit),
        ("a message, on PostgreSQL, the node's part", k.pg_node_message),
        ("a commit, PostgreSQL's part", k.pg_commit),
        ("a message, PostgreSQL's part", k.pg_message),
        ("a message of Redis at a receiving node, wake-up and feed included", k.part_alone),
        ("each entry in it", k.part_message),
        ("a write to a socket at a receiving node", k.part_write),
        ("a node beside others, each second", k.idle_node),
        ("a message that Redis publishes", k.publish),
        ("each subscriber to it", k.subscriber),
        ("a heartbeat: PING, PONG, the connection's timer", k.heartbeat),
        ("opening a connection", k.connect),
    ]
    found = [(what, f"{value:,.0f} µs" if value >= 10 else f"{value:g} µs") for what, value in rows]
    return _table(("what", "constant"), [*found, ("an idle connection", f"{k.memory_kib:g} KiB of memory")])


def checks_table() -> str:
    head = ("placement", "load", "process", "model", "measured", "error")
    return _table(
        head,
        [
            (
                check.placement,
                check.shape,
                check.process,
                f"{check.model * 1e3:,.0f} ms",
                f"{check.measured * 1e3:,.0f} ms",
                f"{check.error:+.0%}".replace("-", "−"),
            )
            for check in checks()
        ],
    )


def extrapolation_table() -> str:
    head = (
        *("connections", "messages/s", "deliveries/s", "databases", "nodes of each", "a node: cores"),
        *("of them for other nodes' commits", "memory of a node", "PostgreSQL: cores", "Redis: cores"),
    )
    rows = []
    for connections in EXTRAPOLATED:
        databases, one = split(connections)
        sent = connections * PER_MINUTE / 60
        rows.append(
            (
                f"{connections:,}",
                f"{sent:,.0f}",
                f"{sent * RECIPIENTS:,.0f}",
                f"{databases}",
                f"{one.nodes}",
                f"{one.node:.2f}",
                f"{one.relayed:.2f}",
                f"{one.connections / one.nodes * constants().memory_kib / 1024:,.0f} MiB",
                _digits(one.postgresql),
                _digits(one.redis) if one.nodes > 1 else "–",
            )
        )
    return _table(head, rows)


def summary() -> str:
    """The sentence with the model's main result."""
    one = largest()
    million, many = split(1_000_000), split(10_000_000)
    return (
        f"One database with {one.nodes} nodes carries about {one.connections:,.0f} such connections. A million needs"
        f" {million[0]} separate ones, of {million[1].nodes} nodes each; ten million need {many[0]}, of"
        f" {many[1].nodes} each.\n"
    )


def idle_summary() -> str:
    k = constants()
    memory, beats = 1e6 * k.memory_kib / 2**20, 1e6 / HEARTBEAT_S * k.heartbeat / 1e6
    return (
        f"A million idle connections hold {memory:,.0f} GiB of memory in the servers, and their heartbeats use"
        f" {beats:.1f} cores. A node that is lost with 100,000 connections costs the others"
        f" {1e5 * k.connect / 1e6:,.0f} s of processor time for connecting alone.\n"
    )


# -- the plot --------------------------------------------------------------------------------------------------------

_WIDTH, _HEIGHT = 760, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 150, 24, 52
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #333 }
.axis { stroke: #777; fill: none } .grid { stroke: #ddd }
.line { fill: none; stroke-width: 2.2 }
.nodes { stroke: #0b62c4 } text.nodes { fill: #0b62c4; stroke: none }
.relayed { stroke: #b3460c } text.relayed { fill: #b3460c; stroke: none }
.postgresql { stroke: #6b3fa0 } text.postgresql { fill: #6b3fa0; stroke: none }
.redis { stroke: #1d7a3a } text.redis { fill: #1d7a3a; stroke: none }
@media (prefers-color-scheme: dark) {
text { fill: #ddd } .axis { stroke: #999 } .grid { stroke: #3a3f45 }
.nodes { stroke: #6db0ff } text.nodes { fill: #6db0ff }
.relayed { stroke: #ff9d5c } text.relayed { fill: #ff9d5c }
.postgresql { stroke: #c7a3f5 } text.postgresql { fill: #c7a3f5 }
.redis { stroke: #6fd08c } text.redis { fill: #6fd08c }
}
"""
_LINES: Final[Sequence[tuple[str, str, Callable[[int, Cluster], float]]]] = (
    ("nodes", "nodes", lambda count, one: count * one.nodes * one.node),
    ("relayed", "other nodes' commits", lambda count, one: count * one.nodes * one.relayed),
    ("postgresql", "PostgreSQL", lambda count, one: count * one.postgresql),
    ("redis", "Redis", lambda count, one: count * one.redis),
)
_FIRST, _LAST = 4, 7
_LEAST, _MOST = -2, 3
"""Powers of ten of the axes: connections, cores."""


def _x(connections: float) -> float:
    return _LEFT + (math.log10(connections) - _FIRST) / (_LAST - _FIRST) * (_WIDTH - _LEFT - _RIGHT)


def _y(cores: float) -> float:
    share = (math.log10(cores) - _LEAST) / (_MOST - _LEAST)
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def plot() -> str:
    """Cores by connections, both logarithmic, as SVG; it is legible on a light and on a dark page."""
    bottom, right = _y(10**_LEAST), _x(10**_LAST)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">',
        "<title>Processor cores by connections</title>",
        f"<style>{_STYLE}</style>",
    ]
    for power in range(_LEAST, _MOST + 1):
        y = _y(10**power)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{right:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:,g}</text>')
    for power in range(_FIRST, _LAST + 1):
        x = _x(10**power)
        parts.append(f'<path class="grid" d="M{x:.1f} {_TOP}V{bottom:.1f}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 20:.1f}" text-anchor="middle">{10**power:,}</text>')
    parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom:.1f}H{right:.1f}"/>')
    parts.append(f'<text x="{(_LEFT + right) / 2:.1f}" y="{bottom + 42:.1f}" text-anchor="middle">connections</text>')
    parts.append(f'<text x="{_LEFT}" y="{_TOP - 8}" text-anchor="middle">cores</text>')
    steps = [10 ** (_FIRST + n / 8) for n in range(8 * (_LAST - _FIRST) + 1)]
    clusters = [(connections, *split(connections)) for connections in steps]
    for name, label, cores in _LINES:
        values = [(connections, cores(count, one)) for connections, count, one in clusters]
        shown = [(_x(connections), _y(value)) for connections, value in values if value >= 10**_LEAST]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in shown)
        parts.append(f'<polyline class="line {name}" points="{path}"/>')
        parts.append(f'<text class="{name}" x="{right + 6:.1f}" y="{shown[-1][1] + 4:.1f}">{label}</text>')
    return "\n".join([*parts, "</svg>", ""])


def run() -> int:
    for part in (constants_table(), checks_table(), extrapolation_table(), summary()):
        print(part)
    PLOT.write_text(plot(), "utf-8")
    print(f"written to {PLOT}")
    return 0
