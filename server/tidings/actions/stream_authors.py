"""The authors who append to messages on this node: what they may do, and when their text becomes durable.

An append changes memory only. Its text is stored within a second, together with that of the author's other streams,
and so is the check whether the author may still append: what they may no longer do, they do for a second at most.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tidings.auth.principal import Principal
from tidings.contract.actions import MAX_STREAM
from tidings.contract.errors import ActionError, ErrorCode
from tidings.contract.models import Appending
from tidings.fanout.streams import Stream, Streams
from tidings.log.journal import Journal
from tidings.log.streams import FinishMessage, Stored, StoreTexts
from tidings_db.queries.rows import EntryRow, chunked
from tidings_db.queries.streams import Text

STORE_S = 0.8
"""Text is handed over to be stored after this time, so that it is durable within a second."""
CHECKED_S = 1.0
"""For how long the check of an author's rights holds."""
IDLE_S = 120.0
"""A stream without appends for this long has ended, somewhere."""
STORED_TOGETHER = 50
"""Texts in one operation of the journal: it locks their rooms."""

logger = logging.getLogger("tidings.streams")


@dataclass(slots=True, eq=False)
class Authored:
    """A stream whose author appends here."""

    stream: Stream
    author: Principal
    stop: bool
    """Whether a member has asked the author to stop."""
    checked_at: float
    """When the author's rights were last checked."""
    appended_at: float

    def new(self, offset: int, text: str) -> str:
        """The part of a text that is not there. Raises `conflict` or `too_large`."""
        content = self.stream.content
        end = len(content)
        there = content[offset : offset + len(text)]
        if offset > end or not text.startswith(there):
            what = "the text would begin beyond the end" if offset > end else "another text is there"
            raise ActionError(ErrorCode.CONFLICT, what, offset=end)
        if offset + len(text) > MAX_STREAM:
            raise ActionError(ErrorCode.TOO_LARGE, "the message would be too long", limit=MAX_STREAM)
        return text[len(there) :]


class StreamAuthors:
    def __init__(self, journal: Journal, streams: Streams) -> None:
        self._journal = journal
        self._streams = streams
        self._authored: dict[str, Authored] = {}
        self._unstored: dict[Authored, None] = {}
        self._storing: set[asyncio.Future[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def stop(self) -> None:
        """Store everything that was appended."""
        if self._timer is not None:
            self._timer.cancel()
        self._store()
        if self._storing:
            await asyncio.wait(set(self._storing))

    def known(self, message_id: str, author: Principal) -> Authored | None:
        """The stream of an author whose rights were checked a moment ago; None: call `open`."""
        authored = self._authored.get(message_id)
        if authored is None or authored.author.session_key != author.session_key:
            return None
        if self._streams.get(message_id) is not authored.stream:  # it has ended
            self._drop(message_id)
            return None
        return authored if asyncio.get_running_loop().time() - authored.checked_at < CHECKED_S else None

    async def open(self, author: Principal, entry: EntryRow) -> Authored:
        """Check the author's rights, and read what is stored. Raises `ActionError`."""
        assert entry.message_id is not None
        while True:
            stream = self._streams.get(entry.message_id)
            text = Text(entry.room_key, entry.seq, "" if stream is None else stream.content)
            (stored,) = await self._journal.write(StoreTexts(author, None, [text]))
            if isinstance(stored, ActionError):
                if stream is not None and stored.code is not ErrorCode.FORBIDDEN:  # it has ended
                    self._streams.close(stream)
                raise stored
            known, place = stream, (entry.room_key, stored.room_id, entry.message_id, entry.seq)
            stream = self._streams.open(*place, stored.content)
            if stream is known:
                break  # a new one is checked again: the message may have ended before its stream was known
        stream.authored = True
        now = asyncio.get_running_loop().time()
        self._drop_idle(now)
        authored = self._authored[entry.message_id] = Authored(stream, author, False, now, now)
        self._note(authored, stored)
        return authored

    def append(self, authored: Authored, text: str) -> Appending:
        """Append new text."""
        stream = authored.stream
        if text:
            stream.content += text
            self._streams.changed(stream)
            self._store_soon(authored)
        authored.appended_at = asyncio.get_running_loop().time()
        return Appending.model_construct(offset=len(stream.content), stored=stream.stored, stop=authored.stop)

    def finish(self, operation: FinishMessage, message_id: str) -> asyncio.Future[dict[str, Any]]:
        """End a stream; `operation` has the text of this node."""
        finished = self._journal.hand_over(operation)
        finished.add_done_callback(partial(self._finished, message_id))
        return finished

    def text(self, message_id: str | None) -> str:
        """The text so far of a message, as far as this node knows it."""
        stream = None if message_id is None else self._streams.get(message_id)
        return "" if stream is None else stream.content

    def ask_to_stop(self, message_id: str) -> None:
        """A member asks the author to stop. An author on another node learns it when their rights are checked."""
        authored = self._authored.get(message_id)
        if authored is not None:
            authored.stop = True

    def recheck(self) -> None:
        """Somebody's rights have changed: check those of each author at their next append."""
        for authored in self._authored.values():
            authored.checked_at = -math.inf

    def _finished(self, message_id: str, finished: asyncio.Future[dict[str, Any]]) -> None:
        if finished.cancelled() or finished.exception() is not None:
            return
        stream = self._streams.get(message_id)
        if stream is not None:
            self._streams.close(stream)
        self._drop(message_id)

    def _drop(self, message_id: str) -> None:
        authored = self._authored.pop(message_id, None)
        if authored is not None:
            self._unstored.pop(authored, None)
            authored.stream.authored = False

    def _drop_idle(self, now: float) -> None:
        for message_id, authored in list(self._authored.items()):
            if now - authored.appended_at > IDLE_S:
                self._drop(message_id)
                self._streams.close(authored.stream)

    # -- storing -------------------------------------------------------------------------------------------------

    def _store_soon(self, authored: Authored) -> None:
        self._unstored[authored] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(STORE_S, self._store)

    def _store(self) -> None:
        """Hand over all text that is not stored to the journal."""
        self._timer = None
        of_authors: dict[Principal, list[Authored]] = {}
        for authored in self._unstored:
            of_authors.setdefault(authored.author, []).append(authored)
        self._unstored = {}
        for author, streams in of_authors.items():
            for group in chunked(streams, STORED_TOGETHER):
                texts = [Text(one.stream.room_key, one.stream.seq, one.stream.content) for one in group]
                try:
                    storing = self._journal.hand_over(StoreTexts(author, None, texts))
                except ActionError:
                    self._unstored.update(dict.fromkeys(group))
                    continue
                self._storing.add(storing)
                storing.add_done_callback(partial(self._stored, group))
        if self._unstored:
            self._retry()

    def _retry(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(STORE_S, self._store)

    def _stored(self, group: Sequence[Authored], storing: asyncio.Future[list[Stored | ActionError]]) -> None:
        self._storing.discard(storing)
        error = storing.exception()
        if error is not None:
            if isinstance(error, ActionError) and error.code is ErrorCode.UNAVAILABLE:
                self._unstored.update(dict.fromkeys(group))
                self._retry()
                return
            if not isinstance(error, ActionError):
                logger.error("the text of streams could not be stored", exc_info=error)
        results = [error] * len(group) if error is not None else storing.result()
        for authored, result in zip(group, results, strict=True):
            if isinstance(result, Stored):
                self._note(authored, result)
            else:  # the next append is answered with the reason
                self._drop(authored.stream.message_id)

    def _note(self, authored: Authored, stored: Stored) -> None:
        """Follow what is stored: another node may have stored another text."""
        stream = authored.stream
        authored.stop = authored.stop or stored.stop
        authored.checked_at = asyncio.get_running_loop().time()
        if not stream.content.startswith(stored.content):
            stream.replace(stored.content)
            self._streams.changed(stream)
        stream.stored = len(stored.content)
        if stream.stored < len(stream.content):
            self._store_soon(authored)
