"""The colours of the terminal client. Each has a contrast of 4.5:1 against black and against white (WCAG 1.4.3).

In a terminal of 256 colours, the nearest of those is shown, whose contrast is 4:1 at least.
"""

from __future__ import annotations

from typing import Final

QUIET: Final = "#767676"
ROOM: Final = "#00875f"
ALERT: Final = "#b16000"
GOOD: Final = "#008a00"
BAD: Final = "#e01c68"
PEOPLE: Final = ("#5f5fff", "#875fd7", "#af5f5f", "#d700af", "#b16000", "#00875f")
"""Of names; one's own is `GOOD`."""
CALL: Final = "bold #000000 on #ffd75f"
"""A mention of the user: it brings its own background."""
