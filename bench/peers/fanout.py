"""Peer (e): python-socketio's own broadcast, to several nodes through Redis. Nothing is kept.

Messages of a client are handled one after the other: its manager publishes over a pool of connections, so messages
that are handled concurrently would overtake each other on the way to the other node.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from itertools import count
from typing import Any

import socketio
from serving import claims_of, serve

numbers = count(1)
sio = socketio.AsyncServer(
    async_mode="asgi",
    transports=["websocket"],
    async_handlers=False,
    client_manager=socketio.AsyncRedisManager(f"unix://{os.environ['PEER_REDIS']}"),
)


@sio.event
async def connect(sid: str, environ: dict[str, Any], auth: dict[str, Any]) -> None:
    claims = claims_of(auth)
    for room_id in claims["rooms"]:
        await sio.enter_room(sid, room_id)
    await sio.save_session(sid, {"username": claims["sub"], "rooms": set(claims["rooms"])})
    await sio.emit("ready", {"username": claims["sub"]}, to=sid)


@sio.event
async def message(sid: str, data: dict[str, Any]) -> dict[str, Any]:
    room_id, content = data.get("room_id"), data.get("content")
    if not isinstance(content, str) or not 1 <= len(content) <= 16384:
        return {"ok": False, "error": {"code": "invalid", "message": "not a message"}}
    client = await sio.get_session(sid)
    if room_id not in client["rooms"]:
        return {"ok": False, "error": {"code": "not_found", "message": "no such room"}}
    view = {
        "id": str(next(numbers)),
        "room_id": room_id,
        "sender": client["username"],
        "content": content,
        "created_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }
    await sio.emit("message", view, room=room_id)
    return {"ok": True, "data": view}


if __name__ == "__main__":
    serve(sio)
