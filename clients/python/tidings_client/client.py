"""A connected device of a user.

It stays connected, brings its cursors at every connect, records each entry once and in order before anybody sees it,
confirms what it received, sends the outbox, and renews its token. It never looks at the wall clock.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import inspect
import json
import random
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from tidings.contract import models
from tidings_client.connection import Connection, log
from tidings_client.contract import Actions, read
from tidings_client.errors import Closed, Offline, Refused, StoreFailed, StoreOfAnother, TidingsError
from tidings_client.events import EventTypes
from tidings_client.files import File, Transfers
from tidings_client.outbox import Outbox, Unsent
from tidings_client.receiver import Receiver
from tidings_client.rooms import Room
from tidings_client.stores import SQLiteStore, Store

Token = str | Callable[[], str | Awaitable[str]]
Handler = Callable[..., Any]
State = Literal["connecting", "online", "offline", "closed"]
_BACKOFF: Final = 0.25
_MAX_BACKOFF: Final = 15.0
_RENEW_BEFORE: Final = 300.0
_TOKEN_REFUSED: Final = ("unauthenticated", "token_expired")


@dataclass(frozen=True)
class Status:
    state: State
    reason: str = ""


class Client:
    """Made by `connect`."""

    def __init__(self, url: str, token: Token, store: Store, device: str, events: EventTypes) -> None:
        self.device = device
        self.event_types = events
        self.username = ""
        """Known once the client has been online."""
        self.status = Status("connecting")
        self.error: TidingsError | None = None
        """Why the client has ended by itself."""
        self.store = store
        self._token = token
        self._newest_token = ""
        self._token_lifetime: float | None = None
        self._receiver = Receiver(self, self._ready, self._emit)
        self._connection = Connection(url, self._receiver.receive, self._receiver.recorded)
        self._transfers = Transfers(url, lambda: self._newest_token)
        self._outbox = Outbox(store, self.ask, self._transfers, self._outbox_changed, self._outbox_refused)
        self.actions = Actions(self.ask)
        self._handlers: dict[str, dict[object, Handler]] = {}
        self._background: set[asyncio.Future[Any]] = set()
        self._main: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._first_ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._online = asyncio.Event()
        self._attempts = 0
        self._token_refusals = 0

    # For applications

    async def join(self, topic_name: str) -> Room:
        """Join a public topic, unless the user is in it already; waits while there is no connection."""
        data = await self.insist("connect_to_room", {"topic_name": topic_name})
        return Room(self, info=read(models.ConnectedRoom, data).room)

    def room(self, *, room_id: str | None = None, topic_name: str | None = None, username: str | None = None) -> Room:
        """A room by exactly one of these; whether it exists turns out when it is used."""
        given = {"room_id": room_id, "topic_name": topic_name, "username": username}
        reference = {name: value for name, value in given.items() if value is not None}
        if len(reference) != 1:
            raise ValueError("give exactly one of room_id, topic_name, username")
        return Room(self, reference)

    async def rooms(self) -> list[Room]:
        """All rooms of the user."""
        return [Room(self, info=info) for info in await self.room_infos()]

    async def room_infos(self) -> list[models.Room]:
        infos: list[models.Room] = []
        after: dict[str, str] = {}
        while True:
            page = read(models.Rooms, await self.insist("get_rooms", {"member": True, "limit": 500, **after}))
            infos += page.rooms
            if page.next is None:
                return infos
            after = {"after": page.next}

    def on(self, event: str, handler: Handler) -> Callable[[], None]:
        """Call `handler(payload)` for each event of this name (`*`: `handler(name, payload)` for all of them).

        The payload is the object of the wire. An entry of a log is passed on once, and only after it was recorded;
        after a crash it is not passed on again: use `Room.messages` and `Room.events` for what must be processed.
        Of the library's own: `connect` ({}: a new connection; what was missed comes next, then `ready`), `status`
        (`Status`), `outbox` (`Unsent`), `refused` (`Unsent`, `Refused`), and `reset` ({"room_id"}: the log of a room
        was restored, and was read again).

        Returns a function that ends it.
        """
        key = object()
        self._handlers.setdefault(event, {})[key] = handler
        return lambda: self._handlers.get(event, {}).pop(key, None) and None

    @property
    def unsent(self) -> list[Unsent]:
        """The requests of the outbox, in order."""
        return self._outbox.unsent

    async def ask(self, action: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Request any action now. Raises `Offline` and `Refused`; `actions` has the same with types."""
        if self.is_closed:
            raise self.ended()
        return await self._connection.ask(action, payload)

    async def insist(self, action: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Request an action until it is answered with success or for good. Only for what may be repeated."""
        wait = 0.0
        while True:
            try:
                await self._online.wait()
                return await self.ask(action, payload)
            except Offline:
                wait = min(_MAX_BACKOFF, max(0.1, wait * 2))
                await asyncio.sleep(wait)
            except Refused as error:
                if not error.retryable:
                    raise
                wait = min(_MAX_BACKOFF, max(_BACKOFF, wait * 2))
                await asyncio.sleep(wait if error.retry_after is None else error.retry_after)

    async def enqueue(
        self,
        action: str,
        payload: dict[str, Any],
        client_id: str | None = None,
        files: Sequence[File | Path | str] = (),
    ) -> Unsent:
        if self.is_closed:
            raise self.ended()
        return await self._outbox.enqueue(action, payload, client_id, files)

    async def download(self, file_id: str, target: Path | str) -> Path:
        """Get a file of a message; returns its path. It has its name once it is complete, and replaces no other.

        `target`: the new file; or a folder, where it gets its own name without what would be unsafe in one, such as
        parts of a path, and with a number if there is one of that name. Waits while there is no connection, and goes
        on after a cut. Raises `FileExistsError` and other `OSError`, a `Refused`, or `Offline` after some attempts
        that got nothing.
        """
        return await self._transfers.download(self.insist, file_id, Path(target))

    def drop(self, error: TidingsError) -> None:
        """End the connection without confirming what has arrived, and connect again."""
        self._connection.drop(error)

    async def close(self) -> None:
        """Disconnect. What is unsent stays in the store."""
        if self._main is not None:
            self._stopping.set()
            await asyncio.wait([self._main])

    # Life

    async def start(self, *, wait: bool) -> None:
        await self.store.open()
        try:
            await self._outbox.load()
        except BaseException:
            await self.store.close()
            raise
        self._main = asyncio.create_task(self._run())
        if wait:
            try:
                await asyncio.wait([self._first_ready, self._main], return_when=asyncio.FIRST_COMPLETED)
                if self.error is not None:
                    raise self.error
            except BaseException:
                await self.close()
                raise

    async def _run(self) -> None:
        parts = [self._stay_connected(), *self._receiver.parts(), *self._outbox.parts(), self._renew()]
        tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(part) for part in (*parts, self._stopping.wait())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except TidingsError as error:
            self.error = error
        except Exception as error:
            log.exception("the client has ended")
            self.error = Closed(f"a bug in the client: {error!r}")
        finally:
            for task in (*tasks, *self._background):
                task.cancel()
            await asyncio.gather(*tasks, *self._background, return_exceptions=True)
            self._set_status("closed", str(self.error or "closed by the program"))
            self._outbox.end(self.ended())
            self._online.set()  # who waits for a connection gets `Closed`
            await self.store.close()

    @property
    def is_closed(self) -> bool:
        return self.status.state == "closed"

    def ended(self) -> TidingsError:
        return Closed(self.status.reason) if self.error is None else self.error

    def _set_status(self, state: State, reason: str = "") -> None:
        self.status = Status(state, reason)
        self._outbox.set_online(state == "online")
        if state == "online":
            self._online.set()
        else:
            self._online.clear()
        self._emit("status", self.status)

    async def _stay_connected(self) -> None:
        while True:
            wait = None
            try:
                token = await self._fresh_token()
                cursors = await self._receiver.begin()
                closing = await self._connection.run({"token": token, "device": self.device, "cursors": cursors})
                reason = "the connection was lost" if closing is None else f"closed: {closing.get('reason')}"
                self._check_closing(closing)
                self._set_status("offline", reason)
            except (Offline, StoreFailed) as error:
                self._set_status("offline", str(error))
            except Refused as error:
                self._check_refusal(error)
                self._set_status("offline", str(error))
                wait = error.retry_after
            self._attempts = min(self._attempts + 1, 10)
            most = min(_MAX_BACKOFF, _BACKOFF * 2**self._attempts)
            await asyncio.sleep(most * random.uniform(0.5, 1) if wait is None else wait)

    def _check_closing(self, closing: dict[str, Any] | None) -> None:
        """Return if the client should reconnect after this `closing`; otherwise raise."""
        if closing is None or closing.get("reconnect") is True:
            return
        reason = closing.get("reason")
        if reason == "token_expired" and not isinstance(self._token, str):
            return
        raise Closed(f"the server closed the connection for good: {reason}", reason)

    def _check_refusal(self, error: Refused) -> None:
        """Return if the client should try again after a refused connect; otherwise raise the error."""
        if error.code in _TOKEN_REFUSED and not isinstance(self._token, str):
            self._token_refusals += 1
            if self._token_refusals == 1:
                return  # one fresh token may be refused: it was made just before it expired
        if not error.retryable and error.code != "internal":
            raise error

    async def _fresh_token(self) -> str:
        if isinstance(self._token, str):
            self._newest_token = self._token
            return self._token
        try:
            answer = self._token()
            token = await answer if inspect.isawaitable(answer) else answer
        except TidingsError:
            raise
        except Exception as error:
            log.warning("no token", exc_info=True)
            raise Offline(f"no token: {error!r}") from error
        self._token_lifetime = _lifetime(token)
        self._newest_token = token
        return token

    async def _renew(self) -> None:
        """Authenticate the connection with a fresh token before the old one expires, by its own times."""
        while True:
            await self._online.wait()
            lifetime = self._token_lifetime
            if lifetime is None:  # `closing` with `token_expired` makes the client connect with another token
                await self._stopping.wait()
                return
            await asyncio.sleep(max(1.0, lifetime - min(_RENEW_BEFORE, lifetime / 4)))
            with contextlib.suppress(Offline, Refused):
                await self.ask("authenticate", {"token": await self._fresh_token()})

    async def _ready(self, ready: dict[str, Any]) -> None:
        self.username = str(ready.get("username", ""))
        try:
            await self.store.claim(f"{self.username} on {self.device}")
        except StoreOfAnother as error:
            self.error = error
            self._stopping.set()
            raise
        self._attempts = self._token_refusals = 0
        self._set_status("online")
        if not self._first_ready.done():
            self._first_ready.set_result(None)

    # Handlers

    def _emit(self, name: str, *payload: Any) -> None:
        handlers = [*self._handlers.get(name, {}).values()]
        calls = [(handler, payload) for handler in handlers]
        calls += [(handler, (name, *payload)) for handler in self._handlers.get("*", {}).values()]
        for handler, arguments in calls:
            try:
                result = handler(*arguments)
            except Exception:
                log.exception("a handler of %s failed", name)
                continue
            if inspect.isawaitable(result):
                self.start_task(result)

    def start_task(self, work: Awaitable[Any]) -> None:
        def ended(task: asyncio.Future[Any]) -> None:
            self._background.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("a task of the client failed", exc_info=error)

        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(ended)

    def _outbox_changed(self, unsent: Unsent) -> None:
        self._emit("outbox", unsent)
        if unsent.state in ("withdrawn", "refused"):
            for file in unsent.files:
                if file.upload_id is not None:
                    self.start_task(self._delete_upload(file.upload_id))

    async def _delete_upload(self, upload_id: str) -> None:
        with contextlib.suppress(TidingsError):  # the server deletes it after a day
            await self.ask("delete_upload", {"file_id": upload_id})

    def _outbox_refused(self, unsent: Unsent, error: Refused) -> None:
        self._emit("refused", unsent, error)


class Connecting:
    """The result of `connect`: `await` it, or use `async with`."""

    def __init__(
        self,
        url: str,
        token: Token,
        store: str | Path | Store | None,
        device: str,
        wait: bool,
        events: Mapping[str, Any],
    ) -> None:
        self._url, self._token, self._device, self._wait = url, token, device, wait
        self._events = EventTypes(events)
        self._store = SQLiteStore(store) if store is None or isinstance(store, str | Path) else store
        self._client: Client | None = None

    async def _open(self) -> Client:
        self._client = Client(self._url, self._token, self._store, self._device, self._events)
        await self._client.start(wait=self._wait)
        return self._client

    def __await__(self) -> Generator[Any, Any, Client]:
        return self._open().__await__()

    async def __aenter__(self) -> Client:
        return await self._open()

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.close()


def connect(
    url: str,
    token: Token,
    *,
    store: str | Path | Store | None = None,
    device: str = "default",
    wait: bool = True,
    events: Mapping[str, Any] | None = None,
) -> Connecting:
    """Connect a device of a user: `async with connect(…) as client`, or `client = await connect(…)`.

    Args:
        token: a token, or a function (it may be async) that returns a fresh one; called at every connect, and before
            the token expires.
        store: the path of a file, which one process at a time may use; None keeps everything in memory, so that a
            restart begins where the server believes this device to be. Or a `Store` of your own.
        device: names this installation; each device of a user receives everything.
        wait: return after the first successful connect. False: immediately, perhaps offline.
        events: the types of the data of application events, by the event's name: whatever Pydantic can validate, such
            as a model or a TypedDict. `Room.events` yields data of this type, and `Room.publish` takes it.

    Raises a `Refused` if the server refuses the token, `StoreInUse` if another process has the store.
    """
    return Connecting(url, token, store, device, wait, events or {})


def _lifetime(token: str) -> float | None:
    """The seconds between a JWT's `iat` and `exp`, both by the issuer's clock; None for any other token."""
    try:
        part = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        return float(claims["exp"]) - float(claims["iat"])
    except (ValueError, LookupError, TypeError):
        return None
