"""The tests that docs/conformance.md names for each point exist."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
NAME = re.compile(r"\btest_\w+")


def test_every_test_that_the_document_names_exists() -> None:
    document = (TESTS.parent / "docs" / "conformance.md").read_text()
    named = {name for name in NAME.findall(document) if f"{name}.py" not in document}
    assert len(named) > 50
    folders = ("conformance", "transport")
    sources = [path.read_text() for folder in folders for path in (TESTS / folder).glob("test_*.py")]
    existing = {
        name for source in sources for name in re.findall(r"^(?:async )?def (test_\w+)", source, re.MULTILINE)
    }
    assert named <= existing, named - existing
