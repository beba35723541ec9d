"""A server that stops by SIGSTOP in the journal's transaction, after it has locked the rooms.

Python imports this module at the start of a process that has this folder on its path. The process stops once, when
there is a file of the name in TEST_STOP, which it deletes.
"""

import os
import signal
from pathlib import Path
from typing import Any

from tidings_db.queries import journal

_load = journal.load


def _stop_and_load(*args: Any) -> Any:
    request = Path(os.environ["TEST_STOP"])
    if request.exists():
        request.unlink()
        os.kill(os.getpid(), signal.SIGSTOP)
    return _load(*args)


journal.load = _stop_and_load
