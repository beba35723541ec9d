"""Where the server's time goes: py-spy attached to Tidings while a scenario runs.

Writes a flame graph and a listing of the functions with the most samples of their own, and of all beneath them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from bench.generator.engine import CACHE
from bench.scenarios import Plan, Scenario, Sending
from bench.servers import Tidings

LOCK = Path(__file__).with_name("profile.lock")
RATE = 200
"""Samples a second; each one halts the server, so its figures are lower than in the table."""
SHOWN = 40


def py_spy() -> str:
    """The py-spy on the path or, without one, that of the cache, which the first call installs."""
    installed = shutil.which("py-spy") or shutil.which("py-spy", path=str(Path(sys.executable).parent))
    if installed:
        return installed
    tools = CACHE / "tools"
    cached = tools / "bin" / "py-spy"
    if not cached.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--require-hashes", "--target", tools, "--upgrade", "-r", LOCK], check=True)
    return str(cached)


def run(console: Console, chosen: Sequence[Scenario], plan: Plan, directory: Path) -> int:
    """Profile the chosen scenarios that send; the others are skipped."""
    spy = py_spy()
    out = CACHE / "profile"
    out.mkdir(parents=True, exist_ok=True)
    for scenario in chosen:
        if not isinstance(scenario, Sending):
            console.print(f"{scenario.key}: only the scenarios that send are profiled")
            continue
        with ExitStack() as stack:
            server, load = scenario.prepared(plan, directory / scenario.key, Tidings, stack)
            load.measure(0.0, plan.warmup)
            for form, suffix in (("flamegraph", "svg"), ("raw", "txt")):
                target = out / f"{scenario.key}.{suffix}"
                command = [spy, "record", "--native", "--threads", "--rate", str(RATE), "--format", form]
                command += ["--duration", str(max(1, int(plan.seconds))), "--output", str(target)]
                recording = subprocess.Popen(
                    [*command, "--pid", str(server.pid)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                )
                stack.callback(recording.kill)
                result = load.measure(1.0, plan.seconds)
                _, errors = recording.communicate(timeout=60)
                if recording.returncode:
                    console.print(f"[red]py-spy: {errors.decode()}", highlight=False)
                    return 1
        top = listing((out / f"{scenario.key}.txt").read_text())
        rate, cpu = result["messages"] / result["seconds"], result["cpu"] * 1e6 / result["messages"]
        head = f"{scenario.title}: {rate:,.0f} deliveries/s, {cpu:.2f} µs CPU each while profiled\n\n"
        (out / f"{scenario.key}.top.txt").write_text(head + top)
        console.print(head + top, highlight=False, markup=False)
        console.print(f"flame graph: {out / scenario.key}.svg")
    return 0


def listing(raw: str) -> str:
    """Functions of the event loop's thread by their own share of its samples; `raw`: py-spy's folded stacks.

    The samples of threads that wait for work would outnumber all others; the flame graph shows each thread.
    """
    own: Counter[str] = Counter()
    beneath: Counter[str] = Counter()
    total = 0
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        thread, *calls = stack.split(";")
        if "MainThread" not in thread or not calls:
            continue
        total += int(count)
        own[calls[-1]] += int(count)
        for call in set(calls):
            beneath[call] += int(count)
    lines = ["  own   all  function"]
    lines += [
        f"{n / max(1, total):5.1%} {beneath[call] / max(1, total):5.1%}  {call}" for call, n in own.most_common(SHOWN)
    ]
    return "\n".join(lines)
