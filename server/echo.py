"""The echo channel: what a client says comes back, and both are kept in its user's log.

By itself, or by way of another echo server (`TIDINGS_ECHO_UPSTREAM`). What holds:

* what was said and what came back is durable before it is answered; what was said is kept also if nothing came back;
* what one connection says is answered in order, however much of it is under way;
* an upstream that is dead, silent, or talks nonsense costs `unavailable`, and is connected to anew for the next;
* the connections to the upstream, what waits in each, and what is read from each, are bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from db.queries import echo
from db.queries.echo import EchoRow
from server.contract.actions import MAX_CONTENT
from server.contract.errors import ActionError, ErrorCode
from server.contract.models import Direction, Echo
from server.delivery.connection import Connection, Principal
from server.delivery.journal import Journal
from server.delivery.operations import Operation, Work, new_message_id

ANSWER_S = 10.0
"""The upstream may take so long, to be connected to as well as to answer."""
IDLE_S = 60.0
"""A connection to the upstream for a user without a live connection is closed after so long without a word."""
GREETING = 0.1
"""So much of that time the first that it sends, if it is no echo, may turn out to have been a greeting."""
CLOSE_S = 1.0
MAX_UPSTREAMS = 1000
MAX_WAITING = 256
"""What one client has said and has not been answered yet."""


@dataclass(frozen=True, slots=True)
class KeepEcho(Operation[Echo]):
    """Keep what the actor said or got; answers with the last of it."""

    said: tuple[tuple[Direction, str], ...]

    @property
    def size(self) -> int:
        return 256 + sum(4 * len(content) for _, content in self.said)

    def apply(self, work: Work) -> Echo:
        rows = [EchoRow(new_message_id(work.now), direction, content, work.now) for direction, content in self.said]
        echo.add(work.conn, self.actor.user_key, rows)
        return Echo(content=rows[-1].content)


def _unavailable(why: str) -> ActionError:
    return ActionError(ErrorCode.UNAVAILABLE, why)


class EchoChannel:
    def __init__(
        self, journal: Journal, upstream: str = "", *, answer_s: float = ANSWER_S, idle_s: float = IDLE_S
    ) -> None:
        """`upstream`: the address of an echo server; empty: there is none, and it echoes by itself."""
        self._journal = journal
        self._url = upstream
        self._answer_s = answer_s
        self._idle_s = idle_s
        self._upstreams: OrderedDict[Connection | int, Upstream] = OrderedDict()
        """By live connection, or by user; the one that was used last is at the end."""
        self._ending: set[asyncio.Task[None]] = set()
        self._answering: set[asyncio.Task[Echo]] = set()
        self._closing = False

    async def stop(self) -> None:
        """Close the connections to the upstream; what still waits for it is `unavailable`."""
        self._closing = True
        for upstream in list(self._upstreams.values()):
            upstream.end("the server is shutting down")
        if self._ending:
            await asyncio.wait(set(self._ending))

    def say(self, speaker: Principal, connection: Connection | None, content: str) -> asyncio.Future[Echo]:
        """Say something; returns the answer to come. Without a live connection, the user has one upstream for all."""
        if not self._url:
            both = ((Direction.SENT, content), (Direction.RECEIVED, content))
            return self._journal.hand_over(KeepEcho(speaker, None, both))
        kept = self._journal.hand_over(KeepEcho(speaker, None, ((Direction.SENT, content),)))
        answering = asyncio.create_task(self._ask(speaker, connection, content, kept))
        self._answering.add(answering)
        answering.add_done_callback(self._answering.discard)
        return answering

    async def _ask(
        self, speaker: Principal, connection: Connection | None, content: str, kept: asyncio.Future[Echo]
    ) -> Echo:
        await kept  # of several, in the order in which they were said; and so they go on
        answer = await self._upstream(speaker, connection).ask(content)
        return await self._keep_received(speaker, answer)

    async def _keep_received(self, whose: Principal, content: str) -> Echo:
        return await self._journal.write(KeepEcho(whose, None, ((Direction.RECEIVED, content),)))

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
                unasked=partial(self._keep_received, speaker),
                ended=partial(self._upstreams.pop, key),
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
        """End the connection that has had nothing to do for longest, if there are as many as there may be."""
        if len(self._upstreams) < MAX_UPSTREAMS:
            return
        for upstream in self._upstreams.values():
            if not upstream.busy:
                upstream.end("others need the connection")
                return
        raise _unavailable("too many talk to the echo server")


class Upstream:
    """One connection to the echo server, for one client. What it sends next is the answer to the oldest question.

    Except for a greeting: if the first that it sends is no echo, and an echo follows, it was none.
    """

    def __init__(
        self,
        url: str,
        *,
        unasked: Callable[[str], Awaitable[object]],
        ended: Callable[[], object],
        answer_s: float,
        idle_s: float | None,
    ) -> None:
        """`unasked` takes what answers nothing. `ended` is called once, before what waits is told."""
        self._url = url
        self._unasked = unasked
        self._ended = ended
        self._answer_s = answer_s
        self._idle_s = idle_s
        self._idle: asyncio.TimerHandle | None = None
        self._waiting: deque[tuple[str, asyncio.Future[str]]] = deque()
        self._unsent: asyncio.Queue[str] = asyncio.Queue()
        self._silent_so_far = True
        self._first: str | None = None
        """The first that came, while it may be a greeting."""
        self._over = False
        self._ws: ClientConnection | None = None
        self._closing: asyncio.Task[None] | None = None
        self.task = asyncio.create_task(self._run(), name="echo upstream")

    @property
    def busy(self) -> bool:
        return bool(self._waiting)

    def ask(self, content: str) -> asyncio.Future[str]:
        """Send a content; the future is its answer, or `unavailable`. Raises `rate_limited`."""
        if len(self._waiting) >= MAX_WAITING:
            raise ActionError(ErrorCode.RATE_LIMITED, "too much is said before it is answered", retry_after=1)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[str] = loop.create_future()
        # A late answer could not be told from the next one's: with it, the connection is given up.
        timer = loop.call_later(self._answer_s, self.end, "the echo server does not answer")
        answer.add_done_callback(lambda _: timer.cancel())
        self._waiting.append((content, answer))
        self._unsent.put_nowait(content)
        self._rest()
        return answer

    def _rest(self) -> None:
        """Begin anew to count how long nothing is said."""
        if self._idle is not None:
            self._idle.cancel()
        if self._idle_s is not None:
            # Longer than an answer may take, so nothing waits when it ends.
            after = self._idle_s + self._answer_s
            self._idle = asyncio.get_running_loop().call_later(after, self.end, "nothing was said for long")

    def end(self, why: str) -> None:
        """Close the connection; what waits fails as `unavailable`. Idempotent."""
        if self._over:
            return
        self._over = True
        self._ended()
        if self._idle is not None:
            self._idle.cancel()
        for _, answer in self._waiting:
            answer.set_exception(_unavailable(why))
            answer.exception()  # whoever asked may be gone
        self._waiting.clear()
        if self._ws is not None:
            self._closing = asyncio.create_task(self._ws.close())  # with which `task` ends
        elif asyncio.current_task() is not self.task:
            self.task.cancel()

    async def _run(self) -> None:
        why = "the echo server has closed the connection"
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
                sending = asyncio.create_task(self._send(ws))
                try:
                    async for content in ws:
                        await self._received(content)
                finally:
                    sending.cancel()
        except (OSError, WebSocketException):
            why = "the echo server cannot be talked to"
        finally:
            self.end(why)

    async def _send(self, ws: ClientConnection) -> None:
        try:
            while True:
                await ws.send(await self._unsent.get())
        except ConnectionClosed:
            pass  # whoever reads has noticed

    async def _received(self, content: str | bytes) -> None:
        first, self._silent_so_far = self._silent_so_far, False
        if self._first is not None:
            await self._settle(self._first, greeting=bool(self._waiting) and content == self._waiting[0][0])
        elif first and self._waiting and isinstance(content, str) and content != self._waiting[0][0]:
            self._first = content
            asyncio.get_running_loop().call_later(GREETING * self._answer_s, self._no_greeting)
            return
        await self._take(content)

    def _no_greeting(self) -> None:
        if self._first is not None:
            self._reply(self._first)
            self._first = None

    async def _settle(self, first: str, *, greeting: bool) -> None:
        self._first = None
        if greeting:
            await self._keep_unasked(first)
        else:
            self._reply(first)

    async def _take(self, content: str | bytes) -> None:
        if self._waiting:
            self._reply(content)
        else:
            await self._keep_unasked(content)

    def _reply(self, content: str | bytes) -> None:
        """Answer the oldest question."""
        if not self._waiting:
            return
        _, answer = self._waiting.popleft()
        if _can_be_kept(content):
            answer.set_result(str(content))
        else:
            answer.set_exception(_unavailable("the echo server answered with what is no content"))
            answer.exception()

    async def _keep_unasked(self, content: str | bytes) -> None:
        if _can_be_kept(content):
            with contextlib.suppress(ActionError):  # nobody was promised it
                await self._unasked(str(content))


def _can_be_kept(content: str | bytes) -> bool:
    return isinstance(content, str) and len(content) <= MAX_CONTENT and "\0" not in content
