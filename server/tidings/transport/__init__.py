"""Engine.IO v4 on ASGI: sessions, polling, WebSocket, heartbeat, back pressure."""
