"""A disk whose power can be cut: what a server did to its files is recorded, and what a disk would hold is reckoned.

`Recording` has a process write a trace of its writes, its syncs and what it sent, and makes chosen calls fail
(`recorder.c`, a library that the process loads before others). `Disk` replays a trace onto a model of a disk and its
page cache, by Linux's rules:

* what was written is on the disk when a sync of that file has succeeded, and perhaps before;
* **a sync that failed leaves its pages clean**: they are not on the disk, and no later sync will write them;
* a name is there when its directory was synced after it was made.

It is a model, of whole pages of 4,096 bytes; it does not tear them.
"""

from tests.support.disk.image import violations
from tests.support.disk.model import Disk
from tests.support.disk.recording import DIE, Acknowledged, Fault, NoCompiler, Op, Record, Recording, acknowledged

__all__ = [
    "DIE",
    "Acknowledged",
    "Disk",
    "Fault",
    "NoCompiler",
    "Op",
    "Record",
    "Recording",
    "acknowledged",
    "violations",
]
