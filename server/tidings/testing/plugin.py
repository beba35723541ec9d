"""The pytest plugin: the fixtures `tidings` and `tidings_options`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tidings.testing.kit import Tidings


@pytest.fixture
def tidings_options() -> dict[str, Any]:
    """The arguments of `serve` for the fixture `tidings`. Define a fixture of this name to change them."""
    return {}


@pytest.fixture
def tidings(tidings_options: dict[str, Any]) -> Iterator[Tidings]:
    """A server of the test's own. The test is skipped if it needs PostgreSQL and there is none."""
    from tidings.testing.kit import serve
    from tidings.testing.postgresql import NoServer

    with ExitStack() as stack:
        try:
            running = stack.enter_context(serve(**tidings_options))
        except NoServer as reason:
            pytest.skip(str(reason))
        yield running
