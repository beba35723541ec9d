"""Delivers the entries of rooms to webhooks: a consumer of the logs, with cursors of its own for each webhook.

What holds:

* the next entry of a room is sent only after the previous one was answered 2xx. Rooms are delivered independently, a
  few at a time;
* a cursor moves in the database after the answer, so every entry is delivered at least once, whatever dies. A repeat
  has the same `webhook-id`;
* several nodes may deliver: one of them at a time has a room (`tidings_db.queries.webhooks`);
* nothing is read for an entry while there is no webhook.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice

from tidings.log import views
from tidings.supervision import Loop, end_within, spawn
from tidings.transport.outgoing import ANSWER_S, DeliveryOutcome, DeliveryResult
from tidings.webhooks.sending import ANY_EVENT, GONE, Sender, encode_body, entry_id
from tidings_db.engine import Database, StoreUnavailable, Write
from tidings_db.queries import webhooks
from tidings_db.queries.webhooks import WebhookRow

logger = logging.getLogger("tidings.webhooks")

CHECK_S = 5.0
"""The interval at which the webhooks are read, and all rooms are compared with their cursors: entries of other nodes,
and changes by the command line, come without notice here."""
PARALLEL = 4
"""Rooms of a webhook that are delivered at a time. After that many failures in a row, one room at a time."""
FIRST_RETRY_S, LONGEST_RETRY_S = 1.0, 3600.0
"""The pause after a first failure, and the longest one; each is up to half as long, at random."""
GIVE_UP_S = 3 * 24 * 3600.0
"""A webhook that has failed for this long, without any success, is disabled."""
HELD_S = 1.0
"""The pause before a room that another node holds is tried again, or after a failure of the database."""
SOON_S = 0.1
"""That pause after an entry was appended here: the other node may have seen the end of the room before."""
STOP_S = 2.0
"""The longest that a stop waits for requests under way."""
FRESH_S = 1.0
"""Entries that were read this long ago are read again: a message may have been deleted meanwhile."""
_BATCH_ENTRIES = 20
_BATCH_BYTES = 256 * 1024
_PAGE = 1000
_ALWAYS = 2**62


@dataclass(slots=True)
class _Webhook:
    """A webhook as this node delivers it."""

    row: WebhookRow
    due: dict[int, float] = field(default_factory=dict)
    """Rooms that may have entries after the cursor, and not before which time to deliver them."""
    since: dict[int, float] = field(default_factory=dict)
    """Since when those rooms, and the ones that are being delivered, are behind."""
    running: set[int] = field(default_factory=set)
    """Rooms that are being delivered."""
    again: set[int] = field(default_factory=set)
    """Rooms with entries that were appended while they were being delivered."""
    failures: Counter[int] = field(default_factory=Counter)
    """Failures in a row, by room: one room that is refused must not hold up the others."""
    failed: int = 0
    """Failures in a row, of all rooms."""
    not_before: float = 0.0

    @property
    def is_down(self) -> bool:
        return self.failed >= PARALLEL

    @property
    def width(self) -> int:
        """How many more rooms may be delivered now."""
        return (1 if self.is_down else PARALLEL) - len(self.running)

    def add(self, room_keys: Iterable[int], now: float) -> None:
        for key in room_keys:
            if self.row.room_key in (None, key):
                self.since.setdefault(key, now)
                if key in self.running:
                    self.again.add(key)
                elif key not in self.due:
                    self.due[key] = now
                elif key not in self.failures:  # another node had it
                    self.due[key] = min(self.due[key], now + SOON_S)

    def wants(self, name: str) -> bool:
        return name in self.row.events or ANY_EVENT in self.row.events


class Deliverer:
    def __init__(
        self,
        database: Database,
        node_id: str,
        *,
        private: bool,
        check_s: float = CHECK_S,
        answer_s: float = ANSWER_S,
        first_retry_s: float = FIRST_RETRY_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            private: see `Sender`.
            clock: returns seconds since the epoch; times pauses and failures.
        """
        self._db = database
        self._node = node_id
        self._check_s = check_s
        self._first_retry_s = first_retry_s
        self._clock = clock
        self.sender = Sender(private=private, answer_s=answer_s, clock=clock)
        self._webhooks: dict[str, _Webhook] = {}
        """Those that are enabled."""
        self.outcomes: Counter[str] = Counter(dict.fromkeys(DeliveryOutcome, 0))
        """How many requests ended so."""
        self.disabled = 0
        """Webhooks that are disabled."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._next_check = 0.0
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self.loop = Loop("tidings.webhooks", self._run)

    async def start(self) -> None:
        self.loop.start()

    async def stop(self) -> None:
        """Let requests end that are under way, for up to `STOP_S`. The others are repeated after the next start."""
        self._closing.set()
        self._wake.set()
        await self.loop.ended()
        await end_within(STOP_S, self._tasks)
        await self.sender.close()

    def appended(self, room_keys: Iterable[int]) -> None:
        """Note rooms with new entries. Called for every batch of the journal, so it must be cheap."""
        if self._webhooks:
            now = self._clock()
            for webhook in self._webhooks.values():
                webhook.add(room_keys, now)
            self._wake.set()

    def check_soon(self) -> None:
        """The webhooks, their cursors or the clock have changed."""
        self._next_check = 0.0
        self._wake.set()

    @property
    def lag(self) -> float:
        """Seconds for which the room that lags longest has been behind its log, as far as this node knows."""
        since = (began for webhook in self._webhooks.values() for began in webhook.since.values())
        return max(0.0, self._clock() - min(since, default=math.inf))

    # -- which rooms to deliver --------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.clear()
            if self._clock() >= self._next_check:
                self._next_check = self._clock() + self._check_s
                try:
                    await self._check()
                except StoreUnavailable as error:
                    logger.warning("webhooks cannot be delivered: %s", error)
            for webhook in self._webhooks.values():
                self._begin(webhook)
            pause = self._next_due() - self._clock()
            if pause > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), pause)

    async def _check(self) -> None:
        """Read the webhooks, and compare the heads of their rooms with the cursors."""
        rows = await self._db.read(webhooks.listed)
        self.disabled = sum(row.disabled_at is not None for row in rows)
        enabled = {row.id: row for row in rows if row.disabled_at is None}
        for webhook_id in self._webhooks.keys() - enabled.keys():
            del self._webhooks[webhook_id]
        for row in enabled.values():
            webhook = self._webhooks.setdefault(row.id, _Webhook(row))
            webhook.row = row
            if webhook.is_down and row.failing_since is None:  # it was enabled, or another node has reached it
                await self._succeeded(webhook)
            if not webhook.is_down:
                await self._find_rooms(webhook)

    async def _find_rooms(self, webhook: _Webhook) -> None:
        after, found = 0, False
        while behind := await self._db.read(
            lambda conn, after=after: webhooks.behind(conn, webhook.row, after, _PAGE)  # type: ignore[misc]
        ):
            webhook.add(behind, self._clock())
            after, found = behind[-1], True
        if not found:  # the room that failed is gone
            await self._succeeded(webhook)

    def _begin(self, webhook: _Webhook) -> None:
        """Start to deliver the rooms that are due."""
        now = self._clock()
        if now < webhook.not_before or webhook.width <= 0:
            return
        due = (key for key, not_before in webhook.due.items() if not_before <= now)
        for key in list(islice(due, webhook.width)):  # not all: there may be very many
            del webhook.due[key]
            webhook.again.discard(key)
            task = spawn(self._deliver(webhook, key), f"tidings.webhooks.{webhook.row.id}")
            webhook.running.add(key)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _next_due(self) -> float:
        """When something is to be done next, if nothing happens meanwhile."""
        times = [self._next_check]
        for webhook in self._webhooks.values():
            if webhook.due and webhook.width > 0:
                times.append(max(webhook.not_before, min(webhook.due.values())))
        return min(times)

    # -- delivering a room -------------------------------------------------------------------------------------------

    async def _deliver(self, webhook: _Webhook, room_key: int) -> None:
        """Deliver a room up to its head, or until a request fails."""
        pause: float | None = HELD_S
        try:
            pause = await self._deliver_entries(webhook, room_key)
        except StoreUnavailable as error:
            logger.warning("webhook %s: %s", webhook.row.id, error)
        except Exception:
            logger.exception("webhook %s: a room cannot be delivered now", webhook.row.id)
            webhook.failures[room_key] += 1
            pause = self._pause(webhook.failures[room_key])
        finally:
            webhook.running.discard(room_key)
            if pause is None and room_key in webhook.again:
                pause = 0.0
            if pause is None:
                webhook.since.pop(room_key, None)
            else:
                webhook.due[room_key] = self._clock() + pause
            self._wake.set()

    async def _deliver_entries(self, webhook: _Webhook, room_key: int) -> float | None:
        """Returns None at the head of the room, or else how long to wait before it is tried again."""
        webhook_id = webhook.row.id
        while True:
            batch = await self._db.write(
                lambda conn: webhooks.take(conn, webhook_id, room_key, self._node, _BATCH_ENTRIES, _BATCH_BYTES),
                Write.LAZY,
            )
            if batch is None:
                return HELD_S
            if batch.room is None:
                return None
            room, seq, read_at = views.room_name(batch.room), batch.seq, self._clock()
            for entry in batch.entries:
                if seq > batch.seq and self._clock() - read_at > FRESH_S:
                    break
                name, data = views.event(room, entry)
                if not webhook.wants(name):
                    continue
                if self._closing.is_set():
                    return 0.0
                message_id = entry_id(webhook_id, room.room_id, entry.seq, entry.created_at)
                body = encode_body(name, entry.created_at, data)
                result = await self.sender.send(webhook.row.url, webhook.row.secret, message_id, body)
                self.outcomes[result.outcome] += 1
                if not result.delivered:
                    return await self._failed(webhook, room_key, result)
                is_last = batch.is_last and entry.seq == batch.upto
                if not await self._advance(webhook_id, room_key, (seq, entry.seq), release=is_last):
                    return HELD_S
                await self._succeeded(webhook, room_key)
                if is_last:
                    return None
                seq = entry.seq
            else:
                if not await self._advance(webhook_id, room_key, (seq, batch.upto), release=batch.is_last):
                    return HELD_S
                if batch.is_last:
                    return None

    async def _advance(self, webhook_id: str, room_key: int, move: tuple[int, int], *, release: bool) -> bool:
        return await self._db.write(
            lambda conn: webhooks.advance(conn, webhook_id, room_key, self._node, move, release=release), Write.LAZY
        )

    async def _succeeded(self, webhook: _Webhook, room_key: int | None = None) -> None:
        """Try everything again without a pause, unless only one room is refused."""
        if webhook.is_down:
            webhook.due = dict.fromkeys(webhook.due, self._clock())
            webhook.failures.clear()
        webhook.failed, webhook.not_before = 0, 0.0
        if room_key is not None:
            webhook.failures.pop(room_key, None)
        if webhook.row.failing_since is not None:
            webhook.row = webhook.row._replace(failing_since=None)
            await self._db.write(lambda conn: webhooks.record_success(conn, webhook.row.id), Write.LAZY)

    async def _failed(self, webhook: _Webhook, room_key: int, result: DeliveryResult) -> float | None:
        """Returns the pause before the room is tried again; None if the webhook is disabled."""
        now, row = self._clock(), webhook.row
        now_ms = int(now * 1000)
        webhook.failed += 1
        webhook.failures[room_key] += 1
        if webhook.is_down:
            webhook.not_before = now + self._pause(webhook.failed - PARALLEL + 1)
        if webhook.failed == 1:
            logger.warning("webhook %s has failed, and will be tried again: %s", row.id, result.reason)
        disable_before = _ALWAYS if result.status == GONE else now_ms - int(GIVE_UP_S * 1000)
        if await self._db.write(
            lambda conn: webhooks.record_failure(
                conn, row.id, room_key, self._node, now_ms, disable_before, result.reason
            )
        ):
            logger.error(
                "webhook %s is disabled: %s; `tidings webhook enable %s` continues it", row.id, result.reason, row.id
            )
            self.disabled += 1
            self._webhooks.pop(row.id, None)
            return None
        if webhook.row.failing_since is None:
            webhook.row = webhook.row._replace(failing_since=now_ms)
        return self._pause(webhook.failures[room_key])

    def _pause(self, failures: int) -> float:
        longest = min(LONGEST_RETRY_S, self._first_retry_s * 2.0 ** min(failures - 1, 30))
        return longest * random.uniform(0.5, 1.0)
