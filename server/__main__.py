"""`python -m server`: the same as the `tidings` command."""

import sys

from server.cli import main

sys.exit(main())
