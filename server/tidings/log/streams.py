"""Messages that stream: operations of the journal, and the end of those whose authors have fallen silent.

The text so far is stored now and then, without an entry; only the end of a stream is an entry.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tidings.auth import names
from tidings.auth.principal import Principal
from tidings.contract.errors import ActionError, ErrorCode, not_found
from tidings.contract.permissions import Permission
from tidings.log.journal import Journal
from tidings.log.messages import MessageChange
from tidings.log.transaction import Operation, Work
from tidings.supervision import Periodic
from tidings_db.engine import Database
from tidings_db.queries import log, streams
from tidings_db.queries.rows import STREAMING, EntryRow
from tidings_db.queries.streams import OpenStream, Text

SILENCE_S = 60.0
"""A stream ends as interrupted when nothing was appended to it for this long."""
CHECK_S = 5.0
"""The interval at which nodes look for such streams."""

logger = logging.getLogger("tidings.streams")


class Stored(NamedTuple):
    """The state of a message that streams, in the database."""

    room_id: str
    content: str
    stop: bool
    """Whether a member has asked its author to stop."""


def ended(entry: EntryRow) -> ActionError:
    """The error for an append to a message that is not streaming."""
    how = "is complete" if entry.state is None else "was interrupted"
    return ActionError(ErrorCode.CONFLICT, f"the message {how}; `edit` changes it")


@dataclass(frozen=True, slots=True)
class StoreTexts(Operation[list[Stored | ActionError]]):
    """Store the text so far of messages that the actor streams.

    The result has the state of each, or why the actor may not append to it. A text that does not continue the stored
    one is not stored: that one stands.
    """

    texts: Sequence[Text]

    @property
    def room_keys(self) -> list[int]:
        return sorted({text.room_key for text in self.texts})

    @property
    def size(self) -> int:
        return sum(256 + 4 * len(text.content) for text in self.texts)

    def apply(self, work: Work) -> list[Stored | ActionError]:
        work.save()  # the message may be of this batch
        refused: dict[int, ActionError] = {}
        for key in self.room_keys:
            try:
                work.check(work.room(key), self.actor, Permission.EDIT)
            except ActionError as error:
                refused[key] = error
        allowed = [text for text in self.texts if text.room_key not in refused]
        states = streams.store(work.conn, self.actor.user_key, allowed) if allowed else {}
        others = [text[:2] for text in allowed if text[:2] not in states]
        rows = log.at(work.conn, others) if others else {}
        results: list[Stored | ActionError] = []
        for text in self.texts:
            if text.room_key in refused:
                results.append(refused[text.room_key])
                continue
            room_id, state = work.room(text.room_key).row.room_id, states.get(text[:2])
            if state is not None:
                results.append(Stored(room_id, text.content, state == "stopping"))
            else:
                results.append(self._stored(room_id, rows.get(text[:2])))
        return results

    def _stored(self, room_id: str, entry: EntryRow | None) -> Stored | ActionError:
        if entry is None or entry.deleted:
            return not_found("message")
        if entry.sender_key != self.actor.user_key:
            return ActionError(ErrorCode.FORBIDDEN, "only the author of a message may append to it")
        if entry.state not in STREAMING:
            return ended(entry)
        return Stored(room_id, entry.content or "", entry.state == "stopping")


@dataclass(frozen=True, slots=True)
class FinishMessage(MessageChange[dict[str, Any]]):
    """End a stream; the result is the message. Repeating it is no change."""

    text: str = ""
    """The text so far, as far as this node knows it."""
    content: str | None = None
    """In its place."""
    offset: int | None = None
    """The length that the author expects."""
    data: str | None = None
    keeps_data: bool = True

    @property
    def size(self) -> int:
        return 512 + self.message_bytes + 4 * len(self.text if self.content is None else self.content)

    @property
    def names(self) -> int:
        text = self.text if self.content is None else self.content
        return names.most_mentions(text) if "@" in text else 0

    def apply(self, work: Work) -> dict[str, Any]:
        room, before = self.message(work, Permission.EDIT)
        if before.deleted:
            raise not_found("message")
        if before.sender_key != self.actor.user_key:
            raise ActionError(ErrorCode.FORBIDDEN, "only the author of a message may finish it")
        if before.state not in STREAMING:
            if before.state is None:
                return self.view(room, before)
            raise ended(before)
        stored = before.content or ""
        text = self.text if self.text.startswith(stored) else stored
        if self.offset is not None and self.offset != len(text):
            raise ActionError(ErrorCode.CONFLICT, "the message has another length", offset=len(text))
        content = text if self.content is None else self.content
        data = before.data if self.keeps_data else self.data
        body = work.mentioned(room, content)
        return self.write(work, room, "finish", before._replace(content=content, body=body, data=data, state=None))


@dataclass(frozen=True, slots=True)
class InterruptMessage(MessageChange[None]):
    """End a stream whose author has fallen silent, unless it has grown since."""

    length: int

    def apply(self, work: Work) -> None:
        room, before = self.message(work, Permission.EDIT)
        if before.state in STREAMING and len(before.content or "") == self.length:
            body = work.mentioned(room, before.content or "")
            self.write(work, room, "finish", before._replace(body=body, state="interrupted"))


@dataclass(frozen=True, slots=True)
class StopMessage(MessageChange[None]):
    """Ask the author of a stream to stop. Repeating it, or asking after the end, is no change."""

    def apply(self, work: Work) -> None:
        _, before = self.message(work, Permission.REACT)
        if before.deleted:
            raise not_found("message")
        if before.state == "streaming":
            log.rewrite(work.conn, before._replace(state="stopping"))


class Interruptions(Periodic):
    """Ends streams whose authors have fallen silent: on any node, so also those of a node that is gone."""

    def __init__(
        self,
        database: Database,
        journal: Journal,
        server: Callable[[], Awaitable[Principal]],
        look: Callable[[Sequence[OpenStream]], None],
        *,
        silence_s: float = SILENCE_S,
        check_s: float = CHECK_S,
    ) -> None:
        """`server`: returns the server's account, in whose name they end. `look`: gets all streams at each round."""
        super().__init__(check_s, logger, "silent streams could not be ended")
        self._db = database
        self._journal = journal
        self._server = server
        self._look = look
        self._silence_s = silence_s
        self._unchanged: dict[OpenStream, float] = {}
        """The streams at the last look, and since when each has had that length."""

    async def _round(self) -> None:
        now = asyncio.get_running_loop().time()
        found = await self._db.read(streams.streaming)
        self._look(found)
        self._unchanged = {stream: self._unchanged.get(stream, now) for stream in found}
        silent = [stream for stream, since in self._unchanged.items() if now - since >= self._silence_s]
        if not silent:
            return
        server = await self._server()
        for room_key, seq, length in silent:
            with contextlib.suppress(
                ActionError
            ):  # removed meanwhile, or the store is away: the next round looks again
                await self._journal.write(InterruptMessage(server, room_key, seq, 4 * length, length))
