"""Orders of a restaurant: the application announces them, cooks answer, and waiters see what is ready.

Run `uvicorn kitchen:app` in this folder. The tests are in `test_kitchen.py` and `screen.test.js`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from tidings import create_app
from tidings.contract.errors import ActionError, ErrorCode
from tidings_client import Client

TOPIC = "kitchen"

server = create_app()


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with server.lifespan():
        try:
            await server.tidings.create_room(TOPIC)
        except ActionError as error:
            if error.code is not ErrorCode.CONFLICT:  # it exists since an earlier start
                raise
        yield


app = FastAPI(lifespan=lifespan)


@app.exception_handler(ActionError)
async def refused(_: Request, error: ActionError) -> JSONResponse:
    return JSONResponse(error.error.model_dump(mode="json"), error.code.http_status)


@app.post("/orders/{number}")
async def order(number: int) -> None:
    await server.tidings.publish(TOPIC, "order.placed", {"number": number}, client_id=f"placed-{number}")


app.mount("/", server)


async def cook(client: Client) -> None:
    """Cook each order once, in order."""
    kitchen = await client.join(TOPIC)
    async for placed in kitchen.events("order.placed"):
        number = placed.data["number"]
        await kitchen.publish("order.ready", {"number": number}, client_id=f"ready-{number}")
