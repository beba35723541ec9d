"""The table, on the screen and in Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.cpu import cores
from bench.scenarios import Plan, Row, Side
from bench.servers import versions

HEADINGS = ("scenario", "unit", "against", "Tidings", "ratio", "target", "")
DETAILS = (
    "scenario",
    "server",
    "medians of",
    "CPU",
    "p50",
    "p99",
    "ack p50",
    "generator",
)


def number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{number(value)} ms"


def _verdict(row: Row) -> str:
    if not row.target:
        return "–"
    return "reached" if row.reached else "**missed**"


def cells(row: Row) -> tuple[str, ...]:
    against = "–" if row.against is None else f"{number(row.against.value)} ({row.against.name})"
    ratio = "–" if row.against is None else f"{row.ratio:.2f} ×"
    return (
        row.title,
        row.unit,
        against,
        number(row.ours.value),
        ratio,
        row.target or "–",
        _verdict(row),
    )


def details(row: Row, side: Side) -> tuple[str, ...]:
    return (
        row.scenario,
        side.name,
        ", ".join(number(value) for value in side.values),
        "–" if side.cpu_us is None else f"{number(side.cpu_us)} µs",
        _ms(side.p50),
        _ms(side.p99),
        _ms(side.ack_p50),
        "–" if side.generator is None else f"{side.generator:.0%}",
    )


def sides(row: Row) -> list[Side]:
    return [side for side in (row.against, row.ours) if side is not None]


def show(console: Console, rows: Sequence[Row], plan: Plan) -> None:
    """Print the table, and the rounds behind it."""
    toy = "" if plan.scale == 1 else f": a toy, at {plan.scale:g} of the size named"
    table = Table(title=f"Medians{toy}", title_justify="left")
    for at, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if at in (3, 4) else "left")
    for row in rows:
        colour = "green" if row.reached else "red"
        table.add_row(*cells(row)[:-1], f"[{colour}]{_verdict(row).strip('*')}")
    console.print(table)
    for row in rows:
        if row.note:
            console.print(f"{row.title}: {row.note}", highlight=False)
    rounds = Table(title="Rounds, CPU and latency", title_justify="left")
    for heading in DETAILS:
        rounds.add_column(heading)
    for row in rows:
        for side in sides(row):
            rounds.add_row(*details(row, side))
    console.print(rounds)


def machine() -> list[tuple[str, str]]:
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    server, generator = cores()
    return [
        ("CPU", f"{model}, {os.cpu_count()} cores; server on {server}, generator on {generator}"),
        ("Memory", f"{memory:.0f} GiB"),
        ("Kernel", f"{platform.system()} {platform.release()}"),
    ]


def markdown(rows: Sequence[Row], plan: Plan) -> str:
    def table(headings: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
        lines = [headings, ["---"] * len(headings), *body]
        return ["| " + " | ".join(line) + " |" for line in lines]

    return "\n".join(
        [
            "# What was measured",
            "",
            f"By `make bench` on {datetime.now(UTC):%d %B %Y}: medians of {plan.rounds} rounds of {plan.seconds:g} s,"
            f" each after {plan.warmup:g} s of warm-up, the servers in turn. Each server has one core, the load"
            " generator the other. Contents are 100 characters. Tidings runs complete (tokens, sessions, membership,"
            " validation, `synchronous=FULL` before the acknowledgement, cursors), only rate limits are off; Node"
            " without SQLite keeps nothing. How it is measured, and what not to conclude: `bench/README.md`.",
            "",
            *([f"A toy: at {plan.scale:g} of the sizes named.", ""] if plan.scale != 1 else []),
            *table((*HEADINGS[:-1], "result"), [cells(row) for row in rows]),
            "",
            *[f"- {row.title}: {row.note}." for row in rows if row.note],
            "",
            "## Rounds, CPU and latency",
            "",
            "CPU is the server's, of all its threads, per delivery or whatever else the row counts. The generator"
            " checks in every round that each connection got each acknowledged message exactly once. p50 and p99 are"
            " from sending to arrival; the last column is how much of its core the generator used.",
            "",
            *table(DETAILS, [details(row, side) for row in rows for side in sides(row)]),
            "",
            "## Machine and versions",
            "",
            *table(("what", "which"), [*machine(), *versions()]),
            "",
        ]
    )
