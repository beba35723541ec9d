"""The measurement of clients that come back after their node was killed."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from bench.storm import storm


@pytest.mark.long
@pytest.mark.skipif(shutil.which("redis-server") is None, reason="there is no redis-server on this machine")
def test_clients_of_a_killed_node_get_what_they_missed_from_the_other_one() -> None:
    with tempfile.TemporaryDirectory(prefix="tidings-bench-") as directory:
        Path(directory).chmod(0o711)  # PostgreSQL runs as another user if this process is root's
        result = storm(Path(directory), clients=8, rooms=2, missed=3)
    assert result["acks"] > 0
    assert result["seconds"] > 0
    assert result["node"] > 0
