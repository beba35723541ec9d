"""A slow disk: Python imports this module at the start of a process that has this folder on its path.

A kill follows an acknowledgement by a moment. A commit of microseconds would be finished by then, even if the server
had acknowledged too early. So some commits are delayed before they happen, and some after, before their result is
known. And the authors of messages that stream, who are killed too, are soon taken to be silent.
"""

import asyncio
import random
import time

from sqlalchemy import Connection, Engine, event
from sqlalchemy.util.concurrency import await_only, in_greenlet

from tidings.log.streams import Interruptions

LONGEST_S = 0.08
Interruptions.__init__.__kwdefaults__.update(silence_s=5.0, check_s=0.5)


@event.listens_for(Engine, "commit")
def _commit(conn: Connection) -> None:
    dice = random.random()
    if dice < 0.4:
        _delay()
    elif dice < 0.6:
        conn.connection.commit()  # the regular commit has nothing left to do
        _delay()


def _delay() -> None:
    seconds = random.uniform(0, LONGEST_S)
    if in_greenlet():  # an asynchronous engine: the event loop keeps running
        await_only(asyncio.sleep(seconds))
    else:
        time.sleep(seconds)
