"""The client library of Tidings: what was acknowledged arrives, in order, once, also for whoever was away.

async with tidings_client.connect(url, token=fresh_token, store="state.db") as client:
    room = await client.join("noticias")
    await room.send("Hola")
    async for message in room.messages():  # what was missed, then live; each once
        print(message.sender, message.content)
"""

from tidings.contract.models import Message
from tidings_client.client import Client, Connecting, Status, connect
from tidings_client.contract import (
    Conflict,
    Forbidden,
    Internal,
    Invalid,
    NotFound,
    RateLimited,
    TokenExpired,
    TokenRevoked,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UnknownAction,
)
from tidings_client.errors import (
    Closed,
    InvalidEvent,
    NotConnected,
    Offline,
    ProtocolError,
    Refused,
    StoreFailed,
    StoreInUse,
    StoreOfAnother,
    TidingsError,
)
from tidings_client.events import ApplicationEvent
from tidings_client.files import File, UnsentFile
from tidings_client.outbox import Unsent
from tidings_client.rooms import Room
from tidings_client.stores import Entry, SQLiteStore, Store
from tidings_client.streams import MessageStream
from tidings_client.timeline import Item, Timeline

__all__ = [
    "ApplicationEvent",
    "Client",
    "Closed",
    "Conflict",
    "Connecting",
    "Entry",
    "File",
    "Forbidden",
    "Internal",
    "Invalid",
    "InvalidEvent",
    "Item",
    "Message",
    "MessageStream",
    "NotConnected",
    "NotFound",
    "Offline",
    "ProtocolError",
    "RateLimited",
    "Refused",
    "Room",
    "SQLiteStore",
    "Status",
    "Store",
    "StoreFailed",
    "StoreInUse",
    "StoreOfAnother",
    "TidingsError",
    "Timeline",
    "TokenExpired",
    "TokenRevoked",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
    "UnknownAction",
    "Unsent",
    "UnsentFile",
    "connect",
]
