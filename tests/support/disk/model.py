"""A model of a disk and its page cache that replays a trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.support.disk.recording import Op, Record

PAGE = 4096
_ZEROS = bytes(PAGE)


class _File:
    def __init__(self) -> None:
        self.cache: dict[int, bytes] = {}
        self.disk: dict[int, bytes] = {}
        self.dirty: set[int] = set()
        self.size = 0
        self.size_on_disk = 0
        self.cut: int | None = None
        """The smallest size of a truncation since the last sync."""

    def write(self, offset: int, data: bytes) -> None:
        at, end = offset, offset + len(data)
        while at < end:
            page, within = divmod(at, PAGE)
            part = data[at - offset : at - offset + PAGE - within]
            old = self.cache.get(page, _ZEROS)
            self.cache[page] = old[:within] + part + old[within + len(part) :]
            self.dirty.add(page)
            at += len(part)
        self.size = max(self.size, end)

    def truncate(self, size: int) -> None:
        if size < self.size:
            whole, rest = divmod(size, PAGE)
            for page in [page for page in self.cache if page > whole or (page == whole and not rest)]:
                del self.cache[page]
                self.dirty.discard(page)
            if rest and whole in self.cache:
                self.cache[whole] = self.cache[whole][:rest] + _ZEROS[rest:]
                self.dirty.add(whole)
            self.cut = size if self.cut is None else min(size, self.cut)
        self.size = size

    def sync(self, *, failed: bool, forgets: bool) -> None:
        if failed:
            if forgets:
                for page in self.dirty:
                    self.cache[page] = self.disk.get(page, _ZEROS)
        else:
            if self.cut is not None:
                self.disk = _cut(self.disk, self.cut)
                self.cut = None
            self.disk.update((page, self.cache[page]) for page in self.dirty)
            self.size_on_disk = self.size
        self.dirty.clear()

    def after_power_cut(self, kept: Callable[[], bool]) -> tuple[dict[int, bytes], int]:
        pages, size = self.disk, self.size_on_disk
        if self.cut is not None and kept():
            pages, size = _cut(pages, self.cut), min(size, self.cut)
        more = {page: self.cache[page] for page in sorted(self.dirty) if kept()}
        if more:
            pages = pages | more
            size = max(size, min(self.size, (max(more) + 1) * PAGE))
        return pages, size


def _cut(pages: dict[int, bytes], size: int) -> dict[int, bytes]:
    whole, rest = divmod(size, PAGE)
    left = {page: data for page, data in pages.items() if page < whole or (page == whole and rest)}
    if rest and whole in left:
        left[whole] = left[whole][:rest] + _ZEROS[rest:]
    return left


class Disk:
    """The contents of a disk and of its page cache, initially empty."""

    def __init__(self) -> None:
        self._files: dict[int, _File] = {}
        self._names: dict[str, _File] = {}
        self._names_on_disk: dict[str, _File] = {}
        self.changes = 0
        """The number of replayed records that changed the disk."""

    def apply(self, record: Record) -> None:
        op, error, inode, offset, data = record
        if op in (Op.SENT, Op.CLOSED):
            return
        self.changes += 1
        match op:
            case Op.CREATE:
                self._files[inode] = self._names[data.decode()] = _File()
            case Op.WRITE:
                self._files[inode].write(offset, data)
            case Op.TRUNCATE:
                self._files[inode].truncate(offset)
            case Op.SYNC:
                self._files[inode].sync(failed=error != 0, forgets=offset != 0)
            case Op.SYNC_DIRECTORY:
                self._names_on_disk = dict(self._names)
            case Op.UNLINK:
                self._names.pop(data.decode(), None)
            case Op.RENAME | Op.LINK:
                old, new = data.decode().split("\0")
                self._names[new] = self._names[old]
                if op is Op.RENAME:
                    del self._names[old]
            case Op.OPEN:
                assert inode in self._files, f"{data.decode()} was there before the recording"

    def cut_power(self, into: Path, kept: Callable[[], bool] = lambda: False) -> None:
        """Write the database and its log into a folder, as they remain if the power is cut now.

        `kept` decides for each unsynced change whether it is on the disk.
        """
        for old in into.iterdir():
            old.unlink()
        names = dict(self._names_on_disk)
        for name in {*self._names, *names}:
            if self._names.get(name) is not names.get(name) and kept():
                if name in self._names:
                    names[name] = self._names[name]
                else:
                    del names[name]
        for name, file in names.items():
            if name.endswith((".db", ".db-wal")):
                pages, size = file.after_power_cut(kept)
                with (into / Path(name).name).open("wb") as out:
                    for page, data in pages.items():
                        out.seek(page * PAGE)
                        out.write(data)
                    out.truncate(size)
