"""What the peers on python-socketio have in common: whom they let in, and how they serve."""

from __future__ import annotations

import os
import sys
from typing import Any

import jwt
import socketio
import uvicorn


def claims_of(auth: dict[str, Any]) -> Any:
    """The claims of a handshake's token. Raises `ConnectionRefusedError` without a valid one."""
    try:
        return jwt.decode(
            auth["token"], os.environ["PEER_SECRET"], algorithms=["HS256"], issuer="tidings", audience="tidings"
        )
    except (jwt.InvalidTokenError, KeyError, TypeError):
        raise socketio.exceptions.ConnectionRefusedError("no valid token") from None


class _Server(uvicorn.Server):
    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        print(f"listening on http://127.0.0.1:{port}", flush=True)


def serve(sio: socketio.AsyncServer) -> None:
    """Serve until a signal ends it; the output names the port."""
    _Server(
        uvicorn.Config(
            socketio.ASGIApp(sio),
            host="127.0.0.1",
            port=int(os.environ.get("PORT", "0")),
            log_level="warning",
            ws_per_message_deflate=False,
        )
    ).run()
    sys.exit(0)
