"""The folder for the files of the tests: in memory, if there is room."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

FREE_BYTES = 4 * 1024**3
"""Free memory required for using it: a container often has 64 MiB."""


def folder_in_memory() -> Path | None:
    """A folder in memory with room for the tests' files, or None.

    Databases there need no disk syncs, for which a test would mostly wait.
    """
    folder = Path("/dev/shm")
    with suppress(OSError):
        if os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > FREE_BYTES:
            return folder
    return None
