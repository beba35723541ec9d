"""A clock of the server's own, which a campaign sets by libfaketime."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.campaign.support.report import NotTried

LIBRARY = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


class Clock:
    """`environment` is for the process; `set` takes effect at its next look at the clock. Raises `NotTried`."""

    def __init__(self, folder: Path) -> None:
        if not LIBRARY.exists():
            raise NotTried("libfaketime is not installed (apt-get install faketime)")
        self._file = Path(tempfile.mkdtemp(dir=folder)) / "clock"
        self.set(0)
        self.environment = {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",  # timers go on
        }

    def set(self, seconds: float) -> None:
        """So far from the true time."""
        made = self._file.with_suffix(".new")
        made.write_text(f"{seconds:+.0f}")
        made.replace(self._file)  # whole, whenever it is read
