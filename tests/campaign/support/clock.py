"""A clock for a server, which a campaign sets through libfaketime."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.campaign.support.report import NotTried

LIBRARY = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


class Clock:
    """Pass `environment` to the process; `set` takes effect when it next reads the clock. Raises `NotTried`."""

    def __init__(self, folder: Path) -> None:
        if not LIBRARY.exists():
            raise NotTried("libfaketime is not installed (apt-get install faketime)")
        self._file = Path(tempfile.mkdtemp(dir=folder)) / "clock"
        self.set(0)
        self.environment = {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",  # timers continue
        }

    def set(self, seconds: float) -> None:
        """Set the clock to the true time plus `seconds`."""
        new_file = self._file.with_suffix(".new")
        new_file.write_text(f"{seconds:+.0f}")
        new_file.replace(self._file)  # atomic
