"""The heartbeat of a session: PINGs at an interval, and what their PONGs prove. Sans I/O."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from tidings.transport.tcp_connections import SLOWEST
from tidings.transport.timers import GetTimers

if TYPE_CHECKING:
    from tidings.transport.buffered_session import BufferedSession


class HeartbeatListener(Protocol):
    """Receives the heartbeat's events, in the order of writing and reading."""

    def ping_written(self) -> None: ...

    def pong_received(self) -> None: ...


class Heartbeat:
    """A PONG proves that everything written before its PING has arrived, unless that PING has overtaken packets.

    Every PONG postpones the next regular PING. Times are in seconds.
    """

    def __init__(self, session: BufferedSession, *, soon: float | None = None) -> None:
        """`soon`: delay of a PING after a write; None: PINGs are only sent at the interval."""
        self.listener: HeartbeatListener | None = None
        """Gets the proofs; without it PINGs only keep the session alive."""
        self._session: BufferedSession | None = session
        """None: stopped."""
        self._interval: float = session.server.ping_interval
        self._timeout: float = session.server.ping_timeout
        self._timers: GetTimers = session.server.timers
        self._soon = soon
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._pending: deque[bool] = deque()
        """Unanswered PINGs in the order of arrival at the client; True for the one whose PONG is the proof."""
        self._prove_again = False
        self._written = False
        """Whether something was written after the pending PING."""

    def start(self) -> None:
        self._schedule(self._timers().time() + self._interval)

    def stop(self) -> None:
        """Send no more PINGs. Breaks the reference cycle with the session."""
        self._cancel_timer()
        self._session = self.listener = None

    def is_overdue(self) -> bool:
        """Whether the PONG is late, even if the event loop has not run the timer yet."""
        return self._timers().time() >= self._due + self._timeout

    def written(self) -> None:
        """Something was written: send a PING soon, unless one is due earlier; if one is pending, after its PONG."""
        if self._soon is None:
            return
        if self._pending:
            self._written = True
            return
        due = self._timers().time() + self._soon
        if due < self._due:
            self._schedule(due)

    def ping_now(self, *, replace: bool = False) -> None:
        """Send the regular PING now, unless one is pending. `replace`: give the pending one up."""
        if replace:
            self._pending.clear()
        if not self._pending:
            self._due = self._timers().time()
            self._ping()

    def prove(self) -> None:
        """Send a PING whose PONG proves that everything sent so far has arrived.

        The regular PINGs continue independently. While such a proof is pending, the next one follows it.
        """
        if self.listener is None:
            return
        if True in self._pending:
            self._prove_again = True
            return
        self.listener.ping_written()
        self._write(proof=True)

    def pong(self) -> None:
        """A PONG has arrived; an unsolicited one is ignored."""
        if not self._pending:
            return
        proves = self._pending.popleft()
        if proves and self.listener is not None:
            self.listener.pong_received()
        self.start()
        if proves and self._prove_again:
            self._prove_again = False
            self.prove()
        elif self._written:
            self.written()

    def _write(self, *, proof: bool) -> None:
        assert self._session is not None
        self._written = False
        self._pending.append(proof)
        self._session.write_ping()

    def _ping(self) -> None:
        """Send the regular PING. If one is pending, wait for it instead, no longer than for a new one.

        A PING that overtakes packets proves nothing about them, so another one after them is the proof.
        """
        session = self._session
        assert session is not None
        self._expect_pong(self._due + self._timeout)
        overtaken = session.ping_ahead()
        if overtaken is not None:
            self._pending.insert(len(self._pending) - overtaken, False)
            self.prove()
        elif not self._pending:
            if self.listener is not None:
                self.prove()
            else:
                self._write(proof=False)

    def _expect_pong(self, by: float) -> None:
        """End the session at the time `by`, unless the timer is cancelled; later, while the client still reads.

        On a slow link a PING waits behind earlier data. So acknowledged bytes count as a sign of life as well, and
        extend the time.
        """
        assert self._session is not None
        carrier = self._session.carrier
        emptied, waiting = carrier.emptied, carrier.unacknowledged()

        def check() -> None:
            session = self._session
            assert session is not None, "stopped"
            if carrier is session.carrier and (
                carrier.emptied != emptied or carrier.unacknowledged() <= waiting - SLOWEST * self._timeout
            ):
                self._expect_pong(by + self._timeout)
            else:
                session.overdue()

        self._set_timer(by, check)

    def _schedule(self, due: float) -> None:
        if self._session is not None:
            self._due = due
            self._set_timer(due, self._ping)

    def _set_timer(self, when: float, callback: Callable[[], None]) -> None:
        self._cancel_timer()
        self._timer = self._timers().call_at(when, callback)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
