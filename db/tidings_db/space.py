"""Reserved disk space for a full disk.

A reserve is a file next to a SQLite database. When the disk is full, the reserve is deleted, so that the database can
still be opened, and sessions and devices be written, until there is space again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from pathlib import Path

from tidings_db.failures import NO_SPACE, StoreUnavailable, is_full

logger = logging.getLogger("tidings.db")

RESERVE_BYTES = 8 * 1024 * 1024
"""Enough to checkpoint a log of the usual length, after which the log's space is reused."""
SMALL_DISK = 8
"""On a small disk, the reserve is one part in this many of the disk."""
SPACE_S = 1.0
"""Interval of the checks whether a full disk has space again."""


class Reserve:
    def __init__(self, database: Path) -> None:
        self._path = f"{database}-reserve"

    def make(self) -> bool:
        """Create the reserve if it is missing. Returns False if the disk does not have twice its size free."""
        if os.path.exists(self._path):
            return True
        try:
            free, size = _free_and_size(self._path)
            if free < 2 * size:
                return False
            with open(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600), "wb") as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)
                else:
                    file.write(bytes(size))
        except OSError:
            self.delete()
            return False
        return True

    def delete(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    def delete_if_full(self) -> None:
        """Delete the reserve if the disk is full. To be called before the database is opened, which needs space."""
        with contextlib.suppress(OSError):
            free, size = _free_and_size(self._path)
            if free < size:
                self.delete()


class Space:
    """The reserve of an open database, and whether the disk is full."""

    def __init__(self, database: Path) -> None:
        self._reserve = Reserve(database)
        self._checked_at = -SPACE_S
        """Time of the last check of a full disk; monotonic."""
        self.full = not self._reserve.make()
        if self.full:
            logger.error("%s: only sessions and devices are written", NO_SPACE)

    def note(self, error: BaseException) -> bool:
        """Delete the reserve if the error means that the disk is full. Returns whether it was deleted now."""
        if self.full or not is_full(error):
            return False
        self._reserve.delete()
        self.full, self._checked_at = True, -SPACE_S
        logger.error("%s: only sessions and devices are written until there is space again", NO_SPACE)
        return True

    def check(self) -> None:
        """Raises `StoreUnavailable` if the disk is still full."""
        if not self.full:
            return
        if time.monotonic() - self._checked_at < SPACE_S or not self._recheck():
            raise StoreUnavailable(NO_SPACE, reason=NO_SPACE)
        logger.warning("there is space on the disk again")

    def _recheck(self) -> bool:
        self._checked_at = time.monotonic()
        self.full = not self._reserve.make()
        return not self.full


def _free_and_size(path: str) -> tuple[int, int]:
    """Free bytes on the disk of a file, and the size of a reserve there. Raises `OSError`."""
    disk = os.statvfs(os.path.dirname(path) or ".")
    return disk.f_bavail * disk.f_frsize, min(RESERVE_BYTES, disk.f_blocks * disk.f_frsize // SMALL_DISK)
