"""Where the dialects are: their WebSockets by path, and their routes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import FastAPI

from server.context import Parts
from server.delivery.catchup import CatchUp
from server.dispatch import Dispatcher
from server.gateways.dialects import channels, messenger, messenger_rest, rooms, topics
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
        places, self._public = rooms.Places(), channels.PublicChannel(parts, dispatcher)
        self._by_path = {
            messenger.PATH: self._gateway(messenger.Messenger),
            "/": self._gateway(partial(rooms.Rooms, places)),
            f"/{channels.ECHO}": self._gateway(
                channels.EchoChannel, admit=channels.admission(parts.auth, dispatcher, channels.ECHO)
            ),
            f"/{channels.PUBLIC_CHANNEL}": self._gateway(
                partial(channels.PublicSpeaker, self._public),
                admit=channels.admission(parts.auth, dispatcher, channels.PUBLIC_CHANNEL),
            ),
        }
        self._topics = self._gateway(topics.Topics, admit=topics.admission(parts.auth, dispatcher))

    def _gateway(
        self, speaker: Callable[[SpeakerGateway, WebSocketSession], Speaker], **options: Any
    ) -> SpeakerGateway:
        return SpeakerGateway(
            speaker, self._parts, self._dispatcher, self._catch_up, self._half_open, **(self._transport | options)
        )

    def find(self, path: str) -> SpeakerGateway | None:
        """Whose a WebSocket on this path is."""
        found = self._by_path.get(path)
        return self._topics if found is None and topics.token_in(path) else found

    def install(self, web: FastAPI) -> None:
        """Add the dialects' routes."""
        channels.install(web, self._parts, self._dispatcher, self._public)
        topics.install(web, self._parts.auth, self._dispatcher, dev_tokens=self._dev_tokens)
        messenger_rest.install(web, self._parts, self._dispatcher)

    @property
    def _gateways(self) -> list[SpeakerGateway]:
        return [*self._by_path.values(), self._topics]

    async def stop(self) -> None:
        await asyncio.gather(*(gateway.stop() for gateway in self._gateways))
