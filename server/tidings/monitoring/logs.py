"""The log: one line per event, on standard error, as JSON or, on a terminal, as text.

A line has the user, the action, the room and the outcome, but never a token, a password or the content of a message.
So text from a client is logged only if it is known to be the name of something that exists. Of an exception, the type
and the frames are logged, but not its text, which may quote input; only the text of an `OSError` is the system's.

Lines are collected for up to 20 ms and written together. From the level `warning` on they are written immediately.
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
from collections import deque
from collections.abc import Callable, MutableMapping
from typing import Any, Final, Literal

import orjson
import structlog

Level = Literal["debug", "info", "warning", "error"]
LogFields = MutableMapping[str, Any]
BATCH_S: Final = 0.02
MAX_LINES: Final = 1000
MAX_WRITE: Final = 4096
"""Bytes of one write. A pipe takes so many whole (PIPE_BUF), so the lines of several processes do not mix."""
MAX_FRAMES: Final = 20
"""Frames of an exception that are logged: the innermost ones."""
LIBRARIES: Final = logging.WARNING
"""The lowest level of records of libraries: below it, some log addresses with queries, parameters of statements, and
frames."""


class Logs:
    """The log of one node. `on`: whether the level `info` is enabled; check it before building a line."""

    def __init__(
        self, level: Level = "info", *, write: Callable[[bytes], None] | None = None, pretty: bool | None = None
    ) -> None:
        """
        Args:
            write: called with whole lines, and may block; None: writes to standard error.
            pretty: text for people instead of JSON; None: if standard error is a terminal.
        """
        if pretty is None:
            pretty = write is None and sys.stderr.isatty()
        self._level: int = getattr(logging, level.upper())
        self.on = self._level <= logging.INFO
        self.node = ""
        """The name of the node, in each line; empty: none."""
        self._write = _to_stderr if write is None else write
        self._lines: deque[bytes] = deque()
        """Any thread appends to it. It is never replaced: a line appended to a replaced deque would be lost."""
        self._flush_scheduled = False
        self._flushing = threading.Lock()
        self._prefix, self._numbers = secrets.token_hex(4), itertools.count(1)
        self._second, self._clock = 0, ""
        self._log = structlog.wrap_logger(
            _Output(self),
            processors=[self._stamp, self._sign, _pretty() if pretty else _json],
            wrapper_class=structlog.make_filtering_bound_logger(self._level),
            context_class=dict,
        ).bind()
        self.debug: Callable[..., None] = self._log.debug
        self.info: Callable[..., None] = self._log.info

    def request_id(self) -> str:
        """A new request id, unique in this node and very likely among all nodes."""
        return f"{self._prefix}{next(self._numbers):06x}"

    def take_over(self) -> None:
        """Redirect the logging of the standard library, and warnings, to this log."""
        logging.captureWarnings(True)
        root = logging.getLogger()
        root.handlers[:] = [_Handler(self)]
        root.setLevel(max(self._level, LIBRARIES))
        logging.getLogger("tidings").setLevel(self._level)

    def record(self, record: logging.LogRecord) -> None:
        """Write a record of the standard library's logging."""
        is_tidings = record.name.startswith("tidings.")
        message = record.getMessage()
        fields: dict[str, Any] = {"logger": record.name}
        if request_id := getattr(record, "request_id", None):
            fields["request_id"] = request_id
        if record.exc_info and record.exc_info[1] is not None:
            fields |= exception_fields(record.exc_info[1])
        # Some libraries append a formatted traceback to the message: only its first line is logged.
        level = min(record.levelno // 10 * 10, logging.CRITICAL)
        self._log.log(level, message if is_tidings else message.partition("\n")[0], **fields)

    def line(self, line: bytes, *, urgent: bool) -> None:
        self._lines.append(line)
        if urgent or len(self._lines) >= MAX_LINES:
            self.flush()
        elif not self._flush_scheduled:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                self.flush()
            else:
                self._flush_scheduled = True
                loop.call_later(BATCH_S, self.flush)

    def flush(self) -> None:
        """Write the collected lines."""
        with self._flushing:
            self._flush_scheduled = False  # before taking the lines, so that a later line schedules its own flush
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            if lines:
                self._write(b"".join(lines))

    def _stamp(self, _logger: object, method: str, fields: LogFields) -> LogFields:
        """Add the level and the time, ISO 8601 in UTC."""
        now_ms = time.time_ns() // 1_000_000
        second = now_ms // 1000
        if second != self._second:
            self._clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = second
        fields["level"] = method
        fields["timestamp"] = f"{self._clock}.{now_ms % 1000:03}Z"
        return fields

    def _sign(self, _logger: object, _method: str, fields: LogFields) -> LogFields:
        if self.node:
            fields["node"] = self.node
        return fields


class _Output:
    """Receives encoded lines from structlog."""

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


def exception_fields(error: BaseException) -> dict[str, Any]:
    """Log fields of an exception: the types, from the exception to its root cause, and the frames of that cause."""
    kinds: list[str] = []
    visited: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in visited:
        visited.add(id(cause))
        root = cause
        kind = f"{type(cause).__module__}.{type(cause).__qualname__}".removeprefix("builtins.")
        kinds.append(f"{kind}: {cause}" if isinstance(cause, OSError) else kind)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    frames = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(root.__traceback__)]
    return {"exception": kinds, "at": frames[-MAX_FRAMES:]}


def _json(_logger: object, _method: str, fields: LogFields) -> bytes:
    return orjson.dumps(fields, default=repr, option=orjson.OPT_APPEND_NEWLINE)


def _pretty() -> Callable[[Any, str, LogFields], bytes]:
    renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())

    def render(logger: Any, method: str, fields: LogFields) -> bytes:
        return (renderer(logger, method, fields) + "\n").encode("utf-8", "replace")

    return render


def _to_stderr(data: bytes) -> None:
    """Write lines to standard error. A slow reader delays the node; a closed pipe does not."""
    while data:
        end = len(data)
        if end > MAX_WRITE:  # whole lines, or one that is longer
            end = data.rfind(b"\n", 0, MAX_WRITE) + 1 or data.find(b"\n") + 1 or end
        try:
            data = data[os.write(2, data[:end]) :]
        except BlockingIOError:
            time.sleep(0.001)
        except OSError:
            return
