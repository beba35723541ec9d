"""Writes the contract's TypeScript types for the web client and the client library: `python -m docs.typescript`.

They are what this code serves as `/contract.ts`. `npm run check` writes them before it checks, in `web` and in
`clients/javascript`, and there `npm run build`, too. They are not in the repository.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import tidings.actions
from tidings.actions.dispatch import Registry
from tidings.gateways import typescript

ROOT: Final = Path(__file__).resolve().parent.parent
TYPES: Final = (ROOT / "web/src/contract.gen.ts", ROOT / "clients/javascript/src/contract.gen.ts")


def write() -> list[Path]:
    """Write the types unless they are there already. Returns the files that were written."""
    text = typescript.render(Registry(tidings.actions))
    stale = [path for path in TYPES if not path.exists() or path.read_text("utf-8") != text]
    for path in stale:
        path.write_text(text, "utf-8")
    return stale


if __name__ == "__main__":
    write()
