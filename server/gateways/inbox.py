"""The actions of one connection: they take effect in the order in which they came, and so are they answered.

The next action starts when the one before it has taken effect. An append has once it is in the journal's queue, so
that one connection can fill a batch; an action that does not append waits for the connection's own appends.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from server.context import Context
from server.contract.errors import ActionError, ErrorCode
from server.dispatch import Answer, Dispatcher

MAX_IN_FLIGHT = 1024
"""Actions of one connection that may wait for their answers; more are refused."""
MAX_WAITING_BYTES = 4 * 1024 * 1024
"""Bytes of actions that may wait for their turn; more are refused."""
MAX_REFUSALS = 8 * MAX_IN_FLIGHT
"""Answers that may wait for their turn at all; who goes on is closed."""


class _Slot:
    __slots__ = ("answer", "reply")

    def __init__(self, reply: Callable[[Answer], None]) -> None:
        self.reply = reply
        self.answer: Answer | None = None


class Inbox:
    def __init__(self, dispatcher: Dispatcher, context: Callable[[], Context]) -> None:
        """`context` makes the surroundings of one action."""
        self._dispatcher = dispatcher
        self._context = context
        self._waiting: deque[tuple[_Slot, object, object, int]] = deque()
        self._waiting_bytes = 0
        self._slots: deque[_Slot] = deque()
        self._appending = 0
        self._appended: asyncio.Future[None] | None = None
        self._worker: asyncio.Task[None] | None = None
        self._stopped = False

    def push(self, name: object, raw: object, size: int, reply: Callable[[Answer], None]) -> bool:
        """Take an action of so many bytes; `reply` is called once with its answer.

        False: far too many wait; nothing of this client is to be taken any more.
        """
        if self._stopped:
            return True
        if len(self._slots) >= MAX_IN_FLIGHT or self._waiting_bytes + size > MAX_WAITING_BYTES:
            busy = ActionError(ErrorCode.RATE_LIMITED, "too many actions in flight", retry_after=1)
            return self.refuse(busy, reply)
        slot = _Slot(reply)
        self._slots.append(slot)
        self._waiting.append((slot, name, raw, size))
        self._waiting_bytes += size
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return True

    def refuse(self, error: ActionError, reply: Callable[[Answer], None]) -> bool:
        """Answer, in its turn, what cannot be an action. False as in `push`."""
        return self.answer(Answer(error=error.error), reply)

    def answer(self, answer: Answer, reply: Callable[[Answer], None]) -> bool:
        """Give an answer that is known already, in its turn. False as in `push`."""
        slot = _Slot(reply)
        self._slots.append(slot)
        self._fill(slot, answer)
        return len(self._slots) < MAX_REFUSALS

    def stop(self) -> None:
        """Start nothing more: the caller's right to act has ended. What has begun goes on."""
        self._stopped = True
        self._waiting.clear()
        self._waiting_bytes = 0

    async def _work(self) -> None:
        try:
            while self._waiting:
                slot, name, raw, size = self._waiting.popleft()
                self._waiting_bytes -= size
                found = self._dispatcher.registry.get(name) if isinstance(name, str) else None
                if self._appending and not (found is not None and found.appends):
                    self._appended = asyncio.get_running_loop().create_future()
                    await self._appended
                context = self._context()
                answer = await self._dispatcher.begin(name, raw, context)
                if isinstance(answer, Answer):
                    self._fill(slot, answer)
                else:
                    self._appending += 1
                    answer.then(lambda came, slot=slot: self._append_done(slot, came))  # type: ignore[misc]
                for callback in context.afterwards:
                    callback()
        finally:
            self._worker = None

    def _append_done(self, slot: _Slot, answer: Answer) -> None:
        self._appending -= 1
        if not self._appending and self._appended is not None and not self._appended.done():
            self._appended.set_result(None)
        self._fill(slot, answer)

    def _fill(self, slot: _Slot, answer: Answer) -> None:
        slot.answer = answer
        while self._slots and (ready := self._slots[0].answer) is not None:
            self._slots.popleft().reply(ready)
