"""Where the dialects are: their WebSockets by path, and their routes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

from server.context import Parts
from server.delivery.catchup import CatchUp
from server.dispatch import Dispatcher
from server.gateways.dialects.speaker import Speaker, SpeakerGateway
from server.transport.admission import HalfOpen
from server.transport.websocket import WebSocketSession


class Dialects:
    def __init__(
        self,
        parts: Parts,
        dispatcher: Dispatcher,
        catch_up: CatchUp,
        half_open: HalfOpen,
        *,
        dev_tokens: bool = False,
        **transport: Any,
    ) -> None:
        """`dev_tokens`: hand tokens out, as `GET /token` is documented. `transport`: of every `SpeakerGateway`."""
        self._dev_tokens = dev_tokens
        self._parts = parts
        self._dispatcher = dispatcher
        self._catch_up = catch_up
        self._half_open = half_open
        self._transport = transport
        self._by_path: dict[str, SpeakerGateway] = {}

    def _gateway(
        self, speaker: Callable[[SpeakerGateway, WebSocketSession], Speaker], **options: Any
    ) -> SpeakerGateway:
        return SpeakerGateway(
            speaker, self._parts, self._dispatcher, self._catch_up, self._half_open, **(self._transport | options)
        )

    def find(self, path: str) -> SpeakerGateway | None:
        """Whose a WebSocket on this path is."""
        return self._by_path.get(path)

    def install(self, web: FastAPI) -> None:
        """Add the dialects' routes."""

    @property
    def _gateways(self) -> list[SpeakerGateway]:
        return list(self._by_path.values())

    async def stop(self) -> None:
        await asyncio.gather(*(gateway.stop() for gateway in self._gateways))
