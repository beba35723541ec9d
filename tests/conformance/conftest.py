"""The two servers of the official suites, over both ways that a WebSocket can be served."""

from __future__ import annotations

import gc
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from typing import Any

import pytest

from server.transport.uvicorn_server import UvicornWebSocket
from tests.conformance.servers import Application, DirectApplication
from tests.conformance.wire import Endpoint, serving

WAYS: dict[str, tuple[Any, type[Application]]] = {
    "direct": (UvicornWebSocket, DirectApplication),
    "taken over": (UvicornWebSocket, Application),
    "asgi": ("websockets-sansio", Application),
}
"""Opened here, as Tidings serves; taken over from uvicorn; and over ASGI, as under any other server."""

EVERY_WAY = ["direct", *(pytest.param(way, marks=pytest.mark.long) for way in WAYS if way != "direct")]
"""`make test` runs the one that Tidings serves."""

HANDSHAKE_REFUSED = "ASGI callable returned without completing handshake."
"""What uvicorn's own protocol says when an application answers a handshake with an HTTP response, as ASGI has it."""

Starting = Callable[..., AbstractAsyncContextManager[Endpoint]]


@pytest.fixture(params=EVERY_WAY)
def engineio_with(request: pytest.FixtureRequest, quiet_log: None) -> Starting:
    """Starts the Engine.IO server with options of the transport."""
    return partial(serving, "engineio", *WAYS[request.param])


@pytest.fixture
async def engineio(engineio_with: Starting) -> AsyncIterator[Endpoint]:
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(engineio_with())


@pytest.fixture(params=EVERY_WAY)
def socketio_with(request: pytest.FixtureRequest, quiet_log: None) -> Starting:
    """Starts the Socket.IO server with options of the transport."""
    return partial(serving, "socketio", *WAYS[request.param])


@pytest.fixture
async def socketio(socketio_with: Starting) -> AsyncIterator[Endpoint]:
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(socketio_with(connect_timeout=20))


@pytest.fixture
def quiet_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fails a test in which the server logged a traceback or an error, whatever it answered."""
    yield
    gc.collect()  # a task that failed unobserved says so when it is collected
    for when in ("call", "teardown"):
        for record in caplog.get_records(when):
            if record.getMessage() == HANDSHAKE_REFUSED:
                continue
            assert record.exc_info is None, logging.Formatter().format(record)
            assert record.levelno < logging.ERROR, record.getMessage()
