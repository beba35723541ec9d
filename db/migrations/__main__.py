"""Draft the next migration from what the models declare and the last one does not make. Read and tidy it."""

import sys
import tempfile
from pathlib import Path

from db.schema import draft


def main() -> int:
    if len(sys.argv) != 2:
        print('usage: python -m db.migrations "what changes"', file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        draft(f"sqlite:///{Path(folder, 'draft.sqlite3')}", sys.argv[1])
    return 0


sys.exit(main())
