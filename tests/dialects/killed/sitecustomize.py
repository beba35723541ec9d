"""A server that is killed right after a commit that has changed a room.

Python imports this module at the start of a process that has this folder on its path. The process dies when there is
a file of the name in TEST_KILL.
"""

import os
import signal
from typing import Any

from tidings_db.engine import Database

_write = Database.write


async def _write_and_die(*args: Any, locks: Any = None, **options: Any) -> Any:
    result = await _write(*args, locks=locks, **options)
    if locks and locks.rooms and os.path.exists(os.environ["TEST_KILL"]):  # noqa: ASYNC240 - it is about to die
        os.kill(os.getpid(), signal.SIGKILL)
    return result


Database.write = _write_and_die  # type: ignore[method-assign]
