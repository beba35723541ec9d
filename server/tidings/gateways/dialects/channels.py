"""The two-channels protocol: an echo channel and a public one. Signed-in users get a link to each.

The public channel is the topic `PUBLIC`. An account of the server owns it, so that no user does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

from tidings.actions.context import Context, Parts
from tidings.actions.dispatch import Answer, Dispatcher
from tidings.auth.principal import Principal
from tidings.contract.errors import ActionError, Error, ErrorCode, invalid, not_found
from tidings.contract.events import Closing, RoomRemoved
from tidings.contract.models import Message, View
from tidings.gateways.client_session import Backend
from tidings.gateways.dialects.sequential import SequentialClient
from tidings.gateways.websocket_client import POLICY, UNAUTHENTICATED
from tidings.transport.websocket_server import WebSocketSession

ECHO, PUBLIC_CHANNEL = "echo_ws", "pub_ws"
"""Names of the channels: their paths, the purposes of their tickets, and the devices of their connections."""
PUBLIC: Final = "public"
OWNER: Final = "channels"
logger = logging.getLogger("tidings.channels")


class PublicChannel:
    def __init__(self, parts: Parts, dispatcher: Dispatcher, since: Callable[[], int]) -> None:
        self.since = since
        """Returns the start of the first server (ms): a newcomer gets the messages since then."""
        self._parts = parts
        self._dispatcher = dispatcher
        self._creating = asyncio.Lock()
        self._owner: Principal | None = None
        parts.directory.founders[PUBLIC] = self.create

    async def enter(self, context: Context) -> None:
        """Make the caller a member; creates the topic if necessary.

        Raises `forbidden` for a banned user, and `conflict` if a user or a private topic has the name.
        """
        if not await self._subscribe(context):
            raise await self.create() or not_found()

    async def prepare(self) -> None:
        """Create the topic unless its name is taken, so that it is listed before anybody has entered it.

        If this fails, the first user who enters creates it.
        """
        try:
            if not await self._parts.directory.has(PUBLIC):
                await self.create()
        except Exception as problem:
            logger.warning(
                "the public channel could not be created; the first user who enters will create it: %s", problem
            )

    async def create(self) -> ActionError | None:
        """Create the topic if it does not exist, for users who subscribe to it over any gateway.

        Returns the error if the name is taken.
        """
        async with self._creating:
            return await self._create()

    async def _subscribe(self, context: Context) -> bool:
        """Make the caller a member. Returns False if there is no public topic with the name."""
        try:
            await self._execute("subscribe", {"topic_name": PUBLIC}, context)
        except ActionError as error:
            if error.code is ErrorCode.NOT_FOUND:
                return False
            if error.code is not ErrorCode.CONFLICT:  # already a member
                raise
        return True

    async def _create(self) -> ActionError | None:
        """Create the topic. Returns the error if the name is taken, perhaps by another node that created it."""
        if self._owner is None:
            self._owner = await self._parts.auth.service(OWNER)
        try:
            await self._execute("create", {"topic_name": PUBLIC}, Context(self._parts, self._owner))
        except ActionError as error:
            if error.code is not ErrorCode.CONFLICT:
                raise
            return error
        return None

    async def _execute(self, action: str, payload: object, context: Context) -> Any:
        return (await self._dispatcher.execute(action, payload, context, gateway="rest")).result()


class _ChannelClient(SequentialClient):
    """A WebSocket of a channel. Its address has a valid token or ticket, checked in the handshake."""

    def opened(self, query: Mapping[str, str]) -> None:
        self.sign_in_by_token(query.get("token", ""))

    def initial_rooms(self) -> set[str]:
        return set()

    def refused(self, error: Error) -> None:
        self.disconnect(UNAUTHENTICATED if error.code.http_status == 401 else POLICY, _refusal(error))

    def failed(self, error: Error) -> None:
        self.after_answers(lambda: self.send(_refusal(error)))

    def translate(self, event: str, view: View) -> object | None:
        if not isinstance(view, Closing):
            return None
        return {"error": {"code": view.reason, "message": "the channel is closed", "reconnect": view.reconnect}}


class EchoChannelClient(_ChannelClient):
    """The echo channel. Both directions are stored before the answer."""

    name: ClassVar[str] = ECHO
    purpose: ClassVar[str] = ECHO

    _is_proxy = False

    def signed_in(self) -> None:
        assert self.connection is not None, "not signed in"
        self._is_proxy = self.parts.echo.listen(self.connection.principal, self.connection, self.send_text)
        self.start_handling()

    async def handle(self, data: str | bytes) -> None:
        self.actions.push("echo", {"content": _text(data)}, len(data), self._report)

    def _report(self, answer: Answer) -> None:
        if answer.error is not None:
            self.send(_refusal(answer.error))
        elif not self._is_proxy:  # the listener sends all replies of an upstream, including this one
            self.send_text(answer.data["content"])


class PublicChannelClient(_ChannelClient):
    """The public channel: text in, messages out. The messages since the start of the server come first."""

    name: ClassVar[str] = PUBLIC_CHANNEL
    purpose: ClassVar[str] = PUBLIC_CHANNEL

    def __init__(self, channel: PublicChannel, backend: Backend, session: WebSocketSession) -> None:
        super().__init__(backend, session)
        self._channel = channel
        self._room_id = ""

    def signed_in(self) -> None:
        self.start_handling(self._enter_channel)

    async def _enter_channel(self) -> None:
        try:
            await self._channel.enter(self.actions.context())
            room = (await self.run("connect_to_room", {"topic_name": PUBLIC}))["room"]
            self._room_id = room["room_id"]
            if not await self.enter_room(self._room_id, since=self._channel.since()):
                raise _REMOVED
        except ActionError as error:
            self.disconnect(POLICY, _refusal(error.error))

    async def handle(self, data: str | bytes) -> None:
        self.actions.push("message", {"room_id": self._room_id, "content": _text(data)}, len(data), self._report)

    def _report(self, answer: Answer) -> None:
        if answer.error is not None:  # a sent message arrives as an event
            self.send(_refusal(answer.error))

    def translate(self, event: str, view: View) -> object | None:
        match view:
            case Message(deleted=False) if view.room_id == self._room_id:
                return {
                    "id": view.id,
                    "username": view.sender,
                    "message": view.content,
                    "created_at": view.created_at,
                }
            case RoomRemoved() if view.room_id == self._room_id:
                asyncio.get_running_loop().call_soon(self.disconnect, POLICY, _refusal(_REMOVED.error))
        return super().translate(event, view)


_REMOVED: Final = ActionError(ErrorCode.FORBIDDEN, "you are no longer in the public channel")


def _text(data: str | bytes) -> str:
    if isinstance(data, bytes):
        raise invalid("frame", "must be a text frame, not a binary one")
    return data


def _refusal(error: Error) -> dict[str, Any]:
    return {"error": error.model_dump(mode="json")}
