"""What `make test-all` decides in CI, shown by a suite of its own."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from tests.suite import Outcome, Part, closing_lines, run_all, wait_until_gone

UNLUCKY = """
from pathlib import Path
import pytest

@pytest.mark.parametrize("n", range({unlucky}))
def test_unlucky(n):
    seen = Path(__file__).with_name(f"seen{{n}}")
    first = not seen.exists()
    seen.touch()
    assert not first
"""
WRONG = "\ndef test_wrong(): assert False\n"
SKIPPED = "\ndef test_skipped(): pytest.skip('no such machine')\n"
LEAVES_A_PROCESS = """
import subprocess
def test_right(): subprocess.Popen(["sleep", "600"])
"""
HANGS = """
import time
def test_that_hangs(): time.sleep(600)
"""


def suite(folder: Path, tests: str, *, limit: float = 100.0) -> tuple[Outcome, list[str]]:
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_some.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", f"--rootdir={folder}", str(folder)]
    part = Part("python", command, "--junit-xml", lambda _: ["--last-failed", "--last-failed-no-failures=none"])
    outcome = run_all([part], folder, time.monotonic() + limit, repeat=True)
    return outcome, list(closing_lines(outcome, ci=True))


def test_a_test_that_passes_alone_is_named_and_three_of_them_do_not_fail_the_run(tmp_path: Path) -> None:
    outcome, lines = suite(tmp_path, UNLUCKY.format(unlucky=3))
    assert outcome.problems == []
    assert [line for line in lines if line.startswith("unstable")] == [
        f"unstable: test_some::test_unlucky[{n}]" for n in range(3)
    ]
    assert lines[-1] == "3 passed, 0 failed, 0 skipped"


@pytest.mark.parametrize(
    ("tests", "problem"),
    [
        (UNLUCKY.format(unlucky=4), "4 unstable tests, of at most 3"),
        (UNLUCKY.format(unlucky=1) + WRONG, "failed twice: test_some::test_wrong"),
        (UNLUCKY.format(unlucky=1) + SKIPPED, "in CI no test may be skipped"),
    ],
)
def test_what_fails_the_run(tmp_path: Path, tests: str, problem: str) -> None:
    outcome, lines = suite(tmp_path, tests)
    assert outcome.problems == [problem]
    assert problem in lines


def test_a_process_that_a_test_leaves_behind_is_named_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.suite.LEAVING_S", 0.1)
    monkeypatch.setattr("tests.suite.secrets.token_hex", lambda _: f"of-{tmp_path.name}")
    outcome, _ = suite(tmp_path, LEAVES_A_PROCESS)
    assert len(outcome.problems) == 1
    assert "processes were left behind" in outcome.problems[0]
    assert "sleep 600" in outcome.problems[0]
    assert wait_until_gone(f"of-{tmp_path.name}", 30) == {}, "a killed process takes a moment on a busy machine"


def test_a_hanging_part_is_ended_with_its_stack_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    outcome, _ = suite(tmp_path, HANGS, limit=5)
    assert outcome.problems == ["python: out of time; the stacks are above"]
    assert "in test_that_hangs" in "".join(capfd.readouterr())
