"""How deep a property is tested."""

from __future__ import annotations

import os


def examples(number: int) -> int:
    """How many examples to try: all of `number`, and a quarter of them when the long tests are left out."""
    return max(1, number // 4) if os.environ.get("TIDINGS_TEST_DEPTH") == "quick" else number
