"""A disk whose power can be cut: a server's file operations are recorded and replayed onto a model of a disk.

`Recording` makes a process write a trace of its writes, syncs and sent bytes, and makes chosen calls fail
(`recorder.c`, a preloaded library). `Disk` replays a trace onto a model of a disk and its page cache, by the rules of
Linux:

* written bytes are on the disk when a sync of the file has succeeded, and perhaps before;
* **a failed sync leaves its pages clean**: they are not on the disk, and no later sync writes them;
* a name is on the disk when its directory was synced after the name was created.

The model has whole pages of 4,096 bytes; it does not tear them.
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
