"""Checks that the files of an open SQLite database are still in place and complete.

SQLite does not check this. It keeps writing to a removed or replaced file, whose commits are lost when the last
connection is closed, and it appends to a truncated log as if the rest were still there.
"""

from __future__ import annotations

import os
from pathlib import Path

_MAGIC = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
"""The first bytes of a log (sqlite.org/fileformat2.html, section 4.1)."""


class FilesAway(Exception):
    """A file is missing or replaced. `only_log`: only the log, not the database itself."""

    def __init__(self, message: str, *, only_log: bool) -> None:
        super().__init__(message)
        self.only_log = only_log


class LogCut(Exception):
    """The write-ahead log was truncated. `emptied`: completely, as a checkpoint may do."""

    def __init__(self, message: str, *, emptied: bool) -> None:
        super().__init__(message)
        self.emptied = emptied


class Files:
    """The three files of an open database."""

    def __init__(self, database: Path) -> None:
        """Raises `OSError` if one is missing."""
        self._log = f"{database}-wal"
        self._identities = {path: _identity(os.stat(path)) for path in (str(database), self._log, f"{database}-shm")}
        self._log_size = 0

    def check(self) -> None:
        """Check the files, in some microseconds. Raises `FilesAway` or `LogCut`."""
        away, log_size = [], -1
        for path, identity in self._identities.items():
            try:
                status = os.stat(path)
            except OSError as error:
                away.append(f"{path}: {error.strerror}")
                continue
            if _identity(status) != identity:
                away.append(f"{path} is another file now")
            elif path == self._log:
                log_size = status.st_size
        if away:
            raise FilesAway("; ".join(away), only_log=len(away) == 1 and away[0].startswith(self._log))
        if log_size < self._log_size or (log_size and not self._has_head()):
            raise LogCut(f"{self._log} has been cut while it was open", emptied=not log_size)
        self._log_size = log_size

    def log_was_emptied(self) -> None:
        """Note that a checkpoint has emptied the log."""
        self._log_size = 0

    def _has_head(self) -> bool:
        try:
            with open(self._log, "rb") as file:  # closing it drops no lock: SQLite holds none on this file
                return file.read(4) in _MAGIC
        except OSError:
            return False


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
