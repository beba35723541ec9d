"""The echo channel: a client's content comes back, and both directions are stored in its user's log.

The server echoes itself, or is a proxy to another echo server, the upstream (`TIDINGS_ECHO_UPSTREAM`). Guarantees:

* Content and reply are durable before the answer. The content is stored even without a reply.
* The contents of one connection are answered in order, however many are in flight.
* Everything that the upstream sends is stored in order, and passed to the listener, whether it is a reply or not.
* If the upstream is unreachable, silent or sends invalid content, the answer is `unavailable`, and the next content
  opens a new connection.
* The connections to the upstream, the requests that wait in each, and the bytes read from each are bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from websockets.exceptions import ConnectionClosed, WebSocketException

from tidings.auth.principal import NO_SESSION, Principal
from tidings.contract.actions import MAX_CONTENT
from tidings.contract.errors import ActionError, ErrorCode
from tidings.contract.models import Direction, Echo
from tidings.fanout.connection import Connection
from tidings.log.journal import Journal
from tidings.log.messages import new_message_id
from tidings.log.transaction import Operation, Work
from tidings.supervision import spawn
from tidings_db.queries import echo
from tidings_db.queries.echo import EchoRow

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

ANSWER_S = 10.0
"""Timeout of the upstream, for the connection and for each reply."""
IDLE_S = 60.0
"""Idle time after which an upstream connection for a user without a live connection is closed."""
GREETING = 0.1
"""Fraction of `ANSWER_S`: if no echo follows a first content within it, that content is a reply, not a greeting."""
CLOSE_S = 1.0
MAX_UPSTREAMS = 1000
MAX_WAITING = 256
"""The most unanswered contents of one client."""


@dataclass(frozen=True, slots=True)
class KeepEcho(Operation[Echo]):
    """Store contents that the actor sent or received; the result is the last one."""

    contents: tuple[tuple[Direction, str], ...]

    @property
    def size(self) -> int:
        return 256 + sum(4 * len(content) for _, content in self.contents)

    def apply(self, work: Work) -> Echo:
        rows = [
            EchoRow(new_message_id(work.now), direction, content, work.now) for direction, content in self.contents
        ]
        echo.add(work.conn, self.actor.user_key, rows)
        return Echo(content=rows[-1].content)


def _unavailable(reason: str) -> ActionError:
    return ActionError(ErrorCode.UNAVAILABLE, reason)


StoredReply = asyncio.Future[Echo]
"""A reply of the upstream, as it is being stored."""


class EchoChannel:
    def __init__(
        self, journal: Journal, upstream: str = "", *, answer_s: float = ANSWER_S, idle_s: float = IDLE_S
    ) -> None:
        """`upstream`: the address of an echo server; empty: the channel echoes itself."""
        self._journal = journal
        self._url = upstream
        self._answer_s = answer_s
        self._idle_s = idle_s
        self._upstreams: OrderedDict[Connection | int, Upstream] = OrderedDict()
        """By live connection, or by user; the most recently used is last."""
        self._ending: set[asyncio.Task[None]] = set()
        self._answering: set[asyncio.Task[Echo]] = set()
        self._listening: dict[Connection, Callable[[str], None]] = {}
        self._closing = False

    async def stop(self) -> None:
        """Close the connections to the upstream; waiting requests fail as `unavailable`."""
        self._closing = True
        for upstream in list(self._upstreams.values()):
            upstream.end("the server is shutting down")
        if self._ending:
            await asyncio.wait(set(self._ending))

    def say(self, speaker: Principal, connection: Connection | None, content: str) -> asyncio.Future[Echo]:
        """Send a content; returns a future of the answer. A user's requests over REST share one upstream."""
        if not self._url:
            contents = ((Direction.SENT, content), (Direction.RECEIVED, content))
            return self._journal.hand_over(KeepEcho(speaker, None, contents))
        stored = self._journal.hand_over(KeepEcho(speaker, None, ((Direction.SENT, content),)))
        answering = asyncio.create_task(self._ask(speaker, connection, content, stored))
        self._answering.add(answering)
        answering.add_done_callback(self._answering.discard)
        return answering

    async def _ask(
        self, speaker: Principal, connection: Connection | None, content: str, stored: asyncio.Future[Echo]
    ) -> Echo:
        await stored  # futures complete in the order of their contents, so the upstream gets them in that order
        return await asyncio.shield(await self._upstream(speaker, connection).ask(content))

    def listen(self, listener: Principal, connection: Connection, on_content: Callable[[str], None]) -> bool:
        """Connect to the upstream and pass on everything that it sends. Returns False without an upstream.

        `on_content` is called with each content once it is durable, in order: replies, a greeting, unsolicited
        contents.
        """
        if self._url and not connection.has_ended():
            self._listening[connection] = on_content
            connection.when_closed.append(self._unlisten)
            with contextlib.suppress(ActionError):  # the next content tries again
                self._upstream(listener, connection)
        return bool(self._url)

    def _unlisten(self, connection: Connection) -> None:
        self._listening.pop(connection, None)

    def _store_received(self, user: Principal, connection: Connection | None, content: str) -> asyncio.Future[Echo]:
        receiver = replace(user, session_key=NO_SESSION)  # they may have logged out since they sent what it answers
        stored = self._journal.hand_over(KeepEcho(receiver, None, ((Direction.RECEIVED, content),)))
        on_content = None if connection is None else self._listening.get(connection)
        if on_content is not None:
            stored.add_done_callback(
                lambda future: None if future.cancelled() or future.exception() else on_content(content)
            )
        return stored

    def _upstream(self, speaker: Principal, connection: Connection | None) -> Upstream:
        if self._closing:
            raise _unavailable("the server is shutting down")
        if connection is not None and connection.has_ended():
            raise _unavailable("the connection has ended")
        key: Connection | int = speaker.user_key if connection is None else connection
        upstream = self._upstreams.get(key)
        if upstream is None:
            self._make_room()
            upstream = self._upstreams[key] = Upstream(
                self._url,
                store=partial(self._store_received, speaker, connection),
                on_end=partial(self._upstreams.pop, key),
                answer_s=self._answer_s,
                idle_s=self._idle_s if connection is None else None,
            )
            self._ending.add(upstream.task)
            upstream.task.add_done_callback(self._ending.discard)
            if connection is not None and self._hang_up not in connection.when_closed:
                connection.when_closed.append(self._hang_up)
        self._upstreams.move_to_end(key)
        return upstream

    def _hang_up(self, connection: Connection) -> None:
        upstream = self._upstreams.get(connection)
        if upstream is not None:
            upstream.end("the connection has ended")

    def _make_room(self) -> None:
        """At the limit of connections, close the one that has been idle for longest. Raises `unavailable`."""
        if len(self._upstreams) < MAX_UPSTREAMS:
            return
        for upstream in self._upstreams.values():
            if not upstream.busy:
                upstream.end("another client needs the connection")
                return
        raise _unavailable("too many connections to the echo server")


class Upstream:
    """One connection to the echo server, for one client. Each content that it sends answers the oldest request.

    A greeting answers no request. It is a first content that is no echo, if an echo follows it.
    """

    def __init__(
        self,
        url: str,
        *,
        store: Callable[[str], StoredReply],
        on_end: Callable[[], object],
        answer_s: float,
        idle_s: float | None,
    ) -> None:
        """
        Args:
            store: starts to store a received content.
            on_end: called once, before waiting requests fail.
        """
        self._url = url
        self._store = store
        self._on_end = on_end
        self._answer_s = answer_s
        self._idle_s = idle_s
        self._idle: asyncio.TimerHandle | None = None
        self._waiting: deque[tuple[str, asyncio.Future[StoredReply]]] = deque()
        self._unsent: asyncio.Queue[str] = asyncio.Queue()
        self._has_received = False
        self._possible_greeting: StoredReply | ActionError | None = None
        """The first content, while it may still be a greeting."""
        self._has_ended = False
        self._ws: ClientConnection | None = None
        self._closing: asyncio.Task[None] | None = None
        self.task = spawn(self._run(), "echo upstream")

    @property
    def busy(self) -> bool:
        return bool(self._waiting)

    def ask(self, content: str) -> asyncio.Future[StoredReply]:
        """Send a content; returns a future of its reply, which is being stored, or of `unavailable`.

        Raises `rate_limited`.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise ActionError(ErrorCode.RATE_LIMITED, "too many unanswered contents", retry_after=1)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[StoredReply] = loop.create_future()
        # A late reply would be taken for the next one, so a timeout closes the connection.
        timer = loop.call_later(self._answer_s, self.end, "the echo server does not answer")
        answer.add_done_callback(lambda _: timer.cancel())
        self._waiting.append((content, answer))
        self._unsent.put_nowait(content)
        self._restart_idle_timer()
        return answer

    def _restart_idle_timer(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        if self._idle_s is not None:
            # Longer than the answer timeout, so no request is pending when it fires.
            delay = self._idle_s + self._answer_s
            self._idle = asyncio.get_running_loop().call_later(delay, self.end, "idle for too long")

    def end(self, reason: str) -> None:
        """Close the connection; waiting requests fail as `unavailable`. Idempotent."""
        if self._has_ended:
            return
        self._has_ended = True
        self._on_end()
        if self._idle is not None:
            self._idle.cancel()
        for _, answer in self._waiting:
            answer.set_exception(_unavailable(reason))
            answer.exception()  # mark it as retrieved: the caller may be gone
        self._waiting.clear()
        if self._ws is not None:
            self._closing = spawn(self._ws.close(), "close of an echo upstream")  # this also ends `task`
        elif asyncio.current_task() is not self.task:
            self.task.cancel()

    async def _run(self) -> None:
        from websockets.asyncio.client import connect  # only a server with an upstream needs it

        reason = "the echo server has closed the connection"
        try:
            async with connect(
                self._url,
                open_timeout=self._answer_s,
                close_timeout=CLOSE_S,
                max_size=4 * MAX_CONTENT,
                max_queue=4,
                compression=None,
                proxy=None,
            ) as ws:
                self._ws = ws
                sending = spawn(self._send(ws), "sending to an echo upstream")
                try:
                    async for content in ws:
                        await self._received(content)
                finally:
                    sending.cancel()
        except (OSError, WebSocketException):
            reason = "the echo server cannot be reached"
        finally:
            self.end(reason)

    async def _send(self, ws: ClientConnection) -> None:
        try:
            while True:
                await ws.send(await self._unsent.get())
        except ConnectionClosed:
            pass  # the reader handles that

    async def _received(self, content: str | bytes) -> None:
        stored = self._start_storing(content)
        is_first, self._has_received = not self._has_received, True
        is_echo = bool(self._waiting) and content == self._waiting[0][0]
        if self._possible_greeting is not None:
            earlier, self._possible_greeting = self._possible_greeting, None
            if not is_echo:
                self._reply(earlier)
        elif is_first and self._waiting and isinstance(content, str) and not is_echo:
            self._possible_greeting = stored
            asyncio.get_running_loop().call_later(GREETING * self._answer_s, self._reply_first)
            return
        if self._waiting:
            self._reply(stored)
        elif isinstance(stored, asyncio.Future):
            with contextlib.suppress(ActionError):  # no request waits for this content
                await asyncio.shield(stored)

    def _reply_first(self) -> None:
        """No echo has followed the first content: it was a reply, not a greeting."""
        if self._possible_greeting is not None:
            self._reply(self._possible_greeting)
            self._possible_greeting = None

    def _start_storing(self, content: str | bytes) -> StoredReply | ActionError:
        if not _is_valid(content):
            return _unavailable("the echo server sent an invalid content")
        try:
            return self._store(str(content))
        except ActionError as error:
            return error

    def _reply(self, stored: StoredReply | ActionError) -> None:
        """Answer the oldest request."""
        if not self._waiting:
            return
        _, answer = self._waiting.popleft()
        if isinstance(stored, ActionError):
            answer.set_exception(stored)
            answer.exception()
        else:
            answer.set_result(stored)


def _is_valid(content: str | bytes) -> bool:
    return isinstance(content, str) and len(content) <= MAX_CONTENT and "\0" not in content
