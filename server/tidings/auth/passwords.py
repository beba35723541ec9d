"""Password hashing with bcrypt: in threads, behind bounded queues that are fair to their callers."""

from __future__ import annotations

import asyncio
import secrets
import string
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import bcrypt

from tidings.auth.lanes import Lanes
from tidings.contract.errors import ActionError, ErrorCode, invalid

BCRYPT_ROUNDS = 12
PASSWORD_BYTES = (8, 72)
"""The shortest and longest password. bcrypt ignores bytes after the 72nd, so a longer password is refused."""
HASHES_WAITING = 64
"""The most hashes that wait in each of the two queues. Beyond it, a caller gets `unavailable`."""
THREADS = 2
_DIGITS = "./" + string.ascii_letters + string.digits
_DIGEST_DIGITS = 31
"""The end of a hash, after its rounds and its salt: 23 bytes in the digits of bcrypt's base 64."""


class Caller(NamedTuple):
    """Identifies the caller to the queues. The two kinds of callers alternate, and so do the callers of one kind."""

    lane: Hashable = None
    """Requests in one lane are served one after another."""
    known: bool = True
    """Whether the caller has signed in before. Known callers have a separate queue, which strangers cannot fill."""


OPERATOR = Caller()


class _Job(NamedTuple):
    work: Callable[[], Any]
    result: asyncio.Future[Any]


class Passwords:
    """Hashes and compares passwords."""

    def __init__(self, rounds: int = BCRYPT_ROUNDS) -> None:
        self._rounds = rounds
        self._threads = ThreadPoolExecutor(THREADS, "tidings-bcrypt")
        self._queues: list[Lanes[_Job]] = [Lanes(HASHES_WAITING), Lanes(HASHES_WAITING)]
        """The queue of strangers, and that of known callers."""
        self._running = 0
        self._turns = 0
        self._closing = False
        self._decoy = _random_hash(rounds)
        """The hash to compare with for an unknown user, so that the answer takes the same time."""

    @property
    def waiting(self) -> int:
        """Number of hashes that run or wait."""
        return self._running + sum(map(len, self._queues))

    def drain(self) -> None:
        """Refuse waiting and new requests; running ones finish."""
        self._closing = True
        for queue in self._queues:
            while (job := queue.get()) is not None:
                _refuse(job, "the server is shutting down")

    def stop(self) -> None:
        self.drain()
        self._threads.shutdown(cancel_futures=True)

    async def hash(self, password: str, caller: Caller = OPERATOR) -> str:
        """The bcrypt hash of a new password. Raises `invalid`, or `unavailable` if too many wait."""
        raw = _password_bytes(password)
        hashed: bytes = await self._run(lambda: bcrypt.hashpw(raw, bcrypt.gensalt(self._rounds)), caller)
        return hashed.decode()

    async def matches(self, password: str, hashed: str | None, caller: Caller = OPERATOR) -> bool:
        """Whether the password has that hash. Takes the same time if `hashed` is None. Raises `unavailable`."""
        raw = password.encode("utf-8", "surrogatepass")
        is_short = len(raw) <= PASSWORD_BYTES[1]
        expected = self._decoy if hashed is None or not is_short else hashed.encode()
        matches = await self._run(lambda: bcrypt.checkpw(raw[: PASSWORD_BYTES[1]], expected), caller)
        return matches and hashed is not None and is_short

    async def _run(self, work: Callable[[], Any], caller: Caller) -> Any:
        if self._closing:
            raise ActionError(ErrorCode.UNAVAILABLE, "the server is shutting down")
        job = _Job(work, asyncio.get_running_loop().create_future())
        displaced = self._queues[caller.known].put(caller.lane, job)
        if displaced is not None:
            _refuse(displaced, "too many sign-ins are waiting")
        self._start_jobs()
        return await job.result

    def _start_jobs(self) -> None:
        while self._running < THREADS and (job := self._next()) is not None:
            self._running += 1
            running = asyncio.get_running_loop().run_in_executor(self._threads, job.work)
            running.add_done_callback(lambda future, job=job: self._finish(future, job))  # type: ignore[misc]

    def _next(self) -> _Job | None:
        """The next job whose caller is still waiting."""
        while self._queues[0] or self._queues[1]:
            self._turns += 1
            job = self._queues[self._turns % 2].get()
            if job is not None and not job.result.done():
                return job
        return None

    def _finish(self, future: asyncio.Future[Any], job: _Job) -> None:
        self._running -= 1
        if future.cancelled():
            _refuse(job, "the server is shutting down")
        elif not job.result.done():
            error = future.exception()
            if error is None:
                job.result.set_result(future.result())
            else:
                job.result.set_exception(error)
        self._start_jobs()


def _random_hash(rounds: int) -> bytes:
    """A hash that no known password has. Comparing with it takes as long as with any other.

    Hashing a random password instead would take a quarter of a second at each start.
    """
    digest = "".join(secrets.choice(_DIGITS) for _ in range(_DIGEST_DIGITS))
    return bcrypt.gensalt(rounds) + digest.encode()


def _refuse(job: _Job, reason: str) -> None:
    if not job.result.done():
        job.result.set_exception(ActionError(ErrorCode.UNAVAILABLE, reason))


def _password_bytes(password: str) -> bytes:
    low, high = PASSWORD_BYTES
    try:
        raw = password.encode()
    except UnicodeEncodeError:
        raise invalid("password", "not valid Unicode") from None
    if not low <= len(raw) <= high:
        raise invalid("password", f"{low}–{high} bytes in UTF-8")
    if b"\0" in raw:
        raise invalid("password", "no U+0000")
    return raw
