"""The log of failing handlers, which clients can call as often as they like."""

from __future__ import annotations

import logging
from collections.abc import Hashable
from functools import partial
from typing import Final

from tidings.transport.timers import GetTimers

REPEATED_S: Final = 10.0
"""A failure at the same line of code is logged once in so many seconds, and then how often it was repeated."""


class FailureLog:
    def __init__(self, logger: logging.Logger, timers: GetTimers) -> None:
        self._logger = logger
        self._timers = timers
        self._repeats: dict[Hashable, int] = {}

    def log(self, error: Exception, text: str, *arguments: object) -> None:
        """Log a failure with its traceback; if that was done lately, only count it."""
        line = _line_of(error)
        if line in self._repeats:
            self._repeats[line] += 1
            return
        self._logger.error(text, *arguments, exc_info=error)
        self._repeats[line] = 0
        timers = self._timers()
        timers.call_at(timers.time() + REPEATED_S, partial(self._log_repeats, line, text, arguments))

    def _log_repeats(self, line: Hashable, text: str, arguments: tuple[object, ...]) -> None:
        repeats = self._repeats.pop(line)
        if repeats:
            self._logger.error(text + ", and %d more times in %g s", *arguments, repeats, REPEATED_S)


def _line_of(error: Exception) -> Hashable:
    """Where an error was raised."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return type(error), None if traceback is None else (traceback.tb_frame.f_code, traceback.tb_lineno)
