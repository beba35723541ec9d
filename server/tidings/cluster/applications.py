"""An application's rooms and clients on many nodes: each node has its own, and the nodes ask and tell one another.

What goes to clients (`emit`) is sent to the other nodes after this one, at most once, in order. What changes a client
or a room elsewhere waits until the other nodes have done it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import itertools
import logging
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

from tidings.log.notices import ApplicationMessage
from tidings.supervision import spawn
from tidings.transport.application_manager import ApplicationManager

logger = logging.getLogger("tidings.applications")

LONGEST: Final = 256 * 1024
"""Bytes of a message to the other nodes."""
ANSWER_S: Final = 3.0
"""The longest wait for the other nodes."""
AGAIN_S: Final = 0.5
"""The interval at which they are asked again."""
CALLBACK_S: Final = 600.0
"""For how long a client of another node may acknowledge an event."""


class SharedManager(ApplicationManager):
    """The manager of a node that may have others beside it."""

    def __init__(
        self, node: str, others: Callable[[], Collection[str]], share: Callable[[ApplicationMessage], None]
    ) -> None:
        """
        Args:
            node: the id of this node.
            others: returns the ids of the other live nodes.
            share: passes a message to them.
        """
        super().__init__()
        self._node = node
        self._others = others
        self._share = share
        self._numbers = itertools.count(1)
        self._asked: dict[int, _Question] = {}

    # -- for the application -------------------------------------------------------------------------------------

    async def emit(
        self,
        event: str,
        data: Any,
        namespace: str,
        room: Any = None,
        skip_sid: Any = None,
        callback: Callable[..., Any] | None = None,
        to: Any = None,
        **options: Any,
    ) -> None:
        """See `ApplicationManager.emit`. Raises ValueError, with nothing sent, for an event above `LONGEST`."""
        room = to or room
        if self._others() and not self._is_here(room, namespace):
            if callback is not None and not isinstance(room, str):
                raise ValueError("on many nodes an event with a callback goes to one client: emit it to a sid")
            ack_id = None if callback is None else self._generate_ack_id(room, callback)
            rooms = list(room) if isinstance(room, tuple | set) else room
            arguments = [*data] if isinstance(data, tuple) else [] if data is None else [data]
            try:
                message = self._message("emit", event, arguments, namespace, rooms, skip_sid, ack_id)
                self.write_event(event, data, namespace, room, skip_sid, callback)
            except ValueError:
                if ack_id is not None:
                    self._forget_callback(room, ack_id)
                raise
            self._share(message)  # in the same step of the event loop: the order is kept
            if ack_id is not None:
                asyncio.get_running_loop().call_later(CALLBACK_S, self._forget_callback, room, ack_id)
            await asyncio.sleep(0)
        else:
            await super().emit(event, data, namespace, room, skip_sid, callback)

    async def can_disconnect(self, sid: str, namespace: str) -> bool:
        """Whether the client is here. A client of another node is disconnected there. Raises TimeoutError."""
        if self._is_here(sid, namespace):
            return await super().can_disconnect(sid, namespace)  # type: ignore[no-any-return]
        await self._ask("disconnect", sid, namespace, until_one=True)
        return False

    async def enter_room(self, sid: str, namespace: str, room: Any, eio_sid: str | None = None) -> None:
        """Put a client of any node into a room. Raises ValueError if there is no such client, and TimeoutError."""
        self._check_room(namespace)
        if self._is_here(sid, namespace):
            await super().enter_room(sid, namespace, room, eio_sid)
        elif not any(await self._ask("enter", sid, namespace, room, until_one=True)):
            raise ValueError(f"no client {sid} is connected to {namespace}")

    async def leave_room(self, sid: str, namespace: str, room: Any) -> None:
        """Take a client of any node out of a room. Raises TimeoutError."""
        self._check_room(namespace)
        if self._is_here(sid, namespace):
            await super().leave_room(sid, namespace, room)
        else:
            await self._ask("leave", sid, namespace, room, until_one=True)

    async def close_room(self, room: Any, namespace: str) -> None:
        """Take the clients of all nodes out of a room. Raises TimeoutError."""
        await super().close_room(room, namespace)
        await self._ask("close", room, namespace)

    async def participants(self, namespace: str, room: Any = None) -> list[str]:
        """The sids of the clients of all nodes. Raises TimeoutError."""
        here = await super().participants(namespace, room)
        elsewhere = await self._ask("participants", namespace, room)
        return [*here, *itertools.chain.from_iterable(elsewhere)]

    def _is_here(self, sid: Any, namespace: str) -> bool:
        return isinstance(sid, str) and self.eio_sid_from_sid(sid, namespace) is not None

    def _forget_callback(self, sid: str, ack_id: int) -> None:
        callbacks = self.callbacks.get(sid)
        if callbacks is not None:
            callbacks.pop(ack_id, None)
            if len(callbacks) == 1 and not any(self._is_here(sid, namespace) for namespace in self.rooms):
                del self.callbacks[sid]

    # -- to the other nodes --------------------------------------------------------------------------------------

    def _message(self, *message: Any) -> ApplicationMessage:
        """Raises ValueError if this cannot be sent to other nodes."""
        try:
            encoded: bytes = msgpack.packb(message, unicode_errors="surrogatepass")
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"this cannot be sent to other nodes: {error}") from None
        if len(encoded) > LONGEST:
            raise ValueError(f"{len(encoded):,} bytes are more than other nodes take, {LONGEST:,}")
        return ApplicationMessage(self._node, base64.b64encode(encoded).decode())

    def _tell(self, *message: Any) -> None:
        self._share(self._message(*message))

    async def _ask(self, method: str, *arguments: Any, until_one: bool = False) -> list[Any]:
        """Let the other nodes do something; returns their results.

        They are asked again while answers are missing: a node that has just started knows the others a moment later.
        So what they do must do no harm if it is done twice.

        `until_one`: only one of them can have something to do, whose result is true. Raises TimeoutError if a node
        does not answer.
        """
        others = set(self._others())
        if not others:
            return []
        number = next(self._numbers)
        question = self._asked[number] = _Question(others, until_one)
        try:
            async with asyncio.timeout(ANSWER_S):
                while not question.answered.done():
                    self._tell("ask", number, method, *arguments)
                    await asyncio.wait([question.answered], timeout=AGAIN_S)
        except TimeoutError:
            raise TimeoutError(f"{method}: other nodes have not answered in {ANSWER_S:g} s") from None
        finally:
            del self._asked[number]
        return list(question.results.values())

    # -- from the other nodes ------------------------------------------------------------------------------------

    def received(self, message: ApplicationMessage) -> None:
        """A message of another node has come. Raises ValueError if it cannot be read."""
        try:
            encoded = base64.b64decode(message.text)
            kind, *arguments = msgpack.unpackb(encoded, unicode_errors="surrogatepass", strict_map_key=False)
        except (binascii.Error, ValueError, TypeError) as error:
            raise ValueError(f"not a message of an application: {error!r}") from None
        getattr(self, _RECEIVERS[kind])(message.node, *arguments)

    def _emitted(
        self,
        node: str,
        event: str,
        arguments: list[Any],
        namespace: str,
        room: Any,
        skip_sid: Any,
        ack_id: int | None,
    ) -> None:
        callback = None if ack_id is None else partial(self._acknowledge, node, room, ack_id)
        data = arguments[0] if len(arguments) == 1 else tuple(arguments) or None
        self.write_event(event, data, namespace, room, skip_sid, callback)

    def _acknowledge(self, node: str, sid: str, ack_id: int, *arguments: Any) -> None:
        """A client here has acknowledged an event of another node."""
        self._tell("acknowledged", node, sid, ack_id, arguments)

    def _acknowledged(self, _: str, node: str, sid: str, ack_id: int, arguments: list[Any]) -> None:
        if node == self._node:
            spawn(self.trigger_callback(sid, ack_id, arguments), "an application's callback")

    def _was_asked(self, node: str, number: int, method: str, *arguments: Any) -> None:
        spawn(self._answer(node, number, method, *arguments), f"{method} for another node")

    async def _answer(self, node: str, number: int, method: str, *arguments: Any) -> None:
        result = await getattr(self, _ANSWERERS[method])(*arguments)
        self._tell("answer", node, number, result)

    def _was_answered(self, node: str, asker: str, number: int, result: Any) -> None:
        question = self._asked.get(number)
        if asker == self._node and question is not None:
            question.add(node, result)

    async def _disconnect_here(self, sid: str, namespace: str) -> bool:
        if not self._is_here(sid, namespace):
            return False
        await self.server.disconnect(sid, namespace, ignore_queue=True)
        return True

    async def _enter_here(self, sid: str, namespace: str, room: Any) -> bool:
        if not self._is_here(sid, namespace):
            return False
        await super().enter_room(sid, namespace, room)
        return True

    async def _leave_here(self, sid: str, namespace: str, room: Any) -> bool:
        if not self._is_here(sid, namespace):
            return False
        await super().leave_room(sid, namespace, room)
        return True

    async def _close_here(self, room: Any, namespace: str) -> bool:
        await super().close_room(room, namespace)
        return True

    async def _participants_here(self, namespace: str, room: Any) -> list[str]:
        return await super().participants(namespace, room)


_RECEIVERS: Final = {
    "emit": "_emitted",
    "acknowledged": "_acknowledged",
    "ask": "_was_asked",
    "answer": "_was_answered",
}
_ANSWERERS: Final = {
    "disconnect": "_disconnect_here",
    "enter": "_enter_here",
    "leave": "_leave_here",
    "close": "_close_here",
    "participants": "_participants_here",
}


class _Question:
    """The answers of other nodes."""

    def __init__(self, others: set[str], until_one: bool) -> None:
        self._missing = others
        self._until_one = until_one
        self.results: dict[str, Any] = {}
        """By node."""
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def add(self, node: str, result: Any) -> None:
        self._missing.discard(node)
        self.results[node] = result
        if (not self._missing or (self._until_one and result)) and not self.answered.done():
            self.answered.set_result(None)
