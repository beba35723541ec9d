"""The table of a campaign: for each promise the number of tries, the expected and the observed outcome."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

WIDTHS = {"check": 68, "tries": 6, "expected": 44, "seen": 60, "verdict": 8}
KEPT, BROKEN, SKIPPED, ERROR = "kept", "BROKEN", "skipped", "ERROR"


class Seen(NamedTuple):
    """The result of a check."""

    tries: int
    expected: str
    seen: str
    kept: bool | None
    """None: the check could not run here; `seen` has the reason."""
    figures: dict[str, Any] = {}  # noqa: RUF012  # never changed
    """Numbers for the JSON file."""


class NotTried(Exception):
    """A check cannot run on this machine or with these options; the message has the reason."""


@dataclass
class Row:
    area: str
    check: str
    tries: int
    expected: str
    seen: str
    verdict: str
    seconds: float
    figures: dict[str, Any]


class Report:
    def __init__(self, campaign: str, **options: Any) -> None:
        self.campaign = campaign
        self.options = options
        self.rows: list[Row] = []

    def begin(self) -> None:
        told = " ".join(f"{name}={value}" for name, value in self.options.items())
        print(f"# {self.campaign}: {told}\n")
        print(_line({name: name for name in WIDTHS}))
        print(_line({name: "-" * min(width, 3) for name, width in WIDTHS.items()}), flush=True)

    def add(self, area: str, check: str, seen: Seen, seconds: float) -> None:
        verdict = SKIPPED if seen.kept is None else KEPT if seen.kept else BROKEN
        self._add(Row(area, check, seen.tries, seen.expected, seen.seen, verdict, round(seconds, 1), seen.figures))

    def failed(self, area: str, check: str, error: BaseException, seconds: float) -> None:
        """The check itself failed, which is neither a verdict on the server nor a success."""
        text = f"{type(error).__name__}: {error}".replace("\n", " ")[:300]
        self._add(Row(area, check, 0, "", text, ERROR, round(seconds, 1), {}))

    def _add(self, row: Row) -> None:
        self.rows.append(row)
        print(_line(asdict(row)), flush=True)

    def end(self, file: Path | None) -> int:
        """Print the totals, write the JSON; returns the exit status: 0 kept, 1 broken promises, 2 failed checks."""
        count = {
            verdict: sum(row.verdict == verdict for row in self.rows) for verdict in (KEPT, BROKEN, SKIPPED, ERROR)
        }
        tries, seconds = sum(row.tries for row in self.rows), sum(row.seconds for row in self.rows)
        told = ", ".join(f"{number} {verdict}" for verdict, number in count.items())
        print(f"\n{len(self.rows)} checks, {tries} tries in {seconds:.0f} s: {told}")
        if file is not None:
            content = {
                "campaign": self.campaign,
                "options": self.options,
                "checks": [asdict(row) for row in self.rows],
            }
            file.write_text(json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n")
        sys.stdout.flush()
        return 2 if count[ERROR] else 1 if count[BROKEN] else 0


def _line(cells: dict[str, Any]) -> str:
    return "| " + " | ".join(f"{cells[name]!s:{width}}" for name, width in WIDTHS.items()) + " |"
