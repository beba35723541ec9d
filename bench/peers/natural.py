"""Peer (c): python-socketio + SQLModel + aiosqlite, as their documentation shows it.

A session and a commit per message; WAL, and SQLite's own `synchronous=FULL`. Writers wait for each other here rather
than in SQLite, whose busy handler sleeps: without the lock, the same server is slower.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from datetime import UTC, datetime
from typing import Any

import socketio
from serving import claims_of, serve
from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import Field, SQLModel, col, select, update
from sqlmodel.ext.asyncio.session import AsyncSession


class Room(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    room_id: str = Field(unique=True)
    last_seq: int = 0


class Member(SQLModel, table=True):
    username: str = Field(primary_key=True)
    room_key: int = Field(primary_key=True, foreign_key="room.id")


class Message(SQLModel, table=True):
    room_key: int = Field(primary_key=True, foreign_key="room.id")
    seq: int = Field(primary_key=True)
    id: str
    sender: str
    content: str
    created_at: int


class MessageRequest(SQLModel):
    room_id: str
    content: str = Field(min_length=1, max_length=16384)


engine = create_async_engine(f"sqlite+aiosqlite:///{os.environ['PEER_DATABASE']}")
writing = asyncio.Lock()
sio = socketio.AsyncServer(async_mode="asgi", transports=["websocket"])


@event.listens_for(engine.sync_engine, "connect")
def use_wal(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.close()


@sio.event
async def connect(sid: str, environ: dict[str, Any], auth: dict[str, Any]) -> None:
    claims = claims_of(auth)
    username = claims["sub"]
    async with AsyncSession(engine) as session:
        statement = select(Room).join(Member).where(Member.username == username)
        rooms = {room.room_id: room.id for room in await session.exec(statement)}
    for room_id in rooms:
        await sio.enter_room(sid, room_id)
    await sio.save_session(sid, {"username": username, "rooms": rooms})
    await sio.emit("ready", {"username": username}, to=sid)


@sio.event
async def message(sid: str, data: dict[str, Any]) -> dict[str, Any]:
    try:
        request = MessageRequest.model_validate(data)
    except ValueError as problem:
        return {"ok": False, "error": {"code": "invalid", "message": str(problem)}}
    client = await sio.get_session(sid)
    key = client["rooms"].get(request.room_id)
    if key is None:
        return {"ok": False, "error": {"code": "not_found", "message": "no such room"}}
    now = time.time_ns() // 1_000_000
    async with writing, AsyncSession(engine) as session:
        counter = await session.exec(
            update(Room).where(Room.id == key).values(last_seq=Room.last_seq + 1).returning(col(Room.last_seq))
        )
        row = Message(
            room_key=key,
            seq=counter.scalar_one(),
            id=str(uuid.uuid4()),
            sender=client["username"],
            content=request.content,
            created_at=now,
        )
        view = {
            "id": row.id,
            "room_id": request.room_id,
            "seq": row.seq,
            "sender": row.sender,
            "content": row.content,
            "created_at": datetime.fromtimestamp(now / 1000, UTC).isoformat(timespec="milliseconds"),
        }
        session.add(row)
        await session.commit()
        await sio.emit("message", view, room=request.room_id)
    return {"ok": True, "data": view}


if __name__ == "__main__":
    serve(sio)
