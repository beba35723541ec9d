"""`examples/assistant.py` as a process: it answers from its own words, and from a stand-in for a language model."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from sqlalchemy.engine import Connection as Transaction

import tidings_client
from docs.generate import ROOT
from tests.extending.conftest import under_uvicorn
from tests.support.node import RunningNode, running_node
from tidings.auth import keys
from tidings.auth.tokens import now_ms
from tidings.contract.permissions import KeyScope
from tidings_client import Client, Message, Room, Timeline

DEADLINE_S = 60.0


class Conversation:
    """A room with the assistant, as a member sees it."""

    def __init__(self, client: Client, room: Room, timeline: Timeline) -> None:
        self.client, self.room, self._timeline = client, room, timeline
        self._changed = asyncio.Event()
        timeline.subscribe(self._changed.set)

    async def ask(self, content: str) -> Message:
        return await self.room.send(content)

    async def answer(self, question: Message, condition: Callable[[Message], bool]) -> Message:
        """The one answer to a question, once the condition holds."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                self._changed.clear()
                messages = [item.message for item in self._timeline.items if item.message is not None]
                answers = [message for message in messages if message.reply_to == question.id]
                if answers and condition(answers[0]):
                    assert len(answers) == 1
                    assert answers[0].sender == "assistant"
                    return answers[0]
                await self._changed.wait()

    async def complete(self, question: Message) -> str:
        return (await self.answer(question, lambda answer: answer.state == "complete")).content


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RunningNode]:
    async with running_node(f"sqlite:///{tmp_path}/tidings.db", tmp_path) as node:
        yield node


@pytest.fixture
async def key(server: RunningNode) -> str:
    def create(conn: Transaction) -> str:
        return keys.create(conn, "assistant", [KeyScope.PUBLISH, KeyScope.READ], None, now_ms())

    return await server.node.database.write(create)


@pytest.fixture
async def omar(server: RunningNode, key: str) -> AsyncIterator[Client]:
    async with tidings_client.connect(server.url, await server.register("omar")) as client:
        yield client


async def conversation(client: Client, topic_name: str) -> Conversation:
    """A new private topic, into which the assistant is invited."""
    info = await client.actions.create(topic_name=topic_name, is_private=True)
    await client.actions.invite(room_id=info.room_id, username="assistant")
    room = client.room(room_id=info.room_id)
    return Conversation(client, room, await room.timeline())


@asynccontextmanager
async def assistant(server: RunningNode, key: str, directory: Path, **environment: str) -> AsyncIterator[None]:
    """The process, in a directory for its store."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(ROOT / "examples/assistant.py")),
        cwd=directory,
        env=inherited | {"TIDINGS_KEY": key, "TIDINGS_SERVER": server.url} | environment,
    )
    try:
        yield
        assert process.returncode is None, "it has ended"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_it_answers_who_mentions_it_and_stops_when_asked(
    server: RunningNode, key: str, omar: Client, tmp_path: Path
) -> None:
    team = await conversation(omar, "team")
    async with assistant(server, key, tmp_path):
        unasked = await team.ask("3")
        question = await team.ask("@assistant 3")
        assert await team.complete(question) == "1 2 3 "
        endless = await team.ask("Count to 1000000000 , @assistant")
        growing = await team.answer(endless, lambda answer: len(answer.content) > 10)
        assert growing.state == "streaming"
        await omar.actions.stop(message_id=growing.id)
        stopped = await team.complete(endless)
        assert stopped.startswith(growing.content)
        later = await conversation(omar, "later")
        assert await later.complete(await later.ask("@assistant 2")) == "1 2 "
    missed = await team.ask("@assistant 1")
    async with assistant(server, key, tmp_path):
        assert await team.complete(missed) == "1 "
    answered = [message.reply_to for message in (await team.room.history()).messages if message.reply_to]
    assert unasked.id not in answered
    assert answered == [question.id, endless.id, missed.id]


def model(asked: list[Any], *, endless: asyncio.Event) -> FastAPI:
    """A stand-in for a language model: it answers with pieces; "forever" without an end, "fail" with an error."""
    app = FastAPI()

    async def pieces(question: str) -> AsyncIterator[str]:
        yield ": a comment\n\n"
        yield 'data: {"choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": null}]}\n\n'
        try:
            for number in range(1_000_000 if "forever" in question else 1):
                for piece in ("Había ", "una ", f"vez 🎉 {number} "):
                    yield f"data: {json.dumps({'choices': [{'index': 0, 'delta': {'content': piece}}]})}\n\n"
                await asyncio.sleep(0.02)
        finally:
            if "forever" in question:
                endless.set()
        yield 'data: {"choices": [], "usage": {"total_tokens": 3}}\n\n'
        yield "data: [DONE]\n\n"

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> Response:
        body = await request.json()
        asked.append((request.headers["authorization"], body))
        question = body["messages"][-1]["content"]
        if "fail" in question:
            return JSONResponse({"error": {"message": "overloaded"}}, 503)
        return StreamingResponse(pieces(question), media_type="text/event-stream")

    return app


async def test_it_passes_on_the_words_of_a_model_until_it_is_stopped(
    server: RunningNode, key: str, omar: Client, tmp_path: Path
) -> None:
    team = await conversation(omar, "team")
    asked: list[Any] = []
    left = asyncio.Event()
    async with under_uvicorn(model(asked, endless=left)) as url:
        settings = {"TIDINGS_ASSISTANT_URL": f"{url}/v1", "TIDINGS_ASSISTANT_MODEL": "small"}
        async with assistant(server, key, tmp_path, **settings, TIDINGS_ASSISTANT_KEY="sk-1"):
            assert await team.complete(await team.ask("@assistant tell a story")) == "Había una vez 🎉 0 "
            assert "HTTPStatusError" in await team.complete(await team.ask("@assistant fail"))
            endless = await team.ask("@assistant forever")
            growing = await team.answer(endless, lambda answer: len(answer.content) > 30)
            await omar.actions.stop(message_id=growing.id)
            assert (await team.complete(endless)).startswith(growing.content)
            await asyncio.wait_for(left.wait(), DEADLINE_S)  # the model is not left writing
    authorization, body = asked[1]
    assert (authorization, body["model"], body["stream"]) == ("Bearer sk-1", "small", True)
    assert body["messages"] == [
        {"role": "user", "content": "omar: @assistant tell a story"},
        {"role": "assistant", "content": "Había una vez 🎉 0 "},
        {"role": "user", "content": "omar: @assistant fail"},
    ]
