"""Messages that are written while they are read. Offsets count Unicode code points, as indices of `str` do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from tidings.contract import models
from tidings_client.contract import Conflict, read
from tidings_client.errors import ProtocolError, TidingsError

if TYPE_CHECKING:
    from tidings_client.client import Client

JOIN_S: Final = 0.04
"""Texts that are written within this time are sent together."""
MAX_TEXT: Final = 16_384
MAX_BUFFERED: Final = 65_536


def cut_and_add(content: str, offset: int, text: str) -> str:
    """The content after a `message_append`: the one rule for a reader, whatever was lost or repeated."""
    return content[:offset] + text


class MessageStream:
    """The author's side of a message that streams.

    Text is kept until the server has it on disk, and is sent again from wherever the server stands. If the block of
    `async with` ends with an error, the message is not finished: the server marks it as interrupted.
    """

    def __init__(self, client: Client, payload: dict[str, Any]) -> None:
        self._client = client
        self._payload = payload
        self._kept = ""
        self._kept_from = 0
        self._next = 0
        self._flushed = asyncio.Event()
        self._written = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None
        self._finished: models.Message | None = None
        self.message_id = ""
        self.stopped = False
        """Whether a member has asked the author to stop."""

    async def __aenter__(self) -> MessageStream:
        sent = await (await self._client.enqueue("message", self._payload)).sent()
        self.message_id = str(sent["id"])
        self._flushed.set()
        self._writing = asyncio.create_task(self._write())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and self._finished is None:
                await self.finish()
        finally:
            if self._writing is not None:
                self._writing.cancel()
                await asyncio.wait([self._writing])

    @property
    def length(self) -> int:
        """Code points written so far."""
        return self._kept_from + len(self._kept)

    async def write(self, text: str) -> None:
        """Add text. Returns soon, unless much text waits to be sent."""
        self._check()
        if text:
            self._kept += text
            self._flushed.clear()
            self._written.set()
        if self.length - self._next > MAX_BUFFERED:
            await self._flush()

    async def finish(self, content: str | None = None, data: dict[str, Any] | None = None) -> models.Message:
        """Complete the message; `content` replaces what was written. Repeated until the server has answered."""
        optional = {"content": content, "data": data}
        fields = {name: value for name, value in optional.items() if value is not None}
        while self._finished is None:
            await self._flush()
            end = {} if content is not None else {"offset": self.length}
            try:
                answer = await self._client.insist("finish", {"message_id": self.message_id, **end, **fields})
                self._finished = read(models.Message, answer)
            except Conflict as error:
                self._go_back(error)
                self._flushed.clear()
                self._written.set()
        return self._finished

    async def _flush(self) -> None:
        """Wait until the server has all text. Raises the error of the author's task."""
        self._check()
        assert self._writing is not None
        flushed = asyncio.create_task(self._flushed.wait())
        await asyncio.wait([flushed, self._writing], return_when=asyncio.FIRST_COMPLETED)
        flushed.cancel()
        self._check()

    def _check(self) -> None:
        if self._writing is None:
            raise RuntimeError("use `async with`")
        if self._writing.done():
            self._writing.result()

    async def _write(self) -> None:
        while True:
            await self._written.wait()
            await asyncio.sleep(JOIN_S)
            self._written.clear()
            while self._next < self.length:
                start = self._next - self._kept_from
                text = self._kept[start : start + MAX_TEXT]
                try:
                    answer = await self._client.insist(
                        "append", {"message_id": self.message_id, "offset": self._next, "text": text}
                    )
                except Conflict as error:
                    self._go_back(error)
                    continue
                self._next = max(self._next + len(text), min(int(answer["offset"]), self.length))
                self.stopped = self.stopped or answer.get("stop") is True
                self._forget(min(int(answer.get("stored", 0)), self._next))
            self._flushed.set()

    def _forget(self, stored: int) -> None:
        if stored > self._kept_from:
            self._kept = self._kept[stored - self._kept_from :]
            self._kept_from = stored

    def _go_back(self, error: Conflict) -> None:
        """Go on from where the server stands."""
        offset = error.details.get("offset")
        if not isinstance(offset, int):
            raise error
        if not self._kept_from <= offset <= self.length:
            raise _lost(offset)
        self._next = offset


def _lost(offset: int) -> TidingsError:
    return ProtocolError(f"the server has lost text that it had stored: it stands at {offset}")
