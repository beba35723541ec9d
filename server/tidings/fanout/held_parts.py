"""Entries of a room that were published before those in front of them, and wait for these."""

from __future__ import annotations

from tidings.log.notices import Appended
from tidings.log.views import EncodedEntry

MAX_PARTS = 64
MAX_BYTES = 1024 * 1024


class HeldParts:
    """Holds at most `MAX_PARTS` notices with contents of `MAX_BYTES`; what does not fit is dropped.

    A dropped part is read from the log later, like a lost one.
    """

    __slots__ = ("_bytes", "_parts")

    def __init__(self) -> None:
        self._parts: dict[int, Appended] = {}
        """By the seq of their first entry."""
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._parts)

    @property
    def first(self) -> int:
        """The lowest seq that is held; there must be one."""
        return min(self._parts)

    def put(self, part: Appended) -> None:
        """Hold a part. Of two that begin with the same entry, the longer one is kept."""
        first = part.entries[0].seq
        known = self._parts.get(first)
        if known is not None and len(known.entries) >= len(part.entries):
            return
        size = _size(part)
        if (known is None and len(self._parts) >= MAX_PARTS) or self._bytes + size > MAX_BYTES:
            return
        if known is not None:
            self._bytes -= _size(known)
        self._parts[first] = part
        self._bytes += size

    def take(self) -> Appended:
        """Remove the part that begins with `first`."""
        part = self._parts.pop(self.first)
        self._bytes -= _size(part)
        return part

    def clear(self) -> None:
        self._parts.clear()
        self._bytes = 0


def _size(part: Appended) -> int:
    return sum(
        len(entry.payload.text)
        if isinstance(entry, EncodedEntry)
        else len(entry.content or entry.body or "") + len(entry.data or "")
        for entry in part.entries
    )
