"""A client cannot distinguish an application on Tidings from one on a stock `socketio.AsyncServer`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import socketio

from tests.extending.application import GAME, LOBBY, Game, install
from tests.extending.conftest import Serving, on_stock, on_tidings

DEADLINE_S = 20.0
HEARTBEAT = {"ping_interval": 1, "ping_timeout": 5}
"""A stock client that leaves over polling waits for its last poll, which a stock server holds for their sum."""


class Recorder:
    """A stock client that records its connections, events, answers and refusals in order."""

    def __init__(self, name: str, log: list[Any], serializer: str) -> None:
        self.name = name
        self._log = log
        self._changed = asyncio.Event()
        self._sio = socketio.AsyncClient(reconnection=False, serializer=serializer)
        for namespace in (GAME, LOBBY):
            for event in ("connect", "disconnect", "connect_error"):
                self._sio.on(event, self._recorder_of(namespace, event), namespace=namespace)
            self._sio.on("question", self._answer, namespace=namespace)
            self._sio.on("*", self._any_event_of(namespace), namespace=namespace)

    def _note(self, *fields: Any) -> None:
        self._log.append((self.name, *fields))
        self._changed.set()

    def _recorder_of(self, namespace: str, event: str) -> Any:
        async def handler(*arguments: Any) -> None:
            self._note(namespace, event, *arguments)

        return handler

    def _any_event_of(self, namespace: str) -> Any:
        async def handler(event: str, *arguments: Any) -> None:
            self._note(namespace, event, *arguments)

        return handler

    async def _answer(self, question: Any) -> tuple[Any, str]:
        self._note("asked", question)
        return question, "yes"

    async def connect(self, serving: Serving, transport: str, *namespaces: str, role: str | None = None) -> None:
        auth = {"token": serving.tokens["omar"], "as": role or self.name}
        try:
            await self._sio.connect(
                serving.url,
                headers={"X-Game": "chess"},
                auth=auth,
                namespaces=list(namespaces),
                transports=[transport],
                wait_timeout=10,
            )
        except socketio.exceptions.ConnectionError as error:
            self._note("no connection", type(error).__name__)

    async def ask(self, event: str, data: Any = None, namespace: str = GAME) -> None:
        answer = await self._sio.call(event, data, namespace=namespace, timeout=DEADLINE_S)
        self._note(namespace, event, "answered", answer)

    async def send(self, event: str, namespace: str) -> None:
        await self._sio.emit(event, namespace=namespace)

    async def until(self, *fields: Any) -> None:
        """Wait until it has recorded these fields."""
        async with asyncio.timeout(DEADLINE_S):
            while (self.name, *fields) not in self._log:
                self._changed.clear()
                await self._changed.wait()

    async def leave(self) -> None:
        await self._sio.disconnect()


@asynccontextmanager
async def _recorders(log: dict[str, list[Any]], serializer: str, *names: str) -> AsyncIterator[list[Recorder]]:
    recorders = [Recorder(name, log.setdefault(name, []), serializer) for name in names]
    try:
        yield recorders
    finally:
        for recorder in recorders:
            await recorder.leave()


async def play(serving: Serving, transport: str, serializer: str) -> tuple[dict[str, list[Any]], list[Any]]:
    """Use every feature of the application; returns the log of each client, and the notes of the handlers."""
    log: dict[str, list[Any]] = {}
    game: Game = serving.installed
    async with _recorders(log, serializer, "ana", "bob", "eve") as (ana, bob, eve):
        await ana.connect(serving, transport, GAME, LOBBY)
        await bob.connect(serving, transport, GAME)
        await ana.until(GAME, "hello", {"to": "ana", "query": 1})
        await bob.until(GAME, "hello", {"to": "bob", "query": 1})
        await ana.ask("whoami")
        await ana.ask("rename", "anna ñ 🦉")
        await ana.ask("whoami")
        await ana.ask("join", "red")
        await bob.ask("join", "red")
        await ana.until(GAME, "joined", {"table": "red"})
        await bob.ask("join", "blue")
        await bob.ask("move", ("red", {"from": "e2", "to": ["e4", None, 1.5, True]}))
        await ana.until(GAME, "moved", "red", {"from": "e2", "to": ["e4", None, 1.5, True]})
        await bob.ask("shout", "hola")
        await ana.until(GAME, "shouted", "hola")
        await bob.until(GAME, "message", {"text": "hola"})
        await bob.ask("both", ("red", "blue"))
        await ana.until(GAME, "in either", {"once": True})
        await ana.ask("ask_me", [1, {"two": 2}])
        await ana.ask("ask_later")
        await game.until(1)
        await bob.ask("bytes", b"\x00\x01\xff")
        await bob.ask("nothing")
        await bob.until(GAME, "empty")
        await bob.ask("leave", "blue")
        await bob.ask("close", "red")
        await bob.ask("join", "green")
        await ana.ask("count", 3, LOBBY)
        await ana.send("go", LOBBY)
        await ana.until(LOBBY, "counted")
        await ana.ask("sync", (1, "two"), LOBBY)
        await ana.ask("sync", None, LOBBY)
        await ana.ask("whatever else", {"deep": [[]]}, LOBBY)
        # A stock client that is refused over polling waits for a poll that the stock server holds.
        for role in ("nobody", "banned") if transport == "websocket" else ():
            await eve.connect(serving, transport, GAME, role=role)
        await eve.connect(serving, transport, GAME)
        await eve.until(GAME, "hello", {"to": "eve", "query": 1})
        await eve.send("leave_game", GAME)
        await eve.until(GAME, "disconnect", "server disconnect")
        await asyncio.gather(bob.leave(), ana.leave())
    await game.until(5)
    return log, sorted(map(repr, game.notes))


@pytest.mark.parametrize(
    ("transport", "serializer"), [("websocket", "default"), ("polling", "default"), ("websocket", "msgpack")]
)
async def test_clients_see_the_same_on_tidings_as_on_a_stock_server(
    tmp_path: Path, transport: str, serializer: str
) -> None:
    async with on_stock(install, tmp_path, serializer=serializer, **HEARTBEAT) as serving:
        expected = await play(serving, transport, serializer)
    parser = {"default": "json", "msgpack": "msgpack"}[serializer]
    async with on_tidings(install, tmp_path, parser=parser, options={"engine": HEARTBEAT}) as serving:
        actual = await play(serving, transport, serializer)
    assert actual == expected
    assert sum(map(len, expected[0].values())) > 40
