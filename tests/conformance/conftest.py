"""The two servers of the official suites, over every way to serve a WebSocket."""

from __future__ import annotations

import gc
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from typing import Any

import pytest

from tests.conformance.servers import Application, DirectApplication
from tests.conformance.wire import Endpoint, serving
from tidings.transport.uvicorn_server import UvicornWebSocket

WAYS: dict[str, tuple[Any, type[Application]]] = {
    "direct": (UvicornWebSocket, DirectApplication),
    "taken over": (UvicornWebSocket, Application),
    "asgi": ("websockets-sansio", Application),
}
"""Opened by the transport itself, as Tidings serves; taken over from uvicorn; over ASGI, as under other servers."""

EVERY_WAY = ["direct", *(pytest.param(way, marks=pytest.mark.long) for way in WAYS if way != "direct")]
"""`make test` runs only the way that Tidings serves."""

HANDSHAKE_REFUSED = "ASGI callable returned without completing handshake."
"""uvicorn logs this when an application answers a handshake with an HTTP response, which ASGI allows."""

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
    gc.collect()  # an unobserved failure of a task is logged when the task is collected
    for phase in ("call", "teardown"):
        for record in caplog.get_records(phase):
            if record.getMessage() == HANDSHAKE_REFUSED:
                continue
            assert record.exc_info is None, logging.Formatter().format(record)
            assert record.levelno < logging.ERROR, record.getMessage()
