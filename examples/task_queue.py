"""Progress of tasks: a worker reports it to each task's owner, over HTTP with a key; a client shows it live.

    export TIDINGS_KEY=$(tidings key create worker --scope publish)
    python task_queue.py watch "$(tidings token omar)" &
    python task_queue.py work omar task-17

A report that has no answer is sent again, and takes effect once. The reports are events in the direct conversation of
the key with the owner: nobody else can read them, or take that room's name.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from typing import Any

import httpx
import socketio

SERVER = os.environ.get("TIDINGS_SERVER", "http://127.0.0.1:8000")
STEPS = 4


def report(http: httpx.Client, owner: str, task: str, percent: int) -> None:
    """Publish the progress of a task; on return it is durable."""
    event = {"username": owner, "event": "task.progress", "data": {"task": task, "percent": percent}}
    headers = {"Idempotency-Key": f"{task}-{percent}"}  # the same at each attempt, also of a restarted worker
    pause = 0.1
    while True:
        try:
            answer = http.post("/api/events", json=event, headers=headers)
            if answer.is_success:
                return
            if not answer.json()["retryable"]:
                raise SystemExit(answer.text)
        except (httpx.TransportError, ValueError) as error:  # no answer, or one of a proxy
            print(f"trying again: {error!r}", file=sys.stderr, flush=True)
        time.sleep(pause * random.uniform(0.5, 1))
        pause = min(2 * pause, 30)


def work(owner: str, task: str) -> None:
    headers = {"Authorization": f"Bearer {os.environ['TIDINGS_KEY']}"}
    with httpx.Client(base_url=SERVER, headers=headers, timeout=10) as http:
        for step in range(STEPS + 1):
            report(http, owner, task, 100 * step // STEPS)


async def watch(token: str) -> None:
    """Print the progress of a user's tasks: what was reported while nobody watched, then each report as it comes."""
    cursors: dict[str, int] = {}  # room_id -> the last seq printed
    client = socketio.AsyncClient()

    async def print_progress(event: dict[str, Any]) -> None:
        if event["seq"] > cursors.get(event["room_id"], 0):
            cursors[event["room_id"]] = event["seq"]
            print(f"{event['data']['task']}: {event['data']['percent']} %", flush=True)

    client.on("task.progress", print_progress)
    auth = {"token": token, "device": "task watcher", "cursors": cursors}
    await client.connect(SERVER, auth=lambda: auth, transports=["websocket"], retry=True)
    await client.wait()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["work", owner, task]:
            work(owner, task)
        case ["watch", token]:
            asyncio.run(watch(token))
        case _:
            sys.exit(__doc__)
