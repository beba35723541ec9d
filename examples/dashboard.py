"""A live dashboard: figures of an application, on a page that misses none of them.

Run `uvicorn dashboard:app` in this folder, and open http://127.0.0.1:8000.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse

from tidings import create_app
from tidings.contract.errors import ActionError, ErrorCode
from tidings.contract.models import Posting

PAGE = Path(__file__).with_name("dashboard.html")
TOPIC = "figures"
INTERVAL_S = 1.0

server = create_app()


async def create_topic() -> None:
    """Create the topic, in which only the application writes, unless it exists."""
    try:
        await server.tidings.create_room(TOPIC, posting=Posting.MODERATORS)
    except ActionError as error:
        if error.code is not ErrorCode.CONFLICT:
            raise


async def publish_figures() -> None:
    while True:
        one, five, fifteen = os.getloadavg()
        with suppress(ActionError):  # a full disk: this figure is left out
            await server.tidings.publish(TOPIC, "load", {"1 min": one, "5 min": five, "15 min": fifteen})
        await asyncio.sleep(INTERVAL_S)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with server.lifespan(), asyncio.TaskGroup() as tasks:
        await create_topic()
        publishing = tasks.create_task(publish_figures())
        yield
        publishing.cancel()


app = FastAPI(lifespan=lifespan, openapi_url=None)


@app.get("/")
async def page() -> FileResponse:
    return FileResponse(PAGE)


@app.post("/visit")
async def visit() -> dict[str, str]:
    """Sign a visitor in: a user without a password, a member of the topic, and a token for the page."""
    visitor = await server.tidings.user(f"visitor-{secrets.token_hex(8)}", create=True)
    await server.tidings.add_member(TOPIC, visitor.username)
    return {"token": (await server.tidings.token(visitor.username)).token}


app.mount("/", server)
