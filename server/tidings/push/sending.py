"""Sends push notifications: a consumer of the logs, with a cursor of its own in every room.

What holds:

* whoever is to be notified of a committed message is notified at least once, whatever dies, unless they read it
  within `WAIT_S`, or the message is deleted, or they are no member any more (`tidings_db.queries.push`);
* the messages of a room are one notification, which replaces the room's earlier one;
* the membership, the session and the preferences are those at the moment of sending;
* several nodes may send: a node skips what another one is sending;
* nothing is read for an entry while there is no subscription.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import logging
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import orjson
from sqlalchemy.engine import Connection as Transaction

from tidings.contract.errors import ActionError, ErrorCode, invalid
from tidings.contract.models import PushNotification
from tidings.push.provider import GONE, Address, Notification, Provider
from tidings.push.web import WebPushProvider, check_address, new_key, public_key
from tidings.supervision import Loop, end_within, spawn
from tidings.transport.outgoing import ANSWER_S, DeliveryOutcome, DeliveryResult
from tidings_db.engine import Database, StoreUnavailable, Write
from tidings_db.queries import push, rooms, users
from tidings_db.queries.push import DeliveryRow, SubscriptionRow
from tidings_db.queries.rows import EntryRow

logger = logging.getLogger("tidings.push")

WEB = "web"
"""The name of the provider for browsers."""
WAIT_S = 5.0
"""The wait after a message: who reads it meanwhile, on any device, is not notified of it."""
CHECK_S = 15.0
"""The interval at which all rooms are compared with the cursors: other nodes commit without notice here."""
DELAY_S = 0.25
"""The wait after a commit; entries that are committed meanwhile are read in the same step."""
CLAIM_S = 60.0
"""How long a node may take to send a notification; then it counts as dead, and the notification is sent again."""
TTL_S = 24 * 3600
"""How long a message is worth a notification."""
FIRST_RETRY_S, LONGEST_RETRY_S = 5.0, 3600.0
"""The pause after a first failure, and the longest one; each is up to half as long, at random."""
STOP_S = 2.0
"""The longest that a stop waits for requests under way."""
TEXT = 200
"""Characters of a message in a notification."""
_PARALLEL = 32
_STEP_ROOMS = 64
_STEP_ENTRIES = 100
_STEP_BYTES = 256 * 1024
_PAGE = 1000
_RETRY_S = 1.0
_ENDED_S = 60.0
"""The interval at which subscriptions of ended sessions are removed."""


class _Prepared(NamedTuple):
    subscription: SubscriptionRow
    data: dict[str, Any]


class PushSender:
    def __init__(
        self,
        database: Database,
        *,
        contact: str,
        enabled: bool = True,
        private: bool = False,
        providers: Mapping[str, Provider] | None = None,
        wait_s: float = WAIT_S,
        check_s: float = CHECK_S,
        claim_s: float = CLAIM_S,
        first_retry_s: float = FIRST_RETRY_S,
        answer_s: float = ANSWER_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            contact, private: see `WebPushProvider`.
            enabled: whether users can subscribe, and anything is sent.
            providers: others beside `WEB`, by name.
            clock: returns seconds since the epoch; times all waits but those for answers.
        """
        self.enabled = enabled
        self._db = database
        self._web = WebPushProvider(self._key, contact=contact, private=private, answer_s=answer_s, clock=clock)
        self._providers: Mapping[str, Provider] = {WEB: self._web, **(providers or {})}
        self._wait_s = wait_s
        self._check_s = check_s
        self._claim_s = claim_s
        self._first_retry_s = first_retry_s
        self._clock = clock
        self._active = False
        """Whether there are subscriptions."""
        self._behind: dict[int, None] = {}
        """Rooms that may have entries after the cursor."""
        self.outcomes: Counter[str] = Counter(dict.fromkeys(DeliveryOutcome, 0))
        """How many requests ended so."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._next_check = 0.0
        self._next_ended = 0.0
        self._next_due = 0.0
        """Before this time nothing is due."""
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self.loop = Loop("tidings.push", self._run)

    async def start(self) -> None:
        if self.enabled:
            self.loop.start()

    async def stop(self) -> None:
        """Let requests end that are under way, for up to `STOP_S`. The others are repeated after the next start."""
        self._closing.set()
        self._wake.set()
        await self.loop.ended()
        await end_within(STOP_S, self._tasks)
        await self._web.close()

    def appended(self, room_keys: Iterable[int]) -> None:
        """Note rooms with new entries. Called for every batch of the journal, so it must be cheap."""
        if self._active:
            self._behind.update(dict.fromkeys(room_keys))
            self._wake.set()

    def check_soon(self) -> None:
        """The subscriptions or the clock have changed."""
        self._next_check = self._next_due = 0.0
        self._wake.set()

    # -- subscriptions -----------------------------------------------------------------------------------------------

    def check(self, provider: str, address: Address) -> Address:
        """An address as it is stored. Raises `invalid`, or `forbidden` if push notifications are off."""
        if not self.enabled:
            raise ActionError(ErrorCode.FORBIDDEN, "push notifications are off on this server")
        if provider not in self._providers:
            raise invalid("provider", "no such provider")
        return check_address(*address, private=self._web.private) if provider == WEB else address

    async def public_key(self) -> str | None:
        """The public part of the key that signs requests; None if push notifications are off."""
        return public_key(await self._key()) if self.enabled else None

    async def _key(self) -> str:
        """The key that signs requests: the same on every node."""
        key = await self._db.read(push.key)
        if key is None:
            made = await asyncio.to_thread(new_key)
            key = await self._db.write(partial(push.keep_key, made=made))
        return key

    # -- following the logs ------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.clear()
            pause = _RETRY_S
            try:
                await self._work()
                pause = 0.0 if self._behind else min(self._next_check, self._due()) - self._clock()
            except StoreUnavailable as error:
                logger.warning("push notifications cannot be sent: %s", error)
            except Exception:
                logger.exception("push notifications cannot be sent")
            if pause > 0:
                await self._sleep(self._wake, pause)
            await self._sleep(self._closing, DELAY_S)

    @staticmethod
    async def _sleep(event: asyncio.Event, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), seconds)

    def _due(self) -> float:
        """When something may be sent next."""
        return self._next_due if len(self._tasks) < _PARALLEL else math.inf

    async def _work(self) -> None:
        now = self._clock()
        if now >= self._next_check:
            await self._check()
            self._next_check = now + self._check_s
        if self._active and now >= self._next_ended:
            await self._db.write(lambda conn: push.remove_ended(conn, int(now * 1000)), Write.LAZY)
            self._next_ended = now + _ENDED_S
        if self._behind:
            await self._step(list(islice(self._behind, _STEP_ROOMS)))
        if self._active and self._clock() >= self._due():
            await self._send_due()

    async def _check(self) -> None:
        """Compare the heads of all rooms with the cursors."""
        self._active = await self._db.read(push.any_subscription)
        after = 0
        while self._active and (behind := await self._db.read(partial(push.behind, after=after, limit=_PAGE))):
            self._behind.update(dict.fromkeys(behind))
            after = behind[-1]
        self._next_due = 0.0

    async def _step(self, room_keys: list[int]) -> None:
        """Read the next entries of some rooms, and note who is to be notified."""
        for key in room_keys:
            del self._behind[key]  # before the read: a later commit adds it again
        now = self._clock()
        since = int((now - TTL_S) * 1000)
        try:
            step = await self._db.read(
                lambda conn: push.read_step(conn, room_keys, _STEP_ENTRIES, _STEP_BYTES, since)
            )
            due_at = int((now + self._wait_s) * 1000)
            if step.moves:
                await self._db.write(lambda conn: push.write_step(conn, step, due_at), Write.LAZY)
            if step.wanted:
                self._next_due = min(self._next_due, due_at / 1000)
        except BaseException:
            self._behind.update(dict.fromkeys(room_keys))
            raise
        self._behind.update(dict.fromkeys(step.unread))

    # -- sending -----------------------------------------------------------------------------------------------------

    async def _send_due(self) -> None:
        """Begin to send what is due, as far as there is room."""
        now, limit = self._clock(), _PARALLEL - len(self._tasks)
        until = int((now + self._claim_s) * 1000)
        due = await self._db.read(push.next_due)
        if due is None or due > now * 1000:
            self._next_due = math.inf if due is None else due / 1000
            return
        taken = await self._db.write(lambda conn: push.take(conn, int(now * 1000), until, limit), Write.LAZY)
        for delivery in taken:
            task = spawn(self._deliver(delivery), "tidings.push.delivery")
            self._tasks.add(task)
            task.add_done_callback(self._ended)
        # The end of a delivery asks again. Without one, another node has what is due.
        self._next_due = math.inf if taken else now + _RETRY_S

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._next_due = 0.0
        self._wake.set()

    async def _deliver(self, delivery: DeliveryRow) -> None:
        try:
            now_ms = int(self._clock() * 1000)
            prepared = await self._db.read(lambda conn: _prepare(conn, delivery, now_ms))
            if prepared is None:
                return await self._finish(delivery)
            subscription, data = prepared
            notification = Notification(data, _topic(delivery), TTL_S)
            address = Address(subscription.endpoint, subscription.keys)
            result = await self._providers[subscription.provider](address, notification)
            self.outcomes[result.outcome] += 1
            await self._record(delivery, result)
        except StoreUnavailable as error:
            logger.warning("a push notification could not be recorded, and is sent again: %s", error)
        except Exception:
            logger.exception("a push notification cannot be sent now")
            await self._retry(delivery, None)

    async def _record(self, delivery: DeliveryRow, result: DeliveryResult) -> None:
        if result.delivered:
            await self._finish(delivery)
        elif result.status in GONE or result.outcome is DeliveryOutcome.FORBIDDEN:
            logger.info("a push subscription has ended: %s", result.reason)
            remove = partial(push.remove_one, subscription_id=delivery.subscription_id)
            await self._db.write(remove, Write.LAZY)
        elif result.status is None or result.status == 429 or result.status >= 500:
            await self._retry(delivery, result.retry_after)
        else:
            logger.warning("a push notification was refused: %s", result.reason)
            await self._finish(delivery)

    async def _finish(self, delivery: DeliveryRow) -> None:
        due_at = int((self._clock() + self._wait_s) * 1000)
        await self._db.write(lambda conn: push.sent(conn, delivery, due_at), Write.LAZY)

    async def _retry(self, delivery: DeliveryRow, retry_after: float | None) -> None:
        """Try again later; what is not worth a notification by then is dropped by `_prepare`."""
        longest = min(LONGEST_RETRY_S, self._first_retry_s * 2.0 ** min(delivery.attempts, 30))
        pause = max(longest * random.uniform(0.5, 1.0), min(retry_after or 0.0, TTL_S))
        due_at = int((self._clock() + pause) * 1000)
        await self._db.write(lambda conn: push.retry(conn, delivery, due_at), Write.LAZY)


def _topic(delivery: DeliveryRow) -> str:
    """Names the room to the push service, which cannot tell which room it is, or who else is in it."""
    digest = hashlib.sha256(f"{delivery.subscription_id} {delivery.room_key}".encode()).digest()
    return base64.urlsafe_b64encode(digest[:24]).decode()


def _prepare(conn: Transaction, delivery: DeliveryRow, now: int) -> _Prepared | None:
    """The notification to send, as of now (ms); None: nothing is to be sent any more."""
    subscription = push.subscription(conn, delivery.subscription_id, now)
    if subscription is None or (subscription.do_not_disturb_until or 0) > now:
        return None
    user_key = subscription.user_key
    found = rooms.snapshots(conn, user_key, [delivery.room_key]).get(delivery.room_key)
    if found is None or found.role is None or (found.preferences.quiet_until or 0) > now:
        return None
    message = push.newest_wanted(conn, delivery, found.room.kind, found.read_seq)
    if message is None or message.created_at < now - TTL_S * 1000:
        return None
    data: dict[str, Any] = {"unread": push.unread(conn, user_key)}
    if subscription.with_content:
        sender = users.by_id(conn, [message.sender_key])[message.sender_key]
        data |= {
            "room_id": found.room.room_id,
            "title": found.room.topic_name or found.room.title,
            "seq": message.seq,
            "thread": message.thread,
            "sender": message.sender,
            "display_name": sender.display_name,
            "text": _shortened(message),
        }
    else:
        data |= {"room_id": found.room.room_id, "seq": message.seq, "thread": message.thread}
    return _Prepared(subscription, PushNotification(**data).model_dump(mode="json"))


def _shortened(message: EntryRow) -> str:
    content = message.content or ", ".join(file["name"] for file in orjson.loads(message.files or "[]"))
    text = " ".join(content.split())
    return text if len(text) <= TEXT else f"{text[: TEXT - 1]}…"
