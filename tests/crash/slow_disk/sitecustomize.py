"""A disk that takes its time: Python imports this when it starts a process that has this folder on its path.

A kill that an acknowledgement sets off comes a moment later; a commit that takes microseconds would be through by
then, also where it should have come first. So some commits wait before they happen, and some after, before anybody
is told that they have.
"""

import asyncio
import random
import time

from sqlalchemy import Connection, Engine, event
from sqlalchemy.util.concurrency import await_only, in_greenlet

LONGEST_S = 0.08


@event.listens_for(Engine, "commit")
def _commit(conn: Connection) -> None:
    dice = random.random()
    if dice < 0.4:
        _take_time()
    elif dice < 0.6:
        conn.connection.commit()  # the one that follows finds nothing left to do
        _take_time()


def _take_time() -> None:
    seconds = random.uniform(0, LONGEST_S)
    if in_greenlet():  # of an asynchronous engine: the event loop goes on
        await_only(asyncio.sleep(seconds))
    else:
        time.sleep(seconds)
