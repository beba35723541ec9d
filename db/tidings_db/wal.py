"""Repairs of SQLite's write-ahead log and database file after a failed sync, which SQLite itself does not make.

When a sync fails, Linux marks the pages clean: they are not on the disk, and no later sync writes them. But SQLite
assumes that a successful sync covers everything written before it. The functions here restore that assumption;
`tidings_db.sqlite` describes when they are needed.

Format of the log: sqlite.org/fileformat2.html, section 4. Frames are numbered from 1.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import sys
from pathlib import Path

_HEADER, _FRAME = 32, 24
_CHUNK = 1 << 20
# The bytes of the file that SQLite's connections lock (its os.h).
_SHARED_FIRST, _SHARED_SIZE = 0x40000002, 510


class Log:
    """The `-wal` file of an open database. SQLite takes no locks on it, so a second descriptor does no harm."""

    def __init__(self, database: Path) -> None:
        """Raises `OSError` if the log is missing."""
        self._database = database
        self._fd = os.open(f"{database}-wal", os.O_RDWR | os.O_CLOEXEC)
        self._file: int | None = None

    def close(self) -> None:
        os.close(self._fd)

    def length(self) -> tuple[bytes, int]:
        """The log's salt, which changes whenever SQLite restarts the log in the same file, and its number of frames.

        Frames of a transaction that was rolled back may be counted until they are overwritten.
        """
        header = os.pread(self._fd, _HEADER, 0)
        if len(header) < _HEADER:
            return b"", 0
        salt, size = header[16:24], _FRAME + _page_size(header)
        # The file has the frames of this log, then those of a longer previous one. Binary search for the border.
        last, beyond = 0, (os.fstat(self._fd).st_size - _HEADER) // size + 1
        while beyond - last > 1:
            middle = (last + beyond) // 2
            if os.pread(self._fd, 8, _HEADER + (middle - 1) * size + 8) == salt:
                last = middle
            else:
                beyond = middle
        return salt, last

    def renew(self) -> None:
        """Rewrite the log unchanged, and sync it, so that the disk gets the pages of a failed sync.

        No connection may write to the database meanwhile. Raises `OSError`.
        """
        offset = 0
        while chunk := os.pread(self._fd, _CHUNK, offset):
            _write(self._fd, chunk, offset)
            offset += len(chunk)
        os.fdatasync(self._fd)

    def redo(self, frames: int) -> None:
        """Repeat the checkpoint of the first `frames` frames: write their pages to the database, and sync it.

        No connection may write to the database or checkpoint it meanwhile. Raises `OSError`.
        """
        header = os.pread(self._fd, _HEADER, 0)
        page_size = _page_size(header)
        newest: dict[int, int] = {}
        pages = 0
        for frame in range(frames):
            offset = _HEADER + frame * (_FRAME + page_size)
            page, committed = struct.unpack(">II", os.pread(self._fd, 8, offset))
            newest[page] = offset + _FRAME
            pages = committed or pages
        file = self._database_file()
        for page, offset in sorted(newest.items()):
            if page <= pages:
                _write(file, os.pread(self._fd, page_size, offset), (page - 1) * page_size)
        os.fdatasync(file)

    def keep(self) -> None:
        """Prevent the last connection from checkpointing and deleting the log when it is closed.

        SQLite needs an exclusive lock on the database for that, so this holds a shared one until the process ends.
        Linux only. Raises `OSError`.
        """
        if sys.platform == "linux":
            import fcntl

            lock = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, _SHARED_FIRST, _SHARED_SIZE, 0)
            fcntl.fcntl(self._database_file(), fcntl.F_OFD_SETLK, lock)

    def _database_file(self) -> int:
        """A descriptor of the database file. It stays open until the process ends.

        Closing it would drop SQLite's locks on the file (fcntl(2)).
        """
        if self._file is None:
            self._file = os.open(self._database, os.O_RDWR | os.O_CLOEXEC)
        return self._file


def renew_abandoned_log(conn: sqlite3.Connection) -> None:
    """Rewrite and sync the log that a crashed server left behind, if there is one.

    The server's last sync may have failed; its pages are still in the page cache, and SQLite considers them
    committed. Call this first on each connection that may be the only one, because closing it checkpoints the log.
    Raises `sqlite3.Error` or `OSError`.
    """
    (_, _, path) = conn.execute("PRAGMA database_list").fetchone()
    try:
        if not os.path.getsize(f"{path}-wal"):
            return
    except FileNotFoundError:
        return
    conn.execute("BEGIN IMMEDIATE")
    try:
        log = Log(Path(path))
        try:
            log.renew()
        finally:
            log.close()
    finally:
        conn.execute("ROLLBACK")


def _page_size(header: bytes) -> int:
    size: int = struct.unpack_from(">I", header, 8)[0]
    return size


def _write(fd: int, data: bytes, offset: int) -> None:
    while data:
        size = os.pwrite(fd, data, offset)
        data, offset = data[size:], offset + size
