"""The Python library, driven by commands: JSON lines on stdin, observations as JSON lines on stdout.

Commands are numbered from 1 and started in their order; each is answered by `{"done": n}` or `{"failed": n, "code"}`.
The first line is `{"started": true}`.

| do | fields | |
| --- | --- | --- |
| `open` | `url`, `token`: [token, …], `store`: path or null, `device`, `wait` | each connect takes the next token |
| `clock` | `ahead`: seconds | the wall clock of this process is set |
| `join` | `topic` | |
| `send` | `topic`, `content` | done when it is acknowledged |
| `edit` | `topic`, `content`, `to` | of a message that was consumed |
| `publish` | `topic`, `event`, `data` | |
| `stream` | `topic` | opens a message that streams |
| `write` | `text` | to that message |
| `write_until_stopped` | `text` | again and again, until a member has asked to stop |
| `finish` | | `{"finished": content}` |
| `consume` | `topic` | for each message: `{"message": {"seq", "content", "sender"}}` |
| `watch` | `topic` | for each change of the timeline: `{"timeline": [content, …]}` |
| `close` | | |
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from typing import Any

import tidings_client
from tidings_client import Client, Message, MessageStream, TidingsError


class Driver:
    def __init__(self) -> None:
        self._client: Client
        self._stream: MessageStream
        self._seen: dict[str, Message] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        reader = asyncio.StreamReader(limit=1024 * 1024)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        report(started=True)
        number = 0
        while line := await reader.readline():
            number += 1
            self._start(self._perform(number, json.loads(line)))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _perform(self, number: int, command: dict[str, Any]) -> None:
        try:
            await getattr(self, command.pop("do"))(**command)
        except TidingsError as error:
            report(failed=number, code=error.code)
        else:
            report(done=number)

    async def open(self, url: str, token: list[str], store: str | None, device: str, wait: bool = True) -> None:
        def fresh() -> str:
            return token.pop(0) if len(token) > 1 else token[0]

        self._client = await tidings_client.connect(url, fresh, store=store, device=device, wait=wait)

    async def clock(self, ahead: float) -> None:
        real = time.time
        time.time = lambda: real() + ahead

    async def join(self, topic: str) -> None:
        await self._client.join(topic)

    async def send(self, topic: str, content: str) -> None:
        await self._client.room(topic_name=topic).send(content)

    async def edit(self, topic: str, content: str, to: str) -> None:
        await self._client.room(topic_name=topic).edit(self._seen[content].id, to)

    async def publish(self, topic: str, event: str, data: Any) -> None:
        await self._client.room(topic_name=topic).publish(event, data)

    async def stream(self, topic: str) -> None:
        self._stream = await self._client.room(topic_name=topic).stream().__aenter__()

    async def write(self, text: str) -> None:
        await self._stream.write(text)

    async def write_until_stopped(self, text: str) -> None:
        while not self._stream.stopped:
            await self._stream.write(text)
            await asyncio.sleep(0.05)

    async def finish(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_exit(self._stream)
            report(finished=(await self._stream.finish()).content)

    async def consume(self, topic: str) -> None:
        async def consume() -> None:
            with contextlib.suppress(TidingsError):
                async for message in self._client.room(topic_name=topic).messages():
                    self._seen[message.content] = message
                    report(message={"seq": message.seq, "content": message.content, "sender": message.sender})

        self._start(consume())

    async def watch(self, topic: str) -> None:
        timeline = await self._client.room(topic_name=topic).timeline()
        timeline.subscribe(lambda: report(timeline=[item.content for item in timeline.items]))
        report(timeline=[item.content for item in timeline.items])

    async def close(self) -> None:
        await self._client.close()


def report(**observation: Any) -> None:
    print(json.dumps(observation), flush=True)


if __name__ == "__main__":
    asyncio.run(Driver().run())
