"""An assistant: answers each message that mentions it, in all its rooms, word by word while others read.

    export TIDINGS_KEY=$(tidings key create assistant --scope publish --scope read)
    python assistant.py

Invite it by its name into a group or a private topic. Its words come from a small generator here; with
TIDINGS_ASSISTANT_URL (as "https://api.example.com/v1"), _MODEL and _KEY set, from a language model behind an API that
is compatible with OpenAI's. A member's `stop` ends an answer. In each room it answers one question after the other; a
question whose answer was cut off by the end of this process is answered again.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing

import httpx

import tidings_client
from tidings_client import Client, Message, Refused, Room

SERVER = os.environ.get("TIDINGS_SERVER", "http://127.0.0.1:8000")
MODEL_URL = os.environ.get("TIDINGS_ASSISTANT_URL")


async def words(question: Message) -> AsyncGenerator[str, None]:
    """Count to the first number in the question, or to ten."""
    numbers = [int(word) for word in question.content.split() if word.isdecimal()]
    for number in range(1, (numbers or [10])[0] + 1):
        yield f"{number} "
        await asyncio.sleep(0.05)


async def model(client: Client, room: Room, question: Message) -> AsyncGenerator[str, None]:
    """Pass on the pieces of a language model's answer to the last messages of the room."""
    page = await room.history(before=question.seq + 1, limit=20)
    messages = [
        {"role": "assistant", "content": message.content}
        if message.sender == client.username
        else {"role": "user", "content": f"{message.sender}: {message.content}"}
        for message in page.messages
    ]
    request = {"model": os.environ["TIDINGS_ASSISTANT_MODEL"], "messages": messages, "stream": True}
    headers = {"Authorization": f"Bearer {os.environ['TIDINGS_ASSISTANT_KEY']}"}
    async with (
        httpx.AsyncClient(timeout=60) as http,
        http.stream("POST", f"{MODEL_URL}/chat/completions", json=request, headers=headers) as answer,
    ):
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            field, _, data = line.partition(":")
            if field == "data" and data.strip() == "[DONE]":
                return
            for choice in json.loads(data)["choices"] if field == "data" else ():
                yield choice["delta"].get("content") or ""


async def answer(client: Client, room: Room, question: Message) -> None:
    source = model(client, room, question) if MODEL_URL else words(question)
    async with room.stream(reply_to=question.id) as stream, aclosing(source) as pieces:
        try:
            async for piece in pieces:
                await stream.write(piece)
                if stream.stopped:
                    break
        except (httpx.HTTPError, ValueError, LookupError) as error:
            await stream.write(f"\n(The answer ends here: {type(error).__name__}.)")


async def serve(client: Client, room: Room, earlier: asyncio.Task[None] | None) -> None:
    """Answer what was asked while nobody answered, then each question as it comes, until removed from the room."""
    if earlier is not None:  # before the bot was removed from the room, and added again
        await earlier
    async for message in room.messages():
        if client.username in message.mentions and message.sender != client.username:
            try:
                await answer(client, room, message)
            except Refused as error:  # the answer was deleted, or the bot was muted or removed
                print(f"{room.name}: {error}", flush=True)


async def main() -> None:
    key, serving = os.environ["TIDINGS_KEY"], dict[str, asyncio.Task[None]]()
    async with tidings_client.connect(SERVER, key, store="assistant.db") as client, asyncio.TaskGroup() as tasks:

        def enter(room_id: str) -> None:
            room = client.room(room_id=room_id)
            serving[room_id] = tasks.create_task(serve(client, room, serving.get(room_id)))

        client.on("room_added", lambda event: enter(event["room"]["room_id"]))
        for room in await client.rooms():
            enter(str(room.room_id))
        await asyncio.Event().wait()  # until a task fails: the client has ended


if __name__ == "__main__":
    asyncio.run(main())
