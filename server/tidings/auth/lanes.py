"""A bounded queue whose callers are served in turn."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Lanes(Generic[T]):
    """A queue with a lane for each caller. `get` serves the lanes round robin, and each lane in order.

    At most `capacity` jobs wait. A full queue drops the last job of its longest lane, so a caller with many jobs
    does not displace another with few.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lanes: OrderedDict[Hashable, deque[T]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def put(self, lane: Hashable, job: T) -> T | None:
        """Add a job. Returns the job that was dropped, which may be this one; None if none was."""
        displaced = None
        if self._size >= self._capacity:
            longest = max(self._lanes, key=lambda name: len(self._lanes[name]))
            if len(self._lanes[longest]) <= len(self._lanes.get(lane, ())) + 1:
                return job
            displaced = self._lanes[longest].pop()
            self._size -= 1
        self._lanes.setdefault(lane, deque()).append(job)
        self._size += 1
        return displaced

    def get(self) -> T | None:
        """Take the next job; None if there is none."""
        if not self._lanes:
            return None
        lane, jobs = self._lanes.popitem(last=False)
        job = jobs.popleft()
        self._size -= 1
        if jobs:
            self._lanes[lane] = jobs
        return job
