"""The log: one line for each thing that happened, on standard error; JSON unless a person is looking on.

Lines say who, what, where and with what outcome; never a token, a password or what a message says. So nothing is
logged that a client wrote, unless it was checked to be the name of something that exists; and of an exception the
kind and where it was raised, but not its text, which may quote what it choked on (an `OSError` quotes the system).

Lines wait up to 20 ms for the ones behind them and are written together; from `warning` on nothing waits.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import secrets
import sys
import threading
import time
import traceback
from collections.abc import Callable, MutableMapping
from typing import Any, Final, Literal

import orjson
import structlog

Level = Literal["debug", "info", "warning", "error"]
Fields = MutableMapping[str, Any]
TOGETHER_S: Final = 0.02
MAX_LINES: Final = 1000
LIBRARIES: Final = logging.WARNING
"""Libraries are heard from here on, whatever the level: below it some of them tell addresses with their queries,
statements with their parameters, and frames."""


class Logs:
    """The log of one node. `on`: whether lines of the level `info` are written; look before you make one."""

    def __init__(
        self, level: Level = "info", *, write: Callable[[bytes], None] | None = None, pretty: bool | None = None
    ) -> None:
        """`write` takes whole lines, and may block; None: standard error. `pretty`: for people; None: if on a tty."""
        if pretty is None:
            pretty = write is None and sys.stderr.isatty()
        self._level: int = getattr(logging, level.upper())
        self.on = self._level <= logging.INFO
        self._write = _to_stderr if write is None else write
        self._lines: list[bytes] = []
        self._due = False
        self._flushing = threading.Lock()
        self._prefix, self._numbers = secrets.token_hex(4), itertools.count(1)
        self._second, self._clock = 0, ""
        self._log = structlog.wrap_logger(
            _Output(self),
            processors=[self._stamp, _pretty() if pretty else _json],
            wrapper_class=structlog.make_filtering_bound_logger(self._level),
            context_class=dict,
        ).bind()
        self.debug: Callable[..., None] = self._log.debug
        self.info: Callable[..., None] = self._log.info

    def request_id(self) -> str:
        """A new one; unlike any other of this and, very likely, every other node."""
        return f"{self._prefix}{next(self._numbers):06x}"

    def take_over(self) -> None:
        """Have all that this process logs by the standard library go here, too."""
        logging.captureWarnings(True)
        root = logging.getLogger()
        root.handlers[:] = [_Handler(self)]
        root.setLevel(max(self._level, LIBRARIES))
        logging.getLogger("tidings").setLevel(self._level)

    def record(self, record: logging.LogRecord) -> None:
        """Write what was logged by the standard library."""
        ours = record.name.startswith("tidings.")
        message = record.getMessage()
        fields: dict[str, Any] = {"logger": record.name}
        if request_id := getattr(record, "request_id", None):
            fields["request_id"] = request_id
        if record.exc_info and record.exc_info[1] is not None:
            fields |= told(record.exc_info[1])
        # What follows the first line is a library's own idea of a traceback.
        level = min(record.levelno // 10 * 10, logging.CRITICAL)
        self._log.log(level, message if ours else message.partition("\n")[0], **fields)

    def line(self, line: bytes, *, urgent: bool) -> None:
        self._lines.append(line)
        if urgent or len(self._lines) >= MAX_LINES:
            self.flush()
        elif not self._due:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                self.flush()
            else:
                self._due = True
                loop.call_later(TOGETHER_S, self.flush)

    def flush(self) -> None:
        """Write what waits."""
        with self._flushing:
            self._due = False
            lines, self._lines = self._lines, []
            if lines:
                self._write(b"".join(lines))

    def _stamp(self, _logger: object, method: str, fields: Fields) -> Fields:
        """Level and time, ISO 8601 in UTC."""
        now_ms = time.time_ns() // 1_000_000
        second = now_ms // 1000
        if second != self._second:
            self._clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = second
        fields["level"] = method
        fields["timestamp"] = f"{self._clock}.{now_ms % 1000:03}Z"
        return fields


class _Output:
    """What structlog calls with a line that is made."""

    def __init__(self, logs: Logs) -> None:
        self._logs = logs

    def info(self, line: bytes) -> None:
        self._logs.line(line, urgent=False)

    debug = info

    def error(self, line: bytes) -> None:
        self._logs.line(line, urgent=True)

    warning = critical = error


class _Handler(logging.Handler):
    def __init__(self, logs: Logs) -> None:
        super().__init__()
        self._logs = logs

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._logs.record(record)
        except Exception:
            self.handleError(record)


def told(error: BaseException) -> dict[str, Any]:
    """What is told of an exception: kinds, from the last to the first cause, and where the first was raised."""
    kinds: list[str] = []
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        first = cause
        kind = f"{type(cause).__module__}.{type(cause).__qualname__}".removeprefix("builtins.")
        kinds.append(f"{kind}: {cause}" if isinstance(cause, OSError) else kind)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    frames = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(first.__traceback__)]
    return {"exception": kinds, "at": frames}


def _json(_logger: object, _method: str, fields: Fields) -> bytes:
    return orjson.dumps(fields, default=repr, option=orjson.OPT_APPEND_NEWLINE)


def _pretty() -> Callable[[Any, str, Fields], bytes]:
    renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())

    def render(logger: Any, method: str, fields: Fields) -> bytes:
        return (renderer(logger, method, fields) + "\n").encode("utf-8", "replace")

    return render


def _to_stderr(data: bytes) -> None:
    """Who reads it slowly holds the node up; who is gone does not."""
    while data:
        try:
            data = data[os.write(2, data) :]
        except BlockingIOError:
            time.sleep(0.001)
        except OSError:
            return
