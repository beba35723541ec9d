"""Writes the contract's TypeScript types for the web client: `python -m docs.typescript`.

They are what this code serves as `/contract.ts`. `npm run check --prefix web` writes them before it checks. They are
not in the repository: a build needs no types.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import tidings.actions
from tidings.actions.dispatch import Registry
from tidings.gateways import typescript

TYPES: Final = Path(__file__).resolve().parent.parent / "web/src/contract.gen.ts"


def write() -> bool:
    """Write the types unless they are there already. Returns whether they were written."""
    text = typescript.render(Registry(tidings.actions))
    if TYPES.exists() and TYPES.read_text("utf-8") == text:
        return False
    TYPES.write_text(text, "utf-8")
    return True


if __name__ == "__main__":
    write()
