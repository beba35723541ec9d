"""The time that the servers of the kit see. It can be moved ahead, and is shared by all of them in the process.

The server reads the time in many modules, as `time.time()` and the like. So the name `time` in its modules, and the
clocks that are defaults of its constructors, are replaced by `Clock`. The timers of a server are those of its event
loop, which is a `ShiftedLoop`. Nothing else in the process sees another time.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any


class Clock:
    """The module `time`, ahead by some seconds."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.users = 0
        """Servers that run."""

    def leave(self) -> None:
        self.users -= 1
        if not self.users:
            self.ahead = 0.0

    def time(self) -> float:
        return time.time() + self.ahead

    def time_ns(self) -> int:
        return time.time_ns() + int(self.ahead * 1e9)

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def install(self) -> None:
        """Replace the clock in all modules of the server that are imported by now."""
        for name, module in list(sys.modules.items()):
            if name.startswith(("tidings.", "tidings_db.")) and not name.startswith("tidings.testing"):
                if vars(module).get("time") is time:
                    module.time = self  # type: ignore[attr-defined]
                for value in list(vars(module).values()):
                    if isinstance(value, type):
                        self._install_default(vars(value).get("__init__"))

    def _install_default(self, function: Any) -> None:
        clocks = {time.time: self.time, time.monotonic: self.monotonic}
        if defaults := getattr(function, "__kwdefaults__", None):
            function.__kwdefaults__ = {name: _replaced(value, clocks) for name, value in defaults.items()}
        if values := getattr(function, "__defaults__", None):
            function.__defaults__ = tuple(_replaced(value, clocks) for value in values)


def _replaced(value: Any, clocks: dict[Any, Any]) -> Any:
    return next((mine for known, mine in clocks.items() if value is known), value)


CLOCK = Clock()


class ShiftedLoop(asyncio.SelectorEventLoop):
    def time(self) -> float:
        return CLOCK.monotonic()
