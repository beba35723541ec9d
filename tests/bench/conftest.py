"""The benchmark's tests need a C compiler and the peers' packages."""

from __future__ import annotations

import os
import sys

import pytest

from bench.generator.engine import NoCompiler, library
from bench.servers import PEERS


def _missing() -> str | None:
    if sys.platform != "linux":
        return "the benchmark runs on Linux"
    try:
        library()
    except NoCompiler as reason:
        return str(reason)
    return None


@pytest.fixture(autouse=True, scope="session")
def _compiled() -> None:
    if reason := _missing():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def peers() -> None:
    """The Node peers, installed."""
    if not (PEERS / "node_modules").exists():
        if os.environ.get("CI"):
            pytest.fail("CI must run the peers: `npm ci` in bench/peers", pytrace=False)
        pytest.skip("the peers are not installed: `make test` does it")
