"""`python -m bench`: run the benchmark, or a part of it; `python -m bench profile`: see where the time goes."""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import capacity, profile, report, scaling
from bench.generator.engine import CACHE, NoCompiler, library
from bench.load import LoadFailed
from bench.process import ServerFailed
from bench.scenarios import SCENARIOS, Plan, Row, Scenario
from bench.servers import PEERS
from bench.several import SEVERAL_NODES
from bench.uploads import Uploads

ALL: Sequence[Scenario] = (*SCENARIOS, Uploads(), *SEVERAL_NODES)
GROUPS = {"nodes": SEVERAL_NODES}
CHOICES: dict[str, Sequence[Scenario]] = {scenario.key: [scenario] for scenario in ALL} | GROUPS
FAILURES = (ServerFailed, LoadFailed, OSError)
WIDTH = 140
"""Columns of the tables if the output is not a terminal."""


class OutOfTime(Exception):
    """The time limit of the run has passed."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure Tidings beside other servers.")
    parser.add_argument("command", nargs="?", choices=["run", "profile", "capacity", "model"], default="run")
    parser.add_argument("--only", metavar="KEYS", help=f"some scenarios, comma-separated: {', '.join(CHOICES)}")
    parser.add_argument("--rounds", type=int, default=3, help="of each server, in turn (default: 3)")
    parser.add_argument("--seconds", type=float, default=4.0, help="that a round is measured (default: 4)")
    parser.add_argument("--warmup", type=float, default=1.5, help="seconds before it (default: 1.5)")
    parser.add_argument("--scale", type=float, default=1.0, help="of members, connections, entries: below 1 is a toy")
    parser.add_argument("--limit", type=float, default=40.0, help="minutes after which to stop (default: 40)")
    parser.add_argument(
        "--output", type=Path, help="Markdown file for the table (default: bench/RESULTS.md for a whole run, or none)"
    )
    parser.add_argument("--directory", type=Path, help="for the databases, on the disk to measure (default: .cache)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    if args.command == "model":
        return scaling.run()
    chosen = [scenario for key in args.only.split(",") for scenario in CHOICES[key]] if args.only else list(ALL)
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        library()
    except NoCompiler as error:
        console.print(f"[red]{error}")
        return 2
    if not (PEERS / "node_modules").exists():
        console.print("[red]the peers are not installed: run `make bench`, or `npm ci` in bench/peers")
        return 2
    plan = Plan(args.rounds, args.seconds, args.warmup, args.scale)
    signal.signal(signal.SIGALRM, _out_of_time)
    signal.signal(signal.SIGTERM, _terminated)
    signal.setitimer(signal.ITIMER_REAL, args.limit * 60)
    parent = args.directory or CACHE
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="run-", dir=parent, ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o711)  # PostgreSQL runs as another user if this process is root's
        if args.command == "capacity":
            return capacity.run(console, plan)
        if args.command == "profile":
            return profile.run(console, chosen, plan, Path(directory))
        rows, failed = _run(console, chosen, plan, Path(directory))
    signal.setitimer(signal.ITIMER_REAL, 0)
    if rows:
        (CACHE / "last.json").write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
        report.show(console, rows, plan)
        output = args.output
        if output is None and chosen == list(ALL) and not failed and args.scale == 1:
            output = Path(__file__).with_name("RESULTS.md")
        if output is not None:
            output.write_text(report.markdown(rows, plan))
            console.print(f"written to {output}")
    for key, reason in failed.items():
        console.print(f"[red]{key}: {reason}", highlight=False)
    return 1 if failed else 0


def _run(
    console: Console, chosen: Sequence[Scenario], plan: Plan, directory: Path
) -> tuple[list[Row], dict[str, str]]:
    """The rows, and the reason for each scenario (by its key) that has none."""
    rows: list[Row] = []
    failed: dict[str, str] = {}
    columns = (TextColumn("{task.description:<50}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(*columns, console=console))
        task = progress.add_task("", total=sum(scenario.rounds(plan) for scenario in chosen))
        plan.round_done = lambda: progress.advance(task)
        completed = 0
        for scenario in chosen:
            progress.update(task, description=scenario.title)
            completed += scenario.rounds(plan)
            scenario_directory = directory / scenario.key
            try:
                rows += scenario.run(plan, scenario_directory)
            except FAILURES as error:
                failed[scenario.key] = str(error)
            except OutOfTime:
                failed[scenario.key] = "out of time here; nothing more was run"
                break
            except KeyboardInterrupt:
                failed[scenario.key] = "interrupted here; nothing more was run"
                break
            finally:
                shutil.rmtree(scenario_directory, ignore_errors=True)
            progress.update(task, completed=completed)
    return rows, failed


def _out_of_time(_number: int, _frame: FrameType | None) -> None:
    raise OutOfTime


def _terminated(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
