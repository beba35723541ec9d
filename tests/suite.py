"""Runs all tests: `make test`, and `make test-all` with the long ones.

In CI (`CI` is set) a test that fails does not yet fail the run: it runs once more, alone and after all others. If it
passes then, it is named as unstable; more than `MAX_UNSTABLE` of them fail the run. Nothing may be skipped there, and
no test may leave a process behind.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

ROOT: Final = Path(__file__).parent.parent
REPORTS: Final = ROOT / "build/tests"
MAX_UNSTABLE: Final = 3
MAX_REPEATED: Final = 20
"""If more tests fail, the change is wrong, and running them alone takes too long."""
LIMIT_S: Final = 4 * 3600.0
STACKS_S: Final = 20.0
"""How long a part that is out of time has to print its stacks."""
LEAVING_S: Final = 10.0
"""How long after a part its processes may take to end."""
RUN_ID: Final = "TEST_RUN_ID"
"""Environment variable that marks all processes of a part."""


@dataclass(frozen=True)
class Case:
    """The result of one test in a JUnit report."""

    file: str
    """The test file as its runner names it."""
    title: str
    seconds: float
    outcome: str
    """"passed", "failed" or "skipped"."""
    detail: str = ""
    """Why it was skipped."""

    @property
    def name(self) -> str:
        return f"{self.file}::{self.title}"


@dataclass(frozen=True)
class Part:
    """Tests with one runner. `again`: the arguments that repeat failed cases one after the other."""

    name: str
    command: Sequence[str]
    report: str
    """The option for the path of the JUnit report."""
    again: Callable[[Sequence[Case]], Sequence[str]]


@dataclass
class Outcome:
    """What the closing lines say of all parts."""

    cases: list[Case] = field(default_factory=list)
    unstable: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def parts(everything: bool) -> list[Part]:
    serially = ["-n", "0", "--last-failed", "--last-failed-no-failures=none"]
    python = [sys.executable, "-m", "pytest", "-n", "auto", *([] if everything else ["-m", "not long"])]
    browser = "test:browser" if everything else "test:core"

    def npm(script: str, folder: str) -> list[str]:
        return ["npm", "run", script, "--prefix", folder, "--", "--reporter=default", "--reporter=junit"]

    return [
        Part("page", npm("test", "web"), "--outputFile.junit", _vitest_again),
        Part("javascript", npm("test", "clients/javascript"), "--outputFile.junit", _vitest_again),
        Part("python", python, "--junit-xml", lambda _: serially),
        Part("browser", npm(browser, "web"), "--outputFile.junit", _vitest_again),
    ]


def _vitest_again(failed: Sequence[Case]) -> list[str]:
    names = "|".join(re.escape(case.title.replace(" > ", " ")) for case in failed)
    return [*sorted({case.file for case in failed}), "--no-file-parallelism", f"--testNamePattern=^({names})$"]


def read_report(path: Path) -> list[Case]:
    """The cases of a JUnit report. One test can have two: a failure, and another of its teardown."""
    cases: list[Case] = []
    for element in ElementTree.parse(path).iter("testcase"):
        outcome, detail = "passed", ""
        for kind, means in (("skipped", "skipped"), ("failure", "failed"), ("error", "failed")):
            if (found := element.find(kind)) is not None:
                outcome, detail = means, found.get("message") or ""
        file, title = element.get("classname", ""), element.get("name", "")
        cases.append(Case(file, title, float(element.get("time", 0)), outcome, detail))
    return cases


def run(part: Part, arguments: Sequence[str], report: Path, deadline: float, outcome: Outcome) -> list[Case] | None:
    """Run a part, or some of its tests; None if it broke off. Ends every process that it started."""
    report.unlink(missing_ok=True)
    run_id = secrets.token_hex(8)
    command = [*part.command, *arguments, f"{part.report}={report}"]
    print(f"\n== {part.name}: {' '.join(command)}", flush=True)
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | {RUN_ID: run_id}, start_new_session=True) as process:
        try:
            process.wait(max(1.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            outcome.problems.append(f"{part.name}: out of time; the stacks are above")
            _end(processes_of(run_id), signal.SIGABRT)  # faulthandler, which pytest enables, prints the stacks
            _end(wait_until_gone(run_id, STACKS_S), signal.SIGKILL)
            return None
        finally:
            left = wait_until_gone(run_id, LEAVING_S if process.poll() is not None else 0)
            _end(left, signal.SIGKILL)
    if left:
        outcome.problems.append(f"{part.name}: processes were left behind: {'; '.join(left.values())}")
    status = process.returncode
    if status not in (0, 1) or not report.exists():
        outcome.problems.append(f"{part.name}: broke off with status {status}")
        return None
    cases = read_report(report)
    if status == 1 and not any(case.outcome == "failed" for case in cases):
        outcome.problems.append(f"{part.name}: failed outside of its tests")
    return cases


def processes_of(run_id: str) -> dict[int, str]:
    """The processes that a part has started, with their command lines; {} where there is no /proc."""
    mark = f"{RUN_ID}={run_id}".encode()
    found: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found[int(folder.name)] = f"{folder.name} {command.strip()[:200]}"
    return found


def wait_until_gone(run_id: str, seconds: float) -> dict[int, str]:
    """The processes that are left after at most so many seconds."""
    until = time.monotonic() + seconds
    while (left := processes_of(run_id)) and time.monotonic() < until:
        time.sleep(0.1)
    return left


def _end(processes: dict[int, str], number: int) -> None:
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def run_all(selected: Sequence[Part], reports: Path, deadline: float, *, repeat: bool) -> Outcome:
    """Run the parts, and with `repeat` the failed tests of each once more when all have run.

    Without `repeat`, the first part with a failure is the last.
    """
    outcome = Outcome()
    failed: list[tuple[Part, list[Case]]] = []
    for part in selected:
        cases = run(part, [], reports / f"{part.name}.xml", deadline, outcome)
        outcome.cases += cases or []
        failures = [case for case in cases or () if case.outcome == "failed"]
        if failures:
            failed.append((part, failures))
        if (cases is None or failures) and not repeat:
            break
    names = {case.name for _, failures in failed for case in failures}
    if not repeat or len(names) > MAX_REPEATED:
        outcome.problems += [f"failed: {name}" for name in sorted(names)]
        return outcome
    for part, failures in failed:
        again = run(part, part.again(failures), reports / f"{part.name}-again.xml", deadline, outcome) or []
        passed = {case.name for case in again if case.outcome == "passed"}
        passed -= {case.name for case in again if case.outcome != "passed"}
        for name in sorted({case.name for case in failures}):
            if name in passed:
                outcome.unstable.append(name)
            else:
                outcome.problems.append(f"failed twice: {name}")
    if len(outcome.unstable) > MAX_UNSTABLE:
        outcome.problems.append(f"{len(outcome.unstable)} unstable tests, of at most {MAX_UNSTABLE}")
    return outcome


def closing_lines(outcome: Outcome, *, ci: bool) -> Iterator[str]:
    """The twenty slowest tests, what was skipped and why, the unstable tests, the problems, and the counts."""
    yield "\n== the twenty slowest tests"
    for case in sorted(outcome.cases, key=lambda case: -case.seconds)[:20]:
        yield f"{case.seconds:8.1f} s  {case.name}"
    skipped = [case for case in outcome.cases if case.outcome == "skipped"]
    yield f"skipped: {'nothing' if not skipped else len(skipped)}"
    for case in skipped:
        yield f"skipped: {case.name}: {case.detail}"
    if ci and skipped:
        outcome.problems.append("in CI no test may be skipped")
    yield from (f"unstable: {name}" for name in outcome.unstable)
    yield from outcome.problems
    bad = len({case.name for case in outcome.cases if case.outcome == "failed"} - set(outcome.unstable))
    names = {case.name for case in outcome.cases}
    yield f"{len(names) - bad - len(skipped)} passed, {bad} failed, {len(skipped)} skipped"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.suite", description=__doc__)
    parser.add_argument("--all", action="store_true", help="with the long tests")
    parser.add_argument("--limit", type=float, default=LIMIT_S, metavar="SECONDS", help="for the whole run")
    options = parser.parse_args()
    ci = bool(os.environ.get("CI"))
    shutil.rmtree(REPORTS, ignore_errors=True)
    REPORTS.mkdir(parents=True)
    outcome = run_all(parts(options.all), REPORTS, time.monotonic() + options.limit, repeat=ci)
    for line in closing_lines(outcome, ci=ci):
        print(line)
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
