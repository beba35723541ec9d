"""The interface of the engine in C, which is compiled at its first use."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("engine.c")
CACHE = Path(__file__).resolve().parents[2] / ".cache" / "bench"
FLAGS = ("-O2", "-shared", "-fPIC", "-std=gnu11")

_int, _text, _double = ctypes.c_int, ctypes.c_char_p, ctypes.c_double
_handle, _ns = ctypes.c_void_p, ctypes.c_uint64


class EngineError(Exception):
    """The engine received something that it cannot count, or a count is wrong; the run is void."""


class NoCompiler(Exception):
    """The load generator cannot be compiled."""


class Counters(ctypes.Structure):
    """Totals since the engine was created; `struct counters` in engine.c."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "messages",
            "bytes",
            "reads",
            "acks",
            "refused",
            "heartbeats",
            "events",
            "opened",
            "in_flight",
        )
    ]

    def snapshot(self) -> dict[str, int]:
        return {name: getattr(self, name) for name, _ in self._fields_}


_INTERFACE: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "engine_new": (_handle, ()),
    "engine_free": (None, (_handle,)),
    "engine_add": (_int, (_handle, _int, _text)),
    "engine_open": (_int, (_handle, _int, _double)),
    "engine_close": (None, (_handle, _int)),
    "engine_sender": (_int, (_handle, _int, _int)),
    "engine_slot": (_int, (_handle, _int, _text, _text, _int)),
    "engine_window": (None, (_handle, _int, _int)),
    "engine_sample": (None, (_handle, _int)),
    "engine_sending": (None, (_handle, _int)),
    "engine_recording": (None, (_handle, _int)),
    "engine_run": (_int, (_handle, _double)),
    "engine_counters": (ctypes.POINTER(Counters), (_handle,)),
    "engine_error": (_text, (_handle,)),
    "engine_refusal": (_text, (_handle,)),
    "engine_received": (_ns, (_handle, _int)),
    "engine_acked": (_ns, (_handle, _int)),
    "engine_opened_in": (_ns, (_handle, _int)),
    "engine_quantile": (_double, (_handle, _int, _double)),
}


def library() -> Path:
    """The compiled engine. Raises `NoCompiler`."""
    compiled = CACHE / f"engine-{hashlib.sha256(SOURCE.read_bytes() + repr(FLAGS).encode()).hexdigest()[:16]}.so"
    if not compiled.exists():
        compiler = shutil.which(os.environ.get("CC", "cc"))
        if compiler is None:
            raise NoCompiler("the load generator is compiled with cc, and there is none")
        CACHE.mkdir(parents=True, exist_ok=True)
        partial = compiled.with_suffix(f".{os.getpid()}")
        subprocess.run([compiler, *FLAGS, "-o", partial, SOURCE], check=True)
        partial.replace(compiled)
    return compiled


class Engine:
    """Connections to ports of the loopback address. Every method raises `EngineError` once the engine failed."""

    def __init__(self) -> None:
        self._lib = ctypes.CDLL(str(library()))
        for name, (result, arguments) in _INTERFACE.items():
            function = getattr(self._lib, name)
            function.restype, function.argtypes = result, arguments
        self._engine = self._lib.engine_new()
        if not self._engine:
            raise MemoryError
        self.counters: Counters = self._lib.engine_counters(self._engine).contents

    def add(self, port: int, auth: str) -> int:
        """Add a connection to a port, which sends `40{auth}` when it is opened; returns its number."""
        return int(self._lib.engine_add(self._engine, port, f"40{auth}".encode()))

    def open(self, at_once: int = 32, timeout: float = 60.0) -> None:
        """Open every connection not opened yet, `at_once` at a time, until each is `ready`."""
        self._checked(self._lib.engine_open(self._engine, at_once, timeout))

    def close_connection(self, connection: int) -> None:
        self._lib.engine_close(self._engine, connection)

    def sender(self, connection: int, window: int) -> None:
        """Let a connection keep `window` actions in flight. Add its slots before the next sender."""
        self._checked(self._lib.engine_sender(self._engine, connection, window))

    def slot(self, connection: int, before: str, after: str = "", content: int = 0) -> int:
        """Add an action that the sender sends in turn with its other slots: `before`, `content` characters, `after`.

        Returns the slot's number. The engine writes 32 characters of the content.
        """
        return int(self._lib.engine_slot(self._engine, connection, before.encode(), after.encode(), content))

    def window(self, connection: int, window: int) -> None:
        self._lib.engine_window(self._engine, connection, window)

    def sample(self, connection: int) -> None:
        self._lib.engine_sample(self._engine, connection)

    def sending(self, on: bool) -> None:
        self._lib.engine_sending(self._engine, on)

    def recording(self, on: bool) -> None:
        """Begin new latency histograms, or stop recording into them."""
        self._lib.engine_recording(self._engine, on)

    def run(self, seconds: float) -> None:
        self._checked(self._lib.engine_run(self._engine, seconds))

    def received(self, connection: int) -> int:
        """Messages that the connection has received."""
        return int(self._lib.engine_received(self._engine, connection))

    def acked(self, slot: int) -> int:
        return int(self._lib.engine_acked(self._engine, slot))

    def opened_in(self, connection: int) -> float:
        """Seconds from the first packet of the TCP connection to `ready`."""
        return float(self._lib.engine_opened_in(self._engine, connection)) / 1e9

    def latency(self, share: float) -> float:
        """A quantile, in ms, of the time from sending to arrival on the sampled connections."""
        return float(self._lib.engine_quantile(self._engine, 0, share)) / 1e6

    def ack_latency(self, share: float) -> float:
        """A quantile, in ms, of the time from sending to the acknowledgement."""
        return float(self._lib.engine_quantile(self._engine, 1, share)) / 1e6

    def near_latency(self, share: float) -> float:
        """Like `latency`, where the sender and the receiver are connected to the same port; 0 if there are none."""
        return float(self._lib.engine_quantile(self._engine, 2, share)) / 1e6

    def far_latency(self, share: float) -> float:
        """Like `latency`, where the sender and the receiver are connected to different ports; 0 if there are none."""
        return float(self._lib.engine_quantile(self._engine, 3, share)) / 1e6

    @property
    def refusal(self) -> str:
        """The first acknowledgement that was not ok."""
        return bytes(self._lib.engine_refusal(self._engine)).decode(errors="replace")

    def close(self) -> None:
        if self._engine:
            self._lib.engine_free(self._engine)
            self._engine = None

    def _checked(self, status: int) -> None:
        if status:
            raise EngineError(bytes(self._lib.engine_error(self._engine)).decode(errors="replace"))
