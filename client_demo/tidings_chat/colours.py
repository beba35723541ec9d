"""The colours of the terminal client. Each has a contrast of 4.5:1 against black and against white (WCAG 1.4.3)."""

from __future__ import annotations

from typing import Final

QUIET: Final = "#757575"
ROOM: Final = "#008383"
ALERT: Final = "#9b6d00"
GOOD: Final = "#0f8823"
BAD: Final = "#e12b2b"
PEOPLE: Final = ("#c0560a", "#697e00", "#008383", "#2472e0", "#6e63e4", "#a64cd2", "#d5269b", "#9b6d00")
"""Of names; one's own is `GOOD`."""
CALL: Final = "bold #000000 on #ffd75f"
"""A mention of the user: it brings its own background."""
