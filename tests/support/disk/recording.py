"""Records the file operations of a process, and makes some of them fail."""

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
"""As the error of a fault: the process is killed instead of the call."""


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
    """The errno of a failed sync."""
    file: int
    """The inode; for sent bytes, the descriptor of the socket."""
    offset: int
    """The offset of a write, the new size of a TRUNCATE; after a failed SYNC, whether the cache lost the pages."""
    data: bytes
    """The bytes written or sent; or the path, for RENAME and LINK two paths separated by a zero byte."""


class Fault(NamedTuple):
    on: Literal["sync", "write"]
    suffix: str = ""
    """The suffix of the file: `.db`, `.db-wal`; empty: any file."""
    skip: int = 0
    """The number of calls that pass first."""
    count: int = 1
    """The number of calls that then fail."""
    every: int = 0
    """Afterwards one call in so many fails; 0: none."""
    error: int = errno.EIO
    after: bool = False
    """Whether it applies only after the previous fault in the list has happened."""


class NoCompiler(Exception):
    """There is no C compiler to build the recorder with."""


class Recording:
    def __init__(self, data_dir: Path, work_dir: Path, *, forgets: bool = False) -> None:
        """Record the file operations in `data_dir`; the trace is in `work_dir`. Raises `NoCompiler`.

        `forgets`: a failed sync also drops its pages from the page cache.
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
        """Make these calls fail from now on, instead of the earlier ones."""
        for n in range(_RULES):
            self._rules[n * _RULE.size : n * _RULE.size + 4] = bytes(4)
        for n, (on, suffix, skip, count, every, error, after) in enumerate(faults):
            packed = _RULE.pack(_ON[on], suffix.encode(), skip, count, every, error, after, 0)
            at = n * _RULE.size
            self._rules[at + 4 : at + _RULE.size] = packed[4:]
            self._rules[at : at + 4] = packed[:4]  # activates the rule

    @property
    def failed(self) -> int:
        """The number of calls that failed by the current faults."""
        return sum(_RULE.unpack_from(self._rules, n * _RULE.size)[-1] for n in range(_RULES))

    def records(self, position: int = 0) -> Iterator[tuple[int, Record]]:
        """The records from a position in the trace, each with the position of its end."""
        with self.trace.open("rb") as file:
            file.seek(position)
            while len(head := file.read(_RECORD.size)) == _RECORD.size:
                op, error, inode, offset, length = _RECORD.unpack(head)
                data = file.read(max(0, length))
                if len(data) < length:
                    return  # the process was killed while it wrote this record
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
"""The maximum length of an answer that is sent in several pieces."""


def acknowledged(records: Iterable[tuple[int, Record]]) -> Iterator[tuple[int, Record, list[Acknowledged]]]:
    """The records, each with the messages that it acknowledged."""
    streams: dict[int, str] = {}
    for position, record in records:
        acks: list[Acknowledged] = []
        if record.op is Op.CLOSED:
            streams.pop(record.file, None)
        elif record.op is Op.SENT:
            stream = streams.get(record.file, "") + record.data.decode("latin-1")
            done = 0
            for match in _ANSWER.finditer(stream):
                try:
                    data, done = _DECODE(stream, match.end())
                except json.JSONDecodeError:
                    break  # the rest follows in a later record
                if "seq" in data and "content" in data:
                    content = data["content"].encode("latin-1").decode()
                    acks.append(Acknowledged(data["room_id"], data["seq"], data["id"], content))
            streams[record.file] = stream[max(done, len(stream) - _LONGEST) :]
        yield position, record, acks
