"""An application on python-socketio's documented interface, for a stock server and for Tidings."""

from __future__ import annotations

import asyncio
from typing import Any

import socketio

GAME, LOBBY = "/game", "/lobby"


class Game(socketio.AsyncNamespace):  # type: ignore[misc]
    """A class-based namespace; `notes` records what only the server sees."""

    def __init__(self, notes: list[Any]) -> None:
        super().__init__(GAME)
        self.notes = notes
        self.changed = asyncio.Event()

    async def on_connect(self, sid: str, environ: dict[str, Any], auth: dict[str, Any]) -> bool | None:
        if auth.get("as") == "nobody":
            return False
        if auth.get("as") == "banned":
            raise socketio.exceptions.ConnectionRefusedError("banned", {"until": "tomorrow"})
        async with self.session(sid) as session:
            session["name"] = auth["as"]
            session["agent"] = environ["HTTP_X_GAME"]
        await self.emit("hello", {"to": auth["as"], "query": environ["QUERY_STRING"].count("EIO=4")}, to=sid)
        return None

    async def on_disconnect(self, sid: str, reason: str) -> None:
        self.note("gone", (await self.get_session(sid))["name"], reason, self.rooms(sid) == [sid])

    def note(self, *fields: Any) -> None:
        self.notes.append(fields)
        self.changed.set()

    async def until(self, count: int) -> None:
        """Wait until the handlers have made `count` notes."""
        async with asyncio.timeout(20):
            while len(self.notes) < count:
                self.changed.clear()
                await self.changed.wait()

    async def on_whoami(self, sid: str) -> dict[str, Any]:
        session = await self.get_session(sid)
        return {"name": session["name"], "agent": session["agent"]}

    async def on_rename(self, sid: str, name: str) -> None:
        await self.save_session(sid, {"name": name, "agent": "none"})

    async def on_join(self, sid: str, table: str) -> list[str]:
        await self.enter_room(sid, table)
        await self.emit("joined", {"table": table}, room=table, skip_sid=sid)
        return sorted(room for room in self.rooms(sid) if room != sid)

    async def on_leave(self, sid: str, table: str) -> int:
        await self.leave_room(sid, table)
        return len(self.rooms(sid))

    async def on_move(self, sid: str, table: str, move: Any) -> tuple[str, int]:
        await self.emit("moved", (table, move), room=table)
        return "ok", 7

    async def on_shout(self, sid: str, text: str) -> None:
        await self.emit("shouted", text)
        await self.send({"text": text}, room=sid)

    async def on_close(self, sid: str, table: str) -> str:
        await self.close_room(table)
        await self.emit("unheard", room=table)
        return "closed"

    async def on_both(self, sid: str, first: str, second: str) -> None:
        await self.emit("in either", {"once": True}, room=[first, second])

    async def on_ask_me(self, sid: str, question: Any) -> Any:
        return {"answer": await self.call("question", question, to=sid, timeout=10)}

    async def on_ask_later(self, sid: str) -> None:
        def answered(*answer: Any) -> None:
            self.note("answered", answer)

        await self.emit("question", "later?", to=sid, callback=answered)

    async def on_bytes(self, sid: str, data: bytes) -> list[bytes]:
        await self.emit("picture", {"png": data, "of": [data[::-1]]}, to=sid)
        return [data + b"!", data]

    async def on_nothing(self, sid: str) -> None:
        await self.emit("empty", to=sid)

    async def on_leave_game(self, sid: str) -> None:
        await self.disconnect(sid)


def install(sio: socketio.AsyncServer) -> Game:
    """Register the application; returns its namespace."""
    game = Game([])
    sio.register_namespace(game)

    @sio.on("connect", namespace=LOBBY)
    async def connect(sid: str, environ: dict[str, Any], auth: Any) -> None:
        await sio.enter_room(sid, "all", namespace=LOBBY)

    go = asyncio.Event()

    @sio.on("go", namespace=LOBBY)
    def begin(sid: str) -> None:
        go.set()

    @sio.event(namespace=LOBBY)
    async def count(sid: str, up_to: int) -> str:
        async def counting() -> None:
            await go.wait()
            for number in range(up_to):
                await sio.sleep(0)
                await sio.emit("number", number, to=sid, namespace=LOBBY)
            await sio.emit("counted", namespace=LOBBY, room="all")

        sio.start_background_task(counting)
        return "counting"

    @sio.on("sync", namespace=LOBBY)
    def sync(sid: str, *arguments: Any) -> list[Any]:
        return [len(arguments), *arguments]

    @sio.on("*", namespace=LOBBY)
    async def anything(event: str, sid: str, data: Any) -> dict[str, Any]:
        return {"event": event, "data": data, "transport": sio.transport(sid, namespace=LOBBY)}

    @sio.on("disconnect", namespace=LOBBY)
    async def gone(sid: str) -> None:
        game.note("left the lobby")

    return game
