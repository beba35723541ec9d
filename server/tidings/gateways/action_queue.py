"""The actions of one connection: they take effect, and are answered, in the order of arrival.

An action starts when the one before it has taken effect. An append has taken effect once it is in the journal's
queue, so one connection can fill a batch; any other action waits for the connection's own appends.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tidings.actions.context import Context, Parts
from tidings.actions.dispatch import Answer, Dispatcher
from tidings.contract.errors import ActionError, CloseReason, ErrorCode
from tidings.fanout.connection import Connection
from tidings.supervision import spawn
from tidings.transport.turn import TaskTurn, Turn

MAX_IN_FLIGHT = 1024
"""Unanswered actions of one connection; further ones are refused."""
MAX_WAITING_BYTES = 4 * 1024 * 1024
"""Bytes of actions that wait for their turn; further ones are refused."""
MAX_REFUSALS = 8 * MAX_IN_FLIGHT
"""Answers that may wait for their turn, refusals included; beyond that the connection is closed."""


@dataclass(slots=True, eq=False)
class _Slot:
    """The place of one answer in the order of the requests."""

    reply: Callable[[Answer], None]
    answer: Answer | None = None
    is_pending: bool = False
    """An append that has taken effect, and is not committed yet."""


class ActionQueue:
    def __init__(self, dispatcher: Dispatcher, parts: Parts, connection: Connection, address: str) -> None:
        self._dispatcher = dispatcher
        self._parts = parts
        self._connection = connection
        self._address = address
        self._waiting: deque[tuple[_Slot, object, object, int]] = deque()
        self._waiting_bytes = 0
        self._slots: deque[_Slot] = deque()
        self._appending = 0
        self._appended: asyncio.Future[None] | None = None
        self._worker: asyncio.Task[None] | None = None
        self._stopped = False
        self._settled: asyncio.Future[None] | None = None
        """Done when everything is answered; None: actions are accepted."""
        self._replying = False
        """Replies continue in the next turn of the event loop."""

    def push(self, name: object, raw: object, size: int, reply: Callable[[Answer], None]) -> None:
        """Queue an action of so many bytes. `reply` is called once, with its answer.

        Too many actions are refused; a client that keeps sending is closed.
        """
        if self._stopped:
            return
        if self._settled is not None:
            self.refuse(ActionError(ErrorCode.UNAVAILABLE, "the server is shutting down"), reply)
            return
        if len(self._slots) >= MAX_IN_FLIGHT or self._waiting_bytes + size > MAX_WAITING_BYTES:
            self.refuse(ActionError(ErrorCode.RATE_LIMITED, "too many actions in flight", retry_after=1), reply)
            return
        slot = _Slot(reply)
        self._slots.append(slot)
        self._waiting.append((slot, name, raw, size))
        self._waiting_bytes += size
        if self._worker is None:
            self._worker = spawn(self._work(), "action queue")

    def refuse(self, error: ActionError, reply: Callable[[Answer], None]) -> None:
        """Answer a frame that is not an action, in its turn."""
        self.answer(Answer(error=error.error), reply)

    def answer(self, answer: Answer, reply: Callable[[Answer], None]) -> None:
        """Queue an answer that is already known."""
        slot = _Slot(reply)
        self._slots.append(slot)
        self._fill(slot, answer)
        if len(self._slots) >= MAX_REFUSALS:
            self._connection.link.close(CloseReason.PROTOCOL_ERROR)

    def stop(self) -> None:
        """Start no further action: the client may not act any more. Running actions finish."""
        self._stopped = True
        self._waiting.clear()
        self._waiting_bytes = 0

    async def settle(self) -> None:
        """Refuse further actions, and wait until the others are answered."""
        if self._settled is None:
            self._settled = asyncio.get_running_loop().create_future()
            if not self._slots:
                self._settled.set_result(None)
        await asyncio.shield(self._settled)

    def context(self) -> Context:
        """Return a context for one action."""
        connection = self._connection
        return Context(self._parts, connection.principal, connection, self._address)

    async def _work(self) -> None:
        turn: TaskTurn | None = None
        registry = self._dispatcher.registry
        try:
            while self._waiting:
                if turn is not None:
                    if turn.is_over():
                        await asyncio.sleep(0)
                elif len(self._waiting) > 1:  # a lone action needs no clock
                    turn = TaskTurn()
                slot, name, raw, size = self._waiting.popleft()
                self._waiting_bytes -= size
                action = registry.get(name)
                if self._appending and not (action is not None and action.appends):
                    self._appended = asyncio.get_running_loop().create_future()
                    await self._appended
                context = self.context()
                if await self._dispatcher.begin(action, name, raw, context, partial(self._fill, slot)):
                    slot.is_pending = True
                    self._appending += 1
                for callback in context.afterwards:
                    callback()
        finally:
            self._worker = None

    def _fill(self, slot: _Slot, answer: Answer) -> None:
        slot.answer = answer
        if slot.is_pending:
            self._appending -= 1
            if not self._appending and self._appended is not None and not self._appended.done():
                self._appended.set_result(None)
        if not self._replying:
            self._reply()

    def _reply(self) -> None:
        """Call the replies that are due. Very many are spread over several turns of the event loop."""
        self._replying = False
        turn: Turn | None = None
        while self._slots and (answer := self._slots[0].answer) is not None:
            self._slots.popleft().reply(answer)
            if not self._slots:
                break  # a lone answer needs no clock
            if turn is None:
                turn = Turn()
            elif turn.is_over():
                self._replying = True
                asyncio.get_running_loop().call_soon(self._reply)
                return
        if self._settled is not None and not self._slots and not self._settled.done():
            self._settled.set_result(None)
