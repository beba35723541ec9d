"""A server for tests, in a thread of this process, with users, clients and faults."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import secrets
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Coroutine, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar

import uvicorn

from tidings.api import ServerApi
from tidings.app import Application, create_app
from tidings.auth import keys
from tidings.auth.tokens import now_ms
from tidings.cli.serving import Server
from tidings.contract.permissions import KeyScope
from tidings.settings import Settings
from tidings.settings.other_names import PREFIX
from tidings.testing import postgresql
from tidings.testing.clock import CLOCK, ShiftedLoop
from tidings.testing.links import ClientLink
from tidings.testing.memory import folder_in_memory
from tidings.transport.listening import listen
from tidings.webhooks.managing import find_room
from tidings_db.engine import StoreUnavailable
from tidings_db.schema import migrate

if TYPE_CHECKING:
    from tidings_client import Client, Store
    from tidings_client.client import Connecting

T = TypeVar("T")
P = ParamSpec("P")
Named = tuple[str, str]
"""A client of your own: its username and device."""
PATIENCE_S = 60.0
_ACCESSES = ("read", "write", "run")
"""The methods of a `Database` through which everything passes."""


class Begun(Generic[T]):
    """An operation that has begun: `await` it, or call `result()` where there is no event loop."""

    def __init__(self, future: Future[T]) -> None:
        self.future = future

    def __await__(self) -> Generator[Any, None, T]:
        return asyncio.wrap_future(self.future).__await__()

    def result(self) -> T:
        return self.future.result(PATIENCE_S)


def _operation(
    method: Callable[Concatenate[Tidings, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Tidings, P], Begun[T]]:
    @wraps(method)
    def begin(self: Tidings, /, *args: P.args, **options: P.kwargs) -> Begun[T]:
        return self.run(method(self, *args, **options))

    return begin


@dataclass(frozen=True)
class User:
    username: str
    token: str


class _Node:
    """A server, with the application in which it is. `start` after `stop` makes a new one with the same data."""

    def __init__(self, app: str | Callable[[Settings], Any] | None, settings: dict[str, Any]) -> None:
        self._app = app
        self._settings = settings
        self._server: uvicorn.Server | None = None
        self.port: int | None = None
        self.app: Any
        self.tidings: Application

    async def start(self) -> None:
        self.app = self._load()
        self.tidings, self.prefix = _application_in(self.app)
        CLOCK.install()
        if self.app is self.tidings:  # as `tidings serve` does
            await self.tidings.node.start()
            self._server = Server(self.tidings, "127.0.0.1", 0)
        else:  # as `uvicorn` does
            options: dict[str, Any] = {"lifespan": "on", "log_config": None, "timeout_graceful_shutdown": 5}
            self._server = uvicorn.Server(uvicorn.Config(self.app, **options))
        listening = listen("127.0.0.1", 0)
        self._serving = asyncio.create_task(self._serve(self._server, listening))
        while not self._server.started:
            if self._serving.done():
                raise RuntimeError("the application did not start; the log says why")
            await asyncio.sleep(0.002)
        self.port = listening.getsockname()[1]

    async def _serve(self, server: uvicorn.Server, listening: socket.socket) -> None:
        with listening, contextlib.suppress(SystemExit):  # uvicorn raises it if the lifespan of the application fails
            await server.serve([listening])

    async def stop(self) -> None:
        self.port = None
        if self._server is not None:
            self._server.should_exit = True
            if isinstance(self._server, Server):
                self._server.stop()
            await self._serving
            await self.tidings.node.stop()
            self._server = None

    def _load(self) -> Any:
        if self._app is None:
            return create_app(Settings(_env_file=None, **self._settings), bcrypt_rounds=4)
        if not isinstance(self._app, str):
            return self._app(Settings(_env_file=None, **self._settings))
        module, _, name = self._app.partition(":")
        sys.modules.pop(module, None)  # its `create_app()` is to read the settings of this test
        before = dict(os.environ)
        os.environ.update({f"{PREFIX}{key.upper()}": str(value) for key, value in self._settings.items()})
        try:
            return getattr(importlib.import_module(module), name or "app")
        finally:
            os.environ.clear()
            os.environ.update(before)


def _application_in(app: Any) -> tuple[Application, str]:
    """The Tidings application that `app` is, or that is mounted in it, and the prefix of its paths."""
    if isinstance(app, Application):
        return app, ""
    for route in getattr(app, "routes", ()):
        if isinstance(getattr(route, "app", None), Application):
            return route.app, route.path
    raise TypeError("the application has no application of tidings.create_app() mounted in it")


class Tidings:
    """Made by `serve`. Each operation runs in the thread of the server, and returns a `Begun`."""

    def __init__(self, nodes: list[_Node], is_sqlite: bool) -> None:
        self._nodes = nodes
        self._is_sqlite = is_sqlite
        self._loop = ShiftedLoop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tidings-testing", daemon=True)
        self._links: dict[Named, ClientLink] = {}
        self._losing: dict[Named, str] = {}
        """Clients that are to lose an answer, and of which action."""
        self._store_is_back = asyncio.Event()
        self._api = asyncio.Lock()
        """Held during a restart."""
        self._has_ended = False

    @property
    def url(self) -> str:
        """The address for anything but the clients made here. It stays the same when the server restarts."""
        return self._links["", ""].url + self._nodes[0].prefix

    @property
    def app(self) -> Any:
        """Your application, as the first node has loaded it."""
        return self._nodes[0].app

    @property
    def api(self) -> ServerApi:
        """`app.tidings` of the first node, for `run`: `await tidings.run(tidings.api.create_room("orders"))`."""
        return self._nodes[0].tidings.tidings

    def run(self, work: Coroutine[Any, Any, T]) -> Begun[T]:
        """Run a coroutine in the thread of the server, where the functions of your application belong."""
        return Begun(asyncio.run_coroutine_threadsafe(work, self._loop))

    # Users and clients

    @_operation
    async def user(self, username: str, *, display_name: str | None = None) -> User:
        """Make a user, unless there is one of this name; with a token of a new session."""
        async with self._api:
            await self.api.user(username, create=True, display_name=display_name)
            return User(username, (await self.api.token(username)).token)

    @_operation
    async def key(self, *, scopes: Collection[str], name: str = "backend", room: str | None = None) -> str:
        """Make a key. `room`: its scopes hold only in this room, an id or the name of a topic."""
        wanted = [KeyScope(scope) for scope in scopes]
        return await self._nodes[0].tidings.node.database.write(
            lambda conn: keys.create(conn, name, wanted, find_room(conn, room, topic=True), now_ms())
        )

    def client(
        self, username: str, *, store: str | Path | Store | None = None, device: str = "default", node: int = 0
    ) -> Connecting:
        """Connect a client of a user, who is made if need be: `await` it, or use `async with`."""
        from tidings_client import Closed, connect

        async def token() -> str:
            if self._has_ended:
                raise Closed("the server of this test has ended")
            return (await self.user(username)).token

        return connect(self.link(username, device, node=node).result(), token, store=store, device=device)

    @_operation
    async def link(self, username: str, device: str = "default", *, node: int = 0) -> str:
        """The URL for a client of your own. The faults name it by `(username, device)`."""
        if (username, device) not in self._links:
            await self._open_link((username, device), self._nodes[node])
        return self._links[username, device].url + self._nodes[node].prefix

    # Faults

    @_operation
    async def cut(self, client: Client | Named, *, stay: bool = False) -> None:
        """Reset the client's connections. `stay`: it cannot connect again before `restore`."""
        link = self._links[_name(client)]
        link.is_down = stay
        link.cut()

    @_operation
    async def restore(self, client: Client | Named) -> None:
        self._links[_name(client)].is_down = False

    @_operation
    async def lose_answer(self, client: Client | Named, action: str = "message") -> None:
        """Let the client's next such action take effect, and reset its connection before anything arrives of it.

        If the client requests none until the end of the test, its fixture fails.
        """
        self._losing[_name(client)] = action

    @_operation
    async def stop_store(self, *, block: bool = False) -> None:
        """Let the database refuse each access, or with `block` delay it, until `resume_store`."""
        self._store_is_back.clear()

        def stopped(original: Callable[..., Coroutine[Any, Any, T]]) -> Callable[..., Coroutine[Any, Any, T]]:
            async def access(*args: Any, **options: Any) -> T:
                if not block:
                    raise StoreUnavailable("the test has stopped the store")
                await self._store_is_back.wait()
                return await original(*args, **options)

            return access

        for node in self._nodes:
            database = node.tidings.node.database
            vars(database).update({name: stopped(getattr(database, name)) for name in _ACCESSES})

    @_operation
    async def resume_store(self) -> None:
        self._resume_store()

    @_operation
    async def restart(self, node: int = 0) -> None:
        """Stop a server as on SIGTERM, and start it again with the same data. The store works again."""
        self._resume_store()
        async with self._api:
            await self._nodes[node].stop()
            await self._start(self._nodes[node])

    @_operation
    async def advance(self, seconds: float) -> None:
        """Let time pass in one leap, for the clocks and the timers of the server. All servers here share the clock.

        A leap of more than 40 s also ends connections, as when a machine has slept: their PONGs are overdue.
        Raises `ValueError` on PostgreSQL, which has a clock of its own.
        """
        if not self._is_sqlite:
            raise ValueError("the clock of PostgreSQL cannot be advanced")
        CLOCK.ahead += seconds

    # Life

    async def _open(self) -> None:
        await self._open_link(("", ""), self._nodes[0])
        for node in self._nodes:
            await self._start(node)

    async def _open_link(self, name: Named, node: _Node) -> None:
        link = self._links[name] = ClientLink(lambda: node.port)
        await link.start()

    async def _start(self, node: _Node) -> None:
        await node.start()
        dispatcher = node.tidings.node.dispatcher
        begin = dispatcher.begin

        async def begin_unless_lost(
            action: Any, name: Any, raw: Any, context: Any, done: Any, **options: Any
        ) -> bool:
            connection = context.connection
            client = ("", "") if connection is None else (connection.principal.username, connection.device)
            if action is not None and self._losing.get(client) == action.name:
                del self._losing[client]
                link = self._links[client]
                link.mute()
                done = lambda _: link.cut()  # noqa: E731
            return await begin(action, name, raw, context, done, **options)

        vars(dispatcher)["begin"] = begin_unless_lost

    def _resume_store(self) -> None:
        for node in self._nodes:
            for name in _ACCESSES:
                vars(node.tidings.node.database).pop(name, None)
        self._store_is_back.set()

    async def _close(self) -> None:
        for link in self._links.values():
            link.stop()
        for node in self._nodes:
            await node.stop()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @contextmanager
    def _running(self) -> Iterator[Tidings]:
        CLOCK.users += 1
        self._thread.start()
        try:
            self.run(self._open()).result()
            yield self
            self.resume_store().result()
            if self._losing:
                raise AssertionError(f"no answer was lost, because nobody asked for it: {self._losing}")
        finally:
            self._has_ended = True
            self.run(self._close()).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            CLOCK.leave()


def _name(client: Client | Named) -> Named:
    return client if isinstance(client, tuple) else (client.username, client.device)


@contextmanager
def serve(
    app: str | Callable[[Settings], Any] | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    nodes: int = 1,
    directory: Path | None = None,
) -> Iterator[Tidings]:
    """Run a server for tests, on a free port, until the block ends.

    Args:
        app: None: Tidings alone. Or a function that makes your ASGI application from the settings. Or its place, as
            in "orders:app": the module is imported anew at each start, with the settings in the environment.
        settings: changes to the settings of a test, which limit no rates.
        nodes: more than one share a PostgreSQL database. Raises `NoServer` if there is no PostgreSQL.
        directory: for the data; None: a temporary one.
    """
    with ExitStack() as stack:
        if directory is None:
            temporary = tempfile.TemporaryDirectory(prefix="tidings-", dir=folder_in_memory())
            directory = Path(stack.enter_context(temporary))
        url = f"sqlite:///{directory / 'tidings.sqlite3'}"
        if nodes > 1:
            url = stack.enter_context(postgresql.database(postgresql.shared()))
            with ThreadPoolExecutor(1) as thread:  # there may be an event loop in this one
                thread.submit(migrate, url).result()
        chosen = {
            "database_url": url,
            "data_dir": directory,
            "rate_limits": "off",
            "public_channel": "entry",
            "log_level": "warning",
            "secret_key": secrets.token_urlsafe(32),
            **(settings or {}),
        }
        tidings = Tidings([_Node(app, chosen) for _ in range(nodes)], is_sqlite=nodes == 1)
        yield stack.enter_context(tidings._running())
