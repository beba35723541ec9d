"""Draft the next migration from the difference between the models and the last migration. Review the draft."""

import sys
import tempfile
from pathlib import Path

from tidings_db.schema import draft


def main() -> int:
    if len(sys.argv) != 2:
        print('usage: python -m tidings_db.migrations "what changes"', file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        draft(f"sqlite:///{Path(folder, 'draft.sqlite3')}", sys.argv[1])
    return 0


sys.exit(main())
