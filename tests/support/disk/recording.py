"""Recording what a process does to its files, and failing some of it."""

from __future__ import annotations

import errno
import json
import mmap
import re
import shutil
import struct
import subprocess
from collections.abc import Iterable, Iterator
from enum import IntEnum
from pathlib import Path
from typing import Literal, NamedTuple

_SOURCE = Path(__file__).with_name("recorder.c")
_RULES = 4
_RULE = struct.Struct("=i20siiiiii")
_RECORD = struct.Struct("=iiqqq")
_ON = {"sync": 1, "write": 2}
DIE = -1
"""As the error of a fault: the process is killed in place of the call."""


class Op(IntEnum):
    OPEN = 1
    CREATE = 2
    WRITE = 3
    TRUNCATE = 4
    SYNC = 5
    UNLINK = 6
    RENAME = 7
    LINK = 8
    SYNC_DIRECTORY = 9
    SENT = 10
    CLOSED = 11


class Record(NamedTuple):
    op: Op
    error: int
    """errno of a sync that failed."""
    file: int
    """Inode; of what was sent, the socket's descriptor."""
    offset: int
    """Of a write; of a TRUNCATE, the new size; of a SYNC that failed, whether the pages are gone from the cache."""
    data: bytes
    """What was written or sent; or the path, two paths for RENAME and LINK with a zero byte between them."""


class Fault(NamedTuple):
    on: Literal["sync", "write"]
    suffix: str = ""
    """Of the file: `.db`, `.db-wal`; empty: any."""
    skip: int = 0
    """So many calls pass."""
    count: int = 1
    """Then so many fail."""
    every: int = 0
    """And from then on one in so many; 0: none."""
    error: int = errno.EIO
    after: bool = False
    """It holds once the fault before it in the list has happened."""


class NoCompiler(Exception):
    """There is no C compiler to build the recorder with."""


class Recording:
    def __init__(self, data_dir: Path, work_dir: Path, *, forgets: bool = False) -> None:
        """Record what happens in `data_dir`; the trace is in `work_dir`. Raises `NoCompiler`.

        `forgets`: what a failed sync should have written is gone from the page cache, too.
        """
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            raise NoCompiler("no C compiler (cc, gcc or clang) to build tests/support/disk/recorder.c with")
        data_dir.mkdir(parents=True, exist_ok=True)
        work_dir.mkdir(parents=True, exist_ok=True)
        library, control = work_dir / "recorder.so", work_dir / "control"
        if not library.exists():
            subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, _SOURCE, "-ldl"], check=True)
        self.trace = work_dir / "trace"
        self.trace.write_bytes(b"")
        control.write_bytes(bytes(_RULES * _RULE.size))
        with control.open("r+b") as file:
            self._rules = mmap.mmap(file.fileno(), 0)
        self.environment = {
            "LD_PRELOAD": str(library),
            "TIDINGS_DISK_DIR": str(data_dir.resolve()),
            "TIDINGS_DISK_TRACE": str(self.trace),
            "TIDINGS_DISK_CONTROL": str(control),
            **({"TIDINGS_DISK_FORGETS": "1"} if forgets else {}),
        }

    def fail(self, *faults: Fault) -> None:
        """Have these calls fail from now on, in place of those before."""
        for n in range(_RULES):
            self._rules[n * _RULE.size : n * _RULE.size + 4] = bytes(4)
        for n, (on, suffix, skip, count, every, error, after) in enumerate(faults):
            packed = _RULE.pack(_ON[on], suffix.encode(), skip, count, every, error, after, 0)
            at = n * _RULE.size
            self._rules[at + 4 : at + _RULE.size] = packed[4:]
            self._rules[at : at + 4] = packed[:4]  # it holds from here on

    @property
    def failed(self) -> int:
        """How many calls have failed by the present faults."""
        return sum(_RULE.unpack_from(self._rules, n * _RULE.size)[-1] for n in range(_RULES))

    def records(self, position: int = 0) -> Iterator[tuple[int, Record]]:
        """The records from a position in the trace on, each with the position where it ends."""
        with self.trace.open("rb") as file:
            file.seek(position)
            while len(head := file.read(_RECORD.size)) == _RECORD.size:
                op, error, inode, offset, length = _RECORD.unpack(head)
                data = file.read(max(0, length))
                if len(data) < length:
                    return  # the process was killed as it wrote this
                yield file.tell(), Record(Op(op), error, inode, offset, data)


class Acknowledged(NamedTuple):
    """A message whose acknowledgement was handed to the kernel."""

    room_id: str
    seq: int
    message_id: str
    content: str


_ANSWER = re.compile(r'"ok":true,"data":(?=\{"id":")')
_DECODE = json.JSONDecoder().raw_decode
_LONGEST = 512 * 1024
"""Of an answer that comes in several pieces."""


def acknowledged(records: Iterable[tuple[int, Record]]) -> Iterator[tuple[int, Record, list[Acknowledged]]]:
    """The records, with the messages that were acknowledged by each."""
    streams: dict[int, str] = {}
    for position, record in records:
        found: list[Acknowledged] = []
        if record.op is Op.CLOSED:
            streams.pop(record.file, None)
        elif record.op is Op.SENT:
            stream = streams.get(record.file, "") + record.data.decode("latin-1")
            done = 0
            for match in _ANSWER.finditer(stream):
                try:
                    data, done = _DECODE(stream, match.end())
                except json.JSONDecodeError:
                    break  # the rest is still to come
                if "seq" in data and "content" in data:
                    content = data["content"].encode("latin-1").decode()
                    found.append(Acknowledged(data["room_id"], data["seq"], data["id"], content))
            streams[record.file] = stream[max(done, len(stream) - _LONGEST) :]
        yield position, record, found
