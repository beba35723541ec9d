"""The number of examples of property-based tests."""

from __future__ import annotations

import os


def examples(number: int) -> int:
    """The number of examples to try: `number`, or a quarter of it without the long tests."""
    return max(1, number // 4) if os.environ.get("TIDINGS_TEST_DEPTH") == "quick" else number
