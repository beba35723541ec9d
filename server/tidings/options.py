"""What tests and applications built on Tidings can change of a node, besides its settings."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tidings.auth import BCRYPT_ROUNDS
from tidings.cluster.broker import Broker
from tidings.cluster.feed import POLL_S
from tidings.cluster.registry import LEASE_S
from tidings.fanout.hub import HEAD_CHECK_S
from tidings.fanout.presence import PRESENCE_S
from tidings.fanout.publisher import Publisher
from tidings.fanout.session_check import SESSION_CHECK_S
from tidings.fanout.typing import TYPING_S
from tidings.log.epochs import MARK_S
from tidings.log.retention import RETENTION_S
from tidings.logging_setup import Logs
from tidings.timers import GetTimers


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeOptions:
    """Options for tests and for applications built on Tidings: another broker, other intervals (in seconds)."""

    broker: Broker | None = None
    """In place of the one that the settings choose; only on PostgreSQL."""
    publisher: Publisher | None = None
    logs: Logs | None = None
    bcrypt_rounds: int = BCRYPT_ROUNDS
    session_check_s: float = SESSION_CHECK_S
    head_check_s: float = HEAD_CHECK_S
    typing_s: float = TYPING_S
    presence_s: float = PRESENCE_S
    retention_s: float = RETENTION_S
    mark_s: float = MARK_S
    lease_s: float = LEASE_S
    poll_s: float = POLL_S
    timers: GetTimers = asyncio.get_running_loop
    """Those of sign-ins, heartbeats, expiring tokens, and typing."""
    engine: Mapping[str, Any] = field(default_factory=dict)
    """Options of the Socket.IO gateway (`connect_timeout`, `ping_interval`)."""
    websocket: Mapping[str, Any] = field(default_factory=dict)
    """Options of the WebSocket gateways, those of the dialects included."""
    echo: Mapping[str, float] = field(default_factory=dict)
    """Options of the echo channel (`answer_s`, `idle_s`)."""
